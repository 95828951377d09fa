"""A minion that runs, without a master: its own schedule comes back to what waits, and ends when nothing does."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import pytest

from tests.support import pillars
from tests.support.hosts import shapes

FIRST = "0000:1b:00.0"
JOB = "gpu_slicing_waiting"


def _until(condition, seconds=60):
    """Wait until something is so; returns whether it came to be."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def running(salt_call):
    """A minion on a DGX H100 with one slice a GPU, and the ``salt-call`` beside it."""
    # The paths of its sockets must be short.
    root = pathlib.Path(tempfile.mkdtemp(prefix="gs-", dir="/tmp"))
    call = salt_call("dgx-h100", pillars.mig(["7g.80gb"]), master_type="disable", root_dir=str(root))
    assert call("gpu_slicing.apply").retcode == 0
    program = pathlib.Path(sys.executable).parent / "salt-minion"
    # What the test run added to the path must not help the program to find the engine.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    daemon = subprocess.Popen(
        [str(program), "-c", str(call.config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment, cwd="/"
    )
    try:
        assert _until(lambda: any(root.rglob("minion_event_*_pull.ipc")))
        yield call
    finally:
        daemon.terminate()
        daemon.wait(timeout=60)
        shutil.rmtree(root, ignore_errors=True)


def _scheduled(call):
    """Whether the minion keeps the job, also over a restart."""
    kept = call.config / "minion.d" / "_schedule.conf"
    return kept.exists() and JOB in kept.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_minion_comes_back_until_it_is_done(running):
    host = running.host
    host.add_process({"pid": 4711, "command": "train.py", "gpu": FIRST, "slice": "7g.80gb@0"})
    wanted = pillars.mig({"3g.40gb": 2}, when="idle")
    (running.place / "pillar" / "host.sls").write_text("#!json\n" + json.dumps(wanted), encoding="utf-8")
    told = running("gpu_slicing.apply")
    assert told.data["result"] is True and f"by the job {JOB} of this minion" in told.data["warnings"][0], told
    assert _until(lambda: _scheduled(running))
    # The minion has the former pillar in its memory: the job goes by the one of now.
    assert running("schedule.run_job", JOB).data["result"] is True
    time.sleep(3)
    assert shapes(running.host)[FIRST] == ["7g.80gb"] and _scheduled(running)
    host.remove_process(4711)
    assert running("schedule.run_job", JOB).data["result"] is True
    assert _until(lambda: shapes(running.host)[FIRST] == ["3g.40gb", "3g.40gb"])
    assert _until(lambda: not _scheduled(running)) and running("gpu_slicing.waiting").data == {}
    assert running("gpu_slicing.history").data[-1]["who"].startswith("gpu_slicing.resume")
