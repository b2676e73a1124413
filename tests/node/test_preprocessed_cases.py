"""Preprocessed cases and the split, held against each other before a round."""

import json

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.preprocessed_cases import check_cases, check_previous_stage, find_preprocessed
from fednnunet.node.splits import split_of_nnunet

CASES = [f"1.2.{number}" for number in range(10)]


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    dataset = SiteDataset("Dataset001_A")
    for folder in ("data", "gt_segmentations"):
        (dataset.preprocessed / folder).mkdir(parents=True)
    for case in CASES:
        for ending in (".pkl", ".b2nd", "_seg.b2nd"):
            (dataset.preprocessed / "data" / f"{case}{ending}").write_text("data")
        (dataset.preprocessed / "gt_segmentations" / f"{case}.nii.gz").write_text("labels")
    return dataset


def checked(dataset, fold="0"):
    return check_cases(dataset, dataset.preprocessed / "data", fold, ".nii.gz", "preprocess again")


def split(dataset, folds):
    (dataset.preprocessed / "splits_final.json").write_text(json.dumps(folds))


def leave_one_out(cases):
    return [{"train": [c for c in cases if c != out], "val": [out]} for out in cases]


def test_without_a_file_there_are_nnunets_five_folds_and_names_keep_their_dots(site):
    assert find_preprocessed(site.preprocessed / "data") == CASES
    assert checked(site) == checked(site, "all") == 5
    assert checked(site, "fold_all") is None
    with pytest.raises(FednnUNetError, match="Invalid fold 5: the split has the folds 0 to 4"):
        checked(site, "5")


@pytest.mark.parametrize("number", [1, 3, 7, 10])
def test_the_folds_are_those_of_the_file(site, number):
    split(site, leave_one_out(CASES)[:number])
    assert checked(site, str(number - 1)) == checked(site, "all") == number
    with pytest.raises(FednnUNetError, match=f"splits_final.json: Invalid fold {number}"):
        checked(site, str(number))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ('[{"train": ["1.2.0"], "val": ["gone"]}]', "names the case gone in fold 0, which is not among the 10"),
        ('[{"train": ["1.2.0"], "val": []}]', "no validation cases in fold 0"),
        ('[{"train": [], "val": ["1.2.0"]}]', "no training cases in fold 0"),
        ("[{", "is not JSON"),
        ("[]", "is not a valid split"),
        ("{}", "is not a valid split"),
        ("[1]", "is not a valid split"),
    ],
)
def test_a_split_that_does_not_fit_is_told_with_its_file_and_remedy(site, content, what):
    (site.preprocessed / "splits_final.json").write_text(content)
    with pytest.raises(FednnUNetError, match=f"splits_final.json .*{what}.*delete it"):
        checked(site)
    checked(site, "fold_all")


def test_a_split_that_nnunet_made_of_fewer_cases_is_refused_and_one_of_a_user_is_warned_of(site, caplog):
    split(site, split_of_nnunet(CASES[:6]))
    with pytest.raises(FednnUNetError, match=r"no fold with the case 1.2.6 and 3 others.*created it for fewer than 10"):
        checked(site)
    split(site, leave_one_out(CASES[:9]))
    assert checked(site) == 9
    assert "no fold with the case 1.2.9: they neither train nor validate" in caplog.text


@pytest.mark.parametrize("name", ["1.2.3.b2nd", "1.2.3_seg.b2nd"])
@pytest.mark.parametrize("how", ["gone", "empty"])
def test_a_file_of_a_case_that_is_gone_or_empty_is_told(site, name, how):
    path = site.preprocessed / "data" / name
    path.unlink() if how == "gone" else path.write_text("")
    with pytest.raises(FednnUNetError, match=f"{name} is (missing|empty): preprocess again"):
        checked(site)


def test_what_the_validation_after_the_last_round_needs_is_looked_for_before_the_first(site):
    val = split_of_nnunet(CASES)[2]["val"]
    (site.preprocessed / "gt_segmentations" / f"{val[0]}.nii.gz").unlink()
    assert checked(site, "1") == 5
    for fold in ("2", "all", "fold_all"):
        with pytest.raises(FednnUNetError, match=f"no segmentation {val[0]}.nii.gz"):
            checked(site, fold)


def test_the_cascade_needs_a_prediction_of_every_case(tmp_path):
    (tmp_path / "1.2.b2nd").write_text("data")
    (tmp_path / "1.3.npz").write_text("data")
    check_previous_stage(tmp_path, ["1.2", "1.3"], "train 3d_lowres")
    with pytest.raises(FednnUNetError, match=r"no prediction of the case 1\.4: train 3d_lowres"):
        check_previous_stage(tmp_path, ["1.2", "1.4"], "train 3d_lowres")
