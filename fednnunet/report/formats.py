"""Formats numbers, times, names and tables for all displays."""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fednnunet.events.events import FoldValidated, RoundCompleted, SitesAwaited

MISSING = "\N{EN DASH}"
"""Placeholder for a missing number."""

MEAN = "mean of the sites"

LABELS_SHOWN = 4
"""With more labels than this, lines and live table give the mean only; the validation table gives all."""

WARNING = "Warning: "
"""Prefix of warnings, by which the launcher finds them in the nodes' output."""

_UNLIMITED = 100_000


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


def own_name(name: str, users: Collection[str]) -> str:
    """Return what a row or column of ours is called beside those that users have named: never as one of them."""
    while name in users:
        name = f"[{name}]"
    return name


def labels_of(dice: Iterable[Mapping[str, float | None]]) -> list[str]:
    """Return the labels that occur, in the order in which they first do."""
    return list(dict.fromkeys(label for of_site in dice for label in of_site))


def printable(text: str) -> Text:
    """Return `text`, which may come from another site, without the characters that could steer a terminal."""
    return Text("".join(char if char.isprintable() else "?" for char in text))


def shares(event: RoundCompleted) -> dict[str, float]:
    """Return what the seconds of a round were spent on; nothing if that is not known.

    Returns
    -------
    Seconds for ``training`` and ``validating``, those of the median site of those that took part; ``waiting``, how much
    longer the slowest one took, in both; ``moving`` and ``averaging``; and ``other``, what is left of the round.
    """
    timing = event.timing
    if timing is None:
        return {}
    parts = {"training": 0.0, "waiting": 0.0, "moving": timing.moving, "averaging": timing.averaging, "validating": 0.0}
    for kind, of_sites in (("training", timing.training), ("validating", timing.validating)):
        seconds = [of_sites[site] for site in event.sites if site in of_sites]
        if seconds:
            parts[kind] = statistics.median(seconds)
            parts["waiting"] += max(seconds) - parts[kind]
    return {**parts, "other": max(0.0, event.seconds - sum(parts.values()))}


def costs(event: RoundCompleted) -> list[str]:
    """Return what a round has cost, and who was missing, as short phrases; nothing where it is not known."""
    phrases = []
    spent = shares(event)
    if spent:
        phrases.append(", ".join(f"{what} {seconds:.1f} s" for what, seconds in spent.items()))
    if event.traffic:
        up = sum(traffic.from_site for traffic in event.traffic.values())
        down = sum(traffic.to_site for traffic in event.traffic.values())
        phrases.append(f"{megabytes(up)} from sites, {megabytes(down)} to sites")
    if event.left_out:
        phrases.append(f"without {', '.join(event.left_out)}")
    return phrases


def megabytes(size: int) -> str:
    """Return a number of bytes as ``1.2 MB``, of a million bytes each."""
    return f"{size / 1e6:,.1f} MB"


def validation_table(event: FoldValidated) -> Table:
    """Return the Dice of every site and label, with the mean of the sites as the last row."""
    labels = labels_of(report.dice for report in event.sites.values())
    table = Table(title=Text(f"Validation of fold {event.fold}: Dice"), title_justify="left")
    table.add_column(Text(own_name("site", labels)), overflow="fold")
    for label in labels:
        table.add_column(printable(label), justify="right")
    table.add_column(Text(own_name("mean", labels)), justify="right")
    for site, report in event.sites.items():
        cells = [number(report.dice.get(label), 4) for label in labels]
        table.add_row(printable(site), *cells, number(report.mean_dice, 4))
    table.add_section()
    means = [mean(report.dice.get(label) for report in event.sites.values()) for label in labels]
    overall = mean(report.mean_dice for report in event.sites.values())
    name = Text(own_name("mean", event.sites))
    table.add_row(name, *(number(value, 4) for value in means), number(overall, 4), style="bold")
    return table


def awaited(event: SitesAwaited) -> str:
    """Return who is waited for, as one line."""
    return f"waiting for {', '.join(event.sites)}: {event.present} of {event.needed} sites are ready"


def natural_width(table: Table, console: Console, options: ConsoleOptions) -> int:
    """Return how wide `table` is where nothing limits it."""
    return Measurement.get(console, options.update(width=_UNLIMITED), table).maximum
