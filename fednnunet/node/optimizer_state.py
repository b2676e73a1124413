"""The optimizer's momentum as tensors that can be averaged among sites, like weights.

A site that keeps its momentum continues in its own direction after every averaging. Yu et al., *On the Linear Speedup
Analysis of Communication Efficient Momentum SGD for Distributed Non-Convex Optimization*, ICML 2019, average it with
the weights (algorithm 2).
"""

import inspect
import logging

import torch

from fednnunet.weights.layout import state_name
from fednnunet.weights.packing import bare

logger = logging.getLogger(__name__)

_FIRST_MOMENTS = ("momentum_buffer", "exp_avg")
"""Names of the mean of past gradients in torch's optimizers; means of squares only scale the steps."""


class OptimizerState:
    """First moments of an optimizer, under the names of the parameters that they belong to.

    nnU-Net's SGD has ``momentum_buffer``, Adam and AdamW have ``exp_avg``. Second moments stay as they are.

    Parameters
    ----------
    network
        The network that is trained.
    optimizer
        The optimizer that trains it.
    """

    def __init__(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        names = {id(parameter): bare(name) for name, parameter in network.named_parameters()}
        self._parameters = [
            (names[id(parameter)], parameter, kept)
            for group in optimizer.param_groups
            for kept in [_kept_by(optimizer, group)]
            for parameter in group["params"]
            if id(parameter) in names and parameter.requires_grad and kept
        ]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The live tensors, by the name that `state_name` gives them; zeros where nothing was trained yet."""
        self._begin()
        return {
            state_name(name, key): self._optimizer.state[parameter][key]
            for name, parameter, kept in self._parameters
            for key in _moments(kept)
        }

    def forget(self) -> None:
        """Reset the optimizer to its state before the first step."""
        self._optimizer.state.clear()

    def set_steps(self, steps: int) -> None:
        """Let the optimizer count from `steps`, by which Adam corrects averages that began with zeros."""
        self._begin()
        for state in self._optimizer.state.values():
            if isinstance(state.get("step"), torch.Tensor):
                state["step"].fill_(steps)

    def _begin(self) -> None:
        """Create each parameter's state as in the optimizer's first step."""
        for _, parameter, kept in self._parameters:
            state = self._optimizer.state[parameter]
            for key, value in kept.items():
                if state.get(key) is None:
                    state[key] = torch.zeros_like(parameter) if value.shape == _PROBE else value.clone()


_PROBE = torch.Size((2, 3))


def _kept_by(optimizer: torch.optim.Optimizer, group: dict[str, object]) -> dict[str, torch.Tensor]:
    """Return an optimizer's initial state of a parameter of shape `_PROBE`."""
    kind = type(optimizer)
    settings = {name: value for name, value in group.items() if name in inspect.signature(kind).parameters}
    settings.pop("params", None)
    parameter = torch.nn.Parameter(torch.zeros(_PROBE))
    parameter.grad = torch.zeros(_PROBE)
    try:
        probe = kind([parameter], **settings)  # type: ignore[arg-type]
        probe.step()
    except Exception as error:  # an optimizer of somebody's own may need anything
        logger.warning("The state of the optimizer %s stays at this site (%s).", kind.__name__, error)
        return {}
    return {
        key: torch.zeros_like(value) for key, value in probe.state[parameter].items() if isinstance(value, torch.Tensor)
    }


def _moments(kept: dict[str, torch.Tensor]) -> list[str]:
    return [key for key in _FIRST_MOMENTS if key in kept]
