import io
import json
import os
import pty
import signal
import subprocess
import sys

import pytest
from rich.console import Console

from fednnunet.errors import FednnUNetError
from fednnunet.launcher.processes import Exited, Process
from fednnunet.launcher.supervision import Patience, _Run, describe_status, run_together

LONG = Patience(after_failure=600, at_the_end=600, to_stop=600)


@pytest.fixture
def run(tmp_path, script):
    """Run a coordinator and nodes, given their code; return the exit status and what was shown."""

    def start(coordinator, *nodes, **options):
        console = Console(file=io.StringIO(), width=60)
        processes = [
            Process(name, script(code), tmp_path / f"{name}.log")
            for name, code in zip(["coordinator", "site 1", "site 2"], [coordinator, *nodes], strict=False)
        ]
        status = run_together(processes[0], processes[1:], console, **{"patience": LONG, **options})
        assert all(process.group is None for process in processes)
        return status, console.file.getvalue()

    return start


WAIT = "hold(); signal.pause()"


def test_lines_are_shown_with_the_name_of_their_site_and_never_wrapped(run):
    long = "x" * 200
    status, shown = run("print('hello')", f"print('{long}')", r"print('\x1b[31m[bold]red\x1b[0m')")
    assert status == 0
    lines = shown.splitlines()
    assert "coordinator | hello" in lines
    assert f"site 1      | {long}" in lines
    assert "site 2      | [bold]red" in lines
    assert lines[-1].startswith("All 3 processes finished after 0:00:0")


def test_quiet_shows_what_the_coordinator_says_and_of_nodes_warnings_and_errors_only_but_logs_have_all(run, tmp_path):
    status, shown = run(
        "print('round 1')", r"print('\x1b[33mWarning: \x1b[0mdisk'); print('epoch 1\nError: no')", quiet=True
    )
    assert status == 0
    *lines, last = shown.splitlines()
    # which process is heard first is chance
    assert sorted(lines) == ["coordinator | round 1", "site 1      | Error: no", "site 1      | Warning: disk"]
    assert last.startswith("All 2 processes finished")
    assert "epoch 1" in (tmp_path / "site 1.log").read_text()


def test_a_failing_process_ends_the_run_and_its_error_is_told_last(run, lifeline, tmp_path):
    status, shown = run(
        f"worker(); {WAIT}",
        f"worker(); {WAIT}",
        "others(4); print('noise'); print('Error: labels differ.'); print('more noise'); sys.exit(2)",
        patience=Patience(after_failure=0.1, at_the_end=600, to_stop=600),
    )
    assert status == 1
    assert lifeline.is_let_go()
    assert shown.splitlines()[-2:] == [
        f"site 2: exit status 2, see {tmp_path / 'site 2.log'}",
        "  Error: labels differ.",
    ]


def test_a_node_that_the_coordinator_can_do_without_does_not_end_the_run(run):
    status, shown = run("print('done')", "sys.exit(2)", "print('done too')", expendable=1)
    assert status == 0
    assert "site 1: exit status 2; the others continue …" in shown
    assert "2 of 3 processes finished" in shown.splitlines()[-1]


def test_without_an_error_line_the_last_lines_are_told(run):
    status, shown = run("pass", "pass", "print('a'); print('b'); os._exit(7)")
    assert status == 1
    assert shown.splitlines()[-2:] == ["  a", "  b"]


def test_others_that_fail_by_themselves_are_told_too_the_same_cause_once(run, tmp_path):
    node = "print('Error: the coordinator is gone.'); sys.exit(1)"
    status, shown = run("print('Error: site 1 failed.'); sys.exit(1)", node, node)
    assert status == 1
    summary = shown[shown.index(", see ") :]
    assert summary.count("exit status 1, see") == 2  # and the first, whose line was cut
    assert summary.count("Error: site 1 failed.") == 1
    assert summary.count("Error: the coordinator is gone.") == 1
    assert summary.count("(the same as above)") == 1


def test_nodes_that_outlast_the_coordinator_are_stopped_with_an_error(run, lifeline, tmp_path):
    status, shown = run("others(1)", "pass", WAIT, patience=Patience(after_failure=600, at_the_end=0.5, to_stop=600))
    assert status == 1
    assert lifeline.is_let_go()
    assert "site 2: still running after the others had finished" in shown
    assert str(tmp_path / "site 2.log") in shown


def test_a_coordinator_that_outlasts_all_nodes_is_stopped_with_an_error(run, lifeline):
    status, shown = run(WAIT, "others(1)", "pass", patience=Patience(after_failure=600, at_the_end=0.5, to_stop=600))
    assert status == 1
    assert lifeline.is_let_go()
    assert "coordinator: still running" in shown


