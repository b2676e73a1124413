"""Which tensors are averaged among which sites.

AsymFedAvg (Skorupko et al. 2025): sites that planned for themselves have different networks; a tensor is averaged among
sites where its name, shape and dtype agree, and stays local elsewhere. For equal networks this is federated averaging.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, TensorSpec


@dataclass(frozen=True)
class Group:
    """Sites, by name, and the tensors that are averaged among them: weights, or an optimizer's, but not both."""

    sites: tuple[str, ...]
    layout: Layout


def share(layouts: Mapping[str, Layout], *, cohorts: bool = False, keep_local: str | None = None) -> list[Group]:
    """Find what sites have in common.

    Parameters
    ----------
    layouts
        Of each site.
    cohorts
        Average a tensor among every group of two or more sites that have it, not only where all sites do.
    keep_local
        Regular expression; a weight in whose name it is found never leaves its site, nor does its momentum.

    Returns
    -------
    Groups without any tensor in common, those of weights first, each with its tensors in the order of its first site.

    Raises
    ------
    FednnUNetError
        If nothing would be shared, or `keep_local` is no regular expression.
    """
    try:
        local = re.compile(keep_local) if keep_local is not None else None
    except re.error as error:
        raise FednnUNetError(f"--keep_local '{keep_local}' is no regular expression: {error}.") from error
    owners: dict[TensorSpec, list[str]] = {}
    for site, layout in layouts.items():
        for tensor in layout.tensors:
            if local is None or not local.search(tensor.weight):
                owners.setdefault(tensor, []).append(site)
    least = min(2, len(layouts)) if cohorts else len(layouts)
    groups: dict[tuple[bool, tuple[str, ...]], list[TensorSpec]] = {}
    for tensor, sites in owners.items():
        if len(sites) >= least:
            groups.setdefault((tensor.is_of_optimizer, tuple(sites)), []).append(tensor)
    if all(of_optimizer for of_optimizer, _ in groups):
        raise FednnUNetError(
            "The sites' networks have no tensor in common: plan again with flags that make them more alike, "
            "or correct --keep_local."
        )
    in_order = sorted(groups.items(), key=lambda item: item[0][0])
    return [Group(sites, Layout(tuple(tensors))) for (_, sites), tensors in in_order]
