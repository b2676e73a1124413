"""Renders each site's gain from the federation as table rows."""

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from fednnunet.events.events import GainTold
from fednnunet.protocol.messages import Gain, GainReport, PairedDifference
from fednnunet.report.formats import MISSING, number, own_name, printable

OVERALL = "all labels"
NOTE = (
    "Mean Dice over the validation cases of each site on which all models have one, and differences by case with their "
    "95 % confidence interval. The federated model is recommended unless another is better by more than chance."
)
HEADINGS = (
    "cases",
    "federated",
    "personal",
    "alone",
    "personal - federated",
    "federated - alone",
    "personal - alone",
    "to use",
)


def gain_rows(report: GainReport, *, labels: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield what a label is called and its cells, those of all labels together first.

    Parameters
    ----------
    report
        What a site tells.
    labels
        Whether single labels are wanted, too.
    """
    names = list(report.labels)
    yield own_name(OVERALL, names), [*_cells(report.overall), advice(report)]
    if labels and len(names) > 1:
        for name, gain in report.labels.items():
            yield name, [*_cells(gain), ""]


def advice(report: GainReport) -> str:
    """Return which model a site is advised to use."""
    if report.advice is None:
        return MISSING
    if report.advice == "alone":
        return "alone: better off without the federation"
    return report.advice if report.is_certain else f"{report.advice} (not certain)"


def gain_table(event: GainTold) -> Table:
    """Return the table of a fold, one row for each site, for a terminal."""
    table = Table(title=Text(f"Benefit of the federation, fold {event.fold}: Dice"), title_justify="left")
    table.add_column("site", overflow="fold")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[-1] else "right")
    for site, report in event.sites.items():
        for _, cells in gain_rows(report, labels=False):
            table.add_row(printable(site), *cells)
    return table


def _cells(gain: Gain) -> list[str]:
    dice = [number(value, 4) for value in (gain.federated, gain.personal, gain.alone)]
    differences = (gain.personal_over_federated, gain.federated_over_alone, gain.personal_over_alone)
    return [MISSING if not gain.cases else str(gain.cases), *dice, *map(_difference, differences)]


def _difference(found: PairedDifference | None) -> str:
    if found is None:
        return MISSING
    interval = "" if found.low is None or found.high is None else f" [{found.low:+.3f}, {found.high:+.3f}]"
    return f"{found.mean:+.3f}{interval}"
