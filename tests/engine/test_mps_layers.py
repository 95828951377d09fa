"""
MPS on MIG devices that are cut anew in the same change: wherever it fails or is killed, devices and daemons are those of before
or those that were wanted, and no daemon serves a device that is gone.
"""

import signal

import pytest

from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import listed

ONE = "0000:a1:00.0"


def shared(*profiles, **settings):
    sharing = {"mps": {"enabled": True, "max_instance_count": 2, **settings}}
    return pillars.for_all("none", devices=[pillars.rule(ONE, strategy="mig", mig={"profiles": list(profiles)}, **sharing)])


BEFORE, AFTER = shared("2g.12gb@0", "1g.6gb@2"), shared("2g.12gb@0", "2g.12gb@2", active_thread_percentage=30)


def there(host):
    """(name of each share of the GPU, (device and limits of each daemon)), of devices that are there."""
    parts = [part for part in listed(host) if part["gpu"] == ONE]
    devices = {part["uuid"].split("::")[0] for part in parts}
    daemons = host.state().get("mps", {}).values()
    assert {one["device"] for one in daemons} <= devices, "a daemon serves a device that is gone"
    return [part["name"] for part in parts], sorted((one["unit"], one["threads"], one["pinned"]) for one in daemons)


@pytest.fixture
def cut(simulated):
    """A host on which it stands, ``(host, what is there)``."""
    host = simulated("a30-pair")
    assert apply(host, BEFORE).ok
    return host, there(host)


def wanted(host):
    names, daemons = there(host)
    return (
        names == [f"{ONE}-2g.12gb-{start}-mps-{number}" for start in (0, 2) for number in (1, 2)]
        and [threads for _, threads, _ in daemons] == [30.0, 30.0] and apply(host, AFTER).plan.empty
    )  # fmt: skip


def test_a_change_of_both_is_made_in_one(cut):
    host, _ = cut
    result = apply(host, AFTER)
    assert result.ok and result.warnings == [] and wanted(host)


@pytest.mark.parametrize(
    "call", ["run", "store_write", "mps-set", "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceDestroy"]
)
def test_wherever_it_fails_both_are_as_before(cut, call):
    host, before = cut
    error = "NVML_ERROR_UNKNOWN" if call.startswith("nvml") else "EIO"
    effect = {"lie": True} if call == "mps-set" else {"error": error}
    failed = 0
    for nth in range(1, 30):
        host.add_fault({"call": call, "nth": nth, **effect})
        try:
            result = apply(host, AFTER)
        except Exception as err:
            assert "Traceback" not in str(err)
            result = None
        hit = [fault for fault in host.state()["faults"] if fault["seen"] >= nth]
        host.clear_faults()
        if not hit:
            break
        failed += 1
        if result is None or not result.ok:
            assert closed(host) and there(host) == before, (nth, result and result.errors)
        assert apply(host, BEFORE).ok and there(host) == before
    assert failed


@pytest.mark.slow
@pytest.mark.parametrize("call", ["run", "store_write", "nvmlDeviceCreateGpuInstanceWithPlacement"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_anywhere_is_finished_or_undone_by_the_next_run(cut, call, when):
    host, before = cut
    tried = 0
    for nth in range(1, 40, 2):
        host.add_fault({"call": call, "nth": nth, "kill": when})
        if apply_in_child(host, AFTER) != signal.SIGKILL:
            break
        tried += 1
        host.clear_faults()
        if nth % 4 == 1:
            result = apply(host, AFTER)
            assert result.ok and closed(host) and wanted(host), (nth, result.errors)
        elif not closed(host):
            with Engine(config(host)) as engine:
                result = engine.reconciler().recover(engine.gpus)
            assert result.ok and closed(host) and there(host) == before, (nth, result.errors)
        assert apply(host, BEFORE).ok and there(host) == before
    assert tried


@pytest.mark.slow
@pytest.mark.parametrize(("call", "most"), [("run", 12), ("store_write", 12), ("store_remove", 2)])
def test_a_kill_leaves_no_daemon_or_unit_that_nobody_knows_of(cut, call, most):
    host, _ = cut
    tried = 0
    for nth in range(1, most):
        host.add_fault({"call": call, "nth": nth, "kill": "before"})
        killed = apply_in_child(host, AFTER) == signal.SIGKILL
        host.clear_faults()
        tried += killed
        for pillar in (AFTER, BEFORE):
            assert apply(host, pillar).ok
            units = {path.rpartition("/")[2] for path in host.state()["written"] if "gpu-slicing-mps-" in path}
            assert units == {one["unit"] for one in host.state()["mps"].values()}, (nth, pillar)
    assert tried


def test_a_rollback_brings_both_back(cut):
    host, before = cut
    assert apply(host, AFTER).ok
    with Engine(config(host)) as engine:
        result = engine.reconciler().apply(engine.rollback_targets())
    assert result.ok and there(host) == before


def test_a_whole_gpu_becomes_devices_and_back(simulated):
    host = simulated("a30-pair")
    whole = pillars.for_all("none", devices=[pillars.rule(ONE, strategy="mps")])
    assert apply(host, whole).ok and len(there(host)[0]) == 8
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.wanted("mps", ONE, {"clear": True})).ok
    assert apply(host, BEFORE).ok
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.wanted("mig", ONE, {"enabled": False})).ok
    assert there(host) == ([], [])
    assert apply(host, whole).ok and len(there(host)[0]) == 8 and apply(host, whole).plan.empty


def test_what_is_exported_is_what_is_there(cut):
    host, _ = cut
    assert apply(host, AFTER).ok
    with Engine(config(host)) as engine:
        exported = engine.export()
        assert engine.plan(exported).empty
    [rule] = [one for one in exported["containers_gpu_slicing"]["devices"] if one["match"]["pci"] == ONE]
    assert rule["mps"] == {"enabled": True, "max_instance_count": 2, "active_thread_percentage": 30, "pinned_memory_mib": 5984}
