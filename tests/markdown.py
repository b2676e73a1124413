"""What stands in Markdown files, for tests that hold them to it."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"

_FENCE = re.compile(r"^(`{3,})(\S*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language, in order."""
    return [body for _, of_block, body in _FENCE.findall(text) if of_block == language]


def prose(text: str) -> str:
    """Return what is not in fenced blocks."""
    return _FENCE.sub("", text)


def patched(text: str, diff: str) -> str:
    """Apply a diff whose hunks say what to look for, not in which line; each must fit in one place."""
    for hunk in diff.split("\n@@")[1:]:
        lines = [line or " " for line in hunk.splitlines()[1:]]
        before = "".join(line[1:] + "\n" for line in lines if line[0] != "+")
        after = "".join(line[1:] + "\n" for line in lines if line[0] != "-")
        assert text.count(before) == 1, f"the diff no longer fits: {before}"
        text = text.replace(before, after)
    return text
