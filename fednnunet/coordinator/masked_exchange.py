"""Moving weights under secure aggregation: the coordinator sees sums of updates, and never a single one."""

import concurrent.futures
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fednnunet.coordinator.asking import for_all
from fednnunet.coordinator.exchange import Averaging, Exchange, SpoiltUpdates
from fednnunet.coordinator.masked_sums import AgreedSum, ForgottenKey, agree_on_sum, join_sum, open_sum
from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.protocol.conversation import Answer
from fednnunet.protocol.messages import ModelPart
from fednnunet.protocol.secure_aggregation import Purpose, SignedKeys, SumRequest, Trained
from fednnunet.secure_aggregation.attempts import FEWEST_SITES
from fednnunet.secure_aggregation.contexts import TrainingFacts, update_context
from fednnunet.secure_aggregation.opened import MaskedSum
from fednnunet.security.identity import SiteList
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.fixed_point import (
    FixedPoint,
    LargestChanges,
    blocks,
    exponents_of_local,
    exponents_of_weights,
)
from fednnunet.weights.global_model import GlobalModel, slices
from fednnunet.weights.layout import Layout
from fednnunet.weights.norms import Norms
from fednnunet.weights.sharing import Group

_BITS_AT_END: Literal[64] = 64
_NO_GROUP = -1


class VoidSumError(FednnUNetError):
    """Some sites may have told their opening keys, and others have not: what they hold can be in no other sum.

    Attributes
    ----------
    failures
        What went wrong at the others.
    """

    def __init__(self, failures: Sequence[SiteFailure] = ()) -> None:
        super().__init__("not all sites have opened the sum of a round")
        self.failures = list(failures)


@dataclass(frozen=True)
class MaskedTraining:
    """A training of which updates are summed under masks.

    Attributes
    ----------
    facts
        What is the same for all of its sums.
    listed
        The coordinator's list of sites.
    weights
        Of each site of the training.
    by_cases
        Whether they are numbers of training cases.
    folder
        Where the keys of a round are kept.
    """

    facts: TrainingFacts
    listed: SiteList
    weights: Mapping[str, int]
    by_cases: bool
    folder: FoldFolder


@dataclass(frozen=True, eq=False)
class _Wanted:
    """What is summed over a group, which has `number`, and whose weights were `known` when the round began."""

    purpose: Purpose
    number: int
    group: Group
    known: np.ndarray
    exponents: np.ndarray
    bits: Literal[16, 32, 64]


@dataclass
class _Collected:
    """The sum of one group, whose parts arrive."""

    number: int
    members: list[Site]
    parts: list[slice]
    fixed: FixedPoint
    agreed: AgreedSum
    total: MaskedSum


