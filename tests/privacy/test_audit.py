"""The audit log: a chain that tells whatever was changed, written before anything is sent."""

import argparse
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import stat
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fednnunet.cli.audit import add_arguments, run_audit
from fednnunet.errors import FednnUNetError
from fednnunet.privacy.audit import AuditLog, Receipt, Verification, read_receipts, verify
from fednnunet.privacy.audit.entries import LONGEST_LINE, MOST_SUMMED_UP, NOTHING, TORN, Direction
from fednnunet.report.formats import MISSING

BEGAN = 1_700_000_000.25
BEGAN_AS_TEXT = "2023-11-14T22:13:20.250000+00:00"

Steps = list[tuple[bool, Direction, str, list[bytes]]]
STEPS: st.SearchStrategy[Steps] = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from(["out", "in"]),
        st.sampled_from(["update", "metrics", "contact"]),
        st.lists(st.binary(max_size=20), max_size=2),
    ),
    min_size=1,
    max_size=8,
)


def _log(path: Path, **changes: Any) -> AuditLog:
    return AuditLog(path, **{"site": "A", "task": "train", "clock": lambda: BEGAN, **changes})


def _written(path: Path, entries: int) -> tuple[int, str]:
    """Write so many entries, and return the head."""
    with contextlib.closing(_log(path)) as log:
        for number in range(entries):
            log.append("out", "update", [b"x" * number], round=number)
        return log.head


def _entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_chain(content: bytes) -> bool:
    """Check a chain in a second way, with nothing but json and hashlib."""
    previous, number, incomplete = "0" * 64, 1, []
    if not content.endswith(b"\n"):
        return content == b""
    for line in content[:-1].split(b"\n"):
        try:
            entry = json.loads(line)
        except ValueError:
            incomplete.append(line)
            continue
        if (entry["previous"], entry["number"]) != (previous, number):
            return False
        if (entry["kind"] == "torn") != bool(incomplete):
            return False
        if incomplete and entry["sha256"] != _sha256(b"\n".join(incomplete)):
            return False
        incomplete.clear()
        previous, number = _sha256(line), number + 1
    return not incomplete


class _Disk:
    """Takes the first bytes of a write, as a full disk does, for as often as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._write = os.write
        self._left: list[float] = []
        self.calls = 0
        monkeypatch.setattr(os, "write", self)

    def fill(self, *shares: float) -> None:
        """Let the next writes be cut short after such shares of their bytes; then there is room again."""
        self._left = list(shares)

    def __call__(self, file: int, content: bytes) -> int:
        self.calls += 1
        if not self._left:
            return self._write(file, content)
        length = int(len(content) * self._left.pop(0))
        if length:
            self._write(file, content[:length])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> _Disk:
    return _Disk(monkeypatch)


def _replace(path: Path, content: bytes) -> None:
    path.unlink()  # file systems wait for the disk when a file is emptied and written again
    path.write_bytes(content)


@contextlib.contextmanager
def _quick_folder() -> Iterator[Path]:
    """Give a folder, and do not wait for the disk: what is tested with many examples is what is written."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "fsync", lambda file: None)
        yield Path(folder)


@contextlib.contextmanager
def _random_log(steps: Steps) -> Iterator[tuple[Path, tuple[int, str]]]:
    """Give a log that was written by appending and counting at random, and its head."""
    with _quick_folder() as folder:
        path = folder / "audit.jsonl"
        with contextlib.closing(_log(path)) as log:
            for is_counted, direction, kind, payload in steps:
                if is_counted:
                    log.count(direction, kind, payload)
                else:
                    log.append(direction, kind, payload, shapes={"weights": [len(payload)]})
        yield path, log.head


def _is_found(path: Path, receipt: tuple[int, str] | None = None) -> bool:
    try:
        verify(path, receipt)
    except FednnUNetError:
        return True
    return False


