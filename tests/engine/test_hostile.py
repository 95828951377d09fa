"""
The end of a change under attack: each part of it is done whatever became of the parts before, and what is said of it is true.
"""

import os
import signal

import pytest

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.records.journal import Journal
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.toolbox import Toolbox
from tests.support import pillars
from tests.support.a100 import AFTER
from tests.support.a100 import BEFORE
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import HOLDER
from tests.support.a100 import SECOND
from tests.support.a100 import TRIO
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import shapes

PAIR = TRIO[:2]
STOPS = {"stop_units": ["trainer.service"]}


def in_order(host):
    return list(shapes(host).values())


def running(host):
    return [process["unit"] for process in host.state()["processes"]]


def half(simulated, **fault):
    """A host on which a change was killed."""
    host = simulated("dgx-a100-40gb", gpus=PAIR, processes=[HOLDER])
    host.add_fault({"call": CREATE, "kill": "before", **fault})
    assert in_child(lambda: apply(host, pillars.mig(AFTER, **STOPS))) == signal.SIGKILL
    host.clear_faults()
    assert not closed(host)
    return host


# -- each part of the end is done --------------------------------------------------------------------------------------
@pytest.mark.parametrize(("call", "nth"), [("store_write", 3), ("store_write", 4), ("store_remove", 2), ("store_remove", 3)])
def test_a_surprise_in_one_part_of_the_end_keeps_no_other_from_being_done(simulated, call, nth):
    """The records of what was verified, of the change and of the history: the units run and the result is told all the same."""
    host = simulated("dgx-a100-40gb", gpus=PAIR, processes=[HOLDER], faults=[{"call": call, "nth": nth, "unexpected": True}])
    result = apply(host, pillars.mig(AFTER, **STOPS))
    assert "RuntimeError" in " ".join([*result.errors, *result.warnings]) and sorted(result.changes) == [FIRST, SECOND]
    assert running(host) == ["trainer.service"] and in_order(host) == [sorted(AFTER)] * 2
    assert closed(host) or "the next run takes this change for an interrupted one" in " ".join(result.errors)
    assert apply(host, pillars.mig(AFTER, **STOPS)).ok and closed(host)


class Opened(SimulatedHost):
    """Somebody lets others write into the state directory when a reboot is to be noted, which is after the last step."""

    def store_write(self, path, data, mode=0o644):
        if os.path.basename(path) == "reboot.json":
            os.chmod(self.state_dir, 0o777)
        super().store_write(path, data, mode)


def test_a_state_directory_that_others_may_write_meanwhile_leaves_no_unit_stopped(simulated):
    holder = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST}
    made = simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": FIRST}], reset="never", processes=[holder])
    with Engine(config(made)) as engine:
        engine.host = Opened(made.description_path, made.state_dir)
        engine.tools = Toolbox(engine.host)
        result = engine.apply(pillars.mig(AFTER, **STOPS))
    os.chmod(made.state_dir, 0o755)
    told = " ".join([*result.errors, *result.warnings])
    assert f"The reboot that GPU {FIRST} needs could not be noted" in told and "can be written by other users" in told
    assert running(made) == ["trainer.service"] and result.reboot == [FIRST]


@pytest.mark.parametrize("error", ["ENOSPC", "EROFS"])
def test_of_a_change_that_could_not_be_begun_nothing_says_that_it_was_interrupted(simulated, error):
    host = simulated("dgx-a100-40gb", gpus=PAIR, faults=[{"call": "store_remove", "error": error}])
    with pytest.raises(errors.StateDirUnusable, match="Could not begin a change"):
        apply(host, pillars.mig(AFTER, **STOPS))
    assert closed(host) and in_order(host) == [sorted(name.split("@")[0] for name in BEFORE)] * 2


