"""The conversation between coordinator and nodes: one question at a time, one answer to each.

The only place that knows how either travels, in the dictionaries that Flower calls config, properties and metrics.
Whoever has answers has one method, `Answers.answer`: a node, the gate before it, a connection, and a site as the
coordinator sees it.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import WorkReport
from fednnunet.schema import Message

Config = dict[str, bool | bytes | float | int | str]
"""What Flower carries beside arrays."""

AnyMessage = TypeVar("AnyMessage", bound=Message)

NO_BODY = "{}"
NO_CERTIFICATE = bytes(32)
"""Placeholder for the certificate's digest on unencrypted connections."""
HELLO, PING, FAREWELL = "hello", "ping", "farewell"
TRAIN, VALIDATE = "fit", "evaluate"
"""The kinds that Flower has a call of its own for; all others travel as ``get_properties``."""

_LOG_ENTRY = re.compile(r"([0-9]{1,18}):([0-9a-f]{64})")


@dataclass(frozen=True)
class Question:
    """What the coordinator asks a node.

    Attributes
    ----------
    kind
        What is asked for.
    body
        JSON of a message.
    data
        Bytes beside it.
    id
        Names the question for as long as it is the last one; ``None`` if it is never asked again.
    round
        The round that it is about, which is also in the body: a node refuses a question where they differ.
    certificate
        SHA-256 of the certificate that was shown where it has come from. Does not travel.
    """

    kind: str
    body: str = NO_BODY
    data: bytes = b""
    id: str | None = None
    round: int | None = None
    certificate: bytes = NO_CERTIFICATE

    @classmethod
    def of(cls, kind: str, message: Message | None, data: bytes = b"", id: str | None = None) -> Self:
        """Return the question with a message as its body."""
        body = NO_BODY if message is None else message.to_json()
        return cls(kind, body, data, id, _round_of(message))

    @classmethod
    def from_config(cls, config: Mapping[str, object], certificate: bytes = NO_CERTIFICATE) -> Self:
        """Return a question that has arrived, whatever it holds."""
        number, data, name = config.get("round"), config.get("data"), config.get("id")
        return cls(
            kind=str(config.get("ask", "")),
            body=str(config.get("body", NO_BODY)),
            data=data if isinstance(data, bytes) else b"",
            id=None if name is None else str(name),
            round=number if isinstance(number, int) and not isinstance(number, bool) else None,
            certificate=certificate,
        )

    def to_config(self) -> Config:
        """Return the question as it travels."""
        parts: dict[str, bytes | int | str | None] = {"ask": self.kind, "body": self.body, "id": self.id}
        parts |= {"data": self.data or None, "round": self.round}
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def key(self) -> str | None:
        """A text that is the same for the same question only; ``None`` for one that is never asked again.

        The `id` alone would not do: under that of one question a coordinator could ask for the answer to another.
        """
        if self.id is None:
            return None
        asked = hashlib.sha256()
        for part in (self.kind, self.id, self.body):
            text = part.encode(errors="replace")
            asked.update(len(text).to_bytes(8, "big") + text)
        return asked.hexdigest()

    @property
    def payload(self) -> list[bytes]:
        """What travels, part by part."""
        return _payload(self.to_config())

    def read(self, message: type[AnyMessage]) -> AnyMessage:
        """Return the body.

        Raises
        ------
        FednnUNetError
            If it is no such message, or one about another round than the question.
        """
        body = message.from_json(self.body)
        if _round_of(body) != self.round:
            raise FednnUNetError(
                f"A {message.__name__} message is malformed: it is of another round than its question."
            )
        return body


@dataclass(frozen=True)
class Answer:
    """What a node answers.

    Attributes
    ----------
    body
        JSON of a message; ``None`` if there is none.
    data
        Bytes beside it.
    pending
        How far the node is: the same question shall be asked again.
    failure
        Why there is no answer.
    withheld
        The rule of the site's policy that has left out a part of it.
    log
        Number and SHA-256 of the last entry of the site's audit log.
    round
        The round of what is answered, as the node says. Does not travel but in the body.
    is_masked
        Whether it is a term of a masked sum, as the node says. Does not travel.
    """

    body: str | None = None
    data: bytes = b""
    pending: WorkReport | None = None
    failure: str | None = None
    withheld: str | None = None
    log: tuple[int, str] | None = None
    round: int | None = None
    is_masked: bool = False

    @classmethod
    def of(cls, message: Message, data: bytes = b"", *, is_masked: bool = False) -> Self:
        """Return the answer with a message as its body."""
        return cls(message.to_json(), data, round=_round_of(message), is_masked=is_masked)

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> Self:
        """Return an answer that has arrived.

        Raises
        ------
        FednnUNetError
            If it says that the node is at work, but not how far it is.
        """
        text = {name: str(config[name]) for name in ("body", "pending", "failure", "withheld") if name in config}
        data, entry = config.get("data"), _LOG_ENTRY.fullmatch(str(config.get("log", "")))
        return cls(
            body=text.get("body"),
            data=data if isinstance(data, bytes) else b"",
            pending=WorkReport.from_json(text["pending"]) if "pending" in text else None,
            failure=text.get("failure"),
            withheld=text.get("withheld"),
            log=(int(entry[1]), entry[2]) if entry is not None else None,
        )

    def to_config(self) -> Config:
        """Return the answer as it travels."""
        log = None if self.log is None else f"{self.log[0]}:{self.log[1]}"
        return self._content | ({} if log is None else {"log": log})

    @property
    def _content(self) -> Config:
        """What it says, in the order in which it is hashed."""
        parts = {
            "body": self.body,
            "data": self.data or None,
            "pending": None if self.pending is None else self.pending.to_json(),
            "failure": self.failure,
            "withheld": self.withheld,
        }
        return {name: value for name, value in parts.items() if value is not None}

    @property
    def payload(self) -> list[bytes]:
        """What travels of what it says, part by part; data without a body are all that is said."""
        content = self._content
        return [self.data] if set(content) == {"data"} else _payload(content)

    def read(self, message: type[AnyMessage]) -> AnyMessage:
        """Return the body.

        Raises
        ------
        FednnUNetError
            If it is no such message.
        """
        return message.from_json(self.body or "")


class Answers(Protocol):
    """Whoever has answers: a node, or the gate before it."""

    def answer(self, question: Question) -> Answer:
        """Answer a question."""


def _round_of(message: Message | None) -> int | None:
    return getattr(message, "round", None)


def _payload(values: Config) -> list[bytes]:
    return [
        part
        for name, value in values.items()
        for part in (name.encode(), value if isinstance(value, bytes) else str(value).encode(errors="replace"))
    ]
