"""The lock of a host, between real processes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.records import lock
from tests.support.hosts import config
from tests.support.locks import refused_lock

FORK = multiprocessing.get_context("fork")


def hold(state_dir, who, jid, held, stop):
    """Body of a process that holds the lock until it is told to stop."""
    with lock.held(state_dir, who, jid):
        held.set()
        stop.wait(60)


@pytest.fixture
def holder(tmp_path, holder_of):
    """``holder("who", "jid")`` starts a process that holds the lock of ``tmp_path``; returns (process, its stop event)."""
    return partial(holder_of, str(tmp_path))


@pytest.fixture
def holder_of():
    """As ``holder``, for the state directory that is given first."""
    started = []

    def start(state_dir, who="highstate by root", jid="20260101000000000001"):
        held, stop = FORK.Event(), FORK.Event()
        process = FORK.Process(target=hold, args=(state_dir, who, jid, held, stop))
        process.start()
        started.append(process)
        assert held.wait(30)
        return process, stop

    yield start
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def test_who_holds_it_is_named_with_pid_and_job(tmp_path, holder):
    process, _ = holder()
    text = refused_lock(tmp_path)
    assert "highstate by root" in text
    assert f"pid {process.pid}" in text
    assert "job 20260101000000000001" in text
    assert "Wait" in text


def test_a_holder_without_a_job_is_named_without_one(tmp_path, holder):
    holder(jid="")
    assert "job" not in refused_lock(tmp_path)


def test_the_death_of_its_holder_frees_it(tmp_path, holder):
    process, _ = holder()
    refused_lock(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with lock.held(str(tmp_path), "me", patience=0):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_whoever_waits_gets_it_when_the_other_is_done(tmp_path, holder):
    process, stop = holder()
    stop.set()
    with lock.held(str(tmp_path), "me", patience=30):
        process.join(30)
        assert process.exitcode == 0


def test_it_is_waited_for_while_another_holds_it_and_no_longer_than_is_said(tmp_path, holder):
    _, stop = holder()
    begun = time.monotonic()
    with pytest.raises(errors.LockHeld):
        with lock.held(str(tmp_path), "me", patience=0.4):
            pytest.fail("the lock was given twice")
    assert 0.4 <= time.monotonic() - begun < 20
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    with lock.held(str(tmp_path), "me", patience=30):
        assert stop.is_set() and time.monotonic() - begun >= 0.9
    timer.join()


def test_a_change_waits_for_another_one_that_is_about_to_end(simulated, holder_of):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": "0000:1b:00.0"}], processes=[])
    _, stop = holder_of(host.state_dir)
    timer = threading.Timer(0.5, stop.set)
    timer.start()
    with Engine(config(host)) as engine:
        result = engine.apply({"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["1g.10gb"]}}})
    timer.join()
    assert result.ok and result.changes


def test_it_can_be_taken_again_after_it_was_given_back(tmp_path):
    for number in range(3):
        with lock.held(str(tmp_path), f"run {number}", patience=0):
            assert json.loads((tmp_path / "lock").read_text())["who"] == f"run {number}"


def test_an_error_inside_gives_it_back(tmp_path):
    with pytest.raises(ValueError, match="inside"):
        with lock.held(str(tmp_path), "me", patience=0):
            raise ValueError("inside")
    with lock.held(str(tmp_path), "me", patience=0):
        assert (tmp_path / "lock").exists()


def test_two_threads_of_one_process_exclude_each_other_too(tmp_path):
    with lock.held(str(tmp_path), "first", patience=0):
        assert f"pid {os.getpid()}" in refused_lock(tmp_path)


def test_programs_started_meanwhile_do_not_inherit_it(tmp_path):
    with lock.held(str(tmp_path), "me", patience=0):
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        with lock.held(str(tmp_path), "next", patience=0):
            assert child.poll() is None
    finally:
        child.communicate()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"pid": 1}', "\udcff"])
def test_a_holder_that_left_no_name_is_no_crash(tmp_path, holder, content):
    holder()
    (tmp_path / "lock").write_bytes(content.encode(errors="surrogateescape"))
    text = refused_lock(tmp_path)
    assert "Another change" in text and "Wait" in text


def test_a_shorter_name_leaves_nothing_of_a_longer_one(tmp_path):
    for who in ("a very long name of somebody who asks", "x"):
        with lock.held(str(tmp_path), who, patience=0):
            assert json.loads((tmp_path / "lock").read_text())["who"] == who


def test_no_place_for_a_lock_is_a_sentence(tmp_path):
    place = tmp_path / "state"
    place.write_text("in the way")
    with pytest.raises(errors.StateDirUnusable) as caught:
        with lock.held(str(place), "me"):
            pytest.fail("there is no lock")
    assert str(place) in str(caught.value) and "gpu_slicing:state_dir" in str(caught.value)


def test_the_directory_is_made_when_it_is_missing(tmp_path):
    place = tmp_path / "not" / "yet"
    with lock.held(str(place), "me"):
        assert (place / "lock").is_file()


def test_whoever_waits_for_a_lock_that_is_removed_takes_the_one_that_is_there_then(tmp_path):
    """Who gives a host up removes the file while he holds it: two who hold two files of that name would meet."""
    place, got = tmp_path / "state", threading.Event()

    def wait():
        with lock.held(str(place), "he who waits", patience=60):
            got.set()
            refused_lock(place)

    with lock.held(str(place), "he who goes"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not got.wait(0.2)
        (place / "lock").unlink()
        place.rmdir()
    waiting.join(60)
    assert got.is_set() and (place / "lock").exists()


def test_a_lock_of_a_moment_is_held_by_one_at_a_time(tmp_path):
    path = str(tmp_path / "state" / "energy.lock")
    first = lock.briefly(path, 0)
    assert lock.briefly(path, 0.1) is None
    assert os.stat(path).st_mode & 0o777 == 0o600
    os.close(first)
    os.close(lock.briefly(path, 0))


def test_whoever_gave_the_host_up_meanwhile_leaves_nobody_with_a_lock_that_is_gone(tmp_path):
    path = str(tmp_path / "energy.lock")
    first = lock.briefly(path, 0)
    os.unlink(path)
    second = lock.briefly(path, 0)
    assert second is not None and os.path.samestat(os.stat(path), os.fstat(second))
    os.close(first)
    os.close(second)


def test_a_link_in_the_place_of_a_lock_of_a_moment_is_refused(tmp_path):
    (tmp_path / "energy.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(errors.StateDirUnusable):
        lock.briefly(str(tmp_path / "energy.lock"), 0)
