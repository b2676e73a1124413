import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from fednnunet.comparison.raw import check_alike, find_sources, free_id, link_dataset, pool
from fednnunet.errors import CaseError, FednnUNetError
from fednnunet.node.dataset import labelled_cases

DESCRIPTION = {"channel_names": {"0": "MRI", "1": "CT"}, "labels": {"background": 0, "organ": 1}, "file_ending": ".png"}


@pytest.fixture(autouse=True)
def raw(tmp_path, monkeypatch):
    folder = tmp_path / "users"
    monkeypatch.setenv("nnUNet_raw", str(folder))
    for name in ("nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    return folder


def write(raw, name, cases, test_cases=(), **changes):
    """Write a dataset of two channels whose files hold their own names."""
    folder = raw / name
    for subset, names in (("Tr", cases), ("Ts", test_cases)):
        for kind in ("images", "labels"):
            (folder / f"{kind}{subset}").mkdir(parents=True)
        for case in names:
            for channel in range(2):
                (folder / f"images{subset}" / f"{case}_{channel:04d}.png").write_text(f"{name} {case} {channel}")
            (folder / f"labels{subset}" / f"{case}.png").write_text(f"{name} {case} labels")
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": len(cases), **changes}))
    (folder / "splits_final.json").write_text("[]")
    return folder


def texts(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def read_listed(cases):
    return {
        case: [Path(path).read_text() for path in (*files["images"], files["label"])] for case, files in cases.items()
    }


def test_a_linked_dataset_has_the_users_files_and_a_split_of_its_own(raw, tmp_path):
    users = write(raw, "Dataset001_A", ["x", "y"], ["z"])
    (source,) = find_sources(["1"])
    splits = [{"train": ["x"], "val": ["y"]}]
    linked = tmp_path / "raw" / "Dataset001_A"
    for _ in range(2):  # the second one replaces the first
        link_dataset(source, linked, splits)
        assert {path.name: path.is_symlink() for path in linked.iterdir()} == {
            **dict.fromkeys(["imagesTr", "labelsTr", "imagesTs", "labelsTs"], True),
            **dict.fromkeys(["dataset.json", "splits_final.json"], False),
        }
    assert json.loads((linked / "splits_final.json").read_text()) == splits
    assert texts(linked / "imagesTr") == texts(users / "imagesTr")
    assert source.test_cases == ["z"]
    assert (users / "splits_final.json").read_text() == "[]"


def test_validation_cases_can_be_the_test_cases(raw, tmp_path):
    write(raw, "Dataset001_A", ["x", "y"], ["z"])
    linked = tmp_path / "raw" / "Dataset001_A"
    link_dataset(find_sources(["1"])[0], linked, None, ["y"])
    assert texts(linked / "imagesTs") == {f"y_000{n}.png": f"Dataset001_A y {n}" for n in range(2)}
    assert texts(linked / "labelsTs") == {"y.png": "Dataset001_A y labels"}
    assert len(texts(linked / "imagesTr")) == 4


def test_cases_are_pooled_under_names_with_their_site(raw, tmp_path):
    write(raw, "Dataset001_A", ["x"])
    write(raw, "Dataset002_A_x", ["x", "y"])
    splits = {"Dataset001_A": [{"train": ["x"], "val": []}], "Dataset002_A_x": [{"train": ["y"], "val": ["x"]}]}
    pooled = tmp_path / "raw" / "Dataset999_Pooled"
    pool(find_sources(["1", "Dataset002_A_x"]), splits, pooled)
    names = {"Dataset001_A_x": ("Dataset001_A", "x")} | {
        f"Dataset002_A_x_{case}": ("Dataset002_A_x", case) for case in "xy"
    }
    content = json.loads((pooled / "dataset.json").read_text())
    assert read_listed(content.pop("dataset")) == {
        name: [*(f"{site} {case} {channel}" for channel in range(2)), f"{site} {case} labels"]
        for name, (site, case) in names.items()
    }
    assert content == {**DESCRIPTION, "numTraining": 3}
    assert json.loads((pooled / "splits_final.json").read_text()) == [
        {"train": ["Dataset001_A_x", "Dataset002_A_x_y"], "val": ["Dataset002_A_x_x"]}
    ]


def test_files_that_dataset_json_lists_are_found_from_everywhere(raw, tmp_path):
    folder = write(raw, "Dataset001_A", [])
    for name in ("scan", "other", "truth"):
        (raw / f"{name}.png").write_text(name)
    listed = {"p1": {"images": ["../scan.png", "../other.png"], "label": "../truth.png"}}
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": 1, "dataset": listed}))
    sources = find_sources(["1"])
    linked, pooled = tmp_path / "raw" / "Dataset001_A", tmp_path / "raw" / "Dataset999_Pooled"
    link_dataset(sources[0], linked, None)
    pool(sources, {"Dataset001_A": None}, pooled)
    assert json.loads((linked / "dataset.json").read_text())["dataset"] == {
        "p1": {"images": [str(raw / "scan.png"), str(raw / "other.png")], "label": str(raw / "truth.png")}
    }
    content = json.loads((pooled / "dataset.json").read_text())
    assert read_listed(content["dataset"]) == {"Dataset001_A_p1": ["scan", "other", "truth"]}
    assert not (pooled / "splits_final.json").exists()


def test_spacing_files_are_linked_with_their_cases(raw, tmp_path):
    folder = write(raw, "Dataset001_A", [], file_ending=".tif", channel_names={"0": "CT"})
    spacing, listed = [5.0, 0.5, 0.25], {}
    for case in ("x", "y"):
        paths = [folder / "imagesTr" / f"{case}_0000.tif", folder / "labelsTr" / f"{case}.tif"]
        for path in paths:
            tifffile.imwrite(path, np.zeros((3, 4, 5), np.uint8), photometric="minisblack")
            (path.parent / f"{case}.json").write_text(json.dumps({"spacing": spacing}))
        listed[case] = {"images": [str(paths[0])], "label": str(paths[1])}
    (folder / "labelsTr" / "y.json").unlink()
    plain = json.loads((folder / "dataset.json").read_text())
    for content in (plain, plain | {"dataset": listed}):
        (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": 2}))
        sources = find_sources(["1"])
        pooled, linked = tmp_path / "raw" / "Dataset999_Pooled", tmp_path / "raw" / "Dataset001_A"
        pool(sources, {"Dataset001_A": None}, pooled)
        link_dataset(sources[0], linked, None, ["x", "y"])
        found = get_filenames_of_train_images_and_targets(str(pooled))
        tested = labelled_cases(linked / "imagesTs", linked / "labelsTs", ".tif")[0]
        cases = [(files["images"], files["label"]) for files in found.values()]
        cases += [(list(case.images), case.segmentation) for case in tested]
        assert len(cases) == 4
        for images, label in cases:
            assert Tiff3DIO().read_images(images)[1]["spacing"] == spacing
            assert Tiff3DIO().read_seg(label)[1]["spacing"] == (spacing if Path(label).name[-5] == "x" else (1, 1, 1))


def test_headers_and_voxels_in_files_of_their_own_stay_together(raw, tmp_path):
    folder = write(raw, "Dataset001_A", [], channel_names={"0": "CT"}, file_ending=".mhd",
                   overwrite_image_reader_writer="SimpleITKIO", numTraining=2)  # fmt: skip
    for number, case in enumerate(("x", "x.y"), 1):
        image = sitk.GetImageFromArray(np.full((3, 4, 5), number, np.uint8))
        for path in (folder / "imagesTr" / f"{case}_0000.mhd", folder / "labelsTr" / f"{case}.mhd"):
            sitk.WriteImage(image, str(path))
            assert path.with_suffix(".raw").exists()
    (source,) = find_sources(["1"])
    linked, pooled = tmp_path / "raw" / "Dataset001_A", tmp_path / "raw" / "Dataset999_Pooled"
    link_dataset(source, linked, None, ["x", "x.y"])
    pool([source], {"Dataset001_A": None}, pooled)
    cases = get_filenames_of_train_images_and_targets(str(pooled))
    for number, case in enumerate(("x", "x.y"), 1):
        tested = {"images": [str(linked / f"imagesTs/{case}_0000.mhd")], "label": str(linked / f"labelsTs/{case}.mhd")}
        for files in (tested, cases[f"Dataset001_A_{case}"]):
            assert (SimpleITKIO().read_images(files["images"])[0] == number).all()
            assert (SimpleITKIO().read_seg(files["label"])[0] == number).all()


def test_a_test_case_that_lacks_a_channel_is_told(raw):
    (write(raw, "Dataset001_A", ["x"], ["y", "z"]) / "imagesTs" / "z_0001.png").unlink()
    with pytest.raises(CaseError, match="case z has 1 of 2 image files"):
        find_sources(["1"])[0].test_cases  # noqa: B018


def test_listed_files_may_have_endings_of_their_own(raw, tmp_path):
    folder = write(raw, "Dataset001_A", [])
    for name in ("scan.PNG", "truth.PNG"):
        (raw / name).write_text(name)
    listed = {"p1": {"images": ["../scan.PNG", "../scan.PNG"], "label": "../truth.PNG"}}
    (folder / "dataset.json").write_text(json.dumps({**DESCRIPTION, "numTraining": 1, "dataset": listed}))
    pooled = tmp_path / "raw" / "Dataset999_Pooled"
    pool(find_sources(["1"]), {"Dataset001_A": None}, pooled)
    found = get_filenames_of_train_images_and_targets(str(pooled))
    assert found == {"Dataset001_A_p1": {"images": [str(raw / "scan.PNG")] * 2, "label": str(raw / "truth.PNG")}}


def test_labelled_test_cases_are_found_whatever_their_channels_are_called(raw):
    folder = write(raw, "Dataset001_A", ["x"], ["z", "unlabelled"])
    (folder / "labelsTs" / "unlabelled.png").unlink()
    (folder / "imagesTs" / "z_0000.png").rename(folder / "imagesTs" / "z_0002.png")
    assert find_sources(["1"])[0].test_cases == ["z"]


@pytest.mark.parametrize(
    ("change", "said"),
    [({"labels": {"background": 0, "lesion": 1}}, "labels"), ({"file_ending": ".tif"}, "file_ending"),
     ({"channel_names": {"0": "CT", "1": "CT"}}, "channels")],
)  # fmt: skip
def test_datasets_that_one_network_cannot_know_are_refused(raw, change, said):
    write(raw, "Dataset001_A", ["x"])
    write(raw, "Dataset002_B", ["x"], **change)
    with pytest.raises(FednnUNetError, match=rf"^Dataset002_B has {said} .*, Dataset001_A has .*: make them equal"):
        check_alike(find_sources(["1", "2"]))


def test_a_dataset_named_twice_is_refused(raw):
    write(raw, "Dataset001_A", ["x"])
    with pytest.raises(FednnUNetError, match="Dataset001_A is listed twice"):
        find_sources(["1", "Dataset001_A"])


def test_the_pooled_dataset_gets_an_id_that_is_not_taken():
    assert free_id([1, 998]) == 999
    assert free_id([999, 998]) == 997
