"""The commands of a comparison, each ``fednnunet run`` as a user would type it, and the folders that they work in."""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fednnunet.cli.arguments import ASYM
from fednnunet.cli.comparison_flags import (
    ANY_TRAINING_FLAGS,
    COHORT_FLAGS,
    COMMON_PLANS_FLAGS,
    FEDERATED_TRAINING_FLAGS,
    PLANNING_FLAGS,
    TESTING_FLAGS,
)
from fednnunet.cli.nnunet_flags import Flag
from fednnunet.comparison.methods import Method
from fednnunet.launcher.devices import Share
from fednnunet.launcher.steps import Job
from fednnunet.report.events import EVENTS

_EXACT = ("--encoding", "float32")


@dataclass(frozen=True)
class Model:
    """A trained network.

    Parameters
    ----------
    method
        How it came about.
    dataset
        The dataset under whose name nnU-Net keeps it.
    """

    method: Method
    dataset: str


@dataclass(frozen=True)
class Work:
    """Where a comparison keeps what, and the commands that it runs.

    Parameters
    ----------
    folder
        The comparison's folder.
    arguments
        What `fednnunet.cli.comparison_flags.parse_compare` returns.
    sites
        Names of the sites' datasets.
    pooled
        Name of the dataset that holds all of their data.
    """

    folder: Path
    arguments: argparse.Namespace
    sites: Sequence[str]
    pooled: str

    @property
    def raw(self) -> Path:
        """nnU-Net's folder of raw datasets: links to the user's, and all of them pooled."""
        return self.folder / "raw"

    def preprocessed(self, plans: str) -> Path:
        """Return nnU-Net's folder of preprocessed data for ``own``, ``common`` or ``pooled`` plans."""
        return self.folder / "preprocessed" / plans

    def results(self, method: Method) -> Path:
        """Return nnU-Net's results folder of a method."""
        return self.folder / "results" / method.name

    def run_dir(self, name: str) -> Path:
        """Return where the coordinator keeps the training of that name."""
        return self.folder / "runs" / name.replace(" ", "_")

    def model_folder(self, model: Model) -> Path:
        """Return nnU-Net's folder of a model."""
        arguments = self.arguments
        return self.results(model.method) / model.dataset / f"{arguments.tr}__{arguments.p}__{arguments.configuration}"

    def scores(self, model: Model) -> Path:
        """Return the folder with what a model achieves."""
        return self.folder / "evaluation" / model.method.name / model.dataset

    def models(self, method: Method) -> list[Model]:
        """Return the models that a method's results are those of."""
        if method.is_pooled:
            return [Model(method, self.pooled)]
        # with tensors that stay at their site, no two sites have the same model
        personal = method.is_personal or self.arguments.keep_local is not None
        return [Model(method, site) for site in (self.sites if personal else self.sites[:1])]

    def planning(self, plans: str) -> Job:
        """Return the job that makes ``own``, ``common`` or ``pooled`` plans, and preprocesses."""
        own, common = ([ASYM.name], []) if plans == "own" else ([], self._words(COMMON_PLANS_FLAGS))
        datasets = [self.pooled] if plans == "pooled" else self.sites
        words = ["plan_and_preprocess", " ".join(datasets), self.arguments.configuration, *own, *common]
        words += self._words(PLANNING_FLAGS)
        return Job(f"plans {plans}", words, self._logs(f"plan {plans}"), self._environment(plans))

    def trainings(self, method: Method, shares: Sequence[Share]) -> list[Job]:
        """Return the jobs that train a method's models; several go on at once.

        Parameters
        ----------
        method
            The method.
        shares
            What each of several jobs gets of the machine.
        """
        if method.is_federated:
            flags = self._words(FEDERATED_TRAINING_FLAGS) + (self._words(COHORT_FLAGS) if method.is_personal else [])
            return [self._training(method, method.name, self.sites, flags, {})]
        if method.is_pooled:
            return [self._training(method, method.name, [self.pooled], _EXACT, {})]
        # a federation of one is plain nnU-Net, if weights do not lose bits when they travel
        return [
            self._training(method, f"{method.name} {site}", [site], _EXACT, share.environment)
            for site, share in zip(self.sites, shares, strict=True)
        ]

    def continued(self, job: Job) -> Job:
        """Return a training's job with the flag that goes on where it was interrupted, or begins it."""
        # the first model is kept last of what a training begins with: without one there is nothing to continue
        begun = any(self.run_dir(job.name).glob("fold_*/model_*.npz"))
        return Job(job.name, [*job.words, "--c" if begun else "--overwrite"], job.logs, job.environment)

    def evaluation(self, model: Model, datasets: Sequence[str], share: Share | None) -> Job:
        """Return the job that evaluates a model on test cases.

        Parameters
        ----------
        model
            The model.
        datasets
            Names of the datasets whose test cases it gets.
        share
            What the job gets of the machine, if it shares it.
        """
        arguments = self.arguments
        words = ["evaluate", " ".join(datasets), arguments.configuration, arguments.fold]
        words += ["-tr", arguments.tr, "-p", arguments.p, "-device", arguments.device, "--min_cases", "1"]
        words += ["-m", str(self.model_folder(model)), "-o", str(self.scores(model))]
        words += self._words(TESTING_FLAGS)
        name = f"evaluation {model.method.name} {model.dataset}"
        words += ["--run_dir", str(self.run_dir(name))]
        environment = self._environment(model.method.plans, model.method) | (share.environment if share else {})
        return Job(name, words, self._logs(name), environment)

    def events(self, method: Method) -> Path:
        """Return the file with the events of a federated method's training."""
        of_run = self.run_dir(method.name) / EVENTS
        return of_run if of_run.is_file() else self._logs(method.name) / EVENTS

    def _training(
        self, method: Method, name: str, datasets: Sequence[str], flags: Iterable[str], more: dict[str, str]
    ) -> Job:
        arguments = self.arguments
        words = ["train", " ".join(datasets), arguments.configuration, arguments.fold]
        words += [*self._words(ANY_TRAINING_FLAGS), *flags, "--run_dir", str(self.run_dir(name))]
        if method.is_federated and arguments.gpus is not None:
            words += ["--gpus", " ".join(arguments.gpus)]
        return Job(name, words, self._logs(name), self._environment(method.plans, method) | more)

    def _words(self, flags: Iterable[Flag]) -> list[str]:
        return [word for flag in flags for word in flag.to_argv(self.arguments)]

    def _logs(self, name: str) -> Path:
        return self.folder / "logs" / name.replace(" ", "_")

    def _environment(self, plans: str, method: Method | None = None) -> dict[str, str]:
        folders = {
            "nnUNet_raw": self.raw,
            "nnUNet_preprocessed": self.preprocessed(plans),
            "nnUNet_results": self.folder / "results" if method is None else self.results(method),
        }
        for folder in folders.values():
            os.makedirs(folder, exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}
