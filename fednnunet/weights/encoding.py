"""Encodes models, or differences of models, as bytes: exact, or smaller.

Received bytes are not trusted: lengths are checked before memory is allocated, and non-finite numbers are rejected.
"""

from typing import Literal, Protocol

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout

EncodingName = Literal["float32", "float16", "int8"]

BLOCK = 256
"""Elements that share a scale in int8."""

_CHUNK = BLOCK * 256
_LARGEST_INT8 = 127
_SMALLEST_SCALE = np.finfo(np.float32).tiny
"""Smaller ones are subnormal: they have too few bits for multiples of them, so such numbers become zero."""


class NotFiniteError(FednnUNetError):
    """Weights are NaN or infinite: the training has diverged, at the site or in the model that it got."""


class Encoding(Protocol):
    """A way to write float32 numbers."""

    name: EncodingName
    is_exact: bool
    """Whether numbers come back bit for bit; if not, differences to a model that the receiver has are sent."""

    def size(self, number: int) -> int:
        """Return the bytes that this many numbers take."""

    def encode(self, values: np.ndarray, random: np.random.Generator) -> tuple[bytes, np.ndarray]:
        """Write finite numbers, float32 of shape ``(n,)``; `random` decides how to round, if rounding is random.

        Returns
        -------
        The bytes, and the numbers as `decode` will read them: float32, shape ``(n,)``.
        """

    def decode(self, data: bytes, number: int) -> np.ndarray:
        """Read numbers: float32, shape ``(number,)``.

        Raises
        ------
        FednnUNetError
            If `data` has another length; `NotFiniteError` if numbers are not finite.
        """


class Float32:
    """Four bytes per number, little-endian."""

    name: EncodingName = "float32"
    is_exact = True

    def size(self, number: int) -> int:
        """Return the bytes that this many numbers take."""
        return 4 * number

    def encode(self, values: np.ndarray, random: np.random.Generator | None = None) -> tuple[bytes, np.ndarray]:
        """Write numbers as they are."""
        return values.astype("<f4", copy=False).tobytes(), values

    def decode(self, data: bytes, number: int) -> np.ndarray:
        """Read numbers."""
        _check_size(data, self.size(number))
        return _finite(np.frombuffer(data, "<f4").astype(np.float32, copy=False))


class Float16:
    """Two bytes per number, little-endian; larger numbers become float16's largest."""

    name: EncodingName = "float16"
    is_exact = False

    def size(self, number: int) -> int:
        """Return the bytes that this many numbers take."""
        return 2 * number

    def encode(self, values: np.ndarray, random: np.random.Generator) -> tuple[bytes, np.ndarray]:
        """Write numbers, each rounded to the nearest."""
        limit = np.finfo(np.float16).max
        rounded = values.clip(-limit, limit).astype("<f2")
        return rounded.tobytes(), rounded.astype(np.float32)

    def decode(self, data: bytes, number: int) -> np.ndarray:
        """Read numbers."""
        _check_size(data, self.size(number))
        return _finite(np.frombuffer(data, "<f2").astype(np.float32))


