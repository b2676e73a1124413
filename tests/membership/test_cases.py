"""Who was trained on, and what is refused before anything is predicted."""

import json
from pathlib import Path
from typing import Any

import pytest

from fednnunet.cli.commands import audit_main
from fednnunet.errors import FednnUNetError
from fednnunet.membership.cases import Membership, audited_site
from fednnunet.membership.settings import PrivacyAuditSettings, audit_command
from fednnunet.settings.node import TrainingSettings

CASES = [f"case_{number}" for number in range(5)]
SPLIT = [{"train": CASES[:3], "val": CASES[3:]}, {"train": CASES[2:], "val": CASES[:2]}]


class Site:
    """A dataset with plans, preprocessed cases, a split, and models of two folds; files have names only."""

    def __init__(self, folder: Path) -> None:
        self.raw, self.preprocessed, results = (folder / part / "Dataset001_A" for part in ("raw", "pre", "results"))
        self.model = results / "nnUNetTrainer__nnUNetPlans__2d"
        self.write(self.preprocessed / "splits_final.json", SPLIT)
        configurations = {"2d": {"data_identifier": "data"}, "cascade": {"previous_stage": "2d"}}
        plans = {"plans_name": "nnUNetPlans", "dataset_name": "Dataset001_A", "configurations": configurations}
        content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".nii.gz"}
        for model in (self.model, self.own("alone"), self.model.with_name("nnUNetTrainer__nnUNetPlans__cascade")):
            self.write(model / "plans.json", plans)
            self.write(model / "dataset.json", content)
            for fold in ("0", "1", "all"):
                self.checkpoint(model, fold)
        self.write(self.raw / "dataset.json", content)
        for case in CASES:
            self.write(self.preprocessed / "data" / f"{case}.pkl", "")

    def own(self, name: str) -> Path:
        return self.model.with_name(f"nnUNetTrainer__nnUNetPlans_{name}__2d")

    def checkpoint(self, model: Path, fold: str) -> None:
        self.write(model / f"fold_{fold}" / "checkpoint_final.pth", "")

    def write(self, path: Path, content: Any) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def record(self, model: Path, fold: str, cases: list[str], run: str = "a") -> None:
        (model / f"fold_{fold}" / "federated_run.txt").write_text("a")
        self.write(model / f"fold_{fold}" / "federated_cases.json", {"run": run, "cases": cases})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    for variable, part in (("raw", "raw"), ("preprocessed", "pre"), ("results", "results")):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / part))
    return Site(tmp_path)


def _settings(fold: str = "0", **others: Any) -> PrivacyAuditSettings:
    values = {"dataset": "Dataset001_A", "configuration": "2d", "fold": fold, "device": "cpu", **others}
    return PrivacyAuditSettings(**values)


def _members(fold: str = "0", model: Any = "federated") -> Membership:
    found = audited_site(_settings(fold))
    return found.members(found.models[model], found.models[model].folds[0])


def test_the_models_are_the_federated_one_and_those_of_the_site_that_have_the_fold(site: Site) -> None:
    (site.own("alone") / "fold_1" / "checkpoint_final.pth").unlink()
    site.own("personal").mkdir()
    assert list(audited_site(_settings("0")).models) == ["federated", "alone"]
    assert list(audited_site(_settings("1")).models) == ["federated"]
    every = audited_site(_settings("all"))
    assert {name: model.folds for name, model in every.models.items()} == {"federated": (0, 1)}


def test_the_split_tells_the_cases_of_a_fold(site: Site) -> None:
    assert _members("0") == Membership(tuple(CASES[:3]), tuple(CASES[3:]))
    assert _members("1") == Membership(tuple(CASES[2:]), tuple(CASES[:2]))


def test_the_record_of_a_training_takes_precedence_over_the_split(site: Site) -> None:
    site.record(site.model, "0", [CASES[0], CASES[3], "withdrawn"])
    assert _members("0") == Membership((CASES[0], CASES[3]), (CASES[4],))
    assert _members("0", "alone") == Membership(tuple(CASES[:3]), tuple(CASES[3:]))
    site.record(site.model, "0", CASES[:1], run="of another training")
    assert _members("0") == Membership(tuple(CASES[:3]), tuple(CASES[3:]))


def test_without_a_split_all_cases_are_held_out_that_the_record_does_not_name(site: Site) -> None:
    site.record(site.model, "0", CASES[:2])
    (site.preprocessed / "splits_final.json").unlink()
    assert _members("0") == Membership(tuple(CASES[:2]), tuple(CASES[2:]))


def test_test_cases_are_held_out_where_every_case_trains_or_on_demand(site: Site) -> None:
    for path in ("imagesTs/new_0000.nii.gz", "labelsTs/new.nii.gz", "imagesTs/unlabelled_0000.nii.gz"):
        site.write(site.raw / path, "")
    assert _members("fold_all") == Membership(tuple(CASES), (), ("new",))
    found = audited_site(_settings("0", test_cases=True))
    assert found.members(found.models["federated"], 0) == Membership(tuple(CASES[:3]), tuple(CASES[3:]), ("new",))


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert audit_main(["privacy", *words, "-device", "cpu"]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    return error


def test_what_is_missing_is_told_in_one_sentence(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert "No dataset 'Dataset002_B'" in _refused(capsys, "Dataset002_B", "2d", "0")
    assert "Invalid fold 'x'" in _refused(capsys, "1", "2d", "x")
    assert "fold_7/checkpoint_final.pth: train first" in _refused(capsys, "1", "2d", "7")
    assert "fold_0/other.pth: train first" in _refused(capsys, "1", "2d", "0", "-chk", "other.pth")
    assert "refines what 2d predicts" in _refused(capsys, "1", "cascade", "0")
    assert "no labelled test cases" in _refused(capsys, "1", "2d", "fold_all")
    assert "leave out --test_cases" in _refused(capsys, "1", "2d", "0", "--test_cases")
    assert "leave out --test_cases" in _refused(capsys, "1", "2d", "all", "--test_cases")
    assert "cannot be read as a model" in _refused(capsys, "1", "2d", "0")
    (site.model / "fold_1" / "checkpoint_final.pth").unlink()
    assert "give FOLD 0" in _refused(capsys, "1", "2d", "all")
    (site.preprocessed / "splits_final.json").unlink()
    assert "splits_final.json does not exist" in _refused(capsys, "1", "2d", "0")
    for path in (site.preprocessed / "data").iterdir():
        path.unlink()
    assert "no preprocessed cases" in _refused(capsys, "1", "2d", "0")


def test_a_model_trained_on_all_cases_that_there_are_has_nothing_to_compare(site: Site) -> None:
    site.record(site.model, "0", CASES)
    with pytest.raises(FednnUNetError, match="No case of Dataset001_A is held out from fold 0"):
        _members("0")


@pytest.mark.parametrize(
    ("changes", "command"),
    [
        ({}, "fednnunet audit privacy 301 3d_fullres 0"),
        (
            {"trainer": "T", "device": "cpu", "fold": "all"},
            "fednnunet audit privacy 301 3d_fullres all -tr T -device cpu",
        ),
        ({"fold": "fold_all"}, None),
        ({"configuration": "3d_cascade_fullres"}, None),
        ({"disable_checkpointing": True}, None),
    ],
)
def test_a_training_names_the_command_that_audits_its_model(changes: dict[str, Any], command: str | None) -> None:
    values: dict[str, Any] = {"task": "train", "dataset": "301", "configuration": "3d_fullres", "fold": "0", **changes}
    assert audit_command(TrainingSettings(**values)) == command
