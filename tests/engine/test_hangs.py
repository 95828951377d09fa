"""
Drivers, kernel files and programs that never answer: the GPU is named and left alone whatever the technique, and the run ends.

The simulated machine waits as long as a fault says; limits are scaled down with it, so that nobody waits long.
"""

import json
import os
import time

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.records import lock
from gpuslice.records.journal import Journal
from tests.support import pillars
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import NEW
from tests.support.a100 import OLD
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.hosts import apply
from tests.support.hosts import config

#: What limits are multiplied by: 180 s become 1.8 s.
PATIENCE = 0.01
#: Seconds that nobody waits, and within which every run here must have ended.
NEVER, SOON = 20, 15


def shape(host, gpu):
    """Sorted profiles of one GPU, read by a run of its own."""
    with Engine(config(host)) as engine:
        return sorted(part["profile"] for part in engine.slices(gpu))


def timed(host, wanted):
    """Apply; returns (Result, what all its errors say)."""
    begun = time.monotonic()
    result = apply(host, wanted)
    assert time.monotonic() - begun < SOON
    return result, " ".join(result.errors)


def step_by_step(host, wanted, kind):
    """Carry out the steps of a plan until one fails; returns its error, which must be of that class."""
    with Engine(config(host)) as engine:
        plan = engine.plan(wanted)
        begun = time.monotonic()
        with pytest.raises(errors.GpuSliceError) as caught:
            for made in plan.parts:
                for step in made.steps:
                    engine.tools.get(step.technique).run(engine.gpu(step.gpu), step)
        assert time.monotonic() - begun < SOON
    assert type(caught.value) is kind, caught.value
    return caught.value


# -- each technique ----------------------------------------------------------------------------------------------------------
XE = {"vendor": "intel", "device": "e211", "address": "0000:03:00.0", "driver": "xe", "sriov_totalvfs": 4}
#: name -> (host, changes, GPU, pillar, calls that hang one after the other).
CASES = {
    "mig": ("dgx-a100-40gb", {"gpus": TRIO[:1]}, FIRST, pillars.mig(NEW), [
        ("nvmlComputeInstanceDestroy", 1), ("nvmlGpuInstanceDestroy", 1), (CREATE, 1),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 1)]),
    "mig mode": ("mixed-vendors", {}, "0000:1b:00.0", pillars.for_gpu("0000:1b:00.0", "mig", {"profiles": ["1g.10gb"]}),
        [("nvmlDeviceSetMigMode", 1)]),
    "partition": ("mi300x-8", {}, "0000:05:00.0",
        pillars.for_gpu("0000:05:00.0", "partition", {"compute": "CPX"}), [("write", 1)]),
    "sriov": ("arc-pro-b60", {"gpus": [XE]}, "0000:03:00.0",
        pillars.for_gpu("0000:03:00.0", "sriov", {"vf_count": 2, "profile": "fair", "autoprobe": True,
            "scheduling": {"exec_quantum_ms": 20}}),
        [("write", nth) for nth in (1, 2, 3)]),
    "gim": ("mi210-gim", {"gpus": [{"vendor": "amd", "device": "75a0", "address": "0000:33:00.0", "driver": "gim",
        "sriov_totalvfs": 8, "numvfs": 1, "vf_offset": 16}]}, "0000:33:00.0",
        pillars.for_gpu("0000:33:00.0", "sriov", {"vf_count": 2}, unload_modules=["gim"]), [("run", 1), ("run", 2)]),
    "passthrough": ("mixed-vendors", {}, "0000:1b:00.0", pillars.for_gpu("0000:1b:00.0", "passthrough"),
        [("write", nth) for nth in (1, 2, 3)]),
    "level-zero": ("mixed-vendors", {}, "0000:8a:00.0",
        pillars.for_gpu("0000:8a:00.0", "level-zero", {"ccs_mode": 4}), [("write", 1)]),
    "vgpu": ("vgpu-host-vfio", {}, "0000:41:00.0", pillars.for_gpu("0000:41:00.0", "vgpu", {"profile": "H100XM-20C", "count": 2}),
        [("run", 1), ("write", 1), ("write", 2)]),
    "mediated vgpu": ("vgpu-host-mdev", {}, "0000:3b:00.0",
        pillars.for_gpu("0000:3b:00.0", "vgpu", {"profile": "A100D-10C", "count": 1}),
        [("write", 1)]),
}  # fmt: skip
#: Of each technology the first call is tried always; each waits for two seconds.
POINTS = [
    pytest.param(name, call, nth, marks=pytest.mark.slow if place else ())
    for name, case in CASES.items() for place, (call, nth) in enumerate(case[-1])
]  # fmt: skip


