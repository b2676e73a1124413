"""Base classes of everything that is sent or stored as JSON: schemas that validate on arrival.

Senders are not trusted. Texts are measured before they are parsed, every field has bounds, and displayed text contains
no characters that could control a terminal.
"""

import math
import unicodedata
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from fednnunet.errors import FednnUNetError

_LONGEST_SHOWN = 200
_LONGEST_NAME = 120
_LONGEST_TOLD = 2000
_BYTES_PER_VALUE = 16
"""A value that is read takes much more memory than its text, so texts of many tiny values are refused."""
_DEEPEST = 16
_LARGEST_INTEGER = 1 << 63
_PUNCTUATION = frozenset(" _-.,()'&+@#")


def cleaned(text: str, longest: int = _LONGEST_TOLD) -> str:
    """Return a text from somewhere else as it may be shown: in one line, printable, and not too long."""
    shown = "".join(char if char.isprintable() else " " if char.isspace() else "?" for char in text[: longest + 1])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def is_readable(encoded: bytes, longest: int) -> bool:
    """Return whether a JSON text is not longer than this, and has not more values than cost memory in proportion."""
    return len(encoded) <= longest and sum(map(encoded.count, (b",", b"[", b"{"))) <= longest // _BYTES_PER_VALUE


class Message(BaseModel):
    """Base of all messages: immutable, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    longest_text: ClassVar[int] = 1 << 28
    """Bytes of the longest JSON text that `from_json` reads."""

    def to_json(self) -> str:
        """Return the message as JSON text; NaN and infinities become ``null``."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the message that `text` holds.

        Raises
        ------
        FednnUNetError
            If `text` is not a message of this class, or is longer than one can be.
        """
        encoded = cls._encoded(text)
        try:
            return cls.model_validate_json(encoded)
        except ValidationError as error:
            reason = first_problem(error)
        raise cls._refusal(reason)  # outside of the handler: the cause would keep the text in memory

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """Return the message with these fields, where they come from a user.

        Raises
        ------
        FednnUNetError
            If a field is not what it should be.
        """
        try:
            return cls(**fields)
        except ValidationError as error:
            reason = first_problem(error)
        raise FednnUNetError(f"{cls.__name__} cannot be made: {reason}: correct it.")

    @classmethod
    def _encoded(cls, text: str) -> bytes:
        if not isinstance(text, str):
            raise cls._refusal("it is not text")
        if len(text) > cls.longest_text:
            raise cls._refusal(f"it is longer than {cls.longest_text} bytes")
        try:
            encoded = text.encode()
        except UnicodeEncodeError:
            encoded = b""
        if not encoded:
            raise cls._refusal("it is empty, or not Unicode text")
        if len(encoded) > cls.longest_text:
            raise cls._refusal(f"it is longer than {cls.longest_text} bytes")
        if not is_readable(encoded, cls.longest_text):
            raise cls._refusal("it has too many values")
        return encoded

    @classmethod
    def _refusal(cls, reason: str) -> FednnUNetError:
        return FednnUNetError(f"A {cls.__name__} message is malformed: {reason}.")


class WireMessage(Message):
    """Base of all messages that cross the network; classes with longer messages override the limit."""

    longest_text: ClassVar[int] = 1 << 16


def first_problem(error: ValidationError) -> str:
    """Return where the first problem is, and which one: short, printable."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "message"
    return f"{cleaned(where, _LONGEST_SHOWN)}: {cleaned(first['msg'], _LONGEST_SHOWN)}"


def check_name(name: str) -> None:
    """Refuse an invalid site name.

    Raises
    ------
    FednnUNetError
        Lists the allowed characters.
    """
    if not name or len(name) > _LONGEST_NAME or not _is_name(name):
        raise FednnUNetError(
            f"Invalid site name '{cleaned(name, _LONGEST_SHOWN)}': choose one with --site, of letters, digits, "
            f"spaces and {''.join(sorted(_PUNCTUATION - {' '}))} only, at most {_LONGEST_NAME}, no leading dot."
        )


def as_name(text: str) -> str:
    """Return a site's default name: the name of its dataset, with ``_`` for invalid characters."""
    return "".join(char if _fits_name(char) else "_" for char in text[:_LONGEST_NAME]).strip()


def _is_name(text: str) -> bool:
    return text.strip() == text and not text.startswith(".") and all(_fits_name(char) for char in text)


def _check_name(text: str) -> str:
    if not _is_name(text):
        raise PydanticCustomError(
            "name",
            "Input should have letters, digits, spaces and _-.,()'&+@# only, and neither begin with a dot"
            " nor begin or end with a space",
        )
    return text


def _fits_name(char: str) -> bool:
    return char in _PUNCTUATION or unicodedata.category(char)[0] in "LMN"


def printable_line(text: str) -> str:
    """Return a text that is one line of printable characters, to be used as a validator; refuse any other."""
    if not text.isprintable():
        raise PydanticCustomError("line", "Input should have printable characters only")
    return text


def _check_json(content: dict[str, Any]) -> dict[str, Any]:
    waiting: list[tuple[int, Any]] = [(0, content)]
    while waiting:
        depth, value = waiting.pop()
        if depth > _DEEPEST:
            raise PydanticCustomError("depth", "Input should not be nested that deeply")
        if isinstance(value, float) and not math.isfinite(value):
            raise PydanticCustomError("finite", "Input should have finite numbers only")
        if isinstance(value, int) and not -_LARGEST_INTEGER <= value < _LARGEST_INTEGER:
            raise PydanticCustomError("integer", "Input should have integers of 64 bits only")
        if isinstance(value, dict | list):
            waiting += [(depth + 1, inner) for inner in (value.values() if isinstance(value, dict) else value)]
    return content


Name = Annotated[str, Field(min_length=1, max_length=_LONGEST_NAME), AfterValidator(_check_name)]
"""Name of a site, or of a file: not a path, not hidden."""

Line = Annotated[str, Field(max_length=200), AfterValidator(printable_line)]
"""A user's name of something, in one line, for example of a label."""

Told = Annotated[str, AfterValidator(cleaned), WithJsonSchema({"type": "string", "maxLength": _LONGEST_TOLD})]
"""A text for people: cleaned, never refused."""

Count = Annotated[int, Field(ge=1, le=10**9)]

Number = Annotated[float, Field(allow_inf_nan=False)]

NONE_IF_NOT_FINITE = BeforeValidator(
    lambda value: None if isinstance(value, float) and not math.isfinite(value) else value
)
"""A number or ``None``; NaN and infinities become ``None``."""

JsonObject = Annotated[
    dict[str, Any],
    AfterValidator(_check_json),
    WithJsonSchema({"type": "object", "maxProperties": 1 << 16}),
]
"""Any JSON object that is not deeper than it should be, with finite numbers."""
