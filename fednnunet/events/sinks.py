"""Forwards events to several sinks, and turns the sites' work reports into events."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence

from fednnunet.events.events import Event, EventSink, SiteProgress, WorkProgressed
from fednnunet.protocol.messages import WorkReport

logger = logging.getLogger(__name__)


def tell_progress(sink: EventSink) -> Callable[[Mapping[str, WorkReport]], None]:
    """Return a callback that emits the sites' work reports to `sink` as `WorkProgressed`."""

    def emit(reports: Mapping[str, WorkReport]) -> None:
        sites = {site: SiteProgress(done=report.done, total=report.total) for site, report in reports.items()}
        sink.emit(WorkProgressed(sites=sites))

    return emit


class Tee:
    """Hands every event to several sinks, one after the other, whichever threads they come from.

    A sink that raises is dropped with one warning; the run continues.
    """

    def __init__(self, sinks: Sequence[EventSink]) -> None:
        self._sinks = sinks
        self._failed: list[EventSink] = []
        self._emitting = threading.Lock()

    def emit(self, event: Event) -> None:
        """Hand `event` on."""
        with self._emitting:
            for sink in self._sinks:
                if any(sink is failed for failed in self._failed):
                    continue
                try:
                    sink.emit(event)
                except Exception as error:  # whatever it is, a training that lasts a week does not end for it
                    self._failed.append(sink)
                    what, why = type(sink).__name__, type(error).__name__
                    logger.warning("%s is no longer updated (%s).", what, why)
                    logger.debug("%s failed", what, exc_info=error)
