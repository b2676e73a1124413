"""A case is all files that belong to it."""

import json

import pytest

from fednnunet.node.dataset import SiteDataset, case_files
from fednnunet.node.extraction import Extraction, identity


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    for kind in ("imagesTr", "labelsTr"):
        (tmp_path / "Dataset001_A" / kind).mkdir(parents=True)
    return SiteDataset("Dataset001_A")


def write(dataset, *names):
    for name in names:
        (dataset.raw / name).write_text(name)


def companions(dataset, listed=None, ending=".tif", channels=2):
    return {
        case.case: [path.removeprefix(f"{dataset.raw}/") for path in case.companions]
        for case in case_files(dataset, listed, ending, channels)
    }


def test_what_is_named_like_a_case_belongs_to_it(dataset):
    for case in ("a", "a.b", "ab"):
        write(dataset, f"imagesTr/{case}_0000.tif", f"imagesTr/{case}_0001.tif", f"labelsTr/{case}.tif")
    assert companions(dataset) == {"a": [], "a.b": [], "ab": []}
    write(dataset, "imagesTr/a.json", "labelsTr/a.json", "imagesTr/a_0001.raw", "imagesTr/a.b.json")
    write(dataset, "imagesTr/notes.txt", "imagesTr/c.json")
    assert companions(dataset) == {
        "a": ["imagesTr/a.json", "imagesTr/a_0001.raw", "labelsTr/a.json"],
        "a.b": ["imagesTr/a.b.json"],
        "ab": [],
    }


def test_files_that_dataset_json_lists_have_companions_where_they_are(dataset):
    write(dataset, "imagesTr/scan_0000.tif", "imagesTr/scan.json", "labelsTr/truth.tif", "labelsTr/truth.json")
    listed = {"p": {"images": ["imagesTr/scan_0000.tif"], "label": "labelsTr/truth.tif"}}
    assert companions(dataset, listed) == {"p": ["imagesTr/scan.json", "labelsTr/truth.json"]}


def test_a_spacing_file_that_comes_changes_or_goes_makes_the_measurement_another_one(dataset):
    def state(labels=(0, 1)):
        return identity(case_files(dataset, None, ".tif", 1), Extraction("Tiff3DIO", 1, 300, labels))

    write(dataset, "imagesTr/a_0000.tif", "labelsTr/a.tif")
    seen, path = [state()], dataset.raw / "imagesTr" / "a.json"
    for spacing in ([1, 1, 1], [2, 1, 1.5]):
        path.write_text(json.dumps({"spacing": spacing}))
        seen.append(state())
    assert len({*seen}) == 3
    path.unlink()
    assert state() == seen[0]
    assert state(labels=(0, 1, 2)) != seen[0]
