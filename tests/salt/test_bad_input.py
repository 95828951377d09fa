"""
Everything that can be wrong with a pillar, a driver, a disk or a GPU, met through the real states: each is a sentence that says
what to do, fails the state, and leaves the hardware as it was.
"""

import multiprocessing
import pathlib
import shutil

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.records import lock
from tests.salt.conftest import Minion
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import slices
from tests.support.stages import counted
from tests.support.stages import counters
from tests.support.stages import machine
from tests.support.stages import refused
from tests.support.techniques import mig_targets

FIRST, SECOND, PLAIN = "0000:07:00.0", "0000:0f:00.0", "0000:3b:00.0"
ABSENT = "0000:aa:00.0"
UUIDS = {FIRST: "GPU-eb73f151-c944-4ceb-8a88-ad01349c00aa", SECOND: "GPU-eb7bfb01-2797-43e9-8c10-8882ceff9965"}
#: What most of the wishes are.
ONE = ["3g.20gb"]
#: Two A100 that have one instance each.
PAIR = [
    {"model": "a100-40gb", "address": address, "uuid": uuid, "mig": "enabled", "instances": ["2g.10gb@4"]}
    for address, uuid in UUIDS.items()
]
COUNTERS = counters()
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def pair(tmp_path_factory, checkout_options, host_description):
    """A minion on two A100 which no test of this file that uses it can change."""
    place = tmp_path_factory.mktemp("pair")
    description = host_description(place, "dgx-a100-40gb", {"gpus": PAIR, "faults": COUNTERS})
    return Minion(place, description, None, checkout_options)


# -- the pillar -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (pillars.mig(ONE, slicing={"stratgey": "mig"}), ["containers_gpu_slicing:stratgey", "strategy"]),
        ({"containers_gpu_slicin": {"enabled": True}}, ["containers_gpu_slicin", "containers_gpu_slicing"]),
        (pillars.mig(ONE, slicing={"enabled": "yes please"}), ["containers_gpu_slicing:enabled", "yes please"]),
        (pillars.mig(ONE, slicing={"mig": {"profiles": 7}}), ["containers_gpu_slicing:mig:profiles", "7"]),
        (pillars.mig(ONE, slicing={"mig": {"profiles": {"1g.5gb": -1}}}), ["mig:profiles", "1g.5gb"]),
        (pillars.mig(ONE, slicing={"strategy": "mgi"}), ["containers_gpu_slicing:strategy", "mgi", "mig"]),
        (pillars.mig(ONE, slicing={"mig": {"enabled": False, "profiles": ["1g.5gb"]}}), ["mig:enabled", "false"]),
        (pillars.mig(ONE, apply_strategy="forse"), ["apply_strategy", "force"]),
        (pillars.mig(ONE, devices=[pillars.mig_rule(FIRST, ONE), pillars.mig_rule(FIRST, ["1g.5gb"])]), ["devices", "never win"]),
        (pillars.mig(ONE, slicing={"sriov": {"enabled": True}}), ["sriov:enabled", "one technology"]),
        (pillars.mig(ONE, discovery={"method": "auto", "devices": [FIRST]}), ["containers_gpu_discovery:devices", "manual"]),
        (pillars.mig(ONE, devices=[{"match": {"index": 0}, "strategy": "mig"}]), ["devices", "index"]),
        (pillars.mig(["banana"]), ["mig:profiles", "banana", "1g.10gb"]),
    ],
    ids=[
        "unknown key",
        "unknown section",
        "wrong type",
        "profiles of a wrong type",
        "a negative count",
        "unknown strategy",
        "switched off and wanted",
        "unknown apply strategy",
        "two rules for one GPU",
        "two technologies",
        "auto with devices",
        "a bare index",
        "no profile at all",
    ],
)
def test_a_wrong_pillar_names_its_path_and_what_is_right(pair, wanted, words):
    refused(pair, wanted, *words)


def test_all_mistakes_are_told_at_once(pair):
    comment = refused(pair, pillars.mig(["nonsense"], slicing={"stratgey": "mig"}, validation="maybe"))
    assert "3 mistakes" in comment
    assert all(word in comment for word in ("nonsense", "stratgey", "maybe"))


def test_an_unknown_profile_lists_those_that_each_gpu_has(pair):
    comment = refused(pair, pillars.mig(["3g.40gb"]), f"2 x GPU ({FIRST}, 0f)", "3g.40gb", "1g.5gb", "3g.20gb", "7g.40gb")
    assert "nearest" in comment


