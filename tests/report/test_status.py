"""The status file after each event, and what a user reads from it."""

import errno
import io
import itertools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fednnunet.errors import FednnUNetError
from fednnunet.events.events import (
    Contact,
    Event,
    Finished,
    FoldValidated,
    RoundCompleted,
    SiteJoined,
    SiteLeftOut,
    SitesAwaited,
    SiteTakenIn,
    StageStarted,
    UpdateOutOfLine,
)
from fednnunet.protocol.messages import RoundReport
from fednnunet.report.formats import MISSING
from fednnunet.report.status import Failure, Status, StatusFile, read_status, status_screen

BEGAN = 1_700_000_000.0


class Clock:
    """What the time is, in seconds since 1970."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    return clock


@pytest.fixture
def contacts() -> dict[str, Contact]:
    return {"A": Contact(connected=True, at=BEGAN), "B": Contact(connected=False, at=BEGAN - 90)}


@pytest.fixture
def status_file(tmp_path: Path, clock: Clock, contacts: dict[str, Contact]) -> Iterator[StatusFile]:
    status_file = StatusFile(tmp_path / "status.json", lambda: contacts)
    yield status_file
    status_file.end("the test is over")


def _completed(number: int, seconds: float, rounds: int = 10, **dice: float | None) -> RoundCompleted:
    sites = {
        site: RoundReport(train_loss=-0.5, val_loss=-0.4, mean_dice=value, dice={}) for site, value in dice.items()
    }
    return RoundCompleted(round=number, rounds=rounds, seconds=seconds, sites=sites)


def _shown(status: Status, now: float, width: int = 120) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(status_screen(status, now))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def _rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]


def test_the_file_says_where_a_training_is_after_each_event(
    status_file: StatusFile, tmp_path: Path, clock: Clock, contacts: dict[str, Contact]
) -> None:
    def after(event: Event) -> Status:
        status_file.emit(event)
        return read_status(tmp_path)

    status = after(SiteJoined(site="A", cases=3, joined=1, expected=2))
    assert status == Status(title="waiting for sites, 1 of 2 joined", sites=contacts, updated=BEGAN)
    status = after(StageStarted(stage="training", fold="0", rounds=10, first_round=4))
    assert (status.title, status.round, status.rounds, status.remaining) == ("training fold 0", 3, 10, None)
    clock.now += 20
    contacts["B"] = Contact(connected=True, at=clock.now)
    status = after(_completed(4, 20.0, A=0.5, B=None))
    assert (status.round, status.rounds, status.remaining, status.updated) == (4, 10, 120.0, BEGAN + 20)
    assert status.dice == {"A": 0.5, "B": None}
    assert status.sites["B"] == Contact(connected=True, at=BEGAN + 20)
    status = after(SiteLeftOut(site="B", round=5, reason="its connection broke"))
    assert status.failures == [Failure(site="B", round=5, reason="its connection broke", at=BEGAN + 20)]
    assert status.number_of_failures == 1
    status = after(SitesAwaited(sites=["B", "C"], present=1, needed=3))
    assert status.awaited == ["B", "C"]
    status = after(SiteTakenIn(site="B", round=4))
    assert status.awaited == ["C"]
    status = after(_completed(5, 20.0, A=0.75))
    assert status.awaited == []
    assert status.dice == {"A": 0.75, "B": None}
    assert status.number_of_failures == 1
    status = after(StageStarted(stage="validating", fold="0"))
    assert (status.title, status.round, status.rounds) == ("validating fold 0", 5, 10)
    assert after(FoldValidated(fold="0", sites={})).title == "fold 0 validated"
    assert after(Finished(seconds=5)).title == "finished"


def test_the_remaining_time_is_that_of_the_last_rounds_of_this_fold(status_file: StatusFile, tmp_path: Path) -> None:
    status_file.emit(StageStarted(stage="training", fold="0", rounds=2))
    for number in (1, 2):
        status_file.emit(_completed(number, 1000.0, rounds=2))
    status_file.emit(StageStarted(stage="training", fold="1", rounds=4))
    assert (read_status(tmp_path).round, read_status(tmp_path).rounds) == (0, 4)
    status_file.emit(_completed(1, 10.0, rounds=4))
    assert read_status(tmp_path).remaining == 30.0


def test_nothing_is_said_of_the_remaining_time_before_the_first_round_of_a_fold(
    status_file: StatusFile, tmp_path: Path
) -> None:
    status_file.emit(_completed(2, 1000.0, rounds=2))
    status_file.emit(StageStarted(stage="training", fold="1", rounds=4))
    assert "ETA" not in _shown(read_status(tmp_path), BEGAN)[0]


def test_the_remaining_time_runs_down_while_a_round_lasts(
    status_file: StatusFile, tmp_path: Path, clock: Clock
) -> None:
    status_file.emit(_completed(1, 100.0, rounds=4))
    assert "ETA 0:05:00" in _shown(read_status(tmp_path), clock.now)[0]
    clock.now += 60
    status_file.emit(SiteJoined(site="A", cases=3, joined=1, expected=2))
    assert "ETA 0:04:00" in _shown(read_status(tmp_path), clock.now)[0]


def test_all_failures_are_counted_and_the_last_hundred_kept(status_file: StatusFile, tmp_path: Path) -> None:
    for number in range(103):
        status_file.emit(SiteLeftOut(site="A", round=number, reason="late"))
    status = read_status(tmp_path)
    assert status.number_of_failures == 103
    assert [failure.round for failure in status.failures] == list(range(3, 103))


def test_at_the_end_the_file_says_how_and_nobody_is_awaited(status_file: StatusFile, tmp_path: Path) -> None:
    status_file.emit(_completed(3, 20.0, A=0.5))
    status_file.emit(SitesAwaited(sites=["B"], present=1, needed=2))
    status_file.end("Site B failed: disk is full")
    status = read_status(tmp_path)
    assert (status.ended, status.awaited, status.remaining) == ("Site B failed: disk is full", [], None)
    assert (status.round, status.rounds, status.dice) == (3, 10, {"A": 0.5})


def test_the_file_is_kept_up_to_date_while_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)
    times = itertools.count()

    def look() -> dict[str, Contact]:
        looked.release()
        return {"A": Contact(connected=True, at=next(times))}

    monkeypatch.setattr("fednnunet.report.status._WRITE_SECONDS", 0.01)
    status_file = StatusFile(tmp_path / "status.json", look)
    for _ in range(3):
        assert looked.acquire(timeout=60)
    assert read_status(tmp_path).sites["A"].at >= 1
    status_file.end("the test is over")


def test_a_full_disk_does_not_disturb_a_training(
    status_file: StatusFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    status_file.emit(_completed(3, 20.0))
    with monkeypatch.context() as full:
        full.setattr("os.fsync", fail)
        status_file.emit(_completed(4, 20.0))
    assert read_status(tmp_path).round == 3
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    status_file.emit(SiteTakenIn(site="A", round=4))
    assert read_status(tmp_path).round == 4


@pytest.mark.parametrize("folder", [".", "that is not there"])
def test_a_folder_that_is_no_run_folder_is_named_with_a_remedy(tmp_path: Path, folder: str) -> None:
    with pytest.raises(
        FednnUNetError, match=r"is not a run folder: it has no status.json; give the .*--run_dir"
    ) as caught:
        read_status(tmp_path / folder)
    assert str(tmp_path / folder) in str(caught.value)


def test_a_file_that_is_no_status_is_refused(tmp_path: Path) -> None:
    (tmp_path / "status.json").write_text(json.dumps({"title": "x", "round": "many"}))
    with pytest.raises(FednnUNetError, match=r"Status message is malformed: round"):
        read_status(tmp_path)


def _status(**changes: Any) -> Status:
    facts: dict[str, Any] = {
        "title": "training fold 0",
        "round": 37,
        "rounds": 100,
        "remaining": 3600.0,
        "sites": {"A": Contact(connected=True, at=BEGAN), "B": Contact(connected=False, at=BEGAN - 3600)},
        "dice": {"A": 0.81249},
        "updated": BEGAN,
    }
    return Status(**{**facts, **changes})


def test_the_screen_shows_round_eta_and_when_each_site_was_last_heard_of() -> None:
    lines = _shown(_status(), BEGAN + 4)
    assert lines[0] == "training fold 0 · round 37/100 · ETA 0:59:56"
    assert _rows(lines) == [["A", "yes", "0:00:04 ago", "0.8125"], ["B", "no", "1:00:04 ago", MISSING]]
    assert lines[-1] == "Failures so far: 0"
    assert not any("coordinator" in line or "Waiting" in line for line in lines)


@pytest.mark.parametrize(
    ("changes", "head"),
    [
        ({"remaining": None}, "training fold 0 · round 37/100"),
        ({"round": 100, "remaining": 0.0}, "training fold 0 · round 100/100"),
        ({"rounds": None, "remaining": None, "title": "waiting for sites"}, "waiting for sites"),
        ({"remaining": 1.0}, "training fold 0 · round 37/100 · ETA 0:00:00"),
    ],
)
def test_the_screen_says_no_more_of_the_time_than_is_known(changes: dict[str, Any], head: str) -> None:
    assert _shown(_status(**changes), BEGAN + 4)[0] == head


def test_the_screen_names_who_is_awaited() -> None:
    assert _shown(_status(awaited=["B", "others"]), BEGAN + 4)[1] == "Waiting for B, others"


def test_a_coordinator_that_has_been_silent_for_long_is_told_and_nobody_is_said_to_be_awaited() -> None:
    status = _status(awaited=["B"])
    assert _shown(status, BEGAN + 29)[1] == "Waiting for B"
    lines = _shown(status, BEGAN + 3700)
    assert lines[1] == "The coordinator has not been running for 1:01:40: start it with --c."
    assert not any("Waiting" in line for line in lines)


def test_a_coordinator_that_has_ended_is_not_called_silent() -> None:
    lines = _shown(_status(ended="The task is done."), BEGAN + 3700)
    assert lines[1] == "The coordinator has ended: The task is done."
    assert not any("not been running" in line for line in lines)


def test_the_screen_shows_the_last_failures_and_how_many_there_were() -> None:
    failures = [Failure(site="B", round=number, reason=f"reason {number}", at=BEGAN) for number in range(1, 13)]
    lines = _shown(_status(failures=failures, number_of_failures=250), BEGAN)
    start = lines.index("Failures so far: 250")
    assert [line.split(" · ", 1)[1] for line in lines[start + 1 :]] == [
        f"round {number} · B: reason {number}" for number in range(5, 13)
    ]


def test_what_a_site_says_cannot_steer_the_terminal() -> None:
    failure = Failure(site="[red]A", round=1, reason="gone\x1b[2J\nfor good", at=BEGAN)
    status = _status(awaited=["B\x1b[1m"], sites={"[b]A\x07": Contact(connected=True, at=BEGAN)}, failures=[failure])
    lines = _shown(status, BEGAN)
    assert lines[1] == "Waiting for B?[1m"
    assert _rows(lines)[0][0] == "[b]A?"
    assert lines[-1].endswith("round 1 · [red]A: gone?[2J?for good")


def test_updates_that_are_out_of_line_are_counted_and_the_last_hundred_kept(
    status_file: StatusFile, tmp_path: Path
) -> None:
    for number in range(1, 104):
        status_file.emit(UpdateOutOfLine(site="A", round=number, ratio=None if number % 2 else 7.5))
    status = read_status(tmp_path)
    assert status.number_out_of_line == 103
    assert [event.round for event in status.out_of_line] == list(range(4, 104))
    assert [event.ratio for event in status.out_of_line[-2:]] == [7.5, None]


def test_the_screen_shows_the_last_updates_that_were_out_of_line_if_there_were_any() -> None:
    assert not any("Outlier" in line for line in _shown(_status(), BEGAN))
    found = [UpdateOutOfLine(site="B\x07", round=number, ratio=number) for number in range(6, 12)]
    lines = _shown(_status(out_of_line=found, number_out_of_line=30), BEGAN)
    start = lines.index("Outlier updates so far: 30")
    assert lines[start + 1 :] == [
        f"  round {number} · B?: its update is {number} times the median of the others" for number in range(8, 12)
    ]
