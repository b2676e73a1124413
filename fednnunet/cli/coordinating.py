"""Displays and files of a running coordinator, independent of the channel to its nodes."""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from rich.console import Console

from fednnunet.channel.door import Door
from fednnunet.cli.run_files import RunFiles, named_run_dir, runs_folder
from fednnunet.coordinator.federation import Federation
from fednnunet.report.events import Tee
from fednnunet.report.progress import progress_for


def coordinate(
    arguments: argparse.Namespace,
    door: Door,
    carry: Callable[[Federation], None],
    console: Console,
    *,
    given_plans: dict[str, Any] | None = None,
    waiting: str | None = None,
    nodes_return: bool = True,
) -> None:
    """Run a federation, display it, and store its events and receipts.

    Parameters
    ----------
    arguments
        Command line of the coordinator.
    door
        Who may take part.
    carry
        Lets nodes connect to the federation, runs it, and takes leave of them.
    console
        Where to show what happens.
    given_plans
        Plans to bring to all sites, in place of planning.
    waiting
        What to say before anybody is there.
    nodes_return
        Whether a node that has failed can be started again meanwhile.

    Raises
    ------
    Exception
        What has ended the federation before its task was done.
    """
    arguments.run_dir = named_run_dir(arguments)
    with ExitStack() as stack:
        # what is entered here takes events, and is closed when the run ends, however it does
        files = stack.enter_context(RunFiles(arguments, lambda: federation.contacts(), console))
        if waiting is not None and not arguments.quiet:
            console.print(waiting, highlight=False)
        progress = stack.enter_context(progress_for(console, quiet=arguments.quiet))
        federation = Federation(
            arguments,
            Tee([progress, files]),
            door,
            given_plans=given_plans,
            runs=runs_folder(),
            on_run_dir=files.open,
            nodes_return=nodes_return,
        )
        carry(federation)
        files.end("all is done" if federation.error is None else str(federation.error) or "stopped by a signal")
    if federation.error is not None:
        raise federation.error
