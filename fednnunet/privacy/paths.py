"""Removes a site's paths from outgoing sentences: paths name servers, people and cases."""

import os
import re
from pathlib import Path

_PLACE = "a path of this site"
_LONGEST = 4000
_START = re.compile(r"(?<![\w/\\.])(?:file://)?(?:~[\w.-]*)?/(?=[^\s/])|(?<!\w)[A-Za-z]:[\\/]|(?<![\w\\])\\\\(?=\w)")
"""Where a path from the root begins: of POSIX, of a home, of Windows, of a share."""
_SEPARATOR = re.compile(r"[/\\]")
_REST = re.compile(r"[^:;,\"'()<>|\n]*")
"""Characters that may belong to a path whose end is unknown."""
_FILE_OF_NNUNET = re.compile(
    r"(?:dataset|splits_final|dataset_fingerprint|federation|summary|\w*[Pp]lans)\.json|checkpoint_\w+\.pth"
)
"""Files with the same name at each site: naming them helps, and reveals nothing."""
_WORDS = r"(?:is|has|was|cannot|does|says|contains|already|names)\b"
_GOES_ON = re.compile(rf" (?={_WORDS})|(?<=[/\\]){_FILE_OF_NNUNET.pattern}(?!\w)")
"""Patterns of a sentence that continues after a path."""


def without_paths(text: str) -> str:
    """Return a sentence without the site's absolute paths, and those that nnU-Net's variables name.

    Paths may have spaces, so that where one ends is told by what is there on the disk. Of one that is not there,
    rather too much is taken out than too little.
    """
    text, roots = text[:_LONGEST], _roots()
    said, position = [], 0
    while (begin := _next_path(text, position, roots)) is not None:
        start, certain = begin
        end = _end_of_path(text, start, certain)
        name = _SEPARATOR.split(text[start:end].rstrip())[-1]
        known = _FILE_OF_NNUNET.fullmatch(name)
        said += [text[position:start], name if known else _PLACE]
        position = end
    return "".join([*said, text[position:]])


def _roots() -> list[str]:
    """Return folders of the site that may be named by other words than a path from the root, longest first."""
    values = [value for name, value in os.environ.items() if name.startswith("nnUNet_")]
    folders = [*values, str(Path.home()), os.getcwd()]
    stripped = {folder.rstrip("/\\") for folder in folders}
    return sorted((folder for folder in stripped if _SEPARATOR.search(folder)), key=len, reverse=True)


def _next_path(text: str, position: int, roots: list[str]) -> tuple[int, int] | None:
    """Return the start and the minimum end of the next path; ``None`` if there is none."""
    found = []
    match = _START.search(text, position)
    if match is not None:
        found.append((match.start(), match.end()))
    for root in roots:
        start = text.find(root, position)
        if start >= 0:
            found.append((start, start + len(root)))
    return min(found, key=lambda each: (each[0], -each[1])) if found else None


def _end_of_path(text: str, start: int, certain: int) -> int:
    there = [end for end in range(certain, len(text) + 1) if _may_end(text, end) and os.path.lexists(text[start:end])]
    end = max(there, default=certain)
    rest = _REST.match(text, end)
    assert rest is not None  # it may be empty
    following = _START.search(text, end + 1)
    limit = rest.end() if following is None else min(rest.end(), following.start())
    remainder = text[end:limit]
    is_open = end == certain and not there
    if not is_open and not _SEPARATOR.search(remainder):
        return end
    for match in _GOES_ON.finditer(remainder):
        after = len(remainder[: match.end()].rstrip())
        if not re.search(r"[/\\]|\.\w", remainder[after:]):  # else it is in the middle of the path
            return end + after
    return end + len(remainder.rstrip())


def _may_end(text: str, end: int) -> bool:
    return end == len(text) or not (text[end].isalnum() or text[end] in "_-")
