"""One prepared federation of three tiny 2D hospitals, shared by all tests that train."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from tests.system.workspace import Workspace

SITES = ("Dataset901_HospitalA", "Dataset902_HospitalB", "Dataset903_HospitalC")
CASES = (12, 8, 5)


@pytest.fixture(scope="session")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three sites of 12, 8 and 5 cases, fingerprinted, planned and preprocessed together, in a path with spaces."""
    workspace = Workspace(tmp_path_factory.mktemp("a path with spaces"))
    hospitals = [replace(hospital, training_cases=n) for hospital, n in zip(HOSPITALS, CASES, strict=True)]
    write_hospitals(workspace.raw, hospitals=hospitals, test_cases=1, resolution=0.75)
    workspace.succeed("run", "plan_and_preprocess", "901 902 903", "2d")
    for site in SITES:
        shrink_network(workspace.preprocessed / site / "nnUNetPlans.json")
    return workspace


def shrink_network(plans_file: Path) -> None:
    """Give the planned network few features, so that an iteration takes milliseconds."""
    plans = json.loads(plans_file.read_text())
    plans_file.with_name("as_planned.json").write_text(json.dumps(plans))
    for configuration in plans["configurations"].values():
        if "architecture" in configuration:
            kwargs = configuration["architecture"]["arch_kwargs"]
            kwargs["features_per_stage"] = [4 + 2 * stage for stage in range(kwargs["n_stages"])]
    plans_file.write_text(json.dumps(plans))


def unshrunk_plans(federation: Workspace, site: str) -> dict[str, Any]:
    """Return a site's plans as the federation made them."""
    plans: dict[str, Any] = federation.json(site, "as_planned.json")
    return plans
