"""Consoles that cannot show all characters: every command says what it has to say, with others in their place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fednnunet.cli.commands import commands

_ASCII = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
_CODE = """
import sys
from fednnunet.cli.commands import commands, main
for name in commands():
    try:
        main([name, *sys.argv[1:]])
    except SystemExit as end:
        print(name, "ended with", end.code)
"""


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["train", "Dätäset…", "--no-such-flag"]])
def test_no_command_fails_on_an_ascii_console(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE, *words], capture_output=True, env=os.environ | _ASCII, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr.decode("ascii")
    assert done.stdout.count(b"ended with") == len(commands())
    assert b"Traceback" not in done.stderr
