"""
A change on eight GPUs is stopped at every single point: by a call that fails, and by ``kill -9`` before and after it. The host
must end at the old layout or the new one, never between, and slices that stay must keep their UUIDs.
"""

import signal

import pytest

from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import config

OLD = {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
NEW = {"3g.20gb": 1, "1g.5gb": 4}
#: How often the change from OLD to NEW calls each function that changes hardware, on one GPU.
CALLS = {
    "nvmlComputeInstanceDestroy": 1,
    "nvmlGpuInstanceDestroy": 1,
    "nvmlDeviceCreateGpuInstanceWithPlacement": 2,
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement": 2,
}
GPUS = 8
#: All or nothing for the host, so that each of the points below is followed by the undoing of all GPUs.
TOGETHER = {"on_failure": "host"}
POINTS = [(call, nth) for call, times in CALLS.items() for nth in range(1, times * GPUS + 1)]


def shapes(engine):
    """PCI address -> sorted profile names, and all UUIDs by (GPU, profile, placement)."""
    slices = engine.slices()
    by_gpu = {gpu.address: sorted(s["profile"] for s in slices if s["gpu"] == gpu.address) for gpu in engine.gpus}
    return by_gpu, {(s["gpu"], s["profile"], s["placement"]): s["uuid"] for s in slices}


def look(host):
    with Engine(config(host)) as engine:
        return shapes(engine)


def expected(profiles, addresses):
    names = sorted(name for name, count in profiles.items() for _ in range(count))
    return dict.fromkeys(addresses, names)


@pytest.fixture
def prepared(prepared_once):
    """A DGX A100 in the old layout: (host, layouts by GPU, UUIDs by slice)."""

    def in_old_layout(host):
        assert apply(host, pillars.mig(OLD, **TOGETHER)).ok
        by_gpu, uuids = look(host)
        assert by_gpu == expected(OLD, by_gpu)
        return by_gpu, uuids

    host, (by_gpu, uuids) = prepared_once("", in_old_layout, "dgx-a100-40gb")
    return host, by_gpu, uuids


def kept(before, after):
    """Whether every slice that both have at the same place, and that the change does not need to touch, has its UUID still."""
    return all(after.get(place) == uuid for place, uuid in before.items() if place[1] != "2g.10gb")


def test_the_change_keeps_what_is_right(prepared):
    host, before, uuids = prepared
    result = apply(host, pillars.mig(NEW, **TOGETHER))
    after, new_uuids = look(host)
    assert result.ok and after == expected(NEW, before)
    assert kept(uuids, new_uuids)
    assert sum(len(p.destroys) for p in result.plan.parts) == GPUS
    assert sum(len(p.keeps) for p in result.plan.parts) == 3 * GPUS
    assert apply(host, pillars.mig(NEW, **TOGETHER)).plan.empty


@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_a_step_that_fails_undoes_everything(prepared, call, nth):
    host, before, uuids = prepared
    host.add_fault({"call": call, "nth": nth, "error": "NVML_ERROR_UNKNOWN"})
    result = apply(host, pillars.mig(NEW, **TOGETHER))
    after, now = look(host)
    assert not result.ok
    assert after == before
    assert kept(uuids, now)
    assert any(gpu in " ".join(result.errors) for gpu in before)
    assert "undone" in " ".join(result.errors)
    assert apply(host, pillars.mig(NEW, **TOGETHER)).ok


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_kill_at_every_step_is_finished_by_the_next_run(prepared, call, nth, when):
    host, before, uuids = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, pillars.mig(NEW, **TOGETHER)) == signal.SIGKILL
    result = apply(host, pillars.mig(NEW, **TOGETHER))
    after, now = look(host)
    assert result.ok
    assert "interrupted" in " ".join(result.warnings)
    assert after == expected(NEW, before)
    assert kept(uuids, now)
    assert apply(host, pillars.mig(NEW, **TOGETHER)).plan.empty


@pytest.mark.parametrize(("call", "nth"), POINTS[::7])
def test_kill_is_undone_by_a_run_that_wants_something_else(prepared, call, nth):
    host, before, uuids = prepared
    host.add_fault({"call": call, "nth": nth, "kill": "after"})
    assert apply_in_child(host, pillars.mig(NEW, **TOGETHER)) == signal.SIGKILL
    result = apply(host, pillars.mig(OLD, **TOGETHER))
    after, now = look(host)
    assert result.ok
    assert after == before
    assert kept(uuids, now)
