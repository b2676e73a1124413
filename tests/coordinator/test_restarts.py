"""A coordinator that is started again: what is intact is gone on from, and nothing of it is lost for a mistake."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder, alone_in
from fednnunet.errors import FednnUNetError
from fednnunet.files import alone
from tests.coordinator.training_federation import Trainer, run_training


class _StopAfter:
    """Ends the coordinator, as a signal would, after a round."""

    def __init__(self, number: int) -> None:
        self.number = number

    def emit(self, event: object) -> None:
        if getattr(event, "round", None) == self.number and type(event).__name__ == "RoundCompleted":
            raise KeyboardInterrupt


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    run_training(tmp_path, [Trainer("A"), Trainer("B")], "--rounds", "4", sink=_StopAfter(3))
    assert [record.round for record in FoldFolder.of(tmp_path, 0).history()] == [1, 2, 3]
    return tmp_path


def _go_on(run_dir: Path, *flags: str) -> tuple[BaseException | None, list[int], list[Trainer]]:
    nodes = [Trainer("A"), Trainer("B")]
    federation, events = run_training(run_dir, nodes, "--c", *(flags or ("--rounds", "4")))
    return federation.error, [event.round for event in events.rounds], nodes


@pytest.mark.parametrize("flags", [("--rounds", "5"), ("--rounds", "4", "--aggregation", "median")])
def test_nodes_wait_for_another_try_after_one_that_is_refused(stopped: Path, flags: tuple[str, ...]) -> None:
    error, rounds, nodes = _go_on(stopped, *flags)
    assert isinstance(error, CanGoOnError)
    assert "continue it with the same" in str(error)
    assert rounds == []
    assert [node.farewell for node in nodes] == ["none was said"] * 2
    error, rounds, nodes = _go_on(stopped)
    assert (error, rounds) == (None, [4])
    assert [node.farewell for node in nodes] == [None, None]


@pytest.mark.parametrize("damage", ["gone", "empty", "garbage", "only the first line", "a directory of bytes"])
def test_without_its_history_a_training_goes_on_from_its_models(stopped: Path, damage: str) -> None:
    path = FoldFolder.of(stopped, 0).path / "history.jsonl"
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(
            {"empty": b"", "garbage": b"\x00\xff" * 99, "only the first line": content.split(b"\n")[0] + b"\n"}.get(
                damage, b"\n\n{}\n"
            )
        )
    error, rounds, nodes = _go_on(stopped)
    assert error is None
    assert rounds == [3, 4]  # whether the last model's round was complete, nobody knows any more
    assert nodes[0].starts == [2]
    assert (FoldFolder.of(stopped, 0).last_model(4)[1]["0.weights"] == 4).all()


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"run": 1}', b"\xff\xfe"])
def test_without_what_was_agreed_the_copy_is_taken(stopped: Path, content: bytes | None) -> None:
    path = FoldFolder.of(stopped, 0).path / "run.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    error, rounds, _ = _go_on(stopped)
    assert (error, rounds) == (None, [4])
    assert json.loads(path.read_text())["finished"] is True


@pytest.mark.parametrize("name", ["run.json", "run_copy.json"])
def test_there_are_two_again_as_soon_as_the_training_goes_on(stopped: Path, name: str) -> None:
    folder = FoldFolder.of(stopped, 0).path
    before = (folder / name).read_text()
    (folder / name).unlink()
    run_training(stopped, [Trainer("A"), Trainer("B")], "--rounds", "4", "--c", sink=_StopAfter(4))
    assert (folder / name).read_text() == before


@pytest.mark.parametrize("flags", [("--c",), ()])
def test_where_the_copy_is_lost_too_no_model_is_touched(stopped: Path, flags: tuple[str, ...]) -> None:
    folder = FoldFolder.of(stopped, 0)
    for name in ("run.json", "run_copy.json"):
        (folder.path / name).unlink()
    nodes = [Trainer("A"), Trainer("B")]
    federation, _ = run_training(stopped, nodes, "--rounds", "4", *flags)
    assert "The models beside it are intact (of rounds 1, 2, 3)" in str(federation.error)
    assert "--overwrite" not in str(federation.error)
    assert folder.models() == [1, 2, 3]
    assert (folder.last_model(3)[1]["0.weights"] == 3).all()


def test_a_damaged_training_that_is_overwritten_is_set_aside_with_its_models(stopped: Path) -> None:
    for name in ("run.json", "run_copy.json"):
        (FoldFolder.of(stopped, 0).path / name).unlink()
    federation, _ = run_training(stopped, [Trainer("A"), Trainer("B")], "--rounds", "4", "--overwrite")
    assert federation.error is None
    (aside,) = stopped.glob("fold_0_until_*")
    assert FoldFolder(aside).models() == [1, 2, 3]


def test_only_one_is_at_work_in_a_folder_and_the_lock_of_a_dead_one_blocks_nobody(tmp_path: Path) -> None:
    with (
        alone_in(tmp_path),
        pytest.raises(FednnUNetError, match="Another coordinator is running in"),
        alone_in(tmp_path),
    ):
        pass
    with alone_in(tmp_path):  # the file is still there
        pass
    reader, writer = os.pipe()
    held = multiprocessing.get_context("fork").Process(target=_die_with_lock, args=(tmp_path, writer))
    held.start()
    assert os.read(reader, 1) == b"x"
    held.join(60)
    with alone_in(tmp_path):
        pass


def _die_with_lock(path: Path, writer: int) -> None:
    with alone_in(path):
        os.write(writer, b"x")
        os._exit(9)


def test_a_worker_that_outlives_its_process_does_not_keep_the_lock(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with alone(tmp_path / "lock", "taken"):
        worker = multiprocessing.get_context("fork").Process(target=os.read, args=(reader, 1))
        worker.start()
    with alone(tmp_path / "lock", "taken"):
        pass
    os.write(writer, b"x")
    worker.join(60)


def test_a_lock_needs_a_folder_that_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FednnUNetError, match="cannot be written"), alone_in(tmp_path / "file"):
        pass
    shutil.rmtree(tmp_path)
