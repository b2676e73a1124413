"""docs/quickstart.md, typed in block by block."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from fednnunet.transport.address import find_free_port
from tests.markdown import DOCS, REPOSITORY, blocks
from tests.system.workspace import ENDS_WITHIN_SECONDS, equal_weights

QUICK_START = blocks((DOCS / "quickstart.md").read_text("utf-8"), "bash")
INSTALLS = "bash install.sh"
"""Blocks with this are not run here, where all is installed already: CI begins with it, in a fresh clone."""


def test_what_installs_is_what_ci_begins_with() -> None:
    assert [INSTALLS in block for block in QUICK_START].count(True) == 1
    first = (REPOSITORY / ".ci" / "run").read_text("utf-8").split('section "')[1]
    assert INSTALLS in first


@pytest.mark.system
def test_every_block_of_the_quick_start_runs_and_ends_with_predictions_and_equal_weights(tmp_path: Path) -> None:
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    status, output = _type_in([block for block in QUICK_START if INSTALLS not in block], folder)
    assert status == 0, output

    federation = folder / "federation"
    images = sorted((federation / "nnUNet_raw" / "Dataset903_HospitalC" / "imagesTs").iterdir())
    assert len(images) == 10
    for image in images:
        prediction = sitk.ReadImage(federation / "predictions" / image.name.replace("_0000", ""))
        assert prediction.GetSize() == sitk.ReadImage(image).GetSize()
        assert set(np.unique(sitk.GetArrayFromImage(prediction))) <= {0, 1, 2}
    for fold, sites in ((0, 3), (1, 2)):
        first, *others = (
            torch.load(path, map_location="cpu", weights_only=False)["network_weights"]  # our own, written just now
            for path in sorted((federation / "nnUNet_results").glob(f"Dataset*/*/fold_{fold}/checkpoint_final.pth"))
        )
        assert len(others) == sites - 1
        assert all(equal_weights(first, other) for other in others)
    assert "all is done" in output  # what `fednnunet status` says of the training by hand
    assert "→ out" in output  # an entry of the audit log


def _type_in(commands: list[str], folder: Path) -> tuple[int, str]:
    """Run blocks of commands in one shell, which ends at the first that fails."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("nnUNet_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "http_proxy": "http://127.0.0.1:9",  # nobody is there, and on this machine nobody is asked
        "https_proxy": "http://127.0.0.1:9",
        "PORT": str(find_free_port("127.0.0.1")),
        "nnUNet_n_proc_DA": "0",
        "nnUNet_def_n_proc": "1",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "200",
    }
    shell = subprocess.Popen(
        ["bash", "-euxo", "pipefail", "-c", "\n".join(commands)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = shell.communicate(timeout=ENDS_WITHIN_SECONDS * len(commands))
    finally:
        if shell.poll() != 0:  # nodes in the background would wait for ever
            os.killpg(shell.pid, signal.SIGKILL)
    return shell.returncode, output
