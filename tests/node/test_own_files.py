"""Planning anew keeps a copy of what a user may have written."""

import json
import logging
from pathlib import Path

import pytest

from fednnunet.fingerprint.plans import fingerprint_digest, plans_digest
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.own_files import keep_own_plans, write_fingerprint
from fednnunet.node.record import write_record
from fednnunet.protocol.messages import FederationRecord

MADE, NEW, FINGERPRINT = {"batch_size": 2}, {"batch_size": 3}, {"spacings": [1]}


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteDataset:
    """A dataset with plans and a fingerprint that a federation has made."""
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path))
    dataset = SiteDataset("Dataset001_A")
    dataset.preprocessed.mkdir()
    record = FederationRecord(
        method="FFE", sites=["A"], cases=3, plans_digest=plans_digest(MADE), versions={},
        fingerprint_digest=fingerprint_digest(FINGERPRINT),
    )  # fmt: skip
    write_record(dataset, "plans", record)
    for name, content in (("plans", MADE), ("dataset_fingerprint", FINGERPRINT)):
        (dataset.preprocessed / f"{name}.json").write_text(json.dumps(content))
    return dataset


def _copies(dataset: SiteDataset, name: str) -> list[str]:
    return sorted(path.read_text() for path in dataset.preprocessed.glob(f"{name}_until_*.json"))


def test_what_a_federation_has_made_is_replaced_without_a_copy(dataset: SiteDataset) -> None:
    keep_own_plans(dataset, "plans", NEW)
    keep_own_plans(dataset, "plans")
    write_fingerprint({"spacings": [2]}, dataset)
    assert _copies(dataset, "*") == []
    assert json.loads((dataset.preprocessed / "dataset_fingerprint.json").read_text()) == {"spacings": [2]}


def test_what_was_edited_or_comes_from_elsewhere_or_is_damaged_is_kept_each_time(
    dataset: SiteDataset, caplog: pytest.LogCaptureFixture
) -> None:
    plans, written = dataset.preprocessed / "plans.json", []
    for text in ('{"batch_size": 4}', '{"batch_size": 5}', '{"batch_size"'):
        plans.write_text(text)
        written.append(text)
        with caplog.at_level(logging.WARNING):
            keep_own_plans(dataset, "plans", NEW)
        assert _copies(dataset, "plans") == sorted(written)
        assert "replacing it, and keeping it as" in caplog.text
    plans.write_text(json.dumps(NEW | {"dataset_name": "any"}))
    keep_own_plans(dataset, "plans", NEW)  # nothing is lost
    assert len(_copies(dataset, "plans")) == 3
    (dataset.preprocessed / "mine.json").write_text("{}")
    keep_own_plans(dataset, "mine", NEW)
    assert _copies(dataset, "mine") == ["{}"]
    (dataset.preprocessed / "dataset_fingerprint.json").write_text('{"spacings": [7]}')
    write_fingerprint(FINGERPRINT, dataset)
    assert _copies(dataset, "dataset_fingerprint") == ['{"spacings": [7]}']
