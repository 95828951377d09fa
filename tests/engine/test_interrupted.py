"""
A change that did not end: everybody who looks sees it, what is said of it is what is done, and it can be dealt with by hand.
"""

import os
import re
import signal

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.model import Key
from gpuslice.records import lock
from gpuslice.records.history import History
from gpuslice.records.reboot import RebootLedger
from gpuslice.records.verified import Verified
from tests.support import pillars
from tests.support.a100 import AFTER
from tests.support.a100 import BEFORE
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import NEW
from tests.support.a100 import OLD
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import closed
from tests.support.hosts import config
from tests.support.hosts import shapes
from tests.support.hosts import uuids
from tests.support.techniques import mig_targets

KILL = {"call": CREATE, "nth": 2, "kill": "before"}
#: What each of these tests finds in a sentence about it.
SAYS = "was interrupted"


def gpus_of(host):
    return host.state()["gpus"]


@pytest.fixture
def half(simulated):
    """A host on which the change to AFTER was killed half way, with one GPU between two layouts."""
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[KILL])
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    assert not closed(host) and any(shape not in (OLD, NEW) for shape in shapes(host).values())
    return host


# -- who looks, sees it ------------------------------------------------------------------------------------------------
def test_a_change_that_is_going_on_is_not_interrupted(half):
    """The same record lies there while a change is at work: its lock tells the two apart."""
    with lock.held(half.state_dir, "somebody"), Engine(config(half)) as engine:
        assert engine.interrupted() == [] and not any(engine.health().values())
        assert engine.history() == History(half).all()
        assert "going on" in engine.plan(pillars.mig(AFTER)).notes[0] and SAYS not in engine.plan(pillars.mig(AFTER)).notes[0]


def test_a_record_that_can_not_be_read_is_told_everywhere(half):
    with open(f"{half.state_dir}/journal.json", "w", encoding="utf-8") as handle:
        handle.write("{")
    with Engine(config(half)) as engine:
        assert all("can't be read" in lines[-1] for lines in engine.health().values())
        assert len(engine.interrupted()) == 1


