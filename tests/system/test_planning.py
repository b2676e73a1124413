"""The planning tasks through the real commands."""

import json
import shutil

import numpy as np
import pytest

from fednnunet.channel.address import find_free_port
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.merge import merge
from tests.system.conftest import CASES, SITES
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system


def test_plans_are_equal_but_for_the_name_and_know_the_whole_federation(federation: Workspace) -> None:
    plans = [federation.json(site, "nnUNetPlans.json") for site in SITES]
    assert [plan.pop("dataset_name") for plan in plans] == list(SITES)
    assert plans[0] == plans[1] == plans[2]
    # nnU-Net takes the plans' medians over all cases: of all sites together
    spacings = np.concatenate([federation.json(site, "dataset_fingerprint_local.json")["spacings"] for site in SITES])
    assert len(spacings) == sum(CASES)
    assert plans[0]["original_median_spacing_after_transp"] == np.median(spacings, axis=0).tolist()


def test_the_common_fingerprint_is_the_merge_of_the_local_ones(federation: Workspace) -> None:
    local = [Fingerprint.from_nnunet(federation.json(site, "dataset_fingerprint_local.json")) for site in SITES]
    assert [fingerprint.cases for fingerprint in local] == list(CASES)
    expected = merge(local).to_nnunet()
    for site in SITES:
        assert federation.json(site, "dataset_fingerprint.json") == json.loads(json.dumps(expected))


def test_each_site_has_preprocessed_its_own_cases(federation: Workspace) -> None:
    for site, cases in zip(SITES, CASES, strict=True):
        assert len(list((federation.preprocessed / site / "nnUNetPlans_2d").glob("*.pkl"))) == cases
        assert len(list((federation.preprocessed / site / "gt_segmentations").iterdir())) == cases


def test_one_site_plans_exactly_as_nnunet_does(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> None:
    alone = Workspace(tmp_path_factory.mktemp("alone"))
    _copy_site(federation, alone, SITES[2])
    alone.succeed("run", "plan_and_preprocess", "903", "2d", "--no_pp")
    ours = alone.json(SITES[2], "nnUNetPlans.json")
    # nnU-Net's planner takes its number of augmentation processes for torch's number of threads, which must not be 0
    alone.nnunet("nnUNetv2_plan_experiment", "-d", "903", "-overwrite_plans_name", "stock", nnUNet_n_proc_DA="1")
    stock = alone.json(SITES[2], "stock.json")
    identifier = stock["configurations"]["2d"].pop("data_identifier")
    assert (identifier, ours["configurations"]["2d"].pop("data_identifier")) == ("stock_2d", "nnUNetPlans_2d")
    del stock["plans_name"], ours["plans_name"]
    assert ours == stock


def test_a_node_for_another_task_is_refused_and_the_federation_goes_on(
    tmp_path_factory: pytest.TempPathFactory, federation: Workspace
) -> None:
    """Also: server and clients started by hand, in any order, and the task extract_fingerprint."""
    workspace = Workspace(tmp_path_factory.mktemp("by hand"))
    for site in SITES[:2]:
        _copy_site(federation, workspace, site)
    port = find_free_port("127.0.0.1")
    first = workspace.start("client", "extract_fingerprint", 901, "--port", port, "-np", 1)
    server = workspace.start("server", "extract_fingerprint", "--num_clients", 2, "--port", port)
    status, output = workspace.call("client", "plan_and_preprocess", 902, "2d", "--port", port)
    assert status == 1
    assert (
        "Error: The coordinator ended the federation: Site Dataset902_HospitalB was started for plan_and_preprocess, "
        "the coordinator for extract_fingerprint: start both for one task." in output
    )
    second = workspace.start("client", "extract_fingerprint", "-d", 902, "--port", port, "-np", 1)
    for process in (first, second, server):
        status, output = finish(process)
        assert status == 0, output
    common = [workspace.json(site, "dataset_fingerprint.json") for site in SITES[:2]]
    assert common[0] == common[1]
    assert len(common[0]["spacings"]) == CASES[0] + CASES[1]
    assert not list(workspace.preprocessed.glob("*/nnUNetPlans.json"))


def test_sites_with_different_labels_are_refused_naming_site_and_values(
    tmp_path_factory: pytest.TempPathFactory, federation: Workspace
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("different labels"))
    for site in SITES[:2]:
        (workspace.raw / site).mkdir(parents=True)
        for part in ("imagesTr", "labelsTr"):
            (workspace.raw / site / part).symlink_to(federation.raw / site / part)
        content = json.loads((federation.raw / site / "dataset.json").read_text())
        if site == SITES[1]:
            content["labels"]["vessel"] = max(content["labels"].values()) + 1
        (workspace.raw / site / "dataset.json").write_text(json.dumps(content))
    status, output = workspace.call("run", "plan_and_preprocess", "901 902", "2d")
    assert status == 1
    assert "labels" in output
    assert "'vessel'" in output
    assert "make them equal in both dataset.json" in output
    assert not list(workspace.preprocessed.glob("*/dataset_fingerprint*.json"))


def _copy_site(source: Workspace, target: Workspace, site: str) -> None:
    """Give `target` a site's raw data, and the local fingerprint, which takes nnU-Net long to extract."""
    target.raw.mkdir(exist_ok=True)
    (target.raw / site).symlink_to(source.raw / site)
    (target.preprocessed / site).mkdir(parents=True)
    name = "dataset_fingerprint_local.json"
    shutil.copy(source.preprocessed / site / name, target.preprocessed / site / name)
