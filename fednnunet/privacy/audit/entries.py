"""Entries of an audit log, and receipts."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from fednnunet.errors import FednnUNetError
from fednnunet.schema import Message

Direction = Literal["out", "in"]
Payload = Sequence[bytes | memoryview]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""SHA-256 as 64 hexadecimal digits."""

NOTHING: Digest = "0" * 64
"""Placeholder for the hash of the line before the first one."""
TORN = "torn"
WITHHELD = "withheld"
"""How the decision about a message begins that was not sent."""
LONGEST_LINE = 2**16 - 1
"""Bytes of a line, without the newline."""
MOST_SUMMED_UP = 1000
"""Messages that are only counted, before an entry is written about them."""

LONGEST_TORN = 2**18
TORN_DECISION = "the line before is not complete: what it is about was not sent"


class AuditEntry(Message):
    """One line of an audit log; nothing in it is about a single case."""

    number: int = Field(ge=1, description="1, 2, 3 … in the whole file")
    previous: Digest = Field(description="hash of the line before, without the newline")
    time: str = Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00$", description="UTC, ISO 8601")
    run: str = Field(description="name of the coordinator's run; empty before it is known")
    task: str
    site: str
    round: int | None = None
    direction: Direction
    kind: str
    fields: list[str] = Field(description="names of the fields of JSON that the message holds")
    shapes: dict[str, list[int]] = Field(description="names and shapes of the arrays that the message holds")
    bytes: int = Field(ge=0)
    messages: int = Field(default=1, ge=0, description="messages that are summed up in this entry")
    sha256: Digest = Field(description="hash of the payload, or of all payloads that are summed up")
    decision: str
    sites: list[str] | None = Field(default=None, description="of a masked sum, where the message names them")

    def to_json(self) -> str:
        """Return the entry as its line in the log, which says nothing of sites where the message names none."""
        return self.model_dump_json(exclude={"sites"} if self.sites is None else None)

    @property
    def is_withheld(self) -> bool:
        """Whether the message was not sent."""
        return self.decision.startswith(WITHHELD)


class Receipt(Message):
    """The coordinator's receipt for a site's log: number of entries, and hash of the last line."""

    site: str
    entries: int = Field(ge=0)
    sha256: Digest
    time: str


def read_receipts(path: Path) -> list[Receipt]:
    """Return the receipts in a file of JSON lines.

    Raises
    ------
    FednnUNetError
        If the file cannot be read, or a complete line is no receipt.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise FednnUNetError(f"The receipts {path} cannot be read ({error.strerror}): choose another file.") from error
    receipts = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"}"):
            continue  # here too the coordinator was stopped, and begun again
        try:
            receipts.append(Receipt.model_validate_json(line))
        except ValidationError as error:
            raise FednnUNetError(
                f"Line {number} of {path} is not a receipt: give the coordinator's receipts file."
            ) from error
    with contextlib.suppress(ValidationError):  # the coordinator may have been stopped while it wrote this one
        receipts.append(Receipt.model_validate_json(last))
    return receipts


def torn_entry(head: tuple[int, str], torn: bytes, now: str, run: str, task: str, site: str) -> AuditEntry:
    """Return the only entry that may follow the incomplete line `torn`."""
    return AuditEntry(
        number=head[0] + 1,
        previous=head[1],
        time=now,
        run=encodable(run),
        task=encodable(task),
        site=encodable(site),
        direction="out",
        kind=TORN,
        fields=[],
        shapes={},
        bytes=0,
        messages=0,
        sha256=sha256_of(torn),
        decision=TORN_DECISION,
    )


def parsed(line: bytes) -> AuditEntry | None:
    """Return the entry that a line is, ``None`` if a log would not have written it like this."""
    if len(line) > LONGEST_LINE:
        return None
    try:
        entry = AuditEntry.model_validate_json(line)
    except ValidationError:
        return None
    return entry if entry.to_json().encode() == line else None


def sha256_of(content: bytes) -> str:
    """Return a SHA-256 in the format of the log."""
    return hashlib.sha256(content).hexdigest()


def encodable(text: str) -> str:
    """Return `text` without characters that UTF-8 cannot encode, which a command line may contain."""
    return text.encode("utf-8", "replace").decode()


def read_entries(path: Path) -> Iterator[AuditEntry | None]:
    """Yield the entries of a log, without checking the chain; ``None`` for an invalid line.

    Raises
    ------
    FednnUNetError
        If the file cannot be read.
    """
    for line in lines_of(path):
        yield parsed(line[:-1]) if line.endswith(b"\n") else None


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file with their newlines; longer ones than an entry are yielded in pieces."""
    try:
        with path.open("rb") as file:
            while line := file.readline(LONGEST_TORN + 1):
                yield line
    except OSError as error:
        raise FednnUNetError(f"The audit log {path} cannot be read ({error.strerror}): choose another file.") from error
