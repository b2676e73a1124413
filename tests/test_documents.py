"""What the documents claim is there is there."""

import argparse
import importlib.util
import itertools
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from fednnunet.cli.commands import commands
from fednnunet.protocol.messages import TASKS
from tests.markdown import DOCS, REPOSITORY, blocks, prose

_TESTS = REPOSITORY / "tests"


def test_every_row_of_the_threat_model_has_a_test_and_every_such_test_a_row() -> None:
    _, *table = [line for line in (REPOSITORY / "SECURITY.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    verified = [re.findall(r"`((?:[a-z_/]+\.py::)?[a-z_]+)`", line.rstrip(" |").rpartition(" | ")[2]) for line in table]
    assert all(verified)
    rows, elsewhere = set(), set()
    for name in itertools.chain.from_iterable(verified):
        (elsewhere if "::" in name else rows).add(name)
    assert rows == _tests_in(_TESTS / "system" / "test_threat_model.py")
    assert [name for name in elsewhere if name.split("::")[1] not in _tests_in(_TESTS / name.split("::")[0])] == []


def _tests_in(file: Path) -> set[str]:
    return set(re.findall(r"^def test_(\w+)\(", file.read_text("utf-8"), re.MULTILINE))


def test_every_path_that_the_threat_model_names_exists() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    paths = set(re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py|/))`", text))
    paths.discard("tests/system/test_threat_model.py")
    assert len(paths) > 15
    assert [path for path in paths if not (REPOSITORY / "fednnunet" / path).exists()] == []


PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.glob("*.md")])
_LINK = re.compile(r"\]\((?!\w+:)([^()\s]+)\)")
_FLAG = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    for link in _LINK.findall(prose(page.read_text("utf-8"))):
        address, _, anchor = link.partition("#")
        target = page.parent / address if address else page
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


def test_every_page_of_the_site_stands_in_its_contents() -> None:
    contents = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text("utf-8"), re.DOTALL)
    listed = [line for part in contents for line in part.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == sorted({"cli/index"} | {page.stem for page in DOCS.glob("*.md")} - {"index"})


def _options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for action in parser._actions for option in action.option_strings}


@pytest.fixture(scope="module")
def parsers(command_reference: ModuleType) -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands, tasks and subcommands, by the words with which a command line begins."""
    found = {}
    for command in commands():
        for parser in command_reference.parsers(command).values():
            found.update({each.prog: each for each in command_reference.with_subcommands(parser)})
    return found


@pytest.fixture(scope="module")
def command_reference() -> ModuleType:
    """The Sphinx extension that writes the command reference."""
    return _extension("command_reference")


def _extension(name: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(name, DOCS / "_extensions" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_that_is_named_in_the_text_is_one_of_a_command(
    page: Path, parsers: dict[str, argparse.ArgumentParser]
) -> None:
    installer = set(
        re.findall(r"^\s+(--[a-z-]+)(?:=\*)?\)", (REPOSITORY / "install.sh").read_text("utf-8"), re.MULTILINE)
    )
    there = installer.union(*(_options(parser) for parser in parsers.values()))
    spans = re.findall(r"`([^`\n]+)`", prose(page.read_text("utf-8")))
    ours = [span for span in spans if re.match(r"-|(python )?fednnunet", span)]
    assert {flag for span in ours for flag in _FLAG.findall(span)} <= there


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_line_has_flags_of_its_own_command(
    page: Path, parsers: dict[str, argparse.ArgumentParser]
) -> None:
    shell = "\n".join(blocks(page.read_text("utf-8"), "bash")).replace("\\\n", " ")
    for line in re.findall(r"^\s*(?:python )?fednnunet(?:[ /]).*$", shell, re.MULTILINE):
        words = shlex.split(re.sub(r"^\s*(?:python fednnunet/(\w+)\.py)", r"fednnunet \1", line), comments=True)
        words = words[: words.index(">")] if ">" in words else words
        begins = [" ".join(words[:length]) for length in (3, 2) if " ".join(words[:length]) in parsers]
        if words[1:] in (["--help"], ["run", "TASK", "ID ID ID", "CONFIGURATION", "FOLD"]):
            continue
        assert begins, line
        used = {word for word in words if _FLAG.fullmatch(word)}
        assert used <= _options(parsers[begins[0]]), line


def test_the_reference_has_every_command_task_and_subcommand_with_all_its_flags(
    command_reference: ModuleType, parsers: dict[str, argparse.ArgumentParser]
) -> None:
    assert {f"fednnunet {command} {task}" for command in ("server", "client", "run") for task in TASKS} <= set(parsers)
    assert {"fednnunet status", "fednnunet audit verify", "fednnunet policy approve"} <= set(parsers)
    for command in commands():
        page = command_reference.page(command)
        for prog, parser in parsers.items():
            if prog.split()[1] == command:
                (section,) = re.findall(rf"```{{program}} {prog}\n(.*?)(?=```{{program}}|\Z)", page, re.DOTALL)
                told = {
                    word for title in re.findall(r"\{option\} (.*)", section) for word in re.split(r"[ ,|]+", title)
                }
                assert _options(parser) - {"-h", "--help"} <= told


def test_links_of_the_repository_become_links_of_the_site() -> None:
    page_text = _extension("repository_links").page_text
    assert "[SECURITY.md](security.md#not-covered)" in page_text(
        "deployment", "[SECURITY.md](../SECURITY.md#not-covered)"
    )
    assert page_text("deployment", "[tasks](../README.md#tasks)") == "[tasks](index.md#tasks)"
    assert page_text("deployment", "[a file](../install.sh), [elsewhere](https://example.org)") == (
        "a file, [elsewhere](https://example.org)"
    )
    security = page_text("security", "<!-- contents -->")
    assert "(deployment.md#14-lost-or-stolen-files)" in security
    assert "(#not-covered)" in security
