"""What a node refuses before it connects: each in one sentence that names the remedy."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from fednnunet.cli.arguments import parse_client
from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import data_digest, plans_digest
from fednnunet.node.dataset import CaseFiles, SiteDataset, case_files, find_dataset
from fednnunet.node.hello import planning_hello, training_hello
from fednnunet.node.record import read_record, write_record
from fednnunet.protocol.messages import FederationRecord

SITE = "Dataset901_HospitalA"
_PLANS = {
    "plans_name": "nnUNetPlans",
    "dataset_name": SITE,
    "configurations": {
        "2d": {"data_identifier": "nnUNetPlans_2d", "spacing": [1, 1], "batch_size": 8},
        "2d_bs4": {"inherits_from": "2d", "batch_size": 4},
        "2d_finer": {"inherits_from": "2d", "spacing": [0.5, 0.5]},
        "2d_orphan": {"inherits_from": "nothing"},
        "2d_loop": {"inherits_from": "2d_loop"},
        "3d_fullres": {"data_identifier": "nnUNetPlans_3d_fullres"},
        "3d_cascade_fullres": {"inherits_from": "2d", "previous_stage": "3d_lowres"},
    },
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A site with five raw cases, and what preprocessing would leave: plans, dataset.json, five cases."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable).mkdir()
    write_hospitals(tmp_path / "nnUNet_raw", hospitals=HOSPITALS[:1], training_cases=5, test_cases=1, resolution=0.2)
    preprocessed = tmp_path / "nnUNet_preprocessed" / SITE
    (preprocessed / "nnUNetPlans_2d").mkdir(parents=True)
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(_PLANS))
    content = (tmp_path / "nnUNet_raw" / SITE / "dataset.json").read_text()
    (preprocessed / "dataset.json").write_text(content)
    write_record(
        SiteDataset(SITE),
        "nnUNetPlans",
        FederationRecord(method="FFE", sites=[SITE], cases=5, plans_digest=plans_digest(_PLANS), versions={}),
    )
    (preprocessed / "gt_segmentations").mkdir()
    (preprocessed / "dataset_fingerprint.json").write_text("{}")
    for case in range(5):
        for ending in (".pkl", ".b2nd", "_seg.b2nd"):
            (preprocessed / "nnUNetPlans_2d" / f"case_{case}{ending}").write_text("data")
        (preprocessed / "gt_segmentations" / f"case_{case}.nii.gz").write_text("labels")
    return tmp_path


def _arguments(words: str) -> Any:
    return parse_client(words.split()).node


def test_a_site_that_is_ready_introduces_itself_without_any_case(site: Path) -> None:
    _, planning = planning_hello(_arguments("plan_and_preprocess 901 2d -gpu_memory_target 6"))
    assert (planning.site, planning.cases, planning.image_reader) == (SITE, 5, "SimpleITKIO")
    assert planning.planner is not None
    assert planning.planner.gpu_memory_target == 6
    _, training = training_hello(_arguments(f"train {SITE} 2d fold_all -device cpu"))
    assert (training.site, training.cases, training.fold) == (SITE, 5, "fold_all")
    assert training.plans_digest is not None
    assert "HospitalA_0" not in planning.to_json() + training.to_json()
    assert str(site) not in planning.to_json() + training.to_json()


def _remove(*parts: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda site, _: site.joinpath(*parts).unlink()


def _unset(variable: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    return lambda _, monkeypatch: monkeypatch.delenv(variable)


def _nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the site as it is."""


def _one_case_less(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    next((site / "nnUNet_raw" / SITE / "imagesTr").iterdir()).unlink()


def _no_cases(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (site / "nnUNet_raw" / SITE / "imagesTr").iterdir():
        path.unlink()


def _broken_json(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "nnUNet_raw" / SITE / "dataset.json").write_text("{")


def _second_dataset(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "nnUNet_raw" / "Dataset901_Other").mkdir()


def _few_cases(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "nnUNet_preprocessed" / SITE / "nnUNetPlans_2d" / "case_4.pkl").unlink()


def _channel_one_first(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site / "nnUNet_raw" / SITE / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"channel_names": {"1": "PET", "0": "CT"}}))


