"""examples/demo.ipynb, cell by cell."""

import json
import subprocess
import sys
from pathlib import Path

from tests.markdown import REPOSITORY

NOTEBOOK = json.loads((REPOSITORY / "examples" / "demo.ipynb").read_text("utf-8"))
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_runs_from_data_to_picture(tmp_path: Path) -> None:
    # as in a notebook, the main module has no file, which processes that are spawned would run again
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(CELLS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rounds = [line for line in done.stdout.splitlines() if line.startswith("round ")]
    assert [line.partition(":")[0] for line in rounds] == [f"round {number} of 6" for number in range(1, 7)]
    for name in ("curves.png", "picture.png"):
        assert (tmp_path / "federation" / name).read_bytes().startswith(b"\x89PNG")


def test_the_notebook_is_kept_without_output() -> None:
    for cell in NOTEBOOK["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
