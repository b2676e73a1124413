"""Writes an audit log."""

import errno
import hashlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.privacy.audit.entries import (
    LONGEST_LINE,
    LONGEST_TORN,
    MOST_SUMMED_UP,
    NOTHING,
    TORN,
    AuditEntry,
    Direction,
    Payload,
    encodable,
    parsed,
    sha256_of,
    torn_entry,
)

if sys.platform != "win32":
    import fcntl


@dataclass
class _Sum:
    """Messages that no entry has been written about yet."""

    messages: int = 0
    bytes: int = 0
    digest: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def add(self, payload: Payload) -> None:
        """Add one message."""
        self.messages += 1
        for part in payload:
            self.bytes += memoryview(part).nbytes
            self.digest.update(part)


class AuditLog:
    """Writes a site's audit log; any thread may use it.

    What is in the log stays: it goes on with the chain of a file that exists. Only one process can have it open.

    Parameters
    ----------
    path
        The file; only the user can read it if it is made here.
    site, task
        Name of the site, and what the node is there for.
    clock
        Returns the time, in seconds since 1970.

    Attributes
    ----------
    run
        Name of the coordinator's run, as soon as it is known.

    Raises
    ------
    FednnUNetError
        If the file is no audit log, cannot be written, or another node has it open.
    """

    def __init__(self, path: Path, site: str, task: str, clock: Callable[[], float] = time.time) -> None:
        self.run = ""
        self._path = path
        self._site = site
        self._task = task
        self._clock = clock
        self._lock = threading.Lock()
        self._sums: dict[tuple[Direction, str, int | None], _Sum] = {}
        self._head = (0, NOTHING)
        self._is_whole = False  # whether the file surely ends with the line that `_head` is about
        self._file: int | None = self._open()
        try:
            _lock(self._file, path)
            self._mend()
            self._sync()
        except BaseException:
            self._release()
            raise
        _open_logs.add(self)

    @property
    def head(self) -> tuple[int, str]:
        """The number of entries that are written, and the hash of the last line."""
        return self._head

    def append(
        self,
        direction: Direction,
        kind: str,
        payload: Payload,
        fields: Iterable[str] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        round: int | None = None,
        decision: str | None = None,
        sites: Sequence[str] | None = None,
    ) -> None:
        """Write one entry; if it is about something that leaves, it is on the disk when this returns.

        Parameters
        ----------
        direction, kind
            What the message is.
        payload
            All bytes of the message.
        fields, shapes
            Names of JSON fields, and names and shapes of arrays in it.
        round
            The round that it belongs to.
        decision
            What becomes of it; ``sent`` or ``received`` if not given.
        sites
            The sites of a masked sum, if it names them.

        Raises
        ------
        FednnUNetError
            If the entry could not be written. The message must not be sent then.
        """
        if kind == TORN:
            raise ValueError(f"'{TORN}' is what the log itself says of incomplete lines")
        message = _Sum()
        message.add(payload)  # hashing takes long, other threads need not wait for it
        with self._lock:
            self._write_sums()
            self._write(self._entry(direction, kind, message, round, fields, shapes or {}, decision, sites))
            if direction == "out":  # waiting for the disk takes milliseconds, and what comes in gives nothing away
                self._sync()

    def count(self, direction: Direction, kind: str, payload: Payload, round: int | None = None) -> None:
        """Count a sign of life, to be summarized in one entry.

        One entry about all of a kind (and round) is written before the next one that is appended, at the latest after
        `MOST_SUMMED_UP` messages; until then a node that is killed takes the sum with it.

        Raises
        ------
        FednnUNetError
            If that entry could not be written. The message must not be sent then.
        """
        with self._lock:
            self._check_open()
            if sum(counted.messages for counted in self._sums.values()) >= MOST_SUMMED_UP:
                self._write_sums()
                self._sync()
            self._sums.setdefault((direction, kind, round), _Sum()).add(payload)

    def flush(self) -> None:
        """Write an entry about each kind of messages that were counted.

        Raises
        ------
        FednnUNetError
            If they could not be written.
        """
        with self._lock:
            self._check_open()
            if self._sums:
                self._write_sums()
                self._sync()

    def close(self) -> None:
        """Write the summarized entries, and close the file.

        Raises
        ------
        FednnUNetError
            If that could not be written. The file is let go of nevertheless.
        """
        with self._lock:
            if self._file is None:
                return
            try:
                if self._sums:
                    self._write_sums()
                    self._sync()
            finally:
                self._release()

    def _check_open(self) -> int:
        if self._file is None:
            raise FednnUNetError(
                f"The audit log {self._path} is closed: restart the node; nothing is sent without the log."
            )
        return self._file

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self._path, flags, 0o600)
        except OSError as error:
            raise self._cannot_write(error) from error

    def _release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _leave_to_parent(self) -> None:
        """Let go of the file in a forked process: it would keep the lock when the node has gone."""
        self._lock = threading.Lock()  # another thread of the node may have held it
        self._release()

    def _entry(
        self,
        direction: Direction,
        kind: str,
        content: _Sum,
        round_number: int | None = None,
        fields: Iterable[str] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        decision: str | None = None,
        sites: Sequence[str] | None = None,
    ) -> AuditEntry:
        self._mend()
        number, previous = self._head
        return AuditEntry(
            number=number + 1,
            previous=previous,
            time=self._now(),
            run=encodable(self.run),
            task=encodable(self._task),
            site=encodable(self._site),
            round=round_number,
            direction=direction,
            kind=encodable(kind),
            fields=[encodable(name) for name in fields],
            shapes={encodable(name): list(shape) for name, shape in (shapes or {}).items()},
            bytes=content.bytes,
            messages=content.messages,
            sha256=content.digest.hexdigest(),
            decision=encodable(decision or ("sent" if direction == "out" else "received")),
            sites=None if sites is None else [encodable(name) for name in sites],
        )

    def _now(self) -> str:
        return datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="microseconds")

    def _write_sums(self) -> None:
        for key in list(self._sums):
            direction, kind, round_number = key
            self._write(self._entry(direction, kind, self._sums[key], round_number))
            del self._sums[key]

    def _write(self, entry: AuditEntry, before: bytes = b"") -> None:
        """Write an entry, with a single call, after the bytes `before` that end an incomplete line."""
        line = entry.to_json().encode()
        if len(line) > LONGEST_LINE:
            raise FednnUNetError(
                f"An entry about '{entry.kind}' is too long for the audit log {self._path} ({len(line)} bytes, at most "
                f"{LONGEST_LINE}): give it fewer fields and shapes, nothing is sent without it."
            )
        self._write_bytes(before + line + b"\n")
        self._head = (entry.number, sha256_of(line))
        self._is_whole = True  # now, not before: a signal may have ended this at any point

    def _write_bytes(self, content: bytes) -> None:
        file = self._check_open()
        self._is_whole = False
        try:
            if not os.path.samestat(os.stat(self._path), os.fstat(file)):
                raise OSError(errno.ESTALE, "another file replaced it")
            written = os.write(file, content)
            if written < len(content):  # a second call would say why, but could be cut short as well
                raise OSError(errno.EIO, f"it took {written} of {len(content)} bytes, its disk may be full")
        except OSError as error:
            raise self._cannot_write(error) from error

    def _sync(self) -> None:
        """Wait until the data are on disk; some file systems report a full disk only now."""
        try:
            os.fsync(self._check_open())
        except OSError as error:
            self._is_whole = False
            raise self._cannot_write(error) from error

    def _mend(self) -> None:
        """Find the end of the chain, and close a line whose writing was cut short."""
        if self._is_whole:
            return
        file = self._check_open()
        try:
            end = _read_end(file)
        except OSError as error:
            raise self._cannot_write(error) from error
        if end is None:
            raise FednnUNetError(
                f"{self._path} does not end like an audit log: keep it, and give the node another file for its log."
            )
        self._head = (end.number, end.digest)
        if end.torn is not None:
            entry = torn_entry(self._head, end.torn, self._now(), self.run, self._task, self._site)
            self._write(entry, before=b"" if end.has_newline else b"\n")
        elif not end.has_newline:
            self._write_bytes(b"\n")
        self._is_whole = True

    def _cannot_write(self, error: OSError) -> FednnUNetError:
        return FednnUNetError(
            f"The audit log {self._path} cannot be written ({error.strerror or error}): fix that and restart "
            "the node; nothing is sent without the log."
        )


