"""Figures in one style; the page's script gives them the colours of its scheme, light or dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bokeh.models import (
    BasicTicker,
    BoxZoomTool,
    ColumnDataSource,
    DataRange1d,
    HoverTool,
    Line,
    NumeralTickFormatter,
    Range1d,
    ResetTool,
    Scatter,
)
from bokeh.models.renderers import DataRenderer, GlyphRenderer
from bokeh.plotting import figure
from markupsafe import Markup

INK = "ink"
"""Tag of what is drawn in the colour of the page's text."""

PALETTE = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377")
"""Paul Tol's scheme "bright", which people tell apart whatever colours they see (SRON/EPS/TN/09-002, 2021)."""

DASHES = ("solid", "dashed", "dotted", "dashdot")
_FONT = "system-ui, sans-serif"
_NARROW = 40

Floats = npt.NDArray[np.float32]


def floats(values: Sequence[float | None]) -> Floats:
    """Return numbers for a chart: NaN where there is none; four bytes each, the page is to stay small."""
    return np.array([np.nan if value is None else value for value in values], np.float32)


def plain(text: str) -> str:
    """Return a text that Bokeh does not take for a formula: it would ask another host for what draws them."""
    return text.replace("$", "$\N{ZERO WIDTH SPACE}").replace("\\", "\\\N{ZERO WIDTH SPACE}")


def colour_of(index: int) -> str:
    """Return the colour of a site's lines."""
    return PALETTE[index % len(PALETTE)]


def dash_of(index: int) -> str:
    """Return how a site's lines are dashed: every colour comes again with another pattern."""
    return DASHES[index // len(PALETTE) % len(DASHES)]


def empty_figure(name: str, x_label: str, y_label: str, height: int = 300) -> figure:
    """Return a figure without glyphs whose axes are labelled.

    Parameters
    ----------
    name
        By which the page's script knows it, for example when it is updated.
    x_label, y_label
        What the axes show, with units.
    height
        Pixels; the width is the page's.
    """
    plot = figure(
        name=name,
        height=height,
        sizing_mode="stretch_width",
        toolbar_location="above",
        tools=[BoxZoomTool(), ResetTool()],
        active_drag=None,
        min_border_left=_NARROW,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    for axis, label in ((plot.xaxis[0], x_label), (plot.yaxis[0], y_label)):
        axis.axis_label = plain(label)
        axis.axis_label_text_font = axis.major_label_text_font = _FONT
        axis.axis_label_text_font_style = "normal"
        axis.minor_tick_line_color = None
    plot.xgrid.visible = False
    return plot


def rounds_axis(plot: figure) -> None:
    """Let the horizontal axis count rounds, in whole numbers."""
    plot.xaxis.ticker = BasicTicker(min_interval=1, num_minor_ticks=0)
    plot.xaxis.formatter = NumeralTickFormatter(format="0")


@dataclass(frozen=True)
class Lines:
    """What a chart of lines shows.

    Parameters
    ----------
    name
        By which the page's script knows the chart.
    label, unit
        What the vertical axis shows, and how a value is called on hovering.
    rounds
        Horizontal positions.
    columns
        By choice, then by line, the values; NaN where there is none. All choices have the same lines.
    mean
        Name of the line that is drawn in the colour of the text, if there is one.
    limits
        Ends of the vertical axis; by default those of the values.
    """

    name: str
    label: str
    rounds: Sequence[int]
    columns: Mapping[str, Mapping[str, Floats]]
    mean: str | None = None
    limits: tuple[float, float] | None = None


def line_figure(lines: Lines) -> figure:
    """Return a figure with a line for each site, and one for their mean.

    A line is tagged with its number, ``s0``, ``s1`` … or ``mean``; of each choice there is a column ``CHOICE:TAG``,
    with the number of the choice. The page's script hides lines by tag, and changes the choice.
    """
    plot = empty_figure(lines.name, "round", lines.label)
    rounds_axis(plot)
    first = next(iter(lines.columns.values()))
    tags = _tags(list(first), lines.mean)
    data: dict[str, npt.NDArray[np.int32] | Floats] = {"round": np.array(lines.rounds, np.int32)}
    for number, choice in enumerate(lines.columns.values()):
        data |= {f"{number}:{tags[name]}": values for name, values in choice.items()}
    source = ColumnDataSource(data, name=f"{lines.name} data")
    plot.x_range = DataRange1d(range_padding=0.02)
    if lines.limits is None:
        plot.y_range = DataRange1d(only_visible=True)
    else:
        plot.y_range = Range1d(start=lines.limits[0], end=lines.limits[1])
    renderers: list[DataRenderer] = []
    for name, tag in tags.items():
        is_mean = name == lines.mean
        index = 0 if is_mean else int(tag[1:])
        line = Line(
            x="round",
            y=f"0:{tag}",
            line_color="#777777" if is_mean else colour_of(index),
            line_dash="solid" if is_mean else dash_of(index),
            line_width=2.6 if is_mean else 1.4,
        )
        renderer: GlyphRenderer[Line] = plot.add_glyph(source, line, name=name, tags=[tag, lines.name])
        renderers.append(renderer)
        if is_mean:
            line.tags = [INK]
        if len(lines.rounds) < 3:  # a line through one point cannot be seen
            dot = Scatter(x="round", y=f"0:{tag}", size=6, line_color=None, fill_color=line.line_color, tags=line.tags)
            plot.add_glyph(source, dot, name=name, tags=[tag, lines.name])
    plot.add_tools(
        HoverTool(
            renderers=renderers,
            tooltips=[("site", "$name"), ("round", "$snap_x{0}"), (lines.label, "$snap_y{0.0000}")],
            line_policy="nearest",
        )
    )
    return plot


def _tags(names: Sequence[str], mean: str | None) -> dict[str, str]:
    sites = [name for name in names if name != mean]
    return {**{name: f"s{index}" for index, name in enumerate(sites)}, **({mean: "mean"} if mean else {})}


def legend(sites: Sequence[str], mean: str | None = None) -> Markup:
    """Return buttons that hide and show the lines of a part, each with a sample of its line."""
    entries = [(f"s{index}", site, colour_of(index), dash_of(index)) for index, site in enumerate(sites)]
    if mean is not None:
        entries.insert(0, ("mean", mean, "currentColor", "solid"))
    buttons = Markup("").join(
        Markup(
            '<button type="button" data-line="{}" aria-pressed="true"><svg width="26" height="8" aria-hidden="true">'
            '<line x1="0" y1="4" x2="26" y2="4" stroke="{}" stroke-width="{}" stroke-dasharray="{}"/></svg>{}</button>'
        ).format(tag, colour, 3 if tag == "mean" else 2, _SVG_DASHES[dash], name)
        for tag, name, colour, dash in entries
    )
    return Markup('<div class="legend" role="group" aria-label="lines, a click hides one">{}</div>').format(buttons)


_SVG_DASHES = {"solid": "", "dashed": "6", "dotted": "2 4", "dashdot": "2 4 6 4"}


def choice(name: str, label: str, options: Sequence[str]) -> Markup:
    """Return a menu that chooses what a line chart shows.

    Parameters
    ----------
    name
        The chart's.
    label
        What stands before the menu.
    options
        Names of the choices, as in the chart's `Lines.columns`.
    """
    items = Markup("").join(
        Markup('<option value="{}">{}</option>').format(number, option) for number, option in enumerate(options)
    )
    return Markup('<label class="choice">{} <select data-chooses="{}">{}</select></label>').format(label, name, items)
