import numpy as np
import pytest
import torch
from torch import nn

from fednnunet.errors import FednnUNetError
from fednnunet.weights.layout import Layout, pack, unpack


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
    layout = Layout.of(network.state_dict())
    names = [tensor.name for tensor in layout.tensors]
    assert len(names) == len(set(names)) < len(network.state_dict())
    assert not any("num_batches_tracked" in name for name in names)
    floats = [*network.parameters(), *(b for b in network.buffers() if b.is_floating_point())]
    assert layout.size == sum(tensor.numel() for tensor in floats)


def test_a_packed_model_unpacks_into_another_model() -> None:
    torch.manual_seed(0)
    source, target = _SharedEncoder(), _SharedEncoder()
    layout = Layout.of(source.state_dict())
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
    assert Layout.of(wrapped) == Layout.of(state)
    layout = Layout.of(state)
    np.testing.assert_array_equal(pack(wrapped, layout), pack(state, layout))


def test_a_half_precision_model_travels_without_loss() -> None:
    network = nn.Linear(3, 5).to(torch.bfloat16)
    layout = Layout.of(network.state_dict())
    before = network.weight.detach().clone()
    flat = pack(network.state_dict(), layout)
    nn.init.zeros_(network.weight)
    unpack(flat, layout, network.state_dict())
    assert flat.dtype == np.float32
    assert torch.equal(network.weight, before)


@pytest.mark.parametrize("damage", [np.float64, "short"])
def test_a_buffer_of_another_length_or_dtype_is_refused(damage: object) -> None:
    network = nn.Linear(2, 2)
    layout = Layout.of(network.state_dict())
    flat = pack(network.state_dict(), layout)
    wrong = flat[:-1] if damage == "short" else flat.astype(np.float64)
    with pytest.raises(FednnUNetError, match="6 float32 values"):
        unpack(wrong, layout, network.state_dict())


def test_a_read_only_buffer_can_be_unpacked() -> None:
    network = nn.Linear(2, 2)
    layout = Layout.of(network.state_dict())
    flat = np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), dtype=np.float32)
    unpack(flat, layout, network.state_dict())
    assert network.bias.tolist() == [4.0, 5.0]


def test_digest_tells_layouts_apart() -> None:
    digests = {Layout.of(nn.Linear(*shape).state_dict()).digest for shape in [(2, 3), (3, 2), (2, 3)]}
    assert len(digests) == 2
