"""What the coordinator keeps of the sites' logs, and what it says of nodes that it refuses."""

import logging
from pathlib import Path

import pytest

from fednnunet.coordinator.receipts import RECEIPTS, Receipts
from fednnunet.coordinator.refusals import Refusals
from fednnunet.coordinator.site import Site
from fednnunet.privacy.audit import Receipt, read_receipts
from fednnunet.protocol.messages import Hello
from tests.coordinator.fake_node import FakeNode


def _site(name: str, entry: tuple[int, str] | None) -> Site:
    hello = Hello(site=name, task="train", method="FFE", cases=1, versions={}, labels={}, channels={})
    site = Site(hello, FakeNode(name), 60.0)
    site.last_entry = entry
    return site


def _kept(folder: Path) -> list[tuple[str, int, str]]:
    return [(kept.site, kept.entries, kept.sha256) for kept in read_receipts(folder / RECEIPTS)]


def test_each_receipt_is_kept_once_and_survives_a_restart(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path / "run")
    sites = [_site("A", (3, "a" * 64)), _site("B", None)]
    receipts.keep(sites)
    receipts.keep(sites)
    assert _kept(tmp_path / "run") == [("A", 3, "a" * 64)]
    sites[1].last_entry = (5, "b" * 64)
    Receipts(tmp_path / "run").keep(sites[1:])
    assert _kept(tmp_path / "run") == [("A", 3, "a" * 64), ("B", 5, "b" * 64)]


def test_a_line_that_a_killed_coordinator_has_begun_spoils_nothing(tmp_path: Path) -> None:
    receipts = Receipts(tmp_path)
    receipts.keep([_site("A", (3, "a" * 64))])
    with (tmp_path / RECEIPTS).open("a") as file:
        file.write('{"site":"A","entr')
    Receipts(tmp_path).keep([_site("A", (4, "c" * 64))])
    assert _kept(tmp_path) == [("A", 3, "a" * 64), ("A", 4, "c" * 64)]


def test_receipts_that_cannot_be_kept_do_not_end_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    Receipts(tmp_path / "file").keep([_site("A", (3, "a" * 64))])
    assert "Receipts cannot be saved" in caplog.text
    Receipts(None).keep([_site("A", (3, "a" * 64))])


def test_a_receipt_is_refused_if_it_is_none() -> None:
    with pytest.raises(ValueError, match="sha256"):
        Receipt(site="A", entries=3, sha256="x", time="")


def test_the_same_refusal_is_told_once_a_minute_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    times = iter((0.0, 1.0, 2.0, 59.0, 61.0))
    refusals = Refusals(lambda: next(times))
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            refusals.warn("it has no key")
    assert caplog.messages == ["Rejected a node: it has no key", "Rejected a node: it has no key (and 3 times before)"]


def test_reasons_that_all_differ_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(lambda: 0.0)
    with caplog.at_level(logging.WARNING):
        for number in range(10_000):
            refusals.warn(f"reason {number}")
    assert len(caplog.messages) < 200
