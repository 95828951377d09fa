"""
Ctrl-C and ``kill`` as a user sends them: to a real ``salt-call``, in the middle of a change.
"""

import os
import signal
import time

import pytest

from gpuslice.engine import Engine
from gpuslice.records.history import History
from gpuslice.records.journal import Journal

PILLAR = {
    "containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.18gb": 2, "2g.35gb": 1}}},
}
#: Slow enough for a signal to come in the middle, and for the undo to be seen.
SLOW = {"latency": {"create_gi": 0.4}}


def begun(call, steps):
    """Wait until a started call has begun so many steps of its change."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        entry = Journal(call.host).unfinished()
        if entry and len(entry.steps) >= steps:
            return
        time.sleep(0.05)
    raise AssertionError("the change was not begun in time")


def layouts(call):
    with Engine({"simulate": str(call.description), "state_dir": str(call.state_dir)}) as engine:
        return {gpu.address: engine.tools.get("mig").observe(gpu).instances for gpu in engine.gpus}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("function", [["state.apply", "gpu_slicing"], ["gpu_slicing.apply"]], ids=["state", "by hand"])
def test_a_signal_undoes_the_change_and_the_exit_status_says_so(salt_call, name, function):
    call = salt_call("hgx-h200", pillar=PILLAR, changes=SLOW)
    before = layouts(call)
    process = call.start(*function)
    begun(call, 9)
    # As a terminal does it: to everything that runs in it.
    os.killpg(process.pid, signal.Signals[name])
    done = call.finish(process)
    assert done.retcode == 128 + signal.Signals[name], (done.retcode, done.stderr)
    assert name in done.stderr and "undone" in done.stderr and "Traceback" not in done.stderr + done.stdout
    assert done.stderr.count("was asked to end") == 1, done.stderr
    assert layouts(call) == before and Journal(call.host).unfinished() is None
    assert History(call.host).all()[-1]["result"] == "rolled back"
