"""``fednnunet compare`` through the real command, interrupted and continued."""

import csv
import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.utilities.crossval_split import generate_crossval_split

from fednnunet.comparison.methods import METHODS
from fednnunet.demo.hospitals import HOSPITALS, Dataset, write_hospitals
from fednnunet.events.event_files import read_events
from fednnunet.events.events import RoundCompleted
from tests.browsing import COLUMNS, needs_browser, open_part, opened, started_browser
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


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("comparison"))


def test_a_comparison_that_was_interrupted_goes_on_and_tells_what_its_predictions_are_worth(workspace):
    hospitals = [replace(hospital, training_cases=5) for hospital in HOSPITALS[:2]]
    datasets = write_hospitals(workspace.raw, hospitals=hospitals, test_cases=2, resolution=0.4)
    out = workspace.folder / "out"

    process = workspace.start_fednnunet(*COMMAND, "--verbose")
    assert process.stdout is not None
    assert any("training fold 0: 2 rounds" in line for line in process.stdout)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=ENDS_WITHIN_SECONDS)
    assert process.returncode == 128 + signal.SIGINT, output
    assert "Interrupted: run the same command again to continue." in output
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
    assert "was started with --keep_local none, not seg_layers" in output


def test_methods_are_added_and_models_are_tested_on_the_cases_of_other_sites(workspace):
    out = workspace.folder / "out"
    trained = (out / "runs" / "centralized" / "fold_0" / "run.json").read_bytes()
    more = ("--methods", "local", "ffe", "personal", "centralized", "--personalize", "1", "--in_process")
    status, output = workspace.fednnunet(*COMMAND, *more)
    assert status == 0, output
    assert (out / "runs" / "centralized" / "fold_0" / "run.json").read_bytes() == trained

    content = json.loads((out / "comparison.json").read_text())["methods"]
    site, other = sorted(path.name for path in (out / "results" / "ffe").iterdir() if path.name.startswith("Dataset9"))
    for name, key in (("local", "local"), ("personal", "ffe_personal_1")):
        elsewhere = out / "evaluation" / key / site / "others" / site
        cases = [
            np.mean([dice(truth, elsewhere / f"{other}_{truth.name}", label) for label in LABELS])
            for truth in sorted((out / "raw" / other / "labelsTs").iterdir())
        ]
        assert len(cases) == 2
        assert content[name]["elsewhere"]["others"]["dice"][site] == pytest.approx(np.mean(cases))
    assert content["personal"]["cost"]["from_sites"] == content["ffe"]["cost"]["from_sites"] > 1e5


@needs_browser
def test_a_browser_shows_the_differences_and_the_rounds(workspace):
    out = workspace.folder / "out"
    with (out / "differences.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["label"], row["metric"]) == ("mean", "dice")]
    titles = {name: method.title for name, method in METHODS.items()} | {"personal": "Personal"}
    told = {(titles[row["method"]], row["test_cases"].rpartition("_")[2]): row for row in rows}
    assert {method for method, _ in told} == {"FFE", "Personal", "Centralized"}
    rounds = [
        event for event in read_events(out / "runs" / "ffe" / "events.jsonl") if isinstance(event, RoundCompleted)
    ]
    assert len(rounds) == 2
    with started_browser() as browser, opened(browser, (out / "report.html").as_uri()) as page:
        names = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash.slice(1))")
        shown = page.evaluate(COLUMNS, f"{names[0]}-0")
        for plotted, column in (("mean", "mean_difference"), ("low", "ci95_low"), ("high", "ci95_high")):
            points = zip(shown["method"], shown["test_cases"], shown[plotted], strict=True)
            found = {(method, cases): value for method, cases, value in points}
            assert found == {key: pytest.approx(float(row[column]), rel=1e-5) for key, row in told.items()}
        training = next(name for name in names if name.endswith("training"))
        open_part(page, training)
        shown = page.evaluate(COLUMNS, f"{training}-0")
        for index, site in enumerate(sorted(rounds[0].sites)):
            dice = [event.sites[site].mean_dice for event in rounds]
            np.testing.assert_allclose(shown[f"0:s{index}"], dice, rtol=1e-5)
