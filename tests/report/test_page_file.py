import errno
import os
import threading

import pytest

from fednnunet.events.event_files import EVENTS, EventFile
from fednnunet.events.events import Finished, StageStarted
from fednnunet.report import page_file
from fednnunet.report.page_file import REPORT, PageFile
from tests.report.page.made_up import SITES, a_round, a_training


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(page_file, "_SHORTEST_PAUSE", 0.0)
    monkeypatch.setattr(page_file, "_SHARE_OF_TIME", float("inf"))


def test_the_page_at_the_end_shows_all_events(tmp_path):
    with PageFile(tmp_path / REPORT) as page:
        for event in [*a_training(7, SITES), Finished(seconds=61)]:
            page.emit(event)
    text = (tmp_path / REPORT).read_text()
    assert "finished after 0:01:01" in text
    assert "<dd>7 of 7</dd>" in text
    assert [path.name for path in tmp_path.iterdir()] == [REPORT]


def test_the_page_shows_also_what_came_before_the_coordinator_was_started_again(tmp_path):
    file = EventFile(tmp_path / EVENTS)
    for event in a_training(3, SITES, of_rounds=9):
        file.emit(event)
    with (tmp_path / EVENTS).open("a") as damaged:
        damaged.write('{"event":"round_com\n')
    with PageFile(tmp_path / REPORT, tmp_path / EVENTS) as page:
        for event in (StageStarted(stage="training", fold="0", rounds=9, first_round=4), a_round(4, 9, SITES)):
            file.emit(event)
            page.emit(event)
    text = (tmp_path / REPORT).read_text()
    assert "<dd>4 of 9</dd>" in text
    assert "Of 4 complete rounds" in text


def test_the_page_begins_anew_with_the_file_of_events(tmp_path):
    file, shown = EventFile(tmp_path / EVENTS), threading.Semaphore(0)
    for event in a_training(3, SITES, of_rounds=9):
        file.emit(event)
    with PageFile(tmp_path / REPORT, tmp_path / EVENTS, lambda _: shown.release()) as page:
        assert shown.acquire(timeout=60)
        file.clear()
        for event in a_training(1, SITES, of_rounds=5):
            file.emit(event)
            page.emit(event)
    text = (tmp_path / REPORT).read_text()
    assert "<dd>1 of 5</dd>" in text
    assert "Of 1 complete round" in text


def test_a_page_is_there_from_the_start_and_after_each_event_and_events_never_wait(tmp_path):
    pages: list[bytes] = []
    shown, go_on = threading.Semaphore(0), threading.Event()

    def show(page: bytes) -> None:
        pages.append(page)
        shown.release()
        assert go_on.wait(60)

    with PageFile(None, on_change=show) as page:
        assert shown.acquire(timeout=60)
        for number in range(1, 6):  # while the first page is being shown
            page.emit(a_round(number, 9, SITES))
        go_on.set()
        assert shown.acquire(timeout=60)
        assert b"waiting for sites" in pages[0]
        assert b"<dd>5 of 9</dd>" in pages[1]
    assert len(pages) == 2


def test_a_full_disk_does_not_disturb_a_training_and_is_told_once(tmp_path, monkeypatch, caplog):
    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shown = threading.Semaphore(0)
    with monkeypatch.context() as full:
        full.setattr("os.fsync", fail)  # before the first page
        with PageFile(tmp_path / REPORT, on_change=lambda _: shown.release()) as page:
            for number in (1, 2, 3):
                assert shown.acquire(timeout=60)
                page.emit(a_round(number, 9, SITES))
    assert list(tmp_path.iterdir()) == []
    assert caplog.text.count("cannot be written (No space left on device): free disk space.") == 1


def test_whatever_goes_wrong_with_the_page_does_not_disturb_a_training(tmp_path, monkeypatch, caplog):
    def fail(*_: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("fednnunet.report.page.parts.parts_of_run", fail)
    with PageFile(tmp_path / REPORT) as page:
        page.emit(Finished(seconds=1))
    assert "The report page cannot be written (ZeroDivisionError: no)." in caplog.text


def test_the_last_page_is_written_when_the_run_fails(tmp_path):
    def run() -> None:
        with PageFile(tmp_path / REPORT) as page:
            page.emit(a_round(1, 9, SITES))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert "<dd>1 of 9</dd>" in (tmp_path / REPORT).read_text()
