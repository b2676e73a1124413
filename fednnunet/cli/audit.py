"""``fednnunet audit``: shows and verifies a site's audit log, and measures what its models tell."""

import argparse
import json
from collections import Counter, deque
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fednnunet.errors import FednnUNetError
from fednnunet.folds import check_fold
from fednnunet.garbage import importing
from fednnunet.membership.settings import AUDIT_FLAGS, PrivacyAuditSettings
from fednnunet.nnunet_defaults import FINAL_CHECKPOINT
from fednnunet.privacy.audit import AuditEntry, Verification, read_entries, read_receipts, verify
from fednnunet.report.formats import MISSING, printable
from fednnunet.settings.flag import add_flags, filled
from fednnunet.settings.values import positive_int

_ARROWS = {"out": "→ out", "in": "← in"}
_WITHHELD = "✗ withheld"
_WIDTH_OF_FILES = 200
_UNITS = ("B", "kB", "MB", "GB", "TB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of ``fednnunet audit``."""
    commands = parser.add_subparsers(dest="audit_command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="show the entries of a log, and their totals")
    show.add_argument("log", metavar="LOG", type=Path, help="the site's audit log")
    show.add_argument("--last", metavar="N", type=positive_int, help="only the last N entries (default: all)")
    show.add_argument("--kind", metavar="KIND", help="only entries of this kind, 'update' for example (default: all)")
    check = commands.add_parser("verify", help="check the integrity of a log")
    check.add_argument("log", metavar="LOG", type=Path, help="the site's audit log")
    check.add_argument(
        "--receipts",
        metavar="FILE",
        type=Path,
        help="the coordinator's receipts; they reveal an end that was cut off or rewritten",
    )
    _add_privacy_arguments(
        commands.add_parser(
            "privacy",
            help="measure whether models tell which of the site's cases they were trained on; nothing leaves the site",
            allow_abbrev=False,
        )
    )


def _add_privacy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", metavar="DATASET_ID", help="the site's dataset: id or name")
    parser.add_argument("configuration", metavar="CONFIGURATION", help="2d, 3d_fullres, 3d_lowres …")
    parser.add_argument(
        "fold",
        metavar="FOLD",
        help="number of a fold of the split, from 0; 'all' = all folds with models, compared case by case; 'fold_all' "
        "= nnU-Net's fold 'all', where the held-out cases are the labelled test cases",
    )
    add_flags(parser, AUDIT_FLAGS)
    parser.add_argument(
        "-chk",
        "--checkpoint",
        metavar="CHECKPOINT",
        default=FINAL_CHECKPOINT,
        help="file in the folder of each fold (default: %(default)s)",
    )
    parser.add_argument(
        "--test_cases", action="store_true", help="labelled test cases (imagesTs, labelsTs) are held-out cases, too"
    )
    parser.add_argument(
        "--tta", dest="mirror", action="store_true", help="average over mirrored images as nnU-Net does: slower"
    )
    parser.add_argument(
        "-o", "--output", metavar="OUTPUT", type=Path, help="folder for the report (default: one in the model's)"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print the report as JSON")


def run_audit(arguments: argparse.Namespace) -> int:
    """Show or verify an audit log, or audit models, and return the exit status.

    Raises
    ------
    FednnUNetError
        If a file cannot be read, the log is not whole, or there is nothing to audit.
    """
    if arguments.audit_command == "privacy":
        return _audit_privacy(arguments)
    console = _console()
    if arguments.audit_command == "show":
        _show(console, arguments.log, arguments.last, arguments.kind)
    else:
        sentence = _verified(arguments.log, arguments.receipts)
        console.print(printable(sentence), soft_wrap=True)
    return 0


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def _audit_privacy(arguments: argparse.Namespace) -> int:
    check_fold(arguments.fold)
    with importing():  # torch and nnU-Net, which takes seconds
        from fednnunet.membership.auditing import audit_privacy
        from fednnunet.membership.report import notes, sentence, table, write_report
        from fednnunet.node.dataset import find_dataset

    settings = filled(PrivacyAuditSettings, {**vars(arguments), "dataset": find_dataset(arguments.dataset).name})
    audits, folder = audit_privacy(settings)
    content = write_report(settings, audits, folder)
    if settings.as_json:
        print(json.dumps(content, indent=1))  # noqa: T201 - a console would break its lines
        return 0
    console = _console()
    console.print(table(audits))
    told = [sentence(name, audit) for name, audit in audits.items()]
    for line in (*told, *notes(settings, audits), f"Report: {folder}"):
        console.print()
        console.print(printable(line), soft_wrap=True)
    return 0


def _show(console: Console, path: Path, last: int | None, kind: str | None) -> None:
    rows: deque[AuditEntry] = deque(maxlen=last)
    totals = _Totals()
    no_entries = 0
    for entry in read_entries(path):
        if entry is None:
            no_entries += 1
        elif kind is None or entry.kind == kind:
            rows.append(entry)
            totals.add(entry)
    console.print(_entries_table(rows))
    console.print()
    console.print(totals.table())
    if no_entries:
        lines = "1 line is invalid" if no_entries == 1 else f"{no_entries} lines are invalid"
        console.print(f"{lines}: check the log with 'fednnunet audit verify'.", soft_wrap=True, highlight=False)


def _entries_table(entries: deque[AuditEntry]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("entry", "time (UTC)", "run", "round", "", "kind", "messages", "bytes", "decision"):
        is_number = column in {"entry", "round", "messages", "bytes"}
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for entry in entries:
        table.add_row(
            str(entry.number),
            _seconds(entry.time),
            printable(entry.run),
            MISSING if entry.round is None else str(entry.round),
            _arrow(entry),
            printable(entry.kind),
            str(entry.messages),
            f"{entry.bytes:,}",
            printable(_decision(entry)),
        )
    return table


class _Totals:
    """Totals of entries, by direction and kind."""

    def __init__(self) -> None:
        self._entries: Counter[tuple[str, str]] = Counter()
        self._messages: Counter[tuple[str, str]] = Counter()
        self._bytes: Counter[tuple[str, str]] = Counter()

    def add(self, entry: AuditEntry) -> None:
        """Take one entry."""
        key = (_arrow(entry), entry.kind)
        self._entries[key] += 1
        self._messages[key] += entry.messages
        self._bytes[key] += entry.bytes

    def table(self) -> Table:
        """Return one row for each direction and kind."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("", "total of", "entries", "messages", "bytes"):
            table.add_column(column, justify="left" if column in {"", "total of"} else "right", overflow="fold")
        for key in sorted(self._entries):
            arrow, kind = key
            table.add_row(
                arrow, printable(kind), str(self._entries[key]), str(self._messages[key]), f"{self._bytes[key]:,}"
            )
        return table


def _decision(entry: AuditEntry) -> str:
    """Return what became of a message, and the sites of the sum, if it names some."""
    return entry.decision if entry.sites is None else f"{entry.decision}: sum over {', '.join(entry.sites)}"


def _arrow(entry: AuditEntry) -> str:
    return _WITHHELD if entry.is_withheld else _ARROWS[entry.direction]


def _verified(path: Path, receipts: Path | None) -> str:
    """Return one sentence about a log that is whole."""
    found = verify(path, receipts=[] if receipts is None else read_receipts(receipts))
    if receipts is None:
        end = "only the coordinator's receipts (--receipts) could show whether its end was cut off"
    elif found.receipt is None:
        raise FednnUNetError(
            f"{path} is intact so far, but {receipts} has no receipt of its site ({_sites(found)}): give the "
            "receipts of a coordinator to which the site has connected."
        )
    else:
        end = f"its last receipt at the coordinator is entry {found.receipt}"
    return f"{path.name} is intact: {_content(found)}; {end}."


def _content(found: Verification) -> str:
    if found.first is None or found.last is None:
        return "it has no entries"
    parts = [
        "1 entry" if found.entries == 1 else f"{found.entries} entries",
        f"{_size(sum(found.out.values()))} out",
        f"{_size(sum(found.received.values()))} in",
    ]
    if found.withheld:
        parts.append(f"{found.withheld} messages withheld" if found.withheld > 1 else "1 message withheld")
    if found.torn:
        parts.append(f"{found.torn} lines cut short" if found.torn > 1 else "1 line cut short")
    return ", ".join([*parts, f"from {_seconds(found.first)} to {_seconds(found.last)} UTC"])


def _sites(found: Verification) -> str:
    return ", ".join(printable(site).plain for site in sorted(found.sites)) or "no name"


def _seconds(time: str) -> str:
    """Return an entry's UTC time without fractions of a second."""
    return time[:19].replace("T", " ")


def _size(size: int) -> str:
    """Return a number of bytes in a unit in which it is short."""
    value = float(size)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} {_UNITS[-1]}"
