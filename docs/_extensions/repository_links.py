"""Converts links between files of the repository to links of the website.

README.md and SECURITY.md are pages of the website, too, but stay in the repository's root, where people look for them.
A link to any other file outside the website is replaced by its text.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.typing import ExtensionMetadata

DOCS = Path(__file__).parents[1]
REPOSITORY = DOCS.parent
PAGES = {"index": REPOSITORY / "README.md", "security": REPOSITORY / "SECURITY.md"}
"""Pages stored elsewhere; in ``docs``, a line ``<!-- contents -->`` is their placeholder."""

CONTENTS = "<!-- contents -->"
_LINK = re.compile(r"\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!\w+:)([^()\s#]+)(#[^()\s]*)?\)")


def page_text(name: str, text: str) -> str:
    """Return the Markdown of a page of the site.

    Parameters
    ----------
    name
        The page's path below ``docs``, without ending.
    text
        The file's text.
    """
    page = DOCS / f"{name}.md"
    text = with_links(text, page, page)
    if name in PAGES:
        text = text.replace(CONTENTS, with_links(PAGES[name].read_text("utf-8"), PAGES[name], page))
    return text


def with_links(text: str, source: Path, page: Path) -> str:
    """Return `text` of the file `source` with links that work on the page `page`."""
    pages = {path: DOCS / f"{name}.md" for name, path in PAGES.items()}

    def replaced(link: re.Match[str]) -> str:
        words, address, anchor = link[1], link[2], link[3] or ""
        target = Path(os.path.normpath(source.parent / address))
        target = pages.get(target, target)
        if target.suffix == ".md" and target.is_relative_to(DOCS):
            return (
                f"[{words}]({os.path.relpath(target, page.parent)}{anchor})"
                if target != page
                else f"[{words}]({anchor})"
            )
        return words

    return _LINK.sub(replaced, text)


def _read(_: Sphinx, name: str, source: list[str]) -> None:
    source[0] = page_text(name, source[0])


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the conversion."""
    app.connect("source-read", _read)
    app.connect(
        "env-before-read-docs",
        lambda _app, env, _names: [env.note_dependency(str(path), docname=name) for name, path in PAGES.items()],
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
