import json

import numpy as np
import pytest
from sklearn.model_selection import KFold

from fednnunet.comparison.splits import SPLITS, site_splits, union
from fednnunet.errors import FednnUNetError

CASES = ["case_b", "case_a", "case_c", "case_e", "case_d", "case_f"]


def write(folder, splits):
    folder.mkdir(exist_ok=True)
    (folder / SPLITS).write_text(json.dumps(splits))
    return folder


def test_without_a_split_the_folds_are_those_that_nnunet_makes(tmp_path):
    splits = site_splits("A", CASES, [tmp_path], "0")
    # what nnUNetTrainer.do_split does: five shuffled folds of the sorted cases, seed 12345
    folds = KFold(5, shuffle=True, random_state=12345).split(sorted(CASES))
    expected = [{"train": np.sort(CASES)[train].tolist(), "val": np.sort(CASES)[val].tolist()} for train, val in folds]
    assert splits == expected


def test_the_first_folder_with_a_split_counts(tmp_path):
    first, second = [{"train": ["case_a"], "val": ["case_b"]}], [{"train": ["case_c"], "val": ["case_d"]}]
    raw, preprocessed = write(tmp_path / "raw", first), write(tmp_path / "preprocessed", second)
    assert site_splits("A", CASES, [raw, preprocessed], "0") == first
    assert site_splits("A", CASES, [tmp_path, preprocessed], "0") == second


def test_too_few_cases_for_five_folds_leave_fold_all_only(tmp_path):
    assert site_splits("A", CASES[:4], [tmp_path], "fold_all") is None
    with pytest.raises(FednnUNetError, match=r"Site A has 4 cases, too few for nnU-Net's 5 folds: .*fold_all"):
        site_splits("A", CASES[:4], [tmp_path], "0")


def test_a_fold_that_the_split_does_not_have_is_refused(tmp_path):
    raw = write(tmp_path / "raw", [{"train": ["case_a"], "val": ["case_b"]}])
    with pytest.raises(FednnUNetError, match="Invalid fold 1: the split has only fold 0"):
        site_splits("A", CASES, [raw], "1")


@pytest.mark.parametrize("content", [{"train": []}, [{"train": []}], 3, ["x"], [], [{"train": ["case_a"], "val": [1]}]])
def test_what_is_no_split_is_refused(tmp_path, content):
    with pytest.raises(FednnUNetError, match="is not a valid split"):
        site_splits("A", CASES, [write(tmp_path / "raw", content)], "0")


def test_a_split_with_a_case_that_is_not_there_is_refused(tmp_path):
    raw = write(tmp_path / "raw", [{"train": ["case_a"], "val": ["lost"]}])
    with pytest.raises(FednnUNetError, match="names the case lost in fold 0, which is not among the 6 existing cases"):
        site_splits("A", CASES, [raw], "0")


def test_the_pooled_folds_are_the_unions_of_the_sites_folds():
    first = [{"train": ["A_1"], "val": ["A_2"]}, {"train": ["A_2"], "val": ["A_1"]}]
    second = [{"train": ["B_1", "B_2"], "val": ["B_3"]}, {"train": ["B_3"], "val": ["B_1"]}, {"train": [], "val": []}]
    assert union({"A": first, "B": second}) == [
        {"train": ["A_1", "B_1", "B_2"], "val": ["A_2", "B_3"]},
        {"train": ["A_2", "B_3"], "val": ["A_1", "B_1"]},
    ]
    assert union({"A": first, "B": None}) is None
