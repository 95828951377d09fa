"""
What is asked for by hand is a wish against what is there when the lock is held: two who ask at once both get what they asked for,
or are told why not. Real processes and a real lock, on simulated machines whose operations take time.
"""

import json
import os
import pathlib
import signal
import sys
import traceback

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import front
from gpuslice.engine import Engine
from gpuslice.model import Key
from gpuslice.records.journal import Journal
from tests.support import crash
from tests.support.hosts import config
from tests.support.techniques import mig_targets
from tests.support.techniques import plan_one

GPU = "0000:07:00.0"
KEY = Key.of_gpu("mig", GPU)
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled"}
SPLIT = {"profile": "3g.40gb", "start": 4, "cis": [["2c.3g.40gb", 0], ["1c.3g.40gb", 2]]}
#: Long enough that the second process has read the GPU before the first one changes it, short enough to wait for the lock.
SLOW = {"create_gi": 0.4, "destroy_gi": 0.4}


def layout(host, gpu=GPU):
    """The MIG layout of a GPU as ``profile@start``."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", gpu)
        return tool.shown(tool.layout(tool.observe(one)))["instances"]


def identities(host):
    """The UUIDs of all MIG devices."""
    with Engine(config(host)) as engine:
        return {part["uuid"] for part in engine.slices(GPU)}


def run(host, wish, **given):
    """Carry out a wish, a function of an engine that returns targets; the answer as an execution function gives it."""
    with Engine(config(host)) as engine:
        return front.run(engine, wish(engine), given.pop("test", False), None, **given)


def create(*arguments):
    return lambda engine: mig_targets(engine, "one_more", GPU, *arguments)


def destroy(instance):
    return lambda engine: mig_targets(engine, "one_less", GPU, instance)


# -- two at once -----------------------------------------------------------------------------------------------------------------
def at_once(host, *wishes):
    """
    Carry out wishes in a process each, all of which have planned before the first one changes anything; the answers, a refusal
    as its sentence.
    """
    ready, go = [], os.pipe()
    for wish in wishes:
        told, tell = os.pipe()
        child = os.fork()
        if child == 0:
            _answer(host, wish, tell, go[0])
        os.close(tell)
        ready.append((child, told))
    for _, told in ready:
        assert os.read(told, 1) == b"."
    os.write(go[1], b"." * len(wishes))
    answers = []
    for child, told in ready:
        with os.fdopen(told) as pipe:
            answers.append(json.loads(pipe.read()))
        assert os.waitpid(child, 0)[1] == 0
    os.close(go[0])
    os.close(go[1])
    return answers


def _answer(host, wish, tell, go):
    try:
        with Engine(config(host)) as engine:
            targets = wish(engine)
            os.write(tell, b".")
            os.read(go, 1)
            try:
                answer = front.run(engine, targets, False, None)
            except errors.GpuSliceError as err:
                answer = str(err)
        os.write(tell, json.dumps(answer).encode())
        os._exit(0)
    except BaseException:
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(1)


def succeeded(answers):
    return [isinstance(answer, dict) and answer["result"] for answer in answers]


@pytest.mark.parametrize("profiles", [("3g.40gb", "2g.20gb"), ("1g.10gb", "1g.10gb")], ids=["different", "equal"])
def test_two_creates_at_once_make_two(simulated, profiles):
    host = simulated("dgx-h100", gpus=[H100], latency=SLOW)
    assert succeeded(at_once(host, *map(create, profiles))) == [True, True]
    assert sorted(words.split("@")[0] for words in layout(host)) == sorted(profiles)


def test_of_two_who_destroy_one_instance_the_second_is_told_that_it_is_gone(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4", "1g.10gb@0"]}], latency=SLOW)
    answers = at_once(host, destroy("3g.40gb@4"), destroy("3g.40gb@4"))
    assert sorted(succeeded(answers)) == [False, True]
    [refusal] = [answer for answer in answers if isinstance(answer, str)]
    assert "There is no instance 3g.40gb@4; there are: 1g.10gb@0." in refusal
    assert layout(host) == ["1g.10gb@0"]


def test_two_who_destroy_two_instances_at_once_destroy_both(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4", "1g.10gb@0", "1g.10gb@1"]}], latency=SLOW)
    assert succeeded(at_once(host, destroy("3g.40gb@4"), destroy("1g.10gb@0"))) == [True, True]
    assert layout(host) == ["1g.10gb@1"]


def test_one_that_goes_and_one_that_comes_at_once_do_not_undo_each_other(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4", "1g.10gb@0"]}], latency=SLOW)
    assert succeeded(at_once(host, destroy("1g.10gb@0"), create("2g.20gb", 2))) == [True, True]
    assert layout(host) == ["2g.20gb@2", "3g.40gb@4"]


def test_one_more_that_no_longer_fits_when_its_turn_comes_is_refused(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4"]}], latency=SLOW)
    answers = at_once(host, create("3g.40gb"), create("3g.40gb"))
    assert sorted(succeeded(answers)) == [False, True]
    [refusal] = [answer for answer in answers if isinstance(answer, str)]
    assert GPU in refusal and "There is no free place for 3g.40gb" in refusal
    assert layout(host) == ["3g.40gb@0", "3g.40gb@4"]


# -- after a crash ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "call", ["nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"]
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_create_that_is_asked_for_again_is_finished_and_makes_one(simulated, call, when):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0"]}], faults=[{"call": call, "kill": when}])
    assert crash.in_child(lambda: run(host, create("1g.10gb"))) == signal.SIGKILL
    answer = run(host, create("1g.10gb"))
    assert answer["result"] and "it is finished now" in answer["warnings"][0]
    assert [words.split("@")[0] for words in layout(host)] == ["1g.10gb", "1g.10gb"]
    assert Journal(host).unfinished() is None
    # What is asked for once more, after that, is one more.
    assert run(host, create("1g.10gb"))["result"] and len(layout(host)) == 3


@pytest.mark.parametrize("call", ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceDestroy"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_destroy_that_is_asked_for_again_is_finished(simulated, call, when):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0", "3g.40gb@4"]}], faults=[{"call": call, "kill": when}])
    assert crash.in_child(lambda: run(host, destroy("3g.40gb@4"))) == signal.SIGKILL
    assert "was interrupted" in run(host, destroy("3g.40gb@4"), test=True)["comment"]
    answer = run(host, destroy("3g.40gb@4"))
    assert answer["result"] and "it is finished now" in answer["warnings"][0]
    assert layout(host) == ["1g.10gb@0"] and Journal(host).unfinished() is None


def test_another_wish_after_a_killed_create_undoes_that_first(simulated):
    fault = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "after"}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0"]}], faults=[fault])
    assert crash.in_child(lambda: run(host, create("1g.10gb"))) == signal.SIGKILL
    answer = run(host, create("2g.20gb"))
    assert answer["result"] and "it was undone" in answer["warnings"][0]
    assert sorted(words.split("@")[0] for words in layout(host)) == ["1g.10gb", "2g.20gb"]


def test_what_another_tool_made_after_a_killed_create_outlives_its_repetition(simulated):
    faults = [
        {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"},
        {
            "call": "nvmlDeviceGetMigMode",
            "nth": 1,
            "foreign": [{"gpu": GPU, "action": "create_gi", "profile": "2g.20gb", "start": 2}],
        },
    ]
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0"]}], faults=faults[:1])
    assert crash.in_child(lambda: run(host, create("3g.40gb", 4))) == signal.SIGKILL
    host.add_fault(faults[1])
    assert run(host, create("3g.40gb", 4))["result"]
    assert layout(host) == ["1g.10gb@0", "2g.20gb@2", "3g.40gb@4"]


def test_two_equal_creates_after_a_crash_of_one_of_them_make_two(simulated):
    """The first that comes finishes what was killed; the other one is one more."""
    fault = {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"}
    host = simulated("dgx-h100", gpus=[H100], faults=[fault])
    assert crash.in_child(lambda: run(host, create("1g.10gb"))) == signal.SIGKILL
    assert run(host, create("1g.10gb"))["result"] and run(host, create("1g.10gb"))["result"]
    assert [words.split("@")[0] for words in layout(host)] == ["1g.10gb", "1g.10gb"]


def test_a_create_that_fails_is_put_back_and_asked_for_again_made(simulated):
    fault = {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN"}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0"]}], faults=[fault])
    assert run(host, create("1g.10gb"))["result"] is False and layout(host) == ["1g.10gb@0"]
    assert run(host, create("1g.10gb"))["result"] and len(layout(host)) == 2


def test_a_journal_without_wishes_is_undone(simulated):
    fault = {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0"]}], faults=[fault])
    assert crash.in_child(lambda: run(host, create("1g.10gb"))) == signal.SIGKILL
    path = pathlib.Path(host.state_dir, "journal.json")
    entry = json.loads(path.read_text(encoding="utf-8"))
    assert entry["wishes"] == {str(KEY): {"create": ["1g.10gb", None]}} and "layout" in entry["goal"][str(KEY)]
    del entry["wishes"]
    path.write_text(json.dumps(entry), encoding="utf-8")
    answer = run(host, create("1g.10gb"))
    assert answer["result"] and "undone" in answer["warnings"][0]
    assert [words.split("@")[0] for words in layout(host)] == ["1g.10gb", "1g.10gb"]


# -- settling ----------------------------------------------------------------------------------------------------------------
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(
        [[], ["1g.10gb@0"], ["3g.40gb@4", "1g.10gb@1"], [SPLIT, "2g.20gb@0"], ["1g.10gb@0", "1g.10gb@2", "2g.20gb@4"]]
    ),
    st.sampled_from(["1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "1c.2g.20gb", "1g.10gb+me"]),
)
def test_what_is_added_and_taken_away_leaves_what_was_there(simulated, before, profile):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": before}])
    was, uuids = layout(host), identities(host)
    try:
        assert run(host, create(profile))["result"]
    except errors.ProfileMismatch as err:
        # One that does not fit beside what is there moves nothing to make room.
        assert "There is no free place for" in str(err) and identities(host) == uuids
        return
    assert set(was) < set(layout(host)) and uuids < identities(host)
    [made] = set(layout(host)) - set(was)
    assert run(host, destroy(made.split(" ")[0]))["result"]
    assert layout(host) == was and identities(host) == uuids


def test_a_wish_is_settled_into_settings_that_are_there_once_it_is_met(simulated):
    """What is verified, journalled and finished must not be one more each time that it is looked at."""
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0", SPLIT]}])
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", GPU)
        for difference in ({"create": ["2g.20gb", None]}, {"destroy": "3g.40gb@4"}, {"destroy": "all"}):
            absolute = tool.settle(one, tool.observe(one), difference)
            assert engine.reconciler().apply(engine.wanted("mig", GPU, absolute)).ok
            assert plan_one(tool, one, tool.observe(one), absolute).steps == ()


# -- vGPUs -------------------------------------------------------------------------------------------------------------------
VGPUS, FUNCTION = "0000:41:00.0", "0000:41:00.{}"


def vgpu(difference=None, **settings):
    return lambda engine: engine.wanted("vgpu", VGPUS, settings, wish=difference)


def types(host):
    """Function -> type of each vGPU."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("vgpu", VGPUS)
        return {found.at: found.type for found in tool.observe(one).vgpus}