def test_an_entry_says_what_its_message_is_and_nothing_of_what_is_in_it(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        log.run = "run-1"
        log.append("out", "update", [b"secret", memoryview(b"weights")], ["body"], {"data": (3, 2)}, round=7)
    assert _entries(path) == [
        {
            "number": 1,
            "previous": "0" * 64,
            "time": BEGAN_AS_TEXT,
            "run": "run-1",
            "task": "train",
            "site": "A",
            "round": 7,
            "direction": "out",
            "kind": "update",
            "fields": ["body"],
            "shapes": {"data": [3, 2]},
            "bytes": 13,
            "messages": 1,
            "sha256": _sha256(b"secretweights"),
            "decision": "sent",
        }
    ]
    assert b"secret" not in path.read_bytes()


def test_a_decision_is_written_down_as_it_is_given_and_else_tells_the_direction(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("in", "schedule", [])
        log.append("out", "fingerprint", [b"12"], decision="withheld: fingerprint.min_cases")
    assert [entry["decision"] for entry in _entries(path)] == ["received", "withheld: fingerprint.min_cases"]


def test_each_entry_holds_the_hash_of_the_line_before(path: Path) -> None:
    head = _written(path, 5)
    lines = path.read_bytes().splitlines()
    assert [entry["number"] for entry in _entries(path)] == [1, 2, 3, 4, 5]
    assert [entry["previous"] for entry in _entries(path)] == [NOTHING, *(_sha256(line) for line in lines[:-1])]
    assert head == (5, _sha256(lines[-1]))


def test_an_entry_is_on_the_disk_when_append_returns_and_was_written_at_once(
    path: Path, disk: _Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    with contextlib.closing(_log(path)) as log:
        monkeypatch.setattr(os, "fsync", lambda file: synced.append(path.read_bytes().count(b"\n")))
        log.append("out", "update", [b"x"])
        assert len(_entries(path)) == 1
        log.append("out", "update", [b"y"])
    assert disk.calls == 2
    assert synced == [1, 2]


def test_only_the_user_can_read_a_new_log(path: Path) -> None:
    _log(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_messages_that_are_counted_make_one_entry_of_each_kind_before_the_next_one(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        for payload in (b"a", b"bc", b"d"):
            log.count("out", "contact", [payload])
            log.count("in", "contact", [])
        assert path.read_bytes() == b""
        log.append("out", "update", [b"weights"])
    assert [(entry["direction"], entry["kind"], entry["messages"], entry["bytes"]) for entry in _entries(path)] == [
        ("out", "contact", 3, 4),
        ("in", "contact", 3, 0),
        ("out", "update", 1, 7),
    ]
    assert _entries(path)[0]["sha256"] == _sha256(b"abcd")


def test_what_was_counted_in_different_rounds_stays_apart(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        for round_number in (1, 1, 2):
            log.count("out", "contact", [b"a"], round=round_number)
    assert [(entry["round"], entry["messages"]) for entry in _entries(path)] == [(1, 2), (2, 1)]


@pytest.mark.parametrize("end", [AuditLog.flush, AuditLog.close])
def test_what_was_counted_is_written_at_the_end(path: Path, end: Callable[[AuditLog], None]) -> None:
    log = _log(path)
    log.count("out", "contact", [b"a"])
    end(log)
    assert [entry["messages"] for entry in _entries(path)] == [1]
    log.close()
    assert len(_entries(path)) == 1


def test_counting_goes_on_for_no_more_than_so_many_messages_of_all_kinds(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        for number in range(MOST_SUMMED_UP):
            log.count("out" if number % 2 else "in", "contact", [b"a"])
        assert path.read_bytes() == b""
        log.count("out", "contact", [b"a"])
        assert [entry["messages"] for entry in _entries(path)] == [MOST_SUMMED_UP // 2] * 2
    assert verify(path).out == {"contact": MOST_SUMMED_UP // 2 + 1}


def test_nothing_is_appended_to_a_log_that_is_closed(path: Path) -> None:
    log = _log(path)
    log.close()
    for write in (log.append, log.count):
        with pytest.raises(FednnUNetError, match="is closed"):
            write("out", "update", [b"x"])
    assert path.read_bytes() == b""


def test_an_entry_that_is_too_long_is_refused_and_the_chain_goes_on(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        with pytest.raises(FednnUNetError, match=r"too long .* nothing is sent"):
            log.append("out", "update", [], fields=["x" * LONGEST_LINE])
        log.append("out", "update", [b"x"])
    assert verify(path).entries == 1


def test_a_name_that_utf8_cannot_express_is_no_reason_to_stop(path: Path) -> None:
    with contextlib.closing(_log(path, site="Z\udcfcrich")) as log:
        log.append("out", "update", [], fields=["\ud800"])
    assert verify(path).sites == {"Z?rich"}


# --- the chain


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_a_log_is_whole_by_both_ways_to_check_it_and_sums_up_to_what_was_sent(steps: Steps) -> None:
    with _random_log(steps) as (path, head):
        found = verify(path, head)
        content = path.read_bytes()
    assert _is_chain(content)
    assert found.head == head == (content.count(b"\n"), _sha256(content.splitlines()[-1]))
    for direction, totals in (("out", found.out), ("in", found.received)):
        wanted: dict[str, int] = {}
        for _, way, kind, payload in steps:
            if way == direction:
                wanted[kind] = wanted.get(kind, 0) + sum(len(part) for part in payload)
        assert totals == wanted


@settings(max_examples=200, deadline=None)
@given(STEPS, st.data())
def test_any_byte_that_was_changed_is_found(steps: Steps, data: st.DataObject) -> None:
    with _random_log(steps) as (path, head):
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= data.draw(st.integers(1, 255))
        _replace(path, content)
        assert _is_found(path, head)
        # without a receipt, nothing binds the last line
        is_in_last_line = position >= content[:-1].rfind(b"\n") + 1
        assert is_in_last_line or _is_found(path)


@settings(max_examples=100, deadline=None)
@given(STEPS, st.data())
def test_a_line_that_was_removed_moved_or_repeated_is_found(steps: Steps, data: st.DataObject) -> None:
    with _random_log(steps) as (path, head):
        lines = path.read_bytes().splitlines(keepends=True)
        first = data.draw(st.integers(0, len(lines) - 1))
        second = data.draw(st.integers(0, len(lines) - 1))
        changed = [lines[:first] + lines[first + 1 :], lines[: first + 1] + lines[first:]]
        changed.append([lines[first], *lines[:first], *lines[first + 1 :]] if first else lines[1:])
        if first != second:
            swapped = list(lines)
            swapped[first], swapped[second] = lines[second], lines[first]
            changed.append(swapped)
        for left in changed:
            _replace(path, b"".join(left))
            assert _is_found(path, head)
            is_beginning = left == lines[: len(left)]
            assert _is_found(path) != is_beginning


@settings(max_examples=100, deadline=None)
@given(STEPS, st.data())
def test_an_end_that_was_cut_off_is_found_with_a_receipt_and_without_one_unless_at_the_end_of_a_line(
    steps: Steps, data: st.DataObject
) -> None:
    with _random_log(steps) as (path, head):
        content = path.read_bytes()
        rest = content[: data.draw(st.integers(0, len(content) - 1))]
        _replace(path, rest)
        assert _is_found(path, head)
        assert _is_found(path) == (not rest.endswith(b"\n") and rest != b"")


def test_a_log_whose_end_was_written_anew_is_found_with_a_receipt_only(path: Path) -> None:
    head = _written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]))
    with contextlib.closing(_log(path)) as log:
        for _ in range(4):
            log.append("out", "update", [b"something else"])
    assert verify(path).entries == 7
    with pytest.raises(FednnUNetError, match=r"Entry 5 of .* does not match the coordinator's receipt"):
        verify(path, head)


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ([1, 2, 3, 4], r"Line 1 of .* is entry 2 instead of 1: lines are missing"),
        ([0, 1, 4], r"Line 3 of .* is entry 5 instead of 3: lines are missing"),
        ([0, 1, 1, 2], r"Line 3 of .* repeats entry 2"),
        ([0, 2, 1], r"Line 2 of .* is entry 3 instead of 2"),
    ],
)
def test_the_first_line_that_is_out_of_order_is_named(path: Path, order: Sequence[int], message: str) -> None:
    _written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[number] for number in order))
    with pytest.raises(FednnUNetError, match=message):
        verify(path)


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (1, b'"round":0', b'"round":9', r"Line 1 of \S+ was changed"),
        (3, b'"bytes":2', b'"bytes":3', r"Line 3 of \S+ was changed"),
        (3, b'"previous":"', b'"previous":"0', r"Line 3 of \S+ is not an audit log entry"),
        (3, b'"round":2', b'"round": 2', r"Line 3 of \S+ is not an audit log entry"),
        (3, b'"number":3', b'"number":8', r"Line 3 of \S+ was changed"),
        (5, b'"round":4', b'"round": 4', r"Line 5 of \S+ is not an audit log entry"),
        (4, b'"bytes":3', b'"bytes":4', r"Lines 4 to 5 of \S+ do not match: one of them was changed"),
    ],
)
def test_the_line_that_was_changed_is_named(path: Path, line: int, old: bytes, new: bytes, message: str) -> None:
    _written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_bytes(b"".join(lines))
    with pytest.raises(FednnUNetError, match=message):
        verify(path)


def test_a_line_whose_link_was_changed_is_named_and_not_the_one_before(path: Path) -> None:
    _written(path, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[2])
    lines[2] = lines[2].replace(entry["previous"].encode(), b"f" * 64)
    path.write_bytes(b"".join(lines))
    with pytest.raises(FednnUNetError, match=r"Line 3 of \S+ was changed"):
        verify(path)


def test_receipts_of_other_sites_are_about_other_logs(path: Path) -> None:
    head = _written(path, 3)
    first = _sha256(path.read_bytes().splitlines()[0])
    own = [_receipt(1, first), _receipt(*head)]
    assert verify(path, receipts=[*own, _receipt(9, "a" * 64, site="B")]).receipt == 3
    assert verify(path, receipts=[_receipt(9, "a" * 64, site="B")]).receipt is None
    with pytest.raises(FednnUNetError, match="Entry 1 of"):
        verify(path, receipts=[_receipt(1, "a" * 64), own[1]])
    with pytest.raises(FednnUNetError, match=r"ends with entry 3, but the coordinator has a receipt of entry 4"):
        verify(path, receipts=[*own, _receipt(4, "a" * 64)])


def test_a_receipt_finds_that_all_entries_are_gone(path: Path) -> None:
    head = _written(path, 2)
    path.write_bytes(b"")
    assert verify(path).entries == 0
    assert verify(path, (0, NOTHING)).receipt == 0
    with pytest.raises(FednnUNetError, match="ends with entry 0"):
        verify(path, head)


def test_what_was_withheld_has_not_left_the_site(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("out", "metrics", [b"12345"], decision="withheld: metrics.allow")
        log.append("out", "metrics", [b"123"])
    found = verify(path)
    assert (found.out, found.withheld) == ({"metrics": 3}, 1)


def test_a_log_that_is_not_there_cannot_be_verified(path: Path) -> None:
    with pytest.raises(FednnUNetError, match=r"cannot be read \(No such file"):
        verify(path)


# --- going on with a file


def test_a_log_that_is_opened_again_goes_on_with_its_chain(path: Path) -> None:
    head = _written(path, 3)
    with contextlib.closing(_log(path, site="B")) as log:
        assert log.head == head
        log.append("in", "schedule", [b"{}"])
        head = log.head
    assert verify(path, head) == Verification(
        head=(4, head[1]),
        sites=frozenset({"A", "B"}),
        out={"update": 3},
        received={"schedule": 2},
        withheld=0,
        torn=0,
        first=BEGAN_AS_TEXT,
        last=BEGAN_AS_TEXT,
        receipt=4,
    )


def test_only_the_end_of_a_log_is_read_when_it_is_opened(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(_log(path)) as log:
        for _ in range(20):
            log.append("out", "update", [], fields=["x" * 60_000])
        head = log.head
    sizes = []
    read = os.read

    def watched(file: int, length: int) -> bytes:
        sizes.append(length)
        return read(file, length)

    monkeypatch.setattr(os, "read", watched)
    with contextlib.closing(_log(path)) as log:
        assert log.head == head
    assert sum(sizes) < path.stat().st_size / 2


@pytest.mark.parametrize("content", [b"a,b,c\n1,2,3\n", b"{}\n", b'{"number":2', b"\n", b"\0" * 100, b"x" * 1_000_000])
def test_a_file_that_is_no_audit_log_is_left_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(FednnUNetError, match="does not end like an audit log"):
        _log(path)
    assert path.read_bytes() == content


def test_a_log_that_was_moved_away_meanwhile_stops_the_node(path: Path) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("out", "update", [b"x"])
        path.rename(path.with_name("rotated"))
        with pytest.raises(FednnUNetError, match="No such file"):
            log.append("out", "update", [b"x"])
        path.write_bytes(b"")
        with pytest.raises(FednnUNetError, match="another file replaced it"):
            log.append("out", "update", [b"x"])
    assert path.read_bytes() == b""


# --- lines that were cut short


@settings(max_examples=100, deadline=None)
@given(STEPS, st.data())
def test_a_log_that_was_cut_anywhere_goes_on_and_what_is_left_of_a_line_is_told(
    steps: Steps, data: st.DataObject
) -> None:
    with _random_log(steps) as (path, _):
        content = path.read_bytes()
        rest = content[: data.draw(st.integers(0, len(content)))]
        _replace(path, rest)
        with contextlib.closing(_log(path)) as log:
            log.append("out", "metrics", [b"more"])
        left = rest[rest.rfind(b"\n") + 1 :]
        is_torn = left != b"" and left + b"\n" not in content  # only its newline was missing, if it is there
        found = verify(path, log.head)
        written = path.read_bytes()
    assert found.torn == is_torn
    assert found.entries == rest.count(b"\n") + 1 + (left != b"")
    assert written.startswith(rest)
    assert _is_chain(written)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 100), st.data())
def test_any_byte_that_was_changed_around_a_line_that_was_cut_short_is_found(cut: int, data: st.DataObject) -> None:
    with _quick_folder() as folder:
        path = folder / "audit.jsonl"
        _written(path, 3)
        whole = path.read_bytes()
        _replace(path, whole[:-cut])
        _written(path, 2)
        content = bytearray(path.read_bytes())
        position = data.draw(st.integers(len(whole) - cut - 600, content[:-1].rfind(b"\n")))
        content[position] ^= data.draw(st.integers(1, 255))
        _replace(path, content)
        assert _is_found(path)


def test_a_line_that_was_cut_short_and_removed_or_is_complete_after_all_is_found(path: Path) -> None:
    _written(path, 3)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    _written(path, 1)
    first, second, torn, told, last = path.read_bytes().splitlines(keepends=True)
    assert json.loads(told)["kind"] == "torn"
    for lines in (
        [first, second, told, last],
        [first, second, whole.splitlines(keepends=True)[2], told, last],
        [first, second, torn, torn, told, last],
        [first, second, torn, last],
        [first, torn, told, last],
        [first, second, torn, told, told, last],
        [first, second, torn, b"\n", told, last],
        [first, second, b"\n", last],
        [first, second, torn, told, last, b"\n"],
    ):
        path.write_bytes(b"".join(lines))
        assert _is_found(path), lines


def test_a_line_that_is_being_written_is_not_called_changed(path: Path) -> None:
    _written(path, 3)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FednnUNetError, match=r"Line 3 of \S+ is not complete"):
        verify(path)