def prepared(simulated, name):
    example, changes, gpu, wanted, _ = CASES[name]
    return simulated(example, patience=PATIENCE, **changes), gpu, wanted


@pytest.mark.parametrize(("name", "call", "nth"), POINTS)
def test_a_step_that_hangs_is_an_illness_of_its_gpu(simulated, name, call, nth):
    host, gpu, wanted = prepared(simulated, name)
    host.add_fault({"call": call, "nth": nth, "hang": NEVER})
    err = step_by_step(host, wanted, errors.Unhealthy)
    assert err.gpu == gpu and "has not answered within" in str(err)
    assert "dmesg" in err.todo and "reboot" in err.todo


@pytest.mark.parametrize(("name", "call", "nth"), POINTS)
def test_a_change_in_which_something_hangs_ends_and_says_so(simulated, name, call, nth):
    host, gpu, wanted = prepared(simulated, name)
    host.add_fault({"call": call, "nth": nth, "hang": NEVER})
    result, told = timed(host, wanted)
    assert not result.ok and gpu in told and "has not answered within" in told
    assert "dmesg" in told and "engine failed" not in told
    # The GPU can't be put back by anybody, so that it does not stop later runs.
    assert Journal(host).unfinished() is None
    # Nobody is kept waiting afterwards.
    with lock.held(host.state_dir, "next", patience=0):
        pass


def test_what_hangs_is_asked_nothing_more_and_is_asked_again_when_it_came_back(simulated):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO)
    host.add_fault({"call": CREATE, "gpu": FIRST, "hang": 6})
    begun = time.monotonic()
    with Engine(config(host)) as engine:
        result = engine.apply(pillars.mig(NEW))
        calls = dict(engine.tools.get("mig").nvml.calls)
        assert time.monotonic() - begun < 6, "what is tried here comes too late"
        with pytest.raises(errors.Unhealthy, match="has not answered within 180 s"):
            engine.tools.get("mig").observe(engine.gpu(FIRST))
        assert dict(engine.tools.get("mig").nvml.calls) == calls
        assert not result.ok and FIRST in " ".join(result.errors)
        # The others are whole, in the one layout or the other.
        assert {tuple(shape(host, gpu)) for gpu in (SECOND, THIRD)} <= {tuple(OLD), tuple(NEW)}
        end = time.monotonic() + SOON
        while host.limits.left_behind() or engine.host.limits.left_behind():
            assert time.monotonic() < end
            time.sleep(0.05)
        engine.tools.get("mig").observe(engine.gpu(FIRST))
    # A run of its own sees what the driver did in the end, and brings the GPU to what is wanted.
    result, told = timed(host, pillars.mig(NEW))
    assert result.ok, told
    assert [shape(host, gpu) for gpu in (FIRST, SECOND, THIRD)] == [NEW] * 3


@pytest.mark.parametrize("call", ["nvmlDeviceGetMigMode", "nvmlDeviceGetGpuInstances", "nvmlDeviceGetHandleByPciBusId"])
def test_a_gpu_that_can_not_be_read_is_reported_and_the_others_change(simulated, call):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO)
    host.add_fault({"call": call, "gpu": FIRST, "times": 0, "hang": NEVER})
    result, told = timed(host, pillars.mig(NEW))
    assert not result.ok and f"GPU {FIRST}" in told and "has not answered within 60 s" in told
    host.clear_faults()
    assert [shape(host, gpu) for gpu in (FIRST, SECOND, THIRD)] == [OLD, NEW, NEW]


