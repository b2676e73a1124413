"""A site's losses and Dice in the sums of one training, of which nobody sees a single one."""

from fednnunet.errors import FednnUNetError
from fednnunet.node.masked_updates import Signer
from fednnunet.node.openings import Openings
from fednnunet.privacy.support import enough
from fednnunet.protocol.messages import RoundReport, Schedule, ValidationReport
from fednnunet.protocol.secure_aggregation import FiguresRequest, Joined, SignedKeys, Statement, SumRequest
from fednnunet.secure_aggregation.attempts import Attempt, FigureRules
from fednnunet.secure_aggregation.contexts import TrainingFacts
from fednnunet.secure_aggregation.figures import figures_context, to_terms, widths_of
from fednnunet.secure_aggregation.integers import to_bytes

_GROUP = "figures"
"""How the record of openings calls these sums."""


class MaskedFigures:
    """What a site says of its rounds, for sums only: once for each round, and for one set of sites.

    Parameters
    ----------
    signer
        Who takes part.
    rules
        Which figures may be told at all.
    facts
        What is the same for all sums of the training.
    schedule
        Of the training.
    openings
        What was told before.
    """

    def __init__(
        self, signer: Signer, rules: FigureRules, facts: TrainingFacts, schedule: Schedule, openings: Openings
    ) -> None:
        self._signer = signer
        self._rules = rules
        self._facts = facts
        self._schedule = schedule
        self._openings = openings
        self._attempt: Attempt | None = None
        self._round = 0

    def agree(self, request: SumRequest) -> Statement:
        """Return a signed one-time key for the sums of the figures of a round."""
        self._round = request.round
        self._attempt = Attempt(self._signer.identity, self._signer.site, figures_context(self._facts, request))
        return self._attempt.statement

    def join(self, keys: SignedKeys) -> Joined:
        """Make the masks; none if this round's figures were told for other sites.

        Raises
        ------
        FednnUNetError
            If it is not the sum that was agreed on.
        """
        if self._attempt is None or not self._attempt.is_among(keys.keys):
            return Joined(salt=None)
        names = [key.site for key in keys.keys]
        if self._openings.is_other(self._round, _GROUP, names):
            return Joined(salt=None)
        return Joined(salt=self._attempt.join(keys.keys, self._signer.rules))

    def terms(self, request: FiguresRequest, text: str, report: RoundReport | ValidationReport) -> bytes:
        """Return the figures of a round, masked; see `Attempt.mask_answer`.

        Parameters
        ----------
        request, text
            What is asked for, and how it was written.
        report
            All figures.

        Raises
        ------
        FednnUNetError
            If no sum was joined.
        """
        if self._attempt is None or request.round != self._round:
            raise FednnUNetError("the coordinator asks for figures before the sites have agreed on their sum")
        is_round = isinstance(report, RoundReport)
        plain = to_bytes(
            to_terms(self._told(report), request.labels, is_round=is_round),
            widths := widths_of(request.labels, is_round=is_round),
        )
        masked = self._attempt.mask_answer(plain, widths, 1, text)
        self._openings.add(self._round, _GROUP, self._attempt.sites)
        return masked

    def _told(self, report: RoundReport | ValidationReport) -> RoundReport | ValidationReport | None:
        """Return those figures that may be told."""
        schedule, least = self._schedule, self._rules.min_val_iterations
        if isinstance(report, RoundReport) and (
            min(schedule.iterations_per_epoch, schedule.val_iterations_per_epoch) < least
        ):
            return None
        return enough(report, self._rules.min_cases)
