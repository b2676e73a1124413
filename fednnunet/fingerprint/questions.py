"""The coordinator's questions for the common fingerprint; every answer is one vector of integers.

Answers are only added: the fingerprint depends only on their sum over sites.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from fednnunet.schema import Message

QuantityName = Literal["intensity", "spacing", "shape", "relative_size", "resampled_shape"]

MOST_CHANNELS = 1000
"""More than any image has."""

DTYPE_OF: dict[QuantityName, str] = {
    "intensity": "float32",
    "spacing": "float64",
    "shape": "uint32",
    "relative_size": "float64",
    "resampled_shape": "uint32",
}
"""In which dtype nnU-Net holds a quantity, or one that has the same order."""


COUNTS, COUNT_BYTES = "<i8", 8
"""The dtype of an answer as it travels, and the bytes of each of its integers."""

Spacing = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
"""Millimetres."""


class Quantity(NamedTuple):
    """One number per sampled voxel (``intensity``) or per case (all others)."""

    name: QuantityName
    component: Annotated[int, Field(ge=0, lt=MOST_CHANNELS)]
    """Channel of an intensity, axis of a spacing or shape, 0 for the relative size."""


class MomentsQuestion(Message):
    """Asks how many voxels were sampled, and for the sums of their intensities and of the squares.

    Answer: `Moments.to_vector` of each channel, one after the other.
    """

    kind: Literal["moments"] = "moments"


class Follow(Message):
    """Asks how many numbers of a quantity have keys that begin with each of these prefixes, by their next digit."""

    quantity: Quantity
    bits: int = Field(ge=0, le=64)
    prefixes: list[Annotated[int, Field(ge=0, lt=1 << 64)]] = Field(min_length=1, max_length=8)


class DigitsQuestion(Message):
    """Counts for order statistics that are found digit by digit.

    Answer: `Distribution.count_digits` of each entry of `follow`, flattened, one after the other.

    `target_spacing` (mm, three axes) is what resampled shapes refer to, and absent where they are not asked for.
    """

    kind: Literal["digits"] = "digits"
    follow: list[Follow] = Field(min_length=1, max_length=2 * MOST_CHANNELS)
    target_spacing: tuple[Spacing, Spacing, Spacing] | None = None


Question = Annotated[MomentsQuestion | DigitsQuestion, Field(discriminator="kind")]