def test_a_record_that_could_not_be_gone_on_with_stays(simulated):
    """The same wish again after a kill: what the first attempt began must not be forgotten for a full disk."""
    host = half(simulated)
    before = Journal(host).unfinished()
    host.add_fault({"call": "store_remove", "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable):
        apply(host, pillars.mig(AFTER, **STOPS))
    now = Journal(host).unfinished()
    assert now.before == before.before and now.pauses == before.pauses
    assert [step for _, step in now.begun()] == [step for _, step in before.begun()]
    assert apply(host, pillars.mig(AFTER, **STOPS)).ok and closed(host) and running(host) == ["trainer.service"]


# -- what is said is true ----------------------------------------------------------------------------------------------
def test_an_interrupted_change_is_called_finished_only_when_it_is(simulated):
    host = half(simulated)
    host.add_fault({"call": CREATE, "gpu": FIRST, "error": "NVML_ERROR_UNKNOWN"})
    result = apply(host, pillars.mig(AFTER, **STOPS))
    told = " ".join(result.warnings)
    assert not result.ok and "was interrupted; this run went on with it" in told and "finished" not in told
    assert apply(host, pillars.mig(AFTER, **STOPS)).ok


def test_an_undo_that_could_not_be_closed_says_that_it_was_made(simulated):
    host = half(simulated)
    host.add_fault({"call": "store_remove", "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable) as caught:
        apply(host, pillars.mig(BEFORE, **STOPS))
    assert "it was undone" in str(caught.value) and not closed(host)
    assert in_order(host) == [sorted(name.split("@")[0] for name in BEFORE)] * 2
    assert apply(host, pillars.mig(BEFORE, **STOPS)).ok and closed(host)


def test_an_undo_is_told_of_where_the_next_change_could_not_be_begun(simulated):
    host = half(simulated)
    # The first write is the history's, of the undo.
    host.add_fault({"call": "store_write", "nth": 2, "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable, match="Could not begin a change.*Before that: .*it was undone"):
        apply(host, pillars.mig(["1g.5gb"], **STOPS))
    assert closed(host)


def test_the_plan_for_a_gpu_that_is_gone_tells_what_a_run_would_undo(simulated):
    host = half(simulated)
    with host.change() as state:
        state["gpus"].pop(SECOND)
    rules = [{"match": {"pci": a}, "strategy": "mig", "mig": {"profiles": AFTER}} for a in (FIRST, SECOND)]
    wanted = {"containers_gpu_slicing": {"enabled": True, "devices": rules}}
    with Engine(config(host)) as engine, pytest.raises(errors.DeviceNotFound, match="a run with this pillar undoes it"):
        engine.plan(wanted)
    assert not closed(host)
    with pytest.raises(errors.DeviceNotFound, match="it was undone"):
        apply(host, wanted)
    assert closed(host)


@pytest.mark.parametrize("failed", [False, True])
def test_a_rollback_never_goes_back_half_way(simulated, failed):
    """What an undo found was a change that stood half way, also where the history has nothing else that changed anything."""
    host = simulated("dgx-a100-40gb", gpus=PAIR)
    if failed:
        host.add_fault({"call": CREATE, "error": "NVML_ERROR_UNKNOWN"})
        assert not apply(host, pillars.mig(AFTER, on_failure="host", **STOPS)).ok and closed(host)
        host.clear_faults()
    host.add_fault({"call": CREATE, "nth": 2, "kill": "before"})
    assert in_child(lambda: apply(host, pillars.mig(AFTER, **STOPS))) == signal.SIGKILL
    assert apply(host, pillars.mig(BEFORE, **STOPS)).ok and closed(host)
    before = in_order(host)
    with Engine(config(host)) as engine:
        if failed:
            assert engine.reconciler().apply(engine.rollback_targets()).plan.empty
        else:
            with pytest.raises(errors.PolicyError, match="only the undoing of interrupted changes"):
                engine.rollback_targets()
    assert in_order(host) == before


def test_a_replay_tells_of_an_interrupted_change_that_it_leaves(simulated):
    """A host on which nothing was verified yet: there is nothing to bring back, and a GPU between two layouts."""
    host = half(simulated)
    with Engine(config(host)) as engine:
        answer = replay.replay(engine, wait=0)
    assert "nothing to bring back" in answer["comment"] and "was interrupted" in " ".join(answer["warnings"])


def test_what_all_gpus_of_a_guest_have_in_common_is_on_record_once(simulated):
    """The licence asked for by one of two vGPUs is the other's too: a boot is not asked for this one and for the one before."""
    host = simulated("vgpu-guest")

    def wish(server, *addresses):
        rules = [{"match": {"pci": a}, "strategy": "vgpu", "vgpu": {"license_server": server}} for a in addresses]
        return {"containers_gpu_slicing": {"enabled": True, "devices": rules}}

    assert apply(host, wish("a.example.com", "0000:06:00.0", "0000:07:00.0")).ok
    assert apply(host, wish("b.example.com", "0000:06:00.0")).ok
    with Engine(config(host)) as engine:
        assert replay.replay(engine, wait=0)["result"] is True
        host.store_remove("/etc/nvidia/gridd.conf")
        answer = replay.replay(engine, wait=0)
    assert answer["result"] is True, answer["comment"]
    assert "ServerAddress=b.example.com" in host.read("/etc/nvidia/gridd.conf")


# -- an undo stops what the change stopped ---------------------------------------------------------------------------------
HIVE = {
    "containers_gpu_slicing": {"enabled": True, "strategy": "partition", "partition": {"compute": "CPX", "memory": "NPS4"}},
    "containers_gpu_state_management": {"unload_modules": ["amdgpu"], "stop_units": ["exporter.service"]},
}
EXPORTER = {"pid": 4100, "command": "exporter", "unit": "exporter.service", "nodes": ["/dev/kfd", "/dev/dri/renderD128"]}


def modes(host):
    with Engine(config(host)) as engine:
        tool = engine.tools.get("partition")
        return {(state.compute, state.memory) for state in map(tool.observe, engine.gpus)}


@pytest.mark.parametrize("permitted", [True, False])
def test_a_unit_that_the_killed_change_had_started_again_does_not_hinder_its_undo(simulated, permitted):
    """Killed after the units were started and before the record was closed: what stopped them may stop them again."""
    host = simulated("mi300x-8", processes=[EXPORTER])
    host.add_fault({"call": "store_remove", "nth": 3, "kill": "before"})
    assert in_child(lambda: apply(host, HIVE)) == signal.SIGKILL
    host.clear_faults()
    assert not closed(host) and running(host) == ["exporter.service"] and modes(host) == {("CPX", "NPS4")}
    with Engine(config(host)) as engine:
        reconciler = engine.reconciler(permissions=HIVE if permitted else None)
        plan = reconciler.recovery(engine.gpus)
        assert not plan.blocked and "exporter.service" in plan.stops
        assert reconciler.recover(engine.gpus).ok
    assert closed(host) and modes(host) == {("SPX", "NPS1")} and running(host) == ["exporter.service"]


# -- signals -----------------------------------------------------------------------------------------------------------
def test_a_signal_ends_the_process_also_when_the_run_was_refused(simulated):
    """Nothing else of a state run may go on because the request came to an error."""
    host = half(simulated)
    host.add_fault({"call": CREATE, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    host.add_fault({"call": CREATE, "signal": "SIGTERM"})
    with pytest.raises(errors.Interrupted) as caught:
        apply(host, pillars.mig(BEFORE, **STOPS))
    assert caught.value.code == 128 + signal.SIGTERM and "could not be undone" in caught.value.what
    host.clear_faults()
    assert apply(host, pillars.mig(BEFORE, **STOPS)).ok and running(host) == ["trainer.service"]
