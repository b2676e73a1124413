"""The commands on consoles that are not UTF-8."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(("words", "status"), [("run train --help", 0), ("status ü…Δ", 1), ("run train ü…Δ 2d 0 Δ", 2)])
def test_a_console_gets_a_mark_for_characters_that_it_lacks(words: str, status: int, encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fednnunet", *words.split()],
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict"},
        capture_output=True,
    )
    said = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == status, said
    assert "Traceback" not in said
    assert status == 0 or "?" in said
