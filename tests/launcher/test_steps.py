import io
import os
import sys

import pytest
from rich.console import Console

from fednnunet.errors import FednnUNetError
from fednnunet.events.event_files import EventFile
from fednnunet.events.events import RoundCompleted
from fednnunet.launcher import steps
from fednnunet.launcher.processes import Line
from fednnunet.launcher.steps import Job, Steps
from fednnunet.protocol.messages import RoundReport


@pytest.fixture(autouse=True)
def _words_are_python_code(monkeypatch):
    monkeypatch.setattr(steps, "_command", lambda job: [sys.executable, "-S", "-c", *job.words])


def run(tmp_path, *codes, verbose=False):
    """Run one job for each piece of Python code and return what the console shows."""
    output = io.StringIO()
    jobs = [Job(f"job {index}", (code,), tmp_path / "logs" / str(index)) for index, code in enumerate(codes)]
    try:
        with Steps(Console(file=output, width=200), verbose=verbose).step("The step") as step:
            step.run(*jobs)
    except FednnUNetError as error:
        output.write(f"Error: {error}")
    return output.getvalue()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_step_waits_for_all_jobs_and_keeps_their_output_in_logs(tmp_path):
    shown = run(tmp_path, "print('hello from 0')", "print('hello from 1')")
    assert [line.split("  ")[0] for line in shown.splitlines()] == ["The step …", "✓ The step"]
    for index in range(2):
        assert (tmp_path / "logs" / str(index) / "run.log").read_text() == f"hello from {index}\n"


def test_verbose_shows_the_output(tmp_path):
    assert "hello" in run(tmp_path, "print('hello')", verbose=True)


def test_a_failing_job_shows_its_last_lines_and_log_and_ends_the_others(tmp_path):
    pid_file, ready = tmp_path / "pid", tmp_path / "ready"
    os.mkfifo(ready)  # opening it for reading waits for a writer, and the other way round
    waits = f"""
import os, signal
open({str(pid_file)!r}, "w").write(str(os.getpid()))
open({str(ready)!r}, "w").close()
signal.pause()
"""
    fails = f"""
import os
open({str(ready)!r}).close()
print("why", flush=True)
os._exit(3)
"""
    shown = run(tmp_path, waits, fails)
    assert "  why\n" in shown
    assert shown.endswith(f"Error: job 1 failed (exit status 3): its log is {tmp_path}/logs/1/run.log.")
    assert "✓" not in shown
    assert not is_running(int(pid_file.read_text()))


def test_ctrl_c_leaves_no_process_behind(tmp_path, monkeypatch):
    started = []
    following = steps._next

    def interrupted(happenings):
        happening = following(happenings)
        if isinstance(happening, Line):
            started.append(int(happening.text))
            raise KeyboardInterrupt
        return happening

    monkeypatch.setattr(steps, "_next", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "import os, signal; print(os.getpid(), flush=True); signal.pause()")
    assert not is_running(started[0])


def test_progress_is_read_from_the_coordinators_events(tmp_path):
    job = Job("HospitalA", (), tmp_path)
    rounds = steps._Rounds(job)
    assert rounds.text() == ""
    report = RoundReport(train_loss=0.1, val_loss=0.2, mean_dice=0.5, dice={"organ": 0.5})
    file = EventFile(job.events)
    for number in (1, 2):
        file.emit(RoundCompleted(round=number, rounds=9, seconds=1.0, sites={"Dataset901_HospitalA": report}))
    assert rounds.text() == "HospitalA round 2/9 (pseudo Dice 0.50)"
    assert rounds.text() == "HospitalA round 2/9 (pseudo Dice 0.50)"
