"""Distances are in millimetres of the image, as nnU-Net sees it, whatever the labels' files say."""

import json
import logging

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from fednnunet.background import Tracker
from fednnunet.cli.arguments import parse_client
from fednnunet.errors import CaseError
from fednnunet.node import evaluating
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.evaluating import EvaluationClient
from fednnunet.node.site_client import Work
from fednnunet.protocol.conversation import Question
from fednnunet.protocol.messages import EvaluationReport, EvaluationRequest

SPACING = (5.0, 0.5, 0.25)
"""Of the images, by axis."""


class Shifting:
    """A predictor that finds the truth one voxel further along the first axis."""

    kind = SimpleITKIO

    def __init__(self, model, device, log, **flags):
        pass

    @property
    def reader(self):
        return self.kind()

    def predict(self, images, output):
        image, properties = self.reader.read_images(images)
        shifted = np.roll(image[0] > 0, 1, axis=0).astype(np.uint8)
        path = output.with_name(output.name + (".nii.gz" if self.kind is SimpleITKIO else ".tif"))
        self.reader.write_seg(shifted, str(path), properties)
        return path


@pytest.fixture
def site(tmp_path, monkeypatch):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    folder = tmp_path / "nnUNet_raw" / "Dataset001_A"
    for kind in ("imagesTs", "labelsTs"):
        (folder / kind).mkdir(parents=True)
    monkeypatch.setattr(evaluating, "Predictor", Shifting)
    return folder


def box():
    array = np.zeros((6, 8, 8), np.uint8)
    array[1:3, 2:6, 2:6] = 1
    return array


def describe(site, ending):
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "organ": 1}, "numTraining": 0}
    (site / "dataset.json").write_text(json.dumps({**content, "file_ending": ending}))


def write_nifti(path, spacing):
    image = sitk.GetImageFromArray(box())
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))


def write_tiff(path, spacing):
    tifffile.imwrite(path, box())
    if spacing is not None:
        stem = path.name.removesuffix(".tif").removesuffix("_0000")
        path.with_name(f"{stem}.json").write_text(json.dumps({"spacing": spacing}))


def evaluate():
    arguments = parse_client(["evaluate", "1", "3d_fullres", "0", "-device", "cpu", "--min_cases", "1"]).node
    client = EvaluationClient(arguments, SiteDataset("Dataset001_A"), None)
    request = EvaluationRequest(nsd_tolerance=None)
    return client._test(Work(Question.of("test", request), Tracker())).read(EvaluationReport)


@pytest.mark.parametrize("of_labels", [SPACING, (10.0, 10.0, 10.0)])
def test_a_label_header_with_another_spacing_changes_no_distance(of_labels, site, caplog):
    describe(site, ".nii.gz")
    for case in ("x", "y.z"):
        write_nifti(site / "imagesTs" / f"{case}_0000.nii.gz", SPACING)
        write_nifti(site / "labelsTs" / f"{case}.nii.gz", of_labels)
    with caplog.at_level(logging.WARNING):
        report = evaluate()
    assert report.labels["organ"].hd95.mean == pytest.approx(SPACING[0])  # one voxel along the first axis
    warned = [record.getMessage() for record in caplog.records if "another voxel size" in record.getMessage()]
    assert len(warned) == (0 if of_labels == SPACING else 1)
    assert all("2 of 2 test cases" in message for message in warned)
    assert "y.z" not in report.to_json()


@pytest.mark.parametrize("of_labels", [SPACING, None])
def test_spacings_of_tiffs_are_those_beside_the_images(of_labels, site, monkeypatch):
    monkeypatch.setattr(Shifting, "kind", Tiff3DIO)
    describe(site, ".tif")
    write_tiff(site / "imagesTs" / "x_0000.tif", SPACING)
    write_tiff(site / "labelsTs" / "x.tif", of_labels)
    assert evaluate().labels["organ"].hd95.mean == pytest.approx(SPACING[0])


def test_a_test_case_that_cannot_be_read_is_named_at_the_site_only(site):
    describe(site, ".nii.gz")
    write_nifti(site / "imagesTs" / "MrSmith_0000.nii.gz", SPACING)
    (site / "labelsTs" / "MrSmith.nii.gz").write_bytes(b"")
    with pytest.raises(CaseError, match="case MrSmith has an empty file") as caught:
        evaluate()
    assert "MrSmith" not in caught.value.shareable
    assert str(site / "labelsTs" / "MrSmith.nii.gz") in str(caught.value)
