"""What a node keeps of a training on disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.kept_states import KeptState, KeptStates


class _Logger:
    def __init__(self) -> None:
        self.log: dict[str, Any] = {}

    def load_checkpoint(self, log: dict[str, Any]) -> None:
        self.log = log


class _Trainer:
    """As much of nnU-Net's trainer as a state needs: its checkpoints hold one number."""

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.current_epoch = weight
        self.logger = _Logger()

    def save_checkpoint(self, filename: str) -> None:
        Path(filename).write_text(json.dumps({"weight": self.weight, "epoch": self.current_epoch + 1}))

    def load_checkpoint(self, filename: str) -> None:
        content = json.loads(Path(filename).read_text())
        self.weight, self.current_epoch = content["weight"], content["epoch"]


def _keep(states: KeptStates, run: str, number: int, error: np.ndarray | None = None) -> None:
    states.keep_arrays(number, _Trainer(number), error)  # type: ignore[arg-type]
    states.keep_log(run, number, {"train_losses": [float("nan"), np.float32(number)]})


def _restore(states: KeptStates, run: str, number: int) -> tuple[_Trainer, bool, np.ndarray | None]:
    trainer = _Trainer(100)
    restored, error = states.restore(run, number, trainer)  # type: ignore[arg-type]
    return trainer, restored, error


def test_a_state_comes_back_with_its_log_its_rounding_error_and_the_epoch_still_open(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 4, np.array([0.5, -1], np.float32))
    trainer, restored, error = _restore(states, "a", 4)
    assert restored
    assert (trainer.weight, trainer.current_epoch) == (4, 4)
    np.testing.assert_array_equal(trainer.logger.log["train_losses"], [np.nan, 4])
    np.testing.assert_array_equal(error, np.array([0.5, -1], np.float32))


def test_only_the_last_two_states_are_kept_and_nothing_after_the_end(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    for number in (1, 2, 3, 10):
        _keep(states, "a", number, np.zeros(1, np.float32))
    assert states.all() == [KeptState("a", 3), KeptState("a", 10)]
    assert len(list((tmp_path / "federated").iterdir())) == 6
    states.clear()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("run", "number"), [("b", 4), ("a", 3)])
def test_a_state_of_another_training_or_round_is_not_taken(tmp_path: Path, run: str, number: int) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 4)
    trainer, restored, error = _restore(states, run, number)
    assert (trainer.weight, restored, error) == (100, False, None)


def test_states_from_after_the_round_to_which_the_coordinator_went_back_are_dropped(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 5)
    _keep(states, "a", 6, np.zeros(1, np.float32))
    trainer, restored, _ = _restore(states, "a", 5)
    assert (trainer.weight, restored, states.all()) == (5, True, [KeptState("a", 5)])
    _keep(states, "a", 6)  # of another course: without the rounding error of the first one
    assert _restore(states, "a", 6)[1:] == (True, None)
    trainer, restored, _ = _restore(states, "a", 2)  # of which nothing was kept
    assert (trainer.weight, restored, states.all()) == (100, False, [])
    _keep(states, "a", 3)  # and later ones do not push out what is kept of the new course
    assert states.all() == [KeptState("a", 3)]


def test_newer_states_of_another_training_are_left_alone(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "b", 6)
    _restore(states, "a", 2)
    assert states.all() == [KeptState("b", 6)]


@pytest.mark.parametrize("damaged", ["round_000004.pth", "round_000004.json"])
def test_a_damaged_state_is_not_taken(tmp_path: Path, damaged: str) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 4)
    path = tmp_path / "federated" / damaged
    path.write_bytes(path.read_bytes()[:-5])
    trainer, restored, _ = _restore(states, "a", 4)
    assert (trainer.weight, restored) == (100, False)


def test_arrays_without_a_log_are_no_state(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    states.keep_arrays(4, _Trainer(4), None)  # type: ignore[arg-type]
    assert states.all() == []


def test_what_another_training_has_left_is_only_overwritten_on_demand(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 4)
    states.begin("a", overwrite=False)
    with pytest.raises(FednnUNetError, match="round 4 of another training"):
        states.begin("b", overwrite=False)
    assert states.all() == [KeptState("a", 4)]
    states.begin("b", overwrite=True)
    assert states.all() == []


def test_a_finished_training_is_only_replaced_on_demand_and_then_by_that_one(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    (tmp_path / "checkpoint_final.pth").touch()  # stock nnU-Net's, for example
    with pytest.raises(FednnUNetError, match=r"finished.*--overwrite"):
        states.begin("a", overwrite=False)
    states.begin("a", overwrite=True)
    states.begin("a", overwrite=False)  # the node was started again
    states.clear()  # at the end; but it is started again, because the coordinator has not heard of that
    states.begin("a", overwrite=False)
    with pytest.raises(FednnUNetError, match="finished"):
        states.begin("b", overwrite=False)


def test_a_case_that_validates_after_it_has_trained_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def told(run: str, training: str, validation: str) -> str:
        caplog.clear()
        KeptStates(tmp_path).check_split(run, list(training), list(validation))
        return caplog.text

    assert told("a", "123", "45") == ""
    assert told("a", "123", "45") == ""
    assert told("a", "23", "4") == ""  # two were withdrawn
    assert "now, 1 have trained in this training before (1): " in told("a", "23", "14")
    assert "now, 3 have trained" in told("a", "45", "123")
    assert "now, 2 have trained in this training before (4 …)" in told("a", "123", "45")  # which have trained meanwhile
    assert told("b", "45", "123") == ""
    assert told("c", "123", "123") == ""  # fold all
    assert told("c", "123", "123") == ""


def test_what_is_in_the_way_of_states_that_are_removed_does_not_end_a_training(tmp_path: Path) -> None:
    states = KeptStates(tmp_path)
    _keep(states, "a", 1)
    (tmp_path / "federated" / "round_000001.pth").unlink()
    (tmp_path / "federated" / "round_000001.pth").mkdir()
    for number in (2, 3):
        _keep(states, "a", number)
    assert states.all() == [KeptState("a", 2), KeptState("a", 3)]
