"""
What the reconciler promises, promise by promise, and every way in which a pillar steers it. Everything runs in this process, on
simulated machines, through the engine's own door.
"""

import json
import pathlib
import re
import signal

import pytest

from gpuslice import errors
from gpuslice.change.reconcile import Reconciler
from gpuslice.engine import Engine
from gpuslice.host.base import REBOOT_PACKAGES
from gpuslice.model import Key
from gpuslice.records import lock
from gpuslice.records.history import History
from gpuslice.records.journal import Journal
from gpuslice.rules import Options
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import crash
from tests.support import pillars
from tests.support.a100 import A100
from tests.support.a100 import AFTER
from tests.support.a100 import BEFORE
from tests.support.a100 import FIRST
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import slices
from tests.support.techniques import mig_targets

#: One A100 whose MIG mode is off, for changes of the mode.
PLAIN = [{"model": "a100-40gb", "address": FIRST}]
H100 = [{"model": "h100-80gb", "address": FIRST}]
HOLDER = {
    "pid": 4711,
    "command": "train.py",
    "unit": "trainer.service",
    "container": "c0ffee123456",
    "gpu": FIRST,
    "slice": "2g.10gb@4",
}


class Recording(SimulatedHost):
    """A simulated machine that remembers the programs that were run on it."""

    def __init__(self, host):
        super().__init__(host.description_path, host.state_dir)
        self.ran = []

    def run(self, argv, timeout=60):
        self.ran.append(" ".join(argv))
        return super().run(argv, timeout)


def recorded(host, wanted):
    """Apply on a machine that remembers; returns (Result, programs that were run)."""
    with Engine(config(host)) as engine:
        policy = engine.policy(wanted)
        targets = engine.targets(policy)
    machine = Recording(host)
    options = Options(strategy=policy.apply_strategy, stop_units=policy.stop_units, unload_modules=policy.unload_modules)
    tools = Toolbox(machine)
    try:
        return Reconciler(machine, tools, options).apply(targets), machine.ran
    finally:
        tools.release()


def in_child(host, wanted):
    """Apply in a process that a fault may kill; returns the signal that ended it, 0 for none."""
    return crash.in_child(lambda: apply(host, wanted))


def shape(host, gpu=FIRST):
    """Sorted profiles of one GPU."""
    return sorted(profile for address, profile, _ in slices(host) if address == gpu)


def mode(host, gpu=FIRST):
    """(current, pending) of one GPU."""
    return host.state()["gpus"][gpu]["mode"], host.state()["gpus"][gpu]["pending"]


def gis(host, gpu=FIRST):
    """The GPU instances as the machine has them: (profile id, start) -> number of compute instances."""
    return {(gi["profile"], gi["start"]): len(gi["cis"]) for gi in host.state()["gpus"][gpu]["gis"].values()}


def journal_is_closed(host):
    return Journal(host).unfinished() is None


def is_free(host):
    """Whether the lock of the host can be had."""
    try:
        with lock.held(host.state_dir, "somebody else", patience=0):
            return True
    except errors.LockHeld:
        return False


# -- the nine promises ------------------------------------------------------------------------------------------------
def test_promise_1_the_lock_is_held_during_the_whole_change(simulated):
    host, seen = simulated("dgx-a100-40gb", gpus=TRIO), []
    assert apply(host, pillars.mig(AFTER), progress=lambda line: seen.append(is_free(host))).ok
    assert len(seen) >= 12 and not any(seen)
    assert is_free(host)


