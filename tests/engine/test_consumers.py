"""
Slices are handed to consumers: whoever stays keeps what he has, names lead to what is there, and what fails goes back to the top.
"""

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.engine import Engine
from gpuslice.techniques.consumers import asks as consumers_asks
from tests.support import consumers
from tests.support.consumers import CONSUMER
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import SECOND
from tests.support.consumers import SLICE
from tests.support.consumers import TRAINER
from tests.support.consumers import WEB
from tests.support.consumers import astray
from tests.support.consumers import pillar
from tests.support.consumers import start_counts
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed
from tests.support.hosts import slices
from tests.support.stages import counted
from tests.support.stages import counters
from tests.support.techniques import mig_targets

#: Both consumers of these keep theirs, of what is the first two, and the others have to go elsewhere.
FEWER = ["1g.10gb@0", "1g.10gb@1", "3g.40gb@4"]
CALLS = ("run", "store_write", "store_append", "store_remove", "write")


@pytest.fixture
def host(simulated):
    """Two GPUs, cut and handed out."""
    made = consumers.machine(simulated)
    result = apply(made, pillar(EACH))
    assert result.ok and not result.warnings, result.errors
    assert astray(made) == []
    return made


# -- nothing to do -----------------------------------------------------------------------------------------------------
def test_a_host_on_which_all_is_as_wanted_costs_no_program_and_no_write(host):
    for fault in counters(CALLS):
        host.add_fault(fault)
    assert consumers.planned(host, pillar(EACH)).empty and apply(host, pillar(EACH)).ok
    assert counted(host) == {}


def test_a_plan_writes_nothing_and_only_asks(simulated):
    made = consumers.machine(simulated, faults=counters(CALLS))
    plan = consumers.planned(made, pillar(EACH))
    assert [step.action for step in plan.steps if step.technique == "consumers"]
    assert set(counted(made)) == {"run"} and made.state()["written"] == {} and consumers.on_record(made) == {}


# -- cut anew ----------------------------------------------------------------------------------------------------------
def test_exactly_the_names_and_the_unit_of_what_is_cut_anew_change(simulated):
    host = consumers.machine(simulated)
    wanted = {**EACH, "web": {**EACH["web"], "slice": {"gpu": SECOND}}}
    assert apply(host, pillar(wanted)).ok
    before, told, served, started = (
        slices(host),
        consumers.names(host, SLICE),
        consumers.names(host, CONSUMER),
        start_counts(host),
    )
    result = apply(host, pillar(wanted, rules=[(SECOND, ["3g.40gb", "1g.10gb", "1g.10gb"])]))
    assert result.ok and astray(host) == []
    now = slices(host)
    assert {key: uuid for key, uuid in before.items() if key[0] == FIRST} == {k: u for k, u in now.items() if k[0] == FIRST}
    changed = {name for name, edits in {**told, **consumers.names(host, SLICE)}.items()
               if told.get(name) != consumers.names(host, SLICE).get(name)}  # fmt: skip
    assert changed and all(name.startswith(SECOND) for name in changed)
    lost = consumers.names(host, CONSUMER)
    assert {name for name in served if served[name] != lost[name]} <= {"web"}
    restarted = {unit for unit, count in start_counts(host).items() if count != started[unit]}
    assert restarted == ({WEB} if served["web"] != lost["web"] else set())


def test_whoever_loses_his_slice_gets_another_one(host):
    result = apply(host, pillar(EACH, rules=[(FIRST, ["7g.80gb"])]))
    assert result.ok and astray(host) == []
    assert all(part.startswith(SECOND) for parts in consumers.bindings(host).values() for part in parts)
    assert start_counts(host) == {WEB: 2, TRAINER: 2}
    assert set(result.changes["consumers"]["new"]) == set(EACH)


def test_where_there_is_no_other_slice_nothing_changes(host):
    before = consumers.all_of(host)
    with pytest.raises(errors.PolicyError, match="web.*1g.10gb|more consumers than slices"):
        apply(host, pillar(EACH, profiles=["7g.80gb"]))
    assert consumers.all_of(host) == before and astray(host) == []