def test_more_than_fits_says_what_fits(pair):
    refused(pair, pillars.mig(["3g.20gb", "3g.20gb", "1g.5gb"]), FIRST, "do not fit", "2 x 3g.20gb")


def test_a_place_where_a_profile_can_not_be_names_those_where_it_can(pair):
    refused(pair, pillars.rules(pillars.mig_rule(FIRST, ["3g.20gb@2"])), FIRST, "3g.20gb", "0", "4")


def test_two_pins_on_one_place_are_refused(pair):
    refused(pair, pillars.rules(pillars.mig_rule(FIRST, ["3g.20gb@0", "2g.10gb@2"])), FIRST, "3g.20gb", "2g.10gb")


def test_a_mistake_for_one_gpu_changes_no_other(pair):
    refused(pair, pillars.rules(pillars.mig_rule(FIRST, ["1g.5gb"]), pillars.mig_rule(SECOND, ["9g.90gb"])), SECOND, "9g.90gb")


def test_a_device_that_is_not_there_is_named_with_those_that_are(pair):
    refused(pair, pillars.rules(pillars.mig_rule(ABSENT, ONE)), ABSENT, FIRST, SECOND)
    refused(pair, pillars.mig(ONE, discovery={"method": "manual", "devices": [ABSENT]}), ABSENT, FIRST, SECOND)


def test_a_uuid_that_is_not_there_is_named_with_those_that_are(pair):
    absent = "GPU-00000000-0000-0000-0000-000000000000"
    refused(pair, pillars.mig(ONE, discovery={"method": "manual", "devices": [absent]}), absent, *UUIDS.values())


def test_arguments_that_a_state_does_not_know_are_no_silence(pair):
    before = machine(pair.host)
    answer = pair.state("gpu_slicing.converged", forse=True)
    assert answer.result is False and "forse" in answer.comment
    answer = pair.state("gpu_mig.layout", name=FIRST, profiles=["1g.5gb"], froce=True)
    assert answer.result is False and "froce" in answer.comment
    assert machine(pair.host) == before and counted(pair.host) == {}


@pytest.mark.parametrize(
    ("name", "profiles", "words"),
    [
        (ABSENT, ["1g.5gb"], [ABSENT, FIRST]),
        ("0", ["1g.5gb"], ["0", "PCI address"]),
        (FIRST, ["1g.7gb"], [FIRST, "1g.7gb", "1g.5gb"]),
        (FIRST, {"1g.5gb": 8}, [FIRST, "1g.5gb"]),
        (FIRST, 7, ["7"]),
        (FIRST, ["1g.5gb@9"], [FIRST, "1g.5gb"]),
    ],
)
def test_the_state_of_one_gpu_refuses_as_the_pillar_does(pair, name, profiles, words):
    before = machine(pair.host)
    answer = pair.state("gpu_mig.layout", name=name, profiles=profiles)
    assert answer.result is False and answer.changes == {} and "Traceback" not in answer.comment
    assert [word for word in words if word not in answer.comment] == []
    assert machine(pair.host) == before and counted(pair.host) == {}


JUNK = st.sampled_from([None, True, 0, -1, 9, 1.5, float("nan"), "", "x", "3g.20gb", "1g.5gb@0", [], ["x"], [None], {}, {"x": 1}])
FUNCTIONS = {
    "a GPU": lambda engine, junk: engine.gpu(junk),
    "slices": lambda engine, junk: engine.slices(junk) if junk else engine.gpu(junk),
    "a layout": lambda engine, junk: planned(engine, mig_targets(engine, "layout", FIRST, junk)),
    "compute instances": lambda engine, junk: planned(engine, mig_targets(engine, "layout", FIRST, ["3g.20gb"], junk)),
    "a profile": lambda engine, junk: planned(engine, mig_targets(engine, "one_more", FIRST, junk)),
    "a start": lambda engine, junk: planned(engine, mig_targets(engine, "one_more", FIRST, "1g.5gb", junk)),
    "an instance": lambda engine, junk: planned(engine, mig_targets(engine, "one_less", FIRST, junk)),
    "a generation": lambda engine, junk: engine.rollback_targets(junk),
    "a form": lambda engine, junk: engine.export(junk),
    "a pillar": lambda engine, junk: engine.plan(junk),
    "a strategy": lambda engine, junk: engine.plan(pillars.mig(ONE, slicing={"strategy": junk})),
    "profiles": lambda engine, junk: engine.plan(pillars.mig(ONE, slicing={"mig": {"profiles": junk}})),
    "a rule": lambda engine, junk: engine.plan(pillars.rules(junk)),
    "a match": lambda engine, junk: engine.plan(pillars.rules({"match": junk, "strategy": "mig"})),
}


