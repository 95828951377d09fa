"""
Layers: what is shared stands on what is carved. Forecast and planned for certain, a reboot that the lower one waits for, failures
and crashes on the way, a boot, a rollback.
"""

import json
import pathlib
import signal

import pytest

from gpuslice import reports
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.policy import parse
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import listed

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"
EMPTY = pillars.for_all("none")


def shared_mig(profiles=("1g.6gb", "1g.6gb"), count=2, address=OTHER, **management):
    """MIG devices of one GPU, each shared."""
    sharing = {"enabled": True, "max_instance_count": count}
    said = {"strategy": "mig", "mig": {"profiles": list(profiles)}, "time_slicing": sharing}
    return pillars.rules(pillars.rule(address, **said), **management)


def shared_whole(address=OTHER, **management):
    return pillars.for_gpu(address, "time-slicing", {"max_instance_count": 3, "slice_duration": "500us"}, **management)


def plan(host, wanted):
    with Engine(config(host)) as engine:
        return engine.plan(wanted)


def names(host, address=OTHER):
    return [part["name"].removeprefix(f"{address}-") for part in listed(host) if part["gpu"] == address]


def noted(host):
    path = pathlib.Path(host.state_dir) / "time-slicing.json"
    return json.loads(path.read_text(encoding="utf-8"))["gpus"] if path.exists() else {}


def everything(host):
    """All that a change of either layer could touch."""
    gpus = {
        address: [gpu["mode"], gpu["pending"], sorted([gi["profile"], gi["start"]] for gi in gpu["gis"].values()), _turns(gpu)]
        for address, gpu in host.state()["gpus"].items()
    }
    return gpus, noted(host)


def _turns(gpu):
    now = gpu.get("compute")
    return [now["step"], now["mode"]] if now and now["epoch"] == gpu["epoch"] else [0, 0]


REPLICAS = [f"1g.6gb-{start}-replica-{number}" for start in (0, 1) for number in (1, 2)]


# -- policy -----------------------------------------------------------------------------------------------------------
def test_a_gpu_has_a_target_for_each_layer():
    host = parse(pillars.for_all("mig", {"profiles": ["1g.6gb"]}, slicing={"time_slicing": {"enabled": True}}))
    assert host.default.strategy == "mig" and host.default.beside == ("time-slicing",)


@pytest.mark.parametrize(
    ("slicing", "beside"),
    [
        ({"strategy": "none", "mig": {"enabled": True, "profiles": []}, "time_slicing": {"enabled": True}}, ("time-slicing",)),
        ({"strategy": "mig", "time_slicing": {"enabled": False}}, ()),
        ({"strategy": "mig", "time_slicing": {"max_instance_count": 4}}, ()),
    ],
)
def test_what_stands_beside_is_switched_on(slicing, beside):
    made = parse(pillars.for_all("mig", {"profiles": []}, slicing=slicing)).default
    assert (made.strategy, made.beside) == ("mig", beside)


@pytest.mark.parametrize(
    ("rule", "beside"),
    [
        ({}, ("time-slicing",)),
        ({"strategy": "mig"}, ("time-slicing",)),
        ({"time_slicing": {"max_instance_count": 3}}, ("time-slicing",)),
        ({"strategy": "mig", "time_slicing": {"enabled": False}}, ()),
        ({"strategy": "none"}, ()),
        ({"strategy": "passthrough"}, ()),
    ],
)
def test_a_rule_inherits_it_with_the_strategy(rule, beside):
    sharing = {"time_slicing": {"enabled": True}}
    made = parse(pillars.for_all("mig", {"profiles": []}, [pillars.rule(ONE, **rule)], sharing))
    assert made.rules[0].beside == beside


@pytest.mark.parametrize(
    ("strategy", "key"),
    [("time-slicing", "mig"), ("vgpu", "time_slicing"), ("vgpu", "mps"), ("partition", "time_slicing"), ("mig", "vgpu"),
     ("sriov", "level_zero")],
)  # fmt: skip
def test_every_other_pair_is_one_technology_too_many(strategy, key):
    more = {"mig": {"profiles": []}, key: {"enabled": True, **({"profiles": []} if key == "mig" else {})}}
    with pytest.raises(Exception, match="a GPU has one technology at a time. Leave one of them out"):
        parse(pillars.for_all(strategy, slicing=more))


