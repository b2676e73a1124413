"""Trainers that share a device."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fednnunet.node.warm_trainers import Parked, WarmTrainers


class _Trainer:
    def __init__(self, name: str, warm: set[str]) -> None:
        self.name, self._all = name, warm
        self.moves = 0

    def park(self) -> None:
        assert self.name in self._all
        self._all.remove(self.name)

    def wake(self) -> None:
        self.moves += self.name not in self._all
        self._all.add(self.name)


def test_no_more_are_warm_than_there_are_places_and_who_waits_longest_leaves() -> None:
    warm: set[str] = set()
    a, b, c = (_Trainer(name, warm) for name in "abc")
    places = WarmTrainers(2)
    for used, expected in ((a, "a"), (b, "ab"), (a, "ab"), (c, "ac"), (c, "ac"), (b, "bc")):
        places.use(used)
        assert warm == set(expected)
    assert [a.moves, b.moves, c.moves] == [1, 2, 1]


def test_the_others_have_left_before_the_next_one_comes() -> None:
    most = 0
    warm: set[str] = set()

    class Counting(_Trainer):
        def wake(self) -> None:
            nonlocal most
            super().wake()
            most = max(most, len(warm))

    places = WarmTrainers(1)
    for trainer in [Counting(name, warm) for name in "abcab"]:
        places.use(trainer)
    assert most == 1


def test_who_is_forgotten_takes_no_place_and_is_left_alone() -> None:
    warm: set[str] = set()
    a, b = _Trainer("a", warm), _Trainer("b", warm)
    places = WarmTrainers(1)
    places.use(a)
    places.forget(a)
    places.use(b)
    assert warm == {"a", "b"}


def _trainer(device: str, optimizer: type[torch.optim.Optimizer]) -> Any:
    torch.manual_seed(3)
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3)).to(device)
    return SimpleNamespace(
        network=network, device=torch.device(device), optimizer=optimizer(network.parameters(), lr=0.1)
    )


def _step(trainer: Any) -> None:
    trainer.optimizer.zero_grad()
    trainer.network(torch.arange(8.0, device=trainer.device).reshape(2, 4)).square().sum().backward()
    trainer.optimizer.step()


def test_on_a_cpu_nothing_is_moved() -> None:
    trainer = _trainer("cpu", torch.optim.Adam)
    _step(trainer)
    before = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]
    parked = Parked(trainer)
    after = [tensor for state in trainer.optimizer.state.values() for tensor in state.values()]
    assert all(one is other for one, other in zip(before, after, strict=True))
    parked.return_to_device()
    _step(trainer)


class _Network:
    """Knows where it is."""

    def __init__(self) -> None:
        self.places: list[str] = []

    def to(self, device: torch.device) -> None:
        self.places.append(str(device))


class _OnDevice(torch.Tensor):
    """A tensor that claims to be where this machine has nothing."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda:0")

    def to(self, device: torch.device) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor) if device.type == "cpu" else self


def test_network_and_optimizer_leave_the_device_and_what_was_not_there_stays_where_it_is() -> None:
    network, step = _Network(), torch.tensor(7.0)
    state = {"exp_avg": torch.ones(3).as_subclass(_OnDevice), "step": step, "foreach": None}
    optimizer = SimpleNamespace(state={"weight": state})
    Parked(SimpleNamespace(network=network, device=torch.device("cuda:0"), optimizer=optimizer))
    assert network.places == ["cpu"]
    assert type(state["exp_avg"]) is torch.Tensor
    assert torch.equal(state["exp_avg"], torch.ones(3))
    assert state["step"] is step
    assert state["foreach"] is None


def test_network_returns_to_the_device_of_its_trainer() -> None:
    network = _Network()
    Parked(SimpleNamespace(network=network, device=torch.device("cuda:0"), optimizer=None)).return_to_device()
    assert network.places == ["cpu", "cuda:0"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop])
def test_parked_between_steps_a_trainer_ends_with_the_same_weights(optimizer: type[torch.optim.Optimizer]) -> None:
    undisturbed, parked = _trainer("cuda", optimizer), _trainer("cuda", optimizer)
    for _ in range(3):
        _step(undisturbed)
        _step(parked)
        place = Parked(parked)
        tensors = [*parked.network.state_dict().values(), *(p.grad for p in parked.network.parameters())]
        tensors += [value for state in parked.optimizer.state.values() for value in state.values()]
        assert {tensor.device.type for tensor in tensors} == {"cpu"}
        place.return_to_device()
    for name, weights in undisturbed.network.state_dict().items():
        assert torch.equal(weights, parked.network.state_dict()[name])
