"""Numbers as integers of a fixed range, so that their weighted mean can be made of a sum modulo a power of two."""

from dataclasses import dataclass

import numpy as np

from fednnunet.errors import FednnUNetError

BLOCK = 256
"""Elements that share a range."""

_CHUNK = BLOCK * 256
_SMALLEST, _LARGEST = -120, 120
"""Exponents, so that steps are normal float32 numbers."""
_OF_ZEROS = 8
"""Of changes to zeros: nnU-Net clips gradients to a norm of 12, and momentum of 0.9 makes ten times that, at most."""
_LOCAL_EXPONENT = 23
"""Range of weights that are averaged once, without anything to compare them with: 64 bits have room for that."""

DTYPES = {16: "<u2", 32: "<u4", 64: "<u8"}
"""The unsigned integers of each number of bits."""


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """How the numbers of a group are written.

    Each site rounds its numbers, times its share of the weights, to multiples of a step, and clips them to its share of
    the range: so no sum over sites leaves the range, which it would without a sign.

    Attributes
    ----------
    bits
        16, 32 or 64: 16 once it is known how large changes are, or at first, and where rounding is not wanted, 32.
    exponents
        Shape ``(blocks,)``, int8: a block of `BLOCK` numbers has the range from ``-2**exponent`` to ``2**exponent``.
    total
        Sum of the weights of all sites.
    """

    bits: int
    exponents: np.ndarray
    total: int

    @classmethod
    def of_bytes(cls, bits: int, data: bytes, size: int, total: int) -> "FixedPoint":
        """Return what the coordinator has chosen for a group of `size` numbers.

        Raises
        ------
        FednnUNetError
            If there are not as many exponents as blocks.
        """
        exponents = np.frombuffer(data, np.int8)
        if len(exponents) != blocks(size) or (np.abs(exponents.astype(np.int16)) > _LARGEST).any():
            raise FednnUNetError("the coordinator has sent no ranges, or those of another model")
        return cls(bits, exponents, total)

    @property
    def dtype(self) -> str:
        """The unsigned integers in which numbers travel."""
        return DTYPES[self.bits]

    def encode(
        self, start: int, values: np.ndarray, weight: int, random: np.random.Generator | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write a part of a site's numbers.

        Parameters
        ----------
        start
            First element of the part.
        values
            Shape ``(n,)``, float32, finite.
        weight
            Of the site.
        random
            Decides how to round, so that the expected value is exact; ``None`` rounds to the nearest.

        Returns
        -------
        Unsigned integers, shape ``(n,)``, and the numbers for which they stand: float32, shape ``(n,)``.
        """
        most = self._most(weight)
        digits, sent = np.empty(len(values), f"<i{self.bits // 8}"), np.empty(len(values), np.float32)
        for first in range(0, len(values), _CHUNK):  # chunks stay in the processor's cache
            part = values[first : first + _CHUNK]
            steps = self._steps(start + first, len(part)) * (self.total / weight)
            scaled = part / steps
            scaled = np.rint(scaled) if random is None else np.floor(scaled + random.random(len(part)))
            np.clip(scaled, -most, most, out=scaled)
            digits[first : first + _CHUNK] = scaled
            sent[first : first + _CHUNK] = scaled * steps
        return digits.view(self.dtype), sent

    def cut_off(self, values: np.ndarray, weight: int) -> int:
        """Return how many of the integers of a site of this weight are at the end of its range."""
        signed = values.view(values.dtype.str.replace("u", "i")).astype(np.float64)
        return int(np.count_nonzero(np.abs(signed) >= self._most(weight)))

    def mean(self, start: int, total: np.ndarray, weight: int) -> np.ndarray:
        """Return the weighted mean of a part of the sites' numbers: float32, shape ``(n,)``.

        Parameters
        ----------
        start
            First element of the part.
        total
            Sum of the sites' integers, signed, shape ``(n,)``.
        weight
            Sum of these sites' weights.

        Raises
        ------
        FednnUNetError
            If that cannot be.
        """
        if not 0 < weight <= self.total:
            raise FednnUNetError(f"the sites' weights add up to {weight}, not to at most {self.total}")
        mean = np.empty(len(total), np.float32)
        for first in range(0, len(total), _CHUNK):
            part = total[first : first + _CHUNK]
            mean[first : first + _CHUNK] = part * (self._steps(start + first, len(part)) * (self.total / weight))
        return mean

    def _most(self, weight: int) -> float:
        """Return the largest integer of a site of this weight."""
        return _rounded_down(weight * (2 ** (self.bits - 1) - 1) // self.total)

    def _steps(self, start: int, number: int) -> np.ndarray:
        """Return the step of each of these elements: float64, shape ``(number,)``."""
        first, last = start // BLOCK, (start + number - 1) // BLOCK + 1
        steps = np.ldexp(1.0, self.exponents[first:last].astype(np.int32) - (self.bits - 1))
        return np.repeat(steps, BLOCK)[start - first * BLOCK :][:number]


def _rounded_down(number: int) -> float:
    """Return the largest float64 that is not above an integer."""
    return float(number) if float(number) <= number else float(np.nextafter(float(number), 0))


def blocks(size: int) -> int:
    """Return the number of blocks of a group of `size` numbers."""
    return -(-size // BLOCK)


def exponents_of_weights(weights: np.ndarray) -> np.ndarray:
    """Return ranges for changes in 32 bits: 16 times a block's largest weight, or the largest weight of all.

    Parameters
    ----------
    weights
        The last global model: shape ``(n,)``, float32.
    """
    exponents = _exponents(weights)
    return _limited(np.maximum(exponents, exponents.max(initial=_SMALLEST) - 4) + 4, weights)


class LargestChanges:
    """The largest change of each block in a round, part by part.

    Parameters
    ----------
    size
        Elements of the group.
    """

    def __init__(self, size: int) -> None:
        self._largest = np.zeros(blocks(size), np.float32)

    def add(self, start: int, change: np.ndarray) -> None:
        """Take note of what has changed in the part that begins with this element: shape ``(n,)``, float32."""
        first = start // BLOCK
        edges = np.maximum(np.arange(first, (start + len(change) - 1) // BLOCK + 1) * BLOCK - start, 0)
        largest = np.maximum.reduceat(np.abs(change), edges)
        blocks_of_part = self._largest[first : first + len(edges)]
        np.maximum(blocks_of_part, largest, out=blocks_of_part)

    def exponents(self, weights: np.ndarray) -> np.ndarray:
        """Return ranges for the next changes in 16 bits: 16 times the last one of a block, at least.

        The last one is a mean, and that of a site with a small share of the weights can be much larger, if the sites
        differ. A block that has hardly changed can: its range grows in each round in which it is too small.

        Parameters
        ----------
        weights
            As they are now: shape ``(n,)``, float32.
        """
        least = _exponents(weights).max(initial=_SMALLEST) - 14
        return _limited(np.maximum(_exponents_above(self._largest) + 4, least), weights)


def exponents_of_local(size: int) -> np.ndarray:
    """Return ranges for weights that nobody has seen before."""
    return np.full(blocks(size), _LOCAL_EXPONENT, np.int8)


def _exponents(values: np.ndarray) -> np.ndarray:
    """Return for each block the exponent of the power of two that is just above its largest absolute number."""
    if not len(values):
        return np.zeros(0, np.int32)
    return _exponents_above(np.maximum.reduceat(np.abs(values), np.arange(0, len(values), BLOCK)))


def _exponents_above(largest: np.ndarray) -> np.ndarray:
    exponents: np.ndarray = np.frexp(largest)[1]
    return np.where(largest > 0, exponents, _SMALLEST)


def _limited(exponents: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return exponents as they travel; a group of nothing but zeros has a range for any gradient of nnU-Net's."""
    if not weights.any():
        exponents = np.maximum(exponents, _OF_ZEROS)
    return exponents.clip(_SMALLEST, _LARGEST).astype(np.int8)
