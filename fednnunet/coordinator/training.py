"""Federated training of one fold: federated averaging, weighted by training cases."""

import math
import time
from dataclasses import dataclass

import numpy as np
from flwr.common import (
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    Parameters,
    Scalar,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import FoldRequest, Ready, RoundReport, Schedule, TrainingOffer, ValidationReport
from fednnunet.coordinator.roster import Roster, ask_all, fetch_model, site_name
from fednnunet.coordinator.stage import NOTHING, Stage
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.folds import Fold
from fednnunet.report.events import EventSink, FoldValidated, RoundCompleted, StageStarted
from fednnunet.weights.average import weighted_mean


@dataclass(frozen=True)
class ScheduleFlags:
    """The coordinator's flags for a training; ``None`` leaves a number to the trainer."""

    rounds: int | None
    local_epochs: int
    iterations_per_epoch: int | None
    val_iterations_per_epoch: int | None

    def schedule(self, offers: dict[str, TrainingOffer]) -> Schedule:
        """Return the numbers that hold for every node.

        Raises
        ------
        FednnUNetError
            If a number is left to the trainers and they do not agree.
        """
        epochs = _agreed("num_epochs", {site: offer.epochs for site, offer in offers.items()}, "--rounds", self.rounds)
        return Schedule(
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
        )


class TrainingStage(Stage):
    """Federated averaging over the rounds of a fold.

    The model travels once in each direction: up as the result of ``fit``, down with ``evaluate``, where sites validate
    it and keep it for the next round. Only in the first round, before which the sites' models differ, does ``fit``
    carry it too.

    Parameters
    ----------
    fold
        The fold to train.
    flags
        The coordinator's numbers.
    validation_only
        Whether to skip the rounds, as ``--val`` asks.
    roster
        The sites.
    sink
        Takes what happens.
    """

    def __init__(
        self, fold: Fold, flags: ScheduleFlags, validation_only: bool, roster: Roster, sink: EventSink
    ) -> None:
        self.title = f"fold {fold}"
        self._fold = fold
        self._flags = flags
        self._validation_only = validation_only
        self._roster = roster
        self._sink = sink
        self._rounds = range(0)
        self._cases: dict[str, int] = {}
        self._round_started = 0.0

    @property
    def rounds(self) -> range:
        """Numbers of the rounds to do; a continued training starts above 1."""
        return self._rounds

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Let every site prepare the fold and return the first global model, that of the first site."""
        sites = self._roster.sites
        self._sink.emit(StageStarted(title=f"preparing {self.title}"))
        schedule = self._flags.schedule(ask_all(sites, "offer", FoldRequest(fold=self._fold), TrainingOffer))
        ready = ask_all(sites, "start", schedule, Ready)
        _check_layouts(ready)
        self._cases = {site: answer.training_cases for site, answer in ready.items()}
        if self._validation_only:
            return NOTHING
        self._rounds = _rounds_left(schedule, ready)
        self._sink.emit(
            StageStarted(title=f"training {self.title}", rounds=schedule.rounds, first_round=self._rounds.start)
        )
        # a pretrained model, where only some sites have it, is the one to start from
        return fetch_model(max(sites, key=lambda proxy: ready[site_name(proxy)].pretrained))

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Let every site train, from the model that it has or, in the first round, from the first global one."""
        self._round_started = time.monotonic()
        start_from = parameters if server_round == self._rounds.start else NOTHING
        return [(proxy, FitIns(start_from, {})) for proxy in self._roster.sites]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Average the updates, each weighted by the site's number of training cases."""
        mean = weighted_mean(
            (_update(site_name(proxy), result.parameters), self._cases[site_name(proxy)]) for proxy, result in results
        )
        return ndarrays_to_parameters([mean]), {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Hand the global model to every site, to validate it and to go on from it."""
        return [(proxy, EvaluateIns(parameters, {})) for proxy in self._roster.sites]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: list[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[None, dict[str, Scalar]]:
        """Tell what the sites say of the round's global model."""
        reports = {site_name(proxy): RoundReport.from_json(str(result.metrics["body"])) for proxy, result in results}
        seconds = time.monotonic() - self._round_started
        rounds = self._rounds.stop - 1
        self._sink.emit(RoundCompleted(round=server_round, rounds=rounds, seconds=seconds, sites=reports))
        return None, {}

    def conclude(self) -> None:
        """Let every site save the final checkpoint and run nnU-Net's full validation."""
        self._sink.emit(StageStarted(title=f"validating {self.title}"))
        reports = ask_all(self._roster.sites, "finish", None, ValidationReport)
        self._sink.emit(FoldValidated(fold=str(self._fold), sites=reports))


def _agreed(name: str, by_site: dict[str, int], flag: str, chosen: int | None) -> int:
    if chosen is not None:
        return chosen
    if len(set(by_site.values())) > 1:
        raise FednnUNetError(
            f"The sites' trainers differ in {name} ({by_site}): choose with {flag} at the coordinator."
        )
    return next(iter(by_site.values()))


def _check_layouts(ready: dict[str, Ready]) -> None:
    first, *others = ready
    for other in others:
        if ready[other].layout_digest != ready[first].layout_digest:
            raise FednnUNetError(
                f"The network of site {other} is not that of site {first}: use the same plans and trainer everywhere."
            )


def _rounds_left(schedule: Schedule, ready: dict[str, Ready]) -> range:
    epochs = {site: answer.completed_epochs for site, answer in ready.items()}
    if len(set(epochs.values())) > 1:
        raise FednnUNetError(
            f"The sites' checkpoints are not of one epoch ({epochs}): train anew without --c, "
            "or give all sites the checkpoint of one."
        )
    completed = next(iter(epochs.values()))
    return range(1 + completed // schedule.local_epochs, schedule.rounds + 1)


def _update(site: str, parameters: Parameters) -> np.ndarray:
    """Return the packed model that a site sent."""
    arrays = parameters_to_ndarrays(parameters)
    if len(arrays) != 1 or arrays[0].ndim != 1 or arrays[0].dtype != np.float32:
        raise SiteFailure(site, "its update is not one flat float32 array")
    if not np.isfinite(arrays[0]).all():
        raise SiteFailure(site, "its update has NaN or infinite weights; see its training log")
    return arrays[0]
