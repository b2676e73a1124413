"""Answers as whole numbers, each with a width, for a sum modulo a power of two.

`Moments.to_vector` spreads a sum over limbs, which fit into int64 but do not carry: the sum of the sites' limbs says
more about single sites than the sum of their numbers does.
"""

from collections.abc import Sequence

import numpy as np

from fednnunet.fingerprint.distribution import DIGIT_BITS
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.questions import COUNT_BYTES, DigitsQuestion, MomentsQuestion

MOMENTS_WIDTHS = (8, 40, 80)
"""Bytes of number, sum and sum of squares: enough for 2**39 numbers of any finite float32 value, and the sign."""


def widths_of(question: MomentsQuestion | DigitsQuestion, channels: int) -> list[int]:
    """Return how many bytes each integer of the answer to a question has."""
    if isinstance(question, MomentsQuestion):
        return [*MOMENTS_WIDTHS] * channels
    return [COUNT_BYTES] * sum(len(follow.prefixes) << DIGIT_BITS for follow in question.follow)


def to_integers(question: MomentsQuestion | DigitsQuestion, answer: np.ndarray) -> list[int]:
    """Return an answer as integers of `widths_of`.

    Parameters
    ----------
    question
        What was asked.
    answer
        Shape ``(n,)``, int64, as `SiteMeasurement.answer` returns it.
    """
    if isinstance(question, DigitsQuestion):
        return [int(count) for count in answer.tolist()]
    moments = [Moments.from_vector(vector) for vector in answer.reshape(-1, VECTOR_LENGTH)]
    return [number for of_channel in moments for number in (of_channel.number, of_channel.total, of_channel.squares)]


def from_integers(question: MomentsQuestion | DigitsQuestion, integers: Sequence[int]) -> np.ndarray:
    """Return the answer of which these are the integers: int64, one dimension.

    Parameters
    ----------
    question
        What was asked.
    integers
        Any that fit into `widths_of`, so also those of a sum.
    """
    if isinstance(question, DigitsQuestion):
        return np.array(integers, dtype=np.int64)
    moments = zip(integers[::3], integers[1::3], integers[2::3], strict=True)
    return np.concatenate([Moments(*of_channel).to_vector() for of_channel in moments])
