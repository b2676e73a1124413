"""Writes a page for each command of ``fednnunet`` from its argument parsers."""

import argparse
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from unittest import mock

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.typing import ExtensionMetadata

from fednnunet.cli.commands import commands
from fednnunet.protocol.messages import TASKS

FOLDER = "cli"
"""Below ``docs``; rewritten by every build, and ignored by git."""


class _Found(Exception):  # noqa: N818 - nothing is wrong
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def parsers(command: str) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a command, by the words with which its command line begins.

    The command is called as a user would, with each of the tasks, and stopped where it begins to parse: so whatever is
    registered is found, and found as it is. A command without tasks has the same parser each time.
    """
    found = {}
    for task in TASKS:
        try:
            with mock.patch.multiple(argparse.ArgumentParser, parse_args=_tell, parse_known_intermixed_args=_tell):
                commands()[command][1]([task])
        except _Found as stopped:
            found[stopped.parser.prog] = stopped.parser
    return found


def _tell(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
    raise _Found(parser)


def with_subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser, and the parsers of its subcommands in place of one that only chooses among them."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from with_subcommands(subparser)
            return
    yield parser


def page(command: str) -> str:
    """Return the page of a command, as Markdown."""
    summary = commands()[command][0]
    parts = [f"# fednnunet {command}", _sentence(summary)]
    found = parsers(command)
    if not found:
        raise ExtensionError(f"'fednnunet {command}' has not begun to parse: no page can be made of it.")
    each = [parser for of_task in found.values() for parser in with_subcommands(of_task)]
    helps = {
        subparser.prog: choice.help
        for of_task in found.values()
        for action in of_task._actions
        if isinstance(action, argparse._SubParsersAction)
        for choice, subparser in zip(action._choices_actions, action.choices.values(), strict=True)
    }
    for parser in each:
        if len(each) > 1:
            parts.append(f"## {parser.prog}")
        about = helps.get(parser.prog) or parser.description
        parts += [_sentence(about)] if about and len(each) > 1 else []
        parts += list(_arguments(parser))
    return "\n\n".join(parts) + "\n"


def _arguments(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"```text\n{_usage(parser)}\n```"
    yield f"```{{program}} {parser.prog}\n```"
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if not actions:
            continue
        if group.title not in ("positional arguments", "options"):
            yield f"**{_escaped(str(group.title))}**"
        for action in actions:
            yield _option(parser, action)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return how the command is called, without its many options."""
    words = [parser.prog]
    optional = 0
    for action in parser._actions:
        if action.option_strings and action.required:
            words.append(f"{action.option_strings[0]} {_value(action)}")
        elif action.option_strings:
            optional += not isinstance(action, argparse._HelpAction)
        else:
            words.append(f"[{_value(action)}]" if action.nargs == "?" else _value(action))
    return " ".join([*words, "[FLAGS]"] if optional else words)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = _value(action)
    title = ", ".join(f"{name} {value}".strip() for name in action.option_strings) or value
    text = (action.help or "") % {**vars(action), "prog": parser.prog}
    return f"````{{option}} {title}\n{_sentence(text)}\n````"


def _value(action: argparse.Action) -> str:
    """Return what stands for the value of an argument; nothing for a switch."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        return "|".join(str(choice) for choice in action.choices)
    name = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    return f"{name} ..." if action.nargs in ("+", "*") else str(name)


def _sentence(text: str) -> str:
    """Return a help text, which has neither capital nor full stop, as Markdown with both."""
    end = "" if text.endswith((".", "…")) else "."
    return f"{_escaped(text[:1].upper() + text[1:])}{end}" if text else ""


def _escaped(text: str) -> str:
    """Return plain text as Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|$])", r"\\\1", text)


def write(docs: Path) -> None:
    """Write the pages of all commands, and remove those of commands that are no more."""
    folder = docs / FOLDER
    folder.mkdir(exist_ok=True)
    texts = {f"{command}.md": page(command) for command in commands()}
    rows = [f"| [`fednnunet {name}`]({name}.md) | {_escaped(summary)} |" for name, (summary, _) in commands().items()]
    toctree = "\n".join(["```{toctree}", ":hidden:", *commands(), "```"])
    texts["index.md"] = "\n".join(
        ["# Command reference", "", "| command | what it does |", "|---|---|", *rows, "", toctree, ""]
    )
    for path in folder.iterdir():
        if path.name not in texts:
            path.unlink()
    for name, text in texts.items():
        path = folder / name
        with suppress(FileNotFoundError):
            if path.read_text("utf-8") == text:
                continue  # Sphinx reads again what is newer than it was
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> ExtensionMetadata:
    """Write the pages before Sphinx looks for any."""
    app.connect("builder-inited", lambda app: write(Path(app.srcdir)))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
