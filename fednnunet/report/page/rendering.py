"""Renders parts as one self-contained HTML document, with BokehJS, style, script and data."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from bokeh import __version__ as bokeh_version
from bokeh.core.serialization import Serializer
from bokeh.plotting import figure
from bokeh.util.paths import bokehjs_path
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from fednnunet.errors import FednnUNetError
from fednnunet.files import replacing
from fednnunet.report.page.part import Part


def render_page(title: str, parts: Sequence[Part], subtitle: str = "") -> str:
    """Return the HTML document; see `write_page`."""
    shown = [(part, [(f"{part.id}-{i}", caption, _embedded(plot)) for i, (caption, plot) in enumerate(part.figures)])
             for part in parts]  # fmt: skip
    scripts = [_bokeh(), _asset("idiomorph.min.js"), _asset("page.js")]
    return str(
        _template().render(
            title=title,
            subtitle=subtitle,
            parts=shown,
            style=Markup(_asset("page.css")),
            scripts=[Markup(script) for script in scripts],
            hashes=[_digest(script) for script in scripts],
        )
    )


def write_page(path: Path, title: str, parts: Sequence[Part], subtitle: str = "") -> None:
    """Write a page in place of `path`, as a whole.

    The page can be opened from a disk and asks no other host for anything: BokehJS stands in it, and its content
    security policy has the browser run the page's own scripts only, whatever else may stand in the text.

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

    Raises
    ------
    FednnUNetError
        If the file cannot be written.
    """
    write_document(path, render_page(title, parts, subtitle).encode())


def write_document(path: Path, document: bytes) -> None:
    """Write a rendered page; see `write_page`."""
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(document)
    except OSError as error:
        raise FednnUNetError(
            f"The report {path} cannot be written ({error.strerror or error}): free disk space."
        ) from error


def _embedded(plot: figure) -> Markup:
    """Return a figure as JSON that cannot end the element in which it stands."""
    # as bokeh.embed.json_item does, without its validation and bookkeeping, which take longer than all the rest
    roots = Serializer(deferred=False).encode([plot])
    item = {"root_id": plot.id, "doc": {"version": bokeh_version, "title": "", "roots": roots}}
    text = json.dumps(item, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@cache
def _bokeh() -> str:
    """Return BokehJS, without the widgets."""
    return (bokehjs_path() / "js" / "bokeh.min.js").read_text(encoding="utf-8").replace("</script", "<\\/script")


@cache
def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("page.html"))
