"""Decides which tensors are averaged among which sites.

AsymFedAvg (Skorupko et al. 2025): sites that planned for themselves have different networks; a tensor is averaged among
sites where its name, shape and dtype agree, and stays local elsewhere. For equal networks this is federated averaging.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, TensorSpec

NORM = "norm"
"""For `keep_local`: layers of normalization stay at the site (FedBN: Li et al., *FedBN: Federated Learning on Non-IID
Features via Local Batch Normalization*, ICLR 2021). As a regular expression it is written ``(norm)``."""


@dataclass(frozen=True)
class Group:
    """Sites, by name, and the tensors that are averaged among them: weights, or an optimizer's, but not both."""

    sites: tuple[str, ...]
    layout: Layout


def share(
    layouts: Mapping[str, Layout],
    *,
    fewest: int = 2,
    cohorts: bool = False,
    keep_local: str | None = None,
    normalization: Mapping[str, Collection[str]] | None = None,
) -> list[Group]:
    """Group the tensors that sites have in common.

    Parameters
    ----------
    layouts
        Of each site.
    fewest
        Sites of a group, at least, unless there are fewer in all.
    cohorts
        Average a tensor among every such group of sites that have it, not only where all sites do.
    keep_local
        Regular expression; a weight in whose name it is found never leaves its site, nor does its momentum. `NORM` are
        the layers of normalization.
    normalization
        Of each site, the names of the tensors of these layers.

    Returns
    -------
    Groups without any tensor in common, those of weights first, each with its tensors in the order of its first site.

    Raises
    ------
    FednnUNetError
        If nothing would be shared, or `keep_local` is no regular expression, or there are no layers to be kept.
    """
    stays = _local(keep_local, normalization or {})
    owners: dict[TensorSpec, list[str]] = {}
    for site, layout in layouts.items():
        for tensor in layout.tensors:
            if not stays(tensor.weight):
                owners.setdefault(tensor, []).append(site)
    least = min(fewest, len(layouts)) if cohorts else len(layouts)
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


def _local(keep_local: str | None, normalization: Mapping[str, Collection[str]]) -> Callable[[str], bool]:
    """Return a function that decides by name whether a tensor stays at the site."""
    if keep_local is None:
        return lambda name: False
    if keep_local == NORM:
        names = frozenset(name for of_site in normalization.values() for name in of_site)
        if not names:
            raise FednnUNetError(
                "The sites' networks have no normalization layers with weights, so --keep_local norm has no "
                "effect: leave it out, or select tensors with a regular expression."
            )
        return names.__contains__
    try:
        expression = re.compile(keep_local)
    except re.error as error:
        raise FednnUNetError(f"--keep_local '{keep_local}' is not a regular expression: {error}.") from error
    return lambda name: expression.search(name) is not None