def test_promise_1_a_host_that_is_right_takes_no_lock(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    with lock.held(host.state_dir, "somebody else", patience=0):
        assert apply(host, pillars.mig(BEFORE)).ok


def test_promise_2_what_was_left_is_dealt_with_before_anything_new(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": "nvmlGpuInstanceDestroy", "nth": 2, "kill": "after"}])
    before = slices(host)
    assert in_child(host, pillars.mig(AFTER)) == signal.SIGKILL
    assert slices(host) != before and not journal_is_closed(host)
    lines = []
    result = apply(host, pillars.mig(["3g.20gb@0", "2g.10gb@4"]), progress=lines.append)
    assert result.ok and journal_is_closed(host)
    assert "interrupted" in lines[0] and "undone first" in lines[0]
    assert any("interrupted" in warning and "undone" in warning for warning in result.warnings)
    # The 1g at 6 went by the new wish, from all three, after all that the old one had done was undone.
    assert {(gpu, words) for gpu in (FIRST, SECOND, THIRD) for words in ("3g.20gb", "2g.10gb")} == {
        key[:2] for key in slices(host)
    }


def test_promise_3_nothing_in_use_is_destroyed(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[HOLDER])
    before = slices(host)
    result = apply(host, pillars.mig(AFTER))
    [said] = result.errors
    for word in (FIRST, "2g.10gb at 4", "pid 4711", "train.py", "trainer.service", "c0ffee123456", "force"):
        assert word in said
    after = slices(host)
    assert {key for key in after if key[0] == FIRST} == {key for key in before if key[0] == FIRST}
    assert all(after[key] == uuid for key, uuid in before.items() if key[0] == FIRST)


def test_promise_3_what_is_in_use_and_may_stay_is_no_obstacle(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[{**HOLDER, "slice": "3g.20gb@0"}])
    assert apply(host, pillars.mig(AFTER)).ok
    assert shape(host) == sorted(AFTER)


def test_promise_3_of_two_that_would_do_the_idle_one_goes(simulated):
    gpus = [{**A100, "address": FIRST, "instances": ["1g.5gb@0", "1g.5gb@4"]}]
    for busy in ("1g.5gb@0", "1g.5gb@4"):
        host = simulated("dgx-a100-40gb", gpus=gpus, processes=[{**HOLDER, "slice": busy}])
        before = slices(host)
        assert apply(host, pillars.mig(["1g.5gb"])).ok
        [(key, uuid)] = slices(host).items()
        assert key[2] == f"{busy[-1]}:1" and before[key] == uuid


def test_promise_4_kept_slices_keep_their_uuid(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    before = slices(host)
    result = apply(host, pillars.mig(AFTER))
    after = slices(host)
    same = {key for key in before if after.get(key) == before[key]}
    assert {(gpu, "3g.20gb", "0:4") for gpu in (FIRST, SECOND, THIRD)} <= same
    assert {(gpu, "1g.5gb", "6:1") for gpu in (FIRST, SECOND, THIRD)} <= same
    assert [made.destroys for made in result.plan.parts] == [("2g.10gb at 4",)] * 3


def test_promise_5_a_step_is_on_the_disk_before_it_is_done(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    steps = apply_steps(host)
    for number, action in enumerate(steps, 1):
        host.reset()
        host.add_fault({"call": CALL_OF[action], "nth": steps[:number].count(action), "kill": "before"})
        assert in_child(host, pillars.mig(AFTER)) == signal.SIGKILL
        entry = Journal(host).unfinished()
        assert entry.steps == [(Key(FIRST, "mig"), n) for n in range(1, number + 1)]
        assert entry.before[Key(FIRST, "mig")]["instances"] and entry.plan["parts"][0]["steps"][number - 1]["action"] == action
        assert apply(host, pillars.mig(AFTER)).ok and journal_is_closed(host)


CALL_OF = {
    "destroy_ci": "nvmlComputeInstanceDestroy",
    "destroy_gi": "nvmlGpuInstanceDestroy",
    "create_gi": "nvmlDeviceCreateGpuInstanceWithPlacement",
    "create_ci": "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
}


def apply_steps(host):
    """The actions of the change on the first GPU, in order."""
    with Engine(config(host)) as engine:
        return [step.action for step in engine.plan(pillars.mig(AFTER)).steps]


def test_promise_6_a_failing_step_puts_every_gpu_back(simulated):
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[fault])
    before = slices(host)
    result = apply(host, pillars.mig(AFTER, on_failure="host"))
    assert not result.ok and journal_is_closed(host)
    assert SECOND in result.errors[0] and "create GPU instance 1g.5gb" in result.errors[0]
    assert slices(host).keys() == before.keys()


def test_promise_6_a_rollback_that_fails_too_says_what_is_left(simulated):
    faults = [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "times": 0, "error": "NVML_ERROR_UNKNOWN"}]
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=faults)
    result = apply(host, pillars.mig(AFTER, on_failure="host"))
    text = " ".join(result.errors)
    assert not result.ok and not journal_is_closed(host)
    assert f"GPU {SECOND} could not be put back to 3g.20gb@0, 2g.10gb@4, 1g.5gb@6" in text
    assert shape(host, FIRST) == shape(host, THIRD) == sorted(["3g.20gb", "2g.10gb", "1g.5gb"])
    assert shape(host, SECOND) == ["1g.5gb", "3g.20gb"]
    assert result.changes[SECOND]["new"]["instances"] == ["3g.20gb@0", "1g.5gb@6"]
    # Once the driver is well again, the next run mends it, whether it wants the same or something else.
    host.clear_faults()
    assert apply(host, pillars.mig(BEFORE)).ok and journal_is_closed(host)
    assert shape(host, SECOND) == sorted(["3g.20gb", "2g.10gb", "1g.5gb"])


def test_promise_6_while_it_can_not_be_mended_nothing_else_is_begun(simulated):
    faults = [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "times": 0, "error": "NVML_ERROR_UNKNOWN"}]
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=faults)
    apply(host, pillars.mig(AFTER))
    before = slices(host)
    with Engine(config(host)) as engine, pytest.raises(errors.RollbackFailed) as caught:
        engine.apply(pillars.mig(["1g.5gb@0"]))
    assert SECOND in str(caught.value) and "interrupted" in str(caught.value)
    assert slices(host) == before


@pytest.mark.parametrize("call", ["nvmlGpuInstanceCreateComputeInstanceWithPlacement", "nvmlGpuInstanceDestroy"])
def test_promise_7_what_was_done_is_read_again(simulated, call):
    """A driver that says "done" and did nothing is found out, told with what is and what should be, and undone."""
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": call, "gpu": SECOND, "lie": True}])
    before = slices(host)
    wanted = ["3g.20gb", "1g.5gb"] if call == "nvmlGpuInstanceDestroy" else AFTER
    result = apply(host, pillars.mig(wanted, on_failure="host"))
    text = " ".join(result.errors)
    assert not result.ok and SECOND in text
    assert "read again" in text and "it has " in text and ("wanted is" in text or "still to be done is: create" in text)
    assert slices(host).keys() == before.keys()


def test_promise_8_what_the_policy_does_not_name_is_not_touched(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    before, machine = slices(host), dict(host.state()["gpus"])
    result = apply(host, pillars.rules(pillars.mig_rule(SECOND, ["7g.40gb"])))
    assert result.ok and set(result.changes) == {SECOND}
    assert {gpu: host.state()["gpus"][gpu] for gpu in (FIRST, THIRD)} == {gpu: machine[gpu] for gpu in (FIRST, THIRD)}
    assert {key: uuid for key, uuid in slices(host).items() if key[0] != SECOND} == {
        key: uuid for key, uuid in before.items() if key[0] != SECOND
    }


def test_promise_9_reading_and_planning_change_nothing(simulated):
    counters = [{"call": call, "nth": 10**9, "lie": True} for call in (*CALL_OF.values(), "nvmlDeviceSetMigMode", "run", "write")]
    counters += [{"call": call, "nth": 10**9, "lie": True} for call in ("store_write", "store_append", "end_process")]
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=counters, processes=[HOLDER])
    files = sorted(str(path) for path in pathlib.Path(host.state_dir).rglob("*"))
    with Engine(config(host)) as engine:
        for read in (engine.devices, engine.slices, engine.maps, engine.health, engine.history, engine.export):
            assert read() is not None
        assert engine.export("mig-parted") and engine.holders(FIRST)
        force = pillars.mig(AFTER, apply_strategy="force")
        for wanted in (pillars.mig(AFTER), force, pillars.for_all("mig", {"mode": "disabled"})):
            engine.plan(wanted)
    assert [fault for fault in host.state()["faults"] if fault["seen"]] == []
    assert sorted(str(path) for path in pathlib.Path(host.state_dir).rglob("*")) == files


