"""Moving weights: the coordinator pulls updates from all sites at once, part by part, and hands the next model down.

No message depends on the size of the model, and memory not on the number of sites; updates are reduced in the order of
the sites' names, whoever was fastest.
"""

import concurrent.futures
import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fednnunet.coordinator.asking import each, for_all
from fednnunet.coordinator.meters import Stopwatch
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.protocol.conversation import Answer, Question
from fednnunet.protocol.messages import Accepted, ModelPart, Shared, Sharing
from fednnunet.weights.aggregation import AGGREGATIONS, AggregationName
from fednnunet.weights.encoding import ENCODINGS, EncodingName, Float32, NotFiniteError, encoding_of
from fednnunet.weights.global_model import GlobalModel, slices
from fednnunet.weights.layout import Layout
from fednnunet.weights.norms import FAR, Norms
from fednnunet.weights.server_optimizers import ServerOptimizerName, server_optimizer
from fednnunet.weights.sharing import Group

_WHOLE_MODEL = 0
"""The round in which a whole model travels, in float32."""


_NOTHING = Layout(())


class SpoiltUpdates(SiteFailure):
    """Updates of sites cannot be used: they are not finite, or far beyond the last model.

    Attributes
    ----------
    failures
        One for each of these sites; the first is this error's own.
    """

    def __init__(self, failures: Sequence[SiteFailure]) -> None:
        super().__init__(failures[0].site, failures[0].reason)
        self.failures = list(failures)


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
    groups
        What is shared among whom.
    averaging
        How.
    at_end
        What stays at every site but for its mean after the last round, see `collect`.

    Attributes
    ----------
    aggregating
        Runs while models are made of updates.
    """

    def __init__(self, groups: Sequence[Group], averaging: Averaging, at_end: Layout = _NOTHING) -> None:
        self.aggregating = Stopwatch()
        self._groups = groups
        self._at_end = at_end
        self._averaging = averaging
        self._models = [self._model(number) for number in range(len(groups))]

    @property
    def state(self) -> dict[str, np.ndarray]:
        """All that the next round depends on, by name; the arrays themselves, float32."""
        return {
            f"{number}.{name}": array
            for number, model in enumerate(self._models)
            for name, array in model.state.items()
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state` that was kept.

        Raises
        ------
        FednnUNetError
            If it belongs to other groups, or to another way of averaging.
        """
        own = self.state
        if {name: array.shape for name, array in own.items()} != {name: array.shape for name, array in state.items()}:
            raise FednnUNetError("the saved global model belongs to other networks or flags")
        for name, array in own.items():
            array[:] = state[name]

    def initialize(self, sites: Mapping[str, Site], preferred: Sequence[str]) -> None:
        """Make the first global model of each group that of its first site, or of the first among `preferred`."""
        exact = ENCODINGS["float32"]
        for number, group in enumerate(self._groups):
            source = sites[next((name for name in group.sites if name in preferred), group.sites[0])]
            self._agree(source)
            for part in slices(group.layout.size, 1):
                with _blamed_on(source.name):
                    data = self._fetch(number, source, part, _WHOLE_MODEL)
                    weights = exact.decode(data, part.stop - part.start)
                    if np.abs(weights).max() > FAR**2:
                        raise FednnUNetError(f"its initial model has weights above {FAR**2:g}")
                    self._models[number].weights[part] = weights

    def send_model(self, site: Site, round_number: int) -> None:
        """Give a site the global models of its groups as they are after a round.

        Raises
        ------
        FednnUNetError
            If the site means something else by what it shares.
        """
        self._agree(site)
        exact = Float32()
        for number, group in enumerate(self._groups):
            if site.name in group.sites:
                for part in slices(group.layout.size, 1):
                    data, _ = exact.encode(self._models[number].weights[part])
                    self._send(number, part, _WHOLE_MODEL, data, site)
        site.ask("accept", Accepted(round=round_number), Accepted)

    def note(self, site: Site, answer: Answer) -> None:
        """Take what a site says of the update that it holds: nothing, as that will be seen."""

    def can_open(self, round_number: int) -> bool:
        """Whether a sum of this round is masked, and its keys are known."""
        return False

    def aggregate(self, sites: Sequence[Site], round_number: int, weights: Mapping[str, int]) -> Norms:
        """Aggregate the updates that sites hold; can be done again, with other sites too.

        Parameters
        ----------
        sites
            Who takes part, in the order of their names.
        round_number
            The round, from 1.
        weights
            Of each site.

        Returns
        -------
        The norms of the sites' updates.

        Raises
        ------
        SpoiltUpdates
            If updates are not finite, or have weights `FAR` times as large as the largest one of the last model.
        SiteFailure
            If a site cannot be reached, or an update has another length than was agreed.
        """
        squares: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}
        spoilt: dict[str, SiteFailure] = {}
        # sites prepare the next part while this one is reduced; a node answers one question at a time
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            for number, members, parts in self._work(sites):
                limit = FAR * max(1.0, self._models[number].largest())
                coming = ahead.submit(self._fetch_from_all, number, members, parts[0], round_number)
                for part, following in itertools.zip_longest(parts, parts[1:]):
                    fetched = coming.result()
                    if following is not None:
                        coming = ahead.submit(self._fetch_from_all, number, members, following, round_number)
                    with self.aggregating.running():
                        updates = [
                            self._usable(self._models[number], part, site, fetched.pop(0), limit, spoilt)
                            for site in members
                        ]
                        changes = [self._models[number].squared_change(part, update) for update in updates]
                        self._models[number].aggregate(part, updates, [weights[site.name] for site in members])
                    for site, change in zip(members, changes, strict=True):
                        squares[self._groups[number].layout.is_of_optimizer].setdefault(site.name, []).append(change)
        if spoilt:
            raise SpoiltUpdates(list(spoilt.values()))
        return Norms(
            *(
                {name: math.sqrt(math.fsum(parts) / self._size(name, kind)) for name, parts in of_sites.items()}
                for kind, of_sites in squares.items()
            )
        )

    def broadcast(self, sites: Sequence[Site], round_number: int) -> tuple[list[Site], list[SiteFailure]]:
        """Make what was aggregated the global model, and send it to `sites`.

        Returns
        -------
        The sites that have got all of it, and what went wrong with the others.
        """
        failures: dict[str, SiteFailure] = {}
        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            for number, members, parts in self._work(sites):
                model = self._models[number]
                coming = ahead.submit(self._advance, model, parts[0], round_number)
                for part, following in itertools.zip_longest(parts, parts[1:]):
                    data = coming.result()
                    if following is not None:
                        coming = ahead.submit(self._advance, model, following, round_number)
                    there = [site for site in members if site.name not in failures]
                    send = partial(self._send, number, part, round_number, data)
                    _, failed = each([(site, partial(send, site)) for site in there])
                    failures.update({failure.site: failure for failure in failed})
        return [site for site in sites if site.name not in failures], list(failures.values())

    def collect(self, sites: Sequence[Site], round_number: int, weights: Mapping[str, int]) -> np.ndarray:
        """Aggregate once, after the last round, what has stayed at the sites; no site gets the result.

        Parameters
        ----------
        sites, round_number, weights
            As for `aggregate`.

        Returns
        -------
        Shape ``(at_end.size,)``, float32.

        Raises
        ------
        SiteFailure
            If a site does not send it, or what it sends cannot be weights.
        """
        result = np.empty(self._at_end.size, np.float32)
        exact, aggregate = Float32(), AGGREGATIONS[self._averaging.aggregation]
        for part in slices(self._at_end.size, len(sites)):
            request = ModelPart(round=round_number, group=0, start=part.start, stop=part.stop)
            fetched = for_all(sites, partial(self._fetch_kept, request))
            of_sites = []
            for site, data in zip(sites, fetched, strict=True):
                with _blamed_on(site.name):
                    of_sites.append(exact.decode(data, part.stop - part.start))
                    if np.abs(of_sites[-1]).max() > FAR**2:
                        raise FednnUNetError(f"its weights are above {FAR**2:g}")
            result[part] = aggregate(of_sites, [weights[site.name] for site in sites])
        return result

    def _usable(
        self,
        model: GlobalModel,
        part: slice,
        site: Site,
        data: bytes,
        limit: float,
        spoilt: dict[str, SiteFailure],
    ) -> np.ndarray:
        """Return a part of a site's update; if that is spoilt, take note of it, and return zeros.

        The rest is looked at nevertheless: how many sites have such updates says where the fault is.
        """
        with _blamed_on(site.name):
            try:
                update = model.decode(data, part)
                if model.largest(part, update) <= limit:
                    return update
                problem = f"its weights are more than {FAR:g} times the largest of the model"
            except NotFiniteError as error:
                problem = str(error)
        spoilt.setdefault(site.name, SiteFailure(site.name, problem))
        return np.zeros(part.stop - part.start, np.float32)

    def _advance(self, model: GlobalModel, part: slice, round_number: int) -> bytes:
        with self.aggregating.running():
            return model.advance(part, round_number)

    def _size(self, site: str, of_optimizer: bool) -> int:
        """Return the number of elements of one kind that a site shares."""
        layouts = [group.layout for group in self._groups if site in group.sites]
        return sum(layout.size for layout in layouts if layout.is_of_optimizer == of_optimizer)

    def _work(self, sites: Sequence[Site]) -> Iterator[tuple[int, list[Site], list[slice]]]:
        """Yield number, members among `sites`, and parts of each group that has any."""
        for number, group in enumerate(self._groups):
            members = [site for site in sites if site.name in group.sites]
            if members:
                yield number, members, list(slices(group.layout.size, len(group.sites)))

    def _model(self, number: int) -> GlobalModel:
        layout, averaging = self._groups[number].layout, self._averaging
        return GlobalModel(
            np.zeros(layout.size, np.float32),
            encoding_of(layout, ENCODINGS[averaging.encoding]),
            AGGREGATIONS[averaging.aggregation],
            # what the sites' optimizers remember is averaged, and is not itself a way to go
            None
            if layout.is_of_optimizer
            else server_optimizer(averaging.server_optimizer, layout.size, averaging.server_lr),
            number,
        )

    def _agree(self, site: Site) -> None:
        """Tell a site what it shares."""
        mine = [group for group in self._groups if site.name in group.sites]
        names = [[tensor.name for tensor in group.layout.tensors] for group in mine]
        at_end = [tensor.name for tensor in self._at_end.tensors]
        sharing = Sharing(
            groups=names, members=self._members(site.name), encoding=self._averaging.encoding, at_end=at_end
        )
        answer = site.ask("share", sharing, Shared)
        layouts = [*(group.layout for group in mine), *([self._at_end] if at_end else [])]
        if answer.digests != [layout.digest for layout in layouts]:
            raise FednnUNetError("its network differs from its description")

    def _members(self, site: str) -> list[list[str]] | None:
        """Return the sites of each group of a site, where it needs to know them."""
        return None

    def _fetch_from_all(self, number: int, sites: Sequence[Site], part: slice, round_number: int) -> list[bytes]:
        return for_all(sites, lambda site: self._fetch(number, site, part, round_number))

    def _fetch_kept(self, request: ModelPart, site: Site) -> bytes:
        return site.answer(Question.of("collect", request)).data

    def _fetch(self, number: int, site: Site, part: slice, round_number: int) -> bytes:
        return site.answer(Question.of("fetch", self._part_of(number, site.name, part, round_number))).data

    def _send(self, number: int, part: slice, round_number: int, data: bytes, site: Site) -> None:
        site.answer(Question.of("hand", self._part_of(number, site.name, part, round_number), data))

    def _part_of(self, number: int, site: str, part: slice, round_number: int) -> ModelPart:
        """Name a part as a site does, which counts only the groups that it belongs to."""
        own = sum(site in group.sites for group in self._groups[:number])
        return ModelPart(round=round_number, group=own, start=part.start, stop=part.stop)


@contextlib.contextmanager
def _blamed_on(site: str) -> Iterator[None]:
    """Make an error in what a site has sent that site's failure."""
    try:
        yield
    except SiteFailure:
        raise
    except FednnUNetError as error:
        raise SiteFailure(site, str(error)) from error