def _planner_of_ones_own(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net find any class."""
    monkeypatch.setattr("fednnunet.node.hello.planning_class", lambda *_: object)


def _damage_record(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "nnUNet_preprocessed" / SITE / "federation.json").write_text('{"nnUNetPlans": {}}')


def _preprocessed_only(configuration: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        dataset = SiteDataset(SITE)
        record = read_record(dataset, "nnUNetPlans")
        assert record is not None
        write_record(dataset, "nnUNetPlans", record.model_copy(update={"preprocessed": [configuration]}))

    return change


def _preprocessed_by_the_federation(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the record tell what has shaped the data, which are older than the plans."""
    dataset = SiteDataset(SITE)
    record = read_record(dataset, "nnUNetPlans")
    assert record is not None
    data = {"nnUNetPlans_2d": data_digest(_PLANS, "2d")}
    write_record(dataset, "nnUNetPlans", record.model_copy(update={"preprocessed": ["2d"], "data": data}))
    for path in (dataset.preprocessed / "nnUNetPlans_2d").iterdir():
        os.utime(path, (1, 1))


def _before_the_plans(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the data be older than the plans, with no word on what has shaped them."""
    dataset = SiteDataset(SITE)
    record = read_record(dataset, "nnUNetPlans")
    assert record is not None
    write_record(dataset, "nnUNetPlans", record.model_copy(update={"made": 2.0}))
    for path in (dataset.preprocessed / "nnUNetPlans_2d").iterdir():
        os.utime(path, (1, 1))


def _copy_of_plans(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the plans file, but leave what stands in it."""
    folder = site / "nnUNet_preprocessed" / SITE
    shutil.copy(folder / "nnUNetPlans.json", folder / "Copy.json")


def _plans_of_a_neighbour(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = site / "nnUNet_preprocessed" / SITE / "nnUNetPlans.json"
    path.write_text(json.dumps(_PLANS | {"dataset_name": "Dataset902_HospitalB"}))


def _trained(fold: object) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = site / "nnUNet_results" / SITE / "nnUNetTrainer__nnUNetPlans__2d" / f"fold_{fold}"
        folder.mkdir(parents=True)
        (folder / "checkpoint_final.pth").touch()

    return change


@pytest.mark.parametrize(
    ("words", "damage", "what", "remedy"),
    [
        ("plan_and_preprocess 901", _unset("nnUNet_raw"), "nnUNet_raw is not set", "export nnUNet_raw="),
        (
            "plan_and_preprocess 901",
            _unset("nnUNet_preprocessed"),
            "nnUNet_preprocessed is not set",
            "export nnUNet_preprocessed=",
        ),
        ("plan_and_preprocess 902", _nothing, "No dataset with id 902", "check the id"),
        ("plan_and_preprocess lungs", _nothing, "No dataset 'lungs'", "give its id"),
        ("plan_and_preprocess 901", _second_dataset, "Dataset901_HospitalA, Dataset901_Other", "rename"),
        ("plan_and_preprocess 901", _one_case_less, "4 training cases.*numTraining = 5", 'write "numTraining": 4'),
        ("plan_and_preprocess 901", _no_cases, "no training cases", "imagesTr"),
        ("plan_and_preprocess 901", _broken_json, "is not JSON", "correct it"),
        (
            "plan_and_preprocess 901",
            _remove("nnUNet_raw", SITE, "dataset.json"),
            "dataset.json does not exist",
            "raw format",
        ),
        ("plan_and_preprocess 901", _channel_one_first, "numbers its channels 1, 0", '"0", "1" and so on'),
        (
            "plan_and_preprocess 901 -pl VoxelSpacingPlanner",
            _planner_of_ones_own,
            "VoxelSpacingPlanner may read more",
            "--fingerprint shared-cases",
        ),
        ("extract_fingerprint 901 -fpe OwnExtractor", _planner_of_ones_own, "not of OwnExtractor", "leave -fpe out"),
        ("plan_and_preprocess 901 -pl Nobody", _nothing, "no class 'Nobody'", "correct -pl"),
        ("plan_and_preprocess 901 -fpe Nobody", _nothing, "no class 'Nobody'", "correct -fpe"),
        (
            "plan_and_preprocess 901 -overwrite_target_spacing 1 a 1",
            _nothing,
            "three numbers",
            "-overwrite_target_spacing",
        ),
        ("train 901 2d 0 -device cpu", _unset("nnUNet_results"), "nnUNet_results is not set", "export nnUNet_results="),
        (
            "train 901 2d 0 -device cpu",
            _remove("nnUNet_preprocessed", SITE, "nnUNetPlans.json"),
            "no plans file",
            "plan_and_preprocess",
        ),
        ("train 901 2d 0 -p Other -device cpu", _nothing, "no plans file .*Other.json", "correct -p"),
        ("train 901 2d 0 -device cpu", _damage_record, "federation.json is damaged", "move it away"),
        (
            "train 901 2d 0 -device cpu",
            _preprocessed_only("3d_fullres"),
            "has not preprocessed 2d since its plans",
            "nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c 2d",
        ),
        (
            "train 901 2d_bs4 0 -device cpu",
            _before_the_plans,
            "has not preprocessed 2d_bs4 since its plans",
            "nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c 2d_bs4",
        ),
        (
            "train 901 2d_finer 0 -device cpu",
            _preprocessed_by_the_federation,
            "with other plans than nnUNetPlans",
            "nnUNetv2_preprocess -d 901 -plans_name nnUNetPlans -c 2d_finer",
        ),
        (
            "train 901 4d 0 -device cpu",
            _nothing,
            "no configuration '4d'",
            "choose one of 2d, 2d_bs4, 2d_finer, 2d_loop, 2d_orphan, 3d_cascade_fullres, 3d_fullres",
        ),
        ("train 901 2d_orphan 0 -device cpu", _nothing, "'nothing', from which '2d_orphan' inherits", "choose one of"),
        ("train 901 2d_loop 0 -device cpu", _nothing, "'2d_loop' of .* inherits from itself", "correct inherits_from"),
        ("train 901 2d 0 -p Copy -device cpu", _copy_of_plans, "plans_name nnUNetPlans", "make it Copy"),
        ("train 901 2d 0 -device cpu", _plans_of_a_neighbour, "dataset_name Dataset902", f"make it {SITE}"),
        (
            "train 901 2d 0 -device cpu",
            _remove("nnUNet_preprocessed", SITE, "dataset_fingerprint.json"),
            "no .*dataset_fingerprint.json",
            "nnUNetv2_extract_fingerprint -d 901",
        ),
        (
            "train 901 3d_fullres 0 -device cpu",
            _nothing,
            "no preprocessed data for 3d_fullres",
            "-c 3d_fullres, which leaves the plans",
        ),
        (
            "train 901 3d_cascade_fullres 0 -device cpu",
            _nothing,
            "no prediction of the case case_0 and 4 more",
            "train 3d_lowres with FOLD all",
        ),
        ("train 901 2d 5 -device cpu", _nothing, "Invalid fold 5: the split has the folds 0 to 4", "fold_all"),
        ("train 901 2d 0 -device cpu", _few_cases, "4 cases, too few", "fold_all"),
        (
            "train 901 2d 0 -num_gpus 2 -device cpu",
            _nothing,
            "-num_gpus 2 is not supported yet",
            "leave the flag out",
        ),
        ("train 901 2d 0 -tr Nobody -device cpu", _nothing, "No trainer 'Nobody'", "nnUNet_extTrainer"),
        ("train 901 2d 0 --c --val -device cpu", _nothing, "--c goes with neither", "leave one"),
        (
            "train 901 2d 0 -pretrained_weights none.pth -device cpu",
            _nothing,
            "File none.pth does not exist",
            "correct -pretrained_weights",
        ),
        ("plan_and_preprocess 901 --site [A]", _nothing, r"Invalid site name '\[A\]'", "--site"),
        ("train 901 2d 0 --val_best --disable_checkpointing -device cpu", _nothing, "--val_best needs", "drop one"),
        ("train 901 4d 0 -device tpu", _nothing, "'tpu' is not a device", "cuda, cpu or mps"),
        ("train 901 2d 0 -device cuda:1", _nothing, "'cuda:1' is not a device", "CUDA_VISIBLE_DEVICES=1"),
    ],
)
def test_what_is_wrong_at_a_site_is_told_before_it_connects(
    words: str,
    damage: Callable[[Path, pytest.MonkeyPatch], None],
    what: str,
    remedy: str,
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damage(site, monkeypatch)
    introduce = training_hello if words.startswith("train") else planning_hello
    with pytest.raises(FednnUNetError, match=what) as caught:
        introduce(_arguments(words))
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    ("words", "prepare", "are_own"),
    [
        ("2d 0", _preprocessed_by_the_federation, False),
        ("2d_bs4 0", _preprocessed_by_the_federation, False),
        ("2d 0", _remove("nnUNet_preprocessed", SITE, "federation.json"), True),
    ],
)
def test_what_stock_nnunet_trains_is_taken(
    words: str, prepare: Callable[..., None], are_own: bool, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(site, monkeypatch)
    _, hello = training_hello(_arguments(f"train 901 {words} -device cpu"))
    assert (hello.method, hello.plans_are_own, hello.cases) == ("FFE", are_own, 5)


@pytest.mark.parametrize(
    ("words", "fold", "finished"),
    [
        ("2d 1", 1, ["1"]),
        ("2d all", 3, ["3"]),
        ("2d fold_all", "all", ["all"]),
        ("2d 1 --c", 1, ["1"]),
        ("2d 1", 0, []),
        ("2d 1 --overwrite", 1, []),
        ("2d 1 --val", 1, []),
    ],
)
def test_a_site_tells_which_finished_training_it_does_not_let_go(
    words: str, fold: object, finished: list[str], site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trained(fold)(site, monkeypatch)
    assert training_hello(_arguments(f"train 901 {words} -device cpu"))[1].finished == finished


def test_data_that_nnunets_own_command_has_preprocessed_since_are_taken(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "train 901 2d_finer 0 -device cpu"
    for prepare in (_before_the_plans, _preprocessed_by_the_federation):
        prepare(site, monkeypatch)
        with pytest.raises(FednnUNetError, match="nnUNetv2_preprocess"):
            training_hello(_arguments(words))
        for path in (site / "nnUNet_preprocessed" / SITE / "nnUNetPlans_2d").iterdir():
            path.touch()
        training_hello(_arguments(words))


def test_data_that_other_plans_share_are_known_by_the_last_that_shaped_them(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _preprocessed_by_the_federation(site, monkeypatch)
    dataset = SiteDataset(SITE)
    record = read_record(dataset, "nnUNetPlans")
    assert record is not None
    write_record(dataset, "other", record.model_copy(update={"data": {"nnUNetPlans_2d": "of other spacing"}}))
    with pytest.raises(FednnUNetError, match="with other plans than nnUNetPlans"):
        training_hello(_arguments("train 901 2d 0 -device cpu"))


def test_a_dataset_may_be_called_what_no_site_can(site: Path) -> None:
    raw = site / "nnUNet_raw"
    (raw / SITE).rename(raw / "Dataset905_KiTS[v2]")
    _, hello = planning_hello(_arguments("plan_and_preprocess 905"))
    assert hello.site == "Dataset905_KiTS_v2_"


def test_few_cases_are_enough_for_fold_all_or_with_a_split_of_ones_own(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _few_cases(site, monkeypatch)
    training_hello(_arguments("train 901 2d fold_all -device cpu"))
    splits = [{"train": ["case_0", "case_1"], "val": ["case_2", "case_3"]}]
    (site / "nnUNet_preprocessed" / SITE / "splits_final.json").write_text(json.dumps(splits))
    training_hello(_arguments("train 901 2d 0 -device cpu"))


def test_plans_that_were_changed_are_told_from_those_the_federation_made(site: Path) -> None:
    _, made = training_hello(_arguments("train 901 2d 0 -device cpu"))
    changed = _PLANS | {"image_reader_writer": "changed"}
    (site / "nnUNet_preprocessed" / SITE / "nnUNetPlans.json").write_text(json.dumps(changed))
    _, edited = training_hello(_arguments("train 901 2d 0 -device cpu"))
    assert made.plans_are_as_made
    assert not edited.plans_are_as_made
    assert edited.plans_digest != made.plans_digest


def test_shared_cases_and_planning_alone_allow_any_planner(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _planner_of_ones_own(site, monkeypatch)
    _, shared = planning_hello(_arguments("plan_and_preprocess 901 -pl Own --fingerprint shared-cases"))
    assert (shared.method, shared.fingerprint) == ("FFE", "shared-cases")
    _, alone = planning_hello(_arguments("plan_and_preprocess 901 -pl Own -fpe Own --asym"))
    assert (alone.method, alone.fingerprint) == ("AsymFedAvg", None)


def test_the_cases_are_those_that_nnunet_finds(site: Path) -> None:
    dataset = SiteDataset(SITE)
    for name in ("a_0000.nii.gz.tmp", "c_0000.nii", "notes.txt"):
        (dataset.raw / "imagesTr" / name).touch()
    for image in list((dataset.raw / "imagesTr").glob("*_0000.nii.gz")):
        image.with_name(image.name.replace("_0000.", "_0001.")).touch()
    for channel in (1, 0):
        (dataset.raw / "imagesTr" / f"with.dots_{channel:04d}.nii.gz").touch()
    (dataset.raw / "labelsTr" / "with.dots.nii.gz").touch()
    content = json.loads((dataset.raw / "dataset.json").read_text())
    assert case_files(dataset, None, ".nii.gz", 2) == _cases_of_nnunet(dataset, content)
    listed = {"x": {"images": ["imagesTr/c_0000.nii"], "label": "labelsTr/with.dots.nii.gz"}}
    assert case_files(dataset, listed, ".nii.gz", 2) == _cases_of_nnunet(dataset, content | {"dataset": listed})


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("._HospitalA_000_0000.nii.gz", "is hidden"),
        ("HospitalA_009.nii.gz", "does not end with its channel"),
        ("x_0000.NII.GZ", "does not end with the file_ending .nii.gz"),
        ("unlabelled_0000.nii.gz", "has no .*unlabelled.nii.gz"),
    ],
)
def test_a_file_that_nnunet_would_take_for_something_else_is_refused(name: str, what: str, site: Path) -> None:
    (SiteDataset(SITE).raw / "imagesTr" / name).touch()
    with pytest.raises(FednnUNetError, match=what):
        planning_hello(_arguments("plan_and_preprocess 901"))


def _cases_of_nnunet(dataset: SiteDataset, content: dict[str, Any]) -> list[CaseFiles]:
    found = get_filenames_of_train_images_and_targets(str(dataset.raw), copy.deepcopy(content))
    return [CaseFiles(str(case), tuple(files["images"]), files["label"]) for case, files in found.items()]


def test_without_nnunets_folders_no_dataset_is_looked_for(monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(FednnUNetError, match="Neither nnUNet_raw nor nnUNet_preprocessed is set"):
        find_dataset("511")
