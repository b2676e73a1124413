"""Finds order statistics of the union of all sites' numbers, by radix selection on sums of counts.

Each question extends the known part of an order statistic's key by one digit; the number of smaller values at a single
site is never asked.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import DIGIT_BITS
from fednnunet.fingerprint.keys import DTYPES, from_keys, key_bits
from fednnunet.fingerprint.questions import DTYPE_OF, DigitsQuestion, Follow, Quantity


@dataclass(frozen=True)
class Wanted:
    """Order statistics of a quantity: the numbers at `ranks`, from 0, among all `total` numbers in order."""

    total: int
    ranks: frozenset[int]


OrderStatistics = dict[Quantity, dict[int, np.ndarray]]
"""Of each quantity, the numbers (0-dimensional, of the quantity's dtype) by their rank."""


def key_length(quantity: Quantity) -> int:
    """Return the number of bits that are known of a quantity's order statistics once they are found."""
    return key_bits(DTYPE_OF[quantity.name])


def select(
    wanted: Mapping[Quantity, Wanted], target_spacing: tuple[float, float, float] | None = None
) -> Generator[DigitsQuestion, np.ndarray, OrderStatistics]:
    """Find order statistics of several quantities side by side.

    Yields questions, takes the sum over sites of the answers, and returns what was found.

    Raises
    ------
    FednnUNetError
        If the counts contradict each other or the totals.
    """
    searches = {quantity: _Search(quantity, want) for quantity, want in wanted.items()}
    while open_searches := [search for search in searches.values() if not search.is_done]:
        follow = [search.follow() for search in open_searches]
        counts = yield DigitsQuestion(follow=follow, target_spacing=target_spacing)
        ends = np.cumsum([len(entry.prefixes) * 2**DIGIT_BITS for entry in follow])
        if counts.shape != (ends[-1],) or counts.min() < 0:
            raise FednnUNetError("The sites' answers are not counts for this question: check that versions agree.")
        for search, part in zip(open_searches, np.split(counts, ends[:-1]), strict=True):
            search.take(part.reshape(-1, 2**DIGIT_BITS))
    return {quantity: search.result() for quantity, search in searches.items()}


class _Search:
    """How far the order statistics of one quantity are known."""

    def __init__(self, quantity: Quantity, wanted: Wanted) -> None:
        self._quantity = quantity
        self._wanted = wanted
        self._bits = 0
        # per rank: the digits known so far, and the rank among the numbers that begin with them
        self._known = {rank: (0, rank) for rank in sorted(wanted.ranks)}

    @property
    def is_done(self) -> bool:
        return self._bits == key_length(self._quantity)

    def follow(self) -> Follow:
        return Follow(quantity=self._quantity, bits=self._bits, prefixes=self._prefixes())

    def take(self, counts: np.ndarray) -> None:
        if self._bits == 0 and counts.sum() != self._wanted.total:
            raise FednnUNetError(
                f"The sites count {counts.sum()} values of {self._quantity.name} instead of {self._wanted.total}: "
                "a site has answered wrongly."
            )
        rows = dict(zip(self._prefixes(), np.cumsum(counts, axis=1), strict=True))
        self._known = {rank: _descend(rows[prefix], prefix, rest) for rank, (prefix, rest) in self._known.items()}
        self._bits += DIGIT_BITS

    def result(self) -> dict[int, np.ndarray]:
        dtype = DTYPE_OF[self._quantity.name]
        return {rank: from_keys(np.array(key, DTYPES[dtype]), dtype) for rank, (key, _) in self._known.items()}

    def _prefixes(self) -> list[int]:
        return sorted({prefix for prefix, _ in self._known.values()})


def _descend(cumulative: np.ndarray, prefix: int, rank: int) -> tuple[int, int]:
    """Return `prefix` with its next digit, and the rank among the numbers that begin so."""
    digit = int(np.searchsorted(cumulative, rank, side="right"))
    if digit == len(cumulative):
        raise FednnUNetError("The sites' counts contradict their previous ones: a site has answered wrongly.")
    below = int(cumulative[digit - 1]) if digit else 0
    return (prefix << DIGIT_BITS) + digit, rank - below
