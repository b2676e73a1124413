"""The figures that a run shows, read from wherever it shows them, by the names beside them."""

import csv
import html
import itertools
import json
import re
from pathlib import Path
from typing import Any

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import Event
from fednnunet.report.formats import MISSING


def event_of(run_dir: Path, kind: type[Event]) -> Any:
    """Return the last event of a kind in a run folder."""
    return [event for event in EventReader(run_dir / "events.jsonl").new_events() if isinstance(event, kind)][-1]


def terminal_row(output: str, title: str, site: str) -> dict[str, str]:
    """Return a row of the table below a title that a command has printed, by heading."""
    lines = [line.partition(" | ")[2] for line in output.split(title)[1].splitlines()]
    heading = next(line for line in lines if line.startswith("┃"))
    row = next(line for line in lines if line.startswith(f"│ {site}"))
    return dict(zip(_cells(heading, "┃"), _cells(row, "│"), strict=True))


def page_rows(page: Path, part: str, site: str) -> list[dict[str, str]]:
    """Return the rows of a site in the tables of a part of a report page, by heading."""
    text = page.read_text().split(f'id="part-{part}"')[1].split("<section")[0]
    rows = []
    for table in re.findall(r"<table>.*?</table>", text, re.DOTALL):
        lines = [
            re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)
            for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
        ]
        plain = [[html.unescape(re.sub(r"<small>.*?</small>|<[^>]+>", "", cell)) for cell in line] for line in lines]
        rows += [dict(zip(plain[0], line, strict=True)) for line in plain if line[0] == site]
    return rows


def markdown_rows(path: Path, site: str) -> list[dict[str, str]]:
    """Return the rows of a site in the tables of a Markdown file, by heading."""
    lines = [re.sub(r"\\(.)", r"\1", line) for line in path.read_text().splitlines()]
    heading: list[str] = []
    rows = []
    for line, following in itertools.pairwise([*lines, ""]):
        if following.startswith("|---"):
            heading = _cells(line, "|")
        elif line.startswith(f"| {site} |"):
            rows.append(dict(zip(heading, _cells(line, "|"), strict=True)))
    return rows


def csv_means(path: Path, site: str, metric: str) -> dict[str, str]:
    """Return the means of a metric in the CSV file of an evaluation, by label."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["site"], row["metric"]) == (site, metric)]
    return {row["label"]: row["mean"] for row in rows}


def nnunet_means(summary: Path, labels: dict[str, Any], metric: str = "Dice") -> dict[str, float | None]:
    """Return the means in nnU-Net's ``summary.json``, by the names in ``dataset.json``; written anew, on purpose."""
    means = json.loads(summary.read_text())["mean"]
    keys = {name: str(tuple(value)) if isinstance(value, list) else str(value) for name, value in labels.items()}
    return {name: _number(means[key][metric]) for name, key in keys.items() if key in means}


def shown(value: float | None) -> str:
    """Return how a Dice is written in tables."""
    return MISSING if value is None else f"{value:.4f}"


def _number(value: float) -> float | None:
    return value if value == value else None


def _cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in line.strip(separator).split(separator)]
