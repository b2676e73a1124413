import os
import queue
import signal

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.launcher.processes import Exited, Interrupted, Line, LineSplitter, Process, stop_all

LIMIT_SECONDS = 60


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e\nt", b"wo"], ["one", "two"]),
        ([b" 0%|\r 50%|\r100%|\ndone\n"], ["100%|", "done"]),
        ([b" 0%|\r", b" 50%|", b"\r100%|", b"\n"], ["100%|"]),
        ([b"windows\r", b"\n"], ["windows"]),
        ([b"windows\r\n\r\n"], ["windows", ""]),
        ([b" 50%|\r      \rnext\n"], ["next"]),
        ([b" 0%|\r 50%|\r"], [" 50%|"]),
        ([b"gr\xc3", b"\xbc\xc3\x9fe\n\xff\n"], ["grüße", "\ufffd"]),
        ([b""], []),
    ],
)
def test_lines_are_what_a_terminal_would_show_in_the_end(chunks, lines):
    splitter = LineSplitter()
    found = [line for chunk in chunks for line in splitter.feed(chunk)]
    assert found + splitter.finish() == lines


def test_a_bar_that_never_ends_does_not_fill_the_memory():
    splitter = LineSplitter()
    for step in range(10_000):
        splitter.feed(b"\r%d/10000" % step)
    assert len(splitter._open) < 100
    assert splitter.finish() == ["9999/10000"]


@pytest.fixture
def launch(tmp_path, script):
    happenings = queue.SimpleQueue()
    started = []

    def start(code, name="A"):
        process = Process(name, script(code), tmp_path / f"{name} 1.log")
        process.start(happenings)
        started.append(process)
        return process

    start.happenings = happenings
    yield start
    stop_all(started, happenings, grace=0)


def until_exit(happenings):
    lines = []
    while isinstance(happening := happenings.get(timeout=LIMIT_SECONDS), Line):
        lines.append(happening.text)
    assert isinstance(happening, Exited)
    return lines, happening.status


def test_output_reaches_the_queue_in_order_and_the_log_byte_for_byte(launch):
    process = launch(r"""
        sys.stdout.write("start\n 0%\r100%\n"); sys.stdout.flush()
        sys.stderr.write("Error: no dataset.\nlast"); sys.exit(3)
    """)
    assert until_exit(launch.happenings) == (["start", "100%", "Error: no dataset.", "last"], 3)
    assert process.log_path.read_bytes() == b"start\n 0%\r100%\nError: no dataset.\nlast"
    assert list(process.errors) == ["Error: no dataset."]
    assert list(process.last_lines)[-1] == "last"
    assert process.group is None


def test_an_error_is_found_in_colour_too(launch):
    process = launch(r"print('\x1b[1;31mError:\x1b[0m no GPU'); print('  Error: indented')")
    until_exit(launch.happenings)
    assert list(process.errors) == ["\x1b[1;31mError:\x1b[0m no GPU"]


def test_logs_are_appended_to_never_overwritten(launch):
    for text in ("first", "second"):
        process = launch(f"print({text!r})")
        until_exit(launch.happenings)
    assert process.log_path.read_text() == "first\nsecond\n"


def test_only_the_last_lines_are_kept(launch):
    process = launch("for i in range(100): print(i)")
    until_exit(launch.happenings)
    assert list(process.last_lines) == [str(i) for i in range(85, 100)]


def test_what_is_printed_is_utf8_whatever_the_locale(launch, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONUTF8", "0")
    launch(r"print('\u00fc \udcff')")
    assert until_exit(launch.happenings) == (["\u00fc \\udcff"], 0)


def test_a_log_that_cannot_be_written_does_not_block_the_process(tmp_path, script, caplog):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    log = tmp_path / "full.log"
    log.symlink_to("/dev/full")
    process = Process("A", script("for i in range(100_000): print(i)"), log)
    happenings = queue.SimpleQueue()
    process.start(happenings)
    lines, status = until_exit(happenings)
    assert (len(lines), status) == (100_000, 0)
    assert "Stopped writing" in caplog.text


def test_workers_that_a_crashed_process_leaves_behind_are_ended(launch, lifeline):
    process = launch("worker(); hold(); signal.pause()")
    lifeline.wait_for(2)
    os.kill(process.group, signal.SIGKILL)
    _, status = until_exit(launch.happenings)
    assert status == -signal.SIGKILL
    assert lifeline.is_let_go()


def test_stop_all_ends_processes_and_their_workers(launch, lifeline):
    first, second = (launch("worker(); hold(); print('up'); signal.pause()", name) for name in "AB")
    lifeline.wait_for(4)
    lines = stop_all([first, second], launch.happenings, grace=LIMIT_SECONDS)
    assert {line.text for line in lines} <= {"up"}
    assert (first.status, second.status) == (-signal.SIGTERM, -signal.SIGTERM)
    assert lifeline.is_let_go()


@pytest.mark.parametrize("code", [
    "worker(stubborn=True); hold(); signal.pause()",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN); worker(); hold()\nwhile True: signal.pause()",
])  # fmt: skip
def test_what_ignores_the_request_to_stop_is_killed(launch, lifeline, code):
    process = launch(code)
    lifeline.wait_for(2)
    stop_all([process], launch.happenings, grace=0.2)
    assert process.group is None
    assert lifeline.is_let_go()


def test_an_interruption_ends_the_patience(launch, lifeline):
    process = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN); hold()\nwhile True: signal.pause()")
    lifeline.wait_for(1)
    launch.happenings.put(Interrupted(signal.SIGINT))
    stop_all([process], launch.happenings, grace=10 * LIMIT_SECONDS)
    assert process.status == -signal.SIGKILL


def test_what_cannot_be_started_is_told_in_one_sentence(tmp_path):
    with pytest.raises(FednnUNetError, match=r"A could not be started: .*no-such-program"):
        Process("A", [str(tmp_path / "no-such-program")], tmp_path / "A.log").start(queue.SimpleQueue())
    with pytest.raises(FednnUNetError, match="--log_dir"):
        Process("A", ["true"], tmp_path / "missing" / "A.log").start(queue.SimpleQueue())
