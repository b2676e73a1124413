"""Defines the compared methods: four named ones, and variants by training flags."""

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from fednnunet.comparison.memory import digest
from fednnunet.errors import FednnUNetError
from fednnunet.settings.flag import Flag
from fednnunet.settings.flags import AVERAGING_FLAGS, OWN_MODEL_FLAGS, SCHEDULE_FLAGS
from fednnunet.settings.values import split_words

PERSONAL = "personal"
"""What ``ffe --personalize N`` is called for short."""

_NAMED = re.compile(r"\s*([^=\s-](?:(?!\s-)[^=])*?)\s*=\s*(.*)", re.DOTALL)
_PERSONALIZE = OWN_MODEL_FLAGS[0]


@dataclass(frozen=True)
class Method:
    """A way of training.

    Parameters
    ----------
    name
        What it is called on the command line, and in files for programs.
    title
        What the table calls it.
    plans
        Whose plans it trains with: each site's own, the federation's, or those of the pooled data.
    is_federated
        Whether the sites average weights.
    is_personal
        Whether each site ends with a model of its own.
    changes
        Flags of its training that differ from the comparison's, by ``dest``.
    base
        Which of `METHODS` it is or varies; by default `name`.
    training
        What tells its training from others, in names of folders; by default `name`.
    personal_epochs
        For how many epochs each site trains the federation's model on, if it does.
    """

    name: str
    title: str
    plans: Literal["own", "common", "pooled"]
    is_federated: bool
    is_personal: bool
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)
    base: str = ""
    training: str = ""
    personal_epochs: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", self.base or self.name)
        object.__setattr__(self, "training", self.training or self.name)

    @property
    def is_pooled(self) -> bool:
        """Whether one model is trained with the data of all sites."""
        return self.plans == "pooled"

    @property
    def key(self) -> str:
        """What tells its models from others, in names of folders: what the user calls it does not matter."""
        return self.training if self.personal_epochs is None else f"{self.training}_personal_{self.personal_epochs}"


METHODS = {
    method.name: method
    for method in (
        Method("local", "Local", "own", is_federated=False, is_personal=True),
        Method("asym", "AsymFedAvg", "own", is_federated=True, is_personal=True),
        Method("ffe", "FFE", "common", is_federated=True, is_personal=False),
        Method("centralized", "Centralized", "pooled", is_federated=False, is_personal=False),
    )
}
"""By name, in the table's order."""


def read_methods(words: Sequence[str], values: Mapping[str, Any]) -> list[Method]:
    """Return the methods that a command line names, in the table's order: variants come after what they vary.

    Parameters
    ----------
    words
        Each is a list of names, or a name with flags of its training, ``ffe --keep_local norm``, which a name of the
        user's can precede, ``FedBN=ffe --keep_local norm``.
    values
        The comparison's own settings, by name.

    Raises
    ------
    FednnUNetError
        If one is no method, or two are the same.
    """
    methods: list[Method] = []
    for word in words:
        if " -" in word or "=" in word:
            methods.append(_variant(word, values))
        else:
            methods += [_named(name, values) for name in split_words(word)]
    unique = list({(method.name, method.key): method for method in methods}.values())
    for one, other in ((one, other) for position, one in enumerate(unique) for other in unique[:position]):
        if one.name == other.name or one.key == other.key:
            raise FednnUNetError(f"--methods: {other.title} and {one.title} are the same, or have the same name.")
        if one.training == other.training and None not in (one.personal_epochs, other.personal_epochs):
            raise FednnUNetError(
                f"--methods: {other.title} and {one.title} continue the same training for different epochs: a "
                "site keeps one personal model of a training, so choose one of them."
            )
    if not unique:
        raise FednnUNetError(f"--methods is empty, choose from {', '.join(METHODS)}.")
    return sorted(unique, key=lambda method: list(METHODS).index(method.base))


def _named(name: str, values: Mapping[str, Any]) -> Method:
    if name == PERSONAL:
        if (epochs := values.get("personalize")) is None:
            raise FednnUNetError(f"--methods {PERSONAL} needs the number of epochs: give --personalize N.")
        return _variant(f"{PERSONAL}=ffe --personalize {epochs}", values)
    if name not in METHODS:
        raise FednnUNetError(f"--methods: '{name}' is not a method, choose from {', '.join([*METHODS, PERSONAL])}.")
    return METHODS[name]


def _variant(text: str, values: Mapping[str, Any]) -> Method:
    """Return the method that a name and flags describe."""
    called = _NAMED.fullmatch(text)
    try:
        base, *words = shlex.split(called[2] if called else text)
    except ValueError as error:
        raise FednnUNetError(f"--methods: '{text}' cannot be read ({error}).") from error
    if base not in METHODS:
        raise FednnUNetError(f"--methods: '{base}' in '{text}' is not a method, choose from {', '.join(METHODS)}.")
    of = METHODS[base]
    flags = _flags(of)
    given = _Parser(text, flags).parse_args(words)
    changes = {
        flag.dest: value
        for flag in flags
        if (value := getattr(given, flag.dest, None)) is not None and value != values.get(flag.dest)
    }
    epochs = getattr(given, _PERSONALIZE.dest, None)
    changes.pop(_PERSONALIZE.dest, None)
    training = "_".join([base, *(_slug(dest, value) for dest, value in changes.items())])
    method = replace(of, changes=changes, training=training, personal_epochs=epochs)
    own = method.is_personal or epochs is not None
    if called:
        return replace(method, name=called[1], title=_title(called[1]), is_personal=own)
    return replace(method, name=method.key, title=" ".join([of.title, *words]), is_personal=own)


def _flags(method: Method) -> list[Flag]:
    """Return the flags that can vary a method."""
    if not method.is_federated:
        return list(SCHEDULE_FLAGS)
    averaging = [flag for flag in AVERAGING_FLAGS if flag.dest != "asym_cohorts" or method.plans == "own"]
    return [*SCHEDULE_FLAGS, *averaging, _PERSONALIZE]


class _Parser(argparse.ArgumentParser):
    """Reads the flags of one method; what is not given is not in its result."""

    def __init__(self, text: str, flags: Sequence[Flag]) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self._text = text
        for flag in flags:
            flag.add_to(self)
        for action in self._actions:
            action.default = argparse.SUPPRESS

    def error(self, message: str) -> NoReturn:
        raise FednnUNetError(f"--methods: '{self._text}' cannot be read ({message}).")


def _slug(dest: str, value: object) -> str:
    """Return what a flag is in the name of a folder."""
    text = dest if value is True else f"{dest}_{value}"
    plain = re.sub(r"[^\w.-]", "_", text)[:40]
    return plain if plain == text else f"{plain}_{digest(text)[:8]}"


def _title(name: str) -> str:
    return name.capitalize() if name == PERSONAL else name
