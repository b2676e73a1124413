"""Renders the results of a comparison for the terminal, and as Markdown, CSV and JSON."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fednnunet.comparison.methods import Method
from fednnunet.comparison.results import DICE, TABLE_METRICS, WORST, Metric, Results, Where
from fednnunet.evaluation.metrics import METRICS
from fednnunet.evaluation.paired import Difference
from fednnunet.files import replacing
from fednnunet.report.formats import MISSING, duration, number, own_name
from fednnunet.table_cells import Markdown, markdown_cell, markdown_table, write_csv

BEST = "*"
MEANING = (
    f"Mean over cases of each case's mean over labels; {BEST} the best federated result. A label that only truth or "
    "only prediction has counts as DSC 0, and as HD95 with the length of the image's diagonal; one that neither has "
    "does not count."
)
DIFFERENCES_TITLE = "Difference to local training: mean over cases, 95 % confidence interval, number of cases"
DIFFERENCES_MEANING = (
    "Paired by case; Student's t interval over cases, assumed independent. External and other sites' "
    "cases: the mean over the sites' models, if each has its own."
)
_SEEDS_MEANING = (
    "Means over the seeds {}. Differences are paired by case and seed; their interval covers other cases and other "
    "seeds, both assumed random and independent (two-way analysis of variance, Satterthwaite's degrees "
    "of freedom)."
)
ELSEWHERE_TITLES: dict[Where, str] = {
    "others": "The model of each site on the test cases of the other sites",
    "externals": "The model of each site on the external datasets",
}
COST_TITLES = ("method", "training, h:mm:ss", "MB from sites", "MB to sites")
COST_MEANING = (
    "Time of a training, including repeated attempts; sites that train alone do so at the same time. Bytes are "
    "those of all rounds and sites."
)


def meaning_of_differences(results: Results) -> str:
    """Return what the differences and their intervals are."""
    if len(results.seeds) < 2:
        return DIFFERENCES_MEANING
    return f"{_SEEDS_MEANING.format(', '.join(map(str, results.seeds)))} {DIFFERENCES_MEANING.partition('. ')[2]}"


def elsewhere_tables(results: Results, metric: Metric) -> list[tuple[str, list[str], list[tuple[str, ...]]]]:
    """Return title, headings and rows of the tables that tell what models achieve where they have not trained."""
    there: dict[Where, bool] = {
        "others": len(results.sites) > 1 and bool(results.tested_sites),
        "externals": len(results.datasets) > len(results.tested_sites),
    }
    columns = [metric.title, *headings(results, results.sites), "worst", "mean"]
    return [
        (
            ELSEWHERE_TITLES[where],
            columns,
            [
                (
                    method.title,
                    *(number(value, metric.digits) for value in results.elsewhere_row(method, metric, where)),
                )
                for method in results.methods
            ],
        )
        for where, is_there in there.items()
        if is_there
    ]


def cost_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the table of what each method's training has taken, with the titles `COST_TITLES`."""
    rows = []
    for method in results.methods:
        if (cost := results.costs.get(method.name)) is not None:
            moved = [None if size is None else size / 1e6 for size in (cost.from_sites, cost.to_sites)]
            rows.append((method.title, duration(cost.seconds), *(number(size, 1) for size in moved)))
    return rows


def table_rows(results: Results, metric: Metric) -> list[tuple[Method, list[tuple[str, bool]]]]:
    """Return the table of a metric: for each method its cells, and whether each is the best federated one."""
    columns = [(results.column(name, metric.name), results.best(name, metric)) for name in results.columns]
    return [
        (method, [(number(values[method.name], metric.digits), method.name in best) for values, best in columns])
        for method in results.methods
    ]


def short_name(dataset: str) -> str:
    """Return the name of a dataset without its number, for headings."""
    return dataset.partition("_")[2] or dataset if dataset.startswith("Dataset") else dataset


def headings(results: Results, names: Sequence[str]) -> list[str]:
    """Return the headings of columns; externals say that they are."""
    short = [short_name(name) for name in names]
    unique = short if len(set(short)) == len(short) else list(names)
    return [
        f"{heading} (external)" if name in results.externals else heading
        for name, heading in zip(names, unique, strict=True)
    ]


