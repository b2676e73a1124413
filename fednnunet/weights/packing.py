"""Between live models and flat buffers.

A state dict lists one storage under several names (``encoder.*`` again as ``decoder.encoder.*``, ``all_modules``):
a layout has each storage once, under the first of its names.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, TensorSpec

_WRAPPER_PREFIXES = ("_orig_mod.", "module.")
"""What ``torch.compile`` and DistributedDataParallel put before each name."""


def layout_of(state: Mapping[str, torch.Tensor]) -> Layout:
    """Return the layout of a state dict, whether or not the model is compiled or wrapped."""
    return Layout(
        tuple(
            TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in _distinct_tensors(state)
        )
    )


def pack(state: Mapping[str, torch.Tensor], layout: Layout) -> np.ndarray:
    """Copy the tensors of `layout`, which may be some of the model's, out of a state dict.

    Returns
    -------
    numpy.ndarray
        Shape ``(layout.size,)``, float32.
    """
    flat = np.empty(layout.size, dtype=np.float32)
    view = torch.from_numpy(flat)
    for tensor, part in _paired_with_parts(state, layout, view):
        part.copy_(tensor.detach())
    return flat


def unpack(flat: np.ndarray, layout: Layout, state: Mapping[str, torch.Tensor]) -> None:
    """Copy a packed model into the tensors of a state dict, in place.

    Parameters
    ----------
    flat
        Shape ``(layout.size,)``, float32.
    layout
        The layout that `flat` was packed with.
    state
        State dict of a live model that has these tensors, and may have others, which stay as they are.

    Raises
    ------
    FednnUNetError
        If `flat` has another length or dtype.
    """
    if flat.shape != (layout.size,) or flat.dtype != np.float32:
        raise FednnUNetError(
            f"A packed model of {layout.size} float32 values was expected, got {flat.dtype} of shape {flat.shape}."
        )
    source = torch.from_numpy(flat if flat.flags.writeable else flat.copy())
    with torch.no_grad():
        for tensor, part in _paired_with_parts(state, layout, source):
            tensor.copy_(part)


def _paired_with_parts(
    state: Mapping[str, torch.Tensor], layout: Layout, flat: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each tensor of `layout` in `state`, with its part of `flat` viewed in the tensor's shape."""
    tensors = dict(_distinct_tensors(state))
    offset = 0
    for spec in layout.tensors:
        yield tensors[spec.name], flat[offset : offset + spec.size].view(spec.shape)
        offset += spec.size


def _distinct_tensors(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each floating-point tensor once, under the first of its names, without the prefixes of wrappers."""
    seen = set()
    for name, tensor in state.items():
        identity = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if not tensor.is_floating_point() or (tensor.numel() > 0 and identity in seen):
            continue
        seen.add(identity)
        yield _bare(name), tensor


def _bare(name: str) -> str:
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.partition(".")[2]
    return name
