from fednnunet.report.events import EventFile, EventReader, Finished, StageStarted, UpdateOutOfLine


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
    stage = StageStarted(title="training fold 0", rounds=10)
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
