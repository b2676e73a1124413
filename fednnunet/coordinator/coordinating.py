"""Displays and files of a running coordinator, independent of the channel to its nodes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from rich.console import Console

from fednnunet.coordinator.federation import Federation
from fednnunet.coordinator.run_files import RunFiles, named_run_dir, runs_folder
from fednnunet.events.events import EventSink
from fednnunet.events.sinks import Tee
from fednnunet.report.progress import progress_for
from fednnunet.security.authentication import Authenticator
from fednnunet.settings.coordinator import CoordinatorSettings


def coordinate(
    settings: CoordinatorSettings,
    authenticator: Authenticator,
    carry: Callable[[Federation], None],
    console: Console,
    *,
    given_plans: dict[str, Any] | None = None,
    waiting: str | None = None,
    nodes_return: bool = True,
    more_sinks: Sequence[EventSink] = (),
) -> None:
    """Run a federation, display it, and store its events and receipts.

    Parameters
    ----------
    settings
        What the coordinator does.
    authenticator
        Who may take part.
    carry
        Lets nodes connect to the federation, and runs it.
    console
        Where to show what happens.
    given_plans
        Plans to bring to all sites, in place of planning.
    waiting
        What to say before anybody is there.
    nodes_return
        Whether a node that has failed can be started again meanwhile.
    more_sinks
        Take what happens, too.

    Raises
    ------
    Exception
        What has ended the federation before its task was done.
    """
    settings = replace(settings, run_dir=named_run_dir(settings))
    with ExitStack() as stack:
        # what is entered here takes events, and is closed when the run ends, however it does
        files = stack.enter_context(RunFiles(settings, lambda: federation.contacts(), console))
        if waiting is not None and not settings.quiet:
            console.print(waiting, highlight=False)
        progress = stack.enter_context(progress_for(console, quiet=settings.quiet))
        federation = Federation(
            settings,
            Tee([progress, files, *more_sinks]),
            authenticator,
            given_plans=given_plans,
            runs=runs_folder(),
            on_run_dir=files.open,
            nodes_return=nodes_return,
        )
        carry(federation)
        files.end("all is done" if federation.error is None else str(federation.error) or "stopped by a signal")
    if federation.error is not None:
        raise federation.error
