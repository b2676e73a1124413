"""Compares federated methods for sites that differ, with a network small enough for two cores.

``python benchmarks/unlike_sites.py "521 522 523 524" 2d --out FOLDER [--seeds 1 2 3] [--trainer SmallAdamWTrainer]``

All sites and their pooled data get nnU-Net's plans, but with small patches and few features. Each method trains with
each seed, in one process; nnU-Net's full validation of fold 0 gives the mean Dice over each site's validation cases.
All methods train for equally many iterations on a site's cases; personal models and those trained alone for two epochs
more, and the personal models of ``often`` for four. Finished trainings are not repeated. Datasets are looked up in
``nnUNet_raw``, with their ``splits_final.json`` if there is one; everything is written to FOLDER.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from fednnunet.comparison.raw import Source, find_sources, pool, pooled_name
from fednnunet.comparison.splits import site_splits
from fednnunet.node.splits import SPLITS

ROUNDS = 8
PERSONAL_EPOCHS = 2
PLANS = "small"
FOLD = 0
FEATURES = (8, 16, 32, 64)
PATCHES = {2: (4, [128, 128]), 3: (2, [32, 40, 32])}
"""Batch size and patch by dimension."""
POOLED = "Dataset999_Pooled"


class Federated(NamedTuple):
    """A way of federating.

    Attributes
    ----------
    flags
        Of the command.
    times
        How often as many rounds, with as many iterations in all.
    personal
        Epochs of the personal models, as long as its rounds; 0 for none.
    """

    flags: tuple[str, ...]
    times: int = 1
    personal: int = PERSONAL_EPOCHS


FEDERATED = {
    "momentum local": Federated(("--optimizer_state", "local")),
    "momentum averaged": Federated(()),
    "normalization local": Federated(("--keep_local", "norm")),
    "uniform": Federated(("--weighting", "uniform")),
    "often": Federated((), times=5, personal=20),
    "plain float32": Federated(("--encoding", "float32"), personal=0),
    "plain float16": Federated(("--encoding", "float16"), personal=0),
    "masked 32 bits": Federated(("--secure", "--encoding", "float32"), personal=0),
    "masked 16 bits": Federated(("--secure", "--encoding", "float16"), personal=0),
}
_OF_ENCODING = ("plain", "masked")
METHODS = [*FEDERATED, "alone", "pooled"]


def main() -> None:
    """Do what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("datasets")
    parser.add_argument("configuration")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--trainer", default="SmallTrainer", choices=["SmallTrainer", "SmallAdamWTrainer"])
    parser.add_argument("--iterations", type=int, default=25, help="of a round")
    usual = [method for method in METHODS if not method.startswith(_OF_ENCODING)]
    parser.add_argument("--methods", nargs="+", default=usual, choices=METHODS)
    arguments = parser.parse_args()
    ids, out = arguments.datasets.split(), arguments.out.absolute()
    study = Study(ids, arguments.configuration, arguments.trainer, arguments.iterations, out)
    study.prepare()
    lines = [study.result(method, seed) for method in arguments.methods for seed in arguments.seeds]
    Console().print(_table(lines))


