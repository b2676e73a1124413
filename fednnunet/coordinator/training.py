"""Federated training of one fold: federated averaging of what the sites' networks share."""

import math
import time
from dataclasses import dataclass
from typing import Literal

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.channel.messages import (
    FoldRequest,
    Method,
    Ready,
    RoundReport,
    Schedule,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.coordinator.exchange import Averaging, Exchange
from fednnunet.coordinator.roster import Roster, ask_all, site_name
from fednnunet.coordinator.stage import NOTHING, Stage
from fednnunet.errors import FednnUNetError
from fednnunet.folds import Fold
from fednnunet.report.events import EventSink, FoldValidated, RoundCompleted, SharingAgreed, SiteShare, StageStarted
from fednnunet.weights.layout import Layout
from fednnunet.weights.sharing import Group, share


@dataclass(frozen=True)
class ScheduleFlags:
    """The coordinator's flags for a training; ``None`` leaves a number to the trainer."""

    rounds: int | None
    local_epochs: int
    iterations_per_epoch: int | None
    val_iterations_per_epoch: int | None
    proximal_mu: float = 0.0

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
            proximal_mu=self.proximal_mu,
        )


@dataclass(frozen=True)
class AveragingFlags:
    """The coordinator's flags for what is averaged, and how."""

    averaging: Averaging
    weighting: Literal["cases", "uniform"] = "cases"
    keep_local: str | None = None
    cohorts: bool = False


class TrainingStage(Stage):
    """Federated averaging over the rounds of a fold.

    In each round sites train (``fit``) and hold their updates; these are averaged part by part, the global model handed
    to the sites in the same parts (see `Exchange`), and validated there (``evaluate``). Each weight travels once in
    either direction.

    Parameters
    ----------
    fold
        The fold to train.
    flags
        The coordinator's numbers.
    averaging
        What is averaged, and how.
    validation_only
        Whether to skip the rounds, as ``--val`` asks.
    roster
        The sites.
    sink
        Takes what happens.
    """

    def __init__(
        self,
        fold: Fold,
        flags: ScheduleFlags,
        averaging: AveragingFlags,
        validation_only: bool,
        roster: Roster,
        sink: EventSink,
    ) -> None:
        self.title = f"fold {fold}"
        self._fold = fold
        self._flags = flags
        self._averaging = averaging
        self._validation_only = validation_only
        self._roster = roster
        self._sink = sink
        self._rounds = range(0)
        self._weights: dict[str, int] = {}
        self._exchange: Exchange
        self._round_started = 0.0

    @property
    def rounds(self) -> range:
        """Numbers of the rounds to do; a continued training starts above 1."""
        return self._rounds

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Let every site prepare the fold, and give all that share a tensor the same one to start from."""
        sites = self._roster.sites
        self._sink.emit(StageStarted(title=f"preparing {self.title}"))
        schedule = self._flags.schedule(ask_all(sites, "offer", FoldRequest(fold=self._fold), TrainingOffer))
        ready = ask_all(sites, "start", schedule, Ready)
        layouts = {site: Layout(tuple(answer.tensors)) for site, answer in ready.items()}
        _check_layouts(layouts, self._roster.hellos[0].method)
        if self._validation_only:
            return NOTHING
        self._rounds = _rounds_left(schedule, ready)
        by_cases = self._averaging.weighting == "cases"
        self._weights = {site: answer.training_cases if by_cases else 1 for site, answer in ready.items()}
        groups = share(layouts, cohorts=self._averaging.cohorts, keep_local=self._averaging.keep_local)
        self._sink.emit(_agreement(layouts, groups))
        self._exchange = Exchange(sites, groups, self._averaging.averaging)
        self._exchange.agree()
        # a pretrained model, where only some sites have it, is the one to start from
        self._exchange.begin([site for site, answer in ready.items() if answer.pretrained])
        self._sink.emit(
            StageStarted(title=f"training {self.title}", rounds=schedule.rounds, first_round=self._rounds.start)
        )
        return NOTHING

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Let every site train, from the model that it has."""
        self._round_started = time.monotonic()
        return [(proxy, FitIns(NOTHING, {})) for proxy in self._roster.sites]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Average the updates that the sites hold, and hand the global model to them."""
        self._exchange.average(server_round, self._weights)
        return NOTHING, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Let every site validate the global model that it has been handed."""
        return [(proxy, EvaluateIns(NOTHING, {})) for proxy in self._roster.sites]

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


def _check_layouts(layouts: dict[str, Layout], method: Method) -> None:
    """Refuse different networks where all sites have the same plans."""
    first, *others = layouts
    for other in others:
        if method == "FFE" and layouts[other].digest != layouts[first].digest:
            raise FednnUNetError(
                f"The network of site {other} is not that of site {first}: use the same plans and trainer everywhere."
            )


def _agreement(layouts: dict[str, Layout], groups: list[Group]) -> SharingAgreed:
    shares = {}
    for site, layout in layouts.items():
        mine = [group.layout for group in groups if site in group.sites]
        shares[site] = SiteShare(
            tensors=sum(len(part.tensors) for part in mine),
            of_tensors=len(layout.tensors),
            parameters=sum(part.size for part in mine),
            of_parameters=layout.size,
        )
    return SharingAgreed(sites=shares)


def _rounds_left(schedule: Schedule, ready: dict[str, Ready]) -> range:
    epochs = {site: answer.completed_epochs for site, answer in ready.items()}
    if len(set(epochs.values())) > 1:
        raise FednnUNetError(
            f"The sites' checkpoints are not of one epoch ({epochs}): train anew without --c, "
            "or give all sites the checkpoint of one."
        )
    completed = next(iter(epochs.values()))
    return range(1 + completed // schedule.local_epochs, schedule.rounds + 1)