def planned(engine, targets):
    return engine.reconciler().plan(targets)


@pytest.mark.parametrize("what", list(FUNCTIONS))
@given(junk=JUNK)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_given_is_planned_or_refused_with_a_sentence(pair, what, junk):
    """Any other exception than our own would be a traceback on somebody's screen."""
    before = machine(pair.host)
    with Engine(pair.opts["gpu_slicing"]) as engine:
        try:
            FUNCTIONS[what](engine, junk)
        except errors.GpuSliceError as err:
            assert len(str(err)) > 10 and "Traceback" not in str(err)
    assert machine(pair.host) == before and counted(pair.host) == {}


@pytest.mark.parametrize(
    "configured", ["examples/host.yaml", ["simulate"], 7, True, {"simulate": 7}, {"simulate": "/no/such.yaml"}]
)
def test_a_wrong_minion_configuration_is_a_sentence(configured):
    with pytest.raises(errors.PolicyError, match="gpu_slicing"):
        Engine(configured)


def test_an_address_without_quotes_is_understood_and_works(minion, caplog):
    """YAML 1.1 reads 0000:07:00.0 as the number 420.0."""
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR})
    stages = list(on.apply("gpu_slicing", pillar=pillars.rules(pillars.mig_rule(420.0, ["3g.20gb"]))))
    assert [stage.result for stage in stages] == [True] * 3
    assert "0000:07:00.0 was written without quotes" in caplog.text
    slices = [(part["gpu"], part["profile"]) for part in on.call("gpu.slices")]
    assert slices == [(FIRST, "3g.20gb"), (SECOND, "2g.10gb")]


def test_salt_call_ends_with_an_error_and_no_traceback(salt_call):
    wanted = pillars.mig(ONE, slicing={"stratgey": "mig"})
    call = salt_call("dgx-a100-40gb", pillar=wanted, changes={"gpus": PAIR, "faults": COUNTERS})
    before = machine(call.host)
    answer = call("state.apply", "gpu_slicing")
    # --retcode-passthrough gives the code of a failed state.
    assert answer.retcode != 0
    assert "stratgey" in answer.stdout and "Did you mean" in answer.stdout
    assert "Traceback" not in answer.stdout + answer.stderr
    answer = call("gpu_slicing.apply")
    assert answer.retcode == 1 and "stratgey" in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stdout + answer.stderr
    assert machine(call.host) == before and counted(call.host) == {}


# -- GPUs and drivers that can't --------------------------------------------------------------------------------------
MIXED = [{**PAIR[0]}, {"model": "t4", "address": PLAIN}]


def test_a_gpu_without_mig_is_an_error_where_it_is_named(minion):
    refused(
        minion("mixed", changes={"gpus": MIXED, "faults": COUNTERS}),
        pillars.rules(pillars.mig_rule(FIRST, ONE), pillars.mig_rule(PLAIN, ONE)),
        PLAIN,
        "Tesla T4",
        "MIG",
    )


def test_a_gpu_without_mig_is_not_applicable_where_a_host_wide_strategy_reaches_it(minion):
    on = minion("mixed", changes={"gpus": MIXED})
    stages = list(on.apply("gpu_slicing", pillar=pillars.mig(ONE)))
    assert [stage.result for stage in stages] == [True] * 3
    assert f"{PLAIN} NVIDIA Tesla T4: left alone, not applicable" in stages[1].comment
    assert [(part["gpu"], part["profile"]) for part in on.call("gpu.slices")] == [(FIRST, "3g.20gb")]


def test_mig_of_a_vgpu_in_a_guest_is_its_hosts_affair(minion):
    gpus = [{**PAIR[0], "mig": "disabled", "instances": [], "vgpu_guest": True}]
    on = minion("dgx-a100-40gb", changes={"gpus": gpus, "virtualization": "virtual_guest", "faults": COUNTERS})
    refused(on, pillars.rules(pillars.mig_rule(FIRST, ONE)), FIRST)


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        ({"loaded": False}, ["driver", "modprobe nvidia"]),
        ({"library": "missing"}, ["libnvidia-ml.so.1", "Install"]),
        ({"version": "580.95.05", "library_version": "575.51.03"}, ["different versions", "Reboot"]),
    ],
    ids=["no driver", "no library", "mismatch"],
)
def test_a_driver_that_can_not_be_used(minion, driver, words):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "driver": driver, "faults": COUNTERS})
    refused(on, pillars.mig(ONE), *words)
    # Reading says so too, and never fails.
    assert on.call("gpu.slices") == []
    assert all(isinstance(device["live"]["mig"], str) for device in on.call("gpu.devices"))


