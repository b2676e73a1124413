"""Charts the time and traffic of each round."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from bokeh.models import ColumnDataSource, DataRange1d, HoverTool, VBar
from bokeh.plotting import figure
from markupsafe import Markup, escape

from fednnunet.events.events import RoundCompleted
from fednnunet.events.run_state import RunState
from fednnunet.report.formats import mean, number, shares
from fednnunet.report.page.charts import (
    Floats,
    Lines,
    choice,
    empty_figure,
    floats,
    legend,
    line_figure,
    rounds_axis,
)
from fednnunet.report.page.drawn import Drawn, drawn_folds
from fednnunet.report.page.part import NOTHING, Figure, Part
from fednnunet.report.page.table import html_table

KINDS = {
    "training": "#4477AA",
    "waiting": "#CCBB44",
    "moving": "#66CCEE",
    "averaging": "#EE6677",
    "validating": "#228833",
    "other": "#999999",
}
"""Parts of a round's duration with their colours, from the bottom of the chart to its top."""

_MOST_NUMBERS = 60_000
_MEGA = 1e6
_TOTAL = "all sites"
_DEFINITIONS = (
    "Training and validating are the seconds of the median participating site; waiting is the additional time of the "
    "slowest one, in both. Moving is the transfer of updates and global model, without averaging; other is the "
    "rest of the round."
)


def cost_parts(run: RunState) -> list[Part]:
    """Return the part about seconds and bytes, if anything is known of them."""
    figures: list[Figure] = []
    tables = NOTHING
    timing = False
    for drawn in drawn_folds(run, 2 * len(run.sites) + len(KINDS), _MOST_NUMBERS):
        events = list(drawn.fold.completed.values())
        if any(event.timing for event in events):
            timing = True
            figures.append((drawn.told("Seconds of each round"), _time_figure(drawn)))
        if any(event.traffic for event in events):
            figures.append(_bytes_figure(run, drawn))
        if any(event.timing or event.traffic for event in events):
            tables += _table(run, drawn, events)
    text = NOTHING
    if timing:
        colours = Markup("").join(
            Markup('<span><i style="background:{}"></i>{}</span> ').format(colour, kind)
            for kind, colour in KINDS.items()
        )
        text += Markup('<p class="note">{}</p><p class="key">{}</p>').format(_DEFINITIONS, colours)
    return [Part("time", "Time and bytes", text, figures, tables)] if figures else []


def seconds_of(event: RoundCompleted) -> dict[str, float]:
    """Return what a round's seconds were spent on, by kind; without a timing, all of them on other things."""
    return dict.fromkeys(KINDS, 0.0) | (shares(event) or {"other": event.seconds})


def _time_figure(drawn: Drawn) -> figure:
    name = f"seconds {drawn.slug}"
    plot = empty_figure(name, "round", "seconds")
    rounds_axis(plot)
    plot.x_range, plot.y_range = DataRange1d(range_padding=0.02), DataRange1d(start=0)
    rows = [seconds_of(event) for event in drawn.events]
    data: dict[str, object] = {"round": np.array(drawn.rounds, np.int32)}
    height = np.zeros(len(rows))
    for kind in KINDS:
        seconds = np.array([row[kind] for row in rows])
        data |= {kind: floats(list(seconds)), f"{kind} from": floats(list(height))}
        height = height + seconds
        data[f"{kind} to"] = floats(list(height))
    data["all"] = floats([event.seconds for event in drawn.events])
    source = ColumnDataSource(data, name=f"{name} data")
    for kind, colour in KINDS.items():
        bars = VBar(
            x="round",
            bottom=f"{kind} from",
            top=f"{kind} to",
            width=drawn.step * (0.8 if len(rows) < 100 else 1.0),
            fill_color=colour,
            line_color=None,
        )
        plot.add_glyph(source, bars, name=kind)
    tooltips = [("round", "@round"), *((kind, f"@{{{kind}}}{{0.00}} s") for kind in KINDS), ("all", "@all{0.00} s")]
    plot.add_tools(HoverTool(tooltips=tooltips))
    return plot


def _bytes_figure(run: RunState, drawn: Drawn) -> Figure:
    megabytes = _megabytes(drawn.events, run.names)

    def columns(direction: int) -> dict[str, Floats]:
        return {site: megabytes[:, index, direction].astype(np.float32) for index, site in enumerate(run.names)}

    name = f"bytes {drawn.slug}"
    choices = {"from each site": columns(0), "to each site": columns(1)}
    caption = escape(drawn.told("Bytes of each round")) + choice(name, "", list(choices)) + legend(run.names)
    return caption, line_figure(Lines(name, "MB", drawn.rounds, choices, from_zero=True))


def _megabytes(events: Sequence[RoundCompleted], sites: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return an array of rounds x sites x (from, to the site); NaN where a site moved nothing."""
    nothing = (np.nan, np.nan)
    table = [
        [nothing if (moved := event.traffic.get(site)) is None else (moved.from_site, moved.to_site) for site in sites]
        for event in events
    ]
    return np.array(table, float).reshape(len(events), len(sites), 2) / _MEGA


def _table(run: RunState, drawn: Drawn, events: Sequence[RoundCompleted]) -> Markup:
    """Return the means of seconds and the sums of bytes for each site, over all rounds."""

    def seconds(kind: str, site: str) -> str:
        timings: list[Mapping[str, float]] = [getattr(event.timing, kind) for event in events if event.timing]
        return number(mean(timing[site] for timing in timings if site in timing), 2)

    columns = ["site", "training, s per round", "validating, s per round", "from site, MB", "to site, MB"]
    sums = np.nansum(_megabytes(events, run.names), axis=0)
    rows = [
        [site, seconds("training", site), seconds("validating", site), *(f"{value:.2f}" for value in sums[index])]
        for index, site in enumerate(run.names)
    ]
    totals = [f"{value:.2f}" for value in sums.sum(axis=0)]
    title = f"Means of seconds and sums of bytes, of all {len(events)} complete rounds"
    return html_table(
        columns,
        rows,
        caption=f"{title} · {drawn.fold.title}" if drawn.several else title,
        foot=[[_TOTAL, "", "", *totals]],
    )
