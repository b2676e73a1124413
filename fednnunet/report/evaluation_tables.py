"""Renders an evaluation by site, label and metric as JSON, CSV, Markdown, and a terminal table."""

import io
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import Field
from rich.table import Table

from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.metrics import DIGITS, METRICS, MetricName
from fednnunet.evaluation.prediction import CHECKPOINT, evaluation_name
from fednnunet.evaluation.summaries import Summary, pooled
from fednnunet.events.events import SitesEvaluated
from fednnunet.files import replacing
from fednnunet.folds import spelled
from fednnunet.protocol.messages import EvaluationReport, MetricSummaries, MetricSummary
from fednnunet.report.formats import MISSING, own_name, printable
from fednnunet.schema import Message, Number
from fednnunet.table_cells import markdown_cell, markdown_table, write_csv

logger = logging.getLogger(__name__)

OVERALL = "overall"
"""Stands for the mean over the labels of a case."""

ALL_SITES = "all sites"

TITLES: Mapping[MetricName, str] = {"dice": "Dice", "hd95": "HD95 (mm)", "assd": "ASSD (mm)", "nsd": "NSD"}


class Evaluation(Message):
    """Content of ``evaluation_FOLD.json``."""

    fold: str
    folds: int | None = Field(default=None, description="how many there are, where FOLD is ``all``")
    checkpoint: str
    nsd_tolerance: Number | None = Field(description="mm")
    sites: dict[str, EvaluationReport]
    all_sites: EvaluationReport = Field(description="mean and standard deviation over the cases of all sites")
    left_out: dict[str, str] = Field(description="sites that have told nothing, and why")


def over_all_sites(sites: Mapping[str, EvaluationReport]) -> EvaluationReport:
    """Return the report over the cases of all sites, which is exact; medians cannot be had from those of the sites."""
    labels = list(dict.fromkeys(label for report in sites.values() for label in report.labels))
    return EvaluationReport(
        labels={
            label: _pooled([report.labels[label] for report in sites.values() if label in report.labels])
            for label in labels
        },
        overall=_pooled([report.overall for report in sites.values()]),
    )


def write_evaluation(run_dir: Path, event: SitesEvaluated, nsd_tolerance: float | None) -> Path:
    """Write ``evaluation_FOLD.json``, ``.csv`` and ``.md`` into a run folder, and return the last one.

    Raises
    ------
    FednnUNetError
        If they cannot be written.
    """
    evaluation = Evaluation(
        **{name: getattr(event, name) for name in ("fold", "folds", "checkpoint", "sites", "left_out")},
        nsd_tolerance=nsd_tolerance,
        all_sites=over_all_sites(event.sites),
    )
    contents = {".json": evaluation.model_dump_json(indent=1), ".csv": _csv(evaluation), ".md": markdown(evaluation)}
    path = run_dir / evaluation_name(event.fold, event.checkpoint)
    try:
        for ending, content in contents.items():
            with replacing(path.with_name(path.name + ending)) as temporary:
                temporary.write_text(content, encoding="utf-8")
    except OSError as error:
        raise FednnUNetError(
            f"The results cannot be written to {run_dir} ({error.strerror}): fix that, or choose another --run_dir."
        ) from error
    return path.with_name(path.name + ".md")


def markdown(evaluation: Evaluation) -> str:
    """Return one Markdown table for each metric: mean ± standard deviation (cases) by site and label."""
    lines = [f"# {_title(evaluation)}", ""]
    labels = list(evaluation.all_sites.labels)
    for metric in METRICS:
        if getattr(evaluation.all_sites.overall, metric) is None:
            continue
        unit = f" at {evaluation.nsd_tolerance:g} mm" if metric == "nsd" else ""
        lines += [f"{TITLES[metric]}{unit}: mean ± standard deviation (cases)", ""]
        titles = (own_name("site", labels), *labels, own_name(OVERALL, labels))
        rows = (
            (site, *(_cell(of_label, metric, full=True) for of_label in (*_of(report, labels), report.overall)))
            for site, report in _with_all_sites(evaluation.sites, evaluation.all_sites)
        )
        lines += [*markdown_table(titles, rows), ""]
    lines += [f"Without {markdown_cell(site)}: {markdown_cell(reason)}" for site, reason in evaluation.left_out.items()]
    return "\n".join(lines).rstrip() + "\n"