# -- apply_strategy ---------------------------------------------------------------------------------------------------
def test_auto_changes_the_idle_ones_and_names_the_busy_one(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[HOLDER])
    before = dict(host.state()["gpus"])
    result = apply(host, pillars.mig(AFTER, apply_strategy="auto"))
    assert not result.ok and len(result.errors) == 1 and "pid 4711" in result.errors[0]
    assert set(result.changes) == {SECOND, THIRD}
    assert shape(host, SECOND) == shape(host, THIRD) == sorted(AFTER)
    assert host.state()["gpus"][FIRST] == before[FIRST]
    host.remove_process(4711)
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and set(result.changes) == {FIRST}


def test_force_ends_the_process_and_changes(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[HOLDER])
    result = apply(host, pillars.mig(AFTER, apply_strategy="force"))
    assert result.ok and set(result.changes) == {FIRST, SECOND, THIRD}
    assert host.processes() == []
    assert shape(host) == sorted(AFTER)


def test_force_ends_nobody_who_is_not_in_the_way(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[{**HOLDER, "slice": "3g.20gb@0"}])
    assert apply(host, pillars.mig(AFTER, apply_strategy="force")).ok
    assert [process.pid for process in host.processes()] == [4711]


def test_force_on_a_process_that_will_not_end_undoes_everything(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[{**HOLDER, "stubborn": True}])
    before = slices(host)
    result = apply(host, pillars.mig(AFTER, apply_strategy="force", on_failure="host"))
    assert not result.ok and "pid 4711" in " ".join(result.errors) and FIRST in " ".join(result.errors)
    assert slices(host).keys() == before.keys()


def test_skip_reports_and_changes_nothing(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    before = slices(host)
    result = apply(host, pillars.mig(AFTER, apply_strategy="skip"))
    assert result.ok and result.changes == {} and len(result.plan.steps) == 12
    assert "skip" in " ".join(result.warnings)
    assert slices(host) == before and History(host).all() == []


# -- validation and health --------------------------------------------------------------------------------------------
def test_without_validation_a_difference_is_a_warning(simulated):
    lie = {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "gpu": SECOND, "lie": True}
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[lie])
    result = apply(host, pillars.mig(AFTER, validation=False))
    assert result.ok
    assert any(SECOND in warning and "not as wanted" in warning for warning in result.warnings)


SICK = {
    "lost": ({"lost": True}, "fallen off the bus"),
    "row failed": ({"row_remap_failed": True}, "could not be remapped"),
    "row pending": ({"row_remap_pending": True}, "row remapping waits"),
    "recovery": ({"recovery_action": "drain_and_reset"}, "drain and reset"),
    "reboot": ({"recovery_action": "node_reboot"}, "asks for a reboot"),
}


@pytest.mark.parametrize(("health", "words"), list(SICK.values()), ids=list(SICK))
def test_a_sick_gpu_is_not_sliced_and_the_others_are(simulated, health, words):
    gpus = [{"model": "h100-80gb", "address": FIRST, "health": health}, {"model": "h100-80gb", "address": SECOND}]
    host = simulated("dgx-h100", gpus=gpus)
    before = dict(host.state()["gpus"])
    result = apply(host, pillars.mig(["3g.40gb"]))
    [said] = result.errors
    assert FIRST in said and words in said
    assert host.state()["gpus"][FIRST] == before[FIRST]
    assert shape(host, SECOND) == ["3g.40gb"]


@pytest.mark.parametrize("health", [health for health, _ in list(SICK.values())[1:]], ids=list(SICK)[1:])
def test_health_check_false_slices_it_all_the_same(simulated, health):
    host = simulated("dgx-h100", gpus=[{**H100[0], "health": health}])
    assert apply(host, pillars.mig(["3g.40gb"], health_check=False)).ok
    assert shape(host) == ["3g.40gb"]


def test_a_sick_gpu_that_is_right_already_is_no_failure(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{**A100, "address": FIRST, "health": {"row_remap_pending": True}}])
    result = apply(host, pillars.mig(BEFORE))
    assert result.ok and result.plan.empty


# -- changes of the mode ----------------------------------------------------------------------------------------------
def test_an_idle_ampere_that_resets_itself_needs_no_program(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="auto")
    result, ran = recorded(host, pillars.mig(AFTER))
    assert result.ok and ran == [] and mode(host) == (1, 1) and shape(host) == sorted(AFTER)


def test_only_the_gpu_with_the_pending_mode_is_reset(simulated):
    busy = [{**HOLDER, "gpu": THIRD, "slice": "3g.20gb@0"}]
    host = simulated("dgx-a100-40gb", gpus=[*PLAIN, *TRIO[1:]], reset="tool", processes=busy)
    before = slices(host)
    result, ran = recorded(host, pillars.mig(AFTER))
    assert result.ok and shape(host) == sorted(AFTER)
    assert ran == [f"nvidia-smi --gpu-reset -i {FIRST}"]
    assert {key: uuid for key, uuid in slices(host).items() if key[1] == "3g.20gb" and key[0] != FIRST} == {
        key: uuid for key, uuid in before.items() if key[1] == "3g.20gb"
    }


def test_resets_go_one_after_the_other_and_each_names_one_gpu(simulated):
    gpus = [{"model": "a100-40gb", "address": address} for address in (FIRST, SECOND, THIRD)]
    host = simulated("dgx-a100-40gb", gpus=gpus, reset="tool")
    result, ran = recorded(host, pillars.mig(AFTER))
    assert result.ok
    assert sorted(ran) == [f"nvidia-smi --gpu-reset -i {gpu}" for gpu in (FIRST, SECOND, THIRD)]


def test_hopper_needs_no_reset(simulated):
    host = simulated("dgx-h100", gpus=H100, reset="never")
    result, ran = recorded(host, pillars.mig(["3g.40gb"]))
    assert result.ok and ran == [] and result.reboot == [] and shape(host) == ["3g.40gb"]


