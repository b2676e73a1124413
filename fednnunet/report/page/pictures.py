"""Embeds pictures in the page."""

import base64
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from fednnunet.errors import FednnUNetError
from fednnunet.report.page.part import Part

_PNG = b"\x89PNG\r\n\x1a\n"


def pictures_part(pictures: Sequence[tuple[str, Path]], title: str = "Pictures") -> Part:
    """Return a part with PNG files, each below its caption.

    Parameters
    ----------
    pictures
        Captions and files.
    title
        Text of the tab.

    Raises
    ------
    FednnUNetError
        If a file cannot be read or is no PNG file.
    """
    images = [
        Markup('<figure><figcaption>{0}</figcaption><img alt="{0}" src="data:image/png;base64,{1}"></figure>').format(
            caption, _encoded(path)
        )
        for caption, path in pictures
    ]
    return Part("pictures", title, Markup('<div class="pictures">{}</div>').format(Markup("").join(images)))


def _encoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FednnUNetError(f"The picture {path} cannot be read ({error.strerror}): choose another one.") from error
    if not content.startswith(_PNG):
        raise FednnUNetError(f"The picture {path} is not a PNG file: choose another one.")
    return base64.b64encode(content).decode("ascii")
