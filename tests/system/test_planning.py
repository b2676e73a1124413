"""The planning tasks through the real commands."""

import json
import os
import shutil
from typing import Any

import pytest

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import PlansAgreed
from fednnunet.transport.address import find_free_port
from tests.system.conftest import CASES, SITES, unshrunk_plans
from tests.system.workspace import Workspace, finish

pytestmark = pytest.mark.system


def test_plans_are_equal_but_for_the_name_and_know_the_whole_federation(federation: Workspace) -> None:
    plans = [federation.json(site, "nnUNetPlans.json") for site in SITES]
    assert [plan.pop("dataset_name") for plan in plans] == list(SITES)
    assert plans[0] == plans[1] == plans[2]
    for site in SITES:
        record = federation.json(site, "federation.json")["nnUNetPlans"]
        assert (record["method"], record["sites"], record["cases"]) == ("FFE", list(SITES), sum(CASES))
        assert record["preprocessed"] == ["2d"]


def test_what_was_agreed_is_told(federation: Workspace) -> None:
    (log,) = (federation.results / "fednnunet_runs").glob("*_plan_and_preprocess/events.jsonl")
    (agreed,) = [event for event in EventReader(log).new_events() if isinstance(event, PlansAgreed)]
    assert agreed.fingerprint == federation.json(SITES[0], "dataset_fingerprint.json")
    assert agreed.plans is not None
    assert {**agreed.plans, "dataset_name": SITES[0]} == unshrunk_plans(federation, SITES[0])


def test_plans_and_fingerprint_are_those_of_nnunets_commands_on_the_pooled_data(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    pooled = Workspace(tmp_path_factory.mktemp("pooled"))
    folder = pooled.raw / "Dataset910_Pooled"
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
        for site in SITES:
            for file in (federation.raw / site / part).iterdir():
                (folder / part / f"{site}_{file.name}").symlink_to(file)
    content = json.loads((federation.raw / SITES[0] / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | {"numTraining": sum(CASES)}))
    pooled.preprocessed.mkdir()
    pooled.nnunet("nnUNetv2_extract_fingerprint", "-d", 910, "-np", 1)
    # nnU-Net's planner takes its number of augmentation processes for torch's number of threads, which must not be 0
    pooled.nnunet("nnUNetv2_plan_experiment", "-d", 910, nnUNet_n_proc_DA="1")
    stock, ours = pooled.json(folder.name, "nnUNetPlans.json"), unshrunk_plans(federation, SITES[2])
    _assert_intensities_equal(stock, ours)
    assert stock.pop("dataset_name") != ours.pop("dataset_name")
    assert ours == stock
    size = "median_relative_size_after_cropping"
    assert (
        federation.json(SITES[0], "dataset_fingerprint.json")[size]
        == pooled.json(folder.name, "dataset_fingerprint.json")[size]
    )


def _assert_intensities_equal(stock: dict[str, Any], ours: dict[str, Any]) -> None:
    """Compare mean and std with nnU-Net's sums in float32, and take them out of both plans."""
    (expected,), (found,) = (plans["foreground_intensity_properties_per_channel"].values() for plans in (stock, ours))
    for name in ("mean", "std"):
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-5)


def test_each_site_has_preprocessed_its_own_cases(federation: Workspace) -> None:
    for site, cases in zip(SITES, CASES, strict=True):
        assert len(list((federation.preprocessed / site / "nnUNetPlans_2d").glob("*.pkl"))) == cases
        assert len(list((federation.preprocessed / site / "gt_segmentations").iterdir())) == cases


def test_sites_that_plan_alone_plan_as_nnunet_does_for_each(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("alone"))
    for site in SITES[1:]:
        copy_site(federation, workspace, site)
    # what an earlier federation has left is not taken for the site's own fingerprint
    (workspace.preprocessed / SITES[2]).mkdir()
    shutil.copy(federation.preprocessed / SITES[2] / "dataset_fingerprint.json", workspace.preprocessed / SITES[2])
    workspace.succeed("run", "plan_and_preprocess", "902 903", "2d", "--asym", "--no_pp", "--gpu_memory_target", "8 2")
    records = [workspace.json(site, "federation.json")["nnUNetPlans"] for site in SITES[1:]]
    assert [record["method"] for record in records] == ["AsymFedAvg"] * 2
    assert records[0]["plans_digest"] != records[1]["plans_digest"]
    ours = workspace.json(SITES[2], "nnUNetPlans.json")
    workspace.nnunet("nnUNetv2_extract_fingerprint", "-d", 903, "-np", 1, "--clean")
    workspace.nnunet(
        "nnUNetv2_plan_experiment", "-d", 903, "-gpu_memory_target", 2, "-overwrite_plans_name", "stock",
        nnUNet_n_proc_DA="1",
    )  # fmt: skip
    stock = workspace.json(SITES[2], "stock.json")
    identifier = stock["configurations"]["2d"].pop("data_identifier")
    assert (identifier, ours["configurations"]["2d"].pop("data_identifier")) == ("stock_2d", "nnUNetPlans_2d")
    del stock["plans_name"], ours["plans_name"]
    _assert_intensities_equal(stock, ours)
    assert ours == stock


