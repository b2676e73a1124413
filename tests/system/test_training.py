"""Training through the real commands, against stock nnU-Net and against independent arithmetic."""

import json
import shutil
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import ModelExported, PlansAgreed, RoundCompleted
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


@pytest.fixture(scope="module")
def run_dir(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's folder of a training of fold 1 at three sites: two rounds of two epochs."""
    folder = tmp_path_factory.mktemp("run")
    federation.succeed(
        "run", "train", "901 902 903", "2d", 1, *SHORT, "--rounds", 2, "--local_epochs", 2,
        "--progress_file", folder / "events.jsonl", "--run_dir", folder, "--model_name", "Dataset777_Together",
    )  # fmt: skip
    return folder


def _predict(workspace: Workspace, images: Path, dataset: object, folds: tuple[int, ...], **variables: str) -> bytes:
    """Return nnU-Net's prediction of the only case there is."""
    output = workspace.folder / f"prediction of {images.parent.name} by {dataset} with {len(folds)}"
    workspace.nnunet("nnUNetv2_predict", "-i", images, "-o", output, "-d", dataset, "-c", "2d", "-f", *folds,
                     "-device", "cpu", "-npp", 0, "-nps", 0, **variables)  # fmt: skip
    (segmentation,) = output.glob("*.nii.gz")
    return segmentation.read_bytes()


def test_local_epochs_stretch_the_schedule_and_every_site_predicts_the_same(
    federation: Workspace, run_dir: Path
) -> None:
    for site in SITES:
        checkpoint = federation.checkpoint(site, fold=1)
        assert checkpoint["current_epoch"] == 4
        # nnU-Net's polynomial decay over the four epochs of the whole federation
        expected = [0.01 * (1 - epoch / 4) ** 0.9 for epoch in range(4)]
        np.testing.assert_allclose(checkpoint["logging"]["lrs"], expected, rtol=1e-12)
    rounds = [
        event for event in EventReader(run_dir / "events.jsonl").new_events() if isinstance(event, RoundCompleted)
    ]
    assert [(event.round, event.rounds) for event in rounds] == [(1, 2), (2, 2)]
    assert list(rounds[0].sites) == list(SITES)

    images = federation.raw / SITES[0] / "imagesTs"
    predictions = [_predict(federation, images, site, (1,)) for site in SITES]
    assert predictions[0] == predictions[1] == predictions[2]


def _install(archive: Path, folder: Path) -> Workspace:
    """Install a model with stock nnU-Net where nothing else is."""
    newcomer = Workspace(folder)
    for path in (newcomer.raw, newcomer.preprocessed, newcomer.results):
        path.mkdir()
    newcomer.nnunet("nnUNetv2_install_pretrained_model_from_zip", archive, **NO_TRAINERS)
    return newcomer


NO_TRAINERS = {"nnUNet_extTrainer": ""}


def test_who_never_took_part_installs_the_coordinators_model_and_predicts_what_the_sites_predict(
    federation: Workspace, run_dir: Path, tmp_path: Path
) -> None:
    archive = run_dir / "Dataset777_Together.zip"
    events = list(EventReader(run_dir / "events.jsonl").new_events())
    (exported,) = [event for event in events if isinstance(event, ModelExported)]
    assert (exported.archive, exported.folds) == (str(archive), ["1"])
    (agreed,) = [event for event in events if isinstance(event, PlansAgreed)]
    own = federation.json(SITES[0], "nnUNetPlans.json")
    assert agreed.plans == {**own, "dataset_name": "Federation"}
    assert agreed.fingerprint == federation.json(SITES[0], "dataset_fingerprint.json")

    newcomer = _install(archive, tmp_path)
    kept = Workspace(run_dir)  # the run folder has nnU-Net's results folder in it
    for workspace in (newcomer, kept):
        checkpoint = workspace.checkpoint("Dataset777_Together", fold=1)
        for site in SITES:
            of_site = federation.checkpoint(site, fold=1)
            assert equal_weights(checkpoint["network_weights"], of_site["network_weights"])
            assert checkpoint["inference_allowed_mirroring_axes"] == of_site["inference_allowed_mirroring_axes"]
    written = [path for path in newcomer.model_folder("Dataset777_Together").glob("*.json")]
    assert sorted(path.name for path in written) == ["dataset.json", "dataset_fingerprint.json", "plans.json"]
    assert not [path for path in written for site in SITES if site in path.read_text()]
    assert json.loads((newcomer.model_folder("Dataset777_Together") / "dataset.json").read_text())["numTraining"] == 25

    images = federation.raw / SITES[1] / "imagesTs"
    assert _predict(newcomer, images, 777, (1,), **NO_TRAINERS) == _predict(federation, images, SITES[1], (1,))


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


@pytest.fixture(scope="module")
def five_folds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's folder of a training of all folds."""
    return tmp_path_factory.mktemp("five folds")


def test_all_five_folds_are_trained_one_after_the_other_and_fold_all_on_every_case(
    federation: Workspace, five_folds: Path
) -> None:
    words = ("train", "903", "2d", "all", *SHORT, "--rounds", 1, "--run_dir", five_folds, "--overwrite")
    output = federation.succeed("run", *words)
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


def test_five_folds_are_one_model_and_nnunet_finds_the_best_configuration_of_them(
    federation: Workspace, five_folds: Path, tmp_path: Path
) -> None:
    archive = five_folds / "Dataset999_FedNNUNet.zip"
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
    folder = "Dataset999_FedNNUNet/nnUNetTrainer__nnUNetPlans__2d"
    checkpoints = [f"{folder}/fold_{fold}/checkpoint_final.pth" for fold in range(5)]
    top = [f"{folder}/{name}.json" for name in ("plans", "dataset", "dataset_fingerprint")]
    assert sorted(names) == sorted([*checkpoints, *top])

    images, folds = federation.raw / SITES[2] / "imagesTs", (0, 1, 2, 3, 4)
    newcomer = _install(archive, tmp_path)
    assert _predict(newcomer, images, 999, folds, **NO_TRAINERS) == _predict(federation, images, SITES[2], folds)

    federation.nnunet("nnUNetv2_find_best_configuration", SITES[2], "-c", "2d")
    found = json.loads((federation.results / SITES[2] / "inference_information.json").read_text())
    assert found["folds"] == list(folds)
    (best,) = found["best_model_or_ensemble"]["selected_model_or_models"]
    assert best == {"configuration": "2d", "trainer": "nnUNetTrainer", "plans_identifier": "nnUNetPlans"}


def test_an_interrupted_training_leaves_no_process_and_continues(federation: Workspace) -> None:
    # rounds that take so long that the signal comes before the last one
    schedule = ("--rounds", 16, "--iterations_per_epoch", 100)
    words = ("train", "901 902", "2d", 3, *SHORT, "-tr", "RepeatableTrainer", *schedule)
    process = federation.start("run", *words)
    assert process.stdout is not None
    for line in process.stdout:
        if "round 2/" in line:
            break
    process.send_signal(signal.SIGINT)
    status, _ = finish(process)
    assert status == 130
    assert not _processes_with(str(federation.folder))

    status, output = federation.call("run", *words)
    assert status == 1
    assert "contains a training that is not finished" in output
    assert "--c, or give --overwrite" in output

    output = federation.succeed("run", *words, "--c")
    assert "round 16/16" in output
    assert "round 2/16" not in output
    for site in SITES[:2]:
        checkpoint = federation.checkpoint(site, fold=3, trainer="RepeatableTrainer")
        log = checkpoint["logging"]
        assert {name: len(values) for name, values in log.items()} == dict.fromkeys(log, 16)
        assert np.isfinite(log["train_losses"]).all()
        assert checkpoint["current_epoch"] == 16


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