def test_two_types_set_at_once_are_both_there(simulated):
    host = simulated("vgpu-host-vfio")
    assert run(host, vgpu(profile="H100XM-20C", count=1))["result"]
    wishes = [vgpu(difference={"set_type": [FUNCTION.format(n), "H100XM-20C"]}) for n in (6, 7)]
    assert succeeded(at_once(host, *wishes)) == [True, True]
    assert types(host) == dict.fromkeys([FUNCTION.format(n) for n in (4, 6, 7)], "H100XM-20C")


def test_a_type_set_while_another_vgpu_goes_does_not_bring_that_back(simulated):
    host = simulated("vgpu-host-vfio")
    assert run(host, vgpu(profile="H100XM-20C", count=2))["result"]
    remove, add = {"remove": FUNCTION.format(4)}, {"set_type": [FUNCTION.format(7), "H100XM-20C"]}
    assert succeeded(at_once(host, vgpu(difference=remove), vgpu(difference=add))) == [True, True]
    assert sorted(types(host)) == [FUNCTION.format(n) for n in (5, 7)]


def test_one_too_many_is_refused_when_its_turn_comes(simulated):
    host = simulated("vgpu-host-vfio")
    assert run(host, vgpu(profile="H100XM-40C", count=1))["result"]
    wishes = [vgpu(difference={"set_type": [FUNCTION.format(n), "H100XM-40C"]}) for n in (6, 7)]
    answers = at_once(host, *wishes)
    assert sorted(succeeded(answers)) == [False, True] and len(types(host)) == 2
    [refusal] = [answer for answer in answers if isinstance(answer, str)]
    assert VGPUS in refusal and "H100XM-40C" in refusal