def test_a_mode_that_somebody_left_pending_is_brought_into_force(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool")
    lib = host.nvml()
    lib.nvmlInit()
    lib.nvmlDeviceSetMigMode(lib.nvmlDeviceGetHandleByIndex(0), 1)
    lib.nvmlShutdown()
    assert mode(host) == (0, 1)
    result, ran = recorded(host, pillars.mig(AFTER))
    assert result.ok and len(ran) == 1 and mode(host) == (1, 1)


@pytest.mark.parametrize("way", ["auto", "tool"])
@pytest.mark.parametrize(("gpus", "profile"), [(TRIO[:1], "3g.20gb"), ([{**H100[0], "mig": "enabled"}], "3g.40gb")])
def test_switching_mig_off_ends_the_instances_first(simulated, gpus, profile, way):
    host = simulated("dgx-a100-40gb", gpus=gpus, reset=way)
    assert apply(host, pillars.mig([profile])).ok
    result = apply(host, pillars.for_all("mig", {"mode": "disabled"}))
    assert result.ok and mode(host) == (0, 0) and gis(host) == {}
    assert apply(host, pillars.for_all("mig", {"mode": "disabled"})).plan.empty


def test_switching_mig_off_names_who_uses_it(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1], processes=[HOLDER])
    result = apply(host, pillars.for_all("mig", {"mode": "disabled"}))
    assert not result.ok and "pid 4711 (train.py" in result.errors[0]
    assert mode(host) == (1, 1) and len(gis(host)) == 3


def test_a_failed_change_of_the_mode_stops_the_run_and_is_undone(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", faults=[{"call": "run", "times": 0, "error": "EIO"}])
    result = apply(host, pillars.mig(AFTER))
    assert not result.ok and FIRST in result.errors[0]
    assert mode(host) == (0, 0) and gis(host) == {}


# -- reboots ----------------------------------------------------------------------------------------------------------
RUNS = {"call": "run", "nth": 10**9, "lie": True}


def runs(host):
    return next(fault["seen"] for fault in host.state()["faults"] if fault["call"] == "run")


def test_a_reset_that_can_not_be_is_a_reboot_that_is_told_once(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="never", faults=[RUNS])
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and result.reboot == [FIRST]
    assert mode(host) == (0, 1) and runs(host) == 1
    assert "gpu-slicing" in host.read(REBOOT_PACKAGES) and host.exists("/run/reboot-required")
    assert host.state()["reboot_scheduled"] == ""
    # The same boot: nothing is changed, no reset is tried, and it is still told.
    for _ in range(2):
        again = apply(host, pillars.mig(AFTER))
        assert again.ok and again.changes == {} and again.reboot == [FIRST]
        assert "waits for a reboot" in again.plan.summary()
    assert runs(host) == 1
    host.reboot()
    final = apply(host, pillars.mig(AFTER))
    assert final.ok and final.reboot == [] and shape(host) == sorted(AFTER)
    assert runs(host) == 1
    assert apply(host, pillars.mig(AFTER)).plan.empty


def test_without_the_program_that_resets_a_reboot_is_needed_and_the_reason_told(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", tools=["lspci"])
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and result.reboot == [FIRST]
    host.reboot()
    assert apply(host, pillars.mig(AFTER)).ok and shape(host) == sorted(AFTER)


def test_a_request_for_another_gpu_does_not_forget_who_waits(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{**PLAIN[0], "reset": "never"}, TRIO[1]], faults=[RUNS])
    assert apply(host, pillars.mig(AFTER)).reboot == [FIRST]
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(mig_targets(engine, "layout", SECOND, ["7g.40gb"])).ok
        assert engine.reconciler().apply(mig_targets(engine, "layout", SECOND, ["7g.40gb"])).plan.empty
    assert apply(host, pillars.mig(AFTER)).reboot == [FIRST]
    assert runs(host) == 1


def test_a_reboot_is_scheduled_only_where_it_is_allowed_and_never_twice_in_vain(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="never")
    result = apply(host, pillars.mig(AFTER, reboot_required=True))
    assert result.ok and "reboots in a minute" in " ".join(result.warnings)
    assert "GPU slicing" in host.state()["reboot_scheduled"]
    host.reboot()
    with host.change() as state:
        # A board that forgets what it was told: the reboot was in vain.
        state["gpus"][FIRST].update(mode=0, pending=1)
    result = apply(host, pillars.mig(AFTER, reboot_required=True))
    assert result.reboot == [FIRST] and host.state()["reboot_scheduled"] == ""
    assert "in vain" in " ".join(result.warnings) and FIRST in " ".join(result.warnings)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", f'{{"{FIRST}": 3}}', f'{{"{FIRST}": {{}}}}'])
def test_a_damaged_list_of_waiting_gpus_costs_one_more_attempt_and_no_more(simulated, content):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="never", faults=[RUNS])
    assert apply(host, pillars.mig(AFTER)).reboot == [FIRST]
    (pathlib.Path(host.state_dir) / "reboot.json").write_text(content)
    for _ in range(2):
        again = apply(host, pillars.mig(AFTER))
        assert again.ok and again.reboot == [FIRST]
    assert runs(host) == 2


def test_a_gpu_that_waits_keeps_no_other_from_its_layout(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{**PLAIN[0], "reset": "never"}, *TRIO[1:]])
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and result.reboot == [FIRST] and set(result.changes) >= {SECOND, THIRD}
    assert shape(host, SECOND) == shape(host, THIRD) == sorted(AFTER)


# -- what stops for a change ------------------------------------------------------------------------------------------
MONITOR = {"pid": 900, "command": "dcgm-exporter", "unit": "dcgm.service", "type": "monitor", "gpu": FIRST}


def test_a_unit_that_may_stop_is_stopped_and_started_again(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR])
    result, ran = recorded(host, pillars.mig(AFTER, stop_units=["dcgm.service"]))
    assert result.ok and shape(host) == sorted(AFTER)
    assert ran == ["systemctl stop dcgm.service", f"nvidia-smi --gpu-reset -i {FIRST}", "systemctl start dcgm.service"]
    assert [process.command for process in host.processes()] == ["dcgm-exporter"]


