"""A folder with nnU-Net's three folders in it, and the real commands run there."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[2]
ENDS_WITHIN_SECONDS = 600
"""A bound for hanging commands, far from what any of them takes."""


@dataclass(frozen=True)
class Workspace:
    """The place of one federation."""

    folder: Path
    results_name: str = "nnUNet_results"

    @property
    def raw(self) -> Path:
        return self.folder / "nnUNet_raw"

    @property
    def preprocessed(self) -> Path:
        return self.folder / "nnUNet_preprocessed"

    @property
    def results(self) -> Path:
        return self.folder / self.results_name

    @property
    def environment(self) -> dict[str, str]:
        """One core per process, and augmentation inside of it, where it can be deterministic."""
        return {
            **os.environ,
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.preprocessed),
            "nnUNet_results": str(self.results),
            "nnUNet_extTrainer": str(REPOSITORY / "tests" / "trainers"),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def start(self, script: str, *words: object) -> "subprocess.Popen[str]":
        """Start ``python fednnunet/SCRIPT.py WORDS``."""
        return self._start([sys.executable, str(REPOSITORY / "fednnunet" / f"{script}.py")], *words)

    def start_fednnunet(self, *words: object) -> "subprocess.Popen[str]":
        """Start ``fednnunet WORDS``."""
        return self._start([sys.executable, "-m", "fednnunet"], *words)

    def _start(self, command: list[str], *words: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [*command, *map(str, words)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def call(self, script: str, *words: object) -> tuple[int, str]:
        """Run ``python fednnunet/SCRIPT.py WORDS`` and return exit status and output, one line per line."""
        return finish(self.start(script, *words))

    def succeed(self, script: str, *words: object) -> str:
        """Run a command that must succeed, and return its output."""
        status, output = self.call(script, *words)
        assert status == 0, output
        return output

    def fednnunet(self, *words: object) -> tuple[int, str]:
        """Run ``fednnunet WORDS`` and return exit status and output."""
        return finish(self.start_fednnunet(*words))

    def nnunet(self, command: str, *words: object, **variables: str) -> None:
        """Run one of nnU-Net's own commands, with further environment variables."""
        program = Path(sys.executable).with_name(command)
        done = subprocess.run(
            [program, *map(str, words)],
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=ENDS_WITHIN_SECONDS,
            cwd=self.folder,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def json(self, *parts: str) -> Any:
        return json.loads(self.preprocessed.joinpath(*parts).read_text())

    def model_folder(self, dataset: str, configuration: str = "2d", trainer: str = "nnUNetTrainer") -> Path:
        return self.results / dataset / f"{trainer}__nnUNetPlans__{configuration}"

    def checkpoint(self, dataset: str, fold: object = 0, **where: str) -> dict[str, Any]:
        path = self.model_folder(dataset, **where) / f"fold_{fold}" / "checkpoint_final.pth"
        return torch.load(path, map_location="cpu", weights_only=False)  # our own file, written a moment ago


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Wait for a command and return its exit status and its output, without colours."""
    try:
        output, _ = process.communicate(timeout=ENDS_WITHIN_SECONDS)
    finally:
        process.kill()
    return process.returncode, re.sub(r"\x1b\[[0-9;]*m", "", output)


def equal_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether two state dicts hold the same tensors, bit for bit."""
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)
