"""Chooses the progress display: live on a terminal, plain lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from fednnunet.events.events import EventSink
from fednnunet.report.live import LiveProgress
from fednnunet.report.plain import PlainProgress, QuietProgress


def shows_live(console: Console) -> bool:
    """Return whether a live display makes sense on `console`.

    Variables such as ``FORCE_COLOR`` make rich take a pipe for a terminal, which a display that redraws itself
    would fill with control characters: the file itself has to be a terminal as well.
    """
    return console.is_terminal and console.is_interactive and console.file.isatty()


@contextmanager
def progress_for(console: Console, *, quiet: bool = False) -> Iterator[EventSink]:
    """Give the display that suits `console`: live on a terminal, plain lines elsewhere, few of them if `quiet`."""
    if quiet:
        yield QuietProgress(console)
    elif shows_live(console):
        with LiveProgress(console) as live:
            yield live
    else:
        yield PlainProgress(console)
