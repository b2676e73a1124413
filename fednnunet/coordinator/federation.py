"""The coordinator: admits the sites, runs the task, and disconnects them."""

import concurrent.futures
import importlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fednnunet.coordinator.admission import Admission
from fednnunet.coordinator.agreement import FoldContext
from fednnunet.coordinator.asymmetric_planning import plan_at_each_site
from fednnunet.coordinator.evaluating import evaluate
from fednnunet.coordinator.finishing import validate_only
from fednnunet.coordinator.given_plans import install_given_plans
from fednnunet.coordinator.preflight import check_federation
from fednnunet.coordinator.receipts import Receipts
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import RoundServer, RoundStrategy
from fednnunet.coordinator.run_dirs import check_run_folder, check_sites_let_go, run_folder
from fednnunet.coordinator.run_folder import CanGoOnError
from fednnunet.coordinator.training import train_fold
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import Contact, EventSink, Finished
from fednnunet.folds import Fold
from fednnunet.interruption import Terminated, interruptible
from fednnunet.protocol.messages import TASKS_WITH_NETWORK, EvaluationRequest
from fednnunet.security.authentication import Authenticator
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.transport.connection import disconnect

logger = logging.getLogger(__name__)

_FINGERPRINTING = "fednnunet.coordinator.fingerprinting"
_LINGER_SECONDS = 15.0


