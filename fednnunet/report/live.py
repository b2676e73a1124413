"""Shows a run in a live region at the bottom of a terminal."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fednnunet.events.events import (
    Event,
    Finished,
    RoundCompleted,
    StageStarted,
    WorkProgressed,
)
from fednnunet.events.run_state import RunState
from fednnunet.protocol.messages import RoundReport
from fednnunet.report.formats import (
    LABELS_SHOWN,
    MISSING,
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
from fednnunet.report.standing import headline
from fednnunet.wording import counted

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
    """Content of the live region: stage, bar, times, and the last round of every site."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._run = RunState()
        self._since = clock()
        self._ends_at: float | None = None
        self._lock = threading.Lock()  # Live redraws from a thread of its own

    def take(self, event: Event) -> None:
        with self._lock:
            self._run.take(event)
            match event:
                case StageStarted():
                    self._since, self._ends_at = self._clock(), None
                case RoundCompleted():
                    remaining = self._run.remaining
                    self._ends_at = None if remaining is None else self._clock() + remaining
                case WorkProgressed():
                    spent = self._clock() - self._since
                    self._ends_at = self._since + spent * event.total / event.done if event.done else None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            shown = [*self._tables(console, options), self._head(options)]
        yield from shown

    def _tables(self, console: Console, options: ConsoleOptions) -> RenderResult:
        run = self._run
        if run.work is not None:
            yield _work_table(run.work)
        if run.last_round is not None and run.is_training:
            yield _sites_table(run.last_round, console, options)
            for phrase in costs(run.last_round):
                yield _dim(phrase)
        if run.failures:
            yield _dim(f"{counted(run.failures, 'failure')} so far")

    def _head(self, options: ConsoleOptions) -> Table:
        """Return the line with title, bar and times."""
        run = self._run
        title = printable(headline(run) if run.awaited is None else awaited(run.awaited))
        title.stylize("bold")
        elapsed = run.latest.seconds if isinstance(run.latest, Finished) else self._clock() - self._since
        done, of_all = self._progress()
        cells: list[Text | ProgressBar] = [title]
        if of_all:
            # the widths of words and times come first, the bar gets what is left, if anything useful is
            words = Text(f"{done}/{of_all}")
            times = Text(f"{duration(elapsed)}{self._eta(done, of_all)}", style="dim")
            left = options.max_width - title.cell_len - words.cell_len - times.cell_len - 3
            if left >= 8:
                cells.append(ProgressBar(total=of_all, completed=done, width=min(40, left)))
            cells += [words, times]
        else:
            cells.append(Text(duration(elapsed), style="dim"))
        head = Table.grid(padding=(0, 1))
        head.add_column(overflow="ellipsis", no_wrap=True)
        for _ in cells[1:]:
            head.add_column(no_wrap=True)
        head.add_row(*cells)
        return head

    def _progress(self) -> tuple[int, int]:
        """Return how many cases or rounds of how many are done; of 0 where the stage has none."""
        if self._run.work is not None:
            return self._run.work.done, self._run.work.total
        if self._run.fold is not None and self._run.is_training:
            return self._run.fold.done, self._run.fold.rounds
        return 0, 0

    def _eta(self, done: int, of_all: int) -> str:
        if done >= of_all:
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
