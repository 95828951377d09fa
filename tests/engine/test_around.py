"""
Whose node it is around a change, of all schedulers alike: one drained by hand stays so after a change, and none is given back
while a change is half done.
"""

import contextlib
import functools
import os
import signal

import pytest

from gpuslice import errors
from gpuslice import reports
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.schedulers import around
from gpuslice.schedulers import kubernetes_node
from gpuslice.schedulers import nomad
from gpuslice.schedulers import slurm
from tests.support import hosts
from tests.support import kube_story
from tests.support import telling
from tests.support.crash import in_child
from tests.support.telling import FIRST
from tests.support.telling import TYPE
from tests.support.telling import asked_of_slurm
from tests.support.telling import converge
from tests.support.telling import pillar

THREE = {FIRST: ["1g.10gb"] * 3}
ENDED = {"GPU_SLICING_ADDRESSES": FIRST, "GPU_SLICING_RESULT": "ok"}


@pytest.fixture
def hooked(monkeypatch):
    """``with hooked():`` is what a hook after a change meets."""

    @contextlib.contextmanager
    def within():
        with monkeypatch.context() as patch:
            for name, value in ENDED.items():
                patch.setenv(name, value)
            yield

    return within


def on(host, function, *args, **more):
    with Engine(hosts.config(host)) as engine:
        return function(engine, *args, **more)


def state(host):
    with Engine(hosts.config(host)) as engine:
        found = slurm.control.node(engine.host, "n1")
    return found.state, found.reason


def slurm_node(simulated, **told):
    return telling.machine(simulated, slurm={"node": "n1", **told})


# -- by hand and around a change -------------------------------------------------------------------------------------------
def slurm_world(simulated):
    host = slurm_node(simulated)
    return host, functools.partial(on, host, slurm.drain, node="n1"), functools.partial(on, host, slurm.resume, node="n1")


def nomad_world(simulated):
    host = telling.machine(simulated, tools=["nvidia-smi", "nomad"], nomad={"node": "n1"})
    return host, functools.partial(on, host, nomad.drain), functools.partial(on, host, nomad.resume)


def kubernetes_world(simulated):
    world = kube_story.Simulated(simulated)
    ways = [functools.partial(on, world.host, each, kube_story.CONFIG, node="n1")
            for each in (kubernetes_node.drain, kubernetes_node.resume)]  # fmt: skip
    return world.host, *ways


WORLDS = {"slurm": slurm_world, "nomad": nomad_world, "kubernetes": kubernetes_world}


@pytest.mark.parametrize("name", WORLDS)
def test_what_was_drained_by_hand_only_a_hand_gives_back(simulated, hooked, name):
    _, drain, resume = WORLDS[name](simulated)
    assert drain(why="new fans")["result"]
    with hooked():
        answer = resume()
    assert answer["result"] and not answer["changes"] and "which somebody else wants" in answer["comment"]
    assert "new fans (" in answer["comment"] and "by hand)" in answer["comment"]
    assert resume()["changes"]
    with hooked():
        assert drain()["result"] and resume()["changes"]


def test_a_drain_by_hand_whose_jobs_stay_says_how_the_node_comes_back(simulated):
    host = slurm_node(simulated, busy=9)
    answer = on(host, slurm.drain, node="n1")
    assert answer["result"] is False and answer["comment"].endswith("It is given no more until gpu_slurm.resume is called.")
    assert on(host, slurm.resume, node="n1")["result"]


@pytest.mark.parametrize("name", WORLDS)
def test_nobody_gets_a_node_whose_gpus_a_killed_run_left_half_cut(simulated, name):
    host, drain, resume = WORLDS[name](simulated)
    assert drain()["result"]
    host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "kill": "before"})
    assert in_child(functools.partial(converge, host, pillar(THREE, slurm=None))) == signal.SIGKILL
    host.clear_faults()
    answer = resume()
    assert answer["result"] is False and not answer["changes"]
    assert "was interrupted, and its GPUs may be half cut" in answer["comment"]
    assert f"then call gpu_{name}.resume." in answer["comment"]
    assert converge(host, pillar(THREE, slurm=None)).ok and resume()["changes"]


def test_nobody_gets_a_node_back_while_it_is_cut(simulated):
    host = slurm_node(simulated)

    def call(name, args, kwargs):
        if name == "gpu_slurm.drain":
            on(host, slurm.drain, node="n1")
            answers.append(on(host, around.half_done, "Node n1", "Slurm", "gpu_slurm.resume")["comment"])
        return {"result": True}

    answers = []
    with Engine(hosts.config(host)) as engine:
        engine.call = call
        assert engine.apply(pillar(THREE)).ok
    assert len(answers) == 1 and " is going on. Wait for its end, then call gpu_slurm.resume." in answers[0]


# -- Slurm -----------------------------------------------------------------------------------------------------------------
def test_a_node_that_somebody_has_set_down_stays_down(simulated):
    host = slurm_node(simulated, state="DOWN", reason="broken fan")
    assert converge(host, pillar(THREE)).ok
    assert state(host) == ("DOWN", "broken fan") and asked_of_slurm(host) == ["State=DRAIN", "reconfigure", "State=UNDRAIN"]


