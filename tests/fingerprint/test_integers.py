"""Answers as whole numbers: their sum says what the sum of the vectors says, and any sum is an answer."""

import numpy as np
import pytest

from fednnunet.fingerprint.integers import from_integers, to_integers, widths_of
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity

LARGEST = ((1 << 24) - 1) << 253
"""The largest float32 in units of 2**-149."""
MOST = 1 << 39
DIGITS = DigitsQuestion(
    follow=[
        Follow(quantity=Quantity("intensity", 0), bits=4, prefixes=[0, 3]),
        Follow(quantity=Quantity("shape", 2), bits=0, prefixes=[0]),
    ]
)


def test_the_integers_of_a_sum_are_the_sums_of_the_integers_of_limbs() -> None:
    sites = [
        [Moments(5, -3 * LARGEST, 5 * LARGEST**2), Moments(0, 0, 0)],
        [Moments(7, -1, 1), Moments(1, 1 << 149, 1 << 298)],
        [Moments(2, 2 * LARGEST, 2 * LARGEST**2), Moments(4, -LARGEST, LARGEST**2)],
    ]
    vectors = [np.concatenate([moments.to_vector() for moments in site]) for site in sites]
    integers = np.sum([np.array(to_integers(MomentsQuestion(), vector), object) for vector in vectors], axis=0)
    summed = from_integers(MomentsQuestion(), integers.tolist())
    assert summed.dtype == np.int64
    for one, other in zip(
        summed.reshape(2, VECTOR_LENGTH), np.sum(vectors, axis=0).reshape(2, VECTOR_LENGTH), strict=True
    ):
        assert Moments.from_vector(one) == Moments.from_vector(other)
    assert integers.tolist() == [14, -LARGEST - 1, 7 * LARGEST**2 + 1, 5, (1 << 149) - LARGEST, (1 << 298) + LARGEST**2]


@pytest.mark.parametrize("question", [MomentsQuestion(), DIGITS], ids=["moments", "digits"])
def test_any_integers_of_their_widths_are_an_answer_and_come_back(question: MomentsQuestion | DigitsQuestion) -> None:
    widths = widths_of(question, 2)
    assert len(widths) == (6 if isinstance(question, MomentsQuestion) else 48)
    least = [-(256**width) // 2 for width in widths]
    for integers in (least, [-number - 1 for number in least], [-1] * len(widths), [0] * len(widths)):
        assert to_integers(question, from_integers(question, integers)) == integers


def test_the_widths_are_enough_for_as_many_of_the_largest_numbers_as_the_limbs_are() -> None:
    for moments in (Moments(MOST, MOST * LARGEST, MOST * LARGEST**2), Moments(MOST, -MOST * LARGEST, 0)):
        integers = to_integers(MomentsQuestion(), moments.to_vector())
        for integer, width in zip(integers, widths_of(MomentsQuestion(), 1), strict=True):
            assert -(256**width) // 2 <= integer < 256**width // 2
