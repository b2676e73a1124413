"""What the documents claim is there is there."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def test_every_row_of_the_threat_model_has_a_test_and_every_such_test_a_row() -> None:
    table = [line for line in (REPOSITORY / "SECURITY.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    rows = {match[1] for line in table if (match := re.search(r"\| `([a-z_]+)` \|$", line))}
    tests = (REPOSITORY / "tests" / "system" / "test_threat_model.py").read_text("utf-8")
    assert rows == set(re.findall(r"^def test_(\w+)\(", tests, re.MULTILINE))
    assert len(rows) == len(table) - 1  # but for the title


def test_every_path_that_the_threat_model_names_exists() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    paths = set(re.findall(r"`([a-z_]+/[a-z_/]+(?:\.py|/))`", text))
    paths.discard("tests/system/test_threat_model.py")
    assert len(paths) > 15
    assert [path for path in paths if not (REPOSITORY / "fednnunet" / path).exists()] == []
