"""A whole federation in one process: the coordinator, and nodes that work in turn, without a network.

Sites have what is theirs as they would in processes of their own: random numbers, output, and a trainer, which waits in
main memory while others use the GPU. So each ends with the weights that it would have there.
"""

import argparse
import contextlib
import contextvars
import importlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from flwr.common import (
    Code,
    DisconnectRes,
    EvaluateIns,
    EvaluateRes,
    FitIns,
    FitRes,
    GetParametersIns,
    GetParametersRes,
    GetPropertiesIns,
    GetPropertiesRes,
    ReconnectIns,
    Status,
    ndarrays_to_parameters,
)
from flwr.server.client_manager import ClientManager
from flwr.server.client_proxy import ClientProxy
from rich.console import Console
from rich.text import Text

from fednnunet.background import Background, Worker
from fednnunet.channel.door import Door
from fednnunet.channel.gate import Gate
from fednnunet.channel.identity import NO_CERTIFICATE
from fednnunet.channel.long_lived.flower import silence
from fednnunet.channel.long_lived.joining import answer
from fednnunet.cli.arguments import parse_client, parse_server
from fednnunet.cli.coordinating import coordinate
from fednnunet.cli.trust import alone_in_results, gate
from fednnunet.coordinator.federation import Federation
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.garbage import importing
from fednnunet.interruption import interruptible
from fednnunet.launcher.preflight import check_sites
from fednnunet.launcher.simulation import client_words, make_log_dir, server_words, training_run_dir
from fednnunet.node.hello import training_hello

_STOP_WITHIN_SECONDS = 10.0
_OK = Status(Code.OK, "")
_speaker: contextvars.ContextVar[str | None] = contextvars.ContextVar("speaker", default=None)
"""The site whose node is at work, where one is."""


def run_in_process(arguments: argparse.Namespace) -> int:
    """Run the training that a command line of ``run --in_process`` asks for, and return the exit status.

    Parameters
    ----------
    arguments
        What `fednnunet.cli.arguments.parse_run` returns.

    Raises
    ------
    FednnUNetError
        If the training cannot start, or has ended before it was done.
    """
    _check_flags(arguments)
    arguments = argparse.Namespace(**{**vars(arguments), "port": arguments.port or 1})  # nobody listens
    os.environ.setdefault("nnUNet_n_proc_DA", "0")  # else each site starts processes that augment, and keeps them
    commands = [client_words(arguments, index) for index in range(len(arguments.dataset))]
    check_sites(arguments, commands)
    _import_ahead(arguments)
    log_dir = make_log_dir(arguments.log_dir, arguments.task, os.environ)
    if arguments.run_dir is None:
        arguments.run_dir = training_run_dir(arguments, os.environ)
    server = parse_server(server_words(arguments, arguments.progress_file or log_dir / "events.jsonl"))
    console = Console(file=sys.stdout, highlight=False)  # this one, also while a site's output goes elsewhere
    try:
        with interruptible(), _named_warnings(), contextlib.ExitStack() as stack:
            sites = _Sites([parse_client(words) for words in commands], log_dir, arguments.warm_sites or 1, stack)
            coordinate(server, Door(None, NO_CERTIFICATE), sites.carry, console, nodes_return=False)
    finally:
        if not arguments.quiet:
            console.print(Text(f"Logs: {log_dir}"), soft_wrap=True)
    return 0


def _check_flags(arguments: argparse.Namespace) -> None:
    if arguments.task != "train":
        raise FednnUNetError(f"--in_process is for train, not for {arguments.task}: leave it out.")
    for name in ("port", "gpus", "round_timeout"):
        if getattr(arguments, name) is not None:
            raise FednnUNetError(
                f"--{name} has no sense with --in_process, where sites take turns and need no network: leave it out."
            )
    if os.environ.get("nnUNet_wandb_enabled", "0").lower() in {"1", "true"}:
        raise FednnUNetError(
            "nnUNet_wandb_enabled needs a process for each site: unset it, or leave --in_process out; --wandb tells of "
            "all sites."
        )


def _import_ahead(arguments: argparse.Namespace) -> None:
    """Import what threads would while nodes work: nnU-Net goes through all modules to find a trainer."""
    trackers = {"tensorboard_files": True, "wandb_runs": arguments.wandb, "mlflow_runs": arguments.mlflow}
    with importing():
        importlib.import_module("fednnunet.report.page.run_state")
        for name in (name for name, is_wanted in trackers.items() if is_wanted):
            importlib.import_module(f"fednnunet.report.trackers.{name}")


