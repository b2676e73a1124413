"""Parses datasets, CONFIGURATION and FOLD on a command line, with quotes, commas or spaces."""

import argparse
import re
from collections.abc import Sequence

from fednnunet.settings.values import split_words

_ID = re.compile(r"[0-9]+|(.*/)?dataset.*", re.IGNORECASE)
_CONFIGURATION = re.compile(r"[23]d(_\w*)?")


def parse_with_sites(
    parser: argparse.ArgumentParser, words: Sequence[str], namespace: argparse.Namespace
) -> argparse.Namespace:
    """Parse a command line; ``dataset`` becomes the list of all datasets, in quotes or not.

    Parameters
    ----------
    parser
        Has the positional arguments ``dataset``, ``configuration`` and ``fold``, and maybe nnU-Net's ``-d``.
    words
        The command line.
    namespace
        Is filled, and returned.
    """
    arguments, more = parser.parse_known_intermixed_args(words, namespace)
    flags = [position for position, word in enumerate(more) if word.startswith("-")]
    if flags:
        parser.error(f"unrecognized arguments: {' '.join(more[flags[0] :])}")
    given = [word for word in (arguments.dataset, arguments.configuration, arguments.fold) if word is not None] + more
    if getattr(arguments, "d", None) is None:
        ids, rest = _split_ids(given)
    else:
        ids, rest = [str(number) for number in arguments.d], given
        if rest and _are_ids(rest[0]):
            parser.error("the dataset is given twice, by position and with -d")
    if not ids or _CONFIGURATION.fullmatch(ids[0]):
        parser.error("no dataset given: write its id, such as 511, before CONFIGURATION")
    if len(rest) > 2:
        parser.error(
            f"'{' '.join(rest[2:])}' is unexpected after CONFIGURATION {rest[0]} and FOLD {rest[1]}: give one FOLD, or "
            "all, and put quotes around the values of a flag"
        )
    required = {action.dest for action in parser._actions if not action.option_strings and action.required}
    arguments.dataset = ids
    arguments.configuration, arguments.fold = [*rest, None, None][:2]
    missing = [name.upper() for name in ("configuration", "fold") if name in required and not getattr(arguments, name)]
    if missing:
        parser.error(
            f"no {' and no '.join(missing)} given after the datasets {' '.join(ids)}: CONFIGURATION comes before FOLD"
        )
    return arguments


def _split_ids(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the datasets that the first words name, and the other words."""
    ids = split_words(words[0]) if words else []
    rest = list(words[1:])
    while rest and _are_ids(rest[0]):
        ids += split_words(rest.pop(0))
    return ids, rest


def _are_ids(word: str) -> bool:
    return all(_ID.fullmatch(part) for part in split_words(word))