def terminal_tables(results: Results) -> list[Table]:
    """Return the tables for a terminal: one for each metric, and one of the differences."""
    tables = []
    for metric in TABLE_METRICS:
        table = Table(title=metric.title, title_justify="left")
        table.add_column("method")
        for heading in headings(results, results.columns):
            table.add_column(escape(heading), justify="right")
        for method, cells in table_rows(results, metric):
            if method.is_pooled:
                table.add_section()
            table.add_row(
                escape(method.title), *(f"[bold]{text}{BEST}[/]" if best else f"{text} " for text, best in cells)
            )
        tables.append(table)
    for title, columns, rows in elsewhere_tables(results, DICE):
        tables.append(_plain_table(f"{columns[0]}: {title}", ["method", *columns[1:]], rows))
    if results.compared:
        tables += [_differences_table(results, metric) for metric in TABLE_METRICS]
    if results.costs:
        tables.append(_plain_table("Cost of the training", COST_TITLES, cost_rows(results)))
    return tables


def notes(results: Results) -> list[str]:
    """Return what must be said beside the tables."""
    said = [
        f"{method.title} has no results: {results.failures[method.name]}"
        for method in results.methods
        if method.name in results.failures
    ]
    said += [f"{name} has no labelled test cases, so it has no column." for name in results.untested]
    return said


def difference_text(difference: Difference | None, metric: Metric) -> str:
    """Return a difference, its interval and the number of cases in a few words."""
    if difference is None:
        return MISSING
    words = [_signed(difference.mean, metric), _interval(difference, metric), f"(n={difference.cases})"]
    return " ".join(filter(None, words))


def difference_rows(results: Results) -> list[tuple[str, ...]]:
    """Return the table of differences as text: method, dataset, and one cell for each metric."""
    names = results.rows_of_differences
    return [
        (
            method.title,
            heading,
            *(difference_text(results.difference(method, name, metric.name), metric) for metric in TABLE_METRICS),
        )
        for method in results.compared
        for name, heading in zip(names, headings(results, names), strict=True)
    ]


def write_results(results: Results, folder: Path, about: dict[str, Any]) -> None:
    """Write ``comparison.md``, ``.csv`` and ``.json``, and ``differences.csv``.

    Parameters
    ----------
    results
        What is known.
    folder
        Where to.
    about
        What else the JSON file is to tell: command and flags.
    """
    _write(folder / "comparison.md", lambda path: path.write_text(markdown(results), encoding="utf-8"))
    _write(folder / "comparison.csv", lambda path: _write_rows(path, _csv_rows(results)))
    _write(folder / "differences.csv", lambda path: _write_rows(path, _difference_csv_rows(results)))
    content = {**about, **as_json(results)}
    _write(folder / "comparison.json", lambda path: path.write_text(json.dumps(content, indent=2) + "\n"))


def markdown(results: Results) -> str:
    """Return the tables as Markdown."""
    lines = ["# Comparison", ""]
    for metric in TABLE_METRICS:
        rows = (
            (method.title, *(Markdown(f"**{text}**") if best else text for text, best in cells))
            for method, cells in table_rows(results, metric)
        )
        lines += [*markdown_table([metric.title, *headings(results, results.columns)], rows), ""]
    lines += [MEANING.replace(BEST, "bold:"), ""]
    for of_metrics in zip(*(elsewhere_tables(results, metric) for metric in TABLE_METRICS), strict=True):
        lines += [f"## {of_metrics[0][0]}", ""]
        for _, columns, cells in of_metrics:
            lines += [*markdown_table(columns, cells), ""]
    if results.compared:
        lines += [f"## {DIFFERENCES_TITLE}", ""]
        titles = ["method", "test cases", *(metric.title for metric in TABLE_METRICS)]
        differences = ((method, name, *map(Markdown, cells)) for method, name, *cells in difference_rows(results))
        lines += [*markdown_table(titles, differences), ""]
        lines += [meaning_of_differences(results), ""]
    lines += [line for note in notes(results) for line in (markdown_cell(note), "")]
    if results.costs:
        costs = markdown_table(COST_TITLES, cost_rows(results))
        lines += ["## Cost of the training", "", *costs, "", COST_MEANING, ""]
    if results.seconds:
        times = ((name, duration(seconds)) for name, seconds in results.seconds.items())
        lines += ["## Time", "", *markdown_table(["step", "h:mm:ss"], times), ""]
    return "\n".join(lines)