@pytest.mark.parametrize(
    ("exits", "patience"),
    [
        ([("site 1", 0)], None),
        ([("site 1", 0), ("site 2", 0)], 2),
        ([("coordinator", 0)], 2),
        ([("site 1", 0), ("coordinator", 0)], 2),
        ([("site 1", 1)], 1),
        ([("coordinator", 0), ("site 1", 1)], 1),
    ],
)
def test_only_a_failure_and_the_last_ones_are_hurried(tmp_path, exits, patience):
    processes = {name: Process(name, [], tmp_path / name) for name in ("coordinator", "site 1", "site 2")}
    coordinator, *nodes = processes.values()
    run = _Run(coordinator, nodes, Console(file=io.StringIO()), None, Patience(1, 2, 3), 0)
    for name, status in exits:
        run._exits.append(Exited(processes[name], status))
        waits = run._patience_after(run._exits[-1])
    assert waits == patience


def test_workers_left_behind_by_a_process_that_ended_well_are_ended(run, lifeline):
    status, _ = run("pass", "worker(); others(1)", "pass")
    assert status == 0
    assert lifeline.is_let_go()


def test_an_exception_in_the_launcher_leaves_nothing_running(tmp_path, script, lifeline):
    console = Console(file=io.StringIO())
    first = Process("coordinator", script(WAIT), tmp_path / "server.log")
    with pytest.raises(FednnUNetError, match="could not be started"):
        run_together(first, [Process("site 1", [str(tmp_path / "missing")], tmp_path / "a.log")], console)
    assert first.group is None
    assert lifeline.is_let_go()


def test_a_display_that_breaks_leaves_nothing_running(tmp_path, script, lifeline):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("the terminal is gone")

    process = Process("coordinator", script(f"print('hello', flush=True); {WAIT}"), tmp_path / "server.log")
    with pytest.raises(OSError, match="the terminal is gone"):
        run_together(process, [], Console(file=Broken()))
    assert lifeline.is_let_go()


LAUNCHER = """
import json, signal, sys
from pathlib import Path
from rich.console import Console
from fednnunet.launcher.processes import Exited, Process
from fednnunet.launcher.supervision import Patience, run_together
commands, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
for signum in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(signum, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
processes = [Process(f"site {i}", command, folder / f"{i}.log") for i, command in enumerate(commands)]
sys.exit(run_together(processes[0], processes[1:], Console(), folder / "events.jsonl", Patience(600, 600, 600)))
"""


def launcher(tmp_path, *commands, **options):
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, json.dumps(commands), str(tmp_path)], **options)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_ends_everything(tmp_path, script, lifeline, signum):
    command = script(f"worker(); {WAIT}")
    with launcher(tmp_path, command, command, stdout=subprocess.PIPE, text=True) as process:
        lifeline.wait_for(4)
        process.send_signal(signum)
        shown = process.communicate()[0]
    assert process.returncode == 128 + signum
    assert signum.name in shown
    assert "stopped" in shown.splitlines()[-1]
    assert lifeline.is_let_go()


def test_a_second_interrupt_kills_at_once(tmp_path, script, lifeline):
    command = script("signal.signal(signal.SIGTERM, signal.SIG_IGN); hold()\nwhile True: signal.pause()")
    with launcher(tmp_path, command, stdout=subprocess.PIPE, text=True) as process:
        lifeline.wait_for(1)
        process.send_signal(signal.SIGINT)
        assert "SIGINT" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate()
    assert process.returncode == 130
    assert lifeline.is_let_go()


def test_a_killed_launcher_leaves_nothing_running(tmp_path, script, lifeline):
    command = script(f"worker(); {WAIT}")
    with launcher(tmp_path, command, command, stdout=subprocess.DEVNULL) as process:
        lifeline.wait_for(4)
        process.kill()
    lifeline.wait_until_let_go()


def test_on_a_terminal_the_coordinators_events_are_shown_live(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"event":"stage_started","stage":"validating","fold":"0"}\nnot json\n')
    events = [
        '{"event":"stage_started","stage":"training","fold":"0","rounds":7}',
        "not an event",
        '{"event":"round_completed","round":3,"rounds":7,"seconds":1.0,"sites":'
        '{"hospital":{"train_loss":-0.25,"val_loss":null,"mean_dice":0.8125,"dice":{}}}}',
    ]
    code = f"open({str(tmp_path / 'events.jsonl')!r}, 'a').write({chr(10).join([*events, ''])!r}); print('written')"
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    with launcher(tmp_path, [sys.executable, "-c", code], stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 1 << 16):
                shown += chunk
        except OSError:  # how Linux says that nobody holds the other end any more
            pass
    os.close(master)
    text = shown.decode()
    assert process.returncode == 0
    assert "site 0 | " in text
    assert "training fold 0" in text
    assert "3/7" in text
    assert "-0.2500" in text
    assert "0.8125" in text
    assert "an earlier run" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (2, "exit status 2"),
        (-15, "killed by SIGTERM"),
        (-9, "killed by SIGKILL (the machine's memory may"),
        (-250, "250"),
    ],
)
def test_an_exit_status_is_told_in_words(status, words):
    assert words in describe_status(status)
