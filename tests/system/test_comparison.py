"""``fednnunet compare`` through the real command, interrupted and continued."""

import json
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from fednnunet.demo.evaluation import dice
from fednnunet.demo.hospitals import HOSPITALS, Dataset, write_hospitals
from tests.system.workspace import ENDS_WITHIN_SECONDS, Workspace

pytestmark = pytest.mark.system

LABELS = (1, 2)
COMMAND = (
    *("compare", "901 902", "2d", "0", "--methods", "ffe,centralized", "--out", "out", "-device", "cpu"),
    *("-tr", "RepeatableTrainer", "--disable_tta", "-gpu_memory_target", "1"),
    *("--rounds", "2", "--iterations_per_epoch", "2", "--val_iterations_per_epoch", "1"),
)


def wait_until_it_trains(process: "subprocess.Popen[str]", begun: Path) -> None:
    deadline = time.monotonic() + ENDS_WITHIN_SECONDS
    while not begun.is_file():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def recomputed_dice(predictions: Path, dataset: Dataset) -> float:
    """Return the mean over cases of the mean over labels, from the images."""
    cases = []
    for case in dataset.test_cases:
        images = [dataset.labels(case), predictions / dataset.name / dataset.labels(case).name]
        truth, prediction = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in images)
        cases.append(np.nanmean([dice(truth, prediction, label) for label in LABELS]))
    return float(np.mean(cases))


def test_a_comparison_that_was_interrupted_goes_on_and_tells_what_its_predictions_are_worth(tmp_path):
    workspace = Workspace(tmp_path)
    hospitals = [replace(hospital, training_cases=5) for hospital in HOSPITALS[:2]]
    datasets = write_hospitals(workspace.raw, hospitals=hospitals, test_cases=2, resolution=0.4)
    out = tmp_path / "out"

    process = workspace.start_fednnunet(*COMMAND)
    wait_until_it_trains(process, out / "runs" / "ffe" / "fold_0" / "run.json")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Interrupted: run the same command again to go on." in output
    run = json.loads((out / "runs" / "ffe" / "fold_0" / "run.json").read_text())["run"]
    planned = json.loads((out / "state.json").read_text())["jobs"]["plans common"]

    status, output = workspace.fednnunet(*COMMAND)
    assert status == 0, output
    # the same training, and the plans of the first call
    assert json.loads((out / "runs" / "ffe" / "fold_0" / "run.json").read_text())["run"] == run
    assert json.loads((out / "state.json").read_text())["jobs"]["plans common"] == planned

    methods = json.loads((out / "comparison.json").read_text())["methods"]
    for method, model in (("ffe", datasets[0].name), ("centralized", "Dataset999_Pooled")):
        predictions = out / "evaluation" / method / model
        told = [methods[method]["datasets"][dataset.name]["dice"]["mean"] for dataset in datasets]
        assert told == pytest.approx([recomputed_dice(predictions, dataset) for dataset in datasets])
        assert methods[method]["mean_over_sites"]["dice"] == pytest.approx(np.mean(told))
    folder = out / "preprocessed" / "pooled" / "Dataset999_Pooled"
    validated = json.loads((folder / "splits_final.json").read_text())[0]["val"]
    of_sites = [
        f"{dataset.name}_{case}"
        for dataset in datasets
        for case in json.loads((out / "preprocessed/common" / dataset.name / "splits_final.json").read_text())[0]["val"]
    ]
    assert sorted(validated) == sorted(of_sites)

    status, output = workspace.fednnunet(*COMMAND, "--keep_local", "seg_layers")
    assert status == 1
    assert "was begun with --keep_local none, not seg_layers" in output