def as_json(results: Results) -> dict[str, Any]:
    """Return all numbers as JSON."""
    return {
        "sites": list(results.sites),
        "externals": list(results.externals),
        "without_test_cases": list(results.untested),
        "methods": {
            method.name: {
                "title": method.title,
                "failure": results.failures.get(method.name),
                "datasets": {
                    name: {
                        metric: {"mean": found.mean, "std": found.std, "cases": found.cases,
                                 **_ends(results.interval(method, name, metric))}
                        for metric in METRICS
                        if (found := results.of(method, name, metric)).cases
                    }
                    for name in results.datasets
                },
                "elsewhere": {
                    where: {
                        metric.name: dict(zip([*results.sites, "worst", "mean"],
                                              results.elsewhere_row(method, metric, where), strict=True))
                        for metric in TABLE_METRICS
                    }
                    for where in ELSEWHERE_TITLES
                },
                "worst_site": {
                    metric.name: results.column(WORST, metric.name)[method.name] for metric in TABLE_METRICS
                }
                if len(results.tested_sites) > 1
                else {},
                "cost": None if (cost := results.costs.get(method.name)) is None else asdict(cost),
                "mean_over_sites": {
                    metric.name: results.column(results.columns[-1], metric.name)[method.name]
                    for metric in TABLE_METRICS
                }
                if len(results.tested_sites) > 1
                else {},
                "best": {metric.name: [name for name in results.columns if method.name in results.best(name, metric)]
                         for metric in TABLE_METRICS},
            }
            for method in results.methods
        },
        "differences_to_local": [
            {"method": method, "test_cases": dataset, "label": label, "metric": metric, "mean": found.mean,
             "low": found.low, "high": found.high, "cases": found.cases, "seeds": found.seeds}
            for method, dataset, label, metric, found in _differences(results)
        ],
        "seconds": {name: round(seconds, 1) for name, seconds in results.seconds.items()},
    }  # fmt: skip


def _differences_table(results: Results, metric: Metric) -> Table:
    table = Table(title=f"{metric.title}: difference to local training", title_justify="left")
    table.add_column("method")
    table.add_column("test cases")
    for title in ("mean", "95 % interval", "cases"):
        table.add_column(title, justify="right", no_wrap=True)
    names = results.rows_of_differences
    for method in results.compared:
        table.add_section()
        for name, heading in zip(names, headings(results, names), strict=True):
            found = results.difference(method, name, metric.name)
            if found is not None:
                shown = _signed(found.mean, metric), _interval(found, metric), str(found.cases)
                table.add_row(escape(method.title), escape(heading), shown[0], escape(shown[1]), shown[2])
    return table


def _plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    for number_of, column in enumerate(columns):
        table.add_column(escape(column), justify="right" if number_of else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _ends(found: Difference | None) -> dict[str, float | None]:
    return {} if found is None else {"low": found.low, "high": found.high}


def _signed(value: float, metric: Metric) -> str:
    return f"{value:+.{metric.digits}f}"


def _interval(difference: Difference, metric: Metric) -> str:
    """Return the ends of the interval, an empty text where there is none."""
    if difference.low is None or difference.high is None:
        return ""
    return f"[{_signed(difference.low, metric)}, {_signed(difference.high, metric)}]"


def _csv_rows(results: Results) -> Iterable[Sequence[object]]:
    yield ("method", "dataset", "kind", "label", *(f"{name}_{what}" for name in METRICS for what in _COLUMNS))
    for method in results.methods:
        for dataset, kind in results.tested_on.items():
            for label in (None, *results.labels):
                cells: list[object] = []
                for metric in METRICS:
                    found = results.of(method, dataset, metric, label)
                    ends = _ends(results.interval(method, dataset, metric, label)) or {"low": None, "high": None}
                    cells += [_cell(found.mean), _cell(found.std), found.cases or 0, *map(_cell, ends.values())]
                yield (method.name, dataset, kind, _label(results, label), *cells)


_COLUMNS = ("mean", "std", "cases", "ci95_low", "ci95_high")


def _differences(results: Results) -> Iterable[tuple[str, str, str, str, Difference]]:
    for method in results.compared:
        for dataset in results.rows_of_differences:
            for label in (None, *results.labels):
                for metric in METRICS:
                    found = results.difference(method, dataset, metric, label)
                    if found is not None:
                        yield method.name, dataset, _label(results, label), metric, found


def _difference_csv_rows(results: Results) -> Iterable[Sequence[object]]:
    yield ("method", "test_cases", "label", "metric", "mean_difference", "ci95_low", "ci95_high", "cases", "seeds")
    for method, dataset, label, metric, found in _differences(results):
        yield (
            method,
            dataset,
            label,
            metric,
            found.mean,
            _cell(found.low),
            _cell(found.high),
            found.cases,
            found.seeds,
        )


def _label(results: Results, label: str | None) -> str:
    return own_name("mean", results.labels) if label is None else label


def _cell(value: float | None) -> object:
    return "" if value is None else value


def _write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        write_csv(file, rows)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    with replacing(path) as temporary:
        write(temporary)