def test_a_unit_that_is_not_in_the_way_is_not_stopped(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[MONITOR])
    result, ran = recorded(host, pillars.mig(AFTER, stop_units=["dcgm.service"]))
    assert result.ok and ran == []


def test_a_unit_that_was_not_named_is_not_stopped(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR])
    result, ran = recorded(host, pillars.mig(AFTER, stop_units=["other.service"]))
    assert not result.ok and ran == [] and mode(host) == (0, 0)
    for word in (FIRST, "pid 900", "dcgm-exporter", "dcgm.service", "stop_units"):
        assert word in result.errors[0]


def test_a_unit_is_started_again_after_a_change_that_failed(simulated):
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR], faults=[fault])
    result, ran = recorded(host, pillars.mig(AFTER, stop_units=["dcgm.service"]))
    assert not result.ok and ran[0] == "systemctl stop dcgm.service" and ran[-1] == "systemctl start dcgm.service"
    assert mode(host) == (0, 0)
    assert [process.command for process in host.processes()] == ["dcgm-exporter"]


@pytest.mark.parametrize("wanted", [AFTER, ["7g.40gb"]], ids=["the same", "something else"])
def test_a_unit_is_started_again_after_a_crash(simulated, wanted):
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "after"}
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR], faults=[fault])
    assert in_child(host, pillars.mig(AFTER, stop_units=["dcgm.service"])) == signal.SIGKILL
    assert host.processes() == []
    assert apply(host, pillars.mig(wanted, stop_units=["dcgm.service"])).ok
    assert [process.command for process in host.processes()] == ["dcgm-exporter"]
    assert shape(host) == sorted(wanted)


def test_a_unit_that_can_not_be_started_again_is_told(simulated):
    start = {"call": "run", "nth": 3, "error": "EIO"}
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR], faults=[start])
    result = apply(host, pillars.mig(AFTER, stop_units=["dcgm.service"]))
    assert shape(host) == sorted(AFTER)
    told = " ".join([*result.errors, *result.warnings])
    assert "dcgm.service" in told and "could not be started again" in told