def test_a_full_disk_is_told_and_the_chain_goes_on_when_there_is_room_again(path: Path, disk: _Disk) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("out", "update", [b"first"])
        head = log.head
        disk.fill(0.5)
        with pytest.raises(
            FednnUNetError,
            match=r"cannot be written \(No space left on device\): .*; nothing is sent without the log\.",
        ):
            log.append("out", "update", [b"second"])
        assert log.head == head
        log.append("out", "update", [b"third"])
        head = log.head
    found = verify(path, head)
    assert (found.entries, found.torn, found.out) == (3, 1, {"update": 10})
    assert _is_chain(path.read_bytes())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=6), st.booleans())
@example([0.5, 0.572265625], False)  # a line that is cut just behind a brace within it
def test_a_disk_that_is_full_again_and_again_does_not_break_the_chain(shares: list[float], reopens: bool) -> None:
    with _quick_folder() as folder, pytest.MonkeyPatch.context() as monkeypatch:
        path = folder / "audit.jsonl"
        _written(path, 2)
        disk = _Disk(monkeypatch)
        disk.fill(*shares)
        for _ in range(len(shares) + 1):
            try:
                log = _log(path)
            except FednnUNetError:
                continue
            with contextlib.closing(log):
                for _ in range(1 if reopens else len(shares) + 1):
                    with contextlib.suppress(FednnUNetError):
                        log.append("out", "update", [b"third"])
        content = path.read_bytes()
        found = verify(path)
        entry = json.loads(content.splitlines()[-1])
    assert _is_chain(content)
    assert entry["sha256"] == _sha256(b"third")
    assert found.entries == sum(map(_is_json, content.splitlines()))


