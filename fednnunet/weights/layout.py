"""The layout of a model: the ordered list of its distinct tensors."""

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from fednnunet.schema import printable_line

MOST_ELEMENTS = 1 << 34
"""Upper bound; larger claims are rejected."""

_MOST_AXES = 16
_OF_OPTIMIZER = "@"
"""In no name of a module's attribute in Python."""


def _check_size(shape: tuple[int, ...]) -> tuple[int, ...]:
    if math.prod(shape) > MOST_ELEMENTS:
        raise PydanticCustomError("size", "Input should not have that many elements")
    return shape


TensorName = Annotated[str, Field(max_length=500), AfterValidator(printable_line)]
"""Name of a tensor, as a state dict has it."""


def state_name(weight: str, key: str) -> str:
    """Return the name of the optimizer's tensor `key` of a weight: a name that no weight has."""
    return f"{weight}{_OF_OPTIMIZER}{key}"


@dataclass(frozen=True)
class TensorSpec:
    """One distinct floating-point tensor of a model.

    Whatever is received has the bounds that stand here, which are those of any network.
    """

    name: TensorName
    shape: Annotated[
        tuple[Annotated[int, Field(ge=0, le=MOST_ELEMENTS)], ...],
        Field(max_length=_MOST_AXES),
        AfterValidator(_check_size),
    ]
    dtype: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,32}$")]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def is_of_optimizer(self) -> bool:
        """Whether this is a tensor of the optimizer instead of a weight."""
        return _OF_OPTIMIZER in self.name

    @property
    def weight(self) -> str:
        """Name of the weight that it is, or belongs to."""
        return self.name.partition(_OF_OPTIMIZER)[0]


@dataclass(frozen=True)
class Layout:
    """The distinct floating-point tensors of a model, in the order of its state dict.

    Integer buffers (``num_batches_tracked``) are not part of it: they stay at the site.
    """

    tensors: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """Number of elements of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def is_of_optimizer(self) -> bool:
        """Whether these are tensors of the optimizer instead of weights; a group never has both."""
        return bool(self.tensors) and self.tensors[0].is_of_optimizer

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes and dtypes, in order: equal for models that can be averaged tensor by tensor."""
        text = json.dumps([[tensor.name, tensor.shape, tensor.dtype] for tensor in self.tensors])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Listing:
    """One of the names under which a state dict lists a distinct tensor of the layout."""

    name: TensorName
    tensor: TensorName