# -- units that hold what goes -----------------------------------------------------------------------------------------
def held_by(unit, gpu=FIRST, part="1g.10gb@0", pid=4711):
    """A process of a unit that uses a slice."""
    return {"pid": pid, "command": "train.py", "unit": unit, "gpu": gpu, "slice": part}


@pytest.fixture
def holding(host):
    """The service runs on what it was handed, the first but one."""
    [had] = consumers.bindings(host)["trainer"]
    host.add_process(held_by(TRAINER, part=f"1g.10gb@{had[-1]}"))
    return host


def test_a_unit_that_was_handed_what_goes_is_stopped_for_the_change_and_started_once(holding):
    before = start_counts(holding)
    result = apply(holding, pillar(EACH, rules=[(FIRST, ["7g.80gb"])]))
    assert result.ok and astray(holding) == []
    assert start_counts(holding)[TRAINER] == before[TRAINER] + 1
    assert [process.unit for process in holding.processes()] == [TRAINER]
    assert result.plan.stops == [TRAINER]


def test_who_was_handed_nothing_still_refuses_the_change(holding):
    holding.add_process(held_by("other.service", part="1g.10gb@6", pid=4712))
    before = consumers.all_of(holding)
    result = apply(holding, pillar(EACH, rules=[(FIRST, ["7g.80gb"])]))
    assert "other.service" in " ".join(result.errors) and consumers.all_of(holding) == before
    assert astray(holding) == []


def test_a_container_that_goes_with_its_slice_is_not_started_again(host):
    [had] = consumers.bindings(host)["web"]
    host.add_process(held_by(WEB, part=f"1g.10gb@{had[-1]}"))
    left = {name: each for name, each in EACH.items() if name != "web"}
    result = apply(host, pillar(left, rules=[(FIRST, ["7g.80gb"])]))
    assert result.ok and astray(host) == [] and WEB not in consumers.running_with(host), result.errors
    assert result.plan.stops == [WEB] and host.processes() == []


def test_a_service_that_goes_without_a_slice_is_started_again_without_one(holding):
    left = {name: each for name, each in EACH.items() if name != "trainer"}
    result = apply(holding, pillar(left, rules=[(FIRST, ["7g.80gb"])]))
    assert result.ok and astray(holding) == [] and consumers.running_with(holding)[TRAINER] == {}


def test_a_unit_that_was_stopped_is_started_again_when_the_change_fails(holding):
    before = consumers.all_of(holding)[:3]
    holding.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "times": 1, "error": "NVML_ERROR_UNKNOWN"})
    result = apply(holding, pillar(EACH, rules=[(FIRST, ["7g.80gb"])]))
    assert not result.ok and astray(holding) == [] and TRAINER in consumers.running_with(holding)
    assert consumers.bindings(holding) == before[2]


# -- GPUs that fail, or are ill ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("on_failure", ["gpu", "host"])
@pytest.mark.parametrize("bad", [FIRST, SECOND])
def test_names_lead_to_what_is_there_when_one_gpu_fails(host, on_failure, bad):
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": bad, "error": "NVML_ERROR_UNKNOWN"}
    host.add_fault(fault)
    before = consumers.bindings(host)
    result = apply(host, pillar(EACH, profiles=["3g.40gb@4", "1g.10gb@0", "1g.10gb@1", "1g.10gb@2"], on_failure=on_failure))
    assert bad in " ".join(result.errors) and astray(host) == []
    cut = sorted(each["profile"] for each in listed(host) if each["gpu"] == ({FIRST, SECOND} - {bad}).pop())
    assert cut == (["1g.10gb"] * 7 if on_failure == "host" else ["1g.10gb"] * 3 + ["3g.40gb"])
    if on_failure == "host":
        assert consumers.bindings(host) == before
    assert all(consumers.bindings(host).values())
    host.clear_faults()
    assert apply(host, pillar(EACH)).ok and astray(host) == []


