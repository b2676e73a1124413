"""What nnU-Net's own loggers need of a node that trains several folds in one process."""

import sys
import types

import pytest

from fednnunet.node.rounds import FederatedRounds


class Rounds(FederatedRounds):
    """A fold's training that has nothing to free."""

    def __init__(self) -> None:
        import torch

        self._device = torch.device("cpu")
        self._trainer = None


@pytest.mark.parametrize("run", [None, "a run"])
def test_the_wandb_run_of_a_fold_ends_with_it_so_the_next_fold_has_its_own(
    run: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = []
    module = types.SimpleNamespace(run=run, finish=lambda: finished.append(run))
    monkeypatch.setitem(sys.modules, "wandb", module)
    Rounds().close()
    assert finished == ([run] if run else [])


def test_a_wandb_run_that_cannot_be_ended_does_not_end_the_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(run="a run", finish=fail))
    Rounds().close()
    assert "no route to host" in caplog.text
