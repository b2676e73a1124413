"""The building block of the report page."""

from collections.abc import Sequence
from dataclasses import dataclass

from bokeh.plotting import figure
from markupsafe import Markup

NOTHING = Markup("")

Figure = tuple[str, figure]
"""A figure, after what stands above it."""


@dataclass(frozen=True)
class Part:
    """One part of the page, behind a tab of its own.

    Parameters
    ----------
    id
        Word of letters, digits and hyphens, of which there is one on a page; the part's address is ``#id``.
    title
        Text of the tab and heading.
    html
        What stands above the figures, escaped already.
    figures
        Figures, each below the other, with what stands above them. A figure should have
        ``sizing_mode="stretch_width"``; its colours of text, axes and grid follow the page's scheme.
    below
        What stands below the figures, escaped already.
    """

    id: str
    title: str
    html: Markup = NOTHING
    figures: Sequence[Figure] = ()
    below: Markup = NOTHING
