"""Estimates the cost of plans at a site, before anything is allocated for them.

The sender of plans chooses the sizes of patches, networks and resampled images. Those chosen by planners fit into a
GPU; other valid plans may exceed any machine. The estimates follow the networks of ``dynamic_network_architectures``
stage by stage (`PlainConvUNet`, `ResidualEncoderUNet`, `Primus`) and nnU-Net's ``compute_new_shape``; the limits are
far above the memory of today's largest GPUs, and finite.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

MOST_PARAMETERS = 1 << 32
"""Of a network; nnU-Net's largest have some 10⁸."""
MOST_ACTIVATIONS = 1 << 38
"""Numbers that the layers of a network hold of one batch; 80 GiB of GPU memory hold some 4 · 10¹⁰."""
MOST_VOXELS = 1 << 32
"""Voxels, in all channels, of a resampled image, unless the site's own images are as large."""

_MOST_ARGUMENT = 10_000
"""Any number of an architecture whose cost is not estimated."""
_MOST_OF_LAYER = 256
"""Any whole number among the arguments of a layer."""
_MOST_THREADS = 256
_MOST_LAYERS = 2000

_SIZES_OF_UNET = (
    *("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_conv_per_stage_decoder"),
    "n_blocks_per_stage",
)
_GROWTH = 4
"""A resampled image may be this many times as large as the site's largest, even beyond `MOST_VOXELS`."""


def network_finding(configuration: Mapping[str, Any]) -> str | None:
    """Return which keys of a configuration, resolved and well-formed, make its network too large; ``None`` if none do.

    Parameters
    ----------
    configuration
        With ``architecture``, or with the keys that plans had before nnU-Net 2.3.
    """
    architecture = configuration.get("architecture")
    arguments = _former(configuration) if architecture is None else architecture["arch_kwargs"]
    where = "" if architecture is None else "architecture.arch_kwargs."
    for name, value in arguments.items():
        most = _MOST_OF_LAYER if isinstance(value, dict) else _MOST_ARGUMENT
        if name not in _SIZES_OF_UNET and (found := [number for number in _numbers(value) if number > most]):
            return f"{where}{name} has {found[0]:g}, above the limit of {most}"
    return _unet_finding(arguments, configuration, where) or _transformer_finding(arguments, configuration, where)


def threads_finding(configuration: Mapping[str, Any]) -> str | None:
    """Return which arguments of a configuration's functions that resample are beyond belief: threads, mostly."""
    for what in ("data", "seg", "probabilities"):
        key = f"resampling_fn_{what}_kwargs"
        for name, value in configuration[key].items():
            if found := [number for number in _numbers(value) if number > _MOST_THREADS]:
                return f"{key}.{name} is {found[0]:g}, above the limit of {_MOST_THREADS}"
    return None


def resampling_finding(
    configuration: Mapping[str, Any], transpose: Sequence[int], spacings: np.ndarray, shapes: np.ndarray
) -> str | None:
    """Return how a configuration's spacing makes too many voxels of a site's cases; ``None`` if it does not.

    Parameters
    ----------
    configuration
        Resolved and well-formed.
    transpose
        ``transpose_forward`` of the plans.
    spacings, shapes
        Of the site's cases: shape ``(cases, 3)``, mm and voxels, as read.
    """
    channels = len(configuration["normalization_schemes"])
    spacing = spacings.astype(np.float64)[:, list(transpose)]
    shape = shapes.astype(np.float64)[:, list(transpose)]
    target = np.array(configuration["spacing"], np.float64)
    axes = slice(3 - len(target), None)  # of slices the first axis stays
    with np.errstate(all="ignore"):
        shape_after = shape.copy()
        shape_after[:, axes] = np.maximum(1, np.rint(spacing[:, axes] / target * shape[:, axes]))
        voxels, before = channels * shape_after.prod(1).max(), channels * shape.prod(1).max()
    most = max(MOST_VOXELS, _GROWTH * before)
    if voxels <= most:
        return None
    return (
        f"spacing {configuration['spacing']} makes an image of {voxels:.1e} voxels of this site's cases, above "
        f"the limit of {most:.1e}"
    )


