"""Every figure that is shown is nnU-Net's own of that name, also with ten labels and more, and with nested regions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
from skimage import io

from fednnunet.events.events import FoldValidated, SitesEvaluated
from tests.system import figures
from tests.system.conftest import shrink_network
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

SITES = ("Dataset031_A", "Dataset032_B")
TRAINER = "PartlyRightTrainer"
SHORT = ("-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1, "--rounds", 1)
# names of ours among them, and numbers in another order than that of the file
TWELVE = {"background": 0, "organ12": 12, "mean": 2, "overall": 11, "site": 1, **{f"o{n}": n for n in range(3, 11)}}
# nnU-Net sorts its keys as texts: "(2, 1, 3)", "(2, 3)", "3"
REGIONS = {"background": 0, "inner": [2, 3], "whole": [2, 1, 3], "core": 3}
CASES = {
    "twelve labels": (TWELVE, None),
    "regions": (REGIONS, [2, 1, 3]),
}


def _write_site(folder: Path, labels: dict[str, Any], order: list[int] | None, seed: int) -> None:
    """Write small pictures on which every label is a column; without regions, most cases lack the last one."""
    rng = np.random.default_rng(seed)
    numbers = sorted({number for value in labels.values() for number in np.atleast_1d(value)} - {0})
    for part, count in (("Tr", 5), ("Ts", 2)):
        for kind in ("images", "labels"):
            (folder / f"{kind}{part}").mkdir(parents=True)
        for case in range(count):
            truth = np.zeros((32, 48), np.uint8)
            there = numbers if case == 0 or order else numbers[:-1]
            for number, columns in zip(there, np.array_split(np.arange(48), len(there)), strict=True):
                truth[4 : 28 - case, columns[1:]] = number
            image = np.clip(truth * 15 + 60 + rng.normal(0, 5, truth.shape), 0, 255).astype(np.uint8)
            io.imsave(folder / f"images{part}" / f"case.{case}_0000.png", image, check_contrast=False)
            io.imsave(folder / f"labels{part}" / f"case.{case}.png", truth, check_contrast=False)
    content = {"channel_names": {"0": "grey"}, "labels": labels, "numTraining": 5, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(content | ({"regions_class_order": order} if order else {})))


@pytest.fixture(scope="module", params=list(CASES))
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Workspace, dict[str, Any], Path, str]:
    """A federation whose validation predicts each label a little worse than the one before."""
    labels, order = CASES[request.param]
    workspace = Workspace(tmp_path_factory.mktemp("figures"))
    for seed, site in enumerate(SITES):
        _write_site(workspace.raw / site, labels, order, seed)
    workspace.succeed("run", "plan_and_preprocess", "31 32", "2d", "-gpu_memory_target", 0.5)
    for site in SITES:
        shrink_network(workspace.preprocessed / site / "nnUNetPlans.json")
    run_dir = workspace.folder / "run"
    output = workspace.succeed("run", "train", "31 32", "2d", 0, "-tr", TRAINER, *SHORT, "--run_dir", run_dir)
    return workspace, labels, run_dir, output


def test_the_validation_is_nnunets_in_table_events_and_page(
    trained: tuple[Workspace, dict[str, Any], Path, str],
) -> None:
    workspace, labels, run_dir, output = trained
    told = figures.event_of(run_dir, FoldValidated).sites
    workspace.fednnunet("report", run_dir)
    for site in SITES:
        summary = workspace.model_folder(site, trainer=TRAINER) / "fold_0" / "validation" / "summary.json"
        expected = figures.nnunet_means(summary, labels)
        values = [value for value in expected.values() if value]
        assert len(set(values)) == len(values) >= len(expected) - 1  # an exchange would be seen
        assert told[site].dice == expected
        cells = {name: figures.shown(value) for name, value in expected.items()}
        for row in (
            figures.terminal_row(output, "Validation of fold 0", site),
            *figures.page_rows(run_dir / "report.html", "validation", site),
        ):
            assert {name: row[name] for name in cells} == cells
            assert len(row) == len(cells) + 2  # the site, and the mean, whatever labels are called


def test_an_evaluation_is_nnunets_in_events_page_csv_and_markdown(
    trained: tuple[Workspace, dict[str, Any], Path, str],
) -> None:
    workspace, labels, run_dir, _ = trained
    words = ("-tr", TRAINER, "-device", "cpu", "--disable_tta", "--min_cases", 1, "--run_dir", run_dir)
    output = workspace.succeed("run", "evaluate", "31 32", "2d", 0, *words)
    told = figures.event_of(run_dir, SitesEvaluated).sites
    for site in SITES:
        model, raw = workspace.model_folder(site, trainer=TRAINER), workspace.raw / site
        predictions, summary = model / "evaluation_0" / site, workspace.folder / f"{site}.json"
        description = str(raw / "dataset.json"), str(model / "plans.json")
        compute_metrics_on_folder2(str(raw / "labelsTs"), str(predictions), *description, str(summary), 1)
        expected = figures.nnunet_means(summary, labels)
        assert {name: report.dice.mean for name, report in told[site].labels.items()} == pytest.approx(expected)
        cells = {name: figures.shown(value) for name, value in expected.items()}
        in_csv = figures.csv_means(run_dir / "evaluation_0.csv", site, "dice")
        assert {name: figures.shown(float(in_csv[name]) if in_csv[name] else None) for name in cells} == cells
        (page, *_), (markdown, *_) = (
            figures.page_rows(run_dir / "report.html", "evaluation", site),
            figures.markdown_rows(run_dir / "evaluation_0.md", site),
        )
        terminal = figures.terminal_row(output, "Test cases, fold 0", site)
        for row in (page, markdown, terminal):
            assert {name: row[name].split(" ")[0] for name in cells} == cells
