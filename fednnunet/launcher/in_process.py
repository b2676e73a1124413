"""A whole federation in one process: the coordinator, and nodes that work in turn, without a network.

Sites have what is theirs as they would in processes of their own: random numbers, output, and a trainer, which waits in
main memory while others use the GPU. So each ends with the weights that it would have there.
"""

import contextlib
import contextvars
import importlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from rich.console import Console
from rich.text import Text

from fednnunet.background import Background, Worker
from fednnunet.coordinator.coordinating import coordinate
from fednnunet.coordinator.federation import Federation
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.events.events import Event
from fednnunet.garbage import importing
from fednnunet.interruption import interruptible
from fednnunet.launcher.preflight import check_sites
from fednnunet.launcher.simulation import introduced_as, log_name, make_log_dir, site_names, with_run_dir
from fednnunet.launcher.site_keys import KeysInMemory
from fednnunet.node.dataset import find_dataset
from fednnunet.node.folders import check_folders
from fednnunet.node.gated import alone_in_results, gate
from fednnunet.node.hello import training_hello
from fednnunet.protocol.conversation import NO_CERTIFICATE
from fednnunet.security.authentication import Authenticator
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.node import GateSettings, TrainingSettings
from fednnunet.settings.simulation import SimulationSettings
from fednnunet.transport.long_lived.flower import silence

logger = logging.getLogger(__name__)

_STOP_WITHIN_SECONDS = 10.0
_is_telling: contextvars.ContextVar[bool] = contextvars.ContextVar("is_telling", default=False)
"""Whether this thread is in a function that takes events."""


def run_in_process(settings: SimulationSettings, on_event: Callable[[Event], None] | None = None) -> int:
    """Run a training in this process, and return the exit status.

    Parameters
    ----------
    settings
        The federation.
    on_event
        Is called with each event as it happens.

    Raises
    ------
    FednnUNetError
        If the training cannot start, or has ended before it was done.
    """
    nodes = _trainings(settings)
    os.environ.setdefault("nnUNet_n_proc_DA", "0")  # else each site starts processes that augment, and keeps them
    check_folders(settings.task)
    site_names(settings.datasets)
    check_sites(settings)
    coordinator = with_run_dir(settings).coordinator
    _import_ahead(coordinator)
    log_dir = make_log_dir(settings.log_dir, settings.task, os.environ)
    if coordinator.progress_file is None:
        coordinator = replace(coordinator, progress_file=log_dir / "events.jsonl")
    # this standard output, also while a site's goes elsewhere; whoever takes events shows them
    console = Console(file=sys.stdout if on_event is None else io.StringIO(), highlight=False)
    try:
        with interruptible(), contextlib.ExitStack() as stack:
            keys = KeysInMemory([introduced_as(node) for node in nodes]) if coordinator.secure else None
            sites = _Sites(nodes, log_dir, settings.warm_sites or 1, stack, keys)
            sinks = [] if on_event is None else [_Teller(on_event)]
            authenticator = Authenticator(None if keys is None else keys.rules.sites, NO_CERTIFICATE)
            coordinate(coordinator, authenticator, sites.carry, console, nodes_return=False, more_sinks=sinks)
    finally:
        if not settings.quiet:
            console.print(Text(f"Logs: {log_dir}"), soft_wrap=True)
    return 0


def _trainings(settings: SimulationSettings) -> list[TrainingSettings]:
    """Return the settings of the nodes, once it is sure that they can train in one process."""
    nodes = [node for node in settings.nodes if isinstance(node, TrainingSettings)]
    if not nodes:
        raise FednnUNetError(f"--in_process is for train, not for {settings.task}: leave it out.")
    without_sense = {"port": settings.port, "gpus": settings.gpus, "round_timeout": settings.coordinator.round_timeout}
    for name, value in without_sense.items():
        if value is not None:
            raise FednnUNetError(
                f"--{name} does not apply with --in_process, where sites take turns and need no network: leave it out."
            )
    if os.environ.get("nnUNet_wandb_enabled", "0").lower() in {"1", "true"}:
        raise FednnUNetError(
            "nnUNet_wandb_enabled needs a process for each site: unset it, or leave --in_process out; --wandb covers "
            "all sites."
        )
    return nodes


