"""Arrows between packages run one way."""

import ast
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


def test_settings_know_neither_coordinator_nor_node() -> None:
    above = ("cli", "node", "coordinator", "launcher", "comparison", "demo", "report")
    for path in (PACKAGE / "settings").glob("*.py"):
        assert not {name for name in _imports(path) if name.startswith(tuple(f"fednnunet.{room}" for room in above))}
