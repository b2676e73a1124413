"""Escapes names and texts of other sites for tables in files, against spreadsheet formulas and markup."""

import csv
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from fednnunet.schema import cleaned

_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters that make a spreadsheet calculate a cell, the last four in ideographic width."""
_MEANS_SOMETHING = re.compile(r"([\\|`*~<>\[\]&@]|(?<=www)\.|:(?=//))", re.IGNORECASE)
"""Characters with a meaning in Markdown or HTML; an underscore within a word has none."""


def write_csv(file: TextIO, rows: Iterable[Sequence[object]], lineterminator: str = "\r\n") -> None:
    """Write rows of a CSV file; a text that a spreadsheet would calculate gets an apostrophe before it."""
    csv.writer(file, lineterminator=lineterminator).writerows([_csv_cell(cell) for cell in row] for row in rows)


def markdown_cell(text: str) -> str:
    """Return a text for a cell, or a line, of Markdown that shows it literally, in one line."""
    return _MEANS_SOMETHING.sub(r"\\\1", cleaned(text))


class Markdown(str):
    """A text that is Markdown already, as `markupsafe.Markup` is HTML."""

    __slots__ = ()


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table of Markdown, whose first column is aligned to the left, the others to the right.

    Parameters
    ----------
    titles, rows
        Cells; those that are not `Markdown` are shown as they are, whatever they contain.
    """
    lines = [[cell if isinstance(cell, Markdown) else markdown_cell(cell) for cell in row] for row in (titles, *rows)]
    head, *body = ("| " + " | ".join(cells) + " |" for cells in lines)
    return [head, "|---" + "|--:" * (len(titles) - 1) + "|", *body]


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str) or not cell.lstrip(" ").startswith(_BEGINS_FORMULA) or _is_number(cell):
        return cell
    return "'" + cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE) is not None
