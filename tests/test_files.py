"""A file is as before or complete, whatever happens while it is written."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fednnunet.files import replacing, write_json


def _write_and_fail(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise ValueError("no more")


def _write_nothing(path: Path) -> None:
    with replacing(path):
        pass


def _write_what_is_no_json(path: Path) -> None:
    write_json({"first": 1, "second": object()}, path)


def _disk_is_full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _assert_as_before(path: Path) -> None:
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kept.json"
    path.write_text("old")
    return path


@pytest.mark.parametrize(
    ("write", "error"),
    [(_write_and_fail, ValueError), (_write_nothing, FileNotFoundError), (_write_what_is_no_json, TypeError)],
)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    path: Path, write: Callable[[Path], None], error: type[Exception]
) -> None:
    with pytest.raises(error):
        write(path)
    _assert_as_before(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, step, _disk_is_full)
    with pytest.raises(OSError, match="No space left"):
        write_json({"new": 1}, path)
    _assert_as_before(path)


def test_a_write_that_fails_where_there_was_no_file_leaves_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no more"):
        _write_and_fail(tmp_path / "new folder" / "file")
    assert list((tmp_path / "new folder").iterdir()) == []


def test_the_new_content_is_on_the_disk_before_it_takes_the_place_of_the_old(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def sync(number: int) -> None:
        synced.append((os.fstat(number).st_ino, path.read_text()))

    monkeypatch.setattr(os, "fsync", sync)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert synced == [(path.stat().st_ino, "old"), (path.parent.stat().st_ino, "new")]
    assert list(path.parent.iterdir()) == [path]


def test_what_a_process_left_that_died_while_writing_does_not_matter(path: Path) -> None:
    path.with_name(path.name + ".tmp").write_text("half of something that was longer than what comes now")
    write_json({"b": 1, "a": [2]}, path)
    assert list(json.loads(path.read_text()).items()) == [("b", 1), ("a", [2])]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_file_is_written_once_there_is_a_descriptor_for_it(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [OSError(number, os.strerror(number))] * 3
    monkeypatch.setattr("fednnunet.files._PAUSE_SECONDS", 0.0)

    def save(content: dict[str, Any], path: str, sort_keys: bool) -> None:
        if failures:
            raise failures.pop()
        Path(path).write_text(json.dumps(content))

    monkeypatch.setattr("fednnunet.files.save_json", save)
    write_json({"a": 1}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert not failures


def test_what_fails_for_another_reason_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def save(content: dict[str, Any], path: str, sort_keys: bool) -> None:
        tried.append(path)
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("fednnunet.files.save_json", save)
    with pytest.raises(OSError, match="full"):
        write_json({}, tmp_path / "a.json")
    assert len(tried) == 1
