from fednnunet.report.events import EventFile, EventReader, Finished, StageStarted


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
