"""Verifies the integrity of an audit log."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.privacy.audit.entries import (
    LONGEST_TORN,
    NOTHING,
    TORN,
    AuditEntry,
    Direction,
    Receipt,
    lines_of,
    parsed,
    sha256_of,
    torn_entry,
)


@dataclass(frozen=True)
class Verification:
    """Contents of a verified log.

    Parameters
    ----------
    head
        Number of entries, and hash of the last line.
    sites
        The sites in it.
    out, received
        Bytes that have left the site, and that came to it, by kind.
    withheld
        Messages that were not sent.
    torn
        Lines whose writing was cut short.
    first, last
        Times of the first and the last entry, UTC; ``None`` if there are no entries.
    receipt
        The last entry of which the coordinator has a receipt; ``None`` if no receipt was given.
    """

    head: tuple[int, str]
    sites: frozenset[str]
    out: Mapping[str, int]
    received: Mapping[str, int]
    withheld: int
    torn: int
    first: str | None
    last: str | None
    receipt: int | None

    @property
    def entries(self) -> int:
        """Number of entries."""
        return self.head[0]


def verify(path: Path, receipt: tuple[int, str] | None = None, receipts: Iterable[Receipt] = ()) -> Verification:
    """Check that an audit log is whole; it is read once, line by line.

    Parameters
    ----------
    path
        The file.
    receipt
        Number and hash of an entry that must be in the log.
    receipts
        What a coordinator keeps. Those of sites that are not in the log are about other logs.

    Raises
    ------
    FednnUNetError
        If it cannot be read, or is not whole. The message names the first line that was changed, removed, repeated
        or moved, as far as that can be told.
    """
    chain = _Chain(path)
    claims = _Claims(path, receipt, receipts)
    for line in lines_of(path):
        entry = chain.follow(line)
        if entry is not None:
            claims.see(*chain.head)
    chain.end()
    return Verification(
        head=chain.head,
        sites=frozenset(chain.sites),
        out=chain.bytes["out"],
        received=chain.bytes["in"],
        withheld=chain.withheld,
        torn=chain.torn,
        first=chain.first,
        last=chain.last,
        receipt=claims.last_held(chain.head, chain.sites),
    )


class _Claims:
    """The receipts for a log."""

    def __init__(self, path: Path, receipt: tuple[int, str] | None, receipts: Iterable[Receipt]) -> None:
        self._path = path
        given: list[tuple[int, str, str | None]] = [(kept.entries, kept.sha256, kept.site) for kept in receipts]
        if receipt is not None:
            given.append((*receipt, None))
        self._given = sorted(given, key=lambda claim: claim[0])
        self._wanted = {number for number, _, _ in given}
        self._found = {0: NOTHING}

    def see(self, number: int, digest: str) -> None:
        """Take the number and the hash of an entry of the log."""
        if number in self._wanted:
            self._found[number] = digest

    def last_held(self, head: tuple[int, str], sites: Iterable[str]) -> int | None:
        """Return the last entry of which there is a receipt, having checked all of them."""
        held = None
        for number, digest, site in self._given:
            if site is not None and site not in sites:
                continue
            if number > head[0]:
                raise FednnUNetError(
                    f"{self._path} ends with entry {head[0]}, but the coordinator has a receipt of entry {number}: its "
                    "end was cut off, or it is another log."
                )
            if self._found.get(number) != digest:
                raise FednnUNetError(
                    f"Entry {number} of {self._path} does not match the coordinator's receipt: this line "
                    "was changed, or the log was rewritten up to it."
                )
            held = number
        return held


class _Chain:
    """Follows a log line by line."""

    def __init__(self, path: Path) -> None:
        self.head = (0, NOTHING)
        self.sites: set[str] = set()
        self.bytes: dict[Direction, Counter[str]] = {"out": Counter(), "in": Counter()}
        self.withheld = 0
        self.torn = 0
        self.first: str | None = None
        self.last: str | None = None
        self._path = path
        self._line = 0
        self._line_of_head = 0
        self._incomplete: list[bytes] = []
        self._suspect: str | None = None  # hash of a line that does not fit to the one before

    def follow(self, line: bytes) -> AuditEntry | None:
        """Take the next line, with its newline, and return the entry that it is, if it goes on with the chain."""
        self._line += 1
        entry = parsed(line[:-1]) if line.endswith(b"\n") else None
        if self._suspect is not None:
            raise self._either_changed(entry, self._suspect)
        if entry is None:
            self._keep_incomplete(line)
            return None
        if entry.kind == TORN:
            self._check_torn(entry)
        elif self._incomplete:
            raise self._no_entry()
        elif not self._fits(entry, line):
            return None
        self.head = (entry.number, sha256_of(line[:-1]))
        self._line_of_head = self._line
        self._sum_up(entry)
        return entry

    def end(self) -> None:
        """Finish: there are no more lines."""
        if self._incomplete:
            raise self._no_entry()
        if self._suspect is not None:
            raise self._do_not_fit(self._line_of_head, self._line)

    def _keep_incomplete(self, line: bytes) -> None:
        self._incomplete.append(line)
        length = sum(len(part) for part in self._incomplete)
        if line == b"\n" or length > LONGEST_TORN + 1:
            raise self._no_entry()
        if not line.endswith(b"\n"):
            raise FednnUNetError(
                f"Line {self._line_of_head + 1} of {self._path} is not complete: the node was stopped while it wrote "
                "it, or writes it now; verify the log once more when the node has been started again."
            )

    def _check_torn(self, entry: AuditEntry) -> None:
        if not self._incomplete:
            raise self._error("says that the line before is not complete, but it is: a line was changed or removed")
        torn = b"".join(self._incomplete)[:-1]
        if entry != torn_entry(self.head, torn, entry.time, entry.run, entry.task, entry.site):
            is_next = self.head == (entry.number - 1, entry.previous)
            raise self._do_not_fit(self._line_of_head + 1 if is_next else max(1, self._line_of_head), self._line)
        self._incomplete.clear()
        self.torn += 1

    def _fits(self, entry: AuditEntry, line: bytes) -> bool:
        """Return whether an entry goes on with the chain; if not, and no error is raised, the next line tells more."""
        number, digest = self.head
        expected = number + 1
        if entry.previous == digest:
            if entry.number != expected:
                raise self._changed(self._line)
            return True
        if entry.number > expected:
            raise self._error(f"is entry {entry.number} instead of {expected}: lines are missing or were moved")
        if entry.number < expected:
            raise self._error(f"repeats entry {entry.number}: lines were repeated or moved")
        if number == 0:
            raise self._changed(self._line)
        self._suspect = sha256_of(line[:-1])
        return False

    def _sum_up(self, entry: AuditEntry) -> None:
        self.sites.add(entry.site)
        self.first = self.first or entry.time
        self.last = entry.time
        if entry.kind == TORN:
            return
        if entry.is_withheld:
            self.withheld += entry.messages
        else:
            self.bytes[entry.direction][entry.kind] += entry.bytes

    def _either_changed(self, entry: AuditEntry | None, suspect: str) -> FednnUNetError:
        """Return which of the last two lines was changed: the one behind them knows the second one's hash."""
        if entry is None:
            return self._do_not_fit(self._line_of_head, self._line - 1)
        return self._changed(self._line_of_head if entry.previous == suspect else self._line - 1)

    def _no_entry(self) -> FednnUNetError:
        line = self._line_of_head + 1
        return FednnUNetError(f"Line {line} of {self._path} is not an audit log entry: it was changed.")

    def _do_not_fit(self, first: int, last: int) -> FednnUNetError:
        return FednnUNetError(
            f"Lines {first} to {last} of {self._path} do not match: one of them was changed or removed."
        )

    def _changed(self, line: int) -> FednnUNetError:
        return FednnUNetError(f"Line {line} of {self._path} was changed.")

    def _error(self, what: str) -> FednnUNetError:
        return FednnUNetError(f"Line {self._line} of {self._path} {what}.")