def test_a_plan_for_vgpus_counts_the_mig_devices_that_go_for_them_and_draws_them(simulated):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(mig_targets(engine, "layout", VGPUS, ["3g.40gb@4", "1g.10gb@0"])).ok
    text = run(host, vgpu(profiles={"H100XM-1-10C": 2}), test=True)["comment"]
    assert "keeps 0, destroys 2, creates 2" in text and "keeps 0 slices, destroys 2, creates 2" in text
    assert "now    [x1g.10gb|   -    |   -    |   -    |x3g.40gb" in text and "|+1g.10gb|+1g.10gb|" in text
    assert run(host, vgpu(profiles={"H100XM-1-10C": 2}))["result"]
    # With a vGPU on it, an instance is counted once, as the vGPU.
    text = run(host, vgpu(remove=True), test=True)["comment"]
    assert "keeps 0, destroys 2, creates 0" in text and text.count("x1g.10gb") == 2
    text = run(host, vgpu(profiles={"H100XM-1-10C": 3}), test=True)["comment"]
    assert "keeps 2, destroys 0, creates 1" in text


def test_a_plan_for_vgpus_tells_of_an_instance_that_holds_no_device(simulated):
    host = simulated("vgpu-host-vfio")
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(mig_targets(engine, "layout", VGPUS, ["2g.20gb@0"])).ok
    # What an interrupted run of another tool leaves.
    with host.change() as state:
        for gi in state["gpus"][VGPUS]["gis"].values():
            gi["cis"] = {}
    text = run(host, vgpu(profiles={"H100XM-1-10C": 2}), test=True)["comment"]
    assert "keeps 0, destroys 0 and 1 empty instance, creates 2" in text
