"""``fednnunet compare`` through the real command, interrupted and continued."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fednnunet.demo.hospitals import HOSPITALS, Dataset, write_hospitals
from tests.system.overlap import dice
from tests.system.workspace import ENDS_WITHIN_SECONDS, Workspace

pytestmark = pytest.mark.system

LABELS = (1, 2)
POOLED = "Dataset999_Pooled"
COMMAND = (
    *("compare", "901 902", "2d", "0", "--methods", "centralized", "--out", "out", "-device", "cpu"),
    *("-tr", "RepeatableTrainer", "--disable_tta", "-gpu_memory_target", "1"),
    *("--rounds", "2", "--iterations_per_epoch", "2", "--val_iterations_per_epoch", "1"),
)


def recomputed_dice(predictions: Path, dataset: Dataset) -> float:
    """Return the mean over cases of the mean over labels, from the images."""
    cases = []
    for case in dataset.test_cases:
        truth = dataset.labels(case)
        prediction = predictions / dataset.name / truth.name
        cases.append(np.mean([dice(truth, prediction, label) for label in LABELS]))
    return float(np.mean(cases))


def test_a_comparison_that_was_interrupted_goes_on_and_tells_what_its_predictions_are_worth(tmp_path):
    workspace = Workspace(tmp_path)
    hospitals = [replace(hospital, training_cases=5) for hospital in HOSPITALS[:2]]
    datasets = write_hospitals(workspace.raw, hospitals=hospitals, test_cases=2, resolution=0.4)
    out = tmp_path / "out"

    process = workspace.start_fednnunet(*COMMAND, "--verbose")
    assert process.stdout is not None
    assert any("training fold 0: 2 rounds" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Interrupted: run the same command again to go on." in output
    run = json.loads((out / "runs" / "centralized" / "fold_0" / "run.json").read_text())["run"]
    planned = json.loads((out / "state.json").read_text())["jobs"]["plans pooled"]

    status, output = workspace.fednnunet(*COMMAND)
    assert status == 0, output
    # the same training, and the plans of the first call
    assert json.loads((out / "runs" / "centralized" / "fold_0" / "run.json").read_text())["run"] == run
    assert json.loads((out / "state.json").read_text())["jobs"]["plans pooled"] == planned

    (method,) = json.loads((out / "comparison.json").read_text())["methods"].values()
    predictions = out / "evaluation" / "centralized" / POOLED
    told = [method["datasets"][dataset.name]["dice"]["mean"] for dataset in datasets]
    assert told == pytest.approx([recomputed_dice(predictions, dataset) for dataset in datasets])
    assert method["mean_over_sites"]["dice"] == pytest.approx(np.mean(told))
    assert (out / "report.html").is_file()
    # the fold is the union of those that nnU-Net makes of each site's cases, and the model has seen no others
    (fold, *_) = json.loads((out / "preprocessed" / "pooled" / POOLED / "splits_final.json").read_text())
    of_sites = [generate_crossval_split(sorted(dataset.training_cases))[0] for dataset in datasets]
    for part in ("train", "val"):
        named = {f"{dataset.name}_{case}" for dataset, of in zip(datasets, of_sites, strict=True) for case in of[part]}
        assert set(fold[part]) == named
    model = out / "results" / "centralized" / POOLED / "RepeatableTrainer__nnUNetPlans__2d"
    validated = (model / "fold_0" / "validation").glob("*.nii.gz")
    assert {path.name.removesuffix(".nii.gz") for path in validated} == set(fold["val"])

    status, output = workspace.fednnunet(*COMMAND, "--keep_local", "seg_layers")
    assert status == 1
    assert "was begun with --keep_local none, not seg_layers" in output
