"""The coordinator: admits the sites, runs the stages of the task, takes leave."""

import argparse
import concurrent.futures
import importlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.server import Server
from flwr.server.client_proxy import ClientProxy
from flwr.server.history import History

from fednnunet.channel.door import Door
from fednnunet.channel.long_lived.serving import hang_up
from fednnunet.channel.messages import TASKS_WITH_NETWORK, EvaluationRequest, Hello
from fednnunet.coordinator.asymmetric_planning import AsymmetricPlanningStage
from fednnunet.coordinator.evaluating import EvaluationStage
from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.given_plans import GivenPlansStage, check_fits
from fednnunet.coordinator.preflight import check_agreement, check_federation, check_task
from fednnunet.coordinator.receipts import Receipts
from fednnunet.coordinator.refusals import Refusals
from fednnunet.coordinator.roster import Roster, evaluate_all, fit_all
from fednnunet.coordinator.run_dirs import check_run_folder, check_sites_let_go, run_folder
from fednnunet.coordinator.run_folder import CanGoOnError
from fednnunet.coordinator.site import take_leave
from fednnunet.coordinator.stage import Stage
from fednnunet.coordinator.training import TrainingStage
from fednnunet.coordinator.training_flags import AveragingFlags, OwnModelFlags, RecoveryFlags, ScheduleFlags
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.interruption import Terminated, interruptible
from fednnunet.message import cleaned
from fednnunet.report.events import ApprovalAwaited, EventSink, Finished, SiteJoined
from fednnunet.report.status import Contact

logger = logging.getLogger(__name__)

_FINGERPRINTING = "fednnunet.coordinator.fingerprinting"
_GREETING_SECONDS = 20.0
_IN_ORDER_SECONDS = 0.05
_LINGER_SECONDS = 15.0