class MaskedExchange(Exchange):
    """The global models of all groups of sites, made of sums.

    Parameters
    ----------
    groups, averaging, at_end
        See `Exchange`.
    training
        What the sums are about.
    """

    def __init__(self, groups: Sequence[Group], averaging: Averaging, at_end: Layout, training: MaskedTraining) -> None:
        super().__init__(groups, averaging, at_end)
        self._training = training
        self._is_exact = ENCODINGS[averaging.encoding].is_exact
        self._exponents: list[np.ndarray | None] = [None] * len(groups)
        """Ranges of changes, unless updates are exact, or nothing has changed yet."""
        self._changes: list[LargestChanges] = []
        self._told: dict[str, Trained] = {}

    @property
    def state(self) -> dict[str, np.ndarray]:
        """All that the next round depends on; the arrays themselves, and the ranges of changes as float32."""
        ranges = {
            f"{number}.exponents": _kept_form(exponents, len(model.weights))
            for number, (exponents, model) in enumerate(zip(self._exponents, self._models, strict=True))
        }
        return super().state | ({} if self._is_exact else ranges)

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state` that was kept; see `Exchange.restore`."""
        super().restore(state)
        if not self._is_exact:
            kept = [state[f"{number}.exponents"] for number in range(len(self._groups))]
            self._exponents = [None if np.isnan(exponents).any() else exponents.astype(np.int8) for exponents in kept]

    def note(self, site: Site, answer: Answer) -> None:
        """Take what a site says of its update, which cannot be seen."""
        self._told[site.name] = answer.read(Trained)

    def can_open(self, round_number: int) -> bool:
        """Whether the sum of a round was agreed on, and may be opened in part."""
        return bool(self._training.folder.kept_keys(round_number))

    def aggregate(self, sites: Sequence[Site], round_number: int, weights: Mapping[str, int]) -> Norms:
        """Aggregate the updates that sites hold; can be done again until the first site has opened its sum.

        Parameters, returns
            See `Exchange.aggregate`; the norms are those that sites tell.

        Raises
        ------
        SpoiltUpdates
            If sites say that their updates cannot be used.
        SiteFailure
            If a site cannot be reached, or refuses the sum.
        VoidSumError
            If not all sites open it.
        CanGoOnError
            If it is noise.
        """
        told = {site.name: self._told[site.name] for site in sites if site.name in self._told}
        spoilt = [SiteFailure(name, trained.problem) for name, trained in told.items() if trained.problem is not None]
        if spoilt:
            raise SpoiltUpdates(spoilt)
        collected = self._agreed(sites, round_number)
        for of_group in collected:
            self._collect(of_group, "fetch", round_number)
        self._training.folder.keep_keys(round_number, [of_group.agreed.keys for of_group in collected])
        keys = self._opened(collected)
        for number in set(range(len(self._groups))) - {of_group.number for of_group in collected}:
            self._models[number].keep()
        with self.aggregating.running():
            for of_group, of_sites in zip(collected, keys, strict=True):
                model = self._models[of_group.number]
                for part in of_group.parts:
                    mean = self._mean(of_group, part, of_sites, round_number)
                    model.aggregate(part, [mean + model.weights[part] if self._is_exact else mean], [1])
        return Norms(
            {name: trained.norm for name, trained in told.items() if trained.norm is not None},
            {name: trained.optimizer_norm for name, trained in told.items() if trained.optimizer_norm is not None},
        )

    def broadcast(self, sites: Sequence[Site], round_number: int) -> tuple[list[Site], list[SiteFailure]]:
        """Make what was aggregated the global model, and send it to `sites`; see `Exchange.broadcast`."""
        self._changes = [LargestChanges(len(model.weights)) for model in self._models]
        there, failures = super().broadcast(sites, round_number)
        if not self._is_exact:
            pairs = zip(self._changes, self._models, strict=True)
            self._exponents = [changes.exponents(model.weights) for changes, model in pairs]
        return there, failures

    def collect(self, sites: Sequence[Site], round_number: int, weights: Mapping[str, int]) -> np.ndarray:
        """Aggregate once, after the last round, what has stayed at the sites; see `Exchange.collect`."""
        result = np.empty(self._at_end.size, np.float32)
        if not self._at_end.size:
            return result
        if len(sites) < FEWEST_SITES:
            raise VoidSumError
        group, nothing = Group(tuple(self._training.weights), self._at_end), np.zeros(self._at_end.size, np.float32)
        wanted = _Wanted("local", _NO_GROUP, group, nothing, exponents_of_local(len(nothing)), _BITS_AT_END)
        of_end = self._agree_on(wanted, list(sites), round_number)
        self._collect(of_end, "collect", round_number)
        (keys,) = self._opened([of_end])
        for part in of_end.parts:
            result[part] = self._mean(of_end, part, keys, round_number)
        return result

    def _advance(self, model: GlobalModel, part: slice, round_number: int) -> bytes:
        before = model.weights[part].copy()
        data = super()._advance(model, part, round_number)
        self._changes[self._models.index(model)].add(part.start, model.weights[part] - before)
        return data

    def _members(self, site: str) -> list[list[str]] | None:
        """Return the sites of each group of a site, and of what stays."""
        groups = [list(group.sites) for group in self._groups if site in group.sites]
        return [*groups, *([list(self._training.weights)] if self._at_end.size else [])]

    def _agreed(self, sites: Sequence[Site], round_number: int) -> list[_Collected]:
        """Let the members of each group agree on its sum, or go on with the one on which they had agreed."""
        kept = {keys.group: keys for keys in self._training.folder.kept_keys(round_number)}
        collected = []
        for number, members, _ in self._work(sites):
            group, weights = self._groups[number], self._models[number].weights
            if len(members) < FEWEST_SITES:  # what these have in common stays as it was
                continue
            exponents = self._exponents[number]
            if exponents is None:
                wanted = _Wanted("update", number, group, weights, exponents_of_weights(weights), 32)
            else:
                wanted = _Wanted("update", number, group, weights, exponents, 16)
            collected.append(self._agree_on(wanted, members, round_number, kept.get(group.layout.digest)))
        return collected

    def _agree_on(
        self, wanted: _Wanted, members: list[Site], round_number: int, kept: SignedKeys | None = None
    ) -> _Collected:
        """Let sites agree on a sum, or go on with the one on which they had agreed with these keys."""
        training, group = self._training, wanted.group
        total = sum(training.weights[site] for site in group.sites)
        digest, by_cases = group.layout.digest, training.by_cases
        request = SumRequest(
            purpose=wanted.purpose,
            round=round_number,
            group=digest,
            total=total,
            bits=wanted.bits,
            by_cases=by_cases,
        )
        fixed = FixedPoint(wanted.bits, wanted.exponents, total)
        if kept is not None:
            agreed = _joined(members, kept)
        else:
            context = update_context(training.facts, request, group.sites, fixed, wanted.known)
            agreed = agree_on_sum(members, training.listed, request, context, wanted.exponents.tobytes())
        parts = list(slices(group.layout.size, len(group.sites)))
        return _Collected(wanted.number, members, parts, fixed, agreed, MaskedSum(group.layout.size, fixed.dtype))

    def _collect(self, of_group: _Collected, kind: str, round_number: int) -> None:
        """Add up all parts of all sites."""

        def fetched(part: slice) -> list[bytes]:
            if kind == "fetch":
                return self._fetch_from_all(of_group.number, of_group.members, part, round_number)
            request = ModelPart(round=round_number, group=0, start=part.start, stop=part.stop)
            return for_all(of_group.members, lambda site: self._fetch_kept(request, site))

        with concurrent.futures.ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(fetched, of_group.parts[0])
            for part, following in itertools.zip_longest(of_group.parts, of_group.parts[1:]):
                masked = coming.result()
                if following is not None:
                    coming = ahead.submit(fetched, following)
                for site, data in zip(of_group.members, masked, strict=True):
                    if len(data) != of_group.total.bytes_of(part):
                        raise SiteFailure(site.name, "its masked update has the wrong length")
                with self.aggregating.running():
                    of_group.total.add(part, masked)

    def _opened(self, collected: Sequence[_Collected]) -> list[list[bytes]]:
        """Return the opening keys of all sites of each sum: from the first one on, nobody may be left out."""
        try:
            return [open_sum(of_group.members, of_group.agreed) for of_group in collected]
        except SiteFailure as failure:
            raise VoidSumError([failure]) from failure

    def _mean(self, of_group: _Collected, part: slice, keys: Sequence[bytes], round_number: int) -> np.ndarray:
        try:
            total, weight = of_group.total.opened(part, keys)
            known = sum(self._training.weights[site.name] for site in of_group.members)
            if weight != known:  # a smaller one would make the changes of all larger
                raise FednnUNetError(f"the sites' weights add up to {weight}, not to {known}")
            return of_group.fixed.mean(part.start, total, weight)
        except FednnUNetError as error:
            names = ", ".join(site.name for site in of_group.members)
            raise CanGoOnError(
                f"The sum of the updates of {names} in round {round_number} is noise ({error}): nothing of it was "
                "used. Check that all sites run the same version, and continue with --c."
            ) from error


def _kept_form(exponents: np.ndarray | None, size: int) -> np.ndarray:
    """Return ranges as they are kept: float32, NaN if there are none."""
    kept: np.ndarray = np.full(blocks(size), np.nan, np.float32) if exponents is None else exponents.astype(np.float32)
    return kept


def _joined(members: Sequence[Site], keys: SignedKeys) -> AgreedSum:
    """Go on with a sum on which sites had agreed."""
    if [key.site for key in keys.keys] != [site.name for site in members]:
        raise VoidSumError
    try:
        return join_sum(members, keys)
    except ForgottenKey as forgotten:
        raise VoidSumError from forgotten
