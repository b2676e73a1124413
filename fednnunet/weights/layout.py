"""The layout of a model: the ordered list of its distinct tensors."""

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

MOST_ELEMENTS = 1 << 34
"""More than any network has; who claims more is not believed."""


@dataclass(frozen=True)
class TensorSpec:
    """One distinct floating-point tensor of a model."""

    name: str
    shape: tuple[Annotated[int, Field(ge=0, le=MOST_ELEMENTS)], ...]
    dtype: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))


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
    def digest(self) -> str:
        """SHA-256 over names, shapes and dtypes, in order: equal for models that can be averaged tensor by tensor."""
        text = json.dumps([[tensor.name, tensor.shape, tensor.dtype] for tensor in self.tensors])
        return hashlib.sha256(text.encode()).hexdigest()