class Federation(Server):
    """A Flower server that waits for its sites, lets them agree, and runs the stages of a task.

    Parameters
    ----------
    arguments
        Command line of the coordinator.
    sink
        Takes what happens.
    door
        Who may take part.
    given_plans
        Plans to bring to all sites, in place of planning.
    runs
        Folder of the run folders, for one that `arguments` do not name; ``None`` for no such folder.
    on_run_dir
        Is told the run folder, ``None`` if there is none, before anything is done.
    nodes_return
        Whether a node that has failed can be started again meanwhile, so that it is worth waiting for.

    Attributes
    ----------
    run
        Name of this run of the coordinator.
    roster
        The sites.
    error
        What ended the federation before its task was done, if anything did; KeyboardInterrupt if a signal did.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        sink: EventSink,
        door: Door,
        *,
        given_plans: dict[str, Any] | None = None,
        runs: Path | None = None,
        on_run_dir: Callable[[Path | None], None] = lambda run_dir: None,
        nodes_return: bool = True,
    ) -> None:
        self.run = uuid.uuid4().hex
        self.roster = Roster(arguments.num_clients, arguments.contact_timeout, nodes_return)
        super().__init__(client_manager=self.roster)
        self._arguments = arguments
        self._sink = sink
        self._door = door
        self._receipts = Receipts(arguments.run_dir)
        self._refusals = Refusals()
        self._sent_away: FednnUNetError | None = None
        self._admitting = threading.Lock()
        self.error: Exception | KeyboardInterrupt | None = None
        self._given_plans = given_plans
        self._run_dir: Path | None = arguments.run_dir
        self._runs = runs
        self._on_run_dir = on_run_dir
        if arguments.task not in TASKS_WITH_NETWORK and self._given_plans is None:
            # takes seconds, for nnU-Net's planners and torch: meanwhile the sites can connect
            threading.Thread(target=importlib.import_module, args=(_FINGERPRINTING,), daemon=True).start()

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Run the whole task (called by the channel once nodes can connect); errors are kept in `error`."""
        started = time.monotonic()
        try:
            with interruptible():
                threading.Thread(target=self._greet_all, name="fednnunet-greeter", daemon=True).start()
                self.roster.keep_in_touch()
                self._admit_sites()
                for warning in check_federation(self.roster.hellos, has_plans=self._given_plans is not None):
                    logger.warning("%s", warning)
                self._find_run_folder()
                for stage in self._stages():
                    self._run(stage)
                self._wait_for_absent_sites()
            self._sink.emit(Finished(seconds=time.monotonic() - started))
        except (Exception, KeyboardInterrupt) as error:  # the channel must close in good order whatever happened
            self.error = error
        return History(), time.monotonic() - started

    def disconnect_all_clients(self, timeout: float | None) -> None:
        """Tell every node that can be reached why the federation ends, and let it go (called by the channel).

        Nodes of a training that can be continued are left waiting for the coordinator to come back.
        """
        self.roster.close()
        if self._arguments.task == "train" and isinstance(self.error, Terminated | CanGoOnError):
            return
        reason = None if self.error is None else _as_told(self.error)
        sites = self.roster.sites
        own = {site.proxy.cid for site in sites if site.proxy is not None}
        others = [proxy for proxy in self.roster.all().copy().values() if proxy.cid not in own]
        with concurrent.futures.ThreadPoolExecutor(max(1, len(sites) + len(others))) as pool:
            for site in sites:
                pool.submit(site.take_leave, reason)
            for proxy in others:
                pool.submit(take_leave, proxy, self._to_strangers(reason))
        self._receipts.keep(sites)

    def contacts(self) -> Mapping[str, Contact]:
        """Return which sites are connected."""
        return {
            site.name: Contact(
                connected=site.is_connected, at=site.last_contact, waits_for_approval=site.waits_for_approval
            )
            for site in self.roster.sites
        }

    def _to_strangers(self, reason: str | None) -> str:
        """Return what nodes are told that have not been let in, which is nothing about the sites."""
        if self._door.is_guarded:
            return "The federation has ended."
        return self._all_taken if reason is None else reason

    @property
    def _all_taken(self) -> str:
        return f"All {self.roster.places} expected sites have joined: raise --num_clients to admit more."

    def _admit_sites(self) -> None:
        """Wait until enough sites are there to begin, or to go on."""
        continued = self._arguments.task == "train" and self._arguments.c
        needed = self._needed if continued else self.roster.places
        self.roster.wait_for(lambda: len(self.roster.sites) >= needed or self._sent_away is not None)
        if self._sent_away is not None:
            raise self._sent_away
        self.roster.settle()

    @property
    def _needed(self) -> int:
        return int(self._arguments.min_clients or self.roster.places)

    def _find_run_folder(self) -> None:
        """Settle where what the coordinator keeps is, and refuse what must not be mixed with what is there."""
        arguments, hellos = self._arguments, self.roster.hellos
        if self._run_dir is None and self._runs is not None:
            may_be_fewer = arguments.task == "evaluate" or (arguments.c and len(hellos) < self.roster.places)
            self._run_dir = run_folder(self._runs, hellos, may_be_fewer=may_be_fewer)
            self._receipts = Receipts(self._run_dir)
        if arguments.task == "train" and self._run_dir is not None and not hellos[0].options.get("--val"):
            folds = hellos[0].trained_folds
            for check in (check_run_folder, check_sites_let_go):
                check(self._run_dir, folds, hellos, resume=arguments.c, overwrite=arguments.overwrite)
        self._on_run_dir(self._run_dir)

    def _greet_all(self) -> None:
        """Greet every node that connects, in order, but let none that is slow hold up the others."""
        while (proxy := self.roster.next_newcomer()) is not None:
            greeting = threading.Thread(target=self._greet, args=(proxy,), name="fednnunet-greeting", daemon=True)
            greeting.start()
            greeting.join(_IN_ORDER_SECONDS)

    def _greet(self, proxy: ClientProxy) -> None:
        try:
            seconds = min(_GREETING_SECONDS, self._arguments.contact_timeout)
            hello, display_name = self._door.greet(proxy, self.run, seconds)
            known = self.roster.named(hello.site)
            seen = self._check_not_here(hello)  # which may take long, and others shall not wait for it
            with self._admitting:
                if self._node_of(hello.site) != seen:
                    self._check_not_here(hello)
                self._check(hello)
                is_new = self.roster.named(hello.site) is None
                admitted = self.roster.admit(proxy, hello)
                joined = len(self.roster.sites)
        except FednnUNetError as error:
            self._refusals.warn(cleaned(str(error)))
            if not self.roster.nodes_return:
                self._sent_away = error
            take_leave(proxy, str(error))
            hang_up(proxy)
            return
        except Exception as error:  # whatever is not our own error comes out of the channel
            self._refusals.warn(f"it left, or did not answer, during authentication ({type(error).__name__})")
            hang_up(proxy)
            return
        site = self.roster.named(hello.site)
        if site is not None:
            site.on_approval = lambda waits: self._sink.emit(ApprovalAwaited(site=hello.site, waits=waits))
        if admitted and is_new:
            self._sink.emit(SiteJoined(site=hello.site, cases=hello.cases, joined=joined, expected=self.roster.places))
            if self._door.is_guarded:
                called = "" if display_name == hello.site else f" ({display_name})"
                logger.info("Site %s%s authenticated.", hello.site, called)
        elif admitted and known is not None and not known.is_restarted:
            logger.info("Site %s has reconnected.", hello.site)

    def _check(self, hello: Hello) -> None:
        check_task(hello, self._arguments)
        if self._given_plans is not None:
            check_fits(self._given_plans, hello)
        if self.roster.named(hello.site) is None and self.roster.is_complete:
            raise FednnUNetError(self._all_taken)
        others = [other for other in self.roster.hellos if other.site != hello.site]
        if others:
            check_agreement(others[0], hello)

    def _node_of(self, site: str) -> str | None:
        """Return which node a site has, if it takes part."""
        known = self.roster.named(site)
        return None if known is None else known.hello.instance

    def _check_not_here(self, hello: Hello) -> str | None:
        """Refuse a second node of a site, of which the first one answers; return which one that is."""
        seen, known = self._node_of(hello.site), self.roster.named(hello.site)
        if known is not None and known.hello.instance != hello.instance and known.ping():
            raise FednnUNetError(
                f"Site {hello.site} is already connected: start one node per site, with its own dataset or --site."
            )
        return seen

    def _wait_for_absent_sites(self) -> None:
        """Give sites whose connection has just broken the time to hear that all is done."""
        sites = self.roster.sites
        self.roster.wait_for(lambda: all(site.is_connected for site in sites), _LINGER_SECONDS)

    def _stages(self) -> list[Stage]:
        task, facts = self._arguments.task, self.roster.hellos[0]
        if task == "evaluate":
            request = EvaluationRequest(nsd_tolerance=self._arguments.nsd_tolerance)
            return [EvaluationStage(request, self._run_dir, self.roster, self._sink)]
        if task != "train":
            if facts.method == "AsymFedAvg":
                return [AsymmetricPlanningStage(self.roster, self._sink)]
            if self._given_plans is not None:
                return [GivenPlansStage(self._given_plans, self.roster, self._sink)]
            from fednnunet.coordinator.fingerprinting import FingerprintStage  # training does without it

            return [FingerprintStage(task, self.roster, self._sink)]
        flags = ScheduleFlags(
            self._arguments.rounds,
            self._arguments.local_epochs,
            self._arguments.iterations_per_epoch,
            self._arguments.val_iterations_per_epoch,
            self._arguments.proximal_mu,
            self._arguments.save_every,
            self._arguments.optimizer_state,
        )
        averaging = AveragingFlags(
            Averaging(
                self._arguments.encoding,
                self._arguments.aggregation,
                self._arguments.server_optimizer,
                self._arguments.server_lr,
            ),
            self._arguments.weighting,
            self._arguments.keep_local,
            self._arguments.asym_cohorts,
        )
        assert self._run_dir is not None, "a training without a run folder"
        recovery = RecoveryFlags(
            self._run_dir,
            self._arguments.c,
            self._arguments.overwrite,
            self._needed,
            self._arguments.round_timeout,
            self._arguments.give_up_after,
            self._arguments.model_name,
            self._arguments.max_update_norm,
        )
        validation_only = bool(facts.options.get("--val"))
        own = OwnModelFlags(self._arguments.personalize, self._arguments.alone)
        return [
            TrainingStage(fold, flags, averaging, recovery, validation_only, self.roster, self._sink, own)
            for fold in facts.trained_folds
        ]

    def _run(self, stage: Stage) -> None:
        timeout = self._arguments.round_timeout  # for each of the steps between which sites do not wait for each other
        self.roster.allow(timeout)
        parameters = stage.initialize_parameters(self.roster)
        for number in stage.rounds:
            self.roster.allow(timeout)
            updates, failures = fit_all(stage.configure_fit(number, parameters, self.roster), timeout)
            _raise_unless_tolerated(stage, failures)
            self.roster.allow(timeout)
            parameters, _ = stage.aggregate_fit(number, updates, failures)
            reports, failures = evaluate_all(stage.configure_evaluate(number, parameters, self.roster), timeout)
            _raise_unless_tolerated(stage, failures)
            stage.aggregate_evaluate(number, reports, failures)
            self._receipts.keep(self.roster.sites)
        self.roster.allow(timeout)
        stage.conclude()


def _as_told(error: Exception | KeyboardInterrupt) -> str:
    """Return what sites are told of an error; what is not for people may hold anything, another site's data too."""
    if isinstance(error, KeyboardInterrupt):
        return "A user stopped it."
    return str(error) if isinstance(error, FednnUNetError) else "The coordinator has failed, see its output."


def _raise_unless_tolerated(stage: Stage, failures: Sequence[SiteFailure]) -> None:
    if failures and not stage.tolerates_failures:
        raise failures[0]
