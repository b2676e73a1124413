"""The coordinator's plans, made without an image, against nnU-Net's planner on the dataset itself."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments

from fednnunet.cli.arguments import parse_client
from fednnunet.coordinator.planner import FederationPlanner
from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.node.hello import planning_hello


@pytest.fixture(scope="module", params=[False, True], ids=["2D", "3D"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and a fingerprint for it; returns the folder of nnU-Net's folders."""
    folder = tmp_path_factory.mktemp("planning")
    (site,) = write_hospitals(
        folder / "nnUNet_raw",
        three_dimensional=request.param,
        hospitals=HOSPITALS[2:],
        training_cases=5,
        test_cases=1,
        resolution=0.75,
    )
    size, spacing = site.size, site.spacing
    if not request.param:
        size, spacing = (1, *size), (999.0, *spacing)
    fingerprint = Fingerprint(
        spacings=np.array([spacing] * 5),
        shapes=np.array([size] * 5),
        intensities=np.arange(7.0)[np.newaxis],
        relative_size=0.7,
    )
    (folder / "nnUNet_preprocessed" / site.name).mkdir(parents=True)
    file = folder / "nnUNet_preprocessed" / site.name / "dataset_fingerprint.json"
    file.write_text(json.dumps(fingerprint.to_nnunet()))
    return folder


def _use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(folder / variable))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")


@pytest.mark.parametrize("planner", ["ExperimentPlanner", "nnUNetPlannerResEncM", "nnUNetPlannerResEncL"])
def test_plans_are_those_of_nnunet(planner: str, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(dataset, monkeypatch)
    arguments = parse_client(f"plan_and_preprocess 901 -pl {planner} -gpu_memory_target 2".split()).node
    site, hello = planning_hello(arguments)
    name = plan_experiments([901], planner, gpu_memory_target_in_gb=2.0)
    stock = json.loads((site.preprocessed / f"{name}.json").read_text())
    fingerprint = Fingerprint.from_nnunet(json.loads((site.preprocessed / "dataset_fingerprint.json").read_text()))
    ours = FederationPlanner(hello, hello.cases).plans(fingerprint)
    assert stock.pop("dataset_name") != ours.pop("dataset_name")
    assert ours == stock


def test_planning_leaves_the_environment_as_it_was(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _use(dataset, monkeypatch)
    monkeypatch.delenv("nnUNet_n_proc_DA")
    site, hello = planning_hello(parse_client(["plan_and_preprocess", "901"]).node)
    fingerprint = Fingerprint.from_nnunet(json.loads((site.preprocessed / "dataset_fingerprint.json").read_text()))
    assert hello.planner is not None
    broken = hello.model_copy(update={"planner": hello.planner.model_copy(update={"planner": "Nobody"})})
    with pytest.raises(FednnUNetError, match="no planner 'Nobody'"):
        FederationPlanner(broken, 5)
    with pytest.raises(FednnUNetError, match="cannot plan"):
        FederationPlanner(hello, 5).plans(replace(fingerprint, spacings=np.zeros_like(fingerprint.spacings)))
    assert os.environ["nnUNet_raw"] == str(dataset / "nnUNet_raw")
    assert "nnUNet_n_proc_DA" not in os.environ
