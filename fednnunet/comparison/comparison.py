"""``fednnunet compare``: trains every method under the same conditions, tests the models, and writes the table.

What is done is remembered, so the same command goes on where it was interrupted.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from fednnunet.comparison import tables
from fednnunet.comparison.costs import Cost, mean_cost, traffic_of
from fednnunet.comparison.flags import SETTLED_FLAGS
from fednnunet.comparison.memory import Memory, digest
from fednnunet.comparison.methods import Method
from fednnunet.comparison.raw import (
    POOLED,
    Source,
    check_alike,
    find_sources,
    free_id,
    link_dataset,
    link_test_cases,
    pool,
)
from fednnunet.comparison.results import ByModel, Results
from fednnunet.comparison.scores import of_pooled_cases, read_scores
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.comparison.splits import check_numbers, site_splits
from fednnunet.comparison.work import Model, Work
from fednnunet.errors import FednnUNetError
from fednnunet.folds import check_fold
from fednnunet.interruption import interruptible
from fednnunet.launcher import devices
from fednnunet.launcher.preflight import check_planned
from fednnunet.launcher.steps import Job, JobFailed, Steps
from fednnunet.node.dataset import SiteDataset, nnunet_folder
from fednnunet.node.folders import check_readable
from fednnunet.node.hello import check_device, check_extractor, check_planner
from fednnunet.node.splits import Splits
from fednnunet.node.trainer_hooks import DEFAULT_TRAINER, check_hooks, check_split, find_trainer
from fednnunet.node.trainer_search import check_trainer

logger = logging.getLogger(__name__)

REPORT = "report.html"

_PLANS_TITLES = {
    "own": "Every site plans for itself, and preprocesses",
    "common": "The sites agree on common plans (FFE), and preprocess",
    "pooled": "Plans for the pooled data, and preprocessing",
}


def run_comparison(settings: ComparisonSettings) -> int:
    """Run a comparison, show its tables, and return the exit status.

    Returns
    -------
    int
        0 if all methods have results, 1 if one failed.

    Raises
    ------
    FednnUNetError
        If the comparison cannot begin, or no method has results.
    """
    console = Console(file=sys.stdout, highlight=False)
    results, folder = compare_methods(settings, console)
    for table in tables.terminal_tables(results):
        console.print()
        console.print(table)
    console.print(Text(tables.MEANING))
    for note in tables.notes(results):
        console.print(Text(note), soft_wrap=True)
    console.print(Text(f"All results are in {folder}"), soft_wrap=True)
    return 1 if results.failures else 0


def compare_methods(settings: ComparisonSettings, console: Console) -> tuple[Results, Path]:
    """Run a comparison, or what is left of it, and return its results and folder.

    Parameters
    ----------
    settings
        What is compared.
    console
        Where to show the steps.

    Raises
    ------
    FednnUNetError
        If the comparison cannot begin, or no method has results.
    """
    comparison = _Comparison(settings, console)
    with interruptible():
        try:
            return comparison.run(), comparison.work.folder
        except KeyboardInterrupt:
            console.print("Interrupted: run the same command again to continue.")
            raise


class _Comparison:
    """One comparison: checked when it is made, worked through by `run`."""

    def __init__(self, settings: ComparisonSettings, console: Console) -> None:
        self._settings = settings
        self._steps = Steps(console, verbose=settings.verbose)
        check_fold(settings.fold)
        check_readable("nnUNet_raw")
        check_planned(settings.planner, [settings.configuration])
        self._held_out_fold = _held_out_fold(settings)
        self._sites = find_sources(settings.datasets)
        self._externals = find_sources(settings.external)
        self._check_sources()
        self._splits = {source.name: self._splits_of(source) for source in self._sites}
        if settings.fold == "all":
            check_numbers(self._splits)
        # now, not after hours of preprocessing
        plans_alone = all(method.plans == "own" for method in settings.methods)
        check_extractor(settings.extractor, plans_alone)
        check_planner(settings.planner, settings.fingerprint, plans_alone)
        check_device(settings.device)
        _check_trainer(settings.trainer)
        untested = self._without_test_cases()
        self._shares = self._deal()
        number = free_id([source.dataset.id for source in (*self._sites, *self._externals)])
        names = [source.name for source in self._sites]
        pooled = f"Dataset{number:03d}_{POOLED}"
        self._memory = Memory.open(self._folder(), self._settled(), overwrite=settings.overwrite)
        self.work = Work(self._folder(), settings, names, pooled)
        externals = [source.name for source in self._externals]
        self._results = Results(names, externals, settings.methods, untested=untested, seeds=settings.seeds)

    def run(self) -> Results:
        """Do what is not done yet, and return what came out."""
        with self._steps.step("The datasets are linked, and pooled"):
            self._link()
        for plans in dict.fromkeys(method.plans for method in self._results.methods):
            methods = [method for method in self._results.methods if method.plans == plans]
            self._attempt(methods, lambda plans=plans: self._plan(plans))  # type: ignore[misc]
        for method in self._results.methods:
            self._attempt([method], lambda method=method: self._train_and_test_all(method))  # type: ignore[misc]
            self._write()
        if len(self._results.failures) == len(self._results.methods):
            raise FednnUNetError(f"No method has results: {next(iter(self._results.failures.values()))}")
        return self._results

    def _attempt(self, methods: Sequence[Method], work: Callable[[], None]) -> None:
        """Do work that these methods need; where it fails, they have no results, and the others go on."""
        wanted = [method for method in methods if method.name not in self._results.failures]
        if not wanted:
            return
        try:
            work()
        except FednnUNetError as error:
            reason = str(error)
            if isinstance(error, JobFailed):
                reason = f"{error.reason.rstrip('.')} (its log is {error.job.log})"
            for method in wanted:
                self._results.failures[method.name] = reason
                logger.warning("%s has no results: %s", method.title, reason)

    def _plan(self, plans: str) -> None:
        self._do(_PLANS_TITLES[plans], [self.work.planning(plans)])

    def _train_and_test_all(self, method: Method) -> None:
        """Train and test a method with each seed."""
        seeds = self._settings.seeds
        found = [self._train_and_test(method, seed) for seed in seeds]
        self._results.costs[method.name] = mean_cost([self._cost(method, seed) for seed in seeds])
        if self._results.datasets:
            self._results.add(method, found)

    def _train_and_test(self, method: Method, seed: int | None) -> ByModel:
        """Train a method, and return what the model of each site achieves, by name of the site and the dataset."""
        which = "" if seed is None else f" (seed {seed})"
        trainings = self.work.trainings(method, self._shares, seed)
        self._do(f"{_training_title(method)}{which}", trainings, self.work.continued)
        if method.personal_epochs is not None:
            personal = [self.work.personal_training(method, training) for training in trainings]
            title = f"{method.title}: each site trains {method.personal_epochs} more epochs{which}"
            self._do(title, personal, self.work.continued)
        models = self.work.models(method, seed)
        shares = self._shares if len(models) > 1 else [None] * len(models)
        tested = {model: self._tests_of(model, models) for model in models}
        away = [model for model in models if len(models) > 1 and self._others(model)]
        by_model = dict(zip(models, shares, strict=True))
        title = f"{method.title}: the test cases are predicted{which}"
        own = [self.work.evaluation(model, datasets, by_model[model]) for model, datasets in tested.items() if datasets]
        self._do(title, own)
        elsewhere = [self.work.evaluation_elsewhere(model, by_model[model]) for model in away]
        self._do(f"{method.title}: the other sites' test cases are predicted{which}", elsewhere)
        return self._scores(tested, away)

    def _tests_of(self, model: Model, models: Sequence[Model]) -> list[str]:
        """Return the datasets on which a model is tested: where sites have their own, its site's and the externals."""
        others = self._others(model) if len(models) > 1 else []
        return [name for name in self._results.datasets if name not in others]

    def _others(self, model: Model) -> list[str]:
        """Return the sites with test cases that a site's model is not that of."""
        return [site for site in self._results.tested_sites if site != model.dataset]

    def _scores(self, tested: Mapping[Model, Sequence[str]], away: Sequence[Model]) -> ByModel:
        found: ByModel = {}
        for model, datasets in tested.items():
            folder = self.work.scores(model)
            scores = {name: read_scores(folder / name / "cases.csv") for name in datasets}
            if model in away:
                path = self.work.scores_elsewhere(model) / model.dataset / "cases.csv"
                scores |= of_pooled_cases(read_scores(path), self._others(model))
            found |= {site: scores for site in (self._results.sites if len(tested) == 1 else [model.dataset])}
        return found

    def _cost(self, method: Method, seed: int | None) -> Cost:
        """Return what a training has taken; trainings of several sites alone go on at once."""
        trainings = self.work.trainings(method, self._shares, seed)
        seconds = max(self._results.seconds[job.name] for job in trainings)
        if method.personal_epochs is not None:
            seconds += sum(
                self._results.seconds[self.work.personal_training(method, training).name] for training in trainings
            )
        return Cost(seconds, *traffic_of(self.work.events(method, seed))) if method.is_federated else Cost(seconds)

    def _do(self, title: str, jobs: Sequence[Job], prepare: Callable[[Job], Job] = lambda job: job) -> None:
        """Run those jobs at once that are not done yet, and remember how long each took."""
        left = {job.name: job for job in jobs if not self._memory.is_done(job.name, job.words)}
        if left:
            begin = time.monotonic()
            running = dict(left)

            def done(job: Job) -> None:
                words = running.pop(job.name).words
                self._memory.add(job.name, words, time.monotonic() - begin, done=True)

            try:
                with self._steps.step(title) as step:
                    step.run(*(prepare(job) for job in left.values()), done=done)
            finally:
                for name, job in running.items():
                    self._memory.add(name, job.words, time.monotonic() - begin, done=False)
        for job in jobs:
            self._results.seconds[job.name] = self._memory.jobs[job.name].seconds

    def _write(self) -> None:
        about: dict[str, Any] = {"command": sys.argv[1:], "fold": self._settings.fold, "test": self._settings.test}
        about["seeds"] = self._results.seeds
        tables.write_results(self._results, self.work.folder, about)
        federated = [method for method in self._results.methods if method.is_federated]
        seed = self._settings.seeds[0]
        events = {method.name: self.work.events(method, seed) for method in federated if method.personal_epochs is None}
        try:
            from fednnunet.comparison.page import write_report  # Bokeh takes a second

            write_report(self._results, self.work.folder / REPORT, events)
        except Exception as error:  # what only is shown must not end what may take days
            logger.warning("The report page could not be written: %s", error)

    def _link(self) -> None:
        raw = self.work.raw
        for source in self._sites:
            splits = self._splits[source.name]
            link_dataset(source, raw / source.name, splits, self._held_out(source))
        for source in self._externals:
            link_dataset(source, raw / source.name, None)
        pool(self._sites, self._splits, raw / self.work.pooled)
        tested = {site: raw / site for site in self._results.tested_sites}
        for site in self._results.sites:
            self.work.others(site).parent.mkdir(exist_ok=True)
            others = {name: folder for name, folder in tested.items() if name != site}
            link_test_cases(others, self.work.others(site))

    def _held_out(self, source: Source) -> list[str] | None:
        splits = self._splits[source.name]
        return None if self._held_out_fold is None or splits is None else splits[self._held_out_fold]["val"]

    def _check_sources(self) -> None:
        both = {source.name for source in self._sites} & {source.name for source in self._externals}
        if both:
            raise FednnUNetError(f"{min(both)} is both a site and external: external datasets must not train.")
        check_alike([*self._sites, *self._externals])
        for source in self._sites:
            if not source.cases:
                raise FednnUNetError(f"Site {source.name} has no training cases: add images to its imagesTr.")

    def _splits_of(self, source: Source) -> Splits | None:
        folders = [source.dataset.raw]
        if os.environ.get("nnUNet_preprocessed"):
            folders.append(SiteDataset(source.name).preprocessed)
        return site_splits(source.name, source.case_names, folders, self._settings.fold)

    def _without_test_cases(self) -> list[str]:
        """Return the datasets that cannot test a model, and say so before anything is trained."""
        validating = self._sites if self._settings.test == "validation" else []
        untested = [
            source.name
            for source in (*self._sites, *self._externals)
            if source not in validating and not source.test_cases
        ]
        hint = " (--test validation takes the cases that do not train)"
        for name in untested:
            logger.warning(
                "%s has no labelled test cases in imagesTs and labelsTs: no model is tested on it%s.",
                *(name, hint if name in [source.name for source in self._sites] else ""),
            )
        return untested

    def _deal(self) -> list[devices.Share]:
        sites, device = len(self._sites), self._settings.device
        gpus = None
        if device == "cuda":
            import torch  # takes seconds

            visible = devices.visible_gpus(os.environ, torch.cuda.device_count())
            gpus = devices.deal_gpus(visible, sites, self._settings.gpus)
        elif self._settings.gpus is not None:
            raise FednnUNetError(f"--gpus has no effect with -device {device}, which uses no CUDA GPU: leave it out.")
        return devices.training_shares(device, gpus, sites, devices.available_cores(), os.environ)

    def _folder(self) -> Path:
        if self._settings.out is not None:
            return self._settings.out.absolute()
        ids = "+".join(self._settings.datasets)
        name = f"compare_{ids}_{self._settings.configuration}_{self._settings.fold}"
        return nnunet_folder("nnUNet_results").absolute() / "fednnunet_runs" / name

    def _settled(self) -> dict[str, Any]:
        """Return what must be the same when the comparison is continued."""
        settings = self._settings
        data = [[source.name, source.case_names, self._splits[source.name]] for source in self._sites]
        return {
            "datasets": [source.name for source in self._sites],
            "CONFIGURATION": settings.configuration,
            "FOLD": settings.fold,
            "--test": settings.test,
            "the cases and folds": digest(data)[:12],
            **{flag.name: _as_json(getattr(settings, flag.dest)) for flag in SETTLED_FLAGS},
        }


def _check_trainer(name: str) -> None:
    """Refuse a trainer that is not there, that rounds cannot use, or that does not take the folds given to it."""
    check_trainer(name)
    if name == DEFAULT_TRAINER:
        return  # looking for it would import torch, which takes seconds
    trainer = find_trainer(name)
    check_hooks(trainer)
    check_split(trainer)


def _held_out_fold(settings: ComparisonSettings) -> int | None:
    """Return the fold whose validation cases test the models; ``None`` if there are test cases for that."""
    if settings.test != "validation":
        return None
    if not settings.fold.isdecimal():
        raise FednnUNetError(
            f"With FOLD {settings.fold} every case trains, so none is left to test with: leave --test out."
        )
    return int(settings.fold)


def _training_title(method: Method) -> str:
    if method.is_pooled:
        return "Centralized: one model is trained with the data of all sites"
    if method.is_federated:
        return f"{method.title}: the sites train together"
    return f"{method.title}: every site trains alone"


def _as_json(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