def test_training_refuses_a_site_that_has_planned_otherwise(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One site in a federation with common plans has planned alone meanwhile."""
    workspace = Workspace(tmp_path_factory.mktemp("planned otherwise"))
    for site in SITES[:2]:
        copy_site(federation, workspace, site)
        shutil.copytree(federation.preprocessed / site, workspace.preprocessed / site, dirs_exist_ok=True)
    workspace.succeed("run", "plan_and_preprocess", "902", "2d", "--asym")
    status, output = workspace.call("run", "train", "901 902", "2d", 0, "-device", "cpu", "--rounds", 1)
    assert status == 1
    assert f"Site {SITES[1]} has method AsymFedAvg, site {SITES[0]} has FFE" in output or (
        f"Site {SITES[0]} has method FFE, site {SITES[1]} has AsymFedAvg" in output
    )


def test_images_are_read_once_for_fingerprint_and_plans(
    federation: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    workspace = Workspace(tmp_path_factory.mktemp("read once"))
    workspace.preprocessed.mkdir()
    shutil.copytree(federation.raw / SITES[2], workspace.raw / SITES[2])
    workspace.succeed("run", "extract_fingerprint", "903")
    extracted = workspace.json(SITES[2], "dataset_fingerprint.json")
    assert not (workspace.preprocessed / SITES[2] / "nnUNetPlans.json").exists()
    image = next((workspace.raw / SITES[2] / "imagesTr").iterdir())
    state = image.stat()
    image.write_bytes(b"x" * state.st_size)
    os.utime(image, ns=(state.st_atime_ns, state.st_mtime_ns))
    words = ("plan_and_preprocess", "903", "2d", "--no_pp", "--fingerprint")
    workspace.succeed("run", *words, "exact")
    assert workspace.json(SITES[2], "dataset_fingerprint.json") == extracted
    exact = workspace.json(SITES[2], "nnUNetPlans.json")
    workspace.succeed("run", *words, "shared-cases")
    assert workspace.json(SITES[2], "nnUNetPlans.json") == exact
    assert len(workspace.json(SITES[2], "dataset_fingerprint.json")["spacings"]) == CASES[2]
    status, output = workspace.call("run", *words, "exact", "--clean")
    assert status == 1
    assert f"Site {SITES[2]} failed: one of its cases cannot be read" in output
    log = next(workspace.results.glob("fednnunet_runs/*/server.log")) if workspace.results.exists() else None
    assert log is None or image.name.split("_0000")[0] not in log.read_text()


def test_a_node_for_another_task_is_refused_and_the_federation_goes_on(
    tmp_path_factory: pytest.TempPathFactory, federation: Workspace
) -> None:
    """Also: server and clients started by hand, in any order, and the task extract_fingerprint."""
    workspace = Workspace(tmp_path_factory.mktemp("by hand"))
    for site in SITES[:2]:
        copy_site(federation, workspace, site)
    port = find_free_port("127.0.0.1")
    first = workspace.start("client", "extract_fingerprint", 901, "--port", port, "-np", 1)
    server = workspace.start("server", "extract_fingerprint", "--num_clients", 2, "--port", port)
    status, output = workspace.call("client", "plan_and_preprocess", 902, "2d", "--port", port)
    assert status == 1
    assert (
        "Error: The coordinator disconnected this node: Site Dataset902_HospitalB was started for plan_and_preprocess, "
        "the coordinator for extract_fingerprint: start both for one task." in output
    )
    second = workspace.start("client", "extract_fingerprint", "-d", 902, "--port", port, "-np", 1)
    for process in (first, second, server):
        status, output = finish(process)
        assert status == 0, output
    common = [workspace.json(site, "dataset_fingerprint.json") for site in SITES[:2]]
    assert common[0] == common[1]
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


def copy_site(source: Workspace, target: Workspace, site: str) -> None:
    """Give `target` a site's raw data."""
    target.raw.mkdir(exist_ok=True)
    target.preprocessed.mkdir(exist_ok=True)
    (target.raw / site).symlink_to(source.raw / site)