class _Sites:
    """The nodes, whose work is done in one thread.

    Parameters
    ----------
    commands
        Command line of each node.
    log_dir
        Folder for their output.
    warm
        Trainers that may be on the device at a time.
    stack
        Holds what they have open.
    """

    def __init__(
        self, commands: Sequence[argparse.Namespace], log_dir: Path, warm: int, stack: contextlib.ExitStack
    ) -> None:
        with importing():
            from fednnunet.node.training import TrainingClient
            from fednnunet.node.warm_trainers import WarmTrainers
        self._worker = Worker()
        self._warm = WarmTrainers(warm)
        self._clients: list[TrainingClient] = []
        self._proxies: list[_Node] = []
        for arguments in commands:
            arguments.identity = None
            dataset, hello = training_hello(arguments)
            log = stack.enter_context((log_dir / f"{dataset.name}.log").open("a", encoding="utf-8", buffering=1))
            turns = _Turns(self._worker, hello.site, log)
            client = TrainingClient(arguments, dataset, hello, turns, self._warm)
            self._clients.append(client)
            stack.enter_context(alone_in_results(arguments, client))
            self._proxies.append(_Node(hello.site, stack.enter_context(gate(arguments, client))))
        stack.callback(self._close)

    def carry(self, federation: Federation) -> None:
        """Let all nodes join a federation, and run it to its end."""
        silence()
        for proxy in self._proxies:
            proxy.join(federation.client_manager())
        federation.fit(0, None)
        federation.disconnect_all_clients(None)
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


class _Turns:
    """Does the jobs of one site in the thread of all sites, with what is the site's own."""

    def __init__(self, worker: Worker, site: str, log: IO[str]) -> None:
        from fednnunet.node.randomness import OwnRandomness

        self._worker = worker
        self._site = site
        self._log = log
        self._randomness = OwnRandomness()
        self._thread: int | None = None
        self._now: deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], None]) -> None:
        """Do `job`, which must not raise, in the next turn; one that the site's own work submits, in the same turn."""
        if self._thread == threading.get_ident():
            self._now.append(job)
        else:
            self._worker.submit(lambda: self._take(job))

    def _take(self, job: Callable[[], None]) -> None:
        self._thread = threading.get_ident()
        self._now.append(job)
        with _speaking(self._site), contextlib.redirect_stdout(self._log), self._randomness.drawn():
            while self._now:
                self._now.popleft()()
        self._thread = None


class _Node(ClientProxy):
    """A node, as the coordinator sees it: at the other end of a connection."""

    def __init__(self, site: str, gate: Gate) -> None:
        super().__init__(cid=site)
        self._site = site
        self._gate = gate
        self._manager: ClientManager | None = None

    def join(self, manager: ClientManager) -> None:
        """Connect."""
        self._manager = manager
        manager.register(self)

    def get_properties(self, ins: GetPropertiesIns, timeout: float | None, group_id: int | None) -> GetPropertiesRes:
        """Hand on a question."""
        with _speaking(self._site):
            return GetPropertiesRes(_OK, answer(self._gate, ins.config, NO_CERTIFICATE))

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        """Hand on a round's work."""
        with _speaking(self._site):
            arrays, weight, metrics = self._gate.fit([], ins.config)
        return FitRes(_OK, ndarrays_to_parameters(arrays), weight, metrics)

    def evaluate(self, ins: EvaluateIns, timeout: float | None, group_id: int | None) -> EvaluateRes:
        """Hand on a round's result."""
        with _speaking(self._site):
            loss, weight, metrics = self._gate.evaluate([], ins.config)
        return EvaluateRes(_OK, loss, weight, metrics)

    def get_parameters(self, ins: GetParametersIns, timeout: float | None, group_id: int | None) -> GetParametersRes:
        """Not used: weights are fetched part by part."""
        raise NotImplementedError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        """Leave."""
        if self._manager is not None:
            self._manager.unregister(self)
        return DisconnectRes("")


@contextlib.contextmanager
def _speaking(site: str) -> Iterator[None]:
    token = _speaker.set(site)
    try:
        yield
    finally:
        _speaker.reset(token)


@contextlib.contextmanager
def _named_warnings() -> Iterator[None]:
    """Say of what nodes have to say which of them it was."""

    def name(record: logging.LogRecord) -> bool:
        if (site := _speaker.get()) is not None and not hasattr(record, "site"):
            record.site, record.msg, record.args = site, f"{site} | {record.getMessage()}", None
        return True

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(name)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(name)