class Int8:
    """One byte per number and a float32 scale for each block of `BLOCK` numbers.

    Rounding is up or down at random with the probability that makes the expected value exact (Alistarh et al., *QSGD*,
    NeurIPS 2017).
    """

    name: EncodingName = "int8"
    is_exact = False

    def size(self, number: int) -> int:
        """Return the bytes that this many numbers take."""
        return number + 4 * _blocks(number)

    def encode(self, values: np.ndarray, random: np.random.Generator) -> tuple[bytes, np.ndarray]:
        """Write numbers as scales and multiples of them."""
        scales = np.empty(_blocks(len(values)), "<f4")
        digits = np.empty(len(values), np.int8)
        rounded = np.empty(len(values), np.float32)
        for start in range(0, len(values), _CHUNK):  # chunks stay in the processor's cache
            part, whole = values[start : start + _CHUNK], rounded[start : start + _CHUNK]
            scale = scales[start // BLOCK : start // BLOCK + _blocks(len(part))]
            largest = np.maximum.reduceat(np.abs(part), np.arange(0, len(part), BLOCK))
            # a hair more than largest / 127, so that no quotient exceeds 127 before or after rounding
            np.multiply(largest, np.float32((1 + 2**-20) / _LARGEST_INT8), out=scale)
            scale[scale < _SMALLEST_SCALE] = 0
            each = _repeated(np.where(scale > 0, scale, np.float32(1)), len(part))
            random.random(len(part), dtype=np.float32, out=whole)
            whole += part / each
            np.floor(whole, out=whole)
            digits[start : start + _CHUNK] = whole
            whole *= each
        return scales.tobytes() + digits.tobytes(), rounded

    def decode(self, data: bytes, number: int) -> np.ndarray:
        """Read numbers."""
        _check_size(data, self.size(number))
        blocks = _blocks(number)
        scales = _finite(np.frombuffer(data, "<f4", count=blocks).astype(np.float32, copy=False))
        digits = np.frombuffer(data, np.int8, offset=4 * blocks)
        values = np.empty(number, np.float32)
        for start in range(0, number, _CHUNK):
            part = digits[start : start + _CHUNK]
            scale = scales[start // BLOCK : start // BLOCK + _blocks(len(part))]
            with np.errstate(over="ignore", invalid="ignore"):  # refused below
                np.multiply(part, _repeated(scale, len(part)), out=values[start : start + _CHUNK])
        return _finite(values)


ENCODINGS: dict[EncodingName, Encoding] = {"float32": Float32(), "float16": Float16(), "int8": Int8()}


def encoding_of(layout: Layout, encoding: Encoding) -> Encoding:
    """Return how the tensors of a group travel where weights travel in `encoding`.

    An optimizer's momentum is a mean of noisy gradients: where weights may be rounded at all, a byte will do for it.
    """
    return ENCODINGS["int8"] if layout.is_of_optimizer and not encoding.is_exact else encoding


class Sender:
    """Encodes models for a receiver that already has another one, and makes good for its rounding in the next round.

    Error feedback: Karimireddy et al., *Error Feedback Fixes SignSGD and other Gradient Compression Schemes*, ICML
    2019.

    Parameters
    ----------
    encoding
        How to write.
    size
        Elements of the model.

    Attributes
    ----------
    error
        What rounding has left out so far: float32 of the model's size; ``None`` for an exact encoding.
    """

    def __init__(self, encoding: Encoding, size: int) -> None:
        self._encoding = encoding
        self.error = None if encoding.is_exact else np.zeros(size, np.float32)

    def encode(
        self,
        part: slice,
        model: np.ndarray,
        known: np.ndarray,
        random: np.random.Generator,
        error: np.ndarray | None = None,
    ) -> tuple[bytes, np.ndarray]:
        """Write a part of a model.

        Parameters
        ----------
        part
            Which part.
        model
            That part of the model, float32.
        known
            That part of the model that the receiver has, float32.
        random
            Decides how to round.
        error
            Takes the rounding errors that are left now, of the whole model's size; without it they replace those of
            before, and the part cannot be written again.

        Returns
        -------
        The bytes, and that part of the model as the receiver will have it.
        """
        if self.error is None:
            return self._encoding.encode(model, random)
        wanted = model - known
        wanted += self.error[part]
        data, sent = self._encoding.encode(wanted, random)
        np.subtract(wanted, sent, out=(self.error if error is None else error)[part])
        sent += known
        return data, sent


def receive(encoding: Encoding, data: bytes, known: np.ndarray) -> np.ndarray:
    """Return the part of a model that `Sender.encode` wrote for a receiver of `known`: float32, its shape.

    Raises
    ------
    FednnUNetError
        If `data` cannot be that.
    """
    decoded = encoding.decode(data, len(known))
    return decoded if encoding.is_exact else _finite(known + decoded)


def rounding(*about: int) -> np.random.Generator:
    """Return the generator for rounding one part of one model, the same in every run of the same federation."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(about)))


def _repeated(scales: np.ndarray, number: int) -> np.ndarray:
    """Return the scale of each of `number` elements."""
    return np.repeat(scales, BLOCK)[:number]


def _blocks(number: int) -> int:
    return -(-number // BLOCK)


def _check_size(data: bytes, size: int) -> None:
    if len(data) != size:
        raise FednnUNetError(f"part of a model has {len(data)} bytes instead of {size}")


def check_finite(values: np.ndarray) -> None:
    """Refuse weights that are not.

    Raises
    ------
    NotFiniteError
        If one is NaN or infinite.
    """
    # a sum is finite only if all terms are; float64 holds any sum of float32
    with np.errstate(invalid="ignore"):
        total = values.sum(dtype=np.float64)
    if not np.isfinite(total):
        raise NotFiniteError("its weights are NaN or infinite; see its training log")


def _finite(values: np.ndarray) -> np.ndarray:
    check_finite(values)
    return values
