"""Rewrites the report page during a run, in a background thread."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EventReader
from fednnunet.events.events import Event
from fednnunet.events.run_state import RunState
from fednnunet.report.standing import condition

REPORT = "report.html"
"""The file in a run folder."""

TITLE = "Federated nnU-Net"

logger = logging.getLogger(__name__)

_SHORTEST_PAUSE = 1.0  # seconds between two rewritings
_SHARE_OF_TIME = 0.05  # of a core, that rewriting may take: the coordinator has other things to do


class PageFile:
    """Takes events, and rewrites ``report.html`` after them; used as a context manager.

    Taking an event never waits. At most one rewriting goes on at a time, and the longer it takes, the longer is the
    pause after it; the last one comes when the context ends. Nothing that goes wrong with it disturbs the run.

    Parameters
    ----------
    path
        The file; ``None`` if it is not to be written, because only `on_change` wants it.
    kept
        File in which another sink, which is handed the events first, keeps those that count: the page shows what is
        there, be it begun anew or from before. Without it, it shows the events that it takes.
    on_change
        Is given each new page, in the thread that makes it.
    """

    def __init__(
        self, path: Path | None, kept: Path | None = None, on_change: Callable[[bytes], None] | None = None
    ) -> None:
        self._path = path
        self._kept = None if kept is None else EventReader(kept)
        self._on_change = on_change
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._ending = threading.Event()
        self._told = ""
        self._thread = threading.Thread(target=self._keep_writing, name="fednnunet-page", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._events.put(None)
        self._thread.join()

    def emit(self, event: Event) -> None:
        """Take an event."""
        self._events.put(event)

    def _keep_writing(self) -> None:
        state, beginnings = RunState(), 0
        taken: list[Event] = []
        while True:
            began = time.monotonic()
            for event in taken if self._kept is None else self._kept.new_events():
                if self._kept is not None and self._kept.beginnings != beginnings:
                    state, beginnings = RunState(), self._kept.beginnings
                state.take(event)
            self._rewrite(state)
            spent = time.monotonic() - began
            self._ending.wait(max(_SHORTEST_PAUSE, spent / _SHARE_OF_TIME))
            taken = self._take_events()
            if not taken:
                return

    def _take_events(self) -> list[Event]:
        """Wait for events, and return all that are there; there are none at the end."""
        taken: list[Event] = []
        while not (taken and self._events.empty()):
            event = self._events.get()
            if event is None:
                self._events.put(None)  # for the next call, if this one still has taken something
                break
            taken.append(event)
        return taken

    def _rewrite(self, state: RunState) -> None:
        # with bokeh, whose import takes a second that nothing else needs to wait for
        from fednnunet.report.page.parts import parts_of_run
        from fednnunet.report.page.rendering import render_page, write_document

        try:
            document = render_page(TITLE, parts_of_run(state), condition(state)).encode()
            if self._on_change is not None:
                self._on_change(document)
            if self._path is not None:
                write_document(self._path, document)
        except FednnUNetError as error:
            self._tell(str(error))
        except Exception as error:  # whatever it is, a training that lasts a week does not end for it
            self._tell(f"The report page cannot be written ({type(error).__name__}: {error}).")

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            logger.warning("%s", problem)
            self._told = problem
