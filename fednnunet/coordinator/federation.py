"""The coordinator: admits the sites, runs the stages of the task, takes leave."""

import argparse
import contextlib
import importlib
import logging
import signal
import threading
import time
from collections.abc import Iterator

from flwr.common import ReconnectIns
from flwr.server import Server
from flwr.server.client_proxy import ClientProxy
from flwr.server.history import History

from fednnunet.channel.messages import Farewell, Hello
from fednnunet.coordinator.asymmetric_planning import AsymmetricPlanningStage
from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.preflight import check_agreement, check_federation, check_name_is_free, check_task
from fednnunet.coordinator.roster import Roster, ask, evaluate_all, fit_all
from fednnunet.coordinator.stage import Stage
from fednnunet.coordinator.training import AveragingFlags, ScheduleFlags, TrainingStage
from fednnunet.errors import FednnUNetError
from fednnunet.folds import parse_folds
from fednnunet.report.events import EventSink, Finished, SiteJoined

logger = logging.getLogger(__name__)

_FAREWELL_SECONDS = 10.0
_FINGERPRINTING = "fednnunet.coordinator.fingerprinting"


class Federation(Server):
    """A Flower server that waits for its sites, lets them agree, and runs the stages of a task.

    Parameters
    ----------
    arguments
        Command line of the coordinator.
    sink
        Takes what happens.

    Attributes
    ----------
    error
        What ended the federation before its task was done, if anything did; KeyboardInterrupt if a signal did.
    """

    def __init__(self, arguments: argparse.Namespace, sink: EventSink) -> None:
        self._roster = Roster(arguments.num_clients)
        super().__init__(client_manager=self._roster)
        self._arguments = arguments
        self._sink = sink
        self.error: Exception | KeyboardInterrupt | None = None
        if arguments.task != "train":
            # takes seconds, for nnU-Net's planners and torch: meanwhile the sites can connect
            threading.Thread(target=importlib.import_module, args=(_FINGERPRINTING,), daemon=True).start()

    def fit(self, num_rounds: int, timeout: float | None) -> tuple[History, float]:
        """Run the whole task (called by the channel once nodes can connect); errors are kept in `error`."""
        started = time.monotonic()
        try:
            with _interruptible():
                self._admit_sites()
                for warning in check_federation(self._roster.hellos):
                    logger.warning("%s", warning)
                for stage in self._stages():
                    self._run(stage)
            self._sink.emit(Finished(seconds=time.monotonic() - started))
        except (Exception, KeyboardInterrupt) as error:  # the channel must close in good order whatever happened
            self.error = error
        return History(), time.monotonic() - started

    def disconnect_all_clients(self, timeout: float | None) -> None:
        """Tell every node that can be reached why the federation ends, and let it go (called by the channel)."""
        stopped = isinstance(self.error, KeyboardInterrupt)
        reason = "It was stopped by hand." if stopped else None if self.error is None else str(self.error)
        for proxy in self._client_manager.all().copy().values():
            self._take_leave(proxy, reason)

    def _admit_sites(self) -> None:
        while not self._roster.is_complete:
            proxy = self._roster.next_newcomer()
            try:
                hello = ask(proxy, "hello", None, Hello)
                self._check(hello)
            except FednnUNetError as error:
                logger.warning("Refused a node: %s", error)
                self._take_leave(proxy, str(error))
                continue
            except Exception as error:
                logger.warning("A node left while it was greeted (%s)", type(error).__name__)
                continue
            self._roster.admit(proxy, hello)
            joined = len(self._roster.sites)
            self._sink.emit(SiteJoined(site=hello.site, cases=hello.cases, joined=joined, expected=self._roster.places))
        for proxy in self._roster.remaining_newcomers():
            self._take_leave(proxy, f"All {self._roster.places} places are taken: raise --num_clients to take more.")

    def _check(self, hello: Hello) -> None:
        check_task(hello, self._arguments)
        admitted = self._roster.hellos
        check_name_is_free(hello, admitted)
        if admitted:
            check_agreement(admitted[0], hello)

    def _stages(self) -> list[Stage]:
        task, facts = self._arguments.task, self._roster.hellos[0]
        if task != "train":
            if facts.method == "AsymFedAvg":
                return [AsymmetricPlanningStage(self._roster, self._sink)]
            from fednnunet.coordinator.fingerprinting import FingerprintStage  # training does without it

            return [FingerprintStage(task, self._roster, self._sink)]
        flags = ScheduleFlags(
            self._arguments.rounds,
            self._arguments.local_epochs,
            self._arguments.iterations_per_epoch,
            self._arguments.val_iterations_per_epoch,
            self._arguments.proximal_mu,
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
        validation_only = bool(facts.options.get("--val"))
        return [
            TrainingStage(fold, flags, averaging, validation_only, self._roster, self._sink)
            for fold in parse_folds(str(facts.fold))
        ]

    def _run(self, stage: Stage) -> None:
        parameters = stage.initialize_parameters(self._roster)
        for number in stage.rounds:
            updates = fit_all(stage.configure_fit(number, parameters, self._roster))
            parameters, _ = stage.aggregate_fit(number, updates, [])
            reports = evaluate_all(stage.configure_evaluate(number, parameters, self._roster))
            stage.aggregate_evaluate(number, reports, [])
        stage.conclude()

    def _take_leave(self, proxy: ClientProxy, error: str | None) -> None:
        try:
            ask(proxy, "farewell", Farewell(error=error), Farewell, timeout=_FAREWELL_SECONDS)
            proxy.reconnect(ReconnectIns(seconds=None), timeout=_FAREWELL_SECONDS, group_id=None)
        except Exception as problem:  # it has gone, or is still at work and will see the connection end
            logger.debug("A node could not be told farewell: %s", problem)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; Flower's handlers would end the process without a farewell."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