def test_a_write_that_was_cut_short_without_an_error_counts_as_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(_log(path)) as log:
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, content: write(file, content[:20]))
        with pytest.raises(FednnUNetError, match=r"it took 20 of \d+ bytes, its disk may be full"):
            log.append("out", "update", [b"x"])
        monkeypatch.undo()
        log.append("out", "update", [b"x"])
    assert verify(path).torn == 1


def test_a_disk_that_tells_late_that_it_is_full_is_told_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    with contextlib.closing(_log(path)) as log:
        with monkeypatch.context() as late:
            late.setattr(os, "fsync", full)
            with pytest.raises(FednnUNetError, match=r"\(Disk quota exceeded\)"):
                log.append("out", "update", [b"x"])
        log.append("out", "update", [b"y"])
    assert verify(path).out == {"update": 2}


@pytest.mark.parametrize("place", ["os.write", "fednnunet.privacy.audit.log.sha256_of"])
def test_a_signal_while_an_entry_is_written_does_not_break_the_chain(
    path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def interrupted(*given: Any) -> None:
        if len(given) == 2:
            write(*given)
        raise KeyboardInterrupt

    with contextlib.closing(_log(path)) as log:
        log.append("out", "update", [b"x"])
        with monkeypatch.context() as signals:
            signals.setattr(place, interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.append("out", "update", [b"y"])
        log.append("out", "update", [b"z"])
    assert verify(path).entries == 3


def test_what_was_counted_is_not_lost_when_the_disk_is_full(path: Path, disk: _Disk) -> None:
    with contextlib.closing(_log(path)) as log:
        for direction in ("out", "in"):
            log.count(direction, "contact", [b"abc"])
        disk.fill(0.5)
        with pytest.raises(FednnUNetError, match="No space left"):
            log.append("out", "update", [b"x"])
        log.append("out", "update", [b"y"])
    found = verify(path)
    assert (found.out, found.received) == ({"contact": 3, "update": 1}, {"contact": 3})


def test_a_log_where_no_file_can_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FednnUNetError, match=r"cannot be written \((Not a directory|File exists)\)"):
        _log(tmp_path / "file" / "audit.jsonl")


# --- several threads and processes


def test_threads_that_write_at_the_same_time_make_one_chain(path: Path) -> None:
    threads, messages = 8, 25
    barrier = threading.Barrier(threads)

    def work(number: int) -> None:
        barrier.wait(60)
        for index in range(messages):
            log.count("in", "contact", [b"ping"])
            log.append("out", "update", [b"x" * number], round=index)

    with contextlib.closing(_log(path)) as log:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    assert not any(worker.is_alive() for worker in workers)
    found = verify(path, log.head)
    assert found.out == {"update": messages * sum(range(threads))}
    assert found.received == {"contact": 4 * threads * messages}
    assert _is_chain(path.read_bytes())


def test_a_log_has_one_writer_only(path: Path) -> None:
    log = _log(path)
    with pytest.raises(FednnUNetError, match=r"Another node is writing the audit log .*: stop it"):
        _log(path)
    log.append("out", "update", [b"x"])
    log.close()
    assert _written(path, 1)[0] == 2


def _try_to_append(log: AuditLog, told: Any, may_end: Any) -> None:
    try:
        log.append("out", "update", [b"from the child"])
        told.put("written")
    except FednnUNetError as error:
        told.put(str(error))
    may_end.wait(60)


def test_a_forked_process_neither_writes_the_log_nor_keeps_it_from_the_next_node(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    told, may_end = context.Queue(), context.Event()
    log = _log(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of fork itself, where there are threads
        child = context.Process(target=_try_to_append, args=(log, told, may_end), daemon=True)
        child.start()
    try:
        assert "is closed" in told.get(timeout=60)
        with pytest.raises(FednnUNetError, match="Another node"):
            _log(path)
        log.close()
        assert _written(path, 1)[0] == 1
    finally:
        may_end.set()
        child.join(60)
    assert child.exitcode == 0


# --- receipts, and what a user sees


def _receipt(entries: int, sha256: str, site: str = "A") -> Receipt:
    return Receipt(site=site, entries=entries, sha256=sha256, time=BEGAN_AS_TEXT)


def _run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return run_audit(parser.parse_args([str(word) for word in words]))


def _rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def shown_log(path: Path) -> Path:
    with contextlib.closing(_log(path)) as log:
        log.run = "spring"
        log.append("in", "schedule", [b"{}"])
        log.append("out", "update", [b"x" * 4100], round=1)
        log.count("out", "contact", [b"{}"])
        log.count("out", "contact", [b"{}"])
        log.append("out", "metrics", [], round=1, decision="withheld: metrics.allow")
    return path


def test_receipts_are_read_as_they_were_written(tmp_path: Path) -> None:
    kept = [_receipt(1, "a" * 64), _receipt(2, "b" * 64, site="B")]
    path = tmp_path / "receipts.jsonl"
    path.write_text("".join(receipt.to_json() + "\n" for receipt in kept))
    assert read_receipts(path) == kept
    path.write_text("\n".join(receipt.to_json() for receipt in kept))
    assert read_receipts(path) == kept
    path.write_text(kept[0].to_json() + "\n" + kept[1].to_json()[:50])
    assert read_receipts(path) == kept[:1]


def test_a_line_that_is_no_receipt_is_named(tmp_path: Path) -> None:
    path = tmp_path / "receipts.jsonl"
    path.write_text(_receipt(1, "a" * 64).to_json() + "\n{}\n")
    with pytest.raises(FednnUNetError, match=r"Line 2 of \S+ is not a receipt"):
        read_receipts(path)
    with pytest.raises(FednnUNetError, match=r"cannot be read \(No such file"):
        read_receipts(tmp_path / "other")


def test_show_lists_the_entries_and_what_they_sum_up_to(shown_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("show", shown_log) == 0
    rows = _rows(capsys.readouterr().out)
    when = ["2023-11-14", "22:13:20", "spring"]
    assert rows[1:5] == [
        ["1", *when, MISSING, "←", "in", "schedule", "1", "2", "received"],
        ["2", *when, "1", "→", "out", "update", "1", "4,100", "sent"],
        ["3", *when, MISSING, "→", "out", "contact", "2", "4", "sent"],
        ["4", *when, "1", "✗", "withheld", "metrics", "1", "0", "withheld:", "metrics.allow"],
    ]
    assert rows[7:] == [
        ["←", "in", "schedule", "1", "1", "2"],
        ["→", "out", "contact", "1", "2", "4"],
        ["→", "out", "update", "1", "1", "4,100"],
        ["✗", "withheld", "metrics", "1", "1", "0"],
    ]


def test_show_names_the_sites_of_a_masked_sum(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("in", "join", [b"keys"], sites=["A", "B\x1b", "C"])
        log.append("out", "masked", [b"noise"])
    assert verify(path).entries == 2
    assert _run("show", path, "--kind", "join") == 0
    assert " ".join(_rows(capsys.readouterr().out)[1]).endswith("received: sum over A, B?, C")


def test_entries_of_logs_from_before_there_were_masked_sums_are_as_they_were(path: Path) -> None:
    _written(path, 1)
    (entry,) = _entries(path)
    assert "sites" not in entry
    line = path.read_bytes()
    path.write_bytes(line.replace(b'"decision":"sent"', b'"decision":"sent","sites":null'))
    with pytest.raises(FednnUNetError, match="Line 1 of"):  # nobody writes it like this
        verify(path)


def test_show_can_be_limited_to_the_last_entries_of_a_kind(shown_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("show", shown_log, "--last", 1) == 0
    assert [row[0] for row in _rows(capsys.readouterr().out)[1:2]] == ["4"]
    assert _run("show", shown_log, "--kind", "update") == 0
    rows = _rows(capsys.readouterr().out)
    assert [row[0] for row in rows[1:2]] == ["2"]
    assert rows[4:] == [["→", "out", "update", "1", "1", "4,100"]]


def test_what_is_in_a_log_cannot_steer_the_terminal(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(_log(path, site="[red]\x1b[2J")) as log:
        log.run = "[bold]run\x9b2J\u202e"
        log.append("out", "kind\x1b[1m", [b""], decision="[blink]\x07sent\x7f")
    assert _run("show", path) == 0
    assert _run("verify", path) == 0
    receipts = path.with_name("receipts")
    receipts.write_bytes(b"")
    with pytest.raises(FednnUNetError, match=r"\[red\]\?\[2J") as caught:
        _run("verify", path, "--receipts", receipts)
    text = capsys.readouterr().out
    assert "[bold]run?2J?" in text
    assert "[blink]?sent?" in text
    assert "kind?[1m" in text
    assert not set(text + str(caught.value)) & {"\x1b", "\x9b", "\x07", "\x7f", "\u202e"}


def test_show_tells_of_lines_that_are_no_entries(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _written(path, 2)
    path.write_bytes(b"\x1b[2J[red]\n" + path.read_bytes())
    assert _run("show", path) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[-1].startswith("1 line is invalid: check the log with 'fednnunet audit verify'")
    assert "\x1b" not in text


def test_verify_says_in_one_sentence_what_was_verified(shown_log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = verify(shown_log).head
    receipts = shown_log.with_name("receipts.jsonl")
    receipts.write_text(_receipt(*head).to_json() + "\n" + _receipt(99, "c" * 64, site="B").to_json() + "\n")
    assert _run("verify", shown_log, "--receipts", receipts) == 0
    assert capsys.readouterr().out == (
        "audit.jsonl is intact: 4 entries, 4.1 kB out, 2 B in, 1 message withheld, from 2023-11-14 22:13:20 to "
        "2023-11-14 22:13:20 UTC; its last receipt at the coordinator is entry 4.\n"
    )
    assert _run("verify", shown_log) == 0
    assert (
        "only the coordinator's receipts (--receipts) could show whether its end was cut off" in capsys.readouterr().out
    )


def test_verify_does_not_pretend_to_have_compared_receipts_that_there_are_not(shown_log: Path) -> None:
    receipts = shown_log.with_name("receipts.jsonl")
    receipts.write_text(_receipt(9, "c" * 64, site="B").to_json() + "\n")
    with pytest.raises(FednnUNetError, match=r"has no receipt of its site \(A\)"):
        _run("verify", shown_log, "--receipts", receipts)


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (4_123_456, "4.12 MB")])
def test_sizes_are_given_in_decimal_units(path: Path, size: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(_log(path)) as log:
        log.append("out", "update", [b"x" * size])
    assert _run("verify", path) == 0
    assert f" 1 entry, {text} out, 0 B in," in capsys.readouterr().out


def test_the_word_for_incomplete_lines_is_the_logs_own(path: Path) -> None:
    with contextlib.closing(_log(path)) as log, pytest.raises(ValueError, match="torn"):
        log.append("out", TORN, [])
