"""Shows the common fingerprint and the plans.

Both are nnU-Net's own; missing or unexpected values are left out.
"""

import math
import statistics
from collections.abc import Mapping
from typing import Any

from bokeh.models import ColumnDataSource, DataRange1d, FixedTicker, HBar, HoverTool, Range1d, Scatter, Segment
from bokeh.plotting import figure
from markupsafe import Markup

from fednnunet.errors import FednnUNetError
from fednnunet.events.run_state import RunState
from fednnunet.fingerprint.plans import resolved
from fednnunet.report.formats import MISSING
from fednnunet.report.page.charts import INK, empty_figure
from fednnunet.report.page.part import NOTHING, Figure, Part
from fednnunet.report.page.table import html_table

_STATISTICS = {
    "mean": "mean",
    "std": "standard deviation",
    "median": "median",
    "min": "minimum",
    "percentile_00_5": "0.5th percentile",
    "percentile_99_5": "99.5th percentile",
    "max": "maximum",
}
_MOST_CHANNELS = 16
_OF_CONFIGURATION = {
    "patch_size": "patch size, voxels",
    "spacing": "spacing, mm",
    "median_image_size_in_voxels": "median image size, voxels",
    "batch_size": "batch size",
    "batch_dice": "batch Dice",
    "normalization_schemes": "normalization",
}
_OF_NETWORK = {
    "n_stages": "stages",
    "features_per_stage": "features per stage",
    "kernel_sizes": "kernel sizes",
    "strides": "strides",
    "n_conv_per_stage": "convolutions per stage",
    "n_blocks_per_stage": "blocks per stage",
    "n_conv_per_stage_decoder": "convolutions per stage of the decoder",
}
_EXPLANATION = Markup(
    '<p class="note">In the pictures, the line goes from minimum to maximum, the light band from the 0.5th to the '
    "99.5th percentile, the dark band from one standard deviation below the mean to one above; the stroke is the "
    "median, the diamond the mean.</p>"
)


def planning_parts(run: RunState) -> list[Part]:
    """Return the part with fingerprint and plans, if they are known."""
    text, figures, below = NOTHING, list[Figure](), NOTHING
    fingerprint = run.fingerprint.fingerprint if run.fingerprint is not None else None
    plans = run.plans.plans if run.plans is not None else None
    if fingerprint is not None:
        text = _fingerprint(run, fingerprint)
        channels = _channels(fingerprint)
        figures = [(f"Intensities of channel {name}", _intensities(name, values)) for name, values in channels.items()]
    if plans is not None:
        below = _plans(plans)
    if not text and not below:
        return []
    title = " and ".join(name for name, there in (("fingerprint", fingerprint), ("plan", plans)) if there is not None)
    return [Part("plan", title.capitalize(), text, figures, below)]


def _fingerprint(run: RunState, fingerprint: Mapping[str, Any]) -> Markup:
    facts = {}
    known = [cases for cases in run.sites.values() if cases is not None]
    if known:
        facts["Cases"] = str(sum(known))
    spacing, shape = _medians(fingerprint.get("spacings")), _medians(fingerprint.get("shapes_after_crop"))
    if len(spacing) == len(shape) == 3 and shape[0] == 1:  # an image in 2D, which nnU-Net takes for a thick slice
        spacing, shape = spacing[1:], shape[1:]
    for medians, title in ((spacing, "Median spacing, mm"), (shape, "Median shape, voxels")):
        if medians:
            facts[title] = _shown(medians)
    relative = fingerprint.get("median_relative_size_after_cropping")
    if isinstance(relative, float | int):
        facts["Left after cropping"] = f"{100 * relative:.0f} % of the voxels"
    channels = _channels(fingerprint)
    rows = [[name, *(_shown(values.get(key)) for key in _STATISTICS)] for name, values in channels.items()]
    table = html_table(["channel", *_STATISTICS.values()], rows, caption="Intensities of foreground voxels")
    items = Markup("").join(Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(*fact) for fact in facts.items())
    return Markup('<dl class="facts">{}</dl>').format(items) + (table + _EXPLANATION if rows else NOTHING)


