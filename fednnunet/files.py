"""Reads files that people write, and writes files atomically."""

import contextlib
import errno
import fcntl
import functools
import itertools
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from batchgenerators.utilities.file_and_folder_operations import save_json

from fednnunet.errors import FednnUNetError

Words = ParamSpec("Words")
Result = TypeVar("Result")

_NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
_WAIT_SECONDS, _PAUSE_SECONDS = 60.0, 0.25


def when_files_can_be_opened(write: Callable[Words, Result]) -> Callable[Words, Result]:
    """Decorate functions that write files: if too many files are open, retry for a minute.

    Somebody else's connections may be why, and they come and go.
    """

    @functools.wraps(write)
    def patient(*words: Words.args, **named: Words.kwargs) -> Result:
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                return write(*words, **named)
            except Exception as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                if getattr(cause, "errno", None) not in _NO_DESCRIPTOR or time.monotonic() > deadline:
                    raise
            time.sleep(_PAUSE_SECONDS)

    return patient


logger = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; afterwards, the file is on disk and replaces `path`.

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


@contextmanager
def alone(path: Path, taken: str) -> Iterator[None]:
    """Be the only process that uses something, as long as the context lasts; the lock ends with the process.

    Parameters
    ----------
    path
        The file that is locked; it is made, and stays.
    taken
        What is told if another process has it.

    Raises
    ------
    FednnUNetError
        If another process has it, or the file cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise FednnUNetError(
            f"{path} cannot be written ({error.strerror}): fix that, or choose another folder."
        ) from error
    is_held = False
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FednnUNetError(taken) from error
        except OSError as error:  # not every network file system has locks
            logger.warning("%s cannot be locked (%s): make sure that no other process uses it.", path, error.strerror)
        _held.add(number)
        is_held = True
        yield
    finally:
        if number in _held or not is_held:  # else this is a forked process
            _held.discard(number)
            with contextlib.suppress(OSError):
                fcntl.flock(number, fcntl.LOCK_UN)  # also of processes that were forked a moment ago
            os.close(number)


_held: set[int] = set()
"""Locks of this process."""


def _let_go() -> None:
    """Let go of locks in a forked process: it would keep them when this one has gone."""
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


def read_json(path: Path, remedy: str) -> Any:
    """Return the contents of a JSON file.

    Parameters
    ----------
    path
        The file.
    remedy
        What to do if it is not there or damaged, as in "run plan_and_preprocess first".

    Raises
    ------
    FednnUNetError
        If it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        reason = f"{path} does not exist: {remedy}."
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror}): fix that, or {remedy}."
    except UnicodeDecodeError:
        reason = f"{path} is not UTF-8: save it in that encoding, or {remedy}."
    except json.JSONDecodeError as error:
        bom = "it starts with a byte-order mark" if error.doc.startswith("\ufeff") else ""
        reason = f"{path} is not JSON ({bom or f'{error.msg} in line {error.lineno}'}): correct it, or {remedy}."
    except RecursionError:
        reason = f"{path} is nested too deeply: correct it, or {remedy}."
    raise FednnUNetError(reason)


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Return the JSON object that a file holds; see `read_json`."""
    content = read_json(path, remedy)
    if not isinstance(content, dict):
        raise FednnUNetError(f"{path} is not a JSON object, {{…}}: correct it, or {remedy}.")
    return content


@when_files_can_be_opened
def write_json(content: dict[str, Any], path: Path) -> None:
    """Write a JSON file so that a reader never sees half of it, and no half is left if the disk is full."""
    with replacing(path) as temporary:
        save_json(content, str(temporary), sort_keys=False)


def ends_within_line(file: int) -> bool:
    """Return whether a file, by its descriptor, ends within a line: who wrote it was stopped, or the disk was full."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def keep_copy(path: Path) -> Path:
    """Copy a file beside itself, under a name with the time, and return the copy."""
    name = f"{path.stem}_until_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    copy = next(copy for copy in (path.with_name(name + path.suffix) for name in names) if not copy.exists())
    shutil.copy2(path, copy)
    return copy


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
