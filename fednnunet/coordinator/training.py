"""Federated training of one fold: federated averaging of what the sites' networks share."""

import logging
import math
from collections.abc import Sequence

from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.background import Background
from fednnunet.coordinator.agreement import FoldContext, FoldTraining, begin, kept_description, resume
from fednnunet.coordinator.exchange import SpoiltUpdates
from fednnunet.coordinator.exporting import export, learn_model
from fednnunet.coordinator.finishing import validate
from fednnunet.coordinator.masked_exchange import VoidSumError
from fednnunet.coordinator.masked_figures import with_means
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.own_models import OwnModels
from fednnunet.coordinator.round_costs import RoundCosts
from fednnunet.coordinator.rounds import (
    Failures,
    RoundStrategy,
    RunRounds,
    by_site,
    evaluate_instruction,
    fit_instruction,
    site_failures,
)
from fednnunet.coordinator.run_folder import CanGoOnError, RoundRecord
from fednnunet.coordinator.site import Site, SiteOutlier, blamed_on
from fednnunet.errors import SiteFailure
from fednnunet.events.events import RoundCompleted, StageStarted, UpdateOutOfLine
from fednnunet.protocol.conversation import TRAIN, VALIDATE, Answer, Question
from fednnunet.protocol.messages import RoundReport, RoundRequest
from fednnunet.weights.norms import Norms

logger = logging.getLogger(__name__)


def train_fold(context: FoldContext, run_rounds: RunRounds) -> None:
    """Train a fold to its end, from wherever it is: rounds, export, full validation, and models of the sites' own.

    Parameters
    ----------
    context
        What it works with.
    run_rounds
        Does the rounds.

    Raises
    ------
    FednnUNetError
        If it cannot be trained; `CanGoOnError` if it can be continued once something is mended here.
    """
    kept = kept_description(context)
    if kept is not None and kept.finished and context.settings.resume:
        logger.warning("The training of fold %s in %s is finished.", context.fold, context.folder.path)
        description = kept
    else:
        is_resumed = kept is not None and context.settings.resume
        training = resume(context, kept) if kept is not None and is_resumed else begin(context, kept)
        description = training.description
        first, last = training.completed + 1, training.schedule.rounds
        context.sink.emit(StageStarted(stage="training", fold=str(context.fold), rounds=last, first_round=first))
        run_rounds(FederatedAveraging(training), last)
        export(training)
        validate(training)
    OwnModels(context, description).train()


