"""Whoever follows docs/aggregation.md has a rule that works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.markdown import DOCS, REPOSITORY, blocks, patched

GUIDE = (DOCS / "aggregation.md").read_text("utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which the guide has been followed."""
    copy = tmp_path_factory.mktemp("guide")
    shutil.copytree(REPOSITORY / "fednnunet", copy / "fednnunet", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/weights/__init__.py",
                 "tests/weights/test_aggregation.py"):  # fmt: skip
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, copy / name)
    (new_file,) = re.findall(r"^`(fednnunet/weights/aggregation/\w+\.py)`:$", GUIDE, re.MULTILINE)
    (function,) = blocks(GUIDE, "python")
    (copy / new_file).write_text(function, "utf-8")
    for diff in blocks(GUIDE, "diff"):
        (name,) = re.findall(r"^\+\+\+ b/(\S+)$", diff, re.MULTILINE)
        (copy / name).write_text(patched((copy / name).read_text("utf-8"), diff), "utf-8")
    return copy


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)


def test_the_rule_of_the_guide_is_that_of_exact_arithmetic(changed: Path) -> None:
    done = run(changed, "-m", "pytest", "-v", "-p", "no:cacheprovider", "tests/weights/test_aggregation.py")
    assert done.returncode == 0, done.stdout
    assert re.search(r"exact_arithmetic\S*\[winsorized_mean\] PASSED", done.stdout)


def test_the_rule_of_the_guide_is_accepted_by_the_command_line_and_no_other_is(changed: Path) -> None:
    words = ["train", "301 302 303", "3d_fullres", "0", "--aggregation"]
    script = (
        "import sys; from fednnunet.cli.arguments import parse_run; "
        "print(parse_run(sys.argv[1:]).coordinator.aggregation)"
    )
    assert run(changed, "-c", script, *words, "winsorized_mean").stdout == "winsorized_mean\n"
    refused = run(changed, "-c", script, *words, "winsorised_mean")
    assert refused.returncode == 2
    assert "invalid choice: 'winsorised_mean'" in refused.stderr


def test_the_rule_of_the_guide_has_the_style_of_the_code_around_it(changed: Path) -> None:
    for words in (("check", "."), ("format", "--check", ".")):
        done = run(changed, "-m", "ruff", *words, "--no-cache")
        assert done.returncode == 0, done.stdout + done.stderr
