"""Prints a run as plain lines, one per event, for files and simple terminals."""

from rich.console import Console
from rich.table import Table

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
from fednnunet.events.run_state import RunState
from fednnunet.protocol.messages import RoundReport
from fednnunet.report.evaluation_tables import evaluation_table
from fednnunet.report.formats import (
    LABELS_SHOWN,
    awaited,
    costs,
    duration,
    mean,
    natural_width,
    number,
    printable,
    validation_table,
)
from fednnunet.report.gain_tables import gain_table
from fednnunet.report.standing import stage_title
from fednnunet.wording import counted

_WORTH_SAYING = (
    ApprovalAwaited,
    SiteLeftOut,
    SiteTakenIn,
    SitesAwaited,
    UpdateOutOfLine,
    FoldValidated,
    GainTold,
    ModelExported,
    SitesEvaluated,
    Finished,
)


class PlainProgress:
    """One readable line for each event, for files and for terminals that cannot redraw."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._run = RunState()
        self._quarters = 0

    def emit(self, event: Event) -> None:
        """Print `event`."""
        self._run.take(event)
        match event:
            case SiteJoined():
                cases = counted(event.cases, "case")
                self._line(f"site {event.site} joined, {cases} ({event.joined}/{event.expected})")
            case StageStarted():
                self._quarters = 0
                self._line(_stage(event))
            case RoundCompleted():
                self._line(self._round(event))
            case WorkProgressed():
                self._progress(event)
            case FingerprintFound():
                self._line(_cost(event))
            case PlansAgreed():
                self._line(_agreed(event))
            case SharingAgreed():
                for line in _shared(event):
                    self._line(line)
            case SiteLeftOut():
                where = f"round {event.round}" if event.round else "preparing"
                self._line(f"{where} · without site {event.site}: {event.reason}")
            case SiteTakenIn():
                self._line(f"site {event.site} rejoins, from round {event.round + 1}")
            case UpdateOutOfLine():
                self._line(f"round {event.round} · the update of site {event.site} {event.finding}")
            case ApprovalAwaited():
                waits = "waits for a person's approval of a message" if event.waits else "no longer waits for approval"
                self._line(f"site {event.site} {waits}")
            case SitesAwaited():
                if event.sites:
                    self._line(awaited(event))
            case FoldValidated():
                self._table(validation_table(event))
            case GainTold():
                self._table(gain_table(event))
            case ModelExported():
                self._line(f"model of {_folds(event)} written to {event.folder} and {event.archive}")
                if event.caution is not None:
                    self._line(f"WARNING: {event.caution}")
            case SitesEvaluated():
                self._table(evaluation_table(event))
                for site, why in event.left_out.items():
                    self._line(f"not evaluated at site {site}: {why}")
            case Finished():
                self._line(f"finished after {duration(event.seconds)}")

    def _line(self, text: str) -> None:
        # soft_wrap: where lines are kept, one event stays one line, however long
        self.console.print(printable(text), soft_wrap=True)

    def _table(self, table: Table) -> None:
        # these numbers are the result of the run: too many for the width, they wrap or run on, but none is cut off
        table.width = natural_width(table, self.console, self.console.options)
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
        if self._run.remaining is not None:
            parts.append(f"ETA {duration(self._run.remaining)}")
        reports = event.sites.values()
        train = number(mean(report.train_loss for report in reports), 4)
        val = number(mean(report.val_loss for report in reports), 4)
        parts.append(f"loss {train}, val {val}")
        sites = " ".join(f"{site} {_dice(report)}" for site, report in event.sites.items())
        parts.append(f"pseudo Dice {sites}")
        return " · ".join([*parts, *costs(event)])


class QuietProgress:
    """Results, and what needs somebody's attention: a site is missing, or an update is out of line."""

    def __init__(self, console: Console) -> None:
        self._plain = PlainProgress(console)

    def emit(self, event: Event) -> None:
        """Print `event`, if it is such."""
        if isinstance(event, _WORTH_SAYING):
            self._plain.emit(event)


def _stage(event: StageStarted) -> str:
    title = stage_title(event)
    if event.rounds is None:
        return title
    start = f", from round {event.first_round}" if event.first_round > 1 else ""
    return f"{title}: {counted(event.rounds, 'round')}{start}"


def _cost(event: FingerprintFound) -> str:
    largest = max(event.answered_bytes.values(), default=0)
    return f"common fingerprint found with {event.questions} questions, {largest / 1000:.1f} kB from each site"


def _agreed(event: PlansAgreed) -> str:
    found = [name for name, value in (("fingerprint", event.fingerprint), ("plans", event.plans)) if value is not None]
    if not found:
        return "every site plans for itself"
    line = f"common {' and '.join(found)} agreed"
    configurations = (event.plans or {}).get("configurations")
    return f"{line}: {', '.join(map(str, configurations))}" if isinstance(configurations, dict) else line


def _folds(event: ModelExported) -> str:
    return f"fold{'' if len(event.folds) == 1 else 's'} {', '.join(event.folds)}"


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
