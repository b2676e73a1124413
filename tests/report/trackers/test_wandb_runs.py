"""Runs of Weights & Biases, with a stand-in for its package and with the package itself, offline."""

import socket
from pathlib import Path
from typing import Any

import pytest

from tests.report.trackers.test_trackers import VALIDATED, begun, completed, follow

wandb = pytest.importorskip("wandb")


class FakeRun:
    """A run as the server knows it: each step once, and no step before the last one."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.words = words
        self.id = str(words["id"] or "made by wandb")
        self.history: dict[int, dict[str, float]] = {}
        self.summary: dict[str, float] = {}
        self.is_finished = False

    @property
    def step(self) -> int:
        return max(self.history, default=-1) + 1

    def log(self, metrics: dict[str, float], step: int) -> None:
        assert step not in self.history
        self.history[step] = metrics
        self.summary.update(metrics)

    def finish(self) -> None:
        self.is_finished = True


def test_a_training_that_is_continued_goes_on_in_its_run_and_sends_no_round_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[FakeRun] = []

    def init(**words: Any) -> FakeRun:
        known = next((run for run in runs if run.id == words["id"]), None)
        if known is not None:
            known.words = words
            return known
        runs.append(FakeRun(words))
        return runs[-1]

    monkeypatch.setattr("wandb.init", init)
    follow(tmp_path, begun(), completed(1), completed(2), wandb="hospitals")
    (run,) = runs
    assert run.words["resume"] is None
    assert run.is_finished
    follow(tmp_path, begun(first_round=2), completed(2, 0.25), completed(3, 0.75), VALIDATED, wandb="hospitals")
    assert runs == [run]
    assert (run.words["project"], run.words["resume"]) == ("hospitals", "allow")
    assert {step: metrics["pseudo_dice/Hospital A"] for step, metrics in run.history.items()} == {
        1: 0.5,
        2: 0.5,
        3: 0.75,
    }
    assert run.summary["validation_dice/A"] == 0.75


def test_offline_nothing_is_kept_but_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "machine-of-hospital")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    folder = tmp_path / "run"
    follow(folder, begun(), completed(1), begun("1"), completed(1), wandb="hospitals")
    wandb.teardown()  # as at the end of a process: only then is everything on the disk
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert {path.stem for path in files} == {
        f"run-{(folder / f'fold_{fold}' / 'wandb_run').read_text().strip()}" for fold in (0, 1)
    }
    for path in files:
        content = path.read_bytes()
        assert b"pseudo_dice/Hospital A" in content
        for private in ("machine-of-hospital", str(Path.cwd()), f"{Path.home()}/"):
            assert private.encode() not in content
    assert not list(folder.glob("wandb/offline-run-*/files/*"))
