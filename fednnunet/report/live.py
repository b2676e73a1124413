"""A run as a region at the bottom of a terminal, which is redrawn."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fednnunet.channel.messages import RoundReport
from fednnunet.events.events import (
    ApprovalAwaited,
    Event,
    FingerprintFound,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    SharingAgreed,
    SiteJoined,
    SiteLeftOut,
    SitesAwaited,
    SitesEvaluated,
    SiteTakenIn,
    StageStarted,
    UpdateOutOfLine,
    WorkProgressed,
)
from fednnunet.report.formats import (
    LABELS_SHOWN,
    MISSING,
    RoundTimes,
    awaited,
    costs,
    duration,
    labels_of,
    natural_width,
    number,
    own_name,
    printable,
)
from fednnunet.report.plain import PlainProgress

Clock = Callable[[], float]


class LiveProgress:
    """A region at the bottom of a terminal that shows where the run is; other output passes above it.

    Parameters
    ----------
    console
        A console on a terminal; what is printed to it meanwhile appears above the region.
    history
        Whether each event also leaves a plain line above the region.
    clock
        Seconds, for elapsed times.
    """

    def __init__(self, console: Console, *, history: bool = True, clock: Clock = time.monotonic) -> None:
        self.console = console
        self._plain = PlainProgress(console) if history else None
        self._clock = clock
        self._view = _View(clock)
        self._live = Live(self._view, console=console, refresh_per_second=2)

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def emit(self, event: Event) -> None:
        """Show `event`."""
        if self._plain is not None:
            self._plain.emit(event)
        self._view.take(event)
        self._live.refresh()


class _View:
    """What the live region shows: stage, bar, times, and the last round of every site."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._title = "waiting for sites"
        self._awaited: str | None = None
        self._since = clock()
        self._rounds: int | None = None
        self._done = 0
        self._times = RoundTimes()
        self._ends_at: float | None = None
        self._last: RoundCompleted | None = None
        self._work: WorkProgressed | None = None
        self._finished_after: float | None = None
        self._failures = 0

    def take(self, event: Event) -> None:
        # Live redraws from a thread of its own: it only ever reads attributes, each of which is replaced as a whole.
        match event:
            case SiteJoined():
                self._title = f"waiting for sites, {event.joined} of {event.expected} joined"
            case StageStarted():
                self._title, self._since, self._times = event.title, self._clock(), RoundTimes()
                self._rounds, self._done, self._last, self._ends_at = event.rounds, event.first_round - 1, None, None
                self._work = None
            case RoundCompleted():
                self._times.add(event.seconds)
                self._rounds, self._done, self._last = event.rounds, event.round, event
                remaining = self._times.remaining(event.rounds - event.round)
                self._ends_at = None if remaining is None else self._clock() + remaining
            case WorkProgressed():
                self._rounds, self._done, self._work = event.total or None, event.done, event
                spent = self._clock() - self._since
                self._ends_at = self._since + spent * event.total / event.done if event.done else None
            case FingerprintFound():
                self._title, self._rounds, self._work = "common fingerprint found", None, None
            case SharingAgreed():
                pass  # told by the lines above the region
            case SitesAwaited():
                self._awaited = awaited(event) if event.sites else None
            case SiteLeftOut():
                self._failures += 1
            case PlansAgreed():
                self._title = "plans agreed" if event.plans is not None else "planning"
            case ModelExported():
                self._title, self._rounds = "model written", None
            case SitesEvaluated():
                self._title, self._rounds = f"fold {event.fold} tested", None
            case SiteTakenIn() | UpdateOutOfLine() | ApprovalAwaited():
                pass  # told by the lines above the region
            case FoldValidated():
                self._title, self._rounds = f"fold {event.fold} validated", None
            case GainTold():
                self._title, self._rounds = f"models of fold {event.fold} compared", None
            case Finished():
                self._title, self._finished_after, self._ends_at = "finished", event.seconds, None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._work is not None:
            yield _work_table(self._work)
        if self._last is not None:
            yield _sites_table(self._last, console, options)
            for phrase in costs(self._last):
                yield _dim(phrase)
        if self._failures:
            yield _dim(f"{self._failures} failure{'' if self._failures == 1 else 's'} so far")
        head = Table.grid(padding=(0, 1))
        head.add_column(overflow="ellipsis", no_wrap=True)
        title = printable(self._awaited or self._title)
        title.stylize("bold")
        elapsed = self._clock() - self._since if self._finished_after is None else self._finished_after
        cells: list[Text | ProgressBar] = [title]
        if self._rounds is not None:
            # the widths of words and times come first, the bar gets what is left, if anything useful is
            words = Text(f"{self._done}/{self._rounds}")
            times = Text(f"{duration(elapsed)}{self._eta()}", style="dim")
            left = options.max_width - title.cell_len - words.cell_len - times.cell_len - 3
            if left >= 8:
                cells.append(ProgressBar(total=self._rounds, completed=self._done, width=min(40, left)))
            cells += [words, times]
        else:
            cells.append(Text(duration(elapsed), style="dim"))
        for _ in cells[1:]:
            head.add_column(no_wrap=True)
        head.add_row(*cells)
        yield head

    def _eta(self) -> str:
        if self._rounds is None or self._done >= self._rounds or self._finished_after is not None:
            return ""
        return f" ETA {MISSING if self._ends_at is None else duration(self._ends_at - self._clock())}"


def _dim(text: str) -> Text:
    line = printable(text)
    line.no_wrap, line.overflow = True, "ellipsis"
    line.stylize("dim")
    return line


def _sites_table(event: RoundCompleted, console: Console, options: ConsoleOptions) -> Table:
    """Return the last round of each site, with as many columns as the width has room for."""
    columns: dict[str, Callable[[RoundReport], float | None]] = {
        "train loss": lambda report: report.train_loss,
        "val loss": lambda report: report.val_loss,
        "pseudo Dice": lambda report: report.mean_dice,
    }
    labels = labels_of(report.dice for report in event.sites.values())
    tables = [
        _table_of(event, columns, labels if 1 < len(labels) <= LABELS_SHOWN else []),
        _table_of(event, columns, []),
        _table_of(event, {"pseudo Dice": columns["pseudo Dice"]}, []),
    ]
    fitting = (table for table in tables if natural_width(table, console, options) <= options.max_width)
    return next(fitting, tables[-1])


def _work_table(event: WorkProgressed) -> Table:
    """Return how far each site is with its cases."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("site", overflow="ellipsis", no_wrap=True)
    table.add_column("cases", justify="right")
    for name, site in event.sites.items():
        table.add_row(printable(name), f"{site.done}/{site.total}" if site.total else MISSING)
    return table


def _table_of(
    event: RoundCompleted, columns: Mapping[str, Callable[[RoundReport], float | None]], labels: Sequence[str]
) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(printable(own_name("site", labels)), overflow="ellipsis", no_wrap=True)
    for heading in (*(own_name(column, labels) for column in columns), *labels):
        table.add_column(printable(heading), justify="right")
    for site, report in event.sites.items():
        values = [*(get(report) for get in columns.values()), *(report.dice.get(label) for label in labels)]
        table.add_row(printable(site), *(number(value, 4) for value in values))
    return table
