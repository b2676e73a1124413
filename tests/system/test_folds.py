"""FOLD all means the folds of the split, however many there are, from training to nnU-Net's own commands."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fednnunet.events.events import ModelExported, SitesEvaluated
from tests.system import figures
from tests.system.conftest import SITES
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

FOLDS = int(os.environ.get("FOLDS_OF_TEST", "3"))


def test_all_folds_are_trained_exported_evaluated_and_found_by_nnunet(federation: Workspace, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    site, run_dir = SITES[0], tmp_path / "run"
    workspace.raw.symlink_to(federation.raw)
    shutil.copytree(federation.preprocessed / site, workspace.preprocessed / site)
    cases = sorted(path.stem for path in (workspace.preprocessed / site / "nnUNetPlans_2d").glob("*.pkl"))
    splits = [{"train": [c for c in cases if c not in cases[k::FOLDS]], "val": cases[k::FOLDS]} for k in range(FOLDS)]
    (workspace.preprocessed / site / "splits_final.json").write_text(json.dumps(splits))
    short = ("-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1, "--rounds", 1)
    words = ("-tr", "RecordingTrainer", "--run_dir", run_dir)
    workspace.succeed("run", "train", "901", "2d", "all", *short, *words)
    numbers = [str(fold) for fold in range(FOLDS)]
    assert figures.event_of(run_dir, ModelExported).folds == numbers
    model = workspace.model_folder(site, trainer="RecordingTrainer")
    assert sorted(path.name for path in model.glob("fold_*")) == [f"fold_{number}" for number in numbers]

    output = workspace.succeed(
        "run", "evaluate", "901", "2d", "all", "-device", "cpu", "--disable_tta", "--min_cases", 1, *words
    )
    assert figures.event_of(run_dir, SitesEvaluated).folds == FOLDS
    assert f"folds 0-{FOLDS - 1} together" in output
    assert f"folds 0-{FOLDS - 1} together" in (run_dir / "evaluation_all.md").read_text()
    workspace.nnunet(
        "nnUNetv2_find_best_configuration", 901, "-c", "2d", "-tr", "RecordingTrainer", "-f", *numbers, "-np", 1
    )
    best = json.loads((workspace.results / site / "inference_information.json").read_text())
    assert best["folds"] == list(range(FOLDS))

    audit = ("audit", "privacy", "901", "2d", "all", "-tr", "RecordingTrainer", "-device", "cpu")
    status, output = workspace.fednnunet(*audit)
    assert status == 0, output
    report = json.loads((model / "privacy_audit_all" / "privacy_audit.json").read_text())["models"]["federated"]
    assert report["paired"]
    assert [case["case"] for case in report["cases"]] == [*cases, *cases]  # each was trained on, and held out
    assert report["text"] in output

    status, output = workspace.call("run", "train", "901", "2d", FOLDS, *short, *words)
    assert status == 1
    assert f"Invalid fold {FOLDS}: the split has the folds 0 to {FOLDS - 1}" in output
