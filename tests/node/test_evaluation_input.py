"""What a node evaluates, and what it refuses to before it connects."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fednnunet.cli.arguments import parse_client
from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.evaluation.prediction import evaluation_name
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.evaluation_input import evaluated_model, results_folder
from fednnunet.node.hello import evaluation_hello
from fednnunet.node.record import write_record
from fednnunet.protocol.messages import FederationRecord

SITE = "Dataset901_HospitalA"
MODEL = "nnUNetTrainer__nnUNetPlans__2d"
_PLANS = {
    "plans_name": "nnUNetPlans",
    "dataset_name": "Dataset901_HospitalA",
    "configurations": {"2d": {}, "3d_cascade_fullres": {"previous_stage": "3d_lowres"}},
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The model folder of a site with three test cases."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    write_hospitals(tmp_path / "nnUNet_raw", hospitals=HOSPITALS[:1], training_cases=1, test_cases=3, resolution=0.2)
    folder = tmp_path / "nnUNet_results" / SITE / MODEL
    for fold in range(5):
        (folder / f"fold_{fold}").mkdir(parents=True)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
    (folder / "plans.json").write_text(json.dumps(_PLANS))
    (folder / "dataset.json").write_text((tmp_path / "nnUNet_raw" / SITE / "dataset.json").read_text())
    record = FederationRecord(method="AsymFedAvg", sites=[SITE], cases=1, plans_digest="a", versions={})
    write_record(SiteDataset(SITE), "nnUNetPlans", record)
    return folder


def _raw(model: Path) -> Path:
    return model.parents[2] / "nnUNet_raw" / SITE


def test_the_cases_are_those_with_labels(model: Path) -> None:
    arguments = parse_client(f"evaluate 901 2d all -device cpu --site A -m {model}".split()).node
    _, hello = evaluation_hello(arguments)
    assert (hello.site, hello.task, hello.cases, hello.fold, hello.method) == ("A", "evaluate", 3, "all", "FFE")
    for label in sorted((_raw(model) / "labelsTs").iterdir())[1:]:
        label.unlink()
    _, hello = evaluation_hello(parse_client(["evaluate", "901", "2d", "0", "-device", "cpu"]).node)
    assert (hello.cases, hello.method) == (1, "AsymFedAvg")
    _, hello = evaluation_hello(parse_client(f"evaluate 901 2d 0 -device cpu -l {model}".split()).node)
    assert hello.cases == 0


def test_results_of_each_fold_checkpoint_and_dataset_have_a_place_of_their_own(model: Path) -> None:
    dataset = SiteDataset(SITE)
    arguments = parse_client(["evaluate", "901", "2d", "all"]).node
    assert results_folder(arguments, dataset) == model / "evaluation_all" / SITE
    assert evaluated_model(arguments, dataset).folds == (0, 1, 2, 3, 4)
    best = parse_client(["evaluate", "901", "2d", "0", "--checkpoint", "checkpoint_best.pth"]).node
    assert results_folder(best, dataset) == model / "evaluation_0_checkpoint_best" / SITE
    elsewhere = parse_client(["evaluate", "901", "2d", "0", "-o", "/out"]).node
    assert results_folder(elsewhere, dataset) == Path("/out") / SITE


def test_what_a_site_has_sent_cannot_lead_out_of_a_folder() -> None:
    assert evaluation_name("0", "../../a b/c.d.pth") == "evaluation_0_c_d"
    with pytest.raises(FednnUNetError, match="Invalid fold"):
        evaluation_name("../0", "checkpoint_final.pth")


def _other_labels(model: Path) -> None:
    content = json.loads((model / "dataset.json").read_text())
    (model / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, "liver": 1}}))


@pytest.mark.parametrize(
    ("words", "damage", "what", "remedy"),
    [
        ("2d fold_all", None, "has no .*fold_all/checkpoint_final.pth", "correct FOLD or --checkpoint"),
        ("2d 0 --checkpoint best", None, "fold_0/best", "correct FOLD or --checkpoint"),
        ("2d 0 -m nowhere", None, "has no .*nowhere/plans.json", "train first"),
        ("3d_fullres 0", None, "no .*__3d_fullres/plans.json", "train first"),
        ("3d_fullres 0 -m {model}", None, "evaluate 3d_fullres, but .* a model of 2d", "correct CONFIGURATION or -m"),
        ("2d 0", _other_labels, "labels .*'liver'", "evaluate another model"),
        ("2d 0 -i nowhere", None, "Folder nowhere does not exist", "correct -i"),
        ("2d 0 -step_size 0", None, "-step_size 0.0", "above 0"),
        ("2d 5", None, "fold_5/checkpoint_final.pth", "correct FOLD"),
    ],
)
def test_what_cannot_be_evaluated_is_told_before_the_node_connects(
    words: str, damage: Callable[[Path], None] | None, what: str, remedy: str, model: Path
) -> None:
    if damage is not None:
        damage(model)
    arguments = parse_client(["evaluate", "901", *words.format(model=model).split(), "-device", "cpu"]).node
    with pytest.raises(FednnUNetError, match=what) as caught:
        evaluation_hello(arguments)
    assert remedy in str(caught.value)


def test_the_cascade_is_refused(model: Path) -> None:
    cascade = model.rename(model.with_name("nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"))
    arguments = parse_client(f"evaluate 901 3d_cascade_fullres 0 -device cpu -m {cascade}".split()).node
    with pytest.raises(FednnUNetError, match="refines what 3d_lowres predicts"):
        evaluation_hello(arguments)


def test_a_case_without_all_of_its_channels_is_not_named_to_others(model: Path) -> None:
    image = next((_raw(model) / "imagesTs").iterdir())
    image.with_name(image.name.replace("_0000", "_0001")).write_bytes(image.read_bytes())
    with pytest.raises(CaseError, match="has 2 of 1 image files") as caught:
        evaluation_hello(parse_client(["evaluate", "901", "2d", "0", "-device", "cpu"]).node)
    assert "HospitalA" not in caught.value.shareable
