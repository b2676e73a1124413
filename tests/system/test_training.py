"""Training through the real commands, against stock nnU-Net and against independent arithmetic."""

import json
import shutil
import signal

import numpy as np
import pytest
import torch

from fednnunet.report.event_files import EventReader
from fednnunet.report.events import RoundCompleted
from tests.system.conftest import SITES
from tests.system.workspace import Workspace, equal_weights, finish

pytestmark = pytest.mark.system

EXACT = ("--encoding", "float32")
SHORT = ("-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1)


def test_after_a_round_the_global_model_is_the_case_weighted_mean_of_the_updates(federation: Workspace) -> None:
    output = federation.succeed(
        "run", "train", "901 902 903", "2d", 0, *SHORT, "--rounds", 1, "-tr", "RecordingTrainer", *EXACT
    )
    checkpoints = [federation.checkpoint(site, trainer="RecordingTrainer") for site in SITES]
    weights = [checkpoint["network_weights"] for checkpoint in checkpoints]
    assert equal_weights(weights[0], weights[1])
    assert equal_weights(weights[0], weights[2])

    cases = [len(federation.json(site, "splits_final.json")[0]["train"]) for site in SITES]
    assert cases == [9, 6, 4]
    folders = [federation.model_folder(site, trainer="RecordingTrainer") / "fold_0" for site in SITES]
    updates = [np.load(folder / "update_0.npz") for folder in folders]
    differing = 0
    for name, tensor in weights[0].items():
        by_site = [update[name].astype(np.float64) for update in updates]
        expected = sum(count * array for count, array in zip(cases, by_site, strict=True)) / sum(cases)
        np.testing.assert_array_equal(tensor.numpy(), expected.astype(np.float32))
        differing += not np.array_equal(by_site[0], by_site[1])
    assert differing > len(weights[0]) / 2

    for site in SITES:
        validation = federation.model_folder(site, trainer="RecordingTrainer") / "fold_0" / "validation"
        assert json.loads((validation / "summary.json").read_text())["foreground_mean"]["Dice"] >= 0
        assert site in output.split("Validation of fold 0")[1]


def test_one_site_trains_exactly_as_nnunet_does(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = Workspace(tmp_path_factory.mktemp("plain"))
    plain.preprocessed.mkdir()
    shutil.copytree(federation.preprocessed / SITES[1], plain.preprocessed / SITES[1])
    plain.nnunet("nnUNetv2_train", SITES[1], "2d", 0, "-tr", "SeededTrainer", "-device", "cpu")
    federation.succeed("run", "train", "902", "2d", 0, "-tr", "SeededTrainer", "-device", "cpu", *EXACT)
    ours = federation.checkpoint(SITES[1], trainer="SeededTrainer")
    stock = plain.checkpoint(SITES[1], trainer="SeededTrainer")
    assert equal_weights(ours["network_weights"], stock["network_weights"])
    assert ours["current_epoch"] == stock["current_epoch"] == 3
    for key in ("train_losses", "val_losses", "mean_fg_dice", "ema_fg_dice", "lrs"):
        assert ours["logging"][key] == stock["logging"][key], key
    for index, state in stock["optimizer_state"]["state"].items():
        assert torch.equal(state["momentum_buffer"], ours["optimizer_state"]["state"][index]["momentum_buffer"])
    summaries = [
        json.loads(
            (workspace.model_folder(SITES[1], trainer="SeededTrainer") / "fold_0/validation/summary.json").read_text()
        )
        for workspace in (federation, plain)
    ]
    assert summaries[0]["mean"] == summaries[1]["mean"]


def test_local_epochs_stretch_the_schedule_and_every_site_predicts_the_same(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    events_file = tmp_path_factory.mktemp("events") / "events.jsonl"
    federation.succeed(
        "run", "train", "901 902 903", "2d", 1, *SHORT, "--rounds", 2, "--local_epochs", 2,
        "--progress_file", events_file,
    )  # fmt: skip
    for site in SITES:
        checkpoint = federation.checkpoint(site, fold=1)
        assert checkpoint["current_epoch"] == 4
        # nnU-Net's polynomial decay over the four epochs of the whole federation
        expected = [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)]
        np.testing.assert_allclose(checkpoint["logging"]["lrs"], expected, rtol=1e-12)
    rounds = [event for event in EventReader(events_file).new_events() if isinstance(event, RoundCompleted)]
    assert [(event.round, event.rounds) for event in rounds] == [(1, 2), (2, 2)]
    assert list(rounds[0].sites) == list(SITES)

    images = federation.raw / SITES[0] / "imagesTs"
    predictions = []
    for site in SITES:
        output = federation.folder / f"prediction of {site}"
        federation.nnunet("nnUNetv2_predict", "-i", images, "-o", output, "-d", site, "-c", "2d", "-f", 1,
                          "-device", "cpu", "-npp", 1, "-nps", 1)  # fmt: skip
        (segmentation,) = output.glob("*.nii.gz")
        predictions.append(segmentation.read_bytes())
    assert predictions[0] == predictions[1] == predictions[2]


def test_a_site_that_fails_ends_the_federation_with_the_kind_of_its_error(federation: Workspace) -> None:
    status, output = federation.call(
        "run", "train", "901 902 903", "2d", 2, *SHORT, "--rounds", 3, "-tr", "FailingTrainer"
    )
    assert status == 1
    # an unexpected error may name anything: the node says all, the coordinator hears of what kind it is
    assert "without site Dataset902_HospitalB: RuntimeError, see the node's own output" in output
    assert "Error: RuntimeError: the augmentation ran out of memory" in output
    assert "round 1/3" in output
    assert "round 2/3" not in output


def test_all_five_folds_are_trained_one_after_the_other_and_fold_all_on_every_case(federation: Workspace) -> None:
    output = federation.succeed("run", "train", "903", "2d", "all", *SHORT, "--rounds", 1)
    for fold in range(5):
        assert federation.checkpoint(SITES[2], fold=fold)["current_epoch"] == 1
        assert f"Validation of fold {fold}" in output
    pretrained = federation.model_folder(SITES[2]) / "fold_4" / "checkpoint_final.pth"
    federation.succeed(
        "run", "train", "903", "2d", "fold_all", *SHORT, "--rounds", 1, "-pretrained_weights", pretrained
    )
    name = "encoder.stages.1.0.convs.0.conv.weight"
    start, end = (federation.checkpoint(SITES[2], fold=fold)["network_weights"][name] for fold in (4, "all"))
    # one iteration does not lead far away; from another random initialisation it would be about 1.4
    assert 0 < torch.linalg.vector_norm(end - start) / torch.linalg.vector_norm(start) < 0.5
    validated = federation.model_folder(SITES[2]) / "fold_all" / "validation"
    assert len(list(validated.glob("*.nii.gz"))) == 5


def test_an_interrupted_training_leaves_no_process_and_continues(federation: Workspace) -> None:
    words = ("train", "901 902", "2d", 3, *SHORT, "-tr", "RepeatableTrainer", "--rounds", 7)
    process = federation.start("run", *words)
    assert process.stdout is not None
    for line in process.stdout:
        if "round 4/" in line:
            break
    process.send_signal(signal.SIGINT)
    status, _ = finish(process)
    assert status == 130
    assert not _processes_with(str(federation.folder))

    status, output = federation.call("run", *words)
    assert status == 1
    assert "holds a training that is not finished" in output
    assert "--c, or give --overwrite" in output

    output = federation.succeed("run", *words, "--c")
    assert "round 7/7" in output
    assert "round 4/7" not in output
    for site in SITES[:2]:
        checkpoint = federation.checkpoint(site, fold=3, trainer="RepeatableTrainer")
        log = checkpoint["logging"]
        assert {name: len(values) for name, values in log.items()} == dict.fromkeys(log, 7)
        assert np.isfinite(log["train_losses"]).all()
        assert checkpoint["current_epoch"] == 7


def _processes_with(folder: str) -> list[str]:
    """Return the processes that carry the workspace in their environment: those that our commands started."""
    from pathlib import Path

    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if folder.encode() in environment.read_bytes():
                found.append(environment.parent.joinpath("cmdline").read_bytes().decode())
        except OSError:
            continue
    return found
