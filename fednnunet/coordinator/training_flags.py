"""Settings of a training, from the coordinator's flags and the sites' offers."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from fednnunet.coordinator.exchange import Averaging
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import OptimizerStateName, OwnModel, Schedule, TrainingOffer
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.values import DEFAULT_MODEL_NAME


@dataclass(frozen=True)
class ScheduleFlags:
    """The coordinator's flags for a training; ``None`` leaves a number to the trainer."""

    rounds: int | None
    local_epochs: int
    iterations_per_epoch: int | None
    val_iterations_per_epoch: int | None
    proximal_mu: float = 0.0
    save_every: int = 1
    optimizer_state: OptimizerStateName = "local"

    def schedule(self, offers: dict[str, TrainingOffer]) -> Schedule:
        """Return the numbers that hold for every node.

        Raises
        ------
        FednnUNetError
            If a number is left to the trainers and they do not agree.
        """
        epochs = _agreed("num_epochs", {site: offer.epochs for site, offer in offers.items()}, "--rounds", self.rounds)
        return Schedule.of(
            rounds=self.rounds or math.ceil(epochs / self.local_epochs),
            local_epochs=self.local_epochs,
            iterations_per_epoch=_agreed(
                "num_iterations_per_epoch",
                {site: offer.iterations_per_epoch for site, offer in offers.items()},
                "--iterations_per_epoch",
                self.iterations_per_epoch,
            ),
            val_iterations_per_epoch=_agreed(
                "num_val_iterations_per_epoch",
                {site: offer.val_iterations_per_epoch for site, offer in offers.items()},
                "--val_iterations_per_epoch",
                self.val_iterations_per_epoch,
            ),
            proximal_mu=self.proximal_mu,
            save_every=self.save_every,
            optimizer_state=self.optimizer_state,
        )

    def check_unchanged(self, schedule: Schedule) -> None:
        """Refuse to continue a training with other numbers than it began with.

        Raises
        ------
        FednnUNetError
            Names the flag.
        """
        for name in (
            *("rounds", "local_epochs", "iterations_per_epoch", "val_iterations_per_epoch"),
            *("proximal_mu", "optimizer_state"),
        ):
            given, begun = getattr(self, name), getattr(schedule, name)
            if given is not None and given != begun:
                raise FednnUNetError(
                    f"The training was started with --{name} {begun}, not {given}: continue it with the same value."
                )


@dataclass(frozen=True)
class AveragingFlags:
    """The coordinator's flags for aggregation."""

    averaging: Averaging
    weighting: Literal["cases", "uniform"] = "cases"
    keep_local: str | None = None
    cohorts: bool = False

    @property
    def others(self) -> dict[str, str | bool | None]:
        """The flags apart from `averaging`, by name."""
        return {"weighting": self.weighting, "keep_local": self.keep_local, "asym_cohorts": self.cohorts}


@dataclass(frozen=True)
class OwnModelFlags:
    """The coordinator's flags for models that sites train beside the federation's.

    Attributes
    ----------
    personalize
        Epochs for which each site trains the federation's model on; ``None`` for no personal models.
    alone
        Whether each site also trains one alone.
    """

    personalize: int | None = None
    alone: bool = False

    def epochs(self, schedule: Schedule) -> dict[OwnModel, int]:
        """Return how many epochs each of the models is trained that are asked for, in order.

        A model that is trained alone gets those of the federation and, for equal work, those of the personal model.
        """
        found: dict[OwnModel, int] = {} if self.personalize is None else {"personal": self.personalize}
        return found | ({"alone": schedule.epochs + (self.personalize or 0)} if self.alone else {})


@dataclass(frozen=True)
class RecoveryFlags:
    """The coordinator's flags for recovery and absent sites.

    Attributes
    ----------
    run_dir
        Where the training is kept.
    resume
        Whether to go on with the one that is kept there.
    overwrite
        Whether one that is not finished may be replaced.
    min_clients
        Sites without which no round is completed.
    round_timeout
        Seconds that sites get for training a round.
    give_up_after
        Seconds to wait for sites that are missing.
    model_name
        What the dataset is called in the exported model.
    max_update_norm
        How many times the usual norm of the other sites' updates an update may have; ``None`` for any.
    """

    run_dir: Path
    resume: bool
    overwrite: bool
    min_clients: int
    round_timeout: float | None
    give_up_after: float | None
    model_name: str = DEFAULT_MODEL_NAME
    max_update_norm: float | None = None


class TrainingFlags(NamedTuple):
    """All that the coordinator has been told about a training."""

    schedule: ScheduleFlags
    averaging: AveragingFlags
    recovery: RecoveryFlags
    own_models: OwnModelFlags


def training_flags(settings: CoordinatorSettings, run_dir: Path, min_clients: int) -> TrainingFlags:
    """Return what settings say about a training that is kept in this folder, and needs so many sites."""
    return TrainingFlags(
        schedule=ScheduleFlags(
            rounds=settings.rounds,
            local_epochs=settings.local_epochs,
            iterations_per_epoch=settings.iterations_per_epoch,
            val_iterations_per_epoch=settings.val_iterations_per_epoch,
            proximal_mu=settings.proximal_mu,
            save_every=settings.save_every,
            optimizer_state=settings.optimizer_state,
        ),
        averaging=AveragingFlags(
            averaging=Averaging(
                encoding=settings.encoding,
                aggregation=settings.aggregation,
                server_optimizer=settings.server_optimizer,
                server_lr=settings.server_lr,
            ),
            weighting=settings.weighting,
            keep_local=settings.keep_local,
            cohorts=settings.asym_cohorts,
        ),
        recovery=RecoveryFlags(
            run_dir=run_dir,
            resume=settings.resume,
            overwrite=settings.overwrite,
            min_clients=min_clients,
            round_timeout=settings.round_timeout,
            give_up_after=settings.give_up_after,
            model_name=settings.model_name,
            max_update_norm=settings.max_update_norm,
        ),
        own_models=OwnModelFlags(personalize=settings.personalize, alone=settings.alone),
    )


def _agreed(name: str, by_site: dict[str, int], flag: str, chosen: int | None) -> int:
    if chosen is not None:
        return chosen
    if len(set(by_site.values())) > 1:
        raise FednnUNetError(
            f"The sites' trainers differ in {name} ({by_site}): choose with {flag} at the coordinator."
        )
    return next(iter(by_site.values()))
