"""Copies weights between live models and flat buffers.

A state dict lists one storage under several names (``encoder.*`` again as ``decoder.encoder.*``, ``all_modules``):
a layout has each storage once, under the first of its names.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, Listing, TensorSpec

_NORMALIZATION = (
    torch.nn.modules.batchnorm._NormBase,  # batch and instance normalization of any dimension
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
)
_NAMED_AS_NORMALIZATION = re.compile(r"[Nn]orm([123][dD])?$")

_WRAPPER_PREFIXES = ("_orig_mod.", "module.")
"""Prefixes of names added by ``torch.compile`` and DistributedDataParallel."""


def layout_of(state: Mapping[str, torch.Tensor]) -> Layout:
    """Return the layout of a state dict, whether or not the model is compiled or wrapped."""
    return Layout(tuple(_spec(name, tensor) for name, tensor in _distinct_tensors(state)))


def normalization_in(network: torch.nn.Module) -> list[str]:
    """Return the names of those tensors of a network's layout that belong to layers of normalization, in its order.

    Layers are known by their class, not by the names of their tensors, which are those of whoever wrote the network:
    torch's own classes, and others whose name ends like theirs (``LayerNorm2d``). What such a layer consists of in turn
    does not count, for a block of convolution and normalization may be called a norm, too.
    """
    own = {
        _place(tensor)
        for module in network.modules()
        if isinstance(module, _NORMALIZATION) or _NAMED_AS_NORMALIZATION.search(type(module).__name__)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
    }
    return [name for name, tensor in _distinct_tensors(network.state_dict()) if _place(tensor) in own]


def listing_of(state: Mapping[str, torch.Tensor]) -> list[Listing | TensorSpec]:
    """Return the entries of a state dict, in order: a name of a tensor of the layout, or a buffer of another type.

    Names are free of what wrappers put before them, as in `layout_of`.
    """
    own = {name: Listing(name, tensor) for name, tensor, _ in _floating(state)}
    return [own.get(bare(name)) or _spec(bare(name), tensor) for name, tensor in state.items()]


def state_dict_of(flat: np.ndarray, layout: Layout, listing: Sequence[Listing | TensorSpec]) -> dict[str, torch.Tensor]:
    """Return the state dict of a packed model, as `listing_of` has described that of the live one.

    Parameters
    ----------
    flat
        Shape ``(layout.size,)``, float32; it is copied.
    layout
        The layout that `flat` was packed with.
    listing
        The entries. Those of one tensor share its storage; buffers are not packed, and become zeros.
    """
    source = torch.from_numpy(flat)
    tensors, offset = {}, 0
    for spec in layout.tensors:
        part = source[offset : offset + spec.size].view(spec.shape)
        tensors[spec.name] = part.to(getattr(torch, spec.dtype), copy=True)
        offset += spec.size
    return {
        entry.name: tensors[entry.tensor]
        if isinstance(entry, Listing)
        else torch.zeros(entry.shape, dtype=getattr(torch, entry.dtype))
        for entry in listing
    }


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


def load_state(source: Mapping[str, torch.Tensor], state: Mapping[str, torch.Tensor]) -> None:
    """Copy a state dict into that of a live model, in place, whether or not either is of a compiled or wrapped one.

    Raises
    ------
    FednnUNetError
        If it is that of another network.
    """
    given = {bare(name): tensor for name, tensor in source.items()}
    if {bare(name): tensor.shape for name, tensor in state.items()} != {
        name: tensor.shape for name, tensor in given.items()
    }:
        raise FednnUNetError("the saved weights belong to another network")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(given[bare(name)])


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
    for name, first, tensor in _floating(state):
        if name == first:
            yield name, tensor


def _floating(state: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield name, first name of the same tensor, and tensor, for all that are of a floating-point type."""
    first: dict[object, str] = {}
    for name, tensor in state.items():
        if tensor.is_floating_point():
            identity = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
            own = bare(name)
            # tensors without elements have no storage by which to know them
            yield own, first.setdefault(identity, own) if tensor.numel() > 0 else own, tensor


def _place(tensor: torch.Tensor) -> object:
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset()


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def bare(name: str) -> str:
    """Return the name of a tensor without prefixes of wrappers."""
    while name.startswith(_WRAPPER_PREFIXES):
        name = name.partition(".")[2]
    return name
