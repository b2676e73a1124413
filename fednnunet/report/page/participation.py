"""Charts the participation of sites by round."""

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, FixedTicker, LinearColorMapper, Range1d
from bokeh.models.glyphs import Image
from bokeh.plotting import figure
from markupsafe import Markup, escape

from fednnunet.events.run_state import FoldRounds, RunState
from fednnunet.report.formats import MISSING
from fednnunet.report.page.charts import GAP, empty_figure, plain, rounds_axis
from fednnunet.report.page.drawn import Drawn, drawn_folds
from fednnunet.report.page.part import NOTHING, Figure, Part
from fednnunet.report.page.table import html_table
from fednnunet.schema import cleaned

TOOK_PART, ABSENT, LEFT_OUT = range(3)
"""Codes in the matrix; those above `LEFT_OUT` are left out too, for other reasons."""

_PALETTE = ("#4477AA", "#CCCCCC", "#EE6677")
_MOST_NUMBERS = 200_000
_MOST_REASONS = 200
_OTHER = "for another reason, see the table of failures"
_LONGEST_REASON = 300
_KEY = Markup(
    '<span class="key"><span><i class="took-part"></i>took part</span> <span><i class="absent"></i>absent</span> '
    '<span><i class="left-out"></i>left out</span></span>'
    '<output class="readout">Point at a cell to see the round, and why a site was left out.</output>'
)


def participation_parts(run: RunState) -> list[Part]:
    """Return the part with the matrix of sites and rounds, if a round is complete."""
    figures: list[Figure] = []
    tables = NOTHING
    for drawn in drawn_folds(run, len(run.sites), _MOST_NUMBERS):
        figures.append((escape(drawn.told("Participation by round")) + _KEY, _figure(run, drawn)))
        tables += _table(run, drawn)
    return [Part("participation", "Participation", NOTHING, figures, tables)] if figures else []


def state_of(fold: FoldRounds, number: int, site: str) -> tuple[int, str]:
    """Return whether a site took part in a round, and why not.

    Returns
    -------
    tuple of int and str
        `TOOK_PART`, `ABSENT` or `LEFT_OUT`; the reason is empty unless the site was left out.
    """
    event = fold.completed[number]
    if site in event.sites:
        return TOOK_PART, ""
    reason = event.left_out.get(site, fold.left_out.get((number, site)))
    return (ABSENT, "") if reason is None else (LEFT_OUT, cleaned(reason, _LONGEST_REASON))


def _figure(run: RunState, drawn: Drawn) -> figure:
    sites = run.names
    name = f"participation {drawn.slug}"
    reasons: dict[str, int] = {}
    matrix = np.zeros((len(sites), len(drawn.rounds)), np.uint8)
    for column, number in enumerate(drawn.rounds):
        for index, site in enumerate(sites):
            state, reason = state_of(drawn.fold, number, site)
            if state == LEFT_OUT:
                known = reason if reason in reasons or len(reasons) < _MOST_REASONS else _OTHER
                state = LEFT_OUT + reasons.setdefault(known, len(reasons))
            matrix[len(sites) - 1 - index, column] = state
    plot = empty_figure(name, "round", "", height=80 + 22 * max(2, len(sites)))
    rounds_axis(plot)
    plot.ygrid.ticker = FixedTicker(ticks=list(range(1, len(sites))))
    plot.ygrid.grid_line_color, plot.ygrid.level, plot.ygrid.tags = "#ffffff", "overlay", [GAP]
    plot.ygrid.grid_line_width = 2
    plot.x_range = DataRange1d(range_padding=0)
    plot.y_range = Range1d(start=0, end=len(sites))
    plot.yaxis.ticker = FixedTicker(ticks=[index + 0.5 for index in range(len(sites))])
    plot.yaxis.major_tick_line_color = None
    plot.yaxis.major_label_overrides = {
        len(sites) - index - 0.5: plain(site if len(site) <= 16 else site[:15] + "…")
        for index, site in enumerate(sites)
    }
    source = ColumnDataSource(
        {
            "image": [matrix],
            "x": [drawn.rounds[0] - drawn.step / 2],
            "width": [drawn.step * len(drawn.rounds)],
            "height": [len(sites)],
            "rounds": [list(drawn.rounds)],
            "sites": [list(sites)],
            "reasons": [list(reasons)],
        },
        name=f"{name} data of {len(sites)}",
    )
    mapper = LinearColorMapper(palette=list(_PALETTE), low=-0.5, high=2.5, tags=["participation"])
    plot.add_glyph(source, Image(image="image", x="x", y=0, dw="width", dh="height", color_mapper=mapper), name=name)
    return plot


def _table(run: RunState, drawn: Drawn) -> Markup:
    fold = drawn.fold
    rows = []
    for site in run.names:
        states = [state_of(fold, number, site) for number in sorted(fold.completed)]
        counts = [sum(state == kind for state, _ in states) for kind in (TOOK_PART, LEFT_OUT, ABSENT)]
        last = next((reason for state, reason in reversed(states) if state == LEFT_OUT), MISSING)
        rows.append([site, *counts, last])
    title = f"Of {len(fold.completed)} complete rounds"
    return html_table(
        ["site", "took part", "left out", "absent", "last reason"],
        rows,
        caption=f"{title} · {fold.title}" if drawn.several else title,
        text_columns=(0, 4),
    )
