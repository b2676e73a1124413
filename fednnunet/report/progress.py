"""A run as people follow it: plain lines where output is kept, a live display where somebody watches."""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fednnunet.channel.messages import RoundReport
from fednnunet.report.evaluations import evaluation_table
from fednnunet.report.events import (
    Event,
    FingerprintFound,
    Finished,
    FoldValidated,
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

MISSING = "\N{EN DASH}"
"""What stands where there is no number."""

ROUNDS_FOR_ETA = 10
LABELS_SHOWN = 4
"""With more labels than this, lines and live table give the mean only; the validation table gives all."""

_UNLIMITED = 100_000

Clock = Callable[[], float]


def number(value: float | None, digits: int) -> str:
    """Return `value` with that many decimals, or a dash if it is missing, NaN or infinite."""
    return MISSING if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def duration(seconds: float) -> str:
    """Return `seconds` as ``h:mm:ss``."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the finite numbers among `values`, ``None`` if there are none."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return statistics.fmean(finite) if finite else None


def labels_of(dice: Iterable[Mapping[str, float | None]]) -> list[str]:
    """Return the labels that occur, in the order in which they first do."""
    return list(dict.fromkeys(label for of_site in dice for label in of_site))


def printable(text: str) -> Text:
    """Return `text`, which may come from another site, without the characters that could steer a terminal."""
    return Text("".join(char if char.isprintable() else "?" for char in text))


class RoundTimes:
    """How long rounds last, and so how long the remaining ones will.

    The median of the last rounds is robust against the first one, which compiles and warms up, and against a
    single one with a slow disk.
    """

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=ROUNDS_FOR_ETA)

    def add(self, seconds: float) -> None:
        """Take the duration of one more round."""
        self._seconds.append(seconds)

    def remaining(self, rounds: int) -> float | None:
        """Return the seconds that this many more rounds will take, ``None`` before the first round."""
        return statistics.median(self._seconds) * rounds if self._seconds else None


def validation_table(event: FoldValidated) -> Table:
    """Return the Dice of every site and label, with the mean of the sites as the last row."""
    labels = labels_of(report.dice for report in event.sites.values())
    table = Table(title=Text(f"Validation of fold {event.fold}: Dice"), title_justify="left")
    table.add_column("site", overflow="fold")
    for label in labels:
        table.add_column(printable(label), justify="right")
    table.add_column("mean", justify="right")
    for site, report in event.sites.items():
        cells = [number(report.dice.get(label), 4) for label in labels]
        table.add_row(printable(site), *cells, number(report.mean_dice, 4))
    table.add_section()
    means = [mean(report.dice.get(label) for report in event.sites.values()) for label in labels]
    overall = mean(report.mean_dice for report in event.sites.values())
    table.add_row("mean", *(number(value, 4) for value in means), number(overall, 4), style="bold")
    return table


def _awaited(event: SitesAwaited) -> str:
    return f"waiting for {', '.join(event.sites)}: {event.present} of {event.needed} sites are ready"


class PlainProgress:
    """One readable line for each event, for files and for terminals that cannot redraw."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._times = RoundTimes()
        self._quarters = 0

    def emit(self, event: Event) -> None:
        """Print `event`."""
        match event:
            case SiteJoined():
                cases = f"{event.cases} case{'' if event.cases == 1 else 's'}"
                self._line(f"site {event.site} joined, {cases} ({event.joined}/{event.expected})")
            case StageStarted():
                self._times, self._quarters = RoundTimes(), 0
                self._line(_stage(event))
            case RoundCompleted():
                self._times.add(event.seconds)
                self._line(self._round(event))
            case WorkProgressed():
                self._progress(event)
            case FingerprintFound():
                self._line(_cost(event))
            case SharingAgreed():
                for line in _shared(event):
                    self._line(line)
            case SiteLeftOut():
                where = f"round {event.round}" if event.round else "preparing"
                self._line(f"{where} · without site {event.site}: {event.reason}")
            case SiteTakenIn():
                self._line(f"site {event.site} takes part again, from round {event.round + 1}")
            case UpdateOutOfLine():
                self._line(f"round {event.round} · the update of site {event.site} {event.finding}")
            case SitesAwaited():
                if event.sites:
                    self._line(_awaited(event))
            case FoldValidated():
                self._table(validation_table(event))
            case SitesEvaluated():
                self._table(evaluation_table(event))
                for site, reason in event.left_out.items():
                    self._line(f"without site {site}: {reason}")
            case Finished():
                self._line(f"finished after {duration(event.seconds)}")

    def _line(self, text: str) -> None:
        # soft_wrap: where lines are kept, one event stays one line, however long
        self.console.print(printable(text), soft_wrap=True)

    def _table(self, table: Table) -> None:
        # these numbers are the result of the run: too many for the width, they wrap or run on, but none is cut off
        table.width = _natural_width(table, self.console, self.console.options)
        self.console.print(table, soft_wrap=True)

    def _progress(self, event: WorkProgressed) -> None:
        """Print a line whenever another quarter of the work is done, not each time that a site has said something."""
        quarters = 4 * event.done // event.total if event.total else 0
        if quarters > self._quarters:
            self._quarters = quarters
            sites = " ".join(f"{name} {site.done}/{site.total}" for name, site in event.sites.items())
            self._line(f"cases {event.done}/{event.total} · {sites}")

    def _round(self, event: RoundCompleted) -> str:
        parts = [f"round {event.round}/{event.rounds}", f"{event.seconds:.1f} s"]
        remaining = self._times.remaining(event.rounds - event.round)
        if remaining is not None and event.round < event.rounds:
            parts.append(f"ETA {duration(remaining)}")
        reports = event.sites.values()
        train = number(mean(report.train_loss for report in reports), 4)
        val = number(mean(report.val_loss for report in reports), 4)
        parts.append(f"loss {train}, val {val}")
        sites = " ".join(f"{site} {_dice(report)}" for site, report in event.sites.items())
        parts.append(f"pseudo Dice {sites}")
        return " · ".join(parts)


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
                self._awaited = _awaited(event) if event.sites else None
            case SiteLeftOut() | SiteTakenIn() | UpdateOutOfLine():
                pass
            case FoldValidated():
                self._title, self._rounds = f"fold {event.fold} validated", None
            case SitesEvaluated():
                self._title, self._rounds, self._work = "evaluated", None, None
            case Finished():
                self._title, self._finished_after, self._ends_at = "finished", event.seconds, None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._work is not None:
            yield _work_table(self._work)
        if self._last is not None:
            yield _sites_table(self._last, console, options)
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
    fitting = (table for table in tables if _natural_width(table, console, options) <= options.max_width)
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
    table.add_column("site", overflow="ellipsis", no_wrap=True)
    for heading in (*columns, *labels):
        table.add_column(printable(heading), justify="right")
    for site, report in event.sites.items():
        values = [*(get(report) for get in columns.values()), *(report.dice.get(label) for label in labels)]
        table.add_row(printable(site), *(number(value, 4) for value in values))
    return table


def _natural_width(table: Table, console: Console, options: ConsoleOptions) -> int:
    return Measurement.get(console, options.update(width=_UNLIMITED), table).maximum


def _stage(event: StageStarted) -> str:
    if event.rounds is None:
        return event.title
    start = f", from round {event.first_round}" if event.first_round > 1 else ""
    return f"{event.title}: {event.rounds} round{'' if event.rounds == 1 else 's'}{start}"


def _cost(event: FingerprintFound) -> str:
    largest = max(event.answered_bytes.values(), default=0)
    return f"common fingerprint found with {event.questions} questions, {largest / 1000:.1f} kB from each site"


def _shared(event: SharingAgreed) -> list[str]:
    """Return one line for all sites if they share everything, else one for each."""
    parameters = {share.of_parameters for share in event.sites.values()}
    if len(parameters) == 1 and all(share.parameters == share.of_parameters for share in event.sites.values()):
        return [f"all {parameters.pop():,} parameters are shared"]
    return [
        f"site {site} shares {share.tensors} of {share.of_tensors} tensors, {share.parameters:,} of "
        f"{share.of_parameters:,} parameters ({share.parameters / share.of_parameters:.0%})"
        for site, share in event.sites.items()
    ]


def _dice(report: RoundReport) -> str:
    """Return a site's mean pseudo Dice, and that of the labels where they are few."""
    text = number(report.mean_dice, 2)
    if 1 < len(report.dice) <= LABELS_SHOWN:
        text += f" ({', '.join(f'{label} {number(value, 2)}' for label, value in report.dice.items())})"
    return text


def shows_live(console: Console) -> bool:
    """Return whether a live display makes sense on `console`.

    Variables such as ``FORCE_COLOR`` make rich take a pipe for a terminal, which a display that redraws itself
    would fill with control characters: the file itself has to be a terminal as well.
    """
    return console.is_terminal and console.is_interactive and console.file.isatty()


@contextmanager
def progress_for(console: Console) -> Iterator[PlainProgress | LiveProgress]:
    """Give the display that suits `console`: live on a terminal, plain lines elsewhere."""
    if shows_live(console):
        with LiveProgress(console) as live:
            yield live
    else:
        yield PlainProgress(console)
