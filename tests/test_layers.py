"""Arrows between packages run one way."""

import ast
import re
from pathlib import Path

import fednnunet

PACKAGE = Path(fednnunet.__file__).parent
COMMANDS = {"__main__.py", "server.py", "client.py", "run.py"}


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}


def test_nothing_below_the_commands_imports_them_or_sees_a_namespace() -> None:
    below = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "cli" and path.name not in COMMANDS]
    assert len(below) > 100
    for path in below:
        assert not {name for name in _imports(path) if name.startswith("fednnunet.cli")}, path
        assert "Namespace" not in path.read_text(encoding="utf-8"), path


def test_packages_import_only_from_rows_below_their_own_in_the_picture_of_the_architecture() -> None:
    picture = (PACKAGE.parent / "docs/architecture.md").read_text(encoding="utf-8").partition("```text")[2]
    rows = [re.findall(r"(\w+)/", line[:44]) for line in picture.partition("```")[0].splitlines()]
    row_of = {package: number for number, packages in enumerate(rows) for package in packages}
    assert set(row_of) == {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    for package, row in row_of.items():
        for path in (PACKAGE / package).rglob("*.py"):
            imported = {[*name.split("."), ""][1] for name in _imports(path) if name.startswith("fednnunet")}
            assert not {other for other in imported & set(row_of) if other != package and row_of[other] <= row}, path
