"""Moving weights: the coordinator pulls updates from all sites at once, part by part, and hands the next model down.

No message depends on the size of the model, and memory not on the number of sites; updates are reduced in the order of
the sites' names, whoever was fastest.
"""

import concurrent.futures
import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import ModelPart, Shared, Sharing
from fednnunet.coordinator.roster import Reply, ask, ask_with_data, for_all, site_name
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.weights.aggregation import AGGREGATIONS, AggregationName
from fednnunet.weights.encoding import ENCODINGS, EncodingName
from fednnunet.weights.global_model import GlobalModel, slices
from fednnunet.weights.server_optimizers import ServerOptimizerName, server_optimizer
from fednnunet.weights.sharing import Group

_FIRST_MODEL = 0
"""The round in which the first global model travels, in float32."""


@dataclass(frozen=True)
class Averaging:
    """How weights travel, and how one model is made of those of several sites."""

    encoding: EncodingName
    aggregation: AggregationName
    server_optimizer: ServerOptimizerName
    server_lr: float | None


class Exchange:
    """The global models of all groups of sites.

    Parameters
    ----------
    sites
        The nodes, in the order of their sites' names.
    groups
        What is shared among whom.
    averaging
        How.
    """

    def __init__(self, sites: Sequence[ClientProxy], groups: Sequence[Group], averaging: Averaging) -> None:
        self._sites = {site_name(proxy): proxy for proxy in sites}
        self._groups = groups
        self._averaging = averaging
        self._models: list[GlobalModel] = []

    def agree(self) -> None:
        """Tell every site what it shares.

        Raises
        ------
        SiteFailure
            If a site means something else by it.
        """

        def agree(proxy: ClientProxy) -> None:
            mine = [group for group in self._groups if site_name(proxy) in group.sites]
            names = [[tensor.name for tensor in group.layout.tensors] for group in mine]
            answer = ask(proxy, "share", Sharing(groups=names, encoding=self._averaging.encoding), Shared)
            if answer.digests != [group.layout.digest for group in mine]:
                raise FednnUNetError("its network is not the one that it has described")

        for_all(list(self._sites.values()), agree)

    def begin(self, preferred: Sequence[str]) -> None:
        """Make the first global model of each group that of its first site, or of the first among `preferred`."""
        chosen = ENCODINGS[self._averaging.encoding]
        exact = ENCODINGS["float32"]
        for number, group in enumerate(self._groups):
            source = next((site for site in group.sites if site in preferred), group.sites[0])
            size = group.layout.size
            initial = np.empty(size, np.float32)
            for part in slices(size, len(group.sites)):
                (data,) = self._fetch(number, [source], part, _FIRST_MODEL).values()
                with _blamed_on(source):
                    initial[part] = exact.decode(data, part.stop - part.start)
                self._hand(number, part, _FIRST_MODEL, data)
            optimizer = server_optimizer(self._averaging.server_optimizer, size, self._averaging.server_lr)
            aggregation = AGGREGATIONS[self._averaging.aggregation]
            self._models.append(GlobalModel(initial, chosen, aggregation, optimizer, number))

    def average(self, round_number: int, weights: Mapping[str, int]) -> None:
        """Make the next global model of every group of the updates that its sites hold, and hand it to them.

        Parameters
        ----------
        round_number
            The round, from 1.
        weights
            Of each site.

        Raises
        ------
        SiteFailure
            If an update has another length than was agreed, or is not finite.
        """
        # sites prepare the next part while this one is reduced; a node answers one question at a time
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            for number, (group, model) in enumerate(zip(self._groups, self._models, strict=True)):
                parts = list(slices(group.layout.size, len(group.sites)))
                coming = ahead.submit(self._fetch, number, group.sites, parts[0], round_number)
                for part, following in itertools.zip_longest(parts, parts[1:]):
                    fetched = coming.result()
                    if following is not None:
                        coming = ahead.submit(self._fetch, number, group.sites, following, round_number)
                    updates = []
                    for site, data in fetched.items():
                        with _blamed_on(site):
                            updates.append(model.decode(data, part))
                    data = model.reduce(part, updates, [weights[site] for site in fetched], round_number)
                    concurrent.futures.wait([coming])
                    self._hand(number, part, round_number, data)

    def _fetch(self, number: int, sites: Sequence[str], part: slice, round_number: int) -> dict[str, bytes]:
        """Fetch a part of the updates of some sites of a group at the same time, in the order of `sites`."""

        def fetch(proxy: ClientProxy) -> bytes:
            request = self._part_of(number, site_name(proxy), part, round_number)
            return ask_with_data(proxy, "fetch", request, ModelPart)[1]

        return dict(zip(sites, self._for_sites(sites, fetch), strict=True))

    def _hand(self, number: int, part: slice, round_number: int, data: bytes) -> None:
        """Hand a part of a global model to all sites of its group at the same time."""

        def hand(proxy: ClientProxy) -> None:
            ask_with_data(proxy, "hand", self._part_of(number, site_name(proxy), part, round_number), ModelPart, data)

        self._for_sites(self._groups[number].sites, hand)

    def _for_sites(self, sites: Sequence[str], action: Callable[[ClientProxy], Reply]) -> list[Reply]:
        return for_all([self._sites[site] for site in sites], action)

    def _part_of(self, number: int, site: str, part: slice, round_number: int) -> ModelPart:
        """Name a part as a site does, which counts only the groups that it belongs to."""
        own = sum(site in group.sites for group in self._groups[:number])
        return ModelPart(round=round_number, group=own, start=part.start, stop=part.stop)


@contextlib.contextmanager
def _blamed_on(site: str) -> Iterator[None]:
    """Make an error in what a site has sent that site's failure."""
    try:
        yield
    except FednnUNetError as error:
        raise SiteFailure(site, str(error)) from error