def test_without_root_the_error_says_so(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "privileged": False, "faults": COUNTERS})
    refused(on, pillars.mig(ONE), FIRST, "root")


def test_without_root_the_change_of_a_mode_is_refused_and_named(simulated):
    gpus = [{**PAIR[0], "mig": "disabled", "instances": []}]
    host = simulated("dgx-a100-40gb", gpus=gpus, privileged=False)
    before = machine(host)
    with Engine(config(host)) as engine:
        try:
            said = " ".join(engine.apply(pillars.mig(ONE)).errors)
        except errors.GpuSliceError as err:
            said = str(err)
    assert FIRST in said and "root" in said
    assert machine(host) == before


# -- a state directory that can't be used -----------------------------------------------------------------------------
def test_a_file_in_place_of_the_state_directory(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR})
    shutil.rmtree(on.state_dir, ignore_errors=True)
    on.state_dir.write_text("in the way")
    stages = list(on.apply("gpu_slicing", pillar=pillars.mig(ONE)))
    failed = [stage for stage in stages if stage.result is False]
    assert str(on.state_dir) in failed[0].comment and "state_dir" in failed[0].comment
    assert on.state_dir.read_text() == "in the way"


def test_a_lock_that_can_not_be_made(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "faults": COUNTERS})
    (on.host and on.state_dir / "lock").mkdir()
    refused(on, pillars.mig(ONE), str(on.state_dir), "gpu_slicing:state_dir")


def test_a_damaged_journal_stops_every_change_until_somebody_looked(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "faults": COUNTERS})
    journal = on.host and on.state_dir / "journal.json"
    journal.write_text('{"time": 1, "who"')
    refused(on, pillars.mig(ONE), str(journal), "gpu.slices", "remove that file")
    journal.unlink()
    assert [stage.result for stage in on.apply("gpu_slicing", pillar=pillars.mig(ONE))] == [True] * 3


def test_a_full_disk_before_the_change_means_no_change(minion):
    full = {"call": "store_write", "times": 0, "error": "ENOSPC"}
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "faults": [*COUNTERS, full]})
    refused(on, pillars.mig(ONE), str(on.state_dir), "No space left", "Free space")


#: What the change of the next test does on both GPUs: a 2g goes, two 1g come; each with its compute instance.
STEPS = 12


@pytest.mark.parametrize("lasting", [1, 0], ids=["for a moment", "for good"])
@pytest.mark.parametrize("nth", range(1, STEPS + 1))
def test_a_disk_that_fills_up_during_the_change_undoes_it(simulated, nth, lasting):
    host = simulated("dgx-a100-40gb", gpus=[{**gpu, "instances": ["2g.10gb@4", "3g.20gb@0"]} for gpu in PAIR])
    before = slices(host)
    host.add_fault({"call": "store_append", "nth": nth, "times": lasting, "error": "ENOSPC"})
    if not lasting:
        host.add_fault({"call": "store_write", "nth": 3, "times": 0, "error": "ENOSPC"})
    result = apply(host, pillars.mig(["3g.20gb@0", "1g.5gb@4", "1g.5gb@5"]))
    assert not result.ok
    text = " ".join(result.errors)
    assert "No space left" in text and host.state_dir in text and "undone" in text
    assert any(gpu in text for gpu in UUIDS)
    after = slices(host)
    assert after.keys() == before.keys()
    assert {key: uuid for key, uuid in after.items() if key[1] == "3g.20gb"} == {
        key: uuid for key, uuid in before.items() if key[1] == "3g.20gb"
    }
    host.clear_faults()
    assert apply(host, pillars.mig(["3g.20gb@0", "1g.5gb@4", "1g.5gb@5"])).ok


def test_a_disk_that_is_full_only_for_the_history_is_a_warning(simulated):
    host = simulated("dgx-a100-40gb", gpus=PAIR, faults=[{"call": "store_write", "nth": 3, "times": 0, "error": "ENOSPC"}])
    result = apply(host, pillars.mig(ONE))
    assert result.ok and result.generation is None
    assert "write the history" in " ".join(result.warnings)
    assert apply(host, pillars.mig(ONE)).plan.empty


# -- somebody else ----------------------------------------------------------------------------------------------------
def hold(state_dir, held, stop):
    with lock.held(state_dir, "gpu_slicing.apply by somebody", "20260101000000000007"):
        held.set()
        stop.wait(60)


