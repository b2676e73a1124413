"""What a site says of its network, and that no fingerprint of its own is part of that."""

from pathlib import Path
from typing import Any

import pytest

from fednnunet.files import write_json
from fednnunet.fingerprint.plans import fingerprint_digest
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.description import common_fingerprint
from fednnunet.node.record import write_record
from fednnunet.protocol.messages import FederationRecord
from tests.fingerprint.example_plans import FINGERPRINT

PLANS_NAME = "nnUNetPlans"


def _installed(folder: Path, digest: str | None, **changes: Any) -> SiteDataset:
    dataset = SiteDataset("Dataset001_A")
    dataset.preprocessed.mkdir(parents=True)
    record = FederationRecord(
        method="FFE", sites=["A"], cases=3, plans_digest="0", fingerprint_digest=digest, versions={}
    )
    write_record(dataset, PLANS_NAME, record)
    write_json({**FINGERPRINT, **changes}, dataset.preprocessed / "dataset_fingerprint.json")
    return dataset


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))


def test_the_fingerprint_that_came_from_the_coordinator_may_go_back(tmp_path: Path) -> None:
    dataset = _installed(tmp_path, fingerprint_digest(FINGERPRINT))
    assert common_fingerprint(dataset, PLANS_NAME) == FINGERPRINT
    assert common_fingerprint(dataset, "other_plans") is None


def test_one_that_was_extracted_here_since_then_stays_here(tmp_path: Path) -> None:
    dataset = _installed(tmp_path, fingerprint_digest(FINGERPRINT), spacings=[[1.0, 0.4, 0.4]] * 3)
    assert common_fingerprint(dataset, PLANS_NAME) is None


def test_one_that_lists_the_cases_of_all_sites_has_no_digest_and_stays_too(tmp_path: Path) -> None:
    assert common_fingerprint(_installed(tmp_path, None), PLANS_NAME) is None


def test_a_file_that_is_damaged_is_none(tmp_path: Path) -> None:
    dataset = _installed(tmp_path, fingerprint_digest(FINGERPRINT))
    (dataset.preprocessed / "dataset_fingerprint.json").write_text("{")
    assert common_fingerprint(dataset, PLANS_NAME) is None
