"""
Ending processes of a real host: the check that it is still the same one, the signals, the waits, and who is never ended. Every
process that is ended here was started here.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.host import holders
from gpuslice.host.real import RealHost
from gpuslice.rules import Rules
from gpuslice.techniques.base import Stops

GPU = "0000:07:00.0"
QUICK = (5.0, 5.0)
OBEYS = "import sys; print('ready', flush=True); sys.stdin.read()"
IGNORES = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {OBEYS}"
#: Says what it was sent, so that a test can tell which signal came first.
TELLS = (
    "import signal, sys, os; signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), os._exit(0)));"
    "print('ready', flush=True); signal.pause()"
)


@contextmanager
def child(program, *arguments):
    """A process of ours that runs until it is ended; yields the Popen, which is waited for at the end."""
    argv = [sys.executable, "-c", program, *arguments]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().strip() == b"ready"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def command(process):
    return holders.process(process.pid).command


def test_one_that_obeys_is_asked_and_gone():
    with child(TELLS) as process:
        begun = time.monotonic()
        assert holders.end_process(process.pid, command(process))
        assert process.wait(5) == 0 and process.stdout.read() == b"asked\n"
    assert time.monotonic() - begun < 5


def test_one_that_does_not_obey_is_killed_after_its_time():
    with child(IGNORES) as process:
        begun = time.monotonic()
        assert holders.end_process(process.pid, command(process), patience=(0.4, 5.0))
        assert 0.4 <= time.monotonic() - begun < 5
        assert process.wait(5) == -signal.SIGKILL


def test_one_that_ends_in_its_time_is_not_killed():
    slow = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), sys.exit(3))); " + OBEYS
    with child(slow) as process:
        assert holders.end_process(process.pid, command(process), patience=QUICK)
        assert process.wait(5) == 3


def test_one_that_nobody_has_waited_for_yet_is_gone():
    with child(OBEYS) as process:
        said = command(process)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert holders.end_process(process.pid, said, patience=(0, 0))


def test_another_process_under_the_same_number_is_left_alone():
    with child(OBEYS) as process:
        assert holders.end_process(process.pid, "python3 train.py")
        time.sleep(0.1)
        assert process.poll() is None


def test_a_process_that_has_become_another_program_is_left_alone():
    """exec keeps the number: what runs there now was not what the plan showed."""
    becomes = "import os, sys; print('ready', flush=True); sys.stdin.readline(); os.execvp('sleep', ['sleep', '60'])"
    with child(becomes) as process:
        said = command(process)
        process.stdin.write(b"\n")
        process.stdin.flush()
        end = time.monotonic() + 5
        while command(process) != "sleep 60" and time.monotonic() < end:
            time.sleep(0.02)
        assert holders.end_process(process.pid, said) and process.poll() is None
        assert holders.end_process(process.pid, "sleep 60", patience=QUICK) and process.wait(5) == -signal.SIGTERM


def test_a_number_that_nobody_has_is_gone():
    with child(OBEYS) as process:
        said = command(process)
    assert holders.end_process(process.pid, said)


def stat(tmp_path, state="S", threads=1, started=77, parent=1, flags=0, pid=2**22 + 5):
    """A process that can't be made here, as /proc shows it; its number is one that the kernel gives to nobody. Returns it."""
    base = tmp_path / str(pid)
    base.mkdir(exist_ok=True)
    (base / "cmdline").write_text("hangs\0")
    between = " ".join("0" for _ in range(10))
    row = f"{pid} (a) b) {state} {parent} 0 0 0 0 {flags} {between} {threads} 0 {started} 0\n"
    (base / "stat").write_text(row)
    return pid


def test_the_kernel_s_own_words_are_read_where_they_are(tmp_path):
    pid = stat(tmp_path, "D", 3, 123456, 42, 0x00200040)
    assert holders._stat(f"{tmp_path}/{pid}") == ("D", 42, 0x00200040, 3, "123456")
    assert holders._stat("/proc/self").parent == os.getppid()
    assert holders._stat(f"{tmp_path}/none") is None