class Federation:
    """Waits for the sites of a federation, lets them agree, and runs a task with them.

    Parameters
    ----------
    arguments
        The coordinator's settings.
    sink
        Takes what happens.
    authenticator
        Asks nodes who they are.
    given_plans
        Plans to send to all sites, in place of planning.
    runs
        Folder of the run folders, for one that `arguments` do not name; ``None`` for no such folder.
    on_run_dir
        Is told the run folder, ``None`` if there is none, before anything is done.
    nodes_return
        Whether a node that has failed can be started again meanwhile, so that it is worth waiting for.

    Attributes
    ----------
    registry
        The connected nodes, and the sites among them.
    error
        What ended the federation before its task was done, if anything did; KeyboardInterrupt if a signal did.
    """

    def __init__(
        self,
        arguments: CoordinatorSettings,
        sink: EventSink,
        authenticator: Authenticator,
        *,
        given_plans: dict[str, Any] | None = None,
        runs: Path | None = None,
        on_run_dir: Callable[[Path | None], None] = lambda run_dir: None,
        nodes_return: bool = True,
    ) -> None:
        self.registry = ClientRegistry(arguments.num_clients, arguments.contact_timeout, nodes_return)
        self.error: Exception | KeyboardInterrupt | None = None
        self._arguments = arguments
        self._sink = sink
        self._run_id = uuid.uuid4().hex
        self._listed = authenticator.sites if arguments.secure else None
        self._admission = Admission(arguments, self._run_id, self.registry, authenticator, sink, given_plans)
        self._receipts = Receipts(arguments.run_dir)
        self._given_plans = given_plans
        self._run_dir: Path | None = arguments.run_dir
        self._runs = runs
        self._on_run_dir = on_run_dir
        if arguments.task not in TASKS_WITH_NETWORK and self._given_plans is None:
            # takes seconds, for nnU-Net's planners and torch: meanwhile the sites can connect
            threading.Thread(target=importlib.import_module, args=(_FINGERPRINTING,), daemon=True).start()

    def run(self) -> None:
        """Run the whole task, and disconnect the nodes; errors are kept in `error`."""
        started = time.monotonic()
        try:
            with interruptible(self.registry.cancel):
                self._admission.start()
                self.registry.keep_in_touch()
                continued = self._arguments.task == "train" and self._arguments.resume
                self._admission.wait_for_sites(self._needed if continued else self.registry.places)
                for warning in check_federation(self.registry.hellos, has_plans=self._given_plans is not None):
                    logger.warning("%s", warning)
                self._find_run_folder()
                self.registry.allow(self._arguments.round_timeout)
                self._run_task()
                self._wait_for_absent_sites()
            self._sink.emit(Finished(seconds=time.monotonic() - started))
        except (Exception, KeyboardInterrupt) as error:  # the channel must close in good order whatever happened
            self.error = error
        self.disconnect()

    def disconnect(self) -> None:
        """Tell every node that can be reached why the federation ends, and let it go.

        Nodes of a training that can be continued are left waiting for the coordinator to come back.
        """
        self.registry.close()
        if self._arguments.task == "train" and isinstance(self.error, Terminated | CanGoOnError):
            return
        reason = None if self.error is None else _as_told(self.error)
        sites = self.registry.sites
        own = {site.connection.cid for site in sites if site.connection is not None}
        others = [connection for connection in self.registry.all().copy().values() if connection.cid not in own]
        with concurrent.futures.ThreadPoolExecutor(max(1, len(sites) + len(others))) as pool:
            for site in sites:
                pool.submit(site.disconnect, reason)
            for connection in others:
                pool.submit(disconnect, connection, self._admission.goodbye_to_pending(reason))
        self._receipts.keep(sites)

    def contacts(self) -> Mapping[str, Contact]:
        """Return which sites are connected."""
        return {
            site.name: Contact(
                connected=site.is_connected, at=site.last_contact, waits_for_approval=site.waits_for_approval
            )
            for site in self.registry.sites
        }

    @property
    def _needed(self) -> int:
        return int(self._arguments.min_clients or self.registry.places)

    def _find_run_folder(self) -> None:
        """Settle where what the coordinator keeps is, and refuse what must not be mixed with what is there."""
        arguments, hellos = self._arguments, self.registry.hellos
        if self._run_dir is None and self._runs is not None:
            may_be_fewer = arguments.task == "evaluate" or (arguments.resume and len(hellos) < self.registry.places)
            self._run_dir = run_folder(self._runs, hellos, may_be_fewer=may_be_fewer)
            self._receipts = Receipts(self._run_dir)
        if arguments.task == "train" and self._run_dir is not None and not hellos[0].validates_only:
            folds = hellos[0].trained_folds
            for check in (check_run_folder, check_sites_let_go):
                check(self._run_dir, folds, hellos, resume=arguments.resume, overwrite=arguments.overwrite)
        self._on_run_dir(self._run_dir)

    def _wait_for_absent_sites(self) -> None:
        """Give sites whose connection has just broken the time to hear that all is done."""
        sites = self.registry.sites
        self.registry.wait_for(lambda: all(site.is_connected for site in sites), _LINGER_SECONDS)

    def _run_task(self) -> None:
        task, facts, registry, sink = self._arguments.task, self.registry.hellos[0], self.registry, self._sink
        if task == "train":
            for fold in facts.trained_folds:
                registry.allow(self._arguments.round_timeout)
                self._train(fold)
        elif task == "evaluate":
            evaluate(EvaluationRequest(nsd_tolerance=self._arguments.nsd_tolerance), self._run_dir, registry, sink)
        elif facts.method == "AsymFedAvg":
            plan_at_each_site(registry, sink)
        elif self._given_plans is not None:
            install_given_plans(self._given_plans, registry, sink)
        else:
            from fednnunet.coordinator.fingerprinting import find_fingerprint  # training does without it

            find_fingerprint(task, registry, sink, self._run_rounds, listed=self._listed, run_id=self._run_id)

    def _train(self, fold: Fold) -> None:
        assert self._run_dir is not None, "a training without a run folder"
        context = FoldContext(
            fold, self._arguments, self._run_dir, self._needed, self.registry, self._sink, self._listed
        )
        if self.registry.hellos[0].validates_only:
            validate_only(context)
        else:
            train_fold(context, self._run_rounds)

    def _run_rounds(self, strategy: RoundStrategy, last: int) -> None:
        """Let Flower do all rounds up to this one."""
        server = RoundServer(self.registry, strategy, lambda: self._receipts.keep(self.registry.sites))
        server.fit(last, self._arguments.round_timeout)


def _as_told(error: Exception | KeyboardInterrupt) -> str:
    """Return what sites are told of an error; what is not for people may hold anything, another site's data too."""
    if isinstance(error, KeyboardInterrupt):
        return "A user stopped it."
    return str(error) if isinstance(error, FednnUNetError) else "The coordinator has failed, see its output."
