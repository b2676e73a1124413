"""Evaluates the demo's models on the test cases."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from rich.table import Table

from fednnunet.demo.hospitals import FILE_ENDING, Dataset
from fednnunet.demo.phantom import LABELS
from fednnunet.evaluation.metrics import dice
from fednnunet.evaluation.prediction import Predictor, TrainedModel
from fednnunet.folds import parse_folds
from fednnunet.table_cells import markdown_table

FOREGROUND = {name: value for name, value in LABELS.items() if value}


@dataclass(frozen=True)
class CaseScore:
    """Dice of one label in one test case, for both models; NaN if neither truth nor prediction has the label."""

    site: str
    case: str
    label: str
    federated: float
    own: float


@dataclass(frozen=True)
class SiteScore:
    """Mean test Dice of a site, over cases and labels."""

    site: str
    federated: float
    own: float

    @property
    def difference(self) -> float:
        """The benefit of the federation."""
        return self.federated - self.own


def predict(model: Path, fold: str, dataset: Dataset, output: Path, device: str, log: Path) -> None:
    """Predict a dataset's test cases with a trained nnU-Net, as ``nnUNetv2_predict`` would.

    Parameters
    ----------
    model
        nnU-Net's results folder of the training, ``…/nnUNetTrainer__nnUNetPlans__2d``.
    fold
        The fold that was trained.
    dataset
        Whose test cases.
    output
        Folder for the predictions, made if it does not exist.
    device
        ``cpu``, ``cuda`` or ``mps``.
    log
        File that takes what nnU-Net prints.
    """
    output.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, redirect_stderr(file):
        predictor = Predictor(TrainedModel(model, parse_folds(fold)), device, log)
        if device == "cpu" and len(dataset.size) == 2:
            import torch  # takes seconds

            torch.set_num_threads(1)  # for images this small, several threads would mostly wait for each other
        for case in dataset.test_cases:
            predictor.predict([str(dataset.image(case))], output / case)


def score_cases(dataset: Dataset, federated: Path, own: Path) -> list[CaseScore]:
    """Return the Dice of every test case and label of a dataset, for the predictions in two folders."""
    scores = []
    for case in dataset.test_cases:
        truth = read(dataset.labels(case))
        predictions = [read(folder / f"{case}{FILE_ENDING}") for folder in (federated, own)]
        for label, value in FOREGROUND.items():
            both = (dice(truth == value, prediction == value) for prediction in predictions)
            scores.append(CaseScore(dataset.hospital.name, case, label, *(_or_nan(one) for one in both)))
    return scores


def score_sites(scores: Sequence[CaseScore]) -> list[SiteScore]:
    """Return the mean Dice of every site: first over the labels of a case, then over the cases."""
    sites = []
    for site in dict.fromkeys(score.site for score in scores):
        cases = dict.fromkeys(score.case for score in scores if score.site == site)
        federated, own = (
            _mean(
                _mean(getattr(score, model) for score in scores if score.site == site and score.case == case)
                for case in cases
            )
            for model in ("federated", "own")
        )
        sites.append(SiteScore(site, federated, own))
    return sites


def overall(sites: Iterable[SiteScore]) -> SiteScore:
    """Return the mean over the sites, each of the same weight."""
    sites = list(sites)
    return SiteScore("mean", _mean(site.federated for site in sites), _mean(site.own for site in sites))


def rows(sites: Sequence[SiteScore], training_cases: dict[str, int]) -> list[tuple[str, ...]]:
    """Return the table of the results as text: one row for each site, and their mean."""
    return [
        (
            site.site,
            str(training_cases.get(site.site, sum(training_cases.values()))),
            f"{site.federated:.3f}",
            f"{site.own:.3f}",
            f"{site.difference:+.3f}",
        )
        for site in (*sites, overall(sites))
    ]


COLUMNS = ("site", "training cases", "federated model", "own model", "difference")
TITLE = "Mean Dice of the test cases"


def table(rows: Sequence[tuple[str, ...]]) -> Table:
    """Return the table of the results, for a terminal."""
    result = Table(title=TITLE, title_justify="left")
    for index, column in enumerate(COLUMNS):
        result.add_column(column, justify="right" if index else "left")
    for row in rows[:-1]:
        result.add_row(*row)
    result.add_section()
    result.add_row(*rows[-1], style="bold")
    return result


def write_results(folder: Path, scores: Sequence[CaseScore], rows: Sequence[tuple[str, ...]]) -> None:
    """Write ``results.md``, the table, and ``results.csv``, every case and label."""
    lines = [f"# {TITLE}", "", *markdown_table(COLUMNS, rows)]
    (folder / "results.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("site", "case", "label", "federated", "own"))
        for score in scores:
            writer.writerow((score.site, score.case, score.label, f"{score.federated:.4f}", f"{score.own:.4f}"))


def read(path: Path) -> npt.NDArray[Any]:
    """Return the voxels of an image file."""
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN, NaN if there are none."""
    there = [value for value in values if not np.isnan(value)]
    return statistics.fmean(there) if there else float("nan")