def test_strategy_auto_lets_nothing_stand_on_what_nobody_knows():
    both = {"mig": {"enabled": True, "profiles": []}, "time_slicing": {"enabled": True}}
    with pytest.raises(Exception, match="a GPU has one technology at a time"):
        parse(pillars.for_all("auto", slicing=both))


# -- forecast, and certain --------------------------------------------------------------------------------------------
def test_the_upper_layer_is_forecast_and_planned_anew(simulated):
    host = simulated("a30-pair")
    before = everything(host)
    told = plan(host, shared_mig())
    assert [(part.key.technique, part.forecast) for part in told.parts] == [("mig", False), ("time-slicing", True)]
    assert "planned again once its slices are there" in told.text()
    assert everything(host) == before
    result = apply(host, shared_mig())
    assert result.ok and closed(host) and names(host) == REPLICAS
    assert not any(part.forecast for part in result.plan.parts)
    assert set(result.changes[OTHER]["new"]) >= {"instances", "replicas"}
    again = apply(host, shared_mig())
    assert again.plan.empty and again.generation is None


def test_a_slice_that_comes_later_is_shared_too(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    result = apply(host, shared_mig(["1g.6gb", "1g.6gb", "2g.12gb"]))
    assert result.ok and set(names(host)) == {*REPLICAS, "2g.12gb-2-replica-1", "2g.12gb-2-replica-2"}


def test_the_pillar_that_is_exported_has_both_layers(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    with Engine(config(host)) as engine:
        exported = engine.export()
        [rule] = [one for one in exported["containers_gpu_slicing"]["devices"] if one["match"]["pci"] == OTHER]
        assert rule["strategy"] == "mig" and rule["time_slicing"] == {"enabled": True, "max_instance_count": 2}
        assert engine.plan(exported).empty


def test_targets_tell_of_both_layers(simulated):
    with Engine(config(simulated("a30-pair"))) as engine:
        lines = [line for line in reports.targets(engine, shared_mig()) if line.startswith(OTHER)]
    assert lines == [
        f"{OTHER} NVIDIA A30: strategy mig (containers_gpu_slicing:devices:0)",
        f"{OTHER} NVIDIA A30: time-slicing on what strategy mig makes (containers_gpu_slicing:devices:0)",
    ]


# -- from one to the other --------------------------------------------------------------------------------------------
def test_a_whole_gpu_that_was_shared_becomes_mig_devices_that_are_and_back(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    whole = everything(host)
    assert apply(host, shared_mig()).ok and names(host) == REPLICAS
    with Engine(config(host)) as engine:
        back = engine.reconciler().apply(engine.rollback_targets())
    assert back.ok, back.errors
    assert everything(host)[0] == whole[0] and names(host) == [f"replica-{number}" for number in (1, 2, 3)]


@pytest.mark.parametrize("call", ["nvmlDeviceCreateGpuInstanceWithPlacement", "store_write"])
def test_a_failure_in_either_layer_undoes_both(simulated, call):
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    before = everything(host)
    fault = {"call": call, "error": "NVML_ERROR_UNKNOWN"} if call.startswith("nvml") else {"call": call, "error": "EIO", "nth": 3}
    host.add_fault(fault)
    result = apply(host, shared_mig())
    host.clear_faults()
    assert not result.ok and closed(host), result
    # The step was lost with the change of the MIG mode, and set again when that was put back.
    assert everything(host) == before, result.errors


def test_a_step_of_the_upper_layer_that_fails_undoes_the_lower_one(simulated):
    """From MIG devices to the whole GPU, of which the driver takes no length of turns."""
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    before = everything(host)
    with host.change() as state:
        state["gpus"][OTHER]["about"]["no_timeslice"] = True
    with Engine(config(host)) as engine:
        targets = engine.targets(engine.policy(pillars.for_gpu(OTHER, "mig", {"mode": "disabled"})))
        targets += engine.wanted("time-slicing", OTHER, {"layout": _whole_layout()})
        result = engine.reconciler().apply(targets)
    assert not result.ok and "takes no time slice" in result.errors[0]
    assert everything(host) == before and closed(host) and names(host) == REPLICAS


def _whole_layout():
    settings = {"compute_mode": 0, "timeslice": 2}
    return {"replicas": {OTHER: 2}, "profiles": [], "settings": settings, "former": {"compute_mode": 0, "timeslice": 0}}


# -- reboots ----------------------------------------------------------------------------------------------------------
def test_what_stands_on_a_mode_that_waits_for_a_reboot_waits_too(simulated):
    host = simulated("a30-pair", reset="never")
    result = apply(host, shared_mig())
    assert result.reboot == [OTHER] and not noted(host), result
    again = apply(host, shared_mig())
    assert again.reboot == [OTHER] and again.plan.empty
    assert "waits for a reboot, as mig below it does" in again.plan.text()
    host.reboot()
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert answer["result"], answer
    assert apply(host, shared_mig()).ok and names(host) == REPLICAS


@pytest.mark.parametrize("wanted", [shared_mig(), shared_whole()], ids=["mig", "whole"])
def test_a_boot_brings_both_layers_back(simulated, wanted):
    host = simulated("a30-pair")
    assert apply(host, wanted).ok
    before, shown = everything(host)[0][OTHER], names(host)
    host.reboot()
    assert everything(host)[0][OTHER] != before
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert answer["result"], answer
    assert everything(host)[0][OTHER] == before and names(host) == shown
    with Engine(config(host)) as engine:
        assert engine.plan(wanted).empty


# -- crashes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["store_write", "store_append", "nvmlDeviceCreateGpuInstanceWithPlacement"])
def test_a_kill_anywhere_is_finished_or_undone_by_the_next_run(simulated, call, when):
    tried = 0
    for nth in range(1, 12):
        host = simulated("a30-pair")
        assert apply(host, shared_whole()).ok
        before = everything(host)
        host.add_fault({"call": call, "nth": nth, "kill": when})
        if apply_in_child(host, shared_mig()) != signal.SIGKILL:
            break
        tried += 1
        host.clear_faults()
        if nth % 2:
            result = apply(host, shared_mig())
            assert result.ok and closed(host) and names(host) == REPLICAS, (nth, result.errors)
            continue
        if closed(host):
            continue
        with Engine(config(host)) as engine:
            result = engine.reconciler().recover(engine.gpus)
        assert result.ok and closed(host) and everything(host) == before, (nth, result.errors)
    assert tried > 1


# -- what stands on nothing -------------------------------------------------------------------------------------------
def seen(host, address=OTHER):
    """Where each view tells of replicas of a GPU."""
    with Engine(config(host)) as engine:
        [device] = [one for one in engine.devices() if one["address"] == address]
        [rule] = [one for one in engine.export()["containers_gpu_slicing"]["devices"] if one["match"]["pci"] == address]
        [(one, tool)], _ = engine.techniques("time-slicing", address)
        found = {
            "slices": any(part["kind"] == "replica" or part["taken"] for part in engine.slices(address, taken=True)),
            "map": "among" in engine.maps()[address],
            "device": bool(device["live"]["time-slicing"]["replicas"]),
            "status": bool(tool.shown(tool.layout(engine.seen(tool, one)))["replicas"]),
            "export": "time_slicing" in rule,
        }
        assert engine.plan({"containers_gpu_slicing": {"enabled": True, "devices": [rule]}}).empty
    return {name for name, told in found.items() if told}


EVERYWHERE = {"slices", "map", "device", "status", "export"}


def test_every_view_tells_of_replicas_that_are_there(simulated):
    host = simulated("a30-pair")
    for wanted in (shared_whole(), shared_mig()):
        assert apply(host, wanted).ok and seen(host) == EVERYWHERE


def test_no_view_tells_of_replicas_of_devices_that_are_gone(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    assert apply(host, pillars.for_gpu(OTHER, "mig", {"profiles": ["2g.12gb"]})).ok
    assert noted(host) and seen(host) == set()


@pytest.mark.parametrize("settings", [{"mode": "enabled", "profiles": []}, {"profiles": ["2g.12gb"]}])
def test_no_view_tells_of_replicas_of_a_gpu_that_is_no_whole(simulated, settings):
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    assert apply(host, pillars.for_gpu(OTHER, "mig", settings)).ok
    assert noted(host) and seen(host) == set()


def test_a_device_that_came_later_and_is_not_shared_is_not_exported_as_if(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    assert apply(host, pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb", "1g.6gb", "2g.12gb"]})).ok
    with Engine(config(host)) as engine:
        [rule] = [one for one in engine.export()["containers_gpu_slicing"]["devices"] if one["match"]["pci"] == OTHER]
    assert rule["time_slicing"] == {"enabled": True, "max_instance_count": 2, "profiles": ["1g.6gb"]}


@pytest.mark.parametrize(
    "silent", [EMPTY, pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb", "1g.6gb"]})], ids=["none", "mig"]
)
def test_what_a_pillar_no_longer_says_stays_and_is_told_with_the_way_to_end_it(simulated, silent):
    host = simulated("a30-pair")
    assert apply(host, shared_mig()).ok
    told = plan(host, silent)
    assert told.empty and f"{OTHER}: time-slicing is on record ({OTHER}-1g.6gb-0 among 2" in told.text()
    assert f"'salt-call gpu_time_slicing.remove {OTHER}' ends it" in told.text()
    result = apply(host, silent)
    assert result.plan.notes == told.notes and names(host) == REPLICAS
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.wanted("time-slicing", OTHER, {"clear": True})).ok
    assert plan(host, silent).notes == () and plan(host, shared_mig()).notes == ()


# -- rollback to a generation -----------------------------------------------------------------------------------------
def back_to(host, generation):
    with Engine(config(host)) as engine:
        result = engine.reconciler().apply(engine.rollback_targets(generation))
    assert result.ok, result.errors


def test_a_generation_is_brought_back_with_what_stood_beside_it(simulated):
    host = simulated("a30-pair")
    plain = pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb", "1g.6gb"]})
    wanted = [plain, shared_mig(), shared_mig(count=3), shared_mig(["2g.12gb"])]
    shown = {}
    for generation, pillar in enumerate(wanted, 1):
        assert apply(host, pillar).generation == generation
        shown[generation] = names(host)
    # The first tells MIG alone, the third the sharing alone.
    for generation in (1, 3, 2, 4, 1, 4, 3):
        back_to(host, generation)
        assert names(host) == shown[generation], generation
        with Engine(config(host)) as engine:
            assert engine.plan(wanted[generation - 1]).empty


# -- what stands on a change that says nothing of it ------------------------------------------------------------------
@pytest.mark.parametrize(
    "call", ["nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"]
)
def test_a_failure_below_brings_back_what_nobody_asked_for_above(simulated, call):
    """The reset of a change of the MIG mode ends the time slice, which the record of whoever shared the GPU goes by."""
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    before = everything(host)
    host.add_fault({"call": call, "error": "NVML_ERROR_UNKNOWN"})
    result = apply(host, pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb"]}))
    host.clear_faults()
    assert not result.ok and closed(host) and everything(host) == before, result.errors


def test_an_undo_brings_back_what_nobody_asked_for_above(simulated):
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    before = everything(host)
    result = apply(host, pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb"]}))
    assert result.ok and set(result.changes[OTHER]["new"]) == {"mig_mode", "instances"}
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert everything(host) == before


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_below_is_undone_with_what_stood_above(simulated, when):
    host = simulated("a30-pair")
    assert apply(host, shared_whole()).ok
    before = everything(host)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": when})
    assert apply_in_child(host, pillars.for_gpu(OTHER, "mig", {"profiles": ["1g.6gb"]})) == signal.SIGKILL
    host.clear_faults()
    with Engine(config(host)) as engine:
        result = engine.reconciler().recover(engine.gpus)
    assert result.ok and closed(host) and everything(host) == before, result.errors
