import numpy as np
import pytest
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from torch import nn

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, Listing, TensorSpec
from fednnunet.weights.packing import layout_of, listing_of, normalization_in, pack, state_dict_of, unpack


class _SharedEncoder(nn.Module):
    """A network whose state dict lists its encoder twice, as nnU-Net's does, with integer buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.decoder = nn.Module()
        self.decoder.encoder = self.encoder
        self.decoder.head = nn.Conv2d(4, 2, 1)
        self.scale = nn.Parameter(torch.tensor(1.5))


def test_each_tensor_is_listed_once_and_integer_buffers_not_at_all() -> None:
    network = _SharedEncoder()
    layout = layout_of(network.state_dict())
    names = [tensor.name for tensor in layout.tensors]
    assert len(names) == len(set(names)) < len(network.state_dict())
    assert not any("num_batches_tracked" in name for name in names)
    floats = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    assert layout.size == sum(tensor.numel() for tensor in floats)


def test_a_packed_model_unpacks_into_another_model() -> None:
    torch.manual_seed(0)
    source, target = _SharedEncoder(), _SharedEncoder()
    layout = layout_of(source.state_dict())
    target.encoder[1].num_batches_tracked += 7
    unpack(pack(source.state_dict(), layout), layout, target.state_dict())
    for name, tensor in source.state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(tensor, target.state_dict()[name]), name
    assert target.encoder[1].num_batches_tracked == 7


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."])
def test_wrappers_do_not_show_in_the_layout(prefix: str) -> None:
    state = _SharedEncoder().state_dict()
    wrapped = {prefix + name: tensor for name, tensor in state.items()}
    assert layout_of(wrapped) == layout_of(state)
    layout = layout_of(state)
    np.testing.assert_array_equal(pack(wrapped, layout), pack(state, layout))


class LayerNorm2d(nn.Module):
    """A layer of somebody's own."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(3))


class _ConvDropoutNorm(nn.Module):
    """A block with a layer of each kind, as nnU-Net's are called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 3, 1)
        self.a = nn.InstanceNorm2d(3, affine=True)
        self.b = nn.GroupNorm(1, 3)
        self.c = nn.LayerNorm(3)
        self.d = LayerNorm2d()
        self.without = nn.InstanceNorm2d(3)
        self.all_modules = nn.Sequential(self.a)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))


def test_layers_of_normalization_are_known_by_class_under_the_names_of_the_layout() -> None:
    network = _ConvDropoutNorm()
    expected = ["a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias", "d.gamma"]
    assert normalization_in(network) == expected
    wrapped = nn.Module()
    wrapped._orig_mod = network  # as torch.compile names it
    assert normalization_in(wrapped) == expected
    batches = normalization_in(_SharedEncoder())
    assert batches == [f"encoder.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")]


def test_a_half_precision_model_travels_without_loss() -> None:
    network = nn.Linear(3, 5).to(torch.bfloat16)
    layout = layout_of(network.state_dict())
    before = network.weight.detach().clone()
    flat = pack(network.state_dict(), layout)
    nn.init.zeros_(network.weight)
    unpack(flat, layout, network.state_dict())
    assert flat.dtype == np.float32
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("damage", [np.float64, "short"])
def test_a_buffer_of_another_length_or_dtype_is_refused(damage: object) -> None:
    network = nn.Linear(2, 2)
    layout = layout_of(network.state_dict())
    flat = pack(network.state_dict(), layout)
    wrong = flat[:-1] if damage == "short" else flat.astype(np.float64)
    with pytest.raises(FednnUNetError, match="6 float32 values"):
        unpack(wrong, layout, network.state_dict())


def test_a_read_only_buffer_can_be_unpacked() -> None:
    network = nn.Linear(2, 2)
    layout = layout_of(network.state_dict())
    flat = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), dtype=np.float32)
    unpack(flat, layout, network.state_dict())
    assert network.bias.tolist() == [4.0, 5.0]


def test_digest_tells_layouts_apart() -> None:
    digests = {layout_of(nn.Linear(*shape).state_dict()).digest for shape in [(2, 3), (3, 2), (2, 3)]}
    assert len(digests) == 2


def _network(kind: str, dimensions: int, norm: str = "instancenorm.InstanceNorm") -> nn.Module:
    """Build a six-stage network as nnU-Net builds it from plans, with the widths of its stock planners."""
    widest, stages = (320 if dimensions == 3 else 512), 6
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [min(widest, 32 * 2**stage) for stage in range(stages)],
        "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
        "kernel_sizes": [[3] * dimensions] * stages,
        "strides": [[1] * dimensions] + [[2] * dimensions] * (stages - 1),
        "n_conv_per_stage_decoder": [2 if kind == "PlainConvUNet" else 1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.{norm}{dimensions}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    if kind == "PlainConvUNet":
        kwargs["n_conv_per_stage"] = [2] * stages
    else:
        kwargs["n_blocks_per_stage"] = [1, 3, 4, 6, 6, 6]
    return get_network_from_plans(
        f"dynamic_network_architectures.architectures.unet.{kind}",
        kwargs,
        ("conv_op", "norm_op", "dropout_op", "nonlin"),
        input_channels=1,
        output_channels=3,
        deep_supervision=True,
    )


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
@pytest.mark.parametrize("variant", ["plain", "compiled", "batch norm"])
def test_every_stock_network_survives_the_journey(kind: str, dimensions: int, variant: str) -> None:
    network = _network(kind, dimensions, *(["batchnorm.BatchNorm"] if variant == "batch norm" else []))
    live = torch.compile(network) if variant == "compiled" else network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    layout = layout_of(live.state_dict())
    # parameters() and buffers() list shared ones once
    floats = [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]
    assert layout.size == sum(tensor.numel() for tensor in floats)
    if (kind, dimensions, variant) == ("PlainConvUNet", 3, "plain"):
        assert round(layout.size / 1e6, 1) == 31.2
        assert sum(tensor.numel() for tensor in before.values()) / layout.size > 2.8
    assert layout == layout_of(network.state_dict())
    flat = pack(live.state_dict(), layout)
    with torch.no_grad():
        for tensor in floats:
            tensor.zero_()
    unpack(flat, layout, live.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_some_of_a_models_tensors_can_be_replaced() -> None:
    network = _SharedEncoder()
    layout = layout_of(network.state_dict())
    some = Layout(layout.tensors[2:4])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    unpack(pack(network.state_dict(), some) + 1, some, network.state_dict())
    changed = {spec.name for spec in some.tensors}
    for spec in layout.tensors:
        expected = before[spec.name] + (spec.name in changed)
        assert torch.equal(network.state_dict()[spec.name], expected), spec.name


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_state_dict_comes_back_from_its_packed_tensors_and_its_listing(prefix: str) -> None:
    state = _SharedEncoder().to(torch.bfloat16).state_dict()
    layout, wrapped = layout_of(state), {prefix + name: tensor for name, tensor in state.items()}
    listing = listing_of(wrapped)
    assert Listing("decoder.encoder.0.weight", "encoder.0.weight") in listing
    assert TensorSpec("decoder.encoder.1.num_batches_tracked", (), "int64") in listing
    flat = pack(state, layout)
    again = state_dict_of(flat, layout, listing)
    flat[:] = 0  # which the tensors do not depend on any more
    assert list(again) == list(state)
    for name, tensor in state.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor), name
    assert again["decoder.encoder.0.weight"].data_ptr() == again["encoder.0.weight"].data_ptr()
