"""The settings of a comparison."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fednnunet.comparison.methods import METHODS, Method
from fednnunet.settings.node import MeasuringSettings, PredictionSettings
from fednnunet.settings.training import AveragingSettings, ScheduleSettings


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings(MeasuringSettings, ScheduleSettings, AveragingSettings, PredictionSettings):
    """Which methods are compared, on what, and what all of their trainings have in common.

    Attributes
    ----------
    datasets
        Id or name of each site's dataset.
    configuration, fold, trainer, plans, device
        As nnU-Net means them.
    external
        Datasets that only test the models.
    methods
        What is compared.
    seeds
        Each method is trained once with each of these.
    in_process
        Whether a federation is trained in one process, site after site.
    test
        Whether sites test with their test cases, or with the validation cases of the fold.
    out
        Folder for everything; ``None`` for one in nnU-Net's results.
    overwrite
        Whether to remove what was done there.
    gpus
        GPU of each site; ``None`` for round robin.
    verbose
        Whether to show what the commands say.
    save_every, min_clients, give_up_after, round_timeout, personalize, nsd_tolerance
        See `CoordinatorSettings`.
    """

    datasets: tuple[str, ...]
    configuration: str
    fold: str
    trainer: str = "nnUNetTrainer"
    plans: str = "nnUNetPlans"
    device: str = "cuda"
    external: tuple[str, ...] = ()
    methods: tuple[Method, ...] = tuple(METHODS.values())
    seeds: tuple[int | None, ...] = (None,)
    in_process: bool = False
    test: Literal["test", "validation"] = "test"
    out: Path | None = None
    overwrite: bool = False
    gpus: tuple[str, ...] | None = None
    verbose: bool = False
    save_every: int = 1
    min_clients: int | None = None
    give_up_after: float | None = None
    round_timeout: float | None = None
    personalize: int | None = None
    nsd_tolerance: float | None = None

    def of(self, method: Method) -> "ComparisonSettings":
        """Return the settings as they are for a method."""
        return replace(self, **method.changes)
