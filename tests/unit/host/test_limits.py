"""Calls that never come back: they are left behind, and the one who made them goes on, ends, and is named to those who wait."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from gpuslice import errors
from gpuslice.host import limits
from gpuslice.host import waiting
from gpuslice.host.real import RealHost
from gpuslice.records import lock
from tests.support.locks import refused_lock

GPU, OTHER = "0000:07:00.0", "0000:0f:00.0"
#: Seconds that anything may take here on a busy machine.
SOON = 20.0
#: A limit in seconds, and what is waited for instead.
LIMIT, NEVER = 0.2, 300
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def limited():
    """Limits that look often; what hangs is let go in the end."""
    made = limits.Limits(lambda: 0.1)
    yield made
    made.rest()


def hang(limited, gpu=GPU, until=None):
    """Ask for something that does not come back; returns the error."""
    until = until or threading.Event()
    with pytest.raises(errors.Unhealthy) as caught:
        limited.call(LIMIT * 10, gpu, "make an instance", until.wait, NEVER)
    return caught.value


def test_work_returns_what_it_returns_and_raises_what_it_raises(limited):
    assert limited.within(max, 3, 4) == 4
    assert limited.within(sorted, [2, 1], reverse=True) == [2, 1]
    with pytest.raises(KeyError, match="none"):
        limited.within({}.__getitem__, "none")
    assert limited.call(1, GPU, "add", sum, [1, 2]) == 3


def test_work_within_work_stays_in_one_thread_and_comes_back_to_it(limited):
    def outer():
        return threading.get_ident(), limited.call(1, GPU, "ask", threading.get_ident), limited.within(threading.get_ident)

    first, second = limited.within(outer), limited.within(outer)
    assert len({*first, *second}) == 1 and first[0] != threading.get_ident()


def test_what_does_not_come_back_is_given_up_and_named(limited):
    begun = time.monotonic()
    err = hang(limited)
    assert time.monotonic() - begun < SOON
    assert err.gpu == GPU and f"GPU {GPU}: Could not make an instance" in str(err)
    assert "not answered within 2 s" in str(err) and "dmesg" in str(err) and "reboot" in str(err)


def test_nothing_more_is_asked_of_its_gpu_and_others_go_on(limited):
    first = hang(limited)
    with pytest.raises(errors.Unhealthy) as second:
        limited.call(NEVER, GPU, "read it", pytest.fail)
    assert str(second.value) == str(first)
    assert limited.left_behind()
    assert limited.call(1, OTHER, "read it", lambda: "there") == "there"


def test_once_it_comes_back_the_gpu_is_asked_again(limited):
    until = threading.Event()
    hang(limited, until=until)
    until.set()
    end = time.monotonic() + SOON
    while limited.left_behind() and time.monotonic() < end:
        time.sleep(0.01)
    assert limited.call(1, GPU, "read it", lambda: "there") == "there"


def test_each_call_has_its_own_limit_and_work_of_many_calls_has_none(limited):
    def work():
        return [limited.call(2, GPU, "wait", time.sleep, 0.1) for _ in range(5)]

    begun = time.monotonic()
    assert len(limited.within(work)) == 5 and time.monotonic() - begun > 0.2


def test_calls_for_several_gpus_run_side_by_side(limited):
    meeting = threading.Barrier(4, timeout=SOON)
    threads = [threading.Thread(target=limited.call, args=(NEVER, f"gpu{n}", "meet", meeting.wait)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert not meeting.broken


def test_no_thread_stays_after_it(limited):
    thread = limited.within(threading.current_thread)
    assert thread is limited.within(threading.current_thread) and thread.is_alive() and thread.daemon
    limited.rest()
    thread.join(SOON)
    assert not thread.is_alive()
    assert limited.within(int) == 0


def test_a_process_that_was_forked_starts_threads_of_its_own(limited):
    assert limited.within(int) == 0
    child = FORK.Process(target=lambda: os._exit(limited.within(int, "7")))
    child.start()
    child.join(SOON)
    assert child.exitcode == 7


def test_an_interrupted_wait_leaves_its_work_and_not_the_thread_for_the_next(limited):
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            limited.call(NEVER, GPU, "wait", time.sleep, 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert limited.within(str, "its own answer") == "its own answer"


def test_a_process_ends_though_a_library_never_answers_it(repo, tmp_path):
    program = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
from gpuslice import errors
from gpuslice.host import limits
from gpuslice.records import lock
made = limits.Limits(lambda: 0.1)
with lock.held(sys.argv[2], "me"):
    try:
        made.call(2, "0000:07:00.0", "make an instance", ctypes.CDLL(None).sleep, 300)
    except errors.Unhealthy as err:
        print(err)
"""
    argv = [sys.executable, "-c", program, str(repo / "_utils"), str(tmp_path)]
    begun = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=NEVER)
    assert done.returncode == 0 and "has not answered within 2 s" in done.stdout, done.stderr
    assert time.monotonic() - begun < SOON
    with lock.held(str(tmp_path), "next", patience=0):
        pass