def test_a_change_that_is_going_on_is_named_by_who_makes_it(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PAIR, "faults": COUNTERS})
    held, stop = FORK.Event(), FORK.Event()
    other = FORK.Process(target=hold, args=(str(on.state_dir), held, stop))
    other.start()
    try:
        assert held.wait(30)
        refused(on, pillars.mig(ONE), f"pid {other.pid}", "gpu_slicing.apply by somebody", "20260101000000000007", "run again")
    finally:
        stop.set()
        other.join()
    assert [stage.result for stage in on.apply("gpu_slicing", pillar=pillars.mig(ONE))] == [True] * 3


def test_a_gpu_that_another_tool_changed_after_the_plan_is_left_to_it(simulated):
    """The journal is written between plan and execution: there another tool comes in."""
    meddling = {"action": "create_gi", "gpu": SECOND, "profile": "1g.5gb", "start": 0}
    host = simulated("dgx-a100-40gb", gpus=PAIR, faults=[{"call": "store_write", "nth": 1, "foreign": [meddling]}])
    before = slices(host)
    result = apply(host, pillars.mig(ONE, on_failure="host"))
    assert not result.ok
    assert SECOND in result.errors[0] and "Somebody else changed" in result.errors[0]
    after = slices(host)
    assert (SECOND, "1g.5gb", "0:1") in after
    assert {key: after[key] for key in before} == before
    # The next run plans with what is there now.
    assert apply(host, pillars.mig(ONE)).ok
    assert sorted(key[:2] for key in slices(host)) == [(FIRST, "3g.20gb"), (SECOND, "3g.20gb")]


def test_what_another_tool_made_during_the_change_is_not_destroyed_by_the_rollback(simulated):
    meddling = {"action": "create_gi", "gpu": FIRST, "profile": "1g.5gb", "start": 6}
    # The first create of ours goes through, and the place of the second one is taken then.
    faults = [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 2, "gpu": FIRST, "foreign": [meddling]}]
    host = simulated("dgx-a100-40gb", gpus=PAIR, faults=faults)
    before = slices(host)
    result = apply(host, pillars.mig(["2g.10gb@4", "1g.5gb@6", "2g.10gb@0"], on_failure="host"))
    after = slices(host)
    text = " ".join(result.errors)
    assert not result.ok
    assert FIRST in text and "another tool" in text.lower()
    assert (FIRST, "1g.5gb", "6:1") in after
    # Everything of ours is undone all the same, on both GPUs, and what was there is the same as before.
    assert after.keys() - before.keys() == {(FIRST, "1g.5gb", "6:1")}
    assert {key: after[key] for key in before} == before


def test_another_tool_that_destroys_what_was_to_stay_fails_the_verification(simulated):
    meddling = {"action": "destroy_gi", "gpu": FIRST, "profile": "2g.10gb", "start": 4}
    faults = [{"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": FIRST, "foreign": [meddling]}]
    host = simulated("dgx-a100-40gb", gpus=PAIR, faults=faults)
    result = apply(host, pillars.mig(["2g.10gb@4", "3g.20gb@0"]))
    assert not result.ok and FIRST in " ".join(result.errors)
    assert apply(host, pillars.mig(["2g.10gb@4", "3g.20gb@0"])).ok


# -- a GPU that dies --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("nvmlComputeInstanceDestroy", 1),
        ("nvmlGpuInstanceDestroy", 1),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", 1),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 2),
    ],
)
def test_a_gpu_that_falls_off_the_bus_takes_no_other_with_it(simulated, call, nth):
    third = {"model": "a100-40gb", "address": "0000:47:00.0", "mig": "enabled", "instances": ["2g.10gb@4"]}
    host = simulated("dgx-a100-40gb", gpus=[*PAIR, third], faults=[{"call": call, "nth": nth, "gpu": SECOND, "lost": True}])
    before = {key for key in slices(host) if key[0] != SECOND}
    wanted = pillars.mig(["1g.5gb@4", "1g.5gb@5"], on_failure="host")
    result = apply(host, wanted)
    text = " ".join(result.errors)
    assert not result.ok
    assert SECOND in text and "fallen off the bus" in text and "power-cycle" in text
    assert set(slices(host)) == before
    # The next run does what can be done, and goes on telling of the one that can't.
    result = apply(host, wanted)
    assert SECOND in " ".join(result.errors) and FIRST not in " ".join(result.errors)
    assert sorted(key[:2] for key in slices(host)) == [(gpu, "1g.5gb") for gpu in (FIRST, "0000:47:00.0") for _ in range(2)]
    assert not pathlib.Path(host.state_dir, "journal.json").exists()
    host.reboot()
    assert apply(host, wanted).ok
