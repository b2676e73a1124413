"""Entry points of all commands: parse, check, delegate, and turn errors into one sentence."""

import argparse
import io
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape

from fednnunet import __version__
from fednnunet.cli.arguments import ClientCommand, ServerCommand, parse_client, parse_run, parse_server
from fednnunet.errors import FednnUNetError
from fednnunet.folds import check_fold
from fednnunet.garbage import importing, leave_garbage_at_exit
from fednnunet.interruption import Terminated, interruptible
from fednnunet.membership.settings import audit_command
from fednnunet.report.formats import WARNING
from fednnunet.schema import cleaned
from fednnunet.settings.checks import check_rules, check_secure
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.node import (
    EvaluationSettings,
    NodeSettings,
    PlanningSettings,
    TrainingSettings,
    fingerprint_mode,
)
from fednnunet.settings.simulation import SimulationSettings

if TYPE_CHECKING:
    from fednnunet.node.site_client import SiteClient
    from fednnunet.security.identity import Identity

Command = TypeVar("Command")

logger = logging.getLogger(__name__)

_INTERRUPTED = 128 + signal.SIGINT
_TERMINATED = 128 + signal.SIGTERM


class _ConsoleHandler(logging.Handler):
    """Writes log records above a live display, if there is one, and does not break their lines."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Write `record`."""
        text = self.format(record)
        if record.levelno >= logging.WARNING:
            text = WARNING + text
        for line in text.splitlines():
            self._console.print(escape(cleaned(line)), soft_wrap=True, highlight=False)


