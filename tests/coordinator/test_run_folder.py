"""What a training leaves on disk, whole and damaged: who comes back never goes on from something wrong."""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.run_folder import HISTORY, FoldFolder, RoundRecord, RunDescription, RunFolderError
from fednnunet.coordinator.run_folder import SharedTensors as Shared
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import RoundReport, Schedule
from fednnunet.weights.layout import Layout, TensorSpec
from fednnunet.weights.sharing import Group

STEM, HEAD = TensorSpec("stem", (2, 3), "float32"), TensorSpec("head", (5,), "float32")

Damage = Callable[[bytes], bytes]


def _description(**changes: Any) -> RunDescription:
    facts: dict[str, Any] = {
        "run": "one",
        "fold": 0,
        "sites": {"A": 7, "B": 5},
        "plans": {"A": "digest", "B": None},
        "schedule": Schedule(rounds=9, local_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=2),
        "averaging": Averaging("float32", "mean", "adam", 0.1),
        "flags": {"weighting": "cases", "keep_local": None, "asym_cohorts": False},
        "shared": [Shared(sites=["A", "B"], tensors=[STEM]), Shared(sites=["B"], tensors=[HEAD])],
    }
    return RunDescription(**{**facts, **changes})


def _record(number: int, **changes: Any) -> RoundRecord:
    report = RoundReport(train_loss=-0.5, val_loss=None, mean_dice=0.25 * number, dice={"liver": 0.5, "tumour": None})
    return RoundRecord(**{"round": number, "seconds": 1.5, "sites": {"A": report}, **changes})


def _state(value: float) -> dict[str, np.ndarray]:
    """What the coordinator keeps of two groups; long enough that no buffer holds all of it."""
    rng = np.random.default_rng(7)
    state = {name: rng.normal(value, size=5000).astype(np.float32) for name in ("0.weights", "0.mean", "1.weights")}
    return {**state, "1.step": np.array([value], np.float32)}


