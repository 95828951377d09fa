"""
What is asked for by hand is a wish against what is there when the lock is held: two who ask at once both get what they asked for,
or are told why not. Real processes and a real lock, on simulated machines whose operations take time.
"""

import json
import os
import signal
import sys
import traceback

import pytest

from gpuslice import errors
from gpuslice import front
from gpuslice.engine import Engine
from gpuslice.journal import Journal
from tests.functional import crash

GPU = "0000:07:00.0"
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled"}
#: Long enough that the second process has read the GPU before the first one changes it, short enough to wait for the lock.
SLOW = {"create_gi": 0.4, "destroy_gi": 0.4}


def config(host):
    return {"simulate": host.description_path, "state_dir": host.state_dir}


def layout(host, gpu=GPU):
    """The MIG layout of a GPU as ``profile@start``."""
    with Engine(config(host)) as engine:
        one, tool = engine.mig(gpu)
        return tool.shown(tool.layout(tool.observe(one)))["instances"]


def run(host, wish, **given):
    """Carry out a wish, a function of an engine that returns targets; the answer as an execution function gives it."""
    with Engine(config(host)) as engine:
        return front.run(engine, wish(engine), given.pop("test", False), **given)


def create(*arguments):
    return lambda engine: [engine.added_target(GPU, *arguments)]


def destroy(instance):
    return lambda engine: [engine.removed_target(GPU, instance)]


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
                answer = front.run(engine, targets, False)
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


def test_one_more_that_no_longer_fits_when_its_turn_comes_is_refused(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4"]}], latency=SLOW)
    answers = at_once(host, create("3g.40gb"), create("3g.40gb"))
    assert sorted(succeeded(answers)) == [False, True]
    [refusal] = [answer for answer in answers if isinstance(answer, str)]
    assert GPU in refusal and "do not fit together" in refusal
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
