"""Federated training of one fold: federated averaging of what the sites' networks share."""

import logging
import math
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from flwr.common import EvaluateIns, EvaluateRes, FitIns, FitRes, Parameters, Scalar
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy

from fednnunet.background import Background
from fednnunet.channel.messages import (
    FoldRequest,
    Method,
    Ready,
    RoundReport,
    RoundRequest,
    Schedule,
    Start,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.coordinator.attendance import Attendance
from fednnunet.coordinator.common_model import ask_for_model, why_there_is_none
from fednnunet.coordinator.exchange import Exchange, SpoiltUpdates
from fednnunet.coordinator.model_export import export_model
from fednnunet.coordinator.own_labels import of_own_labels
from fednnunet.coordinator.own_models import OwnModels, in_their_time
from fednnunet.coordinator.roster import Roster, ask_all
from fednnunet.coordinator.round_costs import RoundCosts
from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder, RoundRecord, RunDescription, SharedTensors
from fednnunet.coordinator.site import Site, SiteLate, SiteLost, SiteOutOfLine
from fednnunet.coordinator.stage import NOTHING, Stage
from fednnunet.coordinator.training_flags import AveragingFlags, OwnModelFlags, RecoveryFlags, ScheduleFlags
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.folds import Fold
from fednnunet.report.events import (
    EventSink,
    FoldValidated,
    PlansAgreed,
    RoundCompleted,
    SharingAgreed,
    SiteShare,
    StageStarted,
    UpdateOutOfLine,
)
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.norms import Norms
from fednnunet.weights.sharing import NORM, Group, share

logger = logging.getLogger(__name__)

_NO_OWN_MODELS = OwnModelFlags()

_MEAN_NORMALIZATION = (
    "no site has trained with the normalization of this model, the mean of the sites' own. If sites "
    "differ, it may segment nothing. Each site has its own model, in its own results folder"
)


class TrainingStage(Stage):
    """Federated averaging over the rounds of a fold.

    In each round sites train (``fit``) and hold their updates; these are averaged part by part, the global model handed
    to the sites in the same parts (see `Exchange`), and validated there (``evaluate``). Each weight travels once in
    either direction.

    A site that fails, is late or cannot be reached is left out of the round, and given the current global model before
    the next one. A round for which too few sites are left is not completed: it comes again when they are back, and
    sites that still hold their update of it need not train again.

    Parameters
    ----------
    fold
        The fold to train.
    flags
        The coordinator's numbers.
    averaging
        What is averaged, and how.
    recovery
        What is kept, and who may be missing.
    validation_only
        Whether to skip the rounds, as ``--val`` asks.
    roster
        The sites.
    sink
        Takes what happens.
    own_models
        What sites train beside the federation's model.
    """

    tolerates_failures = True

    def __init__(
        self,
        fold: Fold,
        flags: ScheduleFlags,
        averaging: AveragingFlags,
        recovery: RecoveryFlags,
        validation_only: bool,
        roster: Roster,
        sink: EventSink,
        own_models: OwnModelFlags = _NO_OWN_MODELS,
    ) -> None:
        self.title = f"fold {fold}"
        self._fold = fold
        self._flags = flags
        self._averaging = averaging
        self._recovery = recovery
        self._validation_only = validation_only
        self._roster = roster
        self._sink = sink
        self._own_models = own_models
        self._folder = FoldFolder.of(recovery.run_dir, fold)
        self._attendance = Attendance(roster, recovery.min_clients, recovery.give_up_after, sink)
        self._is_finished = False
        self._completed = 0
        self._description: RunDescription
        self._exchange: Exchange
        self._attendees: list[Site] = []
        self._norms = Norms({}, {})
        self._costs = RoundCosts(roster)
        self._is_model_known = False
        self._saving: Background[None] | None = None

    @property
    def rounds(self) -> Iterator[int]:
        """Numbers of the rounds to do; the same one again if it could not be completed."""
        while not self._validation_only and not self._is_finished and self._completed < self._schedule.rounds:
            yield self._completed + 1

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        """Let every site prepare the fold, and give all that share a tensor the same one to start from."""
        if self._validation_only:
            self._attendance.wait_for_all()
            self._description, *_ = self._agree()
            return NOTHING
        try:
            kept = self._kept()
            if self._recovery.resume and kept is not None:
                self._resume(kept)
        except FednnUNetError as error:
            # what is kept can be continued once that is mended here, so the nodes wait for it
            raise CanGoOnError(str(error)) from error
        if not self._recovery.resume or kept is None:
            self._begin(kept)
        if not self._is_finished:
            self._sink.emit(
                StageStarted(
                    title=f"training {self.title}",
                    fold=str(self._fold),
                    rounds=self._schedule.rounds,
                    first_round=self._completed + 1,
                )
            )
        return NOTHING

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Let every site train, from the model that it has."""
        self._costs.attempt()
        sites = self._attendance.muster(self._completed, self._prepare)
        self._learn_model(sites)
        config = self._config("train", server_round)
        return [(site, FitIns(NOTHING, config)) for site in sites]

    def aggregate_fit(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, FitRes]],
        failures: Sequence[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters, dict[str, Scalar]]:
        """Average the updates that the sites hold, and hand the global model to them."""
        self._attendees = []
        self._attendance.leave_out(failures, server_round)
        present = [site for site in self._roster.sites if any(site is proxy for proxy, _ in results)]
        while len(present) >= self._recovery.min_clients:
            self._roster.allow(self._recovery.round_timeout)
            failures = self._gather(present, server_round)
            if failures:
                self._attendance.leave_out(failures, server_round)
                failed = {failure.site for failure in failures}
                present = [site for site in present if site.name not in failed]
                continue
            self._roster.allow(self._recovery.round_timeout)
            with self._costs.exchanging(self._exchange):
                self._attendees, lost = self._exchange.spread(present, server_round)
            self._attendance.leave_out(lost, server_round)
            self._tell_out_of_line(server_round)
            self._completed = server_round
            break
        return NOTHING, {}

    def _gather(self, present: Sequence[Site], number: int) -> list[SiteFailure]:
        """Aggregate updates; return the sites because of which the result cannot become the model.

        Raises
        ------
        CanGoOnError
            If that is most of them, so that it is not for them to mend, or leaves too few.
        """
        try:
            with self._costs.exchanging(self._exchange):
                self._norms = self._exchange.gather(present, number, self._description.sites)
        except SpoiltUpdates as spoilt:
            if 2 * len(spoilt.failures) > len(present):
                raise self._diverged(number, spoilt) from spoilt
            return spoilt.failures
        except SiteFailure as failure:
            return [failure]
        factor = self._recovery.max_update_norm
        ratios = {} if factor is None else self._norms.out_of_line(factor)
        if ratios and len(present) - len(ratios) < self._recovery.min_clients:
            names = ", ".join(ratios)
            raise CanGoOnError(
                f"The update of {names} in round {number} is more than --max_update_norm {factor:g} times the "
                "median of the others, and without it there are fewer sites than --min_clients: check its training "
                "log, and continue with --c and other values."
            )
        return [
            SiteOutOfLine(site, f"its update is {ratio:.0f} times the median of the others, above --max_update_norm")
            for site, ratio in ratios.items()
        ]

    def _diverged(self, number: int, spoilt: SpoiltUpdates) -> CanGoOnError:
        names = ", ".join(failure.site for failure in spoilt.failures)
        kept = [other for other in self._folder.models() if other < number - 1]
        how = (
            f"roll back with 'fednnunet rollback {self._recovery.run_dir} --fold {self._fold} --to {kept[-1]}', and "
            "continue with --c"
            if kept
            else "start over, with a smaller learning rate"
        )
        return CanGoOnError(
            f"The updates of most sites in round {number} are unusable ({names}: {spoilt.reason}), so the model of "
            f"round {number - 1} is spoilt, or the training diverges: {how}."
        )

    def configure_evaluate(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, EvaluateIns]]:
        """Let every site validate the global model that it has been handed; the coordinator keeps it meanwhile."""
        config = self._config("validate", server_round)
        if self._completed == server_round and self._is_kept(server_round):
            self._saving = Background(lambda _: self._folder.keep_model(server_round, self._exchange.state))
        return [(site, EvaluateIns(NOTHING, config)) for site in self._attendees]

    def aggregate_evaluate(
        self,
        server_round: int,
        results: list[tuple[ClientProxy, EvaluateRes]],
        failures: Sequence[tuple[ClientProxy, EvaluateRes] | BaseException],
    ) -> tuple[None, dict[str, Scalar]]:
        """Tell what the sites say of the round's global model, and make the round one that is complete."""
        if self._completed < server_round:
            return None, {}
        self._attendance.leave_out(failures, server_round)
        reports: dict[str, RoundReport] = {}
        for proxy, result in results:
            assert isinstance(proxy, Site)
            try:
                report = RoundReport.from_json(str(result.metrics.get("body")))
                reports[proxy.name] = of_own_labels(report, proxy.hello)
                self._attendance.has_model(proxy, server_round)
            except FednnUNetError as error:
                self._attendance.leave_out([SiteFailure(proxy.name, str(error))], server_round)
        if self._saving is not None:
            self._saving.wait()
            self._saving.result()
            self._saving = None
        seconds = self._costs.seconds
        absent = dict.fromkeys(self._description.sites, "it was not connected") | self._attendance.take_left_out()
        left_out = {name: why for name, why in absent.items() if name not in reports}
        self._folder.append(
            RoundRecord(
                round=server_round,
                seconds=seconds,
                attempts=self._costs.attempts,
                sites=reports,
                left_out=left_out,
                norms=self._norms.weights,
            )
        )
        self._sink.emit(
            RoundCompleted(
                round=server_round,
                rounds=self._schedule.rounds,
                seconds=seconds,
                sites=reports,
                left_out=left_out,
                timing=self._costs.timing,
                traffic=self._costs.traffic,
            )
        )
        self._costs.finish()
        return None, {}

    def conclude(self) -> None:
        """Let every site save the final checkpoint and run nnU-Net's full validation, then train models of its own."""
        if not self._is_finished:
            self._validate()
        if not self._validation_only:
            OwnModels(self._own_models, self._description, self._recovery, self._roster, self._sink).train()

    def _validate(self) -> None:
        if not self._validation_only:
            self._export()
        self._sink.emit(StageStarted(title=f"validating {self.title}"))
        if self._validation_only:
            reports, failures = self._finish_at(self._roster.sites, {})
            if len(reports) < self._recovery.min_clients:
                raise failures[0]
        else:
            reports = self._finish()
            self._folder.describe(self._description.model_copy(update={"finished": True}))
        hellos = {site.name: site.hello for site in self._roster.sites}
        reports = {name: of_own_labels(report, hellos[name]) for name, report in reports.items()}
        self._sink.emit(FoldValidated(fold=str(self._fold), sites=reports))

    @property
    def _schedule(self) -> Schedule:
        return self._description.schedule

    def _tell_out_of_line(self, number: int) -> None:
        """Warn of updates that are much larger than the others of the round."""
        for site, ratio in self._norms.out_of_line().items():
            event = UpdateOutOfLine(site=site, round=number, ratio=ratio if math.isfinite(ratio) else None)
            logger.warning("The update of site %s in round %d %s: check its training log.", site, number, event.finding)
            self._sink.emit(event)

    def _config(self, what: str, number: int) -> dict[str, Scalar]:
        """Return the body of a question about a round, which stays the same when it is asked again."""
        return {"body": RoundRequest(round=number).to_json(), "id": self._question(f"{what} {number}")}

    def _question(self, what: str) -> str:
        return f"{self._description.run} {what}"

    def _is_kept(self, number: int) -> bool:
        return number % self._schedule.save_every == 0 or number == self._schedule.rounds

    def _kept(self) -> RunDescription | None:
        """Return the training that is kept; a damaged one is set aside if it is to be replaced."""
        try:
            return self._folder.description()
        except FednnUNetError:
            if not self._recovery.overwrite:
                raise
            self._folder.set_aside()  # its models may be intact
            return None

    def _begin(self, kept: RunDescription | None) -> None:
        """Agree on a new training."""
        if self._recovery.resume:
            logger.warning("No training of %s in %s to continue: starting it.", self.title, self._folder.path)
        self._attendance.wait_for_all()
        while True:
            self._roster.allow(self._recovery.give_up_after)  # nothing begins without any one of them
            try:
                self._description, layouts, preferred = self._agree()
                groups = self._description.groups
                self._exchange = Exchange(groups, self._averaging.averaging, Layout(tuple(self._description.at_end)))
                self._exchange.begin({site.name: site for site in self._roster.sites}, preferred)
                break
            except SiteLost as lost:
                self._attendance.leave_out([lost], 0)
                self._attendance.wait_for_all()
        self._sink.emit(_agreement(layouts, groups))
        if kept is not None and kept.finished:
            self._folder.set_aside()
        self._folder.begin(self._description, self._exchange.state)

    def _agree(self) -> tuple[RunDescription, dict[str, Layout], list[str]]:
        """Let all sites get ready; return what they agree on, their networks, and who brings a pretrained model."""
        sites = self._roster.sites
        for site in sites:
            site.renew()
        self._sink.emit(StageStarted(title=f"preparing {self.title}"))
        schedule = self._flags.schedule(ask_all(sites, "offer", FoldRequest(fold=self._fold), TrainingOffer))
        run = uuid.uuid4().hex
        start = Start(fold=self._fold, schedule=schedule, run=run, completed=0)
        ready = ask_all(sites, "start", start, Ready)
        layouts = {site: Layout(tuple(answer.tensors)) for site, answer in ready.items()}
        for site in sites:
            if ready[site.name].training_cases > site.hello.cases:
                raise SiteFailure(site.name, f"it reports more than its {site.hello.cases} cases")
        _check_layouts(layouts, self._roster.hellos[0].method)
        keep_local = self._averaging.keep_local
        groups = share(
            layouts,
            cohorts=self._averaging.cohorts,
            keep_local=keep_local,
            normalization={site: answer.normalization for site, answer in ready.items()},
        )
        by_cases = self._averaging.weighting == "cases"
        description = RunDescription(
            run=run,
            fold=self._fold,
            sites={site: answer.training_cases if by_cases else 1 for site, answer in ready.items()},
            plans={hello.site: hello.plans_digest for hello in self._roster.hellos},
            models=sorted({hello.model for hello in self._roster.hellos if hello.model is not None}),
            schedule=schedule,
            averaging=self._averaging.averaging,
            flags=self._averaging.others,
            shared=[SharedTensors(sites=list(g.sites), tensors=list(g.layout.tensors)) for g in groups],
            at_end=self._averaged_at_end(groups, next(iter(layouts.values()))),
        )
        # a pretrained model, where only some sites have it, is the one to start from
        return description, layouts, [site for site, answer in ready.items() if answer.pretrained]

    def _averaged_at_end(self, groups: Sequence[Group], network: Layout) -> list[TensorSpec]:
        """Return which tensors stay at the sites, but for their mean in the model that is exported, if there is one."""
        reason = why_there_is_none(self._roster.hellos, _of_weights(groups), self._averaging.keep_local)
        if self._averaging.keep_local != NORM or reason is not None:
            return []
        shared = set(groups[0].layout.tensors)
        return [tensor for tensor in network.tensors if not tensor.is_of_optimizer and tensor not in shared]

    def _resume(self, kept: RunDescription) -> None:
        """Go on with a training from the last complete round of which there is a model."""
        self._description = kept
        if kept.finished:
            logger.warning("The training of %s in %s is finished.", self.title, self._folder.path)
            self._is_finished = True
            return
        self._flags.check_unchanged(kept.schedule)
        if kept.averaging != self._averaging.averaging or kept.flags != self._averaging.others:
            raise FednnUNetError(
                "The training was started with other flags for aggregation "
                f"({kept.averaging}, {kept.flags}): continue it with the same."
            )
        self._description = kept.model_copy(
            update={"schedule": kept.schedule.model_copy(update={"save_every": self._flags.save_every})}
        )
        self._folder.describe(self._description)  # one of its two files may be lost
        self._exchange = Exchange(kept.groups, kept.averaging, Layout(tuple(kept.at_end)))
        done = self._folder.last_complete()
        self._completed, state = self._folder.last_model(done)
        if self._completed < done:
            logger.warning("Repeating rounds %d to %d, whose models were not saved.", self._completed + 1, done)
        self._folder.forget_after(self._completed)
        self._exchange.restore(state)

    def _prepare(self, site: Site) -> None:
        """Bring a site to where the training is."""
        site.allow(self._recovery.round_timeout)
        description = self._description
        if site.name not in description.sites:
            names = ", ".join(description.sites)
            raise FednnUNetError(f"site {site.name} does not belong to this training of {names}")
        if description.plans.get(site.name) != site.hello.plans_digest:
            raise FednnUNetError("its plans have changed since the training started: restore them")
        start = Start(fold=self._fold, schedule=self._schedule, run=description.run, completed=self._completed)
        # a name of its own: a node that was late goes on with what it is doing when it is asked again
        ready = site.ask("start", start, Ready, question=self._question(f"start {self._completed}"))
        tensors = set(ready.tensors)
        missing = [
            tensor.name
            for group in description.groups
            if site.name in group.sites
            for tensor in group.layout.tensors
            if tensor not in tensors
        ]
        if missing:
            raise FednnUNetError(f"its network lacks the tensor {missing[0]}, which it had when the training started")
        if not ready.has_model:
            self._exchange.bring(site, self._completed)
        if self._completed and not ready.restored and self._schedule.optimizer_state == "local":
            logger.warning("Site %s continues without the state of its optimizer.", site.name)

    def _learn_model(self, sites: Sequence[Site]) -> None:
        """Ask, once, how the network is built, if all sites have one model and it is not known yet."""
        if self._is_model_known:
            return
        self._is_model_known = True
        if self._folder.common_model() is not None:
            return
        groups, hellos = self._description.groups, self._roster.hellos
        reason = why_there_is_none(hellos, _of_weights(groups), self._averaging.keep_local)
        if reason is not None:
            logger.info("The sites have no model in common, %s: each keeps its own, none is exported.", reason)
            return
        model = ask_for_model(sites, hellos, self._description.model)
        if model is not None:
            self._folder.keep_common_model(model)
            self._sink.emit(PlansAgreed(fingerprint=model.fingerprint, plans=model.plans))

    def _export(self) -> None:
        """Write the global model as nnU-Net does, which is worth having even if a site never comes to validate it."""
        if not self._is_model_known:  # all rounds were done when the coordinator was started again
            self._learn_model(self._attendance.muster(self._completed, self._prepare))
        if self._folder.common_model() is None:
            return
        weights, layout, name = self._exchange.state["0.weights"], self._description.model, self._recovery.model_name
        if self._description.at_end:
            kept = self._collect()
            if kept is None:
                return
            weights = np.concatenate([weights, kept])
        exported = export_model(self._recovery.run_dir, self._fold, weights, layout, self._schedule.epochs, name)
        if exported is not None:
            caution = _MEAN_NORMALIZATION if self._description.at_end else None
            self._sink.emit(exported.model_copy(update={"caution": caution}))
            logger.info("The model is in %s: nnUNetv2_install_pretrained_model_from_zip installs it.", exported.archive)

    def _collect(self) -> np.ndarray | None:
        """Return the mean of what stays at the sites, over those that send it; ``None`` if none does."""
        sites = self._attendance.muster(self._completed, self._prepare)
        while sites:
            self._roster.allow(self._recovery.round_timeout)
            try:
                return self._exchange.collect(sites, self._completed, self._description.sites)
            except SiteFailure as failure:
                logger.warning(
                    "The mean in the exported model excludes the normalization of site %s: %s.",
                    *(failure.site, failure.reason.rstrip(".")),
                )
                sites = [site for site in sites if site.name != failure.site]
        logger.warning("The model is not exported: no site has sent its normalization layers.")
        return None

    def _finish(self) -> dict[str, ValidationReport]:
        """Let sites finish; those that fail can come back as long as fewer than needed have finished.

        Raises
        ------
        FednnUNetError
            If a site that is needed takes too long.
        """
        reports: dict[str, ValidationReport] = {}
        while len(reports) < self._recovery.min_clients:
            sites = [
                site
                for site in self._attendance.muster(self._completed, self._prepare, reports)
                if site.name not in reports
            ]
            done, failures = self._finish_at(sites, reports)
            self._attendance.leave_out(failures, self._completed)
            reports |= done
            late = [failure.site for failure in failures if isinstance(failure, SiteLate)]
            if late and len(reports) < self._recovery.min_clients:
                raise FednnUNetError(
                    f"{', '.join(late)} did not finish nnU-Net's full validation within --give_up_after "
                    f"{self._recovery.give_up_after:g} s after the first site: start the coordinator again with --c "
                    "when they can, or with --min_clients to do without; the trained model is complete."
                )
        return {name: reports[name] for name in sorted(reports)}

    def _finish_at(
        self, sites: Sequence[Site], before: Mapping[str, ValidationReport]
    ) -> tuple[Mapping[str, ValidationReport], list[SiteFailure]]:
        """Let sites finish, which takes as long as it takes: a full validation has another size than a round.

        Once the first one has finished, it waits for others: those that are needed get `--give_up_after` more, and once
        enough have finished, the rest no more than a round's time.
        """
        ask = partial(Site.ask, kind="finish", body=None, answer=ValidationReport, question=self._question("finish"))
        return in_their_time(sites, ask, set(before), self._recovery)


def _of_weights(groups: Sequence[Group]) -> int:
    """Return how many of the groups share weights, and not what their optimizers remember."""
    return sum(not group.layout.is_of_optimizer for group in groups)


def _check_layouts(layouts: dict[str, Layout], method: Method) -> None:
    """Refuse different networks where all sites have the same plans."""
    first, *others = layouts
    for other in others:
        if method == "FFE" and layouts[other].digest != layouts[first].digest:
            raise FednnUNetError(
                f"The network of site {other} differs from that of site {first}: use the same plans and trainer."
            )


def _agreement(layouts: dict[str, Layout], groups: list[Group]) -> SharingAgreed:
    shares = {}
    for site, layout in layouts.items():
        mine = [group.layout for group in groups if site in group.sites and not group.layout.is_of_optimizer]
        own = [tensor for tensor in layout.tensors if not tensor.is_of_optimizer]
        shares[site] = SiteShare(
            tensors=sum(len(part.tensors) for part in mine),
            of_tensors=len(own),
            parameters=sum(part.size for part in mine),
            of_parameters=Layout(tuple(own)).size,
        )
    return SharingAgreed(sites=shares)
