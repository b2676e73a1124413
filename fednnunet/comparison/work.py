"""Builds the ``fednnunet run`` commands of a comparison, and the folders they use."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fednnunet.comparison.flags import (
    ANY_TRAINING_FLAGS,
    COHORT_FLAGS,
    COMMON_PLANS_FLAGS,
    FEDERATED_TRAINING_FLAGS,
    PERSONALIZE,
    PLANNING_FLAGS,
    TESTING_FLAGS,
)
from fednnunet.comparison.methods import Method
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.events.event_files import EVENTS
from fednnunet.launcher.devices import Share
from fednnunet.launcher.steps import Job
from fednnunet.nnunet_defaults import model_folder_name
from fednnunet.settings.flag import Flag
from fednnunet.settings.flags import ASYM, SEED

OTHERS = "others"
"""Name of the folder with the test cases of other sites, and of what is known of them."""

_EXACT = ("--encoding", "float32")
_AUGMENTING = "nnUNet_n_proc_DA"


@dataclass(frozen=True)
class Model:
    """A trained network.

    Parameters
    ----------
    method
        How it came about.
    dataset
        The dataset under whose name nnU-Net keeps it.
    seed
        Of its training.
    """

    method: Method
    dataset: str
    seed: int | None = None


@dataclass(frozen=True)
class Work:
    """Where a comparison keeps what, and the commands that it runs.

    Parameters
    ----------
    folder
        The comparison's folder.
    settings
        What is compared.
    sites
        Names of the sites' datasets.
    pooled
        Name of the dataset that holds all of their data.
    """

    folder: Path
    settings: ComparisonSettings
    sites: Sequence[str]
    pooled: str

    @property
    def raw(self) -> Path:
        """nnU-Net's folder of raw datasets: links to the user's, and all of them pooled."""
        return self.folder / "raw"

    def preprocessed(self, plans: str) -> Path:
        """Return nnU-Net's folder of preprocessed data for ``own``, ``common`` or ``pooled`` plans."""
        return self.folder / "preprocessed" / plans

    def others(self, site: str) -> Path:
        """Return the folder with links to the test cases of all sites but one."""
        return self.folder / OTHERS / site

    def results(self, method: Method, seed: int | None) -> Path:
        """Return nnU-Net's results folder of a method's training."""
        return _of_seed(self.folder / "results" / method.training, seed)

    def run_dir(self, name: str) -> Path:
        """Return where the coordinator keeps the training of that name."""
        return self.folder / "runs" / name.replace(" ", "_")

    def model_folder(self, model: Model) -> Path:
        """Return nnU-Net's folder of a model."""
        settings = self.settings
        plans = settings.plans if model.method.personal_epochs is None else f"{settings.plans}_personal"
        folder = self.results(model.method, model.seed) / model.dataset
        return folder / model_folder_name(settings.trainer, plans, settings.configuration)

    def scores(self, model: Model) -> Path:
        """Return the folder with what a model achieves."""
        return _of_seed(self.folder / "evaluation" / model.method.key, model.seed) / model.dataset

    def models(self, method: Method, seed: int | None) -> list[Model]:
        """Return the models that a method's results are those of."""
        if method.is_pooled:
            return [Model(method, self.pooled, seed)]
        # with tensors that stay at their site, no two sites have the same model
        personal = method.is_personal or self.settings.of(method).keep_local is not None
        return [Model(method, site, seed) for site in (self.sites if personal else self.sites[:1])]

    def planning(self, plans: str) -> Job:
        """Return the job that makes ``own``, ``common`` or ``pooled`` plans, and preprocesses."""
        own, common = ([ASYM.name], []) if plans == "own" else ([], self._words(COMMON_PLANS_FLAGS))
        datasets = [self.pooled] if plans == "pooled" else self.sites
        words = ["plan_and_preprocess", " ".join(datasets), self.settings.configuration, *own, *common]
        words += self._words(PLANNING_FLAGS)
        return Job(f"plans {plans}", words, self._logs(f"plan {plans}"), self._environment(plans))

    def trainings(self, method: Method, shares: Sequence[Share], seed: int | None) -> list[Job]:
        """Return the jobs that train a method's models; several go on at once.

        Parameters
        ----------
        method
            The method; of one with personal models, this is the federation's training.
        shares
            What each of several jobs gets of the machine.
        seed
            Of the training, if it is to be repeatable.
        """
        name = _named(method.training, seed)
        if method.is_federated:
            flags = [*FEDERATED_TRAINING_FLAGS, *(COHORT_FLAGS if method.plans == "own" else ())]
            return [self._training(method, name, self.sites, self._words(flags, method), {}, seed)]
        if method.is_pooled:
            return [self._training(method, name, [self.pooled], _EXACT, {}, seed)]
        # a federation of one is plain nnU-Net, if weights do not lose bits when they travel
        return [
            self._training(method, f"{name} {site}", [site], _EXACT, share.environment, seed)
            for site, share in zip(self.sites, shares, strict=True)
        ]

    def personal_training(self, method: Method, training: Job) -> Job:
        """Return the job in which sites take the model of a training that is done on for some epochs more."""
        words = [*training.words, PERSONALIZE.name, str(method.personal_epochs)]
        return replace(training, name=f"{training.name} personal", words=words, logs=self._logs(f"{training.name} own"))

    def continued(self, job: Job) -> Job:
        """Return a training's job with the flag that goes on where it was interrupted, or begins it."""
        # the first model is kept last of what a training begins with: without one there is nothing to continue
        run_dir = Path(job.words[job.words.index("--run_dir") + 1])
        begun = any(run_dir.glob("fold_*/model_*.npz"))
        more = ["--in_process"] if self.settings.in_process else []  # the weights are the same with and without
        return replace(job, words=[*job.words, *more, "--c" if begun else "--overwrite"])

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
        return self._evaluation(model, datasets, share, "evaluation", [])

    def evaluation_elsewhere(self, model: Model, share: Share | None) -> Job:
        """Return the job that evaluates a site's model on the test cases of all other sites."""
        folder = self.others(model.dataset)
        more = ["-i", str(folder / "imagesTs"), "-l", str(folder / "labelsTs")]
        return self._evaluation(model, [model.dataset], share, "elsewhere", more)

    def scores_elsewhere(self, model: Model) -> Path:
        """Return the folder with what a site's model achieves on the test cases of all other sites."""
        return self.scores(model) / OTHERS

    def events(self, method: Method, seed: int | None) -> Path:
        """Return the file with the events of a federated method's training."""
        name = _named(method.training, seed)
        of_run = self.run_dir(name) / EVENTS
        return of_run if of_run.is_file() else self._logs(name) / EVENTS

    def _evaluation(
        self, model: Model, datasets: Sequence[str], share: Share | None, what: str, more: Sequence[str]
    ) -> Job:
        settings = self.settings
        out = self.scores(model) if what == "evaluation" else self.scores_elsewhere(model)
        words = ["evaluate", " ".join(datasets), settings.configuration, settings.fold]
        words += ["-tr", settings.trainer, "-p", settings.plans, "-device", settings.device, "--min_cases", "1"]
        words += ["-m", str(self.model_folder(model)), "-o", str(out), *more]
        words += self._words(TESTING_FLAGS)
        name = f"{what} {_named(model.method.key, model.seed)} {model.dataset}"
        words += ["--run_dir", str(self.run_dir(name))]
        environment = self._environment(model.method.plans, self.results(model.method, model.seed))
        return Job(name, words, self._logs(name), environment | (share.environment if share else {}))

    def _training(
        self,
        method: Method,
        name: str,
        datasets: Sequence[str],
        flags: Iterable[str],
        more: Mapping[str, str],
        seed: int | None,
    ) -> Job:
        settings = self.settings
        words = ["train", " ".join(datasets), settings.configuration, settings.fold]
        words += [*self._words(ANY_TRAINING_FLAGS, method), *flags, "--run_dir", str(self.run_dir(name))]
        if seed is not None:
            words += [SEED.name, str(seed)]
            more = {key: value for key, value in more.items() if key != _AUGMENTING}  # the training knows what repeats
        if method.is_federated and settings.gpus is not None:
            words += ["--gpus", " ".join(settings.gpus)]
        environment = self._environment(method.plans, self.results(method, seed))
        return Job(name, words, self._logs(name), {**environment, **more})

    def _words(self, flags: Iterable[Flag], method: Method | None = None) -> list[str]:
        settings = self.settings if method is None else self.settings.of(method)
        return [word for flag in flags for word in flag.to_argv(settings)]

    def _logs(self, name: str) -> Path:
        return self.folder / "logs" / name.replace(" ", "_")

    def _environment(self, plans: str, results: Path | None = None) -> dict[str, str]:
        folders = {
            "nnUNet_raw": self.raw,
            "nnUNet_preprocessed": self.preprocessed(plans),
            "nnUNet_results": results or self.folder / "results",
        }
        for folder in folders.values():
            os.makedirs(folder, exist_ok=True)
        return {name: str(folder) for name, folder in folders.items()}


def _of_seed(folder: Path, seed: int | None) -> Path:
    return folder if seed is None else folder / f"seed_{seed}"


def _named(name: str, seed: int | None) -> str:
    return name if seed is None else f"{name} seed {seed}"