def test_of_a_gpu_that_is_lost_stays_what_was_handed_out(host):
    told, served = consumers.names(host, SLICE), consumers.names(host, CONSUMER)
    host.add_fault({"call": "nvmlDeviceGetMigMode", "gpu": FIRST, "lost": True})
    with Engine(config(host)) as engine:
        engine.slices()
    assert host.state()["gpus"][FIRST]["health"]["lost"]
    before, started = consumers.bindings(host), start_counts(host)
    more = {**EACH, "more": {"slice": "1g.10gb"}}
    result = apply(host, pillar(more))
    assert FIRST in " ".join(result.errors)
    assert consumers.names(host, SLICE) == told
    now = consumers.names(host, CONSUMER)
    assert {name: now.get(name) for name in served} == served and set(now) == {*served, "more"}
    assert {name: consumers.bindings(host)[name] for name in before} == before and start_counts(host) == started
    assert consumers.bindings(host)["more"][0].startswith(SECOND)


def test_an_ill_gpu_keeps_nobody_from_what_there_is(simulated):
    host = consumers.machine(simulated)
    assert apply(host, pillar()).ok
    with host.change() as state:
        state["gpus"][SECOND]["health"]["row_remap_failed"] = True
    result = apply(host, pillar(EACH))
    assert result.ok and astray(host) == [] and len(consumers.bindings(host)) == 4


# -- by hand, and back -------------------------------------------------------------------------------------------------
def by_hand(host, targets_of, permissions=None):
    """What a function by hand does with the targets that it makes of an engine."""
    with Engine(config(host)) as engine:
        return front.run(engine, targets_of(engine), False, permissions or {})


def served(host, name, **keys):
    """``gpu_consumer.serve``."""
    given = consumers_asks.written(name, **keys)

    def targets(engine):
        return engine.handing("consumers", {}, consumers_asks.serve(engine.settled("consumers", given)))

    return by_hand(host, targets)


def dismissed(host, name):
    """``gpu_consumer.dismiss``."""
    return by_hand(host, lambda engine: engine.handing("consumers", {}, consumers_asks.dismiss(name)))


def test_a_rollback_brings_consumers_back(host):
    old = consumers.all_of(host)
    assert apply(host, pillar({"dev": EACH["dev"]}, profiles=["3g.40gb", "1g.10gb"])).ok and astray(host) == []
    assert list(consumers.bindings(host)) == ["dev"]
    answer = by_hand(host, lambda engine: engine.rollback_targets(1))
    assert answer["result"] and astray(host) == [], answer
    assert consumers.all_of(host)[0] == old[0] and consumers.bindings(host) == old[2]
    assert set(consumers.all_of(host)[1]) == set(old[1]) and set(consumers.running_with(host)) == set(old[3])


def test_a_rollback_undoes_the_last_change_consumers_included(host):
    old = consumers.all_of(host)
    assert apply(host, pillar({"dev": EACH["dev"]}, rules=[(FIRST, FEWER)])).ok
    assert by_hand(host, lambda engine: engine.rollback_targets())["result"] and astray(host) == []
    assert consumers.bindings(host) == old[2] and consumers.all_of(host)[0] == old[0]


def test_a_rollback_to_before_anything_was_handed_out(simulated):
    made = consumers.machine(simulated)
    assert apply(made, pillar()).ok and apply(made, pillar(EACH)).ok
    answer = by_hand(made, lambda engine: engine.rollback_targets())
    assert answer["result"] and astray(made) == [] and made.state()["written"] == {} and consumers.on_record(made) == {}
    assert set(consumers.running_with(made)) == {TRAINER, "infer.service"}
    assert not any(consumers.running_with(made).values())


def test_a_rollback_of_a_change_made_by_hand(host):
    before = consumers.bindings(host)
    answer = by_hand(host, lambda engine: mig_targets(engine, "layout", FIRST, ["7g.80gb"]))
    assert answer["result"] and astray(host) == [] and consumers.bindings(host) != before
    answer = by_hand(host, lambda engine: engine.rollback_targets())
    assert answer["result"] and astray(host) == [] and consumers.bindings(host) == before, answer


