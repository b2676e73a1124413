"""The report page: one HTML file that shows a run, and needs nothing else.

Its contents are a function of the run's events: `parts_of` makes parts of them, `write_page` writes parts as a page.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from fednnunet.report.events import Event
from fednnunet.report.page.part import Part
from fednnunet.report.page.table import html_table

__all__ = ["Part", "html_table", "parts_of", "pictures_part", "write_page"]


def parts_of(events: Iterable[Event], prefix: str = "") -> list[Part]:
    """Return the parts that show these events, those for which there is something to show.

    Parameters
    ----------
    events
        Events of one run, in the order in which they happened.
    prefix
        What stands before the titles, where one page shows several runs.
    """
    raise NotImplementedError


def pictures_part(pictures: Sequence[tuple[str, Path]], title: str = "Pictures") -> Part:
    """Return a part with PNG files, each below its caption.

    Raises
    ------
    FednnUNetError
        If a file cannot be read or is no PNG file.
    """
    raise NotImplementedError


def write_page(path: Path, title: str, parts: Sequence[Part], subtitle: str = "") -> None:
    """Write a page in place of `path`, as a whole.

    Parameters
    ----------
    path
        The HTML file.
    title
        Headline.
    parts
        At least one.
    subtitle
        What stands below the headline.
    """
    raise NotImplementedError
