"""Files that the coordinator writes about a run, in a folder that may be known only when all sites have connected."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Self

from rich.console import Console

from fednnunet.coordinator.run_folder import alone_in
from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EVENTS, EventFile, RunFile, begins_planning, begins_training
from fednnunet.events.events import Contact, Event, EventSink
from fednnunet.protocol.messages import TASKS_WITH_NETWORK
from fednnunet.report.dashboard import report_page
from fednnunet.report.status import STATUS, StatusFile
from fednnunet.report.trackers import trackers_for
from fednnunet.settings.coordinator import CoordinatorSettings


def runs_folder() -> Path | None:
    """Return the folder of all unnamed run folders, ``None`` without nnU-Net's results folder."""
    results = os.environ.get("nnUNet_results")
    return Path(results).absolute() / "fednnunet_runs" if results else None


def named_run_dir(settings: CoordinatorSettings) -> Path | None:
    """Return the run folder, if the settings determine it.

    Raises
    ------
    FednnUNetError
        If a training has no place.
    """
    if settings.run_dir is not None:
        return settings.run_dir.absolute()
    runs = runs_folder()
    if settings.task in TASKS_WITH_NETWORK:
        if settings.task == "train" and runs is None:
            raise FednnUNetError("No folder for the training: give --run_dir, or set nnUNet_results.")
        return None
    return None if runs is None else runs / str(settings.task)


class RunFiles:
    """Takes events, and holds those back that come before there is a folder; a context manager.

    Parameters
    ----------
    settings
        What the coordinator does.
    contacts
        Returns the sites, by name.
    console
        Where to tell which folder it is, if nobody has named it.
    """

    def __init__(
        self, settings: CoordinatorSettings, contacts: Callable[[], Mapping[str, Contact]], console: Console
    ) -> None:
        self._settings = settings
        self._contacts = contacts
        self._console = console
        self._stack = ExitStack()
        self._held: list[Event] = []
        self._sinks: Sequence[EventSink] | None = None
        self._status: StatusFile | None = None
        self._early: list[EventSink] = []
        self._has_page = False

    def __enter__(self) -> Self:
        if self._settings.progress_file:
            self._early.append(self._stack.enter_context(closing(EventFile(self._settings.progress_file))))
        if self._settings.run_dir is not None:
            self.open(self._settings.run_dir)
        elif self._settings.dashboard is not None:  # whoever looks need not wait for the sites
            self._early.append(self._stack.enter_context(report_page(None, self._settings.dashboard)))
            self._has_page = True
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def emit(self, event: Event) -> None:
        """Take an event."""
        for sink in self._early:
            sink.emit(event)
        if self._sinks is None:
            self._held.append(event)
        else:
            for sink in self._sinks:
                sink.emit(event)

    def open(self, run_dir: Path | None) -> None:
        """Write into this folder from now on, if that is not settled yet; ``None`` is nowhere."""
        if self._sinks is not None:
            return
        if run_dir is not None and self._settings.run_dir is None and not self._settings.quiet:
            self._console.print(f"Run folder: {run_dir}", highlight=False, soft_wrap=True)
        if self._settings.task == "train" and run_dir is not None:
            self._stack.enter_context(alone_in(run_dir))
        sinks = [self._stack.enter_context(sink) for sink in self._files(run_dir)]
        if self._settings.task == "train" and run_dir is not None:
            self._status = StatusFile(run_dir / STATUS, self._contacts)
            sinks.append(self._status)
        for event in self._held:
            for sink in sinks:
                sink.emit(event)
        self._held, self._sinks = [], sinks

    def end(self, how: str) -> None:
        """Write down how the run has ended."""
        if self._status is not None:
            self._status.end(how)

    def _files(self, run_dir: Path | None) -> Iterator[AbstractContextManager[EventSink]]:
        """Yield the sinks that store the events of a run, or send them to the user's trackers."""
        settings = self._settings
        if run_dir is not None:
            plans = settings.task not in TASKS_WITH_NETWORK
            continues = not plans and (settings.task != "train" or settings.resume)
            yield closing(RunFile(run_dir / EVENTS, continues, begins_planning if plans else begins_training))
            if not plans:
                yield closing(trackers_for(run_dir, settings.wandb, settings.mlflow))
        if run_dir is not None or not self._has_page:
            yield report_page(run_dir, None if self._has_page else settings.dashboard)
