"""What real sites also bring: volumes, two channels, regions, a site with a single case."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.system.conftest import shrink_network
from tests.system.workspace import Workspace, equal_weights

pytestmark = pytest.mark.system

LABELS = {"background": 0, "whole": [1, 2], "core": 2}


def _write_site(folder: Path, cases: int, seed: int) -> None:
    """Write a dataset of small anisotropic volumes with two channels and a nested pair of regions."""
    rng = np.random.default_rng(seed)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in range(cases):
        z, y, x = np.ogrid[:12, :24, :24]
        centre = rng.uniform(9, 15, 2)
        distance = np.sqrt((2 * (z - 6)) ** 2 + (y - centre[0]) ** 2 + (x - centre[1]) ** 2)
        labels = (distance < 9).astype(np.uint8) + (distance < 5).astype(np.uint8)
        for channel in range(2):
            image = rng.normal(100 * (channel + 1), 10, labels.shape) + 40 * (labels > channel)
            _write(image.astype(np.float32), folder / "imagesTr" / f"case{case}_{channel:04d}.nii.gz")
        _write(labels, folder / "labelsTr" / f"case{case}.nii.gz")
    content = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": LABELS,
        "regions_class_order": [1, 2],
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(content))


def _write(array: np.ndarray, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.0, 2.0))
    sitk.WriteImage(image, str(path))


def test_regions_two_channels_3d_and_a_site_of_one_case(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    sites = ("Dataset021_Big", "Dataset022_Single")
    for site, cases in zip(sites, (4, 1), strict=True):
        _write_site(workspace.raw / site, cases, seed=cases)
    # no CONFIGURATION: 2d, 3d_fullres and, which these plans do not have, 3d_lowres
    workspace.succeed("run", "plan_and_preprocess", "21 22", "--verify_dataset_integrity")
    for configuration in ("2d", "3d_fullres"):
        assert len(list((workspace.preprocessed / sites[0] / f"nnUNetPlans_{configuration}").glob("*.pkl"))) == 4
    plans = workspace.json(sites[1], "nnUNetPlans.json")
    assert plans["configurations"]["3d_fullres"]["median_image_size_in_voxels"] == [12.0, 24.0, 24.0]

    for site in sites:
        shrink_network(workspace.preprocessed / site / "nnUNetPlans.json")
    words = ("-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1)
    status, output = workspace.call("run", "train", "21 22", "3d_fullres", 0, *words, "--rounds", 1)
    assert status == 1
    assert "too few for nnU-Net's five folds" in output

    output = workspace.succeed("run", "train", "21 22", "3d_fullres", "fold_all", *words, "--rounds", 1)
    weights = [workspace.checkpoint(site, fold="all", configuration="3d_fullres")["network_weights"] for site in sites]
    assert equal_weights(*weights)
    table = output.split("Validation of fold all")[1]
    assert "whole" in table
    assert "core" in table

    again = workspace.succeed("run", "train", "21 22", "3d_fullres", "fold_all", *words, "--val")
    assert again.split("Validation of fold all")[1].split("mean")[1] == table.split("mean")[1]
    assert "round 1" not in again

    for part, name in (("images", "case0_0000"), ("images", "case0_0001"), ("labels", "case0")):
        target = workspace.raw / sites[0] / f"{part}Ts" / f"{name}.nii.gz"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(workspace.raw / sites[0] / f"{part}Tr" / f"{name}.nii.gz", target)
    status, output = workspace.fednnunet("audit", "privacy", 21, "3d_fullres", "fold_all", "-device", "cpu", "--json")
    assert status == 0, output
    cases = {case["case"]: case for case in json.loads(output)["models"]["federated"]["cases"]}
    assert sorted(cases) == ["case0", "case1", "case2", "case3", "imagesTs/case0"]
    # the same image, preprocessed now or before the training
    assert cases["imagesTs/case0"]["loss"] == pytest.approx(cases["case0"]["loss"])
    assert cases["imagesTs/case0"]["dice"] == pytest.approx(cases["case0"]["dice"])