def commands() -> dict[str, tuple[str, Callable[[Sequence[str]], int]]]:
    """Return summary and entry point of each command of the console script ``fednnunet``."""
    return {
        "server": ("the coordinator", server_main),
        "client": ("the node of one site", client_main),
        "run": ("a whole federation on one machine", run_main),
        "report": ("rewrite the report page of a run, from its run folder", report_main),
        "status": ("show the state of a training, from the coordinator's run folder", status_main),
        "rollback": ("return to an earlier round of a training", rollback_main),
        "certificates": ("create and show the coordinator's certificate", certificates_main),
        "keys": ("create a site's key pair", keys_main),
        "sites": ("show the digest of a list of sites", sites_main),
        "policy": ("write and check a site's policy, and approve waiting messages", policy_main),
        "audit": ("show and verify a site's audit log, measure what its models tell", audit_main),
        "compare": ("local, federated and centralized training on one machine: the paper's table", compare_main),
        "demo": ("three synthetic hospitals, from raw images to predictions", demo_main),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the console script ``fednnunet COMMAND …`` and return its exit status."""
    _print_anything()
    parser = argparse.ArgumentParser(prog="fednnunet", description="Federated nnU-Net.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (summary, _) in commands().items():
        subparsers.add_parser(name, help=summary, add_help=False)
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = parser.parse_args(words[:1])
    _, command = commands()[chosen.command]
    return command(words[1:])


def server_main(argv: Sequence[str] | None = None) -> int:
    """Run the coordinator and return its exit status."""
    return _run(_serve, parse_server, argv)


def client_main(argv: Sequence[str] | None = None) -> int:
    """Run a node and return its exit status."""
    return _run(_join, parse_client, argv)


def run_main(argv: Sequence[str] | None = None) -> int:
    """Run a federation on one machine and return its exit status."""
    return _run(_simulate, parse_run, argv)


def status_main(argv: Sequence[str] | None = None) -> int:
    """Show where a training is and return the exit status."""

    def parse(words: Sequence[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog="fednnunet status", description="Show the state of a training.")
        parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the coordinator's --run_dir")
        return parser.parse_args(words)

    def show(arguments: argparse.Namespace) -> int:
        from fednnunet.report.status import read_status, status_screen

        Console().print(status_screen(read_status(arguments.run_dir), time.time()))
        return 0

    return _run(show, parse, argv)


def report_main(argv: Sequence[str] | None = None) -> int:
    """Write the report page of a run folder again and return the exit status."""
    from fednnunet.cli import report

    return _run_small("report", "Rewrite the report page of a run.", report.add_arguments, report.run_report, argv)


def rollback_main(argv: Sequence[str] | None = None) -> int:
    """Go back to an older model of a training and return the exit status."""
    from fednnunet.cli import rollback

    return _run_small("rollback", "Return to an earlier round.", rollback.add_arguments, rollback.run_rollback, argv)


def certificates_main(argv: Sequence[str] | None = None) -> int:
    """Make or show certificates and return the exit status."""
    from fednnunet.cli import certificates

    return _run_small(
        "certificates",
        "The coordinator's certificate.",
        certificates.add_arguments,
        certificates.run_certificates,
        argv,
    )


def keys_main(argv: Sequence[str] | None = None) -> int:
    """Make a site's keys and return the exit status."""
    from fednnunet.cli import keys

    return _run_small("keys", "A site's key pair.", keys.add_arguments, keys.run_keys, argv)


def sites_main(argv: Sequence[str] | None = None) -> int:
    """Show the digest of a list of sites and return the exit status."""
    from fednnunet.cli import sites

    return _run_small("sites", "A list of sites, and its digest.", sites.add_arguments, sites.run_sites, argv)


def policy_main(argv: Sequence[str] | None = None) -> int:
    """Write or check a policy, or approve messages, and return the exit status."""
    from fednnunet.cli import policy

    description = "Write and check a site's policy, and approve waiting messages."
    return _run_small("policy", description, policy.add_arguments, policy.run_policy, argv)


def audit_main(argv: Sequence[str] | None = None) -> int:
    """Show or verify an audit log, or audit models, and return the exit status."""
    from fednnunet.cli import audit

    description = "Show and verify a site's audit log, and measure what its models tell."
    return _run_small("audit", description, audit.add_arguments, audit.run_audit, argv)


def compare_main(argv: Sequence[str] | None = None) -> int:
    """Compare local, federated and centralized training, and return the exit status."""
    from fednnunet.cli.comparison import parse_compare
    from fednnunet.comparison.comparison import run_comparison

    return _run(run_comparison, parse_compare, argv)


def demo_main(argv: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    from fednnunet.cli.demo import parse_demo
    from fednnunet.demo.demo import run_demo

    return _run(run_demo, parse_demo, argv)


def _print_anything() -> None:
    """Replace characters that a console cannot show, so that no command fails for them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run_small(
    name: str,
    description: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Run a command that needs no federation."""

    def parse(words: Sequence[str]) -> argparse.Namespace:
        parser = argparse.ArgumentParser(prog=f"fednnunet {name}", description=description)
        add_arguments(parser)
        return parser.parse_args(words)

    return _run(run, parse, argv)


def _run(
    command: Callable[[Command], int],
    parse: Callable[[Sequence[str]], Command],
    argv: Sequence[str] | None,
) -> int:
    leave_garbage_at_exit()
    _print_anything()
    arguments = parse(sys.argv[1:] if argv is None else argv)
    console = Console(stderr=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_ConsoleHandler(console)])
    quiet = getattr(arguments, "quiet", False)
    logging.getLogger("fednnunet").setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        return command(arguments)
    except FednnUNetError as error:
        console.print(f"[bold red]Error:[/] {escape(cleaned(str(error)))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt as interrupt:
        console.print("Stopped.")
        return _TERMINATED if isinstance(interrupt, Terminated) else _INTERRUPTED


def _serve(command: ServerCommand) -> int:
    from fednnunet.cli.trust import authenticator_of, tls_files
    from fednnunet.transport.address import check_can_listen, join_address

    settings, listening = command.coordinator, command.listening
    if settings.fold is not None:
        check_fold(settings.fold)
    check_rules(settings)
    check_secure(settings, listening)
    _check_trackers(settings)
    plans = _given_plans(settings)
    tls = tls_files(listening)
    authenticator = authenticator_of(listening, settings.num_clients)
    check_can_listen(listening.host, listening.port)

    from fednnunet.report.dashboard import check_dashboard

    check_dashboard(settings.dashboard)

    from fednnunet.coordinator.coordinating import coordinate
    from fednnunet.transport.long_lived.serving import serve

    address = join_address(listening.host, listening.port)
    coordinate(
        settings,
        authenticator,
        lambda federation: serve(address, federation.registry, federation.run, tls),
        Console(),
        given_plans=plans,
        waiting=f"Waiting for {settings.num_clients} sites at {address} …",
    )
    return 0


def _check_trackers(settings: CoordinatorSettings) -> None:
    if settings.wandb or settings.mlflow:
        from fednnunet.report.trackers import check_trackers

        check_trackers(settings.wandb, settings.mlflow)


def _given_plans(settings: CoordinatorSettings) -> dict[str, Any] | None:
    """Return the plans that shall be brought to all sites, if there are any."""
    if settings.given_plans is None:
        return None
    from fednnunet.fingerprint.given_plans import read_plans

    return read_plans(settings.given_plans)


def _join(command: ClientCommand) -> int:
    if not command.quiet:
        return _take_part(command)
    # what nnU-Net prints of its work is in its log files too
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        return _take_part(command)


def _take_part(command: ClientCommand) -> int:
    if command.fold is not None:
        check_fold(command.fold)

    from fednnunet.cli.trust import endpoint
    from fednnunet.node.gated import alone_in_results, gate
    from fednnunet.security.identity import read_key
    from fednnunet.transport.long_lived.joining import join

    coordinator, connection = endpoint(command.connection), command.connection
    identity = None if command.key is None else read_key(command.key)
    with importing():  # torch and nnU-Net, which takes seconds; what is wrong with the data is told before
        client = _node(command, identity)
    try:
        with (
            interruptible(),
            alone_in_results(command.node, client),
            gate(command.gate, command.node, client) as gated,
        ):
            gated.approve_introduction()
            join(coordinator, client, connection.retry_for, connection.contact_timeout)
    finally:
        client.close()
    if client.failure is not None:
        raise FednnUNetError(client.failure)
    if client.farewell is not None and client.farewell.error is not None:
        raise FednnUNetError(f"The coordinator disconnected this node: {client.farewell.error}")
    _tell_how_to_audit(command.node)
    return 0


def _tell_how_to_audit(settings: NodeSettings) -> None:
    command = audit_command(settings) if isinstance(settings, TrainingSettings) else None
    if command is not None:
        logger.info("To measure what the model tells about the cases of this site: %s", command)


def _node(command: ClientCommand, identity: "Identity | None") -> "SiteClient":
    """Return the node, once all that it can check by itself is right."""
    from fednnunet.cli.trust import fewest_cases
    from fednnunet.node.hello import hello_of
    from fednnunet.node.sum_rules import rules_of

    settings = command.node
    if isinstance(settings, EvaluationSettings):
        settings = replace(settings, min_cases=fewest_cases(settings.min_cases, command.gate.policy))
    dataset, hello = hello_of(settings)
    rules = rules_of(command.gate, hello, identity)
    if isinstance(settings, TrainingSettings):
        from fednnunet.node.training import TrainingClient

        return TrainingClient(settings, dataset, hello, identity=identity, rules=rules)
    if isinstance(settings, EvaluationSettings):
        from fednnunet.node.evaluating import EvaluationClient

        return EvaluationClient(settings, dataset, hello, identity=identity)
    assert isinstance(settings, PlanningSettings)
    from fednnunet.node.planning import PlanningClient

    return PlanningClient(settings, dataset, hello, identity=identity, rules=rules)


def _simulate(settings: SimulationSettings) -> int:
    if settings.coordinator.fold is not None:
        check_fold(settings.coordinator.fold)
    check_rules(settings.coordinator)
    check_secure(settings.coordinator, fingerprint=fingerprint_mode(settings.nodes[0]))
    _check_trackers(settings.coordinator)
    _given_plans(settings.coordinator)

    from fednnunet.report.dashboard import check_dashboard

    check_dashboard(settings.coordinator.dashboard)

    if settings.in_process:
        from fednnunet.launcher.in_process import run_in_process

        return run_in_process(settings)

    from fednnunet.launcher.simulation import run_simulation

    return run_simulation(settings)
