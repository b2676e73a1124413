import numpy as np
import pytest
import torch

from fednnunet.weights.server_optimizers import server_optimizer

DIFFERENCES = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)


def _run(name: str, learning_rate: float | None, *parts: slice) -> np.ndarray:
    """Return the sum of all changes after five rounds, made part by part."""
    optimizer = server_optimizer(name, 6, learning_rate)  # type: ignore[arg-type]
    assert optimizer is not None
    model = np.zeros(6, np.float32)
    for difference in DIFFERENCES:
        for part in parts:
            model[part] += optimizer.step(part, difference[part])
    return model


def test_momentum_is_that_of_torch_with_the_negative_difference_as_gradient() -> None:
    parameter = torch.nn.Parameter(torch.zeros(6))
    reference = torch.optim.SGD([parameter], lr=0.5, momentum=0.9)
    for difference in DIFFERENCES:
        parameter.grad = -torch.from_numpy(difference)
        reference.step()
    np.testing.assert_allclose(_run("momentum", 0.5, slice(0, 6)), parameter.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "yogi"])
def test_adaptive_rules_are_the_papers_in_float64(name: str) -> None:
    model = np.zeros(6)
    mean, square = np.zeros(6), np.full(6, 1e-3**2)
    for difference in DIFFERENCES.astype(np.float64):
        mean = 0.9 * mean + 0.1 * difference
        if name == "adam":
            square = 0.99 * square + 0.01 * difference**2
        else:
            square = square - 0.01 * difference**2 * np.sign(square - difference**2)
        model += 0.01 * mean / (np.sqrt(square) + 1e-3)
    np.testing.assert_allclose(_run(name, None, slice(0, 6)), model, rtol=1e-4)


@pytest.mark.parametrize("name", ["momentum", "adam", "yogi"])
def test_a_model_can_be_updated_in_parts(name: str) -> None:
    whole = _run(name, None, slice(0, 6))
    np.testing.assert_array_equal(_run(name, None, slice(0, 2), slice(2, 6)), whole)


def test_without_an_optimizer_there_is_none() -> None:
    assert server_optimizer("none", 6, None) is None
