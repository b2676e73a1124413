"""A multiset of numbers with fast counts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from fednnunet.fingerprint.keys import DTYPES, from_keys, key_bits, to_keys

DIGIT_BITS = 4
"""Bits of the digits in which order statistics are found.

Wider digits need fewer questions but longer answers: for one order statistic of a float32, 4 bits take 8 questions and
128 counts, 8 bits take 4 questions and 1024 counts.
"""


@dataclass(frozen=True, eq=False)
class Distribution:
    """How often each number occurs.

    Attributes
    ----------
    keys
        Shape ``(distinct numbers,)``, ascending: the numbers as `to_keys` gives them.
    counts
        Shape ``(distinct numbers,)``, int64.
    dtype
        Name of the dtype of the numbers.
    """

    keys: np.ndarray
    counts: np.ndarray
    dtype: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ends", np.concatenate([np.zeros(1, np.int64), np.cumsum(self.counts)]))

    @classmethod
    def of(cls, values: np.ndarray, counts: np.ndarray | None = None) -> "Distribution":
        """Return the distribution of `values`, each of which occurs once, or as often as `counts` says."""
        counts = np.ones(len(values), np.int64) if counts is None else counts
        return cls(*_distinct(to_keys(values), counts), values.dtype.name)

    @classmethod
    def empty(cls, dtype: str) -> "Distribution":
        """Return the distribution of no numbers."""
        return cls(np.zeros(0, DTYPES[dtype]), np.zeros(0, np.int64), dtype)

    @classmethod
    def union(cls, distributions: Sequence["Distribution"]) -> "Distribution":
        """Return the distribution of the numbers of all of `distributions`, at least one, of one dtype."""
        keys = np.concatenate([distribution.keys for distribution in distributions])
        counts = np.concatenate([distribution.counts for distribution in distributions])
        return cls(*_distinct(keys, counts), distributions[0].dtype)

    @property
    def total(self) -> int:
        """Number of numbers, each counted as often as it occurs."""
        return int(self._ends[-1])  # type: ignore[attr-defined]

    @property
    def values(self) -> np.ndarray:
        """The distinct numbers, ascending."""
        return from_keys(self.keys, self.dtype)

    def count_digits(self, bits: int, prefixes: Iterable[int]) -> np.ndarray:
        """Count the numbers whose key begins with each of `prefixes`, by the digit that comes next.

        Parameters
        ----------
        bits
            Length of the prefixes, a multiple of `DIGIT_BITS` below the length of a key.
        prefixes
            The prefixes, each below ``2**bits``.

        Returns
        -------
        Shape ``(prefixes, 2**DIGIT_BITS)``, int64.
        """
        width = key_bits(self.dtype) - bits - DIGIT_BITS
        lasts = [
            [(((prefix << DIGIT_BITS) + digit + 1) << width) - 1 for digit in range(2**DIGIT_BITS)]
            for prefix in prefixes
        ]
        firsts = [[prefix << (width + DIGIT_BITS)] for prefix in prefixes]
        ends: np.ndarray = self._ends  # type: ignore[attr-defined]
        dtype = self.keys.dtype
        below = ends[np.searchsorted(self.keys, np.array(firsts, dtype).reshape(-1, 1), side="left")]
        up_to = ends[np.searchsorted(self.keys, np.array(lasts, dtype).reshape(-1, 2**DIGIT_BITS), side="right")]
        counts: np.ndarray = np.diff(np.concatenate([below, up_to], axis=1), axis=1)
        return counts


def _distinct(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct keys, ascending, with the sums of their counts."""
    if len(keys) == 0:
        return keys, counts.astype(np.int64)
    order = np.argsort(keys)
    keys, counts = keys[order], counts[order]
    starts = np.flatnonzero(np.concatenate([np.ones(1, bool), keys[1:] != keys[:-1]]))
    return keys[starts], np.add.reduceat(counts, starts, dtype=np.int64)
