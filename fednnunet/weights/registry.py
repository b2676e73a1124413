"""Tables of what users choose by name: what comes with FednnU-Net, and what installed packages or programs add."""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import TypeVar

from fednnunet.errors import FednnUNetError

Value = TypeVar("Value")

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class Registry(Mapping[str, Value]):
    """A table by name; packages add to it with an entry point, programs with `register`.

    Parameters
    ----------
    what
        What is in it, for people.
    group
        Group of the entry points, whose names are those in the table.
    own
        What comes with FednnU-Net, which nothing else can replace.
    check
        Is called with what others add, and raises whatever is wrong with it.
    """

    def __init__(self, what: str, group: str, own: Mapping[str, Value], check: Callable[[Value], None]) -> None:
        self._what = what
        self._group = group
        self._own = own
        self._check = check
        self._registered: dict[str, Value] = {}

    @cached_property
    def _installed(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in _entry_points().select(group=self._group)}

    def __getitem__(self, name: str) -> Value:
        """Return what bears a name; that of a package is imported for it.

        Raises
        ------
        FednnUNetError
            If there is nothing of that name, or it cannot be used.
        """
        if name in self._own:
            return self._own[name]
        if name not in self._registered and name in self._installed:
            self.register(name, self._load(self._installed[name]))
        if name not in self._registered:
            raise FednnUNetError(f"Unknown {self._what} '{name}': choose from {', '.join(self)}.")
        return self._registered[name]

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._registered or name in self._installed

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._own, *self._registered, *self._installed]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def is_known_elsewhere(self, name: str) -> bool:
        """Return whether other processes of this installation know a name, too."""
        return name in self._own or name in self._installed

    def register(self, name: str, value: Value) -> None:
        """Add something, in this process.

        Raises
        ------
        FednnUNetError
            If the name cannot be one or is that of FednnU-Net's own, or `value` cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise FednnUNetError(
                f"'{name}' cannot name a {self._what}: use lower-case letters, digits and underscores."
            )
        if name in self._own:
            raise FednnUNetError(f"FednnU-Net has the {self._what} '{name}' already: choose another name.")
        try:
            self._check(value)
        except Exception as error:  # what others have written may fail in any way
            raise FednnUNetError(f"The {self._what} '{name}' cannot be used ({error}).") from error
        self._registered[name] = value

    def _load(self, point: EntryPoint) -> Value:
        try:
            value: Value = point.load()
        except Exception as error:
            raise FednnUNetError(
                f"The {self._what} '{point.name}' cannot be imported from {point.value} "
                f"({type(error).__name__}: {error}): correct the package that brings it."
            ) from error
        return value


@cache
def _entry_points() -> EntryPoints:
    found: EntryPoints = entry_points()  # type: ignore[assignment]  # of Python before 3.12, by its stubs
    return found
