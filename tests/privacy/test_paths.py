"""Sentences that leave a site say what is wrong, and not where its files are."""

from pathlib import Path

import pytest

from fednnunet.privacy.paths import without_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0}/dataset.json is not JSON: correct it.", "dataset.json is not JSON: correct it."),
        ("{0}/imagesTr/Mr X_0000.nii.gz does not end with .png", "a path of this site does not end with .png"),
        ("{0}/gone/Mr X.b2nd is not there: preprocess.", "a path of this site is not there: preprocess."),
        ("There is no file {0}/Mr is gone.pth: correct -x.", "There is no file a path of this site: correct -x."),
        ("{0}/gone/Mr X.json contains no cases", "a path of this site contains no cases"),
        ("{0}/gone/Mr X already exists", "a path of this site already exists"),
        ("'{0}' and {0}/b/nnUNetPlans.json differ", "'a path of this site' and nnUNetPlans.json differ"),
        ("(see {0}/imagesTr): do", "(see a path of this site): do"),
        ("OSError: No file '/nowhere/of ours/x'", "OSError: No file 'a path of this site'"),
        ("read /pacs/Smith and Jones/x.nii", "read a path of this site"),
        (r"D:\Scans\Mr X\a.nii: correct", "a path of this site: correct"),
        (r"no \\pacs01\radiology share", "no a path of this site"),
        ("~/scans, ~smith/scans", "a path of this site, a path of this site"),
        ("file:///srv/scans/a", "a path of this site"),
        ("raw data/of ours/dataset.json has no labels", "dataset.json has no labels"),
        ("case_1.nii has 3/4 of it and/or 5 mm/s (1:2)", "case_1.nii has 3/4 of it and/or 5 mm/s (1:2)"),
        ("splits_final.json is / was", "splits_final.json is / was"),
    ],
)  # fmt: skip
def test_no_path_is_left(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "St Mary's, ward 3: scans"
    (site / "imagesTr").mkdir(parents=True)
    (site / "imagesTr" / "Mr X_0000.nii.gz").touch()
    (site / "dataset.json").touch()
    monkeypatch.setenv("nnUNet_preprocessed", "raw data/of ours")
    assert without_paths(text.format(site)) == expected


def test_every_folder_that_a_variable_names_is_left_out_though_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_raw", "/srv/Dr. O'Neill, scans/")
    assert without_paths("There is /srv/Dr. O'Neill, scans: no") == "There is a path of this site: no"
    assert without_paths("/srv/Dr. O'Neill, scans/Dataset001_A is new") == "a path of this site is new"