@pytest.mark.parametrize("read", ["devices", "slices", "maps", "health"])
def test_whoever_only_looks_is_told_too(simulated, read):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO)
    host.add_fault({"call": "nvmlDeviceGetMigMode", "gpu": FIRST, "times": 0, "hang": NEVER})
    host.add_fault({"call": "nvmlDeviceGetFieldValues", "gpu": FIRST, "times": 0, "hang": NEVER})
    begun = time.monotonic()
    with Engine(config(host)) as engine:
        found = json.dumps(getattr(engine, read)())
    assert time.monotonic() - begun < SOON
    if read == "slices":
        assert FIRST not in found and SECOND in found and THIRD in found
    else:
        assert "has not answered within 60 s" in found


def test_a_library_that_does_not_begin_a_session_is_asked_once(simulated):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO)
    host.add_fault({"call": "nvmlInit", "times": 0, "hang": NEVER})
    result, told = timed(host, pillars.mig(NEW))
    assert not result.ok and all(gpu in told for gpu in (FIRST, SECOND, THIRD))
    assert "Could not begin an NVML session" in told
    assert next(fault["seen"] for fault in host.state()["faults"]) == 1


def test_a_session_that_does_not_end_keeps_no_run_from_its_end(simulated, caplog):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO[:1])
    host.add_fault({"call": "nvmlShutdown", "times": 0, "hang": NEVER})
    begun = time.monotonic()
    with Engine(config(host)) as engine:
        assert len(engine.slices()) == 3
    assert time.monotonic() - begun < SOON
    assert "Could not end the NVML session: the driver has not answered within 180 s" in caplog.text


@pytest.mark.parametrize(("call", "ended_before"), [("nvmlDeviceGetMigMode", 0), (CREATE, 1)])
def test_a_session_in_which_a_call_hangs_is_not_ended_under_it(simulated, call, ended_before):
    """Only the one that a change ends itself, once it has the lock: what was read before may be of another run's making."""
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO[:1])
    host.add_fault({"call": call, "hang": NEVER})
    with Engine(config(host)) as engine:
        engine.apply(pillars.mig(NEW))
        library = engine.host.nvml()
    assert library.calls["nvmlShutdown"] == ended_before


def test_a_reset_that_does_not_end_is_an_illness_of_its_gpu(simulated):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, reset="tool", gpus=[{"model": "a100-40gb", "address": FIRST}])
    host.add_fault({"call": "run", "hang": NEVER})
    err = step_by_step(host, pillars.mig(["3g.20gb"]), errors.Unhealthy)
    assert err.gpu == FIRST and "Could not reset it" in str(err) and "within 120 s" in str(err)


def test_a_unit_that_does_not_stop_is_named_with_the_gpus_and_started_again(simulated):
    holder = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST, "slice": "2g.10gb@4"}
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO[:1], processes=[holder])
    host.add_fault({"call": "run", "hang": NEVER})
    result, told = timed(host, pillars.mig(NEW, stop_units=["trainer.service"]))
    assert not result.ok and FIRST in told and "trainer.service could not be stopped" in told and "within 60 s" in told
    assert shape(host, FIRST) == OLD
    # The job goes on in systemd: whether it stops in the end or not, the unit is to run.
    assert [p["command"] for p in host.state()["processes"]] == ["train.py"]


def test_the_other_run_is_told_what_this_one_waits_for(simulated):
    host = simulated("dgx-a100-40gb", patience=PATIENCE, gpus=TRIO[:1])
    host.add_fault({"call": CREATE, "hang": NEVER})
    child = os.fork()
    if child == 0:
        try:
            apply(host, pillars.mig(NEW))
        finally:
            os._exit(0)
    told, end = "", time.monotonic() + SOON
    while "waits for" not in told and time.monotonic() < end:
        try:
            with lock.held(host.state_dir, "other", patience=0):
                pass
        except errors.LockHeld as err:
            told = str(err)
        time.sleep(0.02)
    os.waitpid(child, 0)
    assert f"(pid {child}" in told
    assert f"it waits for GPU {FIRST}: create GPU instance 1g.5gb at memory slice" in told
