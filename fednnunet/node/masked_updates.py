"""A site's part in the sums of updates of one training, of which nobody sees a single one."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from fednnunet.errors import FednnUNetError
from fednnunet.node.openings import Openings
from fednnunet.protocol.messages import ModelPart
from fednnunet.protocol.secure_aggregation import (
    Joined,
    Opening,
    OpeningRequest,
    Purpose,
    SignedKeys,
    Statement,
    SumRequest,
)
from fednnunet.secure_aggregation.attempts import Attempt, Rules
from fednnunet.secure_aggregation.contexts import TrainingFacts, update_context
from fednnunet.security.identity import Identity
from fednnunet.weights.fixed_point import FixedPoint
from fednnunet.weights.site_model import SiteModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Signer:
    """Who takes part.

    Attributes
    ----------
    site, identity
        The site, and its long-term key.
    rules
        What it wants of a sum.
    """

    site: str
    identity: Identity
    rules: Rules


@dataclass(frozen=True)
class HeldGroup:
    """What a site holds of a group.

    Attributes
    ----------
    model
        Has it.
    number
        Which group of `model` it is.
    purpose
        Why it is summed.
    digest
        Of its layout.
    members
        All sites of the group.
    """

    model: SiteModel
    number: int
    purpose: Purpose
    digest: str
    members: Sequence[str]


@dataclass
class _Sum:
    """A sum of what this site holds of one group."""

    held: HeldGroup
    request: SumRequest
    attempt: Attempt
    fixed: FixedPoint
    is_opened: bool = False


class MaskedUpdates:
    """What a site holds, for sums only.

    Parameters
    ----------
    signer
        Who takes part.
    facts
        What is the same for all sums of the training.
    groups
        What is held.
    training_cases
        Of the site, its weight in sums by cases.
    openings
        What was opened before.

    Raises
    ------
    FednnUNetError
        If a group is too small, or one without this site.
    """

    def __init__(
        self,
        signer: Signer,
        facts: TrainingFacts,
        groups: Sequence[HeldGroup],
        training_cases: int,
        openings: Openings,
    ) -> None:
        for group in groups:
            names = set(group.members)
            if signer.site not in names or len(names) < signer.rules.min_sites:
                raise FednnUNetError(
                    f"the coordinator wants to sum what {len(names)} sites share, the policy of this one demands "
                    f"{signer.rules.min_sites} with it"
                )
        self._signer = signer
        self._facts = facts
        self._groups = {group.digest: group for group in groups}
        self._training_cases = training_cases
        self._openings = openings
        self._sums: dict[str, _Sum] = {}
        self._is_closed = False
        self._used_keys: set[str] = set()

    @property
    def is_opened(self) -> bool:
        """Whether a key was told for what is held."""
        return any(of_group.is_opened for of_group in self._sums.values())

    def renew(self) -> None:
        """Forget the sums of what was held before: something else is held now."""
        self._sums.clear()
        self._is_closed = False

    def close(self) -> None:
        """Make no sum any more of the updates that are held: what became of them is the global model."""
        self._sums.clear()
        self._is_closed = True

    def agree(self, request: SumRequest, exponents: bytes) -> Statement:
        """Return a signed one-time key for a sum, which takes the place of the one before.

        Parameters
        ----------
        request, exponents
            What the coordinator asks for.

        Raises
        ------
        FednnUNetError
            If there is no such group, or its sum was opened.
        """
        held, before = self._groups.get(request.group), self._sums.get(request.group)
        if held is None or held.purpose != request.purpose:
            raise FednnUNetError("the coordinator asks for a sum of what this site does not share")
        if self._is_closed and held.purpose == "update":
            raise FednnUNetError("the coordinator asks for a sum of updates of which this site has the mean")
        if before is not None and before.is_opened:
            raise FednnUNetError("the coordinator asks for another sum of an update of which it could open the first")
        if self._weight(request) > request.total:
            raise FednnUNetError(
                f"the coordinator says that all sites have {request.total} training cases, this site alone has "
                f"{self._training_cases}"
            )
        known = held.model.known(held.number)
        fixed = FixedPoint.of_bytes(request.bits, exponents, len(known), request.total)
        context = update_context(self._facts, request, held.members, fixed, known)
        attempt = Attempt(self._signer.identity, self._signer.site, context)
        self._sums[request.group] = _Sum(held, request, attempt, fixed)
        return attempt.statement

    def join(self, keys: SignedKeys) -> Joined:
        """Make the masks of a sum.

        Raises
        ------
        FednnUNetError
            If it is not the one that was agreed on, or one too many.
        """
        of_group = self._sums.get(keys.group)
        if of_group is None or not of_group.attempt.is_among(keys.keys):
            return Joined(salt=None)
        names = [key.site for key in keys.keys]
        if not set(names) <= set(of_group.held.members):
            raise FednnUNetError("the coordinator wants a sum with a site that does not share what is summed")
        if of_group.attempt.salt is None:
            reused = sorted(key.site for key in keys.keys if key.key in self._used_keys)
            if reused:
                raise FednnUNetError(f"the one-time key of site {reused[0]} was used before")
            self._openings.check(of_group.request.round, keys.group, names, self._signer.rules.max_repeats)
        salt = of_group.attempt.join(keys.keys, self._signer.rules)
        self._used_keys.update(key.key for key in keys.keys)
        return Joined(salt=salt)

    def part(self, model: SiteModel, part: ModelPart) -> bytes:
        """Return a part of what `model` holds, masked; see `Attempt.mask_part`.

        Raises
        ------
        FednnUNetError
            If there is no such part, or no sum of it was joined.
        """
        for of_group in self._sums.values():
            held, round_number = of_group.held, of_group.request.round
            if (held.model, held.number, round_number) == (model, part.group, part.round):
                weight = self._weight(of_group.request)
                values = model.quantize(part.group, part.start, part.stop, round_number, of_group.fixed, weight)
                return of_group.attempt.mask_part(values, part.start, weight)
        raise FednnUNetError("the coordinator asks for a term of a sum before the sites have agreed on it")

    def open(self, request: OpeningRequest) -> Opening:
        """Return the key that opens a sum, with those of all others.

        Raises
        ------
        FednnUNetError
            If this site has no part in it.
        """
        of_group = self._sums.get(request.group)
        if of_group is None or of_group.request.round != request.round:
            raise FednnUNetError("the coordinator wants to open a sum in which this site takes no part")
        key = of_group.attempt.opening(request.salt)
        if not of_group.is_opened:
            self._openings.add(request.round, request.group, of_group.attempt.sites)
            of_group.is_opened = True
            if cut_off := of_group.held.model.cut_off:
                logger.warning(
                    "%d numbers of the update of round %d were too large, and cut off.", cut_off, request.round
                )
        return Opening(round=request.round, key=key.hex())

    def _weight(self, request: SumRequest) -> int:
        return self._training_cases if request.by_cases else 1
