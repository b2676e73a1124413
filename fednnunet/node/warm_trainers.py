"""Shares one device among the trainers of several sites: those not at work wait in main memory."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

_MAIN_MEMORY = torch.device("cpu")


class Parkable(Protocol):
    """An object that occupies memory of a device while it is warm."""

    def park(self) -> None:
        """Leave the device, if present."""

    def wake(self) -> None:
        """Come back to the device, if it has left it."""


class WarmTrainers:
    """Those that are warm, the one that was used last at the end; one thread uses them.

    Parameters
    ----------
    places
        How many may be warm at a time.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._warm: list[Parkable] = []

    def use(self, trainer: Parkable) -> None:
        """Let one be warm, and park whoever was not used for longest if there are too many then."""
        self.forget(trainer)
        for other in self._warm[: max(0, len(self._warm) + 1 - self._places)]:
            other.park()
            self._warm.remove(other)
        trainer.wake()
        self._warm.append(trainer)

    def forget(self, trainer: Parkable) -> None:
        """Count one no more."""
        self._warm = [other for other in self._warm if other is not trainer]


class Parked:
    """Network and optimizer of a trainer, moved into main memory when this is made.

    Parameters
    ----------
    trainer
        The trainer; nothing is to be done with it before `return_to_device`.
    """

    def __init__(self, trainer: nnUNetTrainer) -> None:
        self._returns: list[Callable[[], None]] = []
        if trainer.network is not None and trainer.device.type != _MAIN_MEMORY.type:
            # in place: the optimizer, and whatever else has the parameters, keeps them
            trainer.network.to(_MAIN_MEMORY)
            self._returns.append(lambda: trainer.network.to(trainer.device))
        if trainer.optimizer is not None:
            for state in trainer.optimizer.state.values():
                for name, value in state.items():
                    if torch.is_tensor(value) and value.device.type != _MAIN_MEMORY.type:  # not Adam's counters
                        self._move(state, name, value)

    def return_to_device(self) -> None:
        """Move all back to where it was."""
        for give_back in self._returns:
            give_back()

    def _move(self, state: dict[str, Any], name: str, value: torch.Tensor) -> None:
        device = value.device
        state[name] = value.to(_MAIN_MEMORY)
        self._returns.append(lambda: state.update({name: state[name].to(device)}))