def _unet_finding(arguments: Mapping[str, Any], configuration: Mapping[str, Any], where: str) -> str | None:
    """Return the reason why a U-Net is too large, estimated from its convolutions."""
    stages = int(arguments.get("n_stages", 1))
    features = _per_stage(arguments.get("features_per_stage"), stages)
    kernels = _per_stage(arguments.get("kernel_sizes"), stages, len(configuration["patch_size"]))
    strides = _per_stage(arguments.get("strides"), stages, len(configuration["patch_size"]))
    name = "n_blocks_per_stage" if "n_blocks_per_stage" in arguments else "n_conv_per_stage"
    layers = [
        down + up
        for down, up in zip(
            _per_stage(arguments.get(name), stages),
            _per_stage(arguments.get("n_conv_per_stage_decoder"), stages),
            strict=True,
        )
    ]
    if sum(layers) > _MOST_LAYERS:
        total = f"{sum(layers):g} layers in all, above the limit of {_MOST_LAYERS}"
        return f"{where}{name} and {where}n_conv_per_stage_decoder make {total}"
    parameters, activations, voxels = 0.0, 0.0, float(math.prod(configuration["patch_size"]))
    for stage, (feature, kernel, stride, layer) in enumerate(zip(features, kernels, strides, layers, strict=True)):
        neighbour = max(features[max(0, stage - 1) : stage + 2])
        voxels = max(1.0, voxels / stride)
        parameters += layer * feature * neighbour * kernel
        activations += layer * feature * voxels * configuration["batch_size"]
        sizes = (
            f"in stage {stage + 1}, with {where}features_per_stage {feature:g} and {where}{name}, in both directions, "
            f"of {layer:g}"
        )
        if parameters > MOST_PARAMETERS:
            return (
                f"{where}kernel_sizes of {kernel:g} {sizes} make a network of {parameters:.1e} parameters, above "
                f"the limit of {MOST_PARAMETERS:.1e}"
            )
        if activations > MOST_ACTIVATIONS:
            return (
                f"patch_size {configuration['patch_size']} with batch_size {configuration['batch_size']} {sizes} makes "
                f"layers of {activations:.1e} numbers, above the limit of {MOST_ACTIVATIONS:.1e}"
            )
    return None


def _transformer_finding(arguments: Mapping[str, Any], configuration: Mapping[str, Any], where: str) -> str | None:
    """Return the reason why a transformer is too large, estimated from attention and perceptrons."""
    defaults = {"embed_dim": 1, "eva_depth": 24, "mlp_ratio": 8 / 3}
    width, depth, ratio = (max([1.0, *_numbers(arguments.get(name, default))]) for name, default in defaults.items())
    parameters = depth * width**2 * (4 + 3 * ratio)
    if "embed_dim" in arguments and parameters > MOST_PARAMETERS:
        return (
            f"{where}embed_dim {width:g} with {where}eva_depth {depth:g} makes a network of {parameters:.1e} "
            f"parameters, above the limit of {MOST_PARAMETERS:.1e}"
        )
    tokens = math.prod(configuration["patch_size"]) / max(1.0, math.prod(_numbers(arguments.get("patch_embed_size"))))
    activations = tokens * width * depth * configuration["batch_size"]
    if "embed_dim" in arguments and activations > MOST_ACTIVATIONS:
        return (
            f"patch_size {configuration['patch_size']} with batch_size {configuration['batch_size']}, {where}embed_dim "
            f"{width:g} and {where}eva_depth {depth:g} makes layers of {activations:.1e} numbers, above the "
            f"limit of {MOST_ACTIVATIONS:.1e}"
        )
    return None


def _former(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Return the network of plans before nnU-Net 2.3, with today's names."""
    stages = max(1, len(configuration["conv_kernel_sizes"]))
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "n_stages": stages,
        "features_per_stage": [min(base * 2**stage, most) for stage in range(stages)],
        "kernel_sizes": configuration["conv_kernel_sizes"],
        "strides": configuration["pool_op_kernel_sizes"],
        "n_conv_per_stage": configuration["n_conv_per_stage_encoder"],
        "n_conv_per_stage_decoder": configuration["n_conv_per_stage_decoder"],
    }


def _per_stage(value: Any, stages: int, axes: int = 1) -> list[float]:
    """Return one number per stage: the product over axes; one value may apply to all stages; 1 if missing."""
    if not isinstance(value, list):
        value = [value] * stages
    sizes = []
    for part in value[:stages]:
        numbers = list(_numbers(part))
        sizes.append(math.prod(numbers) if len(numbers) != 1 else numbers[0] ** axes)
    return [max(1.0, float(size)) for size in sizes] + [1.0] * (stages - len(sizes))


def _numbers(value: Any) -> Iterator[float]:
    """Yield the numbers in a value of JSON, as their amounts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield abs(float(value))