def test_a_change_by_hand_keeps_names_true(host):
    before = consumers.bindings(host)
    spare = next(f"{start}" for start in range(7) if f"{FIRST}-1g.10gb-{start}" not in sum(before.values(), []))
    answer = by_hand(host, lambda engine: mig_targets(engine, "one_less", FIRST, f"1g.10gb@{spare}"))
    assert answer["result"] and astray(host) == [] and consumers.bindings(host) == before
    assert f"{FIRST}-1g.10gb-{spare}" not in consumers.names(host, SLICE)
    assert by_hand(host, lambda engine: mig_targets(engine, "one_more", FIRST, "1g.10gb"))["result"] and astray(host) == []


def test_a_slice_that_its_consumer_can_only_have_is_not_destroyed_by_hand(simulated):
    host = consumers.machine(simulated, 1)
    assert apply(host, pillar({"big": {"slice": "3g.40gb"}}, profiles=["3g.40gb", "1g.10gb"])).ok
    before = consumers.all_of(host)
    with pytest.raises(errors.PolicyError, match=r"(?s)big.*gpu_consumer\.dismiss"):
        by_hand(host, lambda engine: mig_targets(engine, "one_less", FIRST, "3g.40gb@4"))
    assert consumers.all_of(host) == before and astray(host) == []
    assert dismissed(host, "big")["result"]
    assert by_hand(host, lambda engine: mig_targets(engine, "one_less", FIRST, "3g.40gb@4"))["result"]
    assert astray(host) == []


def test_a_pillar_that_does_not_speak_of_consumers_keeps_them(host):
    before = consumers.bindings(host)
    assert consumers.planned(host, pillar()).empty
    assert apply(host, pillar(rules=[(FIRST, FEWER)])).ok and astray(host) == [] and set(consumers.bindings(host)) == set(before)


@pytest.mark.parametrize("wanted", [pillar(cdi=False), pillar({}, cdi=False)])
def test_cdi_switched_off_clears_all(host, wanted):
    assert apply(host, wanted).ok and astray(host) == []
    assert host.state()["written"] == {} and consumers.on_record(host) == {}
    assert set(consumers.running_with(host)) == {TRAINER, "infer.service"}
    assert not any(consumers.running_with(host).values())
    assert consumers.planned(host, wanted).empty and consumers.planned(host, pillar()).empty


def test_serving_and_dismissing_by_hand(simulated):
    host = consumers.machine(simulated, 1)
    assert apply(host, pillar()).ok
    assert served(host, "web", kind="container", image="localhost/web:1")["result"] and astray(host) == []
    assert served(host, "dev", slice="1g.10gb")["result"] and astray(host) == [] and start_counts(host) == {WEB: 1}
    assert dismissed(host, "web")["result"] and astray(host) == [] and list(consumers.bindings(host)) == ["dev"]
    with pytest.raises(errors.PolicyError, match=r"no consumer web on this host\. It has dev"):
        dismissed(host, "web")


def test_a_unit_that_does_not_stop_keeps_its_slice_and_the_other_gpu_its_change(holding):
    [had] = consumers.bindings(holding)["trainer"]
    holding.add_fault({"call": "run", "error": "EIO"})
    wanted = pillar(EACH, profiles=["3g.40gb@4", *(f"1g.10gb@{n}" for n in range(4))], rules=[(FIRST, ["7g.80gb"])])
    result = apply(holding, wanted)
    assert f"The unit {TRAINER} could not be stopped" in " ".join(result.errors)
    holding.clear_faults()
    assert astray(holding) == [] and consumers.bindings(holding)["trainer"] == [had]
    assert sorted(each["profile"] for each in listed(holding) if each["gpu"] == SECOND) == ["1g.10gb"] * 4 + ["3g.40gb"]
    assert [process.unit for process in holding.processes()] == [TRAINER]