def test_a_unit_that_can_not_be_stopped_means_no_change(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", processes=[MONITOR], tools=["lspci", "nvidia-smi"])
    result = apply(host, pillars.mig(AFTER, stop_units=["dcgm.service"]))
    text = " ".join(result.errors)
    assert not result.ok and FIRST in text and "dcgm.service" in text and "systemctl is not installed" in text
    assert mode(host) == (0, 0) and journal_is_closed(host)


def test_a_kernel_module_is_unloaded_for_a_reset_and_loaded_again(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", modules={"nvidia_drm": 0})
    result, ran = recorded(host, pillars.mig(AFTER, unload_modules=["nvidia_drm"]))
    assert result.ok and shape(host) == sorted(AFTER)
    assert ran == ["modprobe -r nvidia_drm", f"nvidia-smi --gpu-reset -i {FIRST}", "modprobe nvidia_drm"]
    assert host.state()["modules"] == {"nvidia_drm": 0}


def test_a_kernel_module_that_blocks_the_reset_is_named(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", modules={"nvidia_drm": 0})
    result = apply(host, pillars.mig(AFTER))
    assert not result.ok and FIRST in result.errors[0] and "nvidia_drm" in result.errors[0]
    assert mode(host) == (0, 0)


def test_a_kernel_module_that_is_in_use_stops_the_change_before_it_begins(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", modules={"nvidia_drm": 2})
    result = apply(host, pillars.mig(AFTER, unload_modules=["nvidia_drm"]))
    assert not result.ok and "nvidia_drm" in result.errors[0] and "in use" in result.errors[0] and FIRST in result.errors[0]
    assert mode(host) == (0, 0) and host.state()["modules"] == {"nvidia_drm": 2}


# -- history and rollback ---------------------------------------------------------------------------------------------
def roll_back(host, generation=None):
    with Engine(config(host)) as engine:
        return engine.reconciler().apply(engine.rollback_targets(generation))


def test_the_history_tells_who_what_and_how_it_ended(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    assert apply(host, pillars.mig(AFTER)).generation == 1
    host.add_fault({"call": "nvmlGpuInstanceDestroy", "error": "NVML_ERROR_UNKNOWN"})
    assert apply(host, pillars.mig(["7g.40gb"])).generation == 2
    with Engine(config(host)) as engine:
        first, second = engine.history()
    assert first["result"] == "applied" and first["errors"] == []
    assert second["result"] == "rolled back" and FIRST in second["errors"][0]
    assert first["who"] and first["time"] > 0 and first["plan"]["parts"][0]["addresses"] == [FIRST]
    assert [name for name, _, _ in first["before"][f"mig:{FIRST}"]["instances"]] == ["3g.20gb", "2g.10gb", "1g.5gb"]
    assert sorted(name for name, _, _ in first["after"][f"mig:{FIRST}"]["instances"]) == sorted(AFTER)
    assert second["before"] == second["after"] == first["after"]


def test_a_run_that_changes_nothing_makes_no_generation(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    for _ in range(2):
        assert apply(host, pillars.mig(BEFORE)).generation is None
    assert History(host).all() == []


def test_rollback_undoes_the_last_change_and_keeps_what_both_have(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    before = slices(host)
    apply(host, pillars.mig(AFTER))
    result = roll_back(host)
    after = slices(host)
    assert result.ok and after.keys() == before.keys()
    assert {key[1] for key in before if after[key] != before[key]} == {"2g.10gb"}


def test_rollback_passes_over_a_change_that_was_put_back(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    before = slices(host)
    apply(host, pillars.mig(AFTER))
    host.add_fault({"call": "nvmlGpuInstanceDestroy", "error": "NVML_ERROR_UNKNOWN"})
    assert not apply(host, pillars.mig(["7g.40gb"])).ok
    assert roll_back(host).ok and slices(host).keys() == before.keys()
    # Undoing that again brings the change back.
    assert roll_back(host).ok and shape(host) == sorted(AFTER)


def test_rollback_does_not_take_the_change_before_for_one_that_was_lost(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    apply(host, pillars.mig(AFTER))
    apply(host, pillars.mig(["7g.40gb"]))
    made = slices(host)
    # What a kill leaves between the end of a change and its generation.
    pathlib.Path(host.state_dir, "history", "000002.json").unlink()
    with pytest.raises(errors.PolicyError, match="generation 2, is not in the history") as failed:
        roll_back(host)
    assert "rollback 1'" in failed.value.todo and slices(host) == made
    assert roll_back(host, 1).ok and shape(host) == sorted(AFTER)


def test_rollback_to_a_generation_brings_back_its_outcome(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    shapes = {}
    for profiles in (AFTER, ["7g.40gb"], ["1g.5gb@0", "1g.5gb@6"]):
        generation = apply(host, pillars.mig(profiles)).generation
        shapes[generation] = slices(host).keys()
    for generation in (1, 3, 2):
        assert roll_back(host, generation).ok
        assert slices(host).keys() == shapes[generation]


def test_rollback_of_a_mode_change_brings_the_mode_back(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool")
    apply(host, pillars.mig(AFTER))
    assert roll_back(host).ok
    assert mode(host) == (0, 0) and gis(host) == {}


def test_rollback_names_a_gpu_that_is_gone_and_changes_nothing(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    apply(host, pillars.mig(AFTER))
    with host.change() as state:
        del state["gpus"][SECOND]
    before = slices(host)
    with Engine(config(host)) as engine, pytest.raises(errors.DeviceNotFound) as caught:
        engine.reconciler().apply(engine.rollback_targets())
    assert SECOND in str(caught.value) and FIRST in str(caught.value)
    assert slices(host) == before


def test_rollback_with_an_empty_history_or_an_unknown_generation_is_a_sentence(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    with Engine(config(host)) as engine, pytest.raises(errors.PolicyError, match="no change in the history"):
        engine.rollback_targets()
    apply(host, pillars.mig(AFTER))
    with Engine(config(host)) as engine, pytest.raises(errors.PolicyError, match="no generation 9.*Generations: 1"):
        engine.rollback_targets(9)
    for content in ("{", "{}", '{"generation": 1}', '{"generation": 1, "before": {}, "techniques": 3}', '{"before": 3}'):
        (pathlib.Path(host.state_dir) / "history" / "000001.json").write_text(content)
        with Engine(config(host)) as engine, pytest.raises(errors.JournalDamaged, match="Generation 1"):
            engine.rollback_targets()


def test_rollback_to_what_only_another_version_can_do_is_a_sentence(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    apply(host, pillars.mig(AFTER))
    path = pathlib.Path(host.state_dir) / "history" / "000001.json"
    path.write_text(path.read_text().replace('"mig:', '"origami:'))
    with Engine(config(host)) as engine, pytest.raises(errors.Unsupported, match="no technique 'origami'"):
        engine.rollback_targets()


def test_rollback_leaves_what_is_in_use(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    apply(host, pillars.mig(["3g.20gb@0", "1g.5gb@4", "1g.5gb@6"]))
    host.add_process({**HOLDER, "slice": "1g.5gb@4"})
    result = roll_back(host)
    assert not result.ok and "pid 4711" in result.errors[0]
    assert shape(host) == sorted(AFTER)


# -- adopting what is there -------------------------------------------------------------------------------------------
ODD = [
    {**A100, "address": FIRST},
    {
        "model": "a100-40gb",
        "address": SECOND,
        "mig": "enabled",
        "instances": [{"profile": "3g.20gb", "start": 4, "cis": [["2c.3g.20gb", 0], ["1c.3g.20gb", 2]]}, "2g.10gb@0"],
    },
    {"model": "a100-40gb", "address": THIRD},
]


def test_an_exported_pillar_changes_nothing(simulated):
    host = simulated("dgx-a100-40gb", gpus=ODD)
    before = slices(host)
    with Engine(config(host)) as engine:
        exported = json.loads(json.dumps(engine.export()))
        plan = engine.plan(exported)
    assert plan.empty and len(plan.parts) == 3
    result = apply(host, exported)
    assert result.ok and result.changes == {} and slices(host) == before
    assert mode(host, THIRD) == (0, 0)


def test_an_exported_pillar_brings_a_cleared_host_back(simulated):
    host = simulated("dgx-a100-40gb", gpus=ODD)
    before = slices(host)
    with Engine(config(host)) as engine:
        exported = engine.export()
    apply(host, pillars.rules(pillars.mig_rule(FIRST, []), pillars.mig_rule(SECOND, [])))
    assert slices(host) == {}
    assert apply(host, exported).ok
    assert slices(host).keys() == before.keys()


def test_the_form_of_the_peer_tool_names_gpus_by_index(simulated):
    host = simulated("dgx-a100-40gb", gpus=ODD)
    with Engine(config(host)) as engine:
        [(_, entries)] = engine.export("mig-parted")["mig-configs"].items()
        with pytest.raises(errors.PolicyError, match="pillar or mig-parted"):
            engine.export("xml")
    by_device = {device: entry for entry in entries for device in entry["devices"]}
    assert by_device[0]["mig-enabled"] and by_device[0]["mig-devices"] == {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}
    assert by_device[1]["mig-devices"] == {"2c.3g.20gb": 1, "1c.3g.20gb": 1, "2g.10gb": 1}
    assert not by_device[2]["mig-enabled"]


# -- side by side, and told in order ----------------------------------------------------------------------------------
def test_gpus_work_side_by_side(simulated):
    """While the driver makes an instance on one GPU, every other GPU has begun: eight take about as long as one."""
    host = simulated("dgx-a100-40gb", latency={"create_gi": 0.15, "create_ci": 0, "destroy_gi": 0.1})
    lines = []
    assert apply(host, pillars.mig(["3g.20gb", "2g.10gb"]), progress=lines.append).ok
    told = [found.groups() for found in map(STEP.match, lines) if found]
    first_end = next(number for number, (_, step, total) in enumerate(told) if step == total)
    assert {gpu for gpu, _, _ in told[:first_end]} == {gpu for gpu, _, _ in told} and len({gpu for gpu, _, _ in told}) == 8


STEP = re.compile(r"([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]) step (\d+)/(\d+): .+")


def test_progress_is_told_step_by_step_in_order(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    lines = []
    result = apply(host, pillars.mig(AFTER), progress=lines.append)
    told = [STEP.fullmatch(line).groups() for line in lines]
    for made in result.plan.parts:
        count = len(made.steps)
        assert [(number, total) for gpu, number, total in told if gpu == made.gpu] == [
            (str(number), str(count)) for number in range(1, count + 1)
        ]
        assert [line.partition(": ")[2] for line in lines if line.startswith(made.gpu)] == [step.words for step in made.steps]


# -- orphans and crashes ----------------------------------------------------------------------------------------------
ORPHAN = [{**A100, "address": FIRST, "instances": [{"profile": "3g.20gb", "start": 0, "cis": []}, "2g.10gb@4"]}]


@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("nvmlGpuInstanceDestroy", 1),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", 1),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", 2),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 1),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 2),
    ],
)
def test_a_gpu_instance_without_compute_instance_comes_back_as_it_was(simulated, call, nth):
    host = simulated("dgx-a100-40gb", gpus=ORPHAN, faults=[{"call": call, "nth": nth, "error": "NVML_ERROR_UNKNOWN"}])
    before = gis(host)
    result = apply(host, pillars.mig(["1g.5gb@0", "1g.5gb@1"]))
    assert not result.ok and "undone" in " ".join(result.errors)
    assert gis(host) == before == {(9, 0): 0, (14, 4): 1}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["nvmlDeviceSetMigMode", "run"])
@pytest.mark.parametrize("wanted", [AFTER, ["7g.40gb"]], ids=["the same", "something else"])
def test_a_crash_during_the_change_of_a_mode_is_repaired(simulated, wanted, call, when):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="tool", faults=[{"call": call, "kill": when}])
    assert in_child(host, pillars.mig(AFTER)) == signal.SIGKILL
    result = apply(host, pillars.mig(wanted))
    assert result.ok and "interrupted" in " ".join(result.warnings)
    assert mode(host) == (1, 1) and shape(host) == sorted(wanted) and journal_is_closed(host)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        # The second CI fails to be made. Undoing: one CI and two GIs go, the 2g comes back with its CI.
        ("nvmlComputeInstanceDestroy", 2),
        ("nvmlGpuInstanceDestroy", 2),
        ("nvmlGpuInstanceDestroy", 3),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", 3),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 3),
    ],
)
@pytest.mark.parametrize("wanted", [["3g.20gb", "1g.5gb", "1g.5gb", "1g.5gb"], ["7g.40gb"]], ids=["the same", "something else"])
def test_a_crash_during_the_rollback_is_repaired(simulated, wanted, call, nth, when):
    first = ["3g.20gb", "1g.5gb", "1g.5gb", "1g.5gb"]
    faults = [
        {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "nth": 2, "error": "NVML_ERROR_UNKNOWN"},
        {"call": call, "nth": nth, "kill": when},
    ]
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1], faults=faults)
    before = slices(host)
    assert in_child(host, pillars.mig(first)) == signal.SIGKILL
    result = apply(host, pillars.mig(wanted))
    assert result.ok and "interrupted" in " ".join(result.warnings)
    assert shape(host) == sorted(wanted) and journal_is_closed(host)
    if wanted == first:
        assert slices(host)[(FIRST, "3g.20gb", "0:4")] == before[(FIRST, "3g.20gb", "0:4")]


def test_what_can_not_be_finished_any_more_is_undone(simulated):
    """A crash, and then somebody uses what the change would end: it goes back, and nobody is disturbed."""
    fault = {"call": "nvmlComputeInstanceDestroy", "nth": 2, "kill": "before"}
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1], faults=[fault])
    before = slices(host)
    wanted = pillars.mig(["1g.5gb@6"])
    assert in_child(host, wanted) == signal.SIGKILL
    [gone] = {key[1:] for key in before} - {key[1:] for key in slices(host)}
    [(_, profile, placement)] = [key for key in slices(host) if key[1] in {"3g.20gb", "2g.10gb"} - {gone[0]}]
    host.add_process({**HOLDER, "slice": f"{profile}@{placement.partition(':')[0]}"})
    result = apply(host, wanted)
    assert "pid 4711" in " ".join(result.errors)
    assert slices(host).keys() == before.keys() and journal_is_closed(host)
    host.remove_process(4711)
    assert apply(host, wanted).ok and shape(host) == ["1g.5gb"]


# -- what happens between a crash and the next run ----------------------------------------------------------------------
STORED = [("store_write", 4), ("store_append", 4), ("store_remove", 5)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), [(call, nth) for call, times in STORED for nth in range(1, times + 1)])
def test_a_crash_while_the_journal_is_written_is_repaired(simulated, call, nth, when):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1], faults=[{"call": call, "nth": nth, "kill": when}])
    before = slices(host)
    killed = in_child(host, pillars.mig(AFTER))
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and journal_is_closed(host)
    assert shape(host) == sorted(AFTER)
    assert slices(host)[(FIRST, "3g.20gb", "0:4")] == before[(FIRST, "3g.20gb", "0:4")]
    # Every write that a change makes is met; the counts above are one too many where there are fewer.
    assert killed == signal.SIGKILL or nth > 1
    host.clear_faults()
    assert apply(host, pillars.mig(AFTER)).plan.empty