# -- by hand -----------------------------------------------------------------------------------------------------------
def test_what_can_not_be_undone_is_told_and_stays_on_record(half):
    half.add_fault({"call": CREATE, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    with Engine(config(half)) as engine, pytest.raises(errors.RollbackFailed) as caught:
        engine.reconciler().recover(engine.gpus)
    assert "could not be put back" in str(caught.value) and not closed(half)
    half.clear_faults()
    with Engine(config(half)) as engine:
        assert engine.reconciler().recover(engine.gpus).ok
    assert shapes(half) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)


def test_what_was_stopped_is_started_again_also_when_the_undo_fails(simulated):
    holder = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST, "slice": "2g.10gb@4"}
    host = simulated("dgx-a100-40gb", gpus=TRIO, processes=[holder], faults=[KILL])
    wanted = pillars.mig(AFTER, stop_units=["trainer.service"])
    assert in_child(lambda: apply(host, wanted)) == signal.SIGKILL and not host.processes()
    host.clear_faults()
    host.add_fault({"call": CREATE, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    with Engine(config(host)) as engine, pytest.raises(errors.RollbackFailed):
        engine.reconciler().recover(engine.gpus)
    assert [process.unit for process in host.processes()] == ["trainer.service"]


def test_finishing_what_a_gpu_is_gone_from_says_to_undo(half):
    with half.change() as state:
        del state["gpus"][THIRD]
    with Engine(config(half)) as engine, pytest.raises(errors.DeviceNotFound, match="recover undo") as caught:
        engine.recovery_targets()
    assert THIRD in str(caught.value)
    with Engine(config(half)) as engine:
        result = engine.reconciler().recover(engine.gpus)
    assert THIRD in " ".join(result.warnings) and closed(half)
    assert shapes(half) == dict.fromkeys((FIRST, SECOND), OLD)


def test_a_signal_during_an_undo_lets_it_end_and_begins_nothing_else(half):
    half.add_fault({"call": CREATE, "signal": "SIGTERM"})
    child = os.fork()
    if child == 0:
        status = 99
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            apply(half, pillars.mig(["7g.40gb"]))
        except errors.Interrupted as err:
            status = err.code if "it was undone" in err.what and "Nothing was begun" in err.what else 98
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 128 + signal.SIGTERM
    assert closed(half) and shapes(half) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)


def test_a_replay_without_any_layout_tells_of_it(half):
    with Engine(config(half)) as engine:
        for test in (True, False):
            answer = replay.replay(engine, test=test, wait=0)
            assert "nothing to bring back" in answer["comment"] and SAYS in " ".join(answer["warnings"])
    assert not closed(half)


# -- what is said is what is done --------------------------------------------------------------------------------------
NOTHING = {
    "enabled is false": pillars.mig(AFTER, slicing={"enabled": False}),
    "strategy none": pillars.for_all("none"),
    "a rule that leaves all alone": pillars.for_all("none", devices=[{"match": {"vendor": "nvidia"}, "strategy": "none"}]),
    "skip": pillars.mig(AFTER, apply_strategy="skip"),
}


@pytest.mark.parametrize("wanted", NOTHING.values(), ids=NOTHING)
def test_a_run_that_slices_nothing_leaves_it_alone_and_says_so(half, wanted):
    before = gpus_of(half)
    with Engine(config(half)) as engine:
        assert "left as it is" in engine.plan(wanted).notes[0]
        result = engine.apply(wanted)
    assert gpus_of(half) == before and not closed(half)
    assert "left as it is" in " ".join([*result.warnings, *result.plan.notes]) and not result.changes


def test_a_run_on_one_gpu_says_before_what_it_undoes_on_the_others(half):
    before = gpus_of(half)
    wanted = pillars.for_all("none", devices=[pillars.mig_rule(SECOND, AFTER)])
    with Engine(config(half)) as engine:
        note = engine.plan(wanted).notes[0]
    assert "undoes it first" in note and f"also on {FIRST}, {THIRD}" in note
    assert gpus_of(half) == before
    result = apply(half, wanted)
    assert result.ok and shapes(half) == {FIRST: OLD, SECOND: NEW, THIRD: OLD}


def test_an_undo_is_told_in_changes_and_has_a_generation_of_its_own(half):
    found = {gpu: shape for gpu, shape in shapes(half).items() if shape != OLD}
    result = apply(half, pillars.mig(BEFORE))
    assert result.ok and found and sorted(result.changes) == sorted(found)
    assert all(sorted(re.sub("@.*", "", one) for one in result.changes[gpu]["new"]["instances"]) == OLD for gpu in found)
    history = History(half).all()
    assert [entry["result"] for entry in history] == ["undid an interrupted change"] and result.generation == 1
    before, after = history[0]["before"], history[0]["after"]
    assert sorted(f"mig:{gpu}" for gpu in found) == sorted(key for key in before if before[key] != after[key])


def test_a_run_that_only_deals_with_an_earlier_change_says_which_way(simulated, half):
    assert front.done(apply(half, pillars.mig(BEFORE)))["comment"].startswith("An interrupted change was undone in ")
    # All steps have run, and only the close is left.
    host = simulated("dgx-a100-40gb", gpus=TRIO, faults=[{"call": "store_remove", "nth": 2, "kill": "before"}])
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    assert front.done(apply(host, pillars.mig(AFTER)))["comment"].startswith("An interrupted change was finished in ")
    assert closed(host) and shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)


def test_what_follows_an_undo_goes_on_from_what_was_found_first(half):
    """``changes`` tell of both: from what the run found to what it left behind."""
    found = next(gpu for gpu, shape in shapes(half).items() if shape != OLD)
    result = apply(half, pillars.mig(["7g.40gb"]))
    assert result.ok and result.generation == 2
    told = result.changes[found]["old"]["instances"]
    # Where the kill came is for its threads to say: also between a compute instance and its GPU instance.
    names = [re.sub("[@ ].*", "", one) for one in told]
    assert sorted(names) != OLD or any("no compute instance" in one for one in told)
    assert result.changes[found]["new"]["instances"] == ["7g.40gb@0"]


def test_a_rollback_after_an_undo_does_not_go_half_way_again(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    assert apply(host, pillars.mig(["7g.40gb"])).ok
    host.add_fault({"call": CREATE, "nth": 2, "kill": "before"})
    assert in_child(lambda: apply(host, pillars.mig(AFTER))) == signal.SIGKILL
    host.clear_faults()
    with Engine(config(host)) as engine:
        assert engine.reconciler().recover(engine.gpus).ok
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), ["7g.40gb"])
    # The last change that was made is the first one.
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), OLD)


