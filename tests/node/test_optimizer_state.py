"""What an optimizer remembers can be taken out, averaged and put back, and changes nothing where it is alone."""

import copy
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from fednnunet.node.optimizer_state import OptimizerState
from fednnunet.weights.aggregation import weighted_mean
from fednnunet.weights.layout import Layout
from fednnunet.weights.packing import layout_of, pack, unpack

Make = Callable[[Sequence[torch.nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.01, momentum=0.99, nesterov=True, weight_decay=3e-5),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.01, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 0.01),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, 0.01, momentum=0.9),
    "SGD without momentum": lambda parameters: torch.optim.SGD(parameters, 0.01),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, 0.01),
}
FIRST_MOMENTS = {"SGD": "momentum_buffer", "Adam": "exp_avg", "AdamW": "exp_avg", "RMSprop": "momentum_buffer"}


def _network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))


def _train(network: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int, steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        network(torch.randn(8, 4, generator=generator)).pow(2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_first_moments_have_a_name_and_the_shape_of_each_parameter(name: str) -> None:
    network = _network()
    state = OptimizerState(network, OPTIMIZERS[name](list(network.parameters())))
    key = FIRST_MOMENTS.get(name)
    expected = {f"{weight}@{key}": value.shape for weight, value in network.named_parameters()} if key else {}
    assert {tensor: value.shape for tensor, value in state.tensors.items()} == expected
    layout = layout_of({**network.state_dict(), **state.tensors})
    assert [spec.name for spec in layout.tensors if spec.is_of_optimizer] == list(expected)
    assert {spec.weight for spec in layout.tensors} == set(network.state_dict())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_site_alone_trains_the_same_bits_with_it_as_without(name: str) -> None:
    plain, shared = _network(), _network()
    optimizers = [OPTIMIZERS[name](list(network.parameters())) for network in (plain, shared)]
    state = OptimizerState(shared, optimizers[1])
    for round_number in range(3):
        _train(plain, optimizers[0], round_number, 4)
        tensors = {**shared.state_dict(), **state.tensors}
        unpack(pack(tensors, layout_of(tensors)), layout_of(tensors), tensors)
        _train(shared, optimizers[1], round_number, 4)
    for one, other in zip(plain.parameters(), shared.parameters(), strict=True):
        assert torch.equal(one, other)


def test_two_sites_average_momentum_as_yu_and_others_write_it() -> None:
    """Algorithm 2 of Yu et al. 2019 on two quadratics, w**2 / 2 * c - b * w, in numpy beside torch."""
    curvature, shift = [np.float64(1.0), np.float64(3.0)], [np.array([1.0, -2.0]), np.array([0.5, 4.0])]
    networks = [torch.nn.ParameterList([torch.zeros(2, dtype=torch.float32)]) for _ in range(2)]
    optimizers = [torch.optim.SGD(network.parameters(), 0.05, momentum=0.9) for network in networks]
    states = [OptimizerState(*pair) for pair in zip(networks, optimizers, strict=True)]
    weight, momentum = np.zeros(2), np.zeros(2)
    for _ in range(5):
        ends = []
        for c, b in zip(curvature, shift, strict=True):
            w, m = weight, momentum
            for _ in range(3):
                m = 0.9 * m + c * w - b
                w = w - 0.05 * m
            ends.append((w, m))
        weight, momentum = (0.75 * first + 0.25 * second for first, second in zip(*ends, strict=True))

        layout = Layout(())
        for network, optimizer, c, b in zip(networks, optimizers, curvature, shift, strict=True):
            for _ in range(3):
                optimizer.zero_grad()
                (network[0].pow(2).sum() / 2 * float(c) - (torch.tensor(b).float() * network[0]).sum()).backward()
                optimizer.step()
        everything = [
            {**network.state_dict(), **state.tensors} for network, state in zip(networks, states, strict=True)
        ]
        layout = layout_of(everything[0])
        mean = weighted_mean([pack(tensors, layout) for tensors in everything], [3, 1])
        for tensors in everything:
            unpack(mean, layout, tensors)
        np.testing.assert_allclose(mean, [*weight, *momentum], rtol=1e-4)


def test_what_is_forgotten_is_what_a_new_optimizer_has() -> None:
    network, other = _network(), _network()
    optimizer = OPTIMIZERS["AdamW"](list(network.parameters()))
    state = OptimizerState(network, optimizer)
    _train(network, optimizer, 1, 3)
    other.load_state_dict(network.state_dict())
    state.forget()
    _train(network, optimizer, 2, 3)
    _train(other, OPTIMIZERS["AdamW"](list(other.parameters())), 2, 3)
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)


def test_a_new_process_that_is_given_the_moments_does_not_take_them_for_those_of_its_first_step() -> None:
    """Adam divides by 1 - beta1**step: the mean of many steps, taken for that of one, is a step ten times as large."""
    network = _network()
    optimizer = OPTIMIZERS["AdamW"](list(network.parameters()))
    _train(network, optimizer, 1, 30)
    layout = layout_of({**network.state_dict(), **OptimizerState(network, optimizer).tensors})
    sent = pack({**network.state_dict(), **OptimizerState(network, optimizer).tensors}, layout)

    back = copy.deepcopy(_network())
    fresh = OPTIMIZERS["AdamW"](list(back.parameters()))
    state = OptimizerState(back, fresh)
    state.set_steps(30)
    unpack(sent, layout, {**back.state_dict(), **state.tensors})
    assert [float(kept["step"]) for kept in fresh.state.values()] == [30.0] * 4
    assert torch.equal(
        fresh.state[next(back.parameters())]["exp_avg"], optimizer.state[next(network.parameters())]["exp_avg"]
    )


def test_an_optimizer_that_cannot_be_tried_keeps_what_it_remembers(caplog: pytest.LogCaptureFixture) -> None:
    class Own(torch.optim.SGD):
        def __init__(self, parameters: Sequence[torch.nn.Parameter], schedule: object) -> None:
            super().__init__(parameters, 0.1, momentum=0.9)

    network = _network()
    assert OptimizerState(network, Own(list(network.parameters()), None)).tensors == {}
    assert "stays at this site" in caplog.text
