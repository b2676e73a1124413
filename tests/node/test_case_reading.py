"""Reading cases: what is wrong with a file is told as nnU-Net would find it, with the file's name at the site only."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_labels
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.nibabel_reader_writer import NibabelIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO
from skimage import io

from fednnunet.errors import CaseError
from fednnunet.node.case_reading import check_segmentation, read_images, read_segmentation, unexpected_values
from fednnunet.node.dataset import CaseFiles

SPACING = [5.0, 0.5, 0.25]


def _tiff(folder: Path, name: str = "MrSmith", ending: str = ".tif", channels: int = 1) -> CaseFiles:
    folder.mkdir(exist_ok=True)
    images = tuple(str(folder / f"{name}_{channel:04d}{ending}") for channel in range(channels))
    case = CaseFiles(name, images, str(folder / f"{name}_labels{ending}"))
    for path in (*images, case.segmentation):
        tifffile.imwrite(path, np.ones((3, 8, 8), np.uint8), photometric="minisblack")
    for path in case.spacing_files:
        Path(path).write_text(json.dumps({"spacing": SPACING}))
    return case


@pytest.mark.parametrize("ending", [".tif", ".tiff", ".TIF"])
@pytest.mark.parametrize("name", ["a", "a.b_c", "scan-by-hand"])
def test_spacing_files_are_where_nnunet_looks_for_them(ending: str, name: str, tmp_path: Path) -> None:
    case = _tiff(tmp_path, name, ending, channels=2)
    reader = Tiff3DIO()
    assert (
        read_images(reader, case, 2).spacing == tuple(reader.read_images(case.images)[1]["spacing"]) == tuple(SPACING)
    )
    assert read_segmentation(reader, case).spacing == tuple(SPACING)
    assert len(case.files) == 5
    for path in case.spacing_files:
        Path(path).unlink()
    assert read_images(reader, case, 2).spacing == (1, 1, 1)


def test_other_formats_have_no_spacing_files() -> None:
    assert CaseFiles("a", ("a_0000.nii.gz",), "a.nii.gz").spacing_files == ()


def test_what_a_reader_says_of_every_case_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd) -> None:
    for number in range(3):
        case = _tiff(tmp_path, f"case{number}")
        for path in case.spacing_files:
            Path(path).unlink()
        read_segmentation(Tiff3DIO(), case)
    assert capfd.readouterr().out == ""
    assert caplog.text.count("no spacing file found") <= 1  # another test may have let it be said


def _cut(path: str) -> None:
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: len(content) // 2])


def _empty(path: str) -> None:
    Path(path).write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _empty])
@pytest.mark.parametrize(
    ("reader", "ending"),
    [
        *((SimpleITKIO, ending) for ending in (".nii", ".nii.gz", ".mha", ".nrrd")),
        *((NibabelIO, ending) for ending in (".nii", ".nii.gz")),
        *((NaturalImage2DIO, ending) for ending in (".png", ".bmp")),
        (Tiff3DIO, ".tif"),
    ],
)
@pytest.mark.parametrize("part", ["image", "segmentation"])
def test_a_damaged_file_is_named_at_the_site_only(
    damage: Callable[[str], None], reader: type, ending: str, part: str, tmp_path: Path, capfd
) -> None:
    array = np.random.default_rng(0).integers(0, 255, (4, 16, 16)).astype(np.uint8)
    case = CaseFiles("MrSmith", tuple(str(tmp_path / f"MrSmith_{n:04d}{ending}") for n in range(2)), "")
    case = CaseFiles(case.case, case.images, str(tmp_path / f"MrSmith{ending}"))
    for path in case.files[:3]:
        if ending in {".png", ".bmp"}:
            io.imsave(path, array[0], check_contrast=False)
        elif ending == ".tif":
            tifffile.imwrite(path, array, photometric="minisblack")
        else:
            sitk.WriteImage(sitk.GetImageFromArray(array), path, True)
    damaged = case.images[1] if part == "image" else case.segmentation
    damage(damaged)
    with pytest.raises(CaseError) as caught:
        (read_images(reader(), case, 2), read_segmentation(reader(), case))
    said = str(caught.value)
    assert said.startswith("case MrSmith ")
    assert damaged in said
    assert "MrSmith" not in caught.value.shareable
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", *(f'{{"spacing": {sizes}}}' for sizes in ("[1, 2]", '["1", "1", "1"]', "[0, 1, 1]"))],
)
def test_a_spacing_file_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    case = _tiff(tmp_path)
    Path(case.spacing_files[0]).write_text(content)
    with pytest.raises(CaseError, match=r"MrSmith\.json") as caught:
        read_images(Tiff3DIO(), case, 1)
    assert "MrSmith" not in caught.value.shareable


def test_channels_that_do_not_fit_together_are_told_as_that(tmp_path: Path, capfd) -> None:
    case = _tiff(tmp_path, channels=2)
    tifffile.imwrite(case.images[1], np.ones((3, 9, 8), np.uint8), photometric="minisblack")
    with pytest.raises(CaseError, match="different shapes"):
        read_images(Tiff3DIO(), case, 2)
    assert capfd.readouterr().out == ""
    with pytest.raises(CaseError, match=r"has 1 channels, dataset\.json names 2"):
        read_images(Tiff3DIO(), CaseFiles("a", case.images[:1], case.segmentation), 2)


@pytest.mark.parametrize("allowed", [(0, 1), (0, 1, 2, 3), (0, 2, 7), tuple(range(300))])
@pytest.mark.parametrize(
    "value", [0, 1, 2, 7, 8, 255, 256, 300, -1, 0.5, 1.0001, float("nan"), float("inf"), 1e12, -0.0]
)
def test_unexpected_values_are_those_of_nnunet(allowed: tuple[int, ...], value: float, tmp_path: Path) -> None:
    array = np.zeros((1, 3, 4, 5), np.float32)
    array[0, 1, 2, 3] = value

    class Reader:
        def read_seg(self, path: str) -> tuple[np.ndarray, dict[str, object]]:
            return array, {}

    found = unexpected_values(array, allowed)
    assert (not found) == verify_labels("file", Reader, list(allowed))
    np.testing.assert_array_equal(found, [np.float32(value)] if found else [])


def test_what_stands_beside_the_labels_is_told_with_both_remedies() -> None:
    array = np.arange(20, dtype=np.float32).reshape(1, 1, 4, 5) - 1
    case = CaseFiles("MrSmith", ("image",), "/labelsTr/MrSmith.png")
    with pytest.raises(CaseError) as caught:
        check_segmentation(case, array, (0, 1, 2))
    said = str(caught.value)
    assert "values in its segmentation that are not among the labels 0, 1, 2" in said
    assert "(-1, 3, 4, 5, 6, 7, 8, 9, … in /labelsTr/MrSmith.png)" in said
    assert "-1" not in caught.value.shareable
    assert "correct the segmentation, or the labels" in caught.value.shareable
    assert "MrSmith" not in caught.value.shareable


@pytest.mark.parametrize("reader", [SimpleITKIO, NibabelIO])
def test_unusual_but_whole_nifti_files_are_read(reader: type, tmp_path: Path) -> None:
    """ITK does not read NIfTI-2."""
    array = np.random.default_rng(0).integers(0, 255, (4, 16, 16)).astype(np.int16)
    plain = nibabel.Nifti1Image(array, np.eye(4))
    plain.header.set_slope_inter(2.0, 3.0)
    second = nibabel.Nifti2Image(array, np.eye(4))
    for image, name in ((plain, "slope"), (second, "second"))[: 2 if reader is NibabelIO else 1]:
        for ending in (".nii", ".nii.gz"):
            nibabel.save(image, tmp_path / f"{name}{ending}")
    content = (tmp_path / "slope.nii").read_bytes()
    (tmp_path / "members.nii.gz").write_bytes(gzip.compress(content[:500]) + gzip.compress(content[500:]))
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(content + b"rest"))
    for path in tmp_path.iterdir():
        case = CaseFiles(path.name, (str(path),), "")
        np.testing.assert_array_equal(read_images(reader(), case, 1).array, reader().read_images((str(path),))[0])
