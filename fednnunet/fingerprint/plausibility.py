"""Checks whether a site's answer is possible for its cases, before it is added to the other answers.

In a sum, nobody can identify a wrong answer. So each answer is checked against the site's earlier ones: it has no more
sampled voxels than its cases allow, counts below a prefix add up to the count of that prefix, and only finite numbers
and possible spacings and shapes are counted.
"""

from collections.abc import Mapping

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import DIGIT_BITS
from fednnunet.fingerprint.keys import key_bits, to_keys
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.questions import DTYPE_OF, DigitsQuestion, Follow, MomentsQuestion, Quantity, QuantityName

SMALLEST_SPACING = 1e-7
"""Millimetres: a tenth of a nanometre."""
LARGEST_SPACING = 1e6
"""Millimetres: a kilometre."""
MOST_VOXELS = 1 << 24
"""Along one axis of an image."""

_LARGEST_INTENSITY = float(np.finfo(np.float32).max)
_BETWEEN: Mapping[QuantityName, tuple[float, float]] = {
    "intensity": (-_LARGEST_INTENSITY, _LARGEST_INTENSITY),
    "spacing": (SMALLEST_SPACING, LARGEST_SPACING),
    "shape": (1, MOST_VOXELS),
    "relative_size": (0, 1),
    "resampled_shape": (0, np.iinfo(np.uint32).max),
}

_Prefix = tuple[Quantity, int, int]
"""Quantity, number of bits, and value of a prefix."""


class AnswersOfSite:
    """The answers of one site so far, against which its next one is checked.

    Parameters
    ----------
    cases
        How many cases it has, as it says.
    channels
        Number of channels.
    samples
        Foreground voxels that are sampled from each case.
    """

    def __init__(self, cases: int, channels: int, samples: int) -> None:
        self._cases = cases
        self._channels = channels
        self._most_voxels = cases * samples
        self._sampled: list[int] = []
        self._counted: dict[_Prefix, int] = {}

    def check(self, question: MomentsQuestion | DigitsQuestion, answer: np.ndarray) -> None:
        """Check that an answer is possible, and record it.

        Parameters
        ----------
        question
            The question.
        answer
            Shape ``(n,)``, int64.

        Raises
        ------
        FednnUNetError
            If it cannot.
        """
        if isinstance(question, MomentsQuestion):
            self._check_moments(answer)
            return
        lengths = [len(follow.prefixes) << DIGIT_BITS for follow in question.follow]
        if answer.shape != (sum(lengths),):
            raise FednnUNetError("its answer has the wrong length: check that all sites have the same version")
        if answer.min() < 0:
            raise FednnUNetError("its answer contains negative counts")
        counted: dict[_Prefix, int] = {}
        for follow, part in zip(question.follow, np.split(answer, np.cumsum(lengths)[:-1]), strict=True):
            self._check_counts(follow, part.reshape(-1, 1 << DIGIT_BITS), counted)
        self._counted = counted

    def _check_moments(self, answer: np.ndarray) -> None:
        if answer.shape != (self._channels * VECTOR_LENGTH,):
            raise FednnUNetError(f"its answer is not for {self._channels} channels: check that all images have them")
        self._sampled = []
        for vector in answer.reshape(self._channels, VECTOR_LENGTH):
            moments = Moments.from_vector(vector)
            if not 0 <= moments.number <= self._most_voxels:
                raise FednnUNetError(
                    f"it has sampled {moments.number} voxels, {self._most_voxels} are the most for its cases"
                )
            if not (np.array_equal(moments.to_vector(), vector) and moments.is_possible):
                raise FednnUNetError("its sums of intensities contradict each other")
            self._sampled.append(moments.number)

    def _check_counts(self, follow: Follow, rows: np.ndarray, counted: dict[_Prefix, int]) -> None:
        quantity, shift = follow.quantity, key_bits(DTYPE_OF[follow.quantity.name]) - follow.bits - DIGIT_BITS
        least, most = (int(to_keys(np.array(value, DTYPE_OF[quantity.name]))) for value in _BETWEEN[quantity.name])
        for prefix, row in zip(follow.prefixes, rows.tolist(), strict=True):
            expected = self._expected(quantity, follow.bits, prefix)
            if sum(row) != expected:
                raise FednnUNetError(f"it counts {sum(row)} values of {quantity.name} where it has {expected}")
            for digit, count in enumerate(row):
                key = (prefix << DIGIT_BITS) + digit
                if count and not (key << shift <= most and least < (key + 1) << shift):
                    raise FednnUNetError(f"it counts impossible values of {quantity.name}")
                counted[quantity, follow.bits + DIGIT_BITS, key] = count

    def _expected(self, quantity: Quantity, bits: int, prefix: int) -> int:
        """Return the site's count of numbers with this prefix, according to its earlier answers."""
        if bits:
            return self._counted.get((quantity, bits, prefix), 0)
        return self._sampled[quantity.component] if quantity.name == "intensity" else self._cases


def check_cases(spacings: np.ndarray, shapes: np.ndarray) -> None:
    """Refuse spacings (mm) and shapes (voxels) of cases, both of shape ``(cases, 3)``, that no images have.

    Raises
    ------
    FednnUNetError
        If there are such.
    """
    for name, values in (("spacing", spacings), ("shape", shapes)):
        least, most = _BETWEEN[name]  # type: ignore[index]
        if not ((values >= least) & (values <= most)).all():
            raise FednnUNetError(f"it reports an impossible {name}")