def test_a_record_that_can_not_be_closed_is_closed_by_the_next_run(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
    host.add_fault({"call": "store_remove", "nth": 2, "times": 0, "error": "EROFS"})
    with Engine(config(host)) as engine:
        try:
            said = " ".join([*(done := engine.apply(pillars.mig(AFTER))).errors, *done.warnings])
        except errors.StateDirUnusable as err:
            said = str(err)
    assert host.state_dir in said and "Read-only" in said
    assert shape(host) == sorted(AFTER)
    host.clear_faults()
    assert apply(host, pillars.mig(AFTER)).ok and journal_is_closed(host)


def crashed(simulated, gpus=TRIO, **fault):
    """A host on which the change from BEFORE to AFTER was killed half way."""
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": FIRST, "kill": "after", **fault}
    host = simulated("dgx-a100-40gb", gpus=gpus, faults=[fault])
    assert in_child(host, pillars.mig(AFTER)) == signal.SIGKILL
    return host


def test_after_a_crash_a_request_for_one_gpu_repairs_all(simulated):
    host = crashed(simulated)
    with Engine(config(host)) as engine:
        result = engine.reconciler().apply(mig_targets(engine, "layout", THIRD, ["7g.40gb"]))
    assert result.ok and journal_is_closed(host)
    assert shape(host, FIRST) == shape(host, SECOND) == sorted(["3g.20gb", "2g.10gb", "1g.5gb"])
    assert shape(host, THIRD) == ["7g.40gb"]


def test_after_a_crash_skip_touches_nothing(simulated):
    host = crashed(simulated)
    before = slices(host)
    result = apply(host, pillars.mig(AFTER, apply_strategy="skip"))
    assert result.changes == {} and slices(host) == before and not journal_is_closed(host)


@pytest.mark.parametrize("wanted", [AFTER, ["7g.40gb"]], ids=["the same", "something else"])
@pytest.mark.parametrize("model", ["a100-40gb", "h100-80gb"])
def test_a_crash_and_a_reboot_are_repaired(simulated, wanted, model):
    names = {"3g.20gb": "3g.40gb", "2g.10gb": "2g.20gb", "1g.5gb": "1g.10gb", "7g.40gb": "7g.80gb"}
    say = (lambda name: names[name]) if model == "h100-80gb" else (lambda name: name)
    instances = [say(name.partition("@")[0]) + name[-2:] for name in BEFORE]
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "after"}
    host = simulated("dgx-h100", gpus=[{**A100, "model": model, "address": FIRST, "instances": instances}], faults=[fault])
    assert in_child(host, pillars.mig([say(name) for name in AFTER])) == signal.SIGKILL
    host.reboot()
    result = apply(host, pillars.mig([say(name) for name in wanted]))
    assert result.ok and journal_is_closed(host)
    assert shape(host) == sorted(say(name) for name in wanted)


