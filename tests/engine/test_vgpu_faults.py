"""
A change of vGPUs is stopped at every call that changes something: by one that fails, and by ``kill -9`` before and after it. The
GPU must end at the old layout or the new one, whichever interface its driver has.
"""

import signal

import pytest

from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import config

VFIO, MDEV = "vgpu-host-vfio", "vgpu-host-mdev"
H100, A100, T4 = "0000:41:00.0", "0000:3b:00.0", "0000:86:00.0"
SCHEDULER, SIZES = "nvmlDeviceSetVgpuSchedulerState", "nvmlDeviceSetVgpuHeterogeneousMode"
MODE, GI, CI = (
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
)
END_GI, END_CI = "nvmlGpuInstanceDestroy", "nvmlComputeInstanceDestroy"
NONE = None
#: name -> (host, GPU, old settings, new settings, how often each call that changes something is made).
CASES = {
    "first vGPUs": (VFIO, H100, NONE, {"profile": "H100XM-20C", "count": 2}, {"run": 1, "write": 2}),
    "policy and sizes": (
        VFIO,
        H100,
        {"profile": "H100XM-20C", "count": 1},
        {"profiles": {"H100XM-20C": 1, "H100XM-40C": 1}, "scheduler": "fixed-share"},
        {"write": 3, SCHEDULER: 1, SIZES: 1},
    ),
    "to MIG": (
        VFIO,
        H100,
        {"profile": "H100XM-40C", "count": 1},
        {"profiles": {"H100XM-1-10C": 2}},
        {"write": 3, "run": 2, MODE: 1, GI: 2, CI: 2},
    ),
    "within MIG": (
        VFIO,
        H100,
        {"profiles": {"H100XM-1-10C": 2}},
        {"profiles": {"H100XM-1-10C": 1, "H100XM-3-40C": 1}},
        {"write": 2, END_CI: 1, END_GI: 1, GI: 1, CI: 1},
    ),
    "from MIG": (
        VFIO,
        H100,
        {"profile": "H100XM-7-80C"},
        {"profile": "H100XM-80C"},
        {"write": 2, "run": 2, END_CI: 1, END_GI: 1, MODE: 1},
    ),
    "mediated devices of functions": (
        MDEV,
        A100,
        {"profile": "A100D-10C", "count": 2},
        {"profile": "A100D-20C", "count": 2},
        {"write": 4},
    ),
    "mediated devices of the GPU": (MDEV, T4, {"profile": "T4-4Q", "count": 1}, {"profile": "T4-8Q", "count": 2}, {"write": 3}),
}
POINTS = [(name, call, n) for name, case in CASES.items() for call, count in case[-1].items() for n in range(1, count + 1)]
#: An old layout without vGPUs has no pillar that brings it about.
ENDED = {"first vGPUs"}


def look(host, gpu):
    """Layout of the GPU as the hardware has it."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", gpu)
        return tool.layout(tool.observe(one))


@pytest.fixture
def prepared(prepared_once):
    """``prepared(name)``: a host in the old layout: (host, GPU, layout, the old pillar, the new pillar)."""

    def make(name):
        example, gpu, old, new, _ = CASES[name]

        def in_old_layout(host):
            if old:
                result = apply(host, pillars.for_gpu(gpu, "vgpu", old))
                assert result.ok, result.errors
                assert apply(host, pillars.for_gpu(gpu, "vgpu", old)).plan.empty
            return look(host, gpu)

        host, layout = prepared_once(name, in_old_layout, example)
        return host, gpu, layout, pillars.for_gpu(gpu, "vgpu", old), pillars.for_gpu(gpu, "vgpu", new)

    return make


@pytest.mark.parametrize("name", CASES)
def test_every_call_of_the_change_is_tried(prepared, name):
    host, gpu, before, _, new = prepared(name)
    counters = ("write", "run", SCHEDULER, SIZES, MODE, GI, CI, END_GI, END_CI)
    for call in counters:
        host.add_fault({"call": call, "nth": 10**9, "error": "NVML_ERROR_UNKNOWN" if call.startswith("nvml") else "EIO"})
    result = apply(host, new)
    assert result.ok, result.errors
    made = {fault["call"]: fault["seen"] for fault in host.state()["faults"] if fault["seen"]}
    assert made == CASES[name][-1]
    assert look(host, gpu) != before
    assert apply(host, new).plan.empty


@pytest.mark.parametrize(("name", "call", "nth"), POINTS)
def test_a_call_that_fails_undoes_everything(prepared, name, call, nth):
    host, gpu, before, _, new = prepared(name)
    host.add_fault({"call": call, "nth": nth, "error": "NVML_ERROR_UNKNOWN" if call.startswith("nvml") else "EIO"})
    result = apply(host, new)
    told = " ".join(result.errors)
    assert not result.ok
    assert gpu in told and "has been undone" in told, told
    assert look(host, gpu) == before
    assert apply(host, new).ok


@pytest.mark.parametrize(("name", "call", "nth"), POINTS)
def test_a_call_that_only_says_yes_is_found_out(prepared, name, call, nth):
    host, gpu, before, _, new = prepared(name)
    host.add_fault({"call": call, "nth": nth, "lie": True})
    result = apply(host, new)
    # An instance that was not destroyed goes with the change of the MIG mode that follows: then all is as wanted nevertheless.
    assert result.ok == ((name, call) in {("from MIG", END_GI)})
    if result.ok:
        assert apply(host, new).plan.empty
    else:
        assert look(host, gpu) == before, result.errors


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "call", "nth"), POINTS)
def test_kill_is_finished_by_the_next_run(prepared, name, call, nth, when):
    host, gpu, _, _, new = prepared(name)
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, new) == signal.SIGKILL
    result = apply(host, new)
    assert result.ok, result.errors
    assert "interrupted" in " ".join(result.warnings)
    assert apply(host, new).plan.empty


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "call", "nth"), [point for point in POINTS if point[0] not in ENDED])
def test_kill_is_undone_by_a_run_that_wants_the_old(prepared, name, call, nth, when):
    host, gpu, before, old, new = prepared(name)
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, new) == signal.SIGKILL
    result = apply(host, old)
    assert result.ok, result.errors
    assert look(host, gpu) == before