@pytest.mark.parametrize("profiles", [["9g.90gb"], ["7g.40gb", "7g.40gb"]], ids=["no such profile", "does not fit"])
def test_a_request_with_mistakes_undoes_nothing(half, profiles):
    before = gpus_of(half)
    with Engine(config(half)) as engine, pytest.raises(errors.GpuSliceError) as caught:
        engine.apply(pillars.mig(profiles))
    assert SAYS in str(caught.value) and "gpu_slicing.recover" in str(caught.value)
    assert gpus_of(half) == before and not closed(half)


def test_one_instance_more_that_no_gpu_can_have_undoes_nothing(half):
    """What a difference comes to is settled first, and that may be refused already."""
    before = gpus_of(half)
    with Engine(config(half)) as engine, pytest.raises(errors.ProfileMismatch) as caught:
        engine.reconciler().apply(mig_targets(engine, "one_more", SECOND, "6g.30gb"))
    assert SAYS in str(caught.value) and "gpu_slicing.recover" in str(caught.value)
    assert gpus_of(half) == before and not closed(half)


# -- what "verified" means ---------------------------------------------------------------------------------------------
def test_a_foreign_change_after_verification_is_told_and_not_brought_back_at_a_boot(simulated):
    """Wherever between the reads it comes: never is it called verified, and never is it noted as what was wanted."""
    seen = set()
    for nth in range(1, 12):
        host = simulated("dgx-a100-40gb", gpus=TRIO[:1])
        foreign = [{"gpu": FIRST, "action": "create_gi", "profile": "1g.5gb", "start": 5}]
        host.add_fault({"call": "nvmlDeviceGetMigMode", "nth": nth, "foreign": foreign})
        result = apply(host, pillars.mig(AFTER))
        if any(not fault["seen"] >= nth for fault in host.state()["faults"]):
            break
        there = shapes(host)[FIRST]
        noted = Verified(host).entries()
        if result.ok:
            # It came before the last look, so that the change went on from there, or after it.
            assert there == NEW or "read again" not in str(result), (nth, there)
        else:
            seen.add(nth)
            assert FIRST in " ".join(result.errors)
        for entry in noted.values():
            assert sorted(name for name, _, _ in entry["layout"]["instances"]) == NEW, nth
        if there != NEW:
            assert not result.ok, (nth, there)
    assert seen, "no foreign change was told"


# -- records after the change ------------------------------------------------------------------------------------------
def test_a_full_disk_at_the_reboot_ledger_still_starts_units_and_closes_the_journal(simulated):
    gpu = {"model": "a100-40gb", "address": FIRST, "reset": "never"}
    holder = {"pid": 4711, "command": "train.py", "unit": "trainer.service", "gpu": FIRST}
    host = simulated("dgx-a100-40gb", gpus=[gpu], processes=[holder])
    # Before the ledger's come those of how it was found and of the journal.
    host.add_fault({"call": "store_write", "nth": 3, "error": "ENOSPC"})
    result = apply(host, pillars.mig(AFTER, stop_units=["trainer.service"]))
    assert result.ok and result.reboot == [FIRST]
    assert "could not be noted" in " ".join(result.warnings) and "No space left" in " ".join(result.warnings)
    assert closed(host) and [process.unit for process in host.processes()] == ["trainer.service"]
    assert not RebootLedger(host).waiting(FIRST)
    # Once there is room the next run notes it.
    assert apply(host, pillars.mig(AFTER, stop_units=["trainer.service"])).reboot == [FIRST]


def test_a_layout_found_wrong_is_not_noted_as_verified_without_validation(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO[:2], faults=[{"call": "nvmlGpuInstanceDestroy", "gpu": SECOND, "lie": True}])
    result = apply(host, pillars.mig(["3g.20gb", "1g.5gb"], validation=False))
    assert result.ok and not result.verified and "read again" in " ".join(result.warnings)
    assert list(Verified(host).entries()) == [Key(FIRST, "mig")]
    assert "verified" not in front.done(result)["comment"]


def test_a_journal_that_can_not_be_closed_is_told_and_the_next_run_closes_it(simulated):
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    host.add_fault({"call": "store_remove", "nth": 2, "times": 2, "error": "EIO"})
    result = apply(host, pillars.mig(AFTER))
    assert not result.ok and "end a change" in " ".join(result.errors)
    assert shapes(host) == dict.fromkeys((FIRST, SECOND, THIRD), NEW)
    host.clear_faults()
    kept = uuids(host)
    assert apply(host, pillars.mig(AFTER)).ok and closed(host) and uuids(host) == kept