def test_a_node_that_is_to_fail_takes_no_jobs_and_stays_so(simulated):
    host = slurm_node(simulated, state="IDLE+FAIL", reason="two disks")
    assert converge(host, pillar(THREE)).ok and state(host) == ("IDLE+FAIL", "two disks")


def test_what_else_a_node_has_for_jobs_keeps_it_from_nobody(simulated):
    host = slurm_node(simulated, gres="nic:2,tmpdisk:100")
    result = converge(host, pillar(THREE))
    assert result.ok, result.errors
    assert state(host)[0] == "IDLE"


def test_a_node_of_another_name_is_drained_and_resumed_by_one_name(simulated):
    host = slurm_node(simulated)
    assert converge(host, pillar(THREE)).ok and telling.on_record_of(host)["settings"]["node"] == "n1"
    with host.change() as found:
        found["slurm"]["node"] = found["host"]["name"]
    result = converge(host, pillar({FIRST: ["7g.80gb"]}, slurm={"node": ""}))
    assert result.ok, result.errors
    assert asked_of_slurm(host)[-3:] == ["State=DRAIN", "reconfigure", "State=RESUME"] and telling.gres(host) == (
        f"gpu:{TYPE}_7g.80gb:1,gpu:{TYPE}:1"
    )


# -- what failed is called again -------------------------------------------------------------------------------------------
def owed(host):
    return "owed.json" in os.listdir(host.state_dir)


def controller(host, how):
    with host.change() as found:
        found["slurm"]["controller"] = how


@pytest.fixture
def left_drained(simulated):
    """A node that was cut, and whose controller went away before it could be resumed."""
    host = slurm_node(simulated)
    host.add_fault({"call": "run", "nth": 4, "times": 0, "error": "EIO"})
    result = converge(host, pillar(THREE))
    host.clear_faults()
    assert not result.ok and result.errors[0].endswith("It is called again by the next run.") and owed(host)
    assert state(host)[0] == "IDLE+DRAIN" and hosts.shapes(host)[FIRST] == ["1g.10gb"] * 3
    return host


def test_a_node_that_could_not_be_given_back_is_given_back_by_the_next_run(left_drained):
    host = left_drained
    assert "this run calls it again." in telling.consumers.planned(host, pillar(THREE)).text()
    assert on(host, reports.summary, pillar(THREE)).startswith("not as wanted, since what is to run after a change failed; ")
    controller(host, "away")
    again = converge(host, pillar(THREE))
    assert not again.ok and "Unable to contact" in again.errors[0] and owed(host)
    controller(host, "up")
    result = converge(host, pillar(THREE))
    assert result.ok and result.warnings == ["gpu_slurm.resume, which failed after an earlier change, was called again."]
    assert state(host)[0] == "IDLE" and not owed(host)
    so_far = len(host.state()["slurm"]["asked"])
    assert converge(host, pillar(THREE)).ok and len(host.state()["slurm"]["asked"]) == so_far


def test_another_change_gives_it_back_too(left_drained):
    assert converge(left_drained, pillar({FIRST: ["7g.80gb"]})).ok
    assert state(left_drained)[0] == "IDLE" and not owed(left_drained)


def test_what_the_pillar_has_no_more_is_told_once(left_drained):
    result = converge(left_drained, pillar(THREE, slurm={"drain": False}))
    assert result.ok and "is no more in this pillar: is the node given back?" in result.warnings[0]
    assert not owed(left_drained) and converge(left_drained, pillar(THREE, slurm={"drain": False})).warnings == []


def test_a_boot_after_a_kill_leaves_the_node_to_the_next_run_where_slurm_is_not_there_yet(simulated):
    host = slurm_node(simulated)
    assert converge(host, pillar(THREE, boot=True)).ok
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "kill": "after"})
    assert in_child(functools.partial(converge, host, pillar({FIRST: ["7g.80gb"]}, boot=True))) == signal.SIGKILL
    host.clear_faults()
    host.reboot()
    controller(host, "away")

    def call(name, args, kwargs):
        return on(host, telling.OWN[name], *args, **kwargs)

    with Engine(hosts.config(host)) as engine:
        engine.call = call
        answer = replay.replay(engine, wait=0)
    assert answer["result"] and hosts.shapes(host)[FIRST] == ["1g.10gb"] * 3 and owed(host)
    controller(host, "up")
    assert state(host)[0] == "IDLE+DRAIN"
    assert converge(host, pillar(THREE, boot=True)).ok and state(host)[0] == "IDLE" and not owed(host)


def test_a_list_that_can_t_be_used_is_told_and_no_traceback(left_drained):
    with open(os.path.join(left_drained.state_dir, "owed.json"), "w", encoding="utf-8") as handle:
        handle.write('{"format": 1, "after_hooks": [{"command": ["/bin/true"], "timeout": 1}]}')
    with pytest.raises(errors.StateDirUnusable, match="is to be called again after a change, .*can't be used .*remove that file"):
        converge(left_drained, pillar(THREE))
    result = converge(left_drained, pillar({FIRST: ["7g.80gb"]}))
    assert not result.ok and result.generation and hosts.shapes(left_drained)[FIRST] == ["7g.80gb"]
    assert "can't be used" in " ".join(result.errors)