class Study:
    """All trainings with one trainer.

    Parameters
    ----------
    ids
        The sites' datasets.
    configuration, trainer
        As nnU-Net calls them.
    iterations
        Of a round.
    out
        Folder for everything.
    """

    def __init__(self, ids: Sequence[str], configuration: str, trainer: str, iterations: int, out: Path) -> None:
        self._ids = ids
        self._configuration = configuration
        self._trainer = trainer
        self._iterations = iterations
        self._out = out
        self._sources = find_sources(list(ids))
        self._environment = {
            **os.environ,
            "nnUNet_raw": str(out / "raw"),
            "nnUNet_preprocessed": str(out / "preprocessed"),
            "nnUNet_extTrainer": str(Path(__file__).parent / "trainers"),
            "nnUNet_compile": "f",
            "nnUNet_def_n_proc": "1",
        }

    def prepare(self) -> None:
        """Link and pool the data, plan, make the plans small, and preprocess."""
        plans = self._out / f"{PLANS}_{self._configuration}.json"
        if plans.is_file():
            return
        for folder in ("raw", "preprocessed"):
            (self._out / folder).mkdir(parents=True, exist_ok=True)
        for source in self._sources:
            link = self._out / "raw" / source.name
            if not link.exists():
                link.symlink_to(source.dataset.raw)
        splits = {
            source.name: site_splits(source.name, source.case_names, [source.dataset.raw], str(FOLD))
            for source in self._sources
        }
        pool(self._sources, splits, self._out / "raw" / POOLED)
        planning = self._out / "planning"
        self._run(planning, "plan_and_preprocess", " ".join(self._ids), self._configuration)
        made = json.loads((self._preprocessed(self._sources[0].name) / "nnUNetPlans.json").read_text())
        candidate = self._out / "plans.json"
        candidate.write_text(json.dumps(_small(made, self._configuration)))
        for ids in (" ".join(self._ids), POOLED):
            self._run(planning, "plan_and_preprocess", ids, self._configuration, "--plans", candidate)
        for name in (*splits, POOLED):
            given = self._out / "raw" / name / SPLITS
            if given.is_file():
                (self._preprocessed(name) / SPLITS).write_text(given.read_text())
        candidate.rename(plans)

    def result(self, method: str, seed: int) -> dict[str, Any]:
        """Return the Dice of a method, by site and model, and how long it took."""
        results = self._out / "results" / self._trainer / method.replace(" ", "_") / str(seed)
        kept = results / f"{self._configuration}.json"
        if kept.is_file():
            return dict(json.loads(kept.read_text()))
        began, names = time.monotonic(), [source.name for source in self._sources]
        if method in FEDERATED:
            flags, times, personal = FEDERATED[method]
            own = ["--personalize", personal] if personal else []
            self._train(results, seed, " ".join(self._ids), ROUNDS, *flags, *own, times=times)
        for ids in self._ids if method == "alone" else [POOLED] if method == "pooled" else []:
            rounds = ROUNDS + PERSONAL_EPOCHS if method == "alone" else ROUNDS
            self._train(results, seed, ids, rounds, "--encoding", "float32")
        dice = {}
        for model in ("", "_personal"):
            of_sites = {source.name: self._dice(results, source, model, is_pooled=method == "pooled")
                        for source in self._sources}  # fmt: skip
            if all(value is not None for value in of_sites.values()):
                dice[f"{method}{', personal' if model else ''}"] = of_sites
        line = {"seed": seed, "seconds": time.monotonic() - began, "sites": names, "dice": dice}
        kept.write_text(json.dumps(line))
        return line

    def _train(self, results: Path, seed: int, ids: str, rounds: int, *flags: object, times: int = 1) -> None:
        lengths = ["--rounds", rounds * times, "--iterations_per_epoch", self._iterations // times]
        schedule = [*lengths, "--val_iterations_per_epoch", 1]
        own = ["-tr", self._trainer, "-p", PLANS, "-device", "cpu", "--in_process", "--seed", seed, "--overwrite"]
        self._run(results, "train", ids, self._configuration, FOLD, *own, *schedule, *flags)

    def _run(self, results: Path, *words: object) -> None:
        results.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "fednnunet", "run", *map(str, words), "--quiet"]
        subprocess.run(command, check=True, env={**self._environment, "nnUNet_results": str(results)})

    def _dice(self, results: Path, source: Source, model: str, *, is_pooled: bool) -> float | None:
        """Return the mean Dice over a site's validation cases, ``None`` if there is no such model."""
        name = POOLED if is_pooled else source.name
        folder = results / name / f"{self._trainer}__{PLANS}{model}__{self._configuration}" / f"fold_{FOLD}"
        path = folder / "validation" / "summary.json"
        if not path.is_file():
            return None
        cases = {pooled_name(source.name, case) if is_pooled else case for case in source.case_names}
        found = [
            statistics.fmean(label["Dice"] for label in case["metrics"].values())
            for case in json.loads(path.read_text())["metric_per_case"]
            if Path(case["prediction_file"]).name.removesuffix(source.content.file_ending) in cases
        ]
        return statistics.fmean(found)

    def _preprocessed(self, name: str) -> Path:
        return self._out / "preprocessed" / name


def _small(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return plans with one configuration, small patches and few features."""
    chosen = plans["configurations"][configuration]
    network = chosen["architecture"]["arch_kwargs"]
    chosen["batch_size"], chosen["patch_size"] = PATCHES[len(chosen["patch_size"])]
    stages = len(FEATURES)
    network |= {"n_stages": stages, "features_per_stage": list(FEATURES)}
    network |= {name: network[name][:stages] for name in ("kernel_sizes", "strides")}
    network |= {"n_conv_per_stage": [1, 2, 2, 2], "n_conv_per_stage_decoder": [1, 1, 1]}
    return {**plans, "plans_name": PLANS, "configurations": {configuration: chosen}}


def _table(lines: Sequence[Mapping[str, Any]]) -> Table:
    sites = list(lines[0]["sites"])
    table = Table("", "seed", *sites, "mean", "s")
    for line in lines:
        for model, dice in line["dice"].items():
            values = [dice[site] for site in sites]
            figures = [f"{value:.3f}" for value in (*values, statistics.fmean(values))]
            table.add_row(model, str(line["seed"]), *figures, f"{line['seconds']:.0f}")
    return table


if __name__ == "__main__":
    main()
