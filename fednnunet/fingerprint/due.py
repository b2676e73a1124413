"""Decides which questions a node answers, and refuses a coordinator that does not follow the protocol.

Such a coordinator could ask for any digits, again and again, and so find out number by number what a site has. Which
digits are due depends on sums over sites. A node must not know them, for they tell about the other sites, and could not
verify them. But what is asked for, in which order, how often, and how many order statistics of each quantity, depends
on nothing that a node does not know. So the generators here have the shape of those in `protocol`: a search has one
question for each digit, and what it asks for next begins with what it has asked for before.

This is what a coordinator can make of it that leads each search where it wants to, in one run of the protocol:

* It has at most 41 questions, 17 if every site tells spacing and shape of its cases.
* These have at most 57 prefixes for each channel, and 307 for all that is counted over cases, 31 if cases are told.
  Each prefix is answered by 16 counts.
* So it finds out, of each channel, at most 8 sampled intensities; of each axis at most 4 spacings, 2 shapes, and 2
  shapes resampled to a spacing of its choice; and 2 relative sizes. Of each it learns how often it occurs, and how many
  numbers share its first digits, of which the last answer tells apart 16 that differ in nothing but the last digit.

It cannot begin once more before the node is started again.
"""

from collections.abc import Collection, Generator, Mapping

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import DIGIT_BITS
from fednnunet.fingerprint.protocol import (
    GEOMETRY,
    MOST_INTENSITY_RANKS,
    RELATIVE_SIZE,
    RESAMPLED_SHAPES,
    SPACINGS,
    intensity_of_channels,
    low_ranks,
    middle_ranks,
)
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity
from fednnunet.fingerprint.selection import key_length

Due = Generator[None, MomentsQuestion | DigitsQuestion, None]
"""Takes one question after the other, and raises FednnUNetError at the first that is not due."""


class QuestionsDue:
    """Admits the questions of one run of a protocol.

    The question that was admitted last may be repeated, as it is after a broken connection. After one that was refused
    no other is admitted.

    Parameters
    ----------
    due
        `exact_questions` or `shared_cases_questions`.
    """

    def __init__(self, due: Due) -> None:
        self._due = due
        self._last: MomentsQuestion | DigitsQuestion | None = None
        next(due)

    @property
    def has_begun(self) -> bool:
        """Whether a question was admitted."""
        return self._last is not None

    def admit(self, question: MomentsQuestion | DigitsQuestion) -> None:
        """Return if a question is due.

        Raises
        ------
        FednnUNetError
            If it is not.
        """
        if question == self._last:
            return
        try:
            self._due.send(question)
        except StopIteration:
            raise _refusal(question) from None
        self._last = question


def exact_questions(cases: int, channels: int) -> Due:
    """Take the questions of `exact_fingerprint`.

    Parameters
    ----------
    cases
        Number of cases in the federation.
    channels
        Number of channels.

    Raises
    ------
    FednnUNetError
        If a question is not due.
    """
    middle = len(middle_ranks(cases))
    _check_moments((yield))
    yield from _search((yield), {**_intensities(channels), **dict.fromkeys(GEOMETRY, middle)})
    question = yield
    looked_at = _quantities(question) & set(SPACINGS)
    if looked_at:
        yield from _search(question, dict.fromkeys(sorted(looked_at), len(low_ranks(cases))))
        question = yield
    if not isinstance(question, DigitsQuestion) or question.target_spacing is None:
        raise _refusal(question)
    yield from _search(question, dict.fromkeys(RESAMPLED_SHAPES, middle), question.target_spacing)
    yield  # so that the last question is taken like all others


def shared_cases_questions(cases: int, channels: int) -> Due:
    """Take the questions of `shared_cases_fingerprint`; parameters and errors are those of `exact_questions`."""
    _check_moments((yield))
    yield from _search((yield), {**_intensities(channels), RELATIVE_SIZE: len(middle_ranks(cases))})
    yield


def _intensities(channels: int) -> dict[Quantity, int]:
    return dict.fromkeys(intensity_of_channels(channels), MOST_INTENSITY_RANKS)


def _quantities(question: MomentsQuestion | DigitsQuestion) -> set[Quantity]:
    return {follow.quantity for follow in question.follow} if isinstance(question, DigitsQuestion) else set()


def _check_moments(question: MomentsQuestion | DigitsQuestion) -> None:
    if not isinstance(question, MomentsQuestion):
        raise _refusal(question)


def _search(
    question: MomentsQuestion | DigitsQuestion,
    most: Mapping[Quantity, int],
    target_spacing: tuple[float, float, float] | None = None,
) -> Due:
    """Take the questions of `select`.

    Parameters
    ----------
    question
        The first one.
    most
        Order statistics of each quantity that are looked for, at most.
    target_spacing
        What belongs to all of the questions.
    """
    before: Mapping[Quantity, Collection[int]] = dict.fromkeys(most, (0,))
    for bits in range(0, max(map(key_length, most)), DIGIT_BITS):
        if bits > 0:
            question = yield
        still_open = [quantity for quantity in most if bits < key_length(quantity)]
        if not (
            isinstance(question, DigitsQuestion)
            and question.target_spacing == target_spacing
            and [follow.quantity for follow in question.follow] == still_open
            and all(
                _goes_on(follow, bits, before[follow.quantity], most[follow.quantity]) for follow in question.follow
            )
        ):
            raise _refusal(question)
        before = {follow.quantity: follow.prefixes for follow in question.follow}


def _goes_on(follow: Follow, bits: int, before: Collection[int], most: int) -> bool:
    """Return whether all prefixes begin with one of those of the question before, of which none is given up."""
    prefixes = follow.prefixes
    return (
        follow.bits == bits
        and len(prefixes) <= most
        and prefixes == sorted(set(prefixes))
        and {prefix >> DIGIT_BITS for prefix in prefixes} == set(before)
        and prefixes[-1] < 1 << bits
    )


def _refusal(question: MomentsQuestion | DigitsQuestion) -> FednnUNetError:
    if isinstance(question, MomentsQuestion):
        what = "sums of intensities"
    else:
        what = f"digits of {', '.join(sorted({name for name, _ in _quantities(question)}))}"
    return FednnUNetError(
        f"the coordinator asks for {what}, which the protocol does not allow now: "
        "check that it runs the same version of FednnU-Net as this site, and that you trust its operator"
    )