def evaluation_table(event: SitesEvaluated) -> Table:
    """Return mean Dice and HD95 of every site and label, for a terminal."""
    every = over_all_sites(event.sites)
    table = Table(title=printable(_title(event)), title_justify="left")
    table.caption = "mean Dice / mean HD95 in mm"
    table.caption_justify = "left"
    labels = list(every.labels)
    table.add_column(printable(own_name("site", labels)), overflow="fold")
    for heading in (own_name("cases", labels), *labels, own_name(OVERALL, labels)):
        table.add_column(printable(heading), justify="right")
    rows = list(_with_all_sites(event.sites, every))
    for site, report in rows:
        if report is every:
            table.add_section()
        cases = report.overall.dice.cases
        cells = (
            " / ".join(_cell(of_label, metric, full=False) for metric in METRICS[:2])
            for of_label in (*_of(report, labels), report.overall)
        )
        table.add_row(printable(site), MISSING if cases is None else str(cases), *cells)
    for site in event.left_out:
        table.add_row(printable(site), *[MISSING] * (len(labels) + 2), style="dim")
    return table


def _with_all_sites(
    sites: Mapping[str, EvaluationReport], every: EvaluationReport
) -> Iterator[tuple[str, EvaluationReport]]:
    yield from sites.items()
    yield own_name(ALL_SITES, sites), every


def _of(report: EvaluationReport, labels: list[str]) -> list[MetricSummaries | None]:
    return [report.labels.get(label) for label in labels]


def _pooled(parts: list[MetricSummaries]) -> MetricSummaries:
    told: dict[str, MetricSummary] = {}
    for metric in METRICS:
        of_sites: list[MetricSummary] = [part for part in (getattr(one, metric) for one in parts) if part is not None]
        if not of_sites:
            continue  # only the normalised surface Dice may be missing
        total = pooled(Summary(one.mean, one.std, one.median, one.cases) for one in of_sites)
        told[metric] = MetricSummary(mean=total.mean, std=total.std, median=total.median, cases=total.cases)
    return MetricSummaries(**told)


def _cell(summaries: MetricSummaries | None, metric: MetricName, full: bool) -> str:
    summary: MetricSummary | None = None if summaries is None else getattr(summaries, metric)
    if summary is None or summary.mean is None:
        return MISSING
    digits = DIGITS[metric]
    mean = f"{summary.mean:.{digits}f}"
    if not full:
        return mean
    std = "" if summary.std is None else f" ± {summary.std:.{digits}f}"
    return f"{mean}{std} ({summary.cases})"


def _csv(evaluation: Evaluation) -> str:
    file = io.StringIO()
    write_csv(file, _csv_rows(evaluation), lineterminator="\n")
    return file.getvalue()


def _csv_rows(evaluation: Evaluation) -> Iterator[tuple[object, ...]]:
    fields = list(MetricSummary.model_fields)
    yield ("site", "label", "metric", *fields)
    for site, report in _with_all_sites(evaluation.sites, evaluation.all_sites):
        overall = own_name(OVERALL, evaluation.all_sites.labels)
        for label, summaries in (*report.labels.items(), (overall, report.overall)):
            for metric in METRICS:
                summary = getattr(summaries, metric)
                if summary is not None:
                    values = (getattr(summary, field) for field in fields)
                    yield (site, label, metric, *("" if value is None else value for value in values))


def _title(of: Evaluation | SitesEvaluated) -> str:
    which = "" if of.checkpoint == CHECKPOINT else f", {of.checkpoint}"
    return f"Test cases, {spelled(of.fold, of.folds)}{which}"
