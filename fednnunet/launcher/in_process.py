"""A whole federation in one process: the coordinator, and nodes that work in turn, without a network.

Sites have what is theirs as they would in processes of their own: random numbers, output, and a trainer, which waits in
main memory while others use the GPU. So each ends with the weights that it would have there.
"""

import argparse
import contextlib
import importlib
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.background import Background, Worker
from fednnunet.channel.door import Door
from fednnunet.channel.identity import NO_CERTIFICATE
from fednnunet.channel.long_lived.flower import silence
from fednnunet.cli.arguments import parse_client, parse_server
from fednnunet.cli.coordinating import coordinate
from fednnunet.cli.trust import alone_in_results, gate
from fednnunet.coordinator.federation import Federation
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.garbage import importing
from fednnunet.interruption import interruptible
from fednnunet.launcher.preflight import check_sites
from fednnunet.launcher.simulation import (
    client_words,
    log_name,
    make_log_dir,
    server_words,
    site_names,
    training_run_dir,
)
from fednnunet.node.dataset import find_dataset
from fednnunet.node.folders import check_folders
from fednnunet.node.hello import training_hello

logger = logging.getLogger(__name__)

_STOP_WITHIN_SECONDS = 10.0


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
    arguments = argparse.Namespace(**{**vars(arguments), "port": 1})  # where nobody listens
    os.environ.setdefault("nnUNet_n_proc_DA", "0")  # else each site starts processes that augment, and keeps them
    check_folders(arguments.task)
    site_names(arguments.dataset)
    commands = [client_words(arguments, index) for index in range(len(arguments.dataset))]
    check_sites(arguments, commands)
    _import_ahead(arguments)
    log_dir = make_log_dir(arguments.log_dir, arguments.task, os.environ)
    if arguments.run_dir is None:
        arguments.run_dir = training_run_dir(arguments, os.environ)
    server = parse_server(server_words(arguments, arguments.progress_file or log_dir / "events.jsonl"))
    console = Console(file=sys.stdout, highlight=False)  # this one, also while a site's output goes elsewhere
    try:
        with interruptible(), contextlib.ExitStack() as stack:
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
                f"--{name} does not apply with --in_process, where sites take turns and need no network: leave it out."
            )
    if os.environ.get("nnUNet_wandb_enabled", "0").lower() in {"1", "true"}:
        raise FednnUNetError(
            "nnUNet_wandb_enabled needs a process for each site: unset it, or leave --in_process out; --wandb covers "
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
            from fednnunet.launcher.turns import InProcessNode, Turns, named_records
            from fednnunet.node.training import TrainingClient
            from fednnunet.node.warm_trainers import WarmTrainers
        self._worker = Worker()
        self._clients: list[TrainingClient] = []
        self._nodes: list[InProcessNode] = []
        places = WarmTrainers(warm)
        stack.enter_context(named_records())
        for arguments in commands:
            arguments.identity = None
            name = find_dataset(arguments.dataset).name
            log = stack.enter_context((log_dir / log_name(name)).open("a", encoding="utf-8", buffering=1))
            try:
                with contextlib.redirect_stdout(log):
                    dataset, hello = training_hello(arguments)
            except FednnUNetError as error:
                if not arguments.c:  # a training begins with all of its sites
                    raise
                logger.warning("Continuing without site %s: %s", name, error)
                continue
            client = TrainingClient(arguments, dataset, hello, Turns(self._worker, hello.site, log), places)
            self._clients.append(client)
            stack.enter_context(alone_in_results(arguments, client))
            self._nodes.append(InProcessNode(hello.site, stack.enter_context(gate(arguments, client))))
        stack.callback(self._close)

    def carry(self, federation: Federation) -> None:
        """Let all nodes join a federation, and run it to its end."""
        from fednnunet.launcher.turns import join_in_turn

        silence()
        threading.Thread(target=join_in_turn, args=(self._nodes, federation.roster), daemon=True).start()
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