def _channels(fingerprint: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the statistics of each channel that are numbers."""
    found = fingerprint.get("foreground_intensity_properties_per_channel")
    if not isinstance(found, dict):
        return {}
    return {
        str(name): {key: float(values[key]) for key in _STATISTICS if _is_number(values.get(key))}
        for name, values in list(found.items())[:_MOST_CHANNELS]
        if isinstance(values, dict)
    }


def _intensities(channel: str, values: Mapping[str, float]) -> figure:
    """Return a picture of where a channel's intensities lie."""
    name = f"intensities {channel}"
    plot = empty_figure(name, "intensity", "", height=120)
    plot.toolbar_location = None
    plot.yaxis.visible = False
    plot.ygrid.visible = False
    plot.yaxis.ticker = FixedTicker(ticks=[])
    plot.y_range, plot.x_range = Range1d(start=-1, end=1), DataRange1d(range_padding=0.03)
    mean, std = values.get("mean", math.nan), values.get("std", math.nan)
    data = {key: [values.get(key, math.nan)] for key in _STATISTICS}
    source = ColumnDataSource({**data, "low": [mean - std], "high": [mean + std]}, name=f"{name} data")
    glyphs = (
        Segment(x0="min", x1="max", y0=0, y1=0, line_color="#999999", line_width=2),
        HBar(y=0, height=1.1, left="percentile_00_5", right="percentile_99_5", fill_color="#4477AA", fill_alpha=0.3,
             line_color=None),
        HBar(y=0, height=0.5, left="low", right="high", fill_color="#4477AA", fill_alpha=0.75, line_color=None),
        Segment(x0="median", x1="median", y0=-0.55, y1=0.55, line_color="#777777", line_width=3, tags=[INK]),
        Scatter(x="mean", y=0, marker="diamond", size=13, fill_color="#CCBB44", line_color=None),
    )  # fmt: skip
    for glyph in glyphs:
        plot.add_glyph(source, glyph)
    tooltips = [(title, f"@{key}{{0.00}}") for key, title in _STATISTICS.items()]
    plot.add_tools(HoverTool(tooltips=tooltips))
    return plot


def _plans(plans: Mapping[str, Any]) -> Markup:
    """Return the table of configurations, side by side, and what holds for all of them."""
    found = plans.get("configurations")
    if not isinstance(found, dict) or not all(isinstance(own, dict) for own in found.values()) or not found:
        return NOTHING
    configurations = {name: _configuration(plans, name) for name in found}
    rows = []
    for keys, of in ((_OF_CONFIGURATION, lambda c: c), (_OF_NETWORK, _network)):
        for key, title in keys.items():
            values = [of(configuration).get(key) for configuration in configurations.values()]
            if any(value is not None for value in values):
                rows.append([title, *map(_shown, values)])
    classes = [_architecture(configuration).get("network_class_name") for configuration in configurations.values()]
    if any(isinstance(name, str) for name in classes):
        rows.append(["network", *(_shown(str(name).rpartition(".")[2] if name else None) for name in classes)])
    columns = tuple(range(len(configurations) + 1))
    title = f"Plan {plans.get('plans_name', '')}, by {plans.get('experiment_planner_used', 'a planner')}"
    return html_table(["", *configurations], rows, caption=title, text_columns=columns)


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration with what it inherits, an empty one if its parent does not exist."""
    try:
        return resolved(plans, name)
    except FednnUNetError:
        return {}


def _architecture(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    found = configuration.get("architecture")
    return found if isinstance(found, dict) else {}


def _network(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    found = _architecture(configuration).get("arch_kwargs")
    return found if isinstance(found, dict) else {}


def _medians(rows: object) -> list[float]:
    """Return the medians of the columns of a list of lists of numbers; none if it is something else."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and all(map(_is_number, row)) for row in rows):
        return []
    if len({len(row) for row in rows}) != 1:
        return []
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: object) -> str:
    """Return a value of nnU-Net's files for people: sizes as ``3 x 3``, lists with commas."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float | int):
        return f"{value:.5g}" if isinstance(value, float) else str(value)
    if isinstance(value, list):
        if any(isinstance(inner, list) for inner in value):
            return _runs([_shown(inner) for inner in value])
        separator = " \N{MULTIPLICATION SIGN} " if len(value) in (2, 3) and all(map(_is_number, value)) else ", "
        return separator.join(map(_shown, value))
    return str(value)


def _runs(words: list[str]) -> str:
    """Return words with commas, equal neighbours counted: ``3 x 3 (6 times)``."""
    groups: list[tuple[str, int]] = []
    for word in words:
        if groups and groups[-1][0] == word:
            groups[-1] = (word, groups[-1][1] + 1)
        else:
            groups.append((word, 1))
    return ", ".join(word if count == 1 else f"{word} ({count} times)" for word, count in groups)
