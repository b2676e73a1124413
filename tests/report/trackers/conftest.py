"""Patience with packages that take long to import on a busy machine."""

import pytest


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.report.trackers.sink.CLOSE_SECONDS", 600)
