"""Writing files that are either as before or complete, whatever happens meanwhile."""

import itertools
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import save_json


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to; afterwards, what is there is on the disk and takes the place of `path`.

    If writing fails, for a full disk for example, `path` is what it was and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file so that a reader never sees half of it, and no half is left if the disk is full."""
    with replacing(path) as temporary:
        save_json(content, str(temporary), sort_keys=False)


def keep_copy(path: Path) -> Path:
    """Copy a file beside itself, under a name with the time, and return the copy."""
    name = f"{path.stem}_until_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    copy = next(copy for copy in (path.with_name(name + path.suffix) for name in names) if not copy.exists())
    shutil.copy2(path, copy)
    return copy


def _sync(path: Path) -> None:
    """Wait until a file, or what a folder lists, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