class FederatedAveraging(RoundStrategy):
    """Federated averaging over the rounds of a fold.

    In each round sites train (``fit``) and hold their updates; these are aggregated part by part, the global model sent
    to the sites in the same parts (see `Exchange`), and validated there (``evaluate``). Each weight travels once in
    either direction.

    A site that fails, is late or cannot be reached is left out of the round, and given the current global model before
    the next one. A round for which too few sites are left is not completed: it comes again when they are back, and
    sites that still hold their update of it need not train again.

    Parameters
    ----------
    training
        What was agreed, and how far it is.
    """

    def __init__(self, training: FoldTraining) -> None:
        self._training = training
        self._context = training.context
        self._costs = RoundCosts(training.context.registry)
        self._norms = Norms({}, {})
        self._validating: list[Site] = []
        """The sites that have the global model of the round."""
        self._saving: Background[None] | None = None

    @property
    def next_round(self) -> int:
        """The one after the last complete one."""
        return self._training.completed + 1

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Let every site train that has the current global model, once they are enough."""
        self._costs.attempt()
        sites = self._training.wait_for_quorum()
        learn_model(self._training)
        instruction = fit_instruction(self._question(TRAIN, f"train {server_round}", server_round))
        return [(site, instruction) for site in sites]

    def aggregate_fit(
        self, server_round: int, results: list[tuple[ClientProxy, FitRes]], failures: Failures
    ) -> tuple[None, dict[str, Scalar]]:
        """Aggregate the updates that the sites hold, and send them the global model; it is kept meanwhile."""
        self._validating = []
        self._leave_out(site_failures(failures), server_round)
        present = []
        for site, told in by_site(results).items():
            try:
                with blamed_on(site):
                    self._training.exchange.note(site, Answer.from_config(told))
                present.append(site)
            except SiteFailure as failure:
                self._leave_out([failure], server_round)
        while len(present) >= self._context.min_clients:
            try:
                unusable = self._aggregate(present, server_round)
            except VoidSumError as void:
                logger.warning("Round %d begins anew: %s.", server_round, void)
                self._training.begin_round_anew()
                self._leave_out(void.failures, server_round)
                break
            if not unusable:
                self._broadcast(present, server_round)
                break
            self._leave_out(unusable, server_round)
            failed = {failure.site for failure in unusable}
            present = [site for site in present if site.name not in failed]
        return None, {}

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Let every site validate the global model that it has."""
        instruction = evaluate_instruction(self._question(VALIDATE, f"validate {server_round}", server_round))
        return [(site, instruction) for site in self._validating]

    def aggregate_evaluate(
        self, server_round: int, results: list[tuple[ClientProxy, EvaluateRes]], failures: Failures
    ) -> tuple[float | None, dict[str, Scalar]]:
        """Take what the sites say of the round's global model, and make the round one that is complete."""
        self._leave_out(site_failures(failures), server_round)
        reports: dict[str, RoundReport] = {}
        for site, told in by_site(results).items():
            try:
                with blamed_on(site):
                    reports[site.name] = of_own_labels(Answer.from_config(told).read(RoundReport), site.hello)
                self._context.participation.has_model(site, server_round)
            except SiteFailure as failure:
                self._leave_out([failure], server_round)
        reports = with_means(self._training, server_round, reports)
        self._complete(server_round, reports)
        return _mean_loss(reports, self._training.description.sites), {}

    def _question(self, kind: str, what: str, number: int) -> Question:
        return Question.of(kind, RoundRequest(round=number), id=self._training.question_id(what))

    def _leave_out(self, failures: Sequence[SiteFailure], number: int) -> None:
        self._context.participation.leave_out(failures, number)

    def _aggregate(self, present: Sequence[Site], number: int) -> list[SiteFailure]:
        """Aggregate updates; return the sites because of which the result cannot become the model.

        Raises
        ------
        CanGoOnError
            If that is most of them, so that it is not for them to mend, or leaves too few.
        """
        context, exchange = self._context, self._training.exchange
        context.registry.allow(context.settings.round_timeout)
        try:
            with self._costs.exchanging(exchange):
                self._norms = exchange.aggregate(present, number, self._training.description.sites)
        except SpoiltUpdates as spoilt:
            if 2 * len(spoilt.failures) > len(present):
                raise self._diverged(number, spoilt) from spoilt
            return spoilt.failures
        except SiteFailure as failure:
            return [failure]
        factor = context.settings.max_update_norm
        ratios = {} if factor is None else self._norms.outliers(factor)
        if ratios and len(present) - len(ratios) < context.min_clients:
            names = ", ".join(ratios)
            raise CanGoOnError(
                f"The update of {names} in round {number} is more than --max_update_norm {factor:g} times the "
                "median of the others, and without it there are fewer sites than --min_clients: check its training "
                "log, and continue with --c and other values."
            )
        return [
            SiteOutlier(site, f"its update is {ratio:.0f} times the median of the others, above --max_update_norm")
            for site, ratio in ratios.items()
        ]

    def _diverged(self, number: int, spoilt: SpoiltUpdates) -> CanGoOnError:
        names = ", ".join(failure.site for failure in spoilt.failures)
        kept = [other for other in self._context.folder.models() if other < number - 1]
        run_dir, fold = self._context.run_dir, self._context.fold
        how = (
            (f"roll back with 'fednnunet rollback {run_dir} --fold {fold} --to {kept[-1]}', and continue with --c")
            if kept
            else "start over, with a smaller learning rate"
        )
        return CanGoOnError(
            f"The updates of most sites in round {number} are unusable ({names}: {spoilt.reason}), so the model of "
            f"round {number - 1} is spoilt, or the training diverges: {how}."
        )

    def _broadcast(self, present: Sequence[Site], number: int) -> None:
        """Make what was aggregated the global model, and send it to the sites."""
        exchange, folder = self._training.exchange, self._context.folder
        self._context.registry.allow(self._context.settings.round_timeout)
        with self._costs.exchanging(exchange):
            self._validating, lost = exchange.broadcast(present, number)
        self._leave_out(lost, number)
        self._tell_outliers(number)
        self._training.completed = number
        if self._is_kept(number):
            self._saving = Background(lambda _: folder.keep_model(number, exchange.state))
        if not self._validating:  # so that Flower asks nobody
            self._complete(number, {})

    def _is_kept(self, number: int) -> bool:
        schedule = self._training.schedule
        return number % schedule.save_every == 0 or number == schedule.rounds

    def _tell_outliers(self, number: int) -> None:
        """Warn of updates that are much larger than the others of the round."""
        for site, ratio in self._norms.outliers().items():
            event = UpdateOutOfLine(site=site, round=number, ratio=ratio if math.isfinite(ratio) else None)
            logger.warning("The update of site %s in round %d %s: check its training log.", site, number, event.finding)
            self._context.sink.emit(event)

    def _complete(self, number: int, reports: dict[str, RoundReport]) -> None:
        """Write down, and tell, that a round is complete."""
        if self._saving is not None:
            self._saving.result()
            self._saving = None
        self._context.folder.forget_keys()
        seconds, training = self._costs.seconds, self._training
        absent = dict.fromkeys(training.description.sites, "it was not connected")
        absent |= self._context.participation.take_left_out()
        left_out = {name: why for name, why in absent.items() if name not in reports}
        self._context.folder.append(
            RoundRecord(
                round=number,
                seconds=seconds,
                attempts=self._costs.attempts,
                sites=reports,
                left_out=left_out,
                norms=self._norms.weights,
            )
        )
        self._context.sink.emit(
            RoundCompleted(
                round=number,
                rounds=training.schedule.rounds,
                seconds=seconds,
                sites=reports,
                left_out=left_out,
                timing=self._costs.timing,
                traffic=self._costs.traffic,
            )
        )
        self._costs.finish()


def _mean_loss(reports: dict[str, RoundReport], weights: dict[str, int]) -> float | None:
    """Return the mean validation loss over the sites that tell one."""
    losses = {site: report.val_loss for site, report in reports.items() if report.val_loss is not None}
    total = sum(weights[site] for site in losses)
    return sum(weights[site] * loss for site, loss in losses.items()) / total if total else None