@pytest.mark.parametrize("wanted", [AFTER, ["7g.40gb"]], ids=["the same", "something else"])
def test_a_gpu_that_is_lost_after_the_crash_keeps_no_other_from_being_repaired(simulated, wanted):
    host = crashed(simulated)
    with host.change() as state:
        state["gpus"][SECOND]["health"]["lost"] = True
    result = apply(host, pillars.mig(wanted))
    assert SECOND in " ".join([*result.errors, *result.warnings]) and journal_is_closed(host)
    assert shape(host, FIRST) == shape(host, THIRD) == sorted(wanted)


def test_what_another_tool_made_after_the_crash_is_not_destroyed_by_the_repair(simulated):
    host = crashed(simulated, TRIO[:1], call="nvmlGpuInstanceDestroy", kill="after")
    foreign = {"call": "nvmlInit", "foreign": [{"gpu": FIRST, "action": "create_gi", "profile": "1g.5gb", "start": 4}]}
    host.add_fault(foreign)
    assert shape(host) == ["1g.5gb", "1g.5gb", "3g.20gb"]
    theirs = slices(host)[(FIRST, "1g.5gb", "4:1")]
    # The 2g that was there before can't come back: its place is taken by what is not ours.
    lines = []
    result = apply(host, pillars.mig(["3g.20gb@0", "1g.5gb@4"]), progress=lines.append)
    assert "undone first" in lines[0]
    told = " ".join([*result.errors, *result.warnings])
    assert FIRST in told and "another tool" in told
    assert slices(host)[(FIRST, "1g.5gb", "4:1")] == theirs and journal_is_closed(host)


@pytest.mark.parametrize("wanted", [AFTER, BEFORE], ids=["the same", "what was before"])
def test_two_crashes_in_a_row_still_know_where_the_first_began(simulated, wanted):
    host = crashed(simulated, TRIO[:1])
    before = {(FIRST, "3g.20gb", "0:4"), (FIRST, "2g.10gb", "4:2"), (FIRST, "1g.5gb", "6:1")}
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"})
    assert in_child(host, pillars.mig(AFTER)) == signal.SIGKILL
    before_both = Journal(host).unfinished().before
    assert {key: len(layout["instances"]) for key, layout in before_both.items()} == {Key(FIRST, "mig"): 3}
    result = apply(host, pillars.mig(wanted))
    assert result.ok and journal_is_closed(host)
    assert (slices(host).keys() == before) == (wanted == BEFORE)
    assert shape(host) == sorted(name.partition("@")[0] for name in wanted)


def test_a_second_attempt_that_fails_goes_back_to_before_the_first(simulated):
    host = crashed(simulated, TRIO[:1])
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"})
    result = apply(host, pillars.mig(AFTER))
    assert not result.ok and journal_is_closed(host)
    assert slices(host).keys() == {(FIRST, "3g.20gb", "0:4"), (FIRST, "2g.10gb", "4:2"), (FIRST, "1g.5gb", "6:1")}


def test_a_change_that_failed_leaves_nobody_waiting_for_a_reboot(simulated):
    """One GPU needs a reboot for its mode, another one fails: both are put back, so nothing waits."""
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-a100-40gb", gpus=[{**PLAIN[0], "reset": "never"}, TRIO[1]], faults=[fault])
    result = apply(host, pillars.mig(AFTER, reboot_required=True, on_failure="host"))
    assert not result.ok and mode(host) == (0, 0)
    assert result.reboot == [] and host.state()["reboot_scheduled"] == ""
    result = apply(host, pillars.mig(AFTER))
    assert result.ok and result.reboot == [FIRST] and mode(host) == (0, 1)
    assert shape(host, SECOND) == sorted(AFTER)
