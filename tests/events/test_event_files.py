import errno
import os

import pytest

from fednnunet.events.event_files import EventFile, EventReader, RunFile, begins_planning, begins_training
from fednnunet.events.events import (
    Finished,
    FoldValidated,
    SharingAgreed,
    SiteJoined,
    SiteProgress,
    SiteShare,
    StageStarted,
    UpdateOutOfLine,
    WorkProgressed,
)


def test_reader_of_a_file_that_does_not_exist_yet_waits_for_it(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert list(reader.new_events()) == []
    EventFile(path).emit(Finished(seconds=1.0))
    assert list(reader.new_events()) == [Finished(seconds=1.0)]
    assert list(reader.new_events()) == []


def test_reader_leaves_a_line_that_is_not_complete_for_the_next_call(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    stage = StageStarted(stage="training", fold="0", rounds=10)
    text = stage.to_json() + "\n" + Finished(seconds=2.0).to_json() + "\n"
    with path.open("w") as file:
        file.write(text[: len(stage.to_json()) + 10])
        file.flush()
        assert list(reader.new_events()) == [stage]
        assert list(reader.new_events()) == []
        file.write(text[len(stage.to_json()) + 10 :])
        file.flush()
        assert list(reader.new_events()) == [Finished(seconds=2.0)]


def test_an_update_out_of_line_is_read_as_it_was_written_with_and_without_a_number(tmp_path):
    path = tmp_path / "events.jsonl"
    events = [UpdateOutOfLine(site="A", round=3, ratio=ratio) for ratio in (12.5, 1e300, None)]
    for event in events:
        EventFile(path).emit(event)
    assert list(EventReader(path).new_events()) == events


def work(done):
    return WorkProgressed(sites={"A": SiteProgress(done=done, total=100)})


def training(first_round=1, fold="0"):
    return StageStarted(stage="training", fold=fold, rounds=10, first_round=first_round)


def sharing(*sites, parameters=100):
    share = SiteShare(tensors=2, of_tensors=2, parameters=parameters, of_parameters=parameters)
    return SharingAgreed(sites=dict.fromkeys(sites, share))


JOINED = SiteJoined(site="A", cases=1, joined=1, expected=1)
PREPARING = StageStarted(stage="preparing", fold="0")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def run_file(path, continues=False, begins=begins_training, clock=None):
    return RunFile(path, continues, begins, clock or Clock())


def read(path):
    return list(EventReader(path).new_events())


@pytest.mark.parametrize("torn", [b'{"event":"finis', b'{"event":"finished","seconds":1.0}', b"\xff\x00", b"[1]\n{"])
def test_a_torn_last_line_breaks_neither_the_next_append_nor_the_reader(tmp_path, torn):
    path = tmp_path / "events.jsonl"
    EventFile(path).emit(training())
    with path.open("ab") as file:
        file.write(torn)
    reader = EventReader(path)
    assert list(reader.new_events()) == [training()]
    EventFile(path).emit(Finished(seconds=2.0))
    # the line may have been complete but for its end
    whole = [Finished(seconds=1.0)] if torn.endswith(b"}") else []
    assert list(reader.new_events()) == [*whole, Finished(seconds=2.0)]
    assert read(path) == [training(), *whole, Finished(seconds=2.0)]


def test_an_event_of_a_later_version_is_passed_over(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_text('{"event":"sites_have_danced"}\n' + Finished(seconds=1.0).to_json() + "\n")
    assert read(path) == [Finished(seconds=1.0)]


def test_a_full_disk_is_told_once_and_what_comes_when_there_is_room_again_can_be_read(tmp_path, monkeypatch, caplog):
    path = tmp_path / "events.jsonl"
    file = EventFile(path)
    file.emit(training())
    write, room = os.write, [5, 0, 10**6]

    def limited(number, data):
        space = room[0]
        if space == 0:
            room.pop(0)
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= min(space, len(data))
        return write(number, data[:space])

    monkeypatch.setattr(os, "write", limited)
    for seconds in (1.0, 2.0, 3.0):
        file.emit(Finished(seconds=seconds))
    assert caplog.messages == [f"Events cannot be written to {path} (No space left on device); the run continues."]
    assert read(path) == [training(), Finished(seconds=3.0)]


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, caplog):
    (tmp_path / "file").touch()
    file = EventFile(tmp_path / "file" / "events.jsonl")
    file.emit(training())
    file.emit(training())
    assert len(caplog.messages) == 1


def test_a_reader_follows_a_file_that_is_begun_anew(tmp_path):
    path = tmp_path / "events.jsonl"
    file = EventFile(path)
    for _ in range(5):
        file.emit(training())
    reader = EventReader(path)
    assert len(list(reader.new_events())) == 5
    file.clear()
    file.emit(Finished(seconds=1.0))
    assert list(reader.new_events()) == [Finished(seconds=1.0)]


def test_a_run_that_begins_takes_the_place_of_the_last_one_and_one_that_continues_goes_on_with_it(tmp_path):
    path = tmp_path / "run" / "events.jsonl"
    first = run_file(path)
    for event in (JOINED, PREPARING, training()):
        first.emit(event)
    assert read(path) == [JOINED, PREPARING, training()]
    second = run_file(path)
    for event in (JOINED, training(), Finished(seconds=1.0), training(), Finished(seconds=2.0)):
        second.emit(event)
    assert read(path) == [JOINED, training(), Finished(seconds=1.0), training(), Finished(seconds=2.0)]
    third = run_file(path, continues=True)
    third.emit(JOINED)
    third.emit(training(4))
    assert read(path)[5:] == [JOINED, training(4)]


@pytest.mark.parametrize(
    ("agreed", "fold", "adds"),
    [
        (sharing("A", "B"), "1", True),
        (sharing("B", "A"), "all", True),
        (sharing("A", "B"), "0", False),
        (sharing("A", "C"), "1", False),
        (sharing("A", "B", parameters=200), "1", False),
        (None, "1", False),
    ],
)
def test_another_fold_of_the_same_networks_is_added(tmp_path, agreed, fold, adds):
    path = tmp_path / "events.jsonl"
    kept = [JOINED, sharing("A", "B"), training(), Finished(seconds=1.0)]
    for event in kept:
        EventFile(path).emit(event)
    new = [JOINED, *([agreed] if agreed else []), training(fold=fold)]
    file = run_file(path)
    for event in new:
        file.emit(event)
    assert read(path) == (kept + new if adds else new)


def test_a_run_that_is_refused_leaves_the_events_of_the_training_alone(tmp_path):
    path = tmp_path / "events.jsonl"
    EventFile(path).emit(training())
    refused = run_file(path)
    refused.emit(JOINED)
    refused.close()
    assert read(path) == [training()]


def test_a_run_that_validates_only_goes_on_with_the_events_of_the_training(tmp_path):
    path = tmp_path / "events.jsonl"
    EventFile(path).emit(training())
    validated = FoldValidated(fold="0", sites={})
    validating = run_file(path)
    for event in (JOINED, PREPARING, validated, Finished(seconds=1.0)):
        validating.emit(event)
    assert read(path) == [training(), JOINED, PREPARING, validated, Finished(seconds=1.0)]


def test_planning_begins_anew_with_its_first_stage(tmp_path):
    path = tmp_path / "events.jsonl"
    EventFile(path).emit(Finished(seconds=1.0))
    file = run_file(path, begins=begins_planning)
    stage = StageStarted(stage="reading")
    file.emit(JOINED)
    file.emit(stage)
    assert read(path) == [JOINED, stage]


def test_of_reports_of_work_one_a_second_is_kept_and_the_last(tmp_path):
    path, clock = tmp_path / "events.jsonl", Clock()
    file = run_file(path, continues=True, clock=clock)
    for done in range(1, 31):
        file.emit(work(done))
        clock.now += 0.125
    assert [event.done for event in read(path)] == [1, 9, 17, 25]
    file.emit(Finished(seconds=1.0))
    assert read(path)[4:] == [work(30), Finished(seconds=1.0)]
    for _ in range(5):
        file.emit(work(30))  # no news
        clock.now += 1
    file.emit(work(31))
    clock.now += 0.5
    file.emit(work(32))
    file.close()
    assert read(path)[6:] == [work(31), work(32)]
