"""What other programs are told of a training: by nnU-Net's own logger at the node, and by the coordinator."""

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fednnunet.events.event_files import EVENTS, EventReader
from fednnunet.events.events import Finished, FoldValidated, RoundCompleted
from tests.system.conftest import SITES
from tests.system.test_training import SHORT
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system


def _wandb_runs(folder: Path) -> set[str]:
    """Return the ids of the offline runs in a folder."""
    return {path.stem for path in folder.glob("wandb/offline-run-*/*.wandb")}


def _content(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.glob("wandb/offline-run-*/*.wandb"))


def test_nnunets_own_wandb_logger_works_at_the_node_and_the_coordinators_trackers_have_each_round_once(
    federation: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    for name, value in {
        "nnUNet_wandb_enabled": "1",
        "nnUNet_wandb_mode": "offline",
        "WANDB_MODE": "offline",
        "WANDB_CONFIG_DIR": str(tmp_path / "config"),
        "WANDB_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    words = ("run", "train", "903", "2d", 4, *SHORT, "--rounds", 2, "-tr", "RepeatableTrainer", "--overwrite")
    output = federation.succeed(*words, "--wandb", "--run_dir", tmp_path / "run", "--quiet")
    assert "Validation of fold 4: Dice" in output
    assert "round 1/2" not in output
    assert "Epoch 1" not in output
    folder = federation.model_folder(SITES[2], trainer="RepeatableTrainer") / "fold_4"
    (run,) = _wandb_runs(folder)
    for name in (b"train_losses", b"val_losses", b"mean_fg_dice", b"final_val/foreground_dice"):
        assert name in _content(folder)
    assert len(_wandb_runs(tmp_path / "run") - {run}) == 1
    assert b"pseudo_dice/Dataset903_HospitalC" in _content(tmp_path / "run")
    reader = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "fold_4"))
    reader.Reload()
    assert [item.step for item in reader.Scalars("train_loss/Dataset903_HospitalC")] == [1, 2]
    events = list(EventReader(tmp_path / "run" / EVENTS).new_events())
    rounds = [event for event in events if isinstance(event, RoundCompleted)]
    assert len(rounds) == 2
    assert sum(isinstance(event, FoldValidated) for event in events) == 1
    assert isinstance(events[-1], Finished)
    for event in rounds:
        assert event.timing is not None
        assert set(event.timing.training) == set(event.timing.validating) == set(event.traffic) == {SITES[2]}
        spent = event.timing.training[SITES[2]] + event.timing.validating[SITES[2]]
        assert 0 < spent + event.timing.moving + event.timing.averaging <= event.seconds
