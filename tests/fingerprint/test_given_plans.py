"""Plans that a federation is given: read, checked, and moved to its datasets as nnU-Net does it."""

import json
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.experiment_planning.plans_for_pretraining import move_plans_between_datasets as stock

from fednnunet.coordinator.given_plans import check_fits
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.given_plans import moved, read_plans
from fednnunet.fingerprint.plans import plans_digest
from fednnunet.protocol.messages import Hello, PlannerOptions
from tests.fingerprint.example_plans import PLANS

HELLO = Hello(
    site="A", task="plan_and_preprocess", method="FFE", cases=5, versions={}, labels={"background": 0},
    channels=dict.fromkeys(PLANS["foreground_intensity_properties_per_channel"], "CT"), fingerprint="exact",
    planner=PlannerOptions(planner="ExperimentPlanner"), image_reader="NibabelIO",
)  # fmt: skip


@pytest.mark.parametrize("name", [None, "pretrained"])
def test_plans_are_moved_as_nnunet_moves_them(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("raw/Dataset002_B/imagesTr", "preprocessed/Dataset001_A", "preprocessed/Dataset002_B"):
        (tmp_path / folder).mkdir(parents=True)
    content = {"numTraining": 1, "file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO"}
    (tmp_path / "raw/Dataset002_B/dataset.json").write_text(json.dumps(content))
    (tmp_path / "raw/Dataset002_B/imagesTr/x_0000.nii.gz").touch()
    given = {**PLANS, "dataset_name": "Dataset001_A"}
    given["configurations"] = given["configurations"] | {"own": {"inherits_from": "2d", "data_identifier": "odd"}}
    source = tmp_path / "preprocessed/Dataset001_A" / f"{PLANS['plans_name']}.json"
    source.write_text(json.dumps(given))
    monkeypatch.setattr(stock, "nnUNet_raw", str(tmp_path / "raw"))
    monkeypatch.setattr(stock, "nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    monkeypatch.setattr(stock, "maybe_convert_to_dataset_name", lambda name: name)
    stock.move_plans_between_datasets("Dataset001_A", "Dataset002_B", PLANS["plans_name"], name)
    theirs = tmp_path / "preprocessed/Dataset002_B" / f"{name or PLANS['plans_name']}.json"
    assert plans_digest(moved(read_plans(source), name, "NibabelIO")) == plans_digest(json.loads(theirs.read_text()))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "plans.json does not exist: correct --plans"),
        ("{", "is not JSON"),
        ("[1]", "not a JSON object"),
        ('{"labels": {}, "numTraining": 3}', 'has no "configurations"'),
        (json.dumps({**PLANS, "configurations": {"2d": 3}}), "has 3 as configuration"),
        (json.dumps({**PLANS, "plans_name": "../evil"}), "plans_name"),
    ],
)
def test_what_are_no_plans_is_told_at_once(text: str | None, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(FednnUNetError, match=reason) as caught:
        read_plans(file)
    assert "plans.json" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"planner": PlannerOptions(planner="nnUNetPlannerResEncM")}, "-pl nnUNetPlannerResEncM, which has no effect"),
        ({"planner": PlannerOptions(planner="ExperimentPlanner", gpu_memory_target=8)}, "-gpu_memory_target 8.0, wh"),
        ({"planner": PlannerOptions(planner="ExperimentPlanner", preprocessor="Own")}, "-preprocessor_name Own, which"),
        ({"fingerprint": "shared-cases"}, "--fingerprint shared-cases, which has no effect"),
        ({"method": "AsymFedAvg", "fingerprint": None}, "--asym, which has no effect"),
        ({"channels": {"0": "CT", "1": "PET", "2": "MRI"}}, "channels CT, PET, MRI .* given plans are for"),
    ],
)
def test_a_site_for_which_given_plans_are_not_meant_is_told_what_does_not_fit(
    changes: dict[str, Any], reason: str
) -> None:
    check_fits(PLANS, HELLO)
    named = PlannerOptions(planner="ExperimentPlanner", plans_name="pretrained")
    check_fits(PLANS, HELLO.model_copy(update={"planner": named}))
    with pytest.raises(FednnUNetError, match=reason):
        check_fits(PLANS, HELLO.model_copy(update=changes))