_open_logs: "weakref.WeakSet[AuditLog]" = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    for log in list(_open_logs):
        log._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


def _lock(file: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FednnUNetError(
            f"Another node is writing the audit log {path}: stop it, or give this node its own log."
        ) from error
    except OSError as error:
        raise FednnUNetError(
            f"The audit log {path} cannot be locked ({error.strerror}): keep it on a local disk."
        ) from error


@dataclass(frozen=True)
class _End:
    """The end of a file: its last entry, and the incomplete line after it, if any."""

    number: int
    digest: str
    torn: bytes | None = None
    has_newline: bool = True


def _read_end(file: int) -> _End | None:
    """Return the end of a log, without reading the rest; ``None`` if the file is not an audit log."""
    size = os.fstat(file).st_size
    window = LONGEST_TORN + LONGEST_LINE + 2
    start = max(0, size - window)
    lines = _read_at(file, start, size - start).split(b"\n")
    for index in range(len(lines) - 1, 0 if start else -1, -1):  # a line whose beginning is not there does not count
        entry = parsed(lines[index])
        if entry is not None:
            return _end_after(entry.number, sha256_of(lines[index]), lines[index + 1 :])
    if start or not _may_begin(lines[0]):
        return None
    return _end_after(0, NOTHING, lines)


def _end_after(number: int, digest: str, rest: Sequence[bytes]) -> _End | None:
    """Return the end of a file that goes on, after an entry, with `rest`: no item if its newline is missing."""
    if not rest:
        return _End(number, digest, has_newline=False)
    if list(rest) == [b""]:
        return _End(number, digest)
    has_newline = rest[-1] == b""
    incomplete = rest[:-1] if has_newline else rest
    torn = b"\n".join(incomplete)
    if b"" in incomplete or len(torn) > LONGEST_TORN:  # nothing here writes an empty line
        return None
    return _End(number, digest, torn, has_newline)


def _may_begin(line: bytes) -> bool:
    """Return whether a line may be the beginning of a log's first entry."""
    beginning = f'{{"number":1,"previous":"{NOTHING}"'.encode()
    return line[: len(beginning)] == beginning[: len(line)]


def _read_at(file: int, start: int, length: int) -> bytes:
    os.lseek(file, start, os.SEEK_SET)  # of no meaning for what is appended
    parts = []
    while length > 0 and (part := os.read(file, length)):
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