# -- what those are told who find the lock held ------------------------------------------------------------------------------
def told(tmp_path, ready, before):
    """Body of a process that holds the lock and waits for something."""
    with lock.held(str(tmp_path), "state.apply by root", "20260101000000000001"):
        waiting.begins("short", f"GPU {OTHER}: read the MIG mode", time.monotonic())
        waiting.begins("long", f"GPU {GPU}: create GPU instance 1g.5gb at memory slice 0", time.monotonic() - before)
        waiting.ends("short")
        waiting.ends("never told")
        ready.set()
        time.sleep(NEVER)


@pytest.mark.parametrize(("seconds", "hangs"), [(340, True), (5, False)])
def test_the_lock_names_what_its_holder_waits_for(tmp_path, seconds, hangs):
    ready = FORK.Event()
    holder = FORK.Process(target=told, args=(tmp_path, ready, seconds))
    holder.start()
    try:
        assert ready.wait(SOON)
        text = refused_lock(tmp_path)
    finally:
        holder.kill()
        holder.join()
    assert f"state.apply by root (pid {holder.pid}, job 20260101000000000001) since " in text
    waited = re.search(rf"; it waits for GPU {GPU}: create GPU instance 1g\.5gb at memory slice 0, for (\d+) s", text)
    assert waited and seconds <= int(waited[1]) < seconds + 50
    assert ("gpu_slicing.recover" in text and "dmesg" in text) is hangs


def test_a_call_that_takes_long_is_told_while_it_does_and_not_after(tmp_path, limited):
    seen = []

    def ask():
        end = time.monotonic() + SOON
        while "waits for" not in refused_lock(tmp_path) and time.monotonic() < end:
            time.sleep(0.01)
        seen.append(refused_lock(tmp_path))

    with lock.held(str(tmp_path), "me"):
        limited.call(NEVER, GPU, "make an instance", ask)
        assert f"it waits for GPU {GPU}: make an instance, for " in seen[0]
        assert "waits for" not in refused_lock(tmp_path)


def test_a_program_that_does_not_end_is_told_and_killed(tmp_path):
    host, seen = RealHost(str(tmp_path / "host")), []

    def look():
        end = time.monotonic() + SOON
        while not seen and time.monotonic() < end:
            if "waits for" in (text := refused_lock(tmp_path)):
                seen.append(text)

    with lock.held(str(tmp_path), "me"):
        watcher = threading.Thread(target=look)
        watcher.start()
        with pytest.raises(errors.ToolHangs, match="'sleep 300' did not end within 2 s"):
            host.run(["sleep", "300"], timeout=2)
        watcher.join()
        assert "it waits for 'sleep 300' to end, for " in seen[0]
        assert "waits for" not in refused_lock(tmp_path)
