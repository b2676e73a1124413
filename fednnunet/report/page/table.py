"""Renders tables of the page."""

from collections.abc import Sequence

from markupsafe import Markup, escape


def html_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    caption: str = "",
    foot: Sequence[Sequence[object]] = (),
    text_columns: Sequence[int] = (0,),
) -> Markup:
    """Return a table that scrolls in a box of its own where the page is too narrow.

    Parameters
    ----------
    columns
        Headings.
    rows
        Cells, one for each column; what is no `Markup` is escaped.
    caption
        What stands above the table.
    foot
        Rows below a line.
    text_columns
        Numbers of the columns that hold text; the others are aligned to the right, as numbers are.
    """
    head = Markup().join(_cell("th", title, index in text_columns) for index, title in enumerate(columns))
    parts = [Markup('<p class="caption">{}</p>').format(caption)] if caption else []
    parts.append(
        Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}"><table>').format(caption or "table")
    )
    parts.append(Markup("<thead><tr>{}</tr></thead><tbody>{}</tbody>").format(head, _rows(rows, text_columns)))
    if foot:
        parts.append(Markup("<tfoot>{}</tfoot>").format(_rows(foot, text_columns)))
    parts.append(Markup("</table></div>"))
    return Markup().join(parts)


def _rows(rows: Sequence[Sequence[object]], text_columns: Sequence[int]) -> Markup:
    return Markup("").join(
        Markup("<tr>{}</tr>").format(
            Markup("").join(_cell("td", cell, index in text_columns) for index, cell in enumerate(row))
        )
        for row in rows
    )


def _cell(tag: str, content: object, is_text: bool) -> Markup:
    opening = Markup(f'<{tag} class="text">' if is_text else f"<{tag}>")
    return opening + escape(content) + Markup(f"</{tag}>")