@pytest.mark.parametrize(("state", "threads", "runs"), [("D", 1, True), ("Z", 1, False), ("X", 0, False), ("Z", 2, True)])
def test_one_whose_first_thread_alone_has_ended_still_runs(tmp_path, state, threads, runs):
    pid = stat(tmp_path, state, threads)
    assert bool(holders._started(f"{tmp_path}/{pid}")) is runs


class Watching(RealHost):
    """A real host that sees its processes in another tree of /proc, and is not patient."""

    def __init__(self, root):
        super().__init__()
        self.root = str(root)

    def end_process(self, pid, command):
        return holders.end_process(pid, command, self.root, (0.1, 0.1))


def test_one_that_does_not_end_is_told_so(tmp_path):
    """It was sent both signals, and /proc goes on to show it, as it does one that hangs in a driver."""
    with child(IGNORES) as process:
        stat(tmp_path, "D", pid=process.pid)
        with pytest.raises(errors.ResourceConflict, match=rf"pid {process.pid} \(hangs\) did not end") as caught:
            device_nodes.end_process(Watching(tmp_path), GPU, process.pid, "hangs")
        assert process.wait(5) == -signal.SIGKILL
    assert caught.value.gpu == GPU


# -- who is never ended ------------------------------------------------------------------------------------------------
def test_the_run_its_ancestors_and_the_first_process_are_spared():
    pids = holders.lineage()
    assert pids[:2] == [os.getpid(), os.getppid()] and pids[-1] == 1
    host = RealHost()
    assert host.why_spared(1) == "it is the first process of the system"
    assert host.why_spared(os.getpid()) == "it is this run itself"
    assert all("started by it" in host.why_spared(pid) for pid in pids[1:-1])
    with child(OBEYS) as process:
        assert host.why_spared(process.pid) == ""
        # In the child's eyes, this one is an ancestor.
        assert holders.lineage(pid=process.pid)[:2] == [process.pid, os.getpid()]


def test_a_part_of_the_kernel_is_spared(tmp_path):
    assert holders.why_spared(stat(tmp_path, flags=0x00200040), str(tmp_path)) == "it is a part of the kernel"
    assert holders.why_spared(stat(tmp_path, flags=0x00400040), str(tmp_path)) == ""


def test_a_loop_of_parents_ends(tmp_path):
    pid = stat(tmp_path, parent=2**22 + 5)
    assert holders.lineage(str(tmp_path), pid) == [pid]


def test_the_step_itself_refuses_to_end_an_ancestor():
    parent = holders.process(os.getppid())
    with pytest.raises(errors.ResourceConflict, match="never ended: this run was started by it") as caught:
        device_nodes.end_process(RealHost(), GPU, parent.pid, parent.command)
    assert caught.value.gpu == GPU and f"pid {parent.pid}" in str(caught.value)


def test_the_units_of_the_run_are_known(tmp_path):
    groups = {1: "0::/init.scope\n", 40: "0::/system.slice/salt-minion.service\n", 41: ""}
    groups[41] = "0::/user.slice/user-7.slice/user@7.service/app.slice/run.scope\n"
    for pid, group in groups.items():
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "cgroup").write_text(group)
        parent = {41: 40, 40: 1, 1: 0}[pid]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (x) S {parent} " + " ".join("0" for _ in range(20)))
    own = os.getpid()
    os.symlink(tmp_path / "41", tmp_path / str(own))
    assert holders.own_units(str(tmp_path)) == {
        "run.scope of uid 7", "user@7.service", "salt-minion.service", "init.scope",
    }  # fmt: skip


@pytest.mark.parametrize("unit", ["", "salt-minion.service"])
def test_a_stop_that_would_end_the_run_is_refused_in_the_plan(unit):
    class InUnit(RealHost):
        def own_units(self):
            return {"salt-minion.service"}

    parent = holders.process(os.getppid())._replace(unit=unit)
    stops = Stops(InUnit(), GPU)
    with pytest.raises(errors.ResourceConflict) as caught:
        stops.add([parent], Rules(force=True, stop_units=("salt-minion.service",)))
    said = str(caught.value)
    assert GPU in said and f"pid {parent.pid}" in said and ("end with it" in said)
    assert not stops.units and not stops.processes
