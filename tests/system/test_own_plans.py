"""Federations with plans that none of their planners has made, by the commands of docs/plans.md."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fednnunet.privacy.audit.entries import AuditEntry
from fednnunet.weights.packing import layout_of, pack
from tests.system.conftest import SITES
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

SHORT = ("-device", "cpu", "--rounds", 1, "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1)
TARGETS, IDS = SITES[1:], "902 903"


@pytest.fixture(scope="module")
def workspace(federation: Workspace) -> Workspace:
    return replace(federation, results_name="results with own plans")


@pytest.fixture(scope="module")
def pretrained(workspace: Workspace) -> Path:
    """The results folder of a model of another site, which federations know nothing of."""
    workspace.results.mkdir()
    workspace.succeed("run", "train", 901, "2d", 0, *SHORT)
    return workspace.model_folder(SITES[0])


def test_a_federation_is_fine_tuned_from_a_model_with_plans_of_another_dataset(
    workspace: Workspace, pretrained: Path
) -> None:
    plans_file, weights = pretrained / "plans.json", pretrained / "fold_0" / "checkpoint_final.pth"
    flags = ("--plans", plans_file, "-overwrite_plans_name", "pretrained")
    workspace.succeed("run", "plan_and_preprocess", IDS, "2d", *flags)
    given = json.loads(plans_file.read_text())
    for site in TARGETS:
        plans = workspace.json(site, "pretrained.json")
        expected = given["configurations"]["2d"] | {"data_identifier": "pretrained_2d"}
        assert (plans["dataset_name"], plans["configurations"]["2d"]) == (site, expected)
        record = workspace.json(site, "federation.json")["pretrained"]
        assert (record["method"], record["given_for"], record["preprocessed"]) == ("FFE", SITES[0], ["2d"])
        assert _kinds_sent(workspace, site) <= {"introduction", "contact", "plans"}

    words = ("train", IDS, "2d", 0, "-p", "pretrained", "-pretrained_weights", weights, *SHORT)
    workspace.succeed("run", *words)
    run_dir = workspace.results / "fednnunet_runs" / "902+903__nnUNetTrainer__pretrained__2d"
    start = np.load(run_dir / "fold_0" / "model_000000.npz", allow_pickle=False)["0.weights"]
    state = torch.load(weights, weights_only=False)["network_weights"]  # our own file, written a moment ago
    layout, position, taken_over = layout_of(state), 0, 0
    expected_start = pack(state, layout)
    for tensor in layout.tensors:
        part = slice(position, position + tensor.size)
        position = part.stop
        if ".seg_layers." not in tensor.name:
            np.testing.assert_array_equal(start[part], expected_start[part])
            taken_over += 1
    assert 0 < taken_over < len(layout.tensors)

    status, output = workspace.call("run", *words)
    assert status != 0
    assert "fold_0 contains a training that is finished" in output
    status, output = workspace.call("run", "train", "Dataset903_HospitalC 902", *words[2:6], *SHORT, "--c")
    assert status == 0, output
    assert "is finished" in output
    assert run_dir.is_dir()
    status, output = workspace.call("run", "evaluate", "903 902", "2d", 0, "-p", "pretrained", "-device", "cpu")
    assert status == 0, output


def test_weights_of_another_network_are_refused_before_any_round(workspace: Workspace, pretrained: Path) -> None:
    for site in TARGETS:
        plans = workspace.json(site, "nnUNetPlans.json") | {"plans_name": "wider"}
        plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"][0] = 6
        (workspace.preprocessed / site / "wider.json").write_text(json.dumps(plans))
    weights = pretrained / "fold_0" / "checkpoint_final.pth"
    words = ("train", IDS, "2d", 0, "-p", "wider", "-pretrained_weights", weights, *SHORT)
    status, output = workspace.call("run", *words)
    assert status == 1
    assert "is not for the network of 2d in the plans wider (The shape of the parameters of key" in output
    assert "Traceback" not in output
    assert "tensor(" not in output


def test_a_plans_file_of_ones_own_trains_where_all_sites_have_the_same(workspace: Workspace, pretrained: Path) -> None:
    for site in TARGETS:
        plans = workspace.json(site, "nnUNetPlans.json") | {"plans_name": "nnUNetPlans_bs4"}
        plans["configurations"]["2d_bs4"] = {"inherits_from": "2d", "batch_size": 4}
        (workspace.preprocessed / site / "nnUNetPlans_bs4.json").write_text(json.dumps(plans))
    workspace.succeed("run", "train", IDS, "2d_bs4", 0, "-p", "nnUNetPlans_bs4", *SHORT)
    for site in TARGETS:
        model = workspace.results / site / "nnUNetTrainer__nnUNetPlans_bs4__2d_bs4"
        debug = json.loads((model / "fold_0" / "debug.json").read_text())
        assert debug["batch_size"] == "4"
        assert (model / "fold_0" / "checkpoint_final.pth").is_file()

    plans = workspace.json(TARGETS[1], "nnUNetPlans_bs4.json")
    plans["configurations"]["2d_bs4"]["batch_size"] = 3
    (workspace.preprocessed / TARGETS[1] / "nnUNetPlans_bs4.json").write_text(json.dumps(plans))
    status, output = workspace.call("run", "train", IDS, "2d_bs4", 1, "-p", "nnUNetPlans_bs4", *SHORT)
    assert status == 1
    assert "distribute one file to all sites with plan_and_preprocess --plans FILE" in output


def _kinds_sent(workspace: Workspace, site: str) -> set[str]:
    """Return what the node of the last planning has sent, by its audit log."""
    log = workspace.preprocessed / site / "fednnunet_audit.jsonl"
    entries = [AuditEntry.from_json(line) for line in log.read_text().splitlines()]
    last = entries[-1].run
    return {entry.kind for entry in entries if entry.run == last and entry.direction == "out"}