def _import_ahead(settings: CoordinatorSettings) -> None:
    """Import what threads would while nodes work: nnU-Net goes through all modules to find a trainer."""
    trackers = {"tensorboard_files": True, "wandb_runs": settings.wandb, "mlflow_runs": settings.mlflow}
    with importing():
        importlib.import_module("fednnunet.report.page")
        for name in (name for name, is_wanted in trackers.items() if is_wanted):
            importlib.import_module(f"fednnunet.report.trackers.{name}")


class _Teller:
    """Calls a function with each event."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event

    def emit(self, event: Event) -> None:
        """Call the function; what it prints is shown, whichever site is at work meanwhile."""
        token = _is_telling.set(True)
        try:
            self._on_event(event)
        finally:
            _is_telling.reset(token)


class _Output(io.StringIO):
    """Takes what is printed while a site is at work: standard output is one for all threads.

    Parameters
    ----------
    log
        Gets what the site prints.
    shown
        Gets what is printed by functions that take events.
    """

    def __init__(self, log: IO[str], shown: IO[str]) -> None:
        super().__init__()
        self._log = log
        self._shown = shown

    def write(self, text: str) -> int:
        """Write `text` where it belongs."""
        return (self._shown if _is_telling.get() else self._log).write(text)

    def fileno(self) -> int:
        """Return the number of the log, for processes that write into it."""
        return self._log.fileno()

    def flush(self) -> None:
        """Write out what is held back."""
        (self._shown if _is_telling.get() else self._log).flush()


class _Sites:
    """The nodes, whose work is done in one thread.

    Parameters
    ----------
    nodes
        Settings of each node.
    log_dir
        Folder for their output.
    warm
        Trainers that may be on the device at a time.
    stack
        Holds what they have open.
    keys
        Their keys, if updates leave as terms of masked sums.
    """

    def __init__(
        self,
        nodes: Sequence[TrainingSettings],
        log_dir: Path,
        warm: int,
        stack: contextlib.ExitStack,
        keys: KeysInMemory | None = None,
    ) -> None:
        with importing():
            from fednnunet.launcher.turns import InProcessNode, Turns, named_records
            from fednnunet.node.training import TrainingClient
            from fednnunet.node.warm_trainers import WarmTrainers
        shown = sys.stdout
        self._worker = Worker()
        self._clients: list[TrainingClient] = []
        self._nodes: list[InProcessNode] = []
        places = WarmTrainers(warm)
        stack.enter_context(named_records())
        for settings in nodes:
            name = find_dataset(settings.dataset).name
            log = stack.enter_context((log_dir / log_name(name)).open("a", encoding="utf-8", buffering=1))
            try:
                with contextlib.redirect_stdout(log):
                    dataset, hello = training_hello(settings)
            except FednnUNetError as error:
                if not settings.resume:  # a training begins with all of its sites
                    raise
                logger.warning("Continuing without site %s: %s", name, error)
                continue
            client = TrainingClient(
                settings,
                dataset,
                hello,
                Turns(self._worker, hello.site, _Output(log, shown)),
                places,
                identity=None if keys is None else keys.identities[hello.site],
                rules=None if keys is None else keys.rules,
            )
            self._clients.append(client)
            stack.enter_context(alone_in_results(settings, client))
            stack.enter_context(gate(GateSettings(), settings, client))
            self._nodes.append(InProcessNode(hello.site, client.to_client()))
        stack.callback(self._close)

    def carry(self, federation: Federation) -> None:
        """Let all nodes join a federation, and run it to its end."""
        from fednnunet.launcher.turns import join_in_turn

        silence()
        threading.Thread(target=join_in_turn, args=(self._nodes, federation.registry), daemon=True).start()
        federation.run()
        if isinstance(federation.error, FednnUNetError):
            federation.error = self._explained(federation.error)

    def _explained(self, error: FednnUNetError) -> FednnUNetError:
        """Return what has ended a federation with what nodes say of it, which can be more than they tell others."""
        failures = {client.hello.site: client.failure for client in self._clients if client.failure is not None}
        told = [f"Site {site} failed: {failure}" for site, failure in failures.items()]
        if not (isinstance(error, SiteFailure) and error.site in failures):
            told.append(str(error))
        return FednnUNetError(" ".join(sentence if sentence.endswith(".") else f"{sentence}." for sentence in told))

    def _close(self) -> None:
        """Stop what is going on, and free the trainers."""
        for client in self._clients:
            client.replies.stop()
        if Background(lambda _: None, self._worker).wait(_STOP_WITHIN_SECONDS):
            for client in self._clients:
                client.close()
