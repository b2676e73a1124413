"""Hospitals whose policies demand masked sums plan and train over TLS, while processes are killed."""

import json
from typing import Any

import pytest

from fednnunet.privacy.audit import read_receipts, verify
from tests.system.conftest import SITES, unshrunk_plans
from tests.system.consortium import CLINICS, Consortium
from tests.system.killed_training import TRAINER, Training
from tests.system.test_planning import copy_site
from tests.system.workspace import Workspace, equal_weights, finish

pytestmark = pytest.mark.system

ROUNDS = 15  # each takes a fifth of a second or more


@pytest.fixture(scope="module")
def consortium(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    """Three sites with the raw data of `federation`, whose policies demand masked sums."""
    workspace = Workspace(tmp_path_factory.mktemp("with masks"))
    for site in SITES:
        copy_site(federation, workspace, site)
    made = Consortium(workspace)
    made.demand_masks()
    return made


def test_fingerprint_and_plans_from_masked_answers_are_the_plain_ones(
    federation: Workspace, consortium: Consortium
) -> None:
    consortium.start_server("--secure")
    for process in (*(consortium.start(number) for number in range(3)), consortium.server):
        status, output = finish(process)
        assert status == 0, output
    for site, clinic in zip(SITES, CLINICS, strict=True):
        files = [of.preprocessed / site / "dataset_fingerprint.json" for of in (consortium.workspace, federation)]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert consortium.workspace.json(site, "nnUNetPlans.json") == unshrunk_plans(federation, site)
        counts = [entry["kind"] for entry in _entries(consortium, clinic) if "data" in entry["shapes"]]
        assert len(counts) > 25
        assert set(counts) == {"masked"}


def test_a_masked_training_whose_node_and_coordinator_are_killed_loses_no_round(
    federation: Workspace, consortium: Consortium
) -> None:
    with Training(federation, "masks", consortium=consortium, rounds=ROUNDS) as training:
        training.follow(f"round 2/{ROUNDS}")
        training.kill(SITES[1])
        training.start(SITES[1], further=["--c"])
        training.follow(f"round 4/{ROUNDS}")
        training.kill("server")
        training.start("server", further=["--c"])
        training.end("server", *SITES)
        assert [record.round for record in training.history] == list(range(1, ROUNDS + 1))
        assert all(set(record.sites) == set(CLINICS) for record in training.history)
        first, *others = training.weights(*SITES)
        assert all(equal_weights(first, other) for other in others)
        for site in SITES:  # nnU-Net's own results, as nnUNetv2_predict reads them
            folder = training.workspace.model_folder(site, trainer=TRAINER)
            assert {"dataset.json", "plans.json"} <= {path.name for path in folder.iterdir()}
            assert training.workspace.checkpoint(site, trainer=TRAINER)["current_epoch"] == ROUNDS
            assert (folder / "fold_0" / "validation" / "summary.json").is_file()
        assert (training.run_dir / "Dataset999_FedNNUNet.zip").is_file()
    receipts = training.run_dir / "receipts.jsonl"
    for clinic in CLINICS:
        entries = [entry for entry in _entries(consortium, clinic) if entry["task"] == "train"]
        rounds = {
            kind: {entry["round"] for entry in entries if entry["kind"] == kind} for kind in ("masked", "opening")
        }
        assert rounds["masked"] == rounds["opening"] == set(range(1, ROUNDS + 1))
        assert {entry["round"] for entry in entries if entry["kind"] == "update"} <= {0}  # has not been trained
        assert {tuple(entry["sites"]) for entry in entries if "sites" in entry} == {CLINICS}
        log = consortium.workspace.folder / f"{clinic}.jsonl"
        verify(log, receipts=read_receipts(receipts))
    status, output = consortium.workspace.fednnunet("audit", "verify", log, "--receipts", receipts)
    assert status == 0, output


def _entries(consortium: Consortium, clinic: str) -> list[dict[str, Any]]:
    """Return the entries of a site's audit log."""
    lines = (consortium.workspace.folder / f"{clinic}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