def _assert_same(state: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == array.dtype
        np.testing.assert_array_equal(state[name], array)


def _files(folder: FoldFolder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir() if path.name != "run_copy.json")


@pytest.fixture
def folder(tmp_path: Path) -> FoldFolder:
    folder = FoldFolder.of(tmp_path / "run", 0)
    folder.begin(_description())
    return folder


def _fill_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files be written, but never arrive on the disk."""

    def fail(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)


def test_a_model_comes_back_bit_by_bit_with_the_round_after_which_it_was_kept(folder: FoldFolder) -> None:
    state = _state(3)
    state["0.weights"][:4] = [np.nan, -np.inf, -0.0, np.finfo(np.float32).smallest_subnormal]
    folder.keep_model(12, state)
    number, kept = folder.last_model(12)
    assert number == 12
    assert {name: array.tobytes() for name, array in kept.items()} == {n: a.tobytes() for n, a in state.items()}
    _assert_same(kept, state)


def test_only_the_last_two_models_are_kept(folder: FoldFolder) -> None:
    for number in (0, 5, 10, 1_000_000):  # whose names have no common length
        folder.keep_model(number, _state(number))
    assert _files(folder) == ["model_000010.npz", "model_1000000.npz", "run.json"]
    assert folder.last_model(1_000_000)[0] == 1_000_000


def test_a_model_of_a_round_that_was_not_completed_is_of_no_use(folder: FoldFolder) -> None:
    folder.keep_model(3, _state(3))
    folder.keep_model(4, _state(4))
    number, state = folder.last_model(3)
    assert number == 3
    _assert_same(state, _state(3))


def _cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes, position: int, bits: int = 0xFF) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= bits
    return bytes(damaged)


@pytest.mark.parametrize(
    "damage",
    [
        _cut_in_half,
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: b"\0" * len(data),
        lambda data: _flip(data, len(data) // 2),
        lambda data: _flip(data, len(data) // 2, bits=1),
    ],
    ids=["cut in half", "without its last byte", "empty", "zeros", "with another byte", "with another bit"],
)
def test_a_damaged_model_is_told_and_the_one_before_is_taken(
    folder: FoldFolder, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    folder.keep_model(1, _state(1))
    folder.keep_model(2, _state(2))
    path = folder.path / "model_000002.npz"
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        number, state = folder.last_model(2)
    assert number == 1
    _assert_same(state, _state(1))
    (warning,) = caplog.messages
    assert f"{path} is damaged" in warning


def test_whichever_byte_is_damaged_no_wrong_number_is_taken(folder: FoldFolder) -> None:
    states = {number: _state(number) for number in (1, 2)}
    for number, state in states.items():
        folder.keep_model(number, state)
    path = folder.path / "model_000002.npz"
    data = path.read_bytes()
    wrong = []
    for position in [*range(200), *range(len(data) - 500, len(data))]:
        path.write_bytes(_flip(data, position, bits=0b110))
        try:
            number, state = folder.last_model(2)
            # names may be missing, where it is the list of names that is damaged: that is found when they are used
            for name, array in state.items():
                assert array.tobytes() == states[number][name].tobytes()
        except Exception as error:
            wrong.append((position, error))
    assert wrong == []


def test_without_a_model_that_can_be_read_the_user_is_told_what_to_do(folder: FoldFolder) -> None:
    for number in (1, 2):
        folder.keep_model(number, _state(number))
        path = folder.path / f"model_{number:06d}.npz"
        path.write_bytes(_cut_in_half(path.read_bytes()))
    with pytest.raises(FednnUNetError, match=r"fold_0 has no readable global model: start over"):
        folder.last_model(2)


def test_the_description_comes_back_as_it_was(folder: FoldFolder) -> None:
    description = _description(fold="all", averaging=Averaging("int8", "median", "none", None), finished=True)
    folder.describe(description)
    kept = folder.description()
    assert kept == description
    assert kept is not None
    assert kept.averaging == Averaging("int8", "median", "none", None)
    assert kept.groups == [Group(("A", "B"), Layout((STEM,))), Group(("B",), Layout((HEAD,)))]


def test_a_folder_that_is_not_there_holds_no_training(tmp_path: Path) -> None:
    folder = FoldFolder.of(tmp_path / "run", "all")
    assert folder.path == tmp_path / "run" / "fold_all"
    assert folder.description() is None
    assert folder.history() == []
    with pytest.raises(FednnUNetError, match="no readable global model"):
        folder.last_model(3)


@pytest.mark.parametrize(
    "damage",
    [
        _cut_in_half,
        lambda data: _flip(data, 3),
    ],
)
def test_a_damaged_description_is_named(folder: FoldFolder, damage: Damage) -> None:
    path = folder.path / "run.json"
    path.write_bytes(damage(path.read_bytes()))
    (folder.path / "run_copy.json").write_bytes(b"")
    with pytest.raises(FednnUNetError, match=r"fold_0/run\.json cannot be read"):
        folder.description()


def test_a_training_that_begins_forgets_the_one_before(folder: FoldFolder) -> None:
    folder.keep_model(1, _state(1))
    folder.append(_record(1))
    folder.begin(_description(run="two"))
    assert _files(folder) == ["run.json"]
    kept = folder.description()
    assert kept is not None
    assert kept.run == "two"


def test_a_training_that_is_described_has_a_model_to_go_on_from(
    folder: FoldFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[list[str]] = []
    describe = folder.describe
    monkeypatch.setattr(folder, "describe", lambda new: (described.append(_files(folder)), describe(new)))
    folder.begin(_description(run="two"), _state(0))
    assert described == [["model_000000.npz"]]
    _assert_same(folder.last_model(0)[1], _state(0))


def test_a_training_that_is_set_aside_is_whole_and_makes_place(folder: FoldFolder) -> None:
    folder.keep_model(1, _state(1))
    folder.append(_record(1))
    kept = folder.description()
    folder.set_aside()
    assert folder.description() is None
    (aside,) = folder.path.parent.glob("fold_0_until_*")
    moved = FoldFolder(aside)
    assert moved.description() == kept
    assert moved.history() == [_record(1)]
    _assert_same(moved.last_model(1)[1], _state(1))
    folder.begin(_description(run="two"))
    assert sorted(folder.path.parent.iterdir()) == [folder.path, aside]


def test_the_history_holds_what_happened_in_each_round(folder: FoldFolder) -> None:
    records = [_record(1), _record(2, attempts=3, left_out={"B": 'said "no"\nand left'}), _record(3)]
    for record in records:
        folder.append(record)
    assert folder.history() == records


def test_a_round_keeps_the_norms_of_its_updates_and_one_from_before_there_were_any_can_be_read(
    folder: FoldFolder,
) -> None:
    new = _record(2, norms={"A": 0.0, "B": 1e-9, "C": 6.8e38})
    folder.append(_record(1))
    folder.append(new)
    path = folder.path / HISTORY
    assert path.read_text().count(',"norms":{}') == 1
    path.write_text(path.read_text().replace(',"norms":{}', ""))
    assert folder.history() == [_record(1), new]


@pytest.mark.parametrize("odd", ["\x0b", "\x1c", "\x85", "\u2028", "\u2029"])
def test_no_reason_that_a_site_gives_ends_the_history(folder: FoldFolder, odd: str) -> None:
    records = [_record(1, left_out={"B": f"disk{odd}full"}), _record(2)]
    for record in records:
        folder.append(record)
    assert folder.history() == records


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda text: text + b'{"round":4,"seconds":1.', [1, 2, 3]),
        (lambda text: text[:-20], [1, 2]),
        (lambda text: text + b"\0" * 50, [1, 2, 3]),
        (lambda text: text.replace(b'{"round":2', b'{"round":\xff'), [1, 3]),
        (lambda text: text + _record(3).to_json().encode() + b"\n", [1, 2, 3]),
        (lambda text: b"", []),
    ],
    ids=["torn line", "torn end", "zeros", "damaged in between", "twice", "empty"],
)
def test_a_line_of_the_history_that_cannot_be_read_costs_only_itself(
    folder: FoldFolder, damage: Damage, left: list[int]
) -> None:
    for number in (1, 2, 3):
        folder.append(_record(number))
    path = folder.path / HISTORY
    path.write_bytes(damage(path.read_bytes()))
    assert [record.round for record in folder.history()] == left
    last = left[-1] if left else 0
    folder.forget_after(last)
    folder.append(_record(last + 1))
    assert folder.history() == [_record(number) for number in (*left, last + 1)]


def test_later_rounds_are_forgotten_with_their_models(folder: FoldFolder) -> None:
    for number in (1, 2, 3):
        folder.append(_record(number))
    for number in (2, 3):
        folder.keep_model(number, _state(number))
    folder.forget_after(2)
    assert folder.history() == [_record(1), _record(2)]
    assert _files(folder) == ["history.jsonl", "model_000002.npz", "run.json"]
    folder.forget_after(7)
    assert folder.history() == [_record(1), _record(2)]


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: folder.describe(_description(run="two")),
        lambda folder: folder.keep_model(2, _state(2)),
        lambda folder: folder.append(_record(2)),
        lambda folder: folder.forget_after(1),
    ],
    ids=["describe", "keep_model", "append", "forget_after"],
)
def test_a_full_disk_is_told_with_what_to_do_and_takes_nothing_away(
    folder: FoldFolder, write: Callable[[FoldFolder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.keep_model(1, _state(1))
    folder.append(_record(1))
    files = _files(folder)
    _fill_disk(monkeypatch)
    with pytest.raises(RunFolderError, match=r"No space left on device.*start the coordinator again with --c"):
        write(folder)
    assert _files(folder) == files
    kept = folder.description()
    assert kept is not None
    assert kept.run == "one"
    assert folder.history()[0] == _record(1)
    _assert_same(folder.last_model(1)[1], _state(1))


def _refuse(path: Path, *_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", str(path))


@pytest.mark.parametrize(
    ("broken", "write"),
    [
        ("shutil.rmtree", lambda folder: folder.begin(_description(run="two"))),
        ("pathlib.Path.mkdir", lambda folder: folder.describe(_description(run="two"))),
        ("pathlib.Path.rename", lambda folder: folder.set_aside()),
        ("pathlib.Path.open", lambda folder: folder.append(_record(2))),
    ],
    ids=["begin", "describe", "set_aside", "append"],
)
def test_a_folder_that_cannot_be_changed_is_told_by_name(
    folder: FoldFolder, broken: str, write: Callable[[FoldFolder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, _refuse)
    with pytest.raises(RunFolderError, match=r"Permission denied, .*fold_0"):
        write(folder)


@pytest.mark.parametrize(
    "write", [lambda folder: folder.keep_model(9, _state(9)), lambda folder: folder.forget_after(1)]
)
def test_an_old_model_that_cannot_be_removed_is_told_by_name(
    folder: FoldFolder, write: Callable[[FoldFolder], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        folder.keep_model(number, _state(number))
    unlink = Path.unlink

    def keep_models(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".npz":
            _refuse(path)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", keep_models)
    with pytest.raises(RunFolderError, match=r"Permission denied, .*model_00000[12].npz"):
        write(folder)


def test_a_round_is_kept_once_there_are_descriptors_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = FoldFolder(tmp_path)
    monkeypatch.setattr("fednnunet.files._PAUSE_SECONDS", 0.0)
    failures, opened = [errno.EMFILE] * 3, Path.open

    def open_(path: Path, *words: Any, **named: Any) -> Any:
        if failures:
            raise OSError(failures.pop(), "Too many open files", str(path))
        return opened(path, *words, **named)

    monkeypatch.setattr(Path, "open", open_)
    folder.keep_model(1, _state(1.0))
    failures += [errno.EMFILE] * 3
    folder.append(_record(1))
    assert [record.round for record in folder.history()] == [1]
    _assert_same(folder.last_model(1)[1], _state(1.0))
