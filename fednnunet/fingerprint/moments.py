"""Number, sum and sum of squares as exact integers, independent of order and partition.

A float32 is an integer of at most 24 bits times a power of two not below 2**-149. All sums are therefore integers in
units of 2**-149 (sums) and 2**-298 (sums of squares), however the data are spread over sites.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import Distribution

_UNIT_EXPONENT = -149
_LARGEST = ((1 << 24) - 1) << 253
"""The largest finite float32, in units of 2**-149."""
_LIMB_BITS = 32
_SUM_LIMBS = 10
_SQUARES_LIMBS = 19
VECTOR_LENGTH = 1 + _SUM_LIMBS + _SQUARES_LIMBS
"""Length of `Moments.to_vector`: enough for 2**39 numbers of any finite float32 value."""


@dataclass(frozen=True)
class Moments:
    """Exact moments of float32 numbers.

    Attributes
    ----------
    number
        How many numbers.
    total
        Their sum, in units of 2**-149.
    squares
        The sum of their squares, in units of 2**-298.
    """

    number: int
    total: int
    squares: int

    @classmethod
    def of(cls, distribution: Distribution) -> "Moments":
        """Return the moments of a distribution of finite float32 numbers."""
        bits = distribution.values.view(np.uint32)
        exponents = ((bits >> np.uint32(23)) & np.uint32(0xFF)).astype(np.int64)
        mantissas = (bits & np.uint32(0x7FFFFF)).astype(np.int64)
        mantissas |= np.where(exponents > 0, 1 << 23, 0)  # all but subnormal numbers have a leading one
        signed = np.where(bits >> np.uint32(31), -mantissas, mantissas)
        shifts = np.maximum(exponents, 1) - 1
        total = squares = 0
        if len(bits):
            # ascending numbers: equal exponents stand together, once among the negative and once among the positive
            starts = np.flatnonzero(np.concatenate([np.ones(1, bool), shifts[1:] != shifts[:-1]]))
            counts, square = distribution.counts, mantissas * mantissas
            # each of these sums stays below 2**24 * 2**39
            sums = np.add.reduceat(signed * counts, starts).tolist()
            high = np.add.reduceat((square >> 24) * counts, starts).tolist()
            low = np.add.reduceat((square & 0xFFFFFF) * counts, starts).tolist()
            for shift, first, upper, lower in zip(shifts[starts].tolist(), sums, high, low, strict=True):
                total += first << shift
                squares += ((upper << 24) + lower) << (2 * shift)
        return cls(distribution.total, total, squares)

    def to_vector(self) -> np.ndarray:
        """Return the moments as int64, shape ``(VECTOR_LENGTH,)``; the vector of a union is the sum of vectors."""
        limbs = [self.number, *_limbs(self.total, _SUM_LIMBS), *_limbs(self.squares, _SQUARES_LIMBS)]
        return np.array(limbs, dtype=np.int64)

    @classmethod
    def from_vector(cls, vector: np.ndarray) -> "Moments":
        """Return the moments whose vector, or sum of vectors, this is."""
        number, *limbs = vector.tolist()
        return cls(number, _from_limbs(limbs[:_SUM_LIMBS]), _from_limbs(limbs[_SUM_LIMBS:]))

    @property
    def is_possible(self) -> bool:
        """Whether there can be such finite numbers: none larger than there are, and the variance not negative."""
        if self.number == 0:
            return self.total == self.squares == 0
        is_finite = abs(self.total) <= self.number * _LARGEST and self.squares <= self.number * _LARGEST**2
        return is_finite and self.squares * self.number >= self.total**2

    @property
    def mean(self) -> float:
        """The mean, correctly rounded."""
        return float(Fraction(self.total, self.number) * Fraction(2) ** _UNIT_EXPONENT)

    @property
    def std(self) -> float:
        """The standard deviation (``numpy.std``: without Bessel's correction), to the last bit or its neighbour.

        Raises
        ------
        FednnUNetError
            If there are no such numbers.
        """
        # variance = squares / number - (total / number)**2, over the common denominator number**2
        numerator = self.squares * self.number - self.total**2
        if numerator < 0:
            raise FednnUNetError("The sums of intensities contradict each other: a site has answered wrongly.")
        # the integer square root of a number of at least 128 bits has 64 of them, more than a float64
        shift = max(0, 128 - numerator.bit_length() + 1) & ~1
        root = math.isqrt(numerator << shift)
        return float(Fraction(root, self.number << (shift // 2)) * Fraction(2) ** _UNIT_EXPONENT)


def _limbs(value: int, number: int) -> list[int]:
    """Return `value` as the sum of ``limb * 2**(32 * i)``; only the last limb may be negative."""
    limbs = [(value >> (_LIMB_BITS * index)) & (2**_LIMB_BITS - 1) for index in range(number - 1)]
    return [*limbs, value >> (_LIMB_BITS * (number - 1))]


def _from_limbs(limbs: list[int]) -> int:
    return sum(limb << (_LIMB_BITS * index) for index, limb in enumerate(limbs))
