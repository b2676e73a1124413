"""Answers about the cases of a site, plain or masked: one run of the protocol."""

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.due import QuestionsDue
from fednnunet.fingerprint.integers import to_integers, widths_of
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.questions import COUNTS
from fednnunet.protocol.conversation import Answer
from fednnunet.protocol.messages import Query
from fednnunet.protocol.secure_aggregation import SignedKeys, Statement
from fednnunet.secure_aggregation.attempts import Attempt, Rules
from fednnunet.secure_aggregation.integers import to_bytes


class Counting:
    """What the site has measured, and what may be asked about it.

    Parameters
    ----------
    measurement
        The measurement.
    due
        Admits the questions of one run of the protocol.
    cases
        Cases of the federation, as the coordinator says.
    """

    def __init__(self, measurement: SiteMeasurement, due: QuestionsDue, cases: int) -> None:
        self.measurement = measurement
        self.cases = cases
        self._due = due

    @property
    def has_begun(self) -> bool:
        """Whether a question was admitted."""
        return self._due.has_begun

    def answer(self, query: Query, text: str) -> Answer:
        """Answer a question with one vector of integers.

        Parameters
        ----------
        query
            The question.
        text
            Its JSON, as it has arrived.

        Raises
        ------
        FednnUNetError
            If it is not due.
        """
        self._due.admit(query.question)
        return Answer(data=self.measurement.answer(query.question).astype(COUNTS).tobytes())


class MaskedCounting(Counting):
    """Answers with terms of sums, once the site has agreed on these with others; the rest as in `Counting`.

    Each question is answered once: if it is repeated, with the same bytes.

    Parameters
    ----------
    rules
        What the site wants of the sums.
    """

    def __init__(self, measurement: SiteMeasurement, due: QuestionsDue, cases: int, rules: Rules) -> None:
        super().__init__(measurement, due, cases)
        self._rules = rules
        self._attempt: Attempt | None = None
        self._answered: list[tuple[Query, Answer]] = []

    def agree(self, attempt: Attempt) -> Statement:
        """Take part in the sums of an attempt, and in none of another one.

        Raises
        ------
        FednnUNetError
            If a question was answered before.
        """
        if self.has_begun:
            raise FednnUNetError(
                "the coordinator wants sums over other sites, after this one has answered about its cases: "
                "restart the node for another fingerprint"
            )
        self._attempt = attempt
        return attempt.statement

    def join(self, keys: SignedKeys) -> str | None:
        """Make the masks for the sites with these one-time keys; ``None`` if this site's own is not known any more.

        Raises
        ------
        FednnUNetError
            If the rules do not allow it; see `Attempt.join`.
        """
        if self._attempt is None or not self._attempt.is_among(keys.keys):
            return None
        return self._attempt.join(keys.keys, self._rules)

    def answer(self, query: Query, text: str) -> Answer:
        """Answer a question with one masked term; parameters and errors are those of `Counting.answer`."""
        if self._attempt is None or self._attempt.salt is None:
            raise FednnUNetError(
                "the coordinator asks for plain answers about cases, this site gives masked ones only: "
                "start the coordinator with --secure"
            )
        if not self._answered or self._answered[-1][0] != query:
            self._due.admit(query.question)
            self._answered.append((query, self._masked(self._attempt, query, text)))
        return self._answered[-1][1]

    def _masked(self, attempt: Attempt, query: Query, text: str) -> Answer:
        widths = widths_of(query.question, len(self.measurement.samples))
        plain = to_bytes(to_integers(query.question, self.measurement.answer(query.question)), widths)
        masked = attempt.mask_answer(plain, widths, len(self._answered) + 1, text)
        return Answer(data=masked, is_masked=True)
