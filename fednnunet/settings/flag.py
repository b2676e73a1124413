"""One optional argument of a command line, declared once for all commands that have it."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from fednnunet.errors import FednnUNetError

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Flag:
    """One optional argument, as ``ArgumentParser.add_argument`` takes it."""

    name: str
    help: str
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def dest(self) -> str:
        """The field of the settings that the flag fills."""
        return str(self.keywords.get("dest", self._spelling.replace("-", "_")))

    @property
    def default(self) -> Any:
        """The value of the flag where it is not given."""
        return self.keywords.get("default", False if self.is_switch else None)

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.keywords.get("action") == "store_true"

    @property
    def _spelling(self) -> str:
        return self.name.lstrip("-")

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        """Declare the flag on `parser`; help texts name the value as the flag, whatever field it fills."""
        named = self.is_switch or "choices" in self.keywords or "dest" not in self.keywords
        metavar = {} if named else {"metavar": self._spelling.upper()}
        parser.add_argument(self.name, help=self.help, **{**metavar, **self.keywords})

    def to_argv(self, settings: object) -> list[str]:
        """Return the words of a command line that give this flag the value that it has in `settings`."""
        value = getattr(settings, self.dest, self.default)
        value = list(value) if isinstance(value, tuple) else value
        if value == self.default:
            return []
        if self.is_switch:
            return [self.name]
        return [self.name, *(str(word) for word in value)] if isinstance(value, list) else [self.name, str(value)]


def add_flags(parser: argparse._ActionsContainer, flags: Iterable[Flag]) -> None:
    """Declare each of `flags` on `parser`."""
    for flag in flags:
        flag.add_to(parser)


def filled(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Return settings with those of `values` that they have a field for; lists become tuples.

    Raises
    ------
    TypeError
        If a field has neither a value nor a default.
    """
    own = {field.name: values[field.name] for field in fields(kind) if field.name in values}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()})


def check_values(flags: Iterable[Flag], values: Mapping[str, Any]) -> None:
    """Refuse values that a command line would not take.

    Raises
    ------
    FednnUNetError
        Names the value.
    """
    for flag in flags:
        value = values.get(flag.dest)
        if value is None or flag.is_switch:
            continue
        for each in value if isinstance(value, list | tuple) else [value]:
            _check_value(flag, each)


def _check_value(flag: Flag, value: object) -> None:
    choices, read = flag.keywords.get("choices"), flag.keywords.get("type", str)
    if choices is not None and value not in choices:
        raise FednnUNetError(f"{flag.dest} cannot be {value!r}: choose from {', '.join(choices)}.")
    try:
        read(str(value))
    except argparse.ArgumentTypeError as error:
        raise FednnUNetError(f"{flag.dest} cannot be {value!r}: {error}.") from None
    except ValueError:
        raise FednnUNetError(f"{flag.dest} cannot be {value!r}: give {getattr(read, '__name__', 'another')}.") from None
