"""Writes the report page of a comparison: tables, charts of the differences, and the federated trainings."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d, Scatter, Segment, VSpan
from bokeh.plotting import figure
from markupsafe import Markup, escape

from fednnunet.comparison import tables
from fednnunet.comparison.methods import Method
from fednnunet.comparison.results import TABLE_METRICS, Metric, Results
from fednnunet.evaluation.paired import Difference
from fednnunet.events.event_files import EventReader
from fednnunet.events.events import Event
from fednnunet.report.formats import duration
from fednnunet.report.page import Part, html_table, parts_of, write_page
from fednnunet.report.page.charts import INK, colour_of, empty_figure, plain
from fednnunet.report.page.part import Figure

logger = logging.getLogger(__name__)

_ROW_PIXELS = 22
_FRAME_PIXELS = 110


def write_report(results: Results, path: Path, events: dict[str, Path]) -> None:
    """Write the page of a comparison.

    Parameters
    ----------
    results
        What is known.
    path
        The HTML file.
    events
        By name of a federated method, the file with the events of its training.
    """
    parts = [comparison_part(results)]
    for method in results.methods:
        if method.name in events:
            parts += parts_of(_read(events[method.name]), method.title)
    sites = ", ".join(tables.headings(results, results.sites))
    write_page(path, "Local, federated and centralized training", parts, f"Sites: {sites}")


def comparison_part(results: Results) -> Part:
    """Return the part with the tables and the differences."""
    below = [Markup("<p class='note'>{}</p>").format(note) for note in tables.notes(results)]
    figures: list[Figure] = []
    if results.compared:
        titles = ["method", "test cases", *(metric.title for metric in TABLE_METRICS)]
        table = html_table(
            titles, tables.difference_rows(results), caption=tables.DIFFERENCES_TITLE, text_columns=(0, 1)
        )
        below = [table, Markup('<p class="note">{}</p>').format(tables.meaning_of_differences(results)), *below]
        figures = [_differences_figure(results, metric) for metric in TABLE_METRICS]
    if results.models:
        figures += [_values_figure(results, metric) for metric in TABLE_METRICS]
    if results.costs:
        costs = html_table(tables.COST_TITLES, tables.cost_rows(results), caption="Cost of the training")
        below.append(costs + Markup('<p class="note">{}</p>').format(tables.COST_MEANING))
    if results.seconds:
        times = [(name, duration(seconds)) for name, seconds in results.seconds.items()]
        below.append(html_table(["step", "h:mm:ss"], times, caption="Duration of each step"))
    html = [_table(results, metric) for metric in TABLE_METRICS]
    for metric in TABLE_METRICS:
        for title, columns, rows in tables.elsewhere_tables(results, metric):
            html.append(html_table(["method", *columns[1:]], rows, caption=f"{title}: {metric.title}"))
    html.append(Markup('<p class="note">{}</p>').format(tables.MEANING))
    return Part("comparison", "Comparison", Markup().join(html), figures, Markup().join(below))


def _table(results: Results, metric: Metric) -> Markup:
    rows: dict[bool, list[Sequence[object]]] = {True: [], False: []}
    for method, cells in tables.table_rows(results, metric):
        shown = [Markup("<strong>{}{}</strong>").format(text, tables.BEST) if best else text for text, best in cells]
        rows[method.is_pooled].append([method.title, *shown])
    columns = ["method", *tables.headings(results, results.columns)]
    return html_table(columns, rows[False], caption=metric.title, foot=rows[True])


def _differences_figure(results: Results, metric: Metric) -> Figure:
    """Return a picture of the differences in a metric."""
    good = "right" if metric.higher_is_better else "left"
    caption = f"Difference to local training in {metric.title} with 95 % confidence interval; further {good} is better"
    plot = _dots(results, metric, "difference", results.compared, results.difference)
    zero = VSpan(x="x", line_color="#777777", line_dash="dashed", tags=[INK])
    plot.add_glyph(ColumnDataSource({"x": [0.0]}), zero)
    return escape(caption), plot


def _values_figure(results: Results, metric: Metric) -> Figure:
    """Return a picture of what each method achieves in a metric."""
    caption = (
        f"{metric.title} of each method with 95 % confidence interval, which includes variation shared by all "
        "methods: use the differences to compare methods"
    )
    return escape(caption), _dots(results, metric, "value", results.methods, results.interval)


def _dots(
    results: Results,
    metric: Metric,
    what: str,
    methods: Sequence[Method],
    of: Callable[[Method, str, str], Difference | None],
) -> figure:
    """Return a figure with, for each set of test cases and method, a dot for the mean and a line for its interval."""
    names = results.rows_of_differences
    titles = dict(zip(names, tables.headings(results, names), strict=True))
    rows = [
        (plain(titles[name]), plain(method.title), index, found)
        for name in names
        for index, method in enumerate(methods)
        if (found := of(method, name, metric.name)) is not None
    ]
    plot: figure = empty_figure(
        f"{what} {metric.name}",
        f"difference in {metric.title}" if what == "difference" else metric.title,
        "test cases, method",
        _FRAME_PIXELS + _ROW_PIXELS * max(3, len(rows)),
    )
    places_of_rows = [-row for row in range(len(rows))]  # the first one on top
    plot.y_range = Range1d(start=-len(rows) + 0.3, end=0.7)
    plot.yaxis.ticker = FixedTicker(ticks=places_of_rows)
    plot.yaxis.major_label_overrides = {
        place: f"{row[1]}, {row[0]}" for place, row in zip(places_of_rows, rows, strict=True)
    }
    plot.yaxis.axis_label = None
    plot.ygrid.visible = False
    plot.xgrid.visible = True
    source = ColumnDataSource(
        {
            "row": places_of_rows,
            "method": [row[1] for row in rows],
            "test_cases": [row[0] for row in rows],
            "colour": [colour_of(row[2]) for row in rows],
            "mean": np.array([row[3].mean for row in rows]),
            "low": np.array([row[3].mean if row[3].low is None else row[3].low for row in rows]),
            "high": np.array([row[3].mean if row[3].high is None else row[3].high for row in rows]),
            "cases": [row[3].cases for row in rows],
            "seeds": [row[3].seeds for row in rows],
        },
        name=f"{what} {metric.name} data",
    )
    plot.add_glyph(source, Segment(x0="low", x1="high", y0="row", y1="row", line_color="colour", line_width=2.5))
    dots = plot.add_glyph(source, Scatter(x="mean", y="row", size=9, line_color=None, fill_color="colour"))
    places = "0." + "0" * metric.digits
    plot.add_tools(
        HoverTool(
            renderers=[dots],
            tooltips=[
                ("method", "@method"),
                ("test cases", "@test_cases, n = @cases, seeds: @seeds"),
                (f"mean {what}", f"@mean{{{places}}}"),
                ("95 % interval", f"@low{{{places}}} to @high{{{places}}}"),
            ],
        )
    )
    return plot


def _read(path: Path) -> list[Event]:
    """Return the events of a run as far as they can be read."""
    events: list[Event] = []
    try:
        events.extend(EventReader(path).new_events())
    except (OSError, ValueError) as error:
        logger.warning("The events in %s are not shown on the report page: %s", path, error)
    return events
