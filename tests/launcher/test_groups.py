import os
import signal
import subprocess
import sys

from fednnunet.launcher.groups import Watchdog, end_groups, group_lives


def start(command):
    return subprocess.Popen(command, start_new_session=True)


def test_a_group_lives_as_long_as_one_of_its_processes_runs(script, lifeline):
    leader = start(script("worker(); hold(); signal.pause()"))
    lifeline.wait_for(2)
    assert group_lives(leader.pid)
    leader.kill()
    leader.wait()
    assert group_lives(leader.pid)
    end_groups([leader.pid])
    assert not group_lives(leader.pid)
    assert lifeline.is_let_go()


def test_a_process_that_nobody_has_collected_does_not_count_as_running(script, lifeline):
    if not os.path.exists("/proc/self/stat"):
        return
    leader = start(script("hold()"))
    lifeline.wait_for(1)
    lifeline.wait_until_let_go()
    os.waitid(os.P_PID, leader.pid, os.WEXITED | os.WNOWAIT)
    assert not group_lives(leader.pid)
    leader.wait()


def test_the_watchdog_ends_what_a_killed_launcher_leaves(script, lifeline):
    launcher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import signal, subprocess, sys\n"
            "from fednnunet.launcher.groups import Watchdog\n"
            "with Watchdog() as watchdog:\n"
            "    watchdog.take(subprocess.Popen(sys.argv[1:], start_new_session=True).pid)\n"
            "    print('taken', flush=True)\n"
            "    signal.pause()\n",
            *script("worker(); hold(); signal.pause()"),
        ],
        stdout=subprocess.PIPE,
    )
    with launcher:
        assert launcher.stdout.readline() == b"taken\n"
        lifeline.wait_for(2)
        launcher.send_signal(signal.SIGKILL)
    lifeline.wait_until_let_go()


def test_the_watchdog_lets_a_released_group_live_and_ends_itself(script, lifeline):
    leader = start(script("hold(); signal.pause()"))
    lifeline.wait_for(1)
    with Watchdog() as watchdog:
        watchdog.take(leader.pid)
        watchdog.release(leader.pid)
    assert watchdog._process.returncode == 0
    assert leader.poll() is None
    leader.kill()
    leader.wait()


def test_a_watchdog_that_was_killed_does_not_disturb_the_run():
    with Watchdog() as watchdog:
        watchdog._process.kill()
        watchdog._process.wait()
        watchdog.take(1 << 21)
        watchdog.release(1 << 21)
