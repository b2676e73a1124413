"""Sums of integers of any size, modulo a power of two for each."""

from collections.abc import Sequence

from fednnunet.errors import FednnUNetError


def to_bytes(numbers: Sequence[int], widths: Sequence[int]) -> bytes:
    """Write integers, each modulo ``256**width``, little-endian, one after the other."""
    return b"".join(
        (number % 256**width).to_bytes(width, "little") for number, width in zip(numbers, widths, strict=True)
    )


def from_bytes(data: bytes, widths: Sequence[int]) -> list[int]:
    """Read what `to_bytes` has written: integers from ``-256**width / 2`` to below ``256**width / 2``.

    Raises
    ------
    FednnUNetError
        If it has another length.
    """
    if len(data) != sum(widths):
        raise FednnUNetError(f"its answer has {len(data)} bytes instead of {sum(widths)}")
    numbers, start = [], 0
    for width in widths:
        numbers.append(int.from_bytes(data[start : start + width], "little", signed=True))
        start += width
    return numbers


def added(terms: Sequence[bytes], widths: Sequence[int], signs: Sequence[int] | None = None) -> bytes:
    """Return the sum of several lists of integers, each modulo ``256**width``.

    Parameters
    ----------
    terms
        As `to_bytes` writes them.
    widths
        Bytes of each integer.
    signs
        1 or -1 for each term; by default all are added.

    Raises
    ------
    FednnUNetError
        If a term has another length.
    """
    lists = [from_bytes(term, widths) for term in terms]
    factors = [1] * len(lists) if signs is None else signs
    sums = [
        sum(sign * number for sign, number in zip(factors, column, strict=True)) for column in zip(*lists, strict=True)
    ]
    return to_bytes(sums, widths)
