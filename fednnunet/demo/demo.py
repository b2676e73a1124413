"""``fednnunet demo``: three synthetic hospitals, from raw images to predictions.

It runs the commands of a real federation, compares the federated model with each hospital's model trained alone, and
leaves ordinary nnU-Net folders.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.demo import evaluation
from fednnunet.demo.hospitals import Dataset, write_hospitals
from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import read_events
from fednnunet.launcher import devices
from fednnunet.launcher.steps import Job, Steps
from fednnunet.nnunet_defaults import model_folder_name

_FOLD = "0"
_VAL_ITERATIONS = "4"
_TEST_CASES_3D = 6  # of each hospital: predicting volumes takes its time
_EXAMPLES = 3  # test cases in a picture


@dataclass(frozen=True)
class _Length:
    """How long to train, so that the demo takes minutes on two CPU cores."""

    rounds: int
    iterations_per_epoch: int


LENGTH_2D = _Length(rounds=12, iterations_per_epoch=45)
LENGTH_3D = _Length(rounds=10, iterations_per_epoch=20)


@dataclass(frozen=True)
class Folders:
    """Folders of the demo, all below one.

    Parameters
    ----------
    out
        That folder.
    """

    out: Path

    @property
    def raw(self) -> Path:
        """nnU-Net's folder of raw datasets."""
        return self.out / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        """nnU-Net's folder of preprocessed datasets and plans."""
        return self.out / "nnUNet_preprocessed"

    @property
    def federated(self) -> Path:
        """nnU-Net's results folder of the federated model."""
        return self.out / "nnUNet_results"

    @property
    def own(self) -> Path:
        """nnU-Net's results folder of the models that the hospitals trained alone."""
        return self.out / "own_models"

    @property
    def predictions(self) -> Path:
        """The predictions of the test cases."""
        return self.out / "predictions"

    @property
    def pictures(self) -> Path:
        """One picture for each hospital."""
        return self.out / "pictures"

    @property
    def report(self) -> Path:
        """The report page: the run of the federation, its pictures and the table."""
        return self.out / "report.html"

    @property
    def logs(self) -> Path:
        """Output of the commands."""
        return self.out / "logs"

    def make(self) -> None:
        """Make the folders.

        Raises
        ------
        FednnUNetError
            If there is something already, or the folders cannot be made.
        """
        try:
            if self.out.is_dir() and any(self.out.iterdir()):
                raise FednnUNetError(f"{self.out} is not empty: remove it, or choose another folder with --out.")
            for folder in (self.raw, self.preprocessed, self.federated, self.own, self.logs, self.pictures):
                folder.mkdir(parents=True)
        except OSError as error:
            raise FednnUNetError(
                f"The folder {error.filename} cannot be created ({error.strerror}): choose another with --out."
            ) from error

    def environment(self, results: Path) -> dict[str, str]:
        """Return nnU-Net's environment variables for its folders."""
        return {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(results),
        }


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What the demo does.

    Attributes
    ----------
    out
        A new folder for everything.
    three_dimensional
        Whether to make up volumes, not 2D images.
    seed
        Other patients for another seed.
    rounds, iterations_per_epoch
        Length of the federation; ``None`` for one that takes minutes on two CPU cores.
    device
        ``cuda``, ``cpu`` or ``mps``; ``None`` for a GPU if there is one.
    verbose
        Whether to show what the commands say.
    data_only
        Whether to only make up the hospitals.
    secure
        Whether the coordinator sees sums over all hospitals only.
    """

    out: Path = Path("fednnunet_demo")
    three_dimensional: bool = False
    seed: int = 0
    rounds: int | None = None
    iterations_per_epoch: int | None = None
    device: str | None = None
    verbose: bool = False
    data_only: bool = False
    secure: bool = False


def run_demo(settings: DemoSettings) -> int:
    """Run the demo and return its exit status.

    Raises
    ------
    FednnUNetError
        If the folder is taken or cannot be written, or a step fails.
    """
    # a file of its own, because nnU-Net's output is redirected while the console's spinner turns
    console = Console(file=sys.stdout, highlight=False)
    steps = Steps(console, verbose=settings.verbose)
    with steps.step("Three synthetic hospitals are generated"):
        demo = _Demo(settings)  # refuses what cannot work, so it comes before the folders are made
        folders = demo.folders
        folders.make()
        demo.make_hospitals()
    if settings.data_only:
        _say_what_to_set(console, folders)
        return 0
    with steps.step("They agree on a fingerprint and plans, and preprocess") as step:
        step.run(demo.planning())
    with steps.step("They train one model together") as step:
        step.run(demo.training())
    with steps.step("For comparison, each trains its own model for as long") as step:
        step.run(*demo.own_trainings())
    with steps.step("Both models predict the test cases"):
        scores = demo.evaluate()

    sites = evaluation.score_sites(scores)
    rows = evaluation.rows(sites, {dataset.hospital.name: len(dataset.training_cases) for dataset in demo.datasets})
    evaluation.write_results(folders.out, scores, rows)
    demo.draw(scores)
    demo.write_report(rows)
    console.print()
    console.print(evaluation.table(rows))
    _say_where(console, demo, folders)
    return 0


class _Demo:
    """Commands of each step."""

    def __init__(self, settings: DemoSettings) -> None:
        length = LENGTH_3D if settings.three_dimensional else LENGTH_2D
        self.configuration = "3d_fullres" if settings.three_dimensional else "2d"
        self.device = _device(settings.device)
        self.folders = Folders(settings.out.absolute())
        self.datasets: list[Dataset] = []
        self._three_dimensional = settings.three_dimensional
        self._seed = settings.seed
        self._secure = ("--secure",) if settings.secure else ()
        self._schedule = (
            *("-device", self.device),
            *("--rounds", str(settings.rounds or length.rounds)),
            *("--iterations_per_epoch", str(settings.iterations_per_epoch or length.iterations_per_epoch)),
            *("--val_iterations_per_epoch", _VAL_ITERATIONS),
        )

    def make_hospitals(self) -> None:
        """Write the raw datasets."""
        self.datasets = write_hospitals(
            self.folders.raw,
            three_dimensional=self._three_dimensional,
            seed=self._seed,
            test_cases=_TEST_CASES_3D if self._three_dimensional else None,
        )

    def planning(self) -> Job:
        """Return the job that federates fingerprint and plans."""
        return Job(
            "Planning",
            ("plan_and_preprocess", self._all_ids(), self.configuration, *self._secure),
            self.folders.logs / "plan_and_preprocess",
            self.folders.environment(self.folders.federated),
        )

    def training(self) -> Job:
        """Return the job that trains the federated model."""
        return Job(
            "Training",
            ("train", self._all_ids(), self.configuration, _FOLD, *self._schedule, *self._secure),
            self.folders.logs / "train",
            {**self.folders.environment(self.folders.federated), **self._without_compiling()},
        )

    def own_trainings(self) -> list[Job]:
        """Return the jobs, to be run at once, that train one model for each hospital.

        A federation of one site is plain nnU-Net; with the federation's plans and schedule, all that differs is
        whose images the model has learnt from.
        """
        cores, sites = devices.available_cores(), len(self.datasets)
        gpus = None
        if self.device == "cuda":
            import torch

            gpus = devices.deal_gpus(devices.visible_gpus(os.environ, torch.cuda.device_count()), sites)
        shares = devices.training_shares(self.device, gpus, sites, cores, os.environ)
        return [
            Job(
                dataset.hospital.name,
                ("train", str(dataset.dataset_id), self.configuration, _FOLD, *self._schedule),
                self.folders.logs / f"train_{dataset.hospital.name}_alone",
                {**self.folders.environment(self.folders.own), **self._without_compiling(), **share.environment},
            )
            for dataset, share in zip(self.datasets, shares, strict=True)
        ]

    def evaluate(self) -> list[evaluation.CaseScore]:
        """Predict every hospital's test cases with both models and return the Dice of each case and label."""
        scores = []
        for dataset in self.datasets:
            for results, output in (
                (self.folders.federated, self.federated_predictions(dataset)),
                (self.folders.own, self.folders.predictions / "own" / dataset.name),
            ):
                model = results / dataset.name / model_folder_name("nnUNetTrainer", "nnUNetPlans", self.configuration)
                evaluation.predict(model, _FOLD, dataset, output, self.device, self.folders.logs / "predict.log")
            scores += evaluation.score_cases(
                dataset, self.federated_predictions(dataset), self.folders.predictions / "own" / dataset.name
            )
        return scores

    def federated_predictions(self, dataset: Dataset) -> Path:
        """Return the folder with the federated model's predictions of a hospital's test cases."""
        return self.folders.predictions / "federated" / dataset.name

    def draw(self, scores: Sequence[evaluation.CaseScore]) -> None:
        """Save one picture for each hospital, of its first test cases."""
        from fednnunet.report.pictures import Example, save_picture  # matplotlib takes a second

        dice_of_site = {site.site: site.federated for site in evaluation.score_sites(scores)}
        for dataset in self.datasets:
            examples = []
            for case in dataset.test_cases[:_EXAMPLES]:
                (score,) = evaluation.score_sites([score for score in scores if score.case == case])
                prediction = evaluation.read(self.federated_predictions(dataset) / dataset.labels(case).name)
                examples.append(
                    Example(
                        f"Dice {score.federated:.2f}",
                        evaluation.read(dataset.image(case)),
                        evaluation.read(dataset.labels(case)),
                        prediction,
                        dataset.spacing,
                    )
                )
            name = dataset.hospital.name
            save_picture(
                self.folders.pictures / f"{name}.png",
                f"{name}: federated model, mean Dice {dice_of_site[name]:.2f}",
                examples,
            )

    def write_report(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Write the report page of planning and training, with the table and pictures of the test cases."""
        from fednnunet.report.page import Part, html_table, parts_of, pictures_part, write_page  # bokeh takes a second

        events = [event for job in (self.planning(), self.training()) for event in read_events(job.events)]
        names = [dataset.hospital.name for dataset in self.datasets]
        pictures = [(name, self.folders.pictures / f"{name}.png") for name in names]
        result = html_table(evaluation.COLUMNS, rows[:-1], caption=evaluation.TITLE, foot=rows[-1:])
        parts = [Part("result", "Result", result), pictures_part(pictures), *parts_of(events)]
        write_page(self.folders.report, "FednnU-Net demo", parts, "three synthetic hospitals train one model together")

    def _all_ids(self) -> str:
        return " ".join(str(dataset.dataset_id) for dataset in self.datasets)

    def _without_compiling(self) -> dict[str, str]:
        # compiling such a small network takes longer than training it
        return {} if "nnUNet_compile" in os.environ else {"nnUNet_compile": "f"}


def _device(wanted: str | None) -> str:
    """Return the device to train on; a missing GPU is reported before any work starts."""
    if wanted not in (None, "cuda"):
        return wanted
    import torch  # takes seconds

    if torch.cuda.is_available():
        return "cuda"
    if wanted is not None:
        raise FednnUNetError("No GPU is visible to PyTorch: check the driver, or run the demo with -device cpu.")
    return "cpu"


def _say_where(console: Console, demo: _Demo, folders: Folders) -> None:
    smallest = demo.datasets[-1]
    images = shlex.quote(str(smallest.folder / "imagesTs"))
    by_hand = shlex.quote(str(folders.predictions / "by_hand"))
    lines = (
        f"Report              {folders.report}",
        f"Pictures            {folders.pictures}",
        f"Dice of every case  {folders.out / 'results.csv'}",
        f"Logs                {folders.logs}",
        f"Federated model     {folders.federated}",
        f"Own models          {folders.own}",
        "",
        f"These are ordinary nnU-Net folders. To predict {smallest.hospital.name}'s test cases by hand:",
        f"  {_export(folders)}",
        f"  nnUNetv2_predict -d {smallest.dataset_id} -c {demo.configuration} -f {_FOLD} -device {demo.device} "
        f"-i {images} -o {by_hand}",
    )
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _say_what_to_set(console: Console, folders: Folders) -> None:
    for line in (f"Data  {folders.raw}", "To work with them yourself:", f"  {_export(folders)}"):
        console.print(Text(line), soft_wrap=True)


def _export(folders: Folders) -> str:
    """Return the shell command that sets nnU-Net's folders."""
    variables = folders.environment(folders.federated).items()
    return "export " + " ".join(f"{name}={shlex.quote(value)}" for name, value in variables)
