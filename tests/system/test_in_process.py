"""Trainings in one process, through the real command."""

from dataclasses import replace

import pytest

from tests.system.conftest import SITES
from tests.system.workspace import Workspace, equal_weights

pytestmark = pytest.mark.system

SHORT = ("-device", "cpu", "--iterations_per_epoch", 2, "--val_iterations_per_epoch", 1)
UNSEEDED = "RecordingTrainer"


def _workspace(federation: Workspace, name: str) -> Workspace:
    workspace = replace(federation, results_name=f"results {name}")
    workspace.results.mkdir()
    return workspace


@pytest.fixture(scope="module")
def processes(federation: Workspace) -> Workspace:
    """Two sites after three rounds with a seed, each in a process of its own."""
    workspace = _workspace(federation, "of processes")
    workspace.succeed("run", *_seeded())
    return workspace


def _seeded() -> tuple[object, ...]:
    return ("train", "902 903", "2d", 0, *SHORT, "-tr", UNSEEDED, "--seed", 5, "--rounds", 3, "--encoding", "int8")


def test_with_a_seed_one_process_and_many_end_with_the_same_bits(federation: Workspace, processes: Workspace) -> None:
    one = _workspace(federation, "of one process")
    output = one.succeed("run", *_seeded(), "--in_process")
    assert "round 3/3" in output
    assert "This is the configuration used by this training" not in output  # nnU-Net's words are in the site's log
    for site in SITES[1:]:
        ours = one.checkpoint(site, trainer=UNSEEDED)
        theirs = processes.checkpoint(site, trainer=UNSEEDED)
        assert equal_weights(ours["network_weights"], theirs["network_weights"])
        for name in ("train_losses", "val_losses", "mean_fg_dice"):
            assert ours["logging"][name] == theirs["logging"][name], name
        folder = one.model_folder(site, trainer=UNSEEDED)
        assert (folder / "fold_0" / "validation" / "summary.json").is_file()
        assert list(folder.glob("fednnunet_audit*.jsonl"))
    (log,) = one.results.glob(f"fednnunet_runs/*_train/{SITES[1]}.log")
    assert "This is the configuration used by this training" in log.read_text()
    (run_dir,) = one.results.glob("fednnunet_runs/902+903__*")
    there = {path.name for path in run_dir.iterdir()}
    assert there >= {"events.jsonl", "report.html", "status.json", "tensorboard", "Dataset999_FedNNUNet.zip"}


def test_a_site_that_fails_ends_the_training_with_its_name_and_its_error(federation: Workspace) -> None:
    workspace = _workspace(federation, "of a failure")
    words = ("train", "901 902", "2d", 0, *SHORT, "--rounds", 3, "-tr", "FailingTrainer", "--in_process")
    status, output = workspace.call("run", *words)
    assert status == 1
    assert "round 1/3" in output
    assert "round 2/3" not in output
    assert f"Error: Site {SITES[1]} failed: RuntimeError: the augmentation ran out of memory. Without" in output
