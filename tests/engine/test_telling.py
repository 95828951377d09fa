"""
What schedulers are told is a part of a change: planned on what there is going to be, written, noted, undone, brought back, and
surrounded by a drain where jobs would be disrupted.
"""

import functools
import signal

import pytest
import yaml

from gpuslice import errors
from gpuslice import front
from gpuslice import policy
from gpuslice import quarantine
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.outputs import plugin_schema
from gpuslice.schedulers import kubernetes
from gpuslice.schedulers import slurm
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mig import asks
from gpuslice.techniques.toolbox import Toolbox
from tests.support import consumers
from tests.support import hosts
from tests.support import stages
from tests.support import telling
from tests.support.cleaned import cleaned
from tests.support.cleaned import records
from tests.support.consumers import planned
from tests.support.crash import in_child
from tests.support.telling import CONF
from tests.support.telling import FILE
from tests.support.telling import FIRST
from tests.support.telling import SECOND
from tests.support.telling import TYPE
from tests.support.telling import asked_of_slurm
from tests.support.telling import converge
from tests.support.telling import gres
from tests.support.telling import pillar
from tests.support.telling import text_of
from tests.support.watched import Watched

CALLS = ("nvmlDeviceCreateGpuInstanceWithPlacement", "run", "store_write", "store_append", "store_remove")
THREE, TWO = {FIRST: ["1g.10gb"] * 3}, {FIRST: ["2g.20gb"] * 2}
AROUND = ["State=DRAIN", "reconfigure", "State=RESUME"]


@pytest.fixture
def host(simulated):
    """Two GPUs, the first of which is cut, and Slurm and the plugin are told."""
    made = telling.machine(simulated)
    assert converge(made, pillar(THREE, kubernetes=True)).ok and text_of(made) == telling.as_it_is(made)
    return made


@pytest.fixture
def bare(simulated):
    return telling.machine(simulated)


class Writing(SimulatedHost):
    """A simulated host that notes which files are written."""

    paths: list = []

    def store_write(self, path, *args, **rest):
        self.paths.append(path)
        super().store_write(path, *args, **rest)


def writes(host, wanted, path):
    """Which of all files that a change of this host writes one is; it is made."""
    noting = Writing(host.description_path, host.state_dir)
    noting.paths = []
    assert converge(host, wanted, noting).ok
    return noting.paths.index(path) + 1


# -- as wanted -------------------------------------------------------------------------------------------------------------
def test_a_plan_shows_the_lines_before_the_slices_are_there_and_the_change_is_surrounded_once(bare):
    wanted = pillar(THREE, kubernetes=True)
    plan = planned(bare, wanted)
    lines = plan.text().splitlines()
    soon = f"    + NodeName=n1 Name=gpu Type={TYPE}_1g.10gb File=(known-when-it-is-made)  (3 times)"
    assert lines.count(soon) == 1 and "  /etc/slurm/gres.conf:" in lines and '    + flags: {"migStrategy": mixed}' in lines
    assert lines[0] == "Before it: run gpu_slurm.drain (within 60 s)"
    assert "After it, whatever comes: run gpu_slurm.resume (within 180 s)" in lines
    assert "  planned again once its slices are there" in lines and "; tells Slurm and Kubernetes of it; about " in lines[-1]
    assert not text_of(bare) and not asked_of_slurm(bare) and not telling.on_record_of(bare)
    result = converge(bare, wanted)
    assert result.ok and asked_of_slurm(bare) == AROUND and gres(bare) == f"gpu:{TYPE}_1g.10gb:3,gpu:{TYPE}:1"
    assert result.changes["slurm"]["new"][CONF] == text_of(bare).splitlines() and result.changes["kubernetes"]["old"] == {}
    assert plugin_schema.check(yaml.safe_load(text_of(bare, FILE))) == ([], [])
    assert telling.on_record_of(bare)["settings"] == {"path": CONF, "node": "n1", "autodetect": False}


def test_a_host_that_is_as_wanted_is_told_nothing_and_nobody_is_asked(host):
    before, so_far = host.state(), len(asked_of_slurm(host))
    watched = Watched(host.description_path, host.state_dir)
    result = converge(host, pillar(THREE, kubernetes=True), watched)
    assert result.ok and result.plan.empty and result.generation is None and watched.ran == []
    assert watched.seen.count(CONF) == watched.seen.count(FILE) == 1
    plan = planned(host, pillar(THREE, kubernetes=True))
    assert plan.empty and not plan.before and not plan.after
    assert host.state()["written"] == before["written"] and len(asked_of_slurm(host)) == so_far


def test_silence_goes_on_and_a_word_ends_it(host):
    assert converge(host, pillar(TWO, slurm=None)).ok
    assert gres(host) == f"gpu:{TYPE}_2g.20gb:2,gpu:{TYPE}:1" and text_of(host) == telling.as_it_is(host)
    result = converge(host, pillar(TWO, slurm={"enabled": False}, kubernetes={"enabled": False}))
    assert result.ok and result.changes["slurm"]["new"] == {} and CONF in result.changes["slurm"]["old"]
    assert everything(host)[1:] == ("", "", {}, {})
    assert planned(host, pillar(TWO, slurm=None)).empty


def test_another_path_takes_the_file_along(host):
    assert converge(host, pillar(THREE, slurm={"path": "/etc/slurm/gpus.conf"})).ok
    assert not text_of(host) and text_of(host, "/etc/slurm/gpus.conf") == telling.as_it_is(host)
    assert list(telling.on_record_of(host)["files"]) == ["/etc/slurm/gpus.conf"]


def test_a_change_by_hand_is_followed_and_says_that_slurm_was_not_told(host):
    so_far = len(asked_of_slurm(host))
    with Engine(hosts.config(host)) as engine:
        answer = front.run(engine, engine.wanted("mig", FIRST, *asks.layout(["7g.80gb"])), False, {})
    assert answer["result"] and gres(host) == f"gpu:{TYPE}_7g.80gb:1,gpu:{TYPE}:1" and len(asked_of_slurm(host)) == so_far
    said = "Slurm reads it when it is told to ('salt-call gpu_slurm.reconfigure')."
    assert f"{CONF} is another one now: {said}" in answer["warnings"]


@pytest.mark.parametrize(("unit", "drained"), [("", True), ("slurmd.service", True), ("web.service", False)])
def test_nobody_is_drained_for_a_gpu_that_no_job_holds(simulated, unit, drained):
    host = telling.machine(simulated, processes=[{"pid": 4242, "command": "train", "unit": unit, "gpu": FIRST}])
    assert converge(host, pillar(None)).ok
    so_far = len(asked_of_slurm(host))
    result = converge(host, pillar(THREE))
    assert not result.ok and "in use by pid 4242 (train" in result.errors[0] and hosts.shapes(host)[FIRST] == []
    assert asked_of_slurm(host)[so_far:] == (AROUND if drained else [])


def test_a_power_cap_drains_nobody(host):
    so_far = len(asked_of_slurm(host))
    capped = pillar(THREE, kubernetes=True, slicing={"power": {"percent": 80}})
    plan = planned(host, capped)
    assert not plan.empty and not plan.before and not plan.after
    assert converge(host, capped).ok and len(asked_of_slurm(host)) == so_far


def test_what_the_site_runs_itself_stands_between_drain_and_resume(bare):
    own = {"before": [["/usr/local/sbin/stop"]], "after": [["/usr/local/sbin/start"]]}
    plan = planned(bare, pillar(THREE, **own))
    assert [words.split()[1] for words in (*plan.before, *plan.after)] == [
        "gpu_slurm.drain", "/usr/local/sbin/stop", "/usr/local/sbin/start", "gpu_slurm.resume",
    ]  # fmt: skip
    twice = policy.parse(pillar(THREE, before=[{"function": "gpu_slurm.drain"}])).warnings
    assert twice == [
        "containers_gpu_state_management:before:0: runs besides containers_gpu_container_integration:slurm:drain, which does the "
        "same; leave one out."
    ]
    assert not policy.parse(pillar(THREE, slurm={"drain": False}, before=[{"function": "gpu_slurm.drain"}])).warnings


def test_without_draining_slurm_is_asked_nothing(bare):
    result = converge(bare, pillar(THREE, slurm={"drain": False}))
    assert result.ok and not asked_of_slurm(bare) and text_of(bare)
    assert f"{CONF} is another one now: Slurm reads it when" in result.warnings[0]


def test_another_count_is_told_before_the_change(host):
    plan = planned(host, pillar(TWO, kubernetes=True))
    assert (
        f"  slurm.conf has to say Gres=gpu:{TYPE}_2g.20gb:2,gpu:{TYPE}:1 (it was gpu:{TYPE}_1g.10gb:3,gpu:{TYPE}:1): Slurm takes "
        "another count only by a restart of slurmctld."
    ) in plan.text().splitlines()


# -- who has what ----------------------------------------------------------------------------------------------------------
def test_what_a_consumer_is_going_to_have_is_left_out_already_in_the_plan(host):
    wanted = pillar(TWO, consumers={"dev": {"slice": "2g.20gb"}}, kubernetes=True)
    left = [line for line in planned(host, wanted).text().splitlines() if line.startswith("    + # Left out: ")]
    assert len(left) == 1 and left[0].endswith(": consumer dev has it")
    assert converge(host, wanted).ok and gres(host) == f"gpu:{TYPE}_2g.20gb:1,gpu:{TYPE}:1"
    assert converge(host, pillar(TWO, consumers={}, kubernetes=True)).ok and gres(host) == f"gpu:{TYPE}_2g.20gb:2,gpu:{TYPE}:1"


def test_a_quarantine_takes_it_from_slurm_and_the_consumer_who_moves_takes_another(host):
    assert converge(host, pillar(THREE, consumers={"dev": {"slice": "1g.10gb"}}, kubernetes=True)).ok
    [had] = consumers.bindings(host)["dev"]

    def on(function, *args, **more):
        with Engine(hosts.config(host)) as engine:
            return function(engine, *args, **more)

    tested = on(quarantine.quarantined, [had], "odd results", test=True)
    assert f"+ # Left out: {had}: quarantined: odd results" in tested["comment"] and f"{had}: quarantined" not in text_of(host)
    assert on(quarantine.quarantined, [had], "odd results")["result"]
    [has] = consumers.bindings(host)["dev"]
    assert f"# Left out: {had}: quarantined: odd results" in text_of(host) and f"# Left out: {has}: consumer dev" in text_of(host)
    assert gres(host) == f"gpu:{TYPE}_1g.10gb:1,gpu:{TYPE}:1" and had in text_of(host, FILE)
    assert planned(host, pillar(THREE, consumers={"dev": {"slice": "1g.10gb"}}, kubernetes=True)).empty
    assert on(quarantine.released, [had])["result"] and gres(host) == f"gpu:{TYPE}_1g.10gb:2,gpu:{TYPE}:1"


def test_a_quarantine_whose_consumer_can_t_move_leaves_slurm_what_it_had(bare, tmp_path):
    wanted = pillar(THREE, consumers={"dev": {"slice": "1g.10gb"}})
    assert converge(bare, wanted).ok
    [part] = consumers.bindings(bare)["dev"]

    def hold(host, through):
        with Engine(hosts.config(host)) as engine:
            engine.host, engine.tools = through, Toolbox(through)
            return quarantine.quarantined(engine, [part], "odd results")

    before, trial = text_of(bare), consumers.copier(tmp_path)(bare)
    noting = Writing(trial.description_path, trial.state_dir)
    noting.paths = []
    assert hold(trial, noting)["result"] and f"{part}: quarantined" in text_of(trial)
    number = next(place for place, path in enumerate(noting.paths, 1) if path.endswith("consumers.json"))
    bare.add_fault({"call": "store_write", "nth": number, "error": "ENOSPC"})
    answer = hold(bare, bare)
    assert answer["result"] is False and "What is quarantined is as it was before." in answer["comment"], answer
    assert consumers.bindings(bare)["dev"] == [part] and text_of(bare) == before == telling.as_it_is(bare)
    assert planned(bare, wanted).empty


def test_a_gpu_that_can_t_be_read_leaves_the_file_and_is_no_shrink(host):
    before = text_of(host)
    with host.change() as state:
        state["gpus"][FIRST]["health"]["lost"] = True
    plan = planned(host, pillar(slurm=True))
    assert plan.empty and f"Slurm: {FIRST} can't be read, so that it stays as it is. already as wanted; {CONF}." in plan.text()
    with pytest.raises(errors.GpuSliceError, match=f"What node n1 has for Slurm can't be told: {FIRST} can't be read"):
        planned(host, pillar({SECOND: ["7g.80gb"]}, slurm=True))
    assert text_of(host) == before
    with Engine(hosts.config(host)) as engine:
        quarantine.quarantined(engine, [FIRST], "it fell off the bus")
    assert gres(host) == f"gpu:{TYPE}:1" and converge(host, pillar({SECOND: ["7g.80gb"]}, slurm={"drain": False})).ok
    assert gres(host) == f"gpu:{TYPE}_7g.80gb:1"


# -- failures --------------------------------------------------------------------------------------------------------------
def test_slurm_that_refuses_to_drain_lets_nothing_be_cut(simulated):
    host = telling.machine(simulated, slurm={"node": "n1", "controller": "refuses"})
    result = converge(host, pillar(THREE))
    assert not result.ok and hosts.shapes(host)[FIRST] == [] and not text_of(host) and "Nothing was changed." in result.errors
    assert "set drain of containers_gpu_container_integration:slurm to false; then run again." in result.errors[0]


def test_slurm_that_goes_away_after_the_cut_leaves_the_slices_and_the_drain(bare):
    bare.add_fault({"call": "run", "nth": 4, "times": 0, "error": "EIO"})
    result = converge(bare, pillar(THREE))
    bare.clear_faults()
    assert not result.ok and hosts.shapes(bare)[FIRST] == ["1g.10gb"] * 3 and text_of(bare) == telling.as_it_is(bare)
    said = "gpu_slurm.resume, which is to run after the change, failed: scontrol was asked to know how node n1 is"
    assert result.errors[0].startswith(said)
    assert asked_of_slurm(bare) == ["State=DRAIN"] and planned(bare, pillar(THREE)).empty


def test_a_gpu_that_fails_goes_back_and_the_node_is_resumed_on_what_there_is(host):
    so_far = len(asked_of_slurm(host))
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "gpu": SECOND, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    result = converge(host, pillar({**TWO, SECOND: ["7g.80gb"]}, kubernetes=True))
    assert not result.ok and gres(host) == f"gpu:{TYPE}_2g.20gb:2,gpu:{TYPE}:1" and text_of(host) == telling.as_it_is(host)
    assert asked_of_slurm(host)[so_far:] == AROUND


@pytest.mark.parametrize("path", [CONF, FILE])
def test_a_file_that_can_t_be_written_takes_the_slices_back(bare, tmp_path, path):
    # One alone: parts of a layer are carried out side by side.
    alone = {"slurm": True if path == CONF else None, "kubernetes": True if path == FILE else None}
    assert converge(bare, pillar(THREE, **alone)).ok
    before, wanted = text_of(bare, path), pillar(TWO, **alone)
    bare.add_fault({"call": "store_write", "nth": writes(consumers.copier(tmp_path)(bare), wanted, path), "error": "ENOSPC"})
    result = converge(bare, wanted)
    bare.clear_faults()
    assert not result.ok and "No space left on device" in result.errors[0]
    assert hosts.shapes(bare)[FIRST] == ["1g.10gb"] * 3 and text_of(bare, path) == before
    assert hosts.closed(bare) and planned(bare, pillar(THREE, **alone)).empty


def test_what_was_changed_by_hand_is_found_and_put_right(host):
    with host.change() as state:
        state["written"][CONF] += "NodeName=n1 Name=gpu Count=8\n"
    plan = planned(host, pillar(THREE, kubernetes=True))
    assert f"  1. write {CONF}, which was changed by somebody else" in plan.text().splitlines()
    assert "    - NodeName=n1 Name=gpu Count=8" in plan.text().splitlines() and plan.before
    assert converge(host, pillar(THREE, kubernetes=True)).ok and text_of(host) == telling.as_it_is(host)
    with host.change() as state:
        del state["written"][CONF]
    assert converge(host, pillar(THREE, kubernetes=True)).ok and text_of(host) == telling.as_it_is(host)


BAD = {
    "a file of somebody else": ({}, "is a file of somebody else. Name another path and include it there"),
    "a folder": ({"path": "/etc/slurm.conf"}, "can't be read"),
    "a file that the host does not have": ({"path": "/home/gres.conf"}, "is a simulated one"),
    "a name that is no path": ({"path": "gres.conf"}, "slurm:path: is the text 'gres.conf'; an absolute path such as"),
    "another ending": ({"path": "/etc/slurm/gres"}, "slurm:path: is the text '/etc/slurm/gres'; an"),
    "no node": ({"node": "n 1"}, "slurm:node: is the text 'n 1'; a NodeName such as n1 is wanted."),
    "too long": ({"within": 3600}, "slurm:within: is"),
    "a misspelt key": ({"drian": True}, "slurm:drian: is not a known key. Did you mean 'drain'?"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing(simulated, name):
    keys, why = BAD[name]
    files = {"/etc/slurm.conf/there": "", **({CONF: "NodeName=x\n"} if "somebody else" in name else {})}
    host = telling.machine(simulated, files={"/etc/passwd": consumers.PASSWD, **files})
    with pytest.raises(errors.GpuSliceError) as caught:
        converge(host, pillar(THREE, slurm=keys))
    assert why in str(caught.value) and hosts.shapes(host)[FIRST] == []
    assert not asked_of_slurm(host) and not host.state()["written"]


def test_a_host_without_gpus_and_a_plugin_of_another_vendor_are_told_in_a_sentence(simulated, bare):
    with pytest.raises(errors.PolicyError, match=f"{CONF}: slices are to be handed out, and this host has no GPU"):
        converge(simulated("no-gpu"), pillar())
    with pytest.raises(errors.PolicyError, match="is to be for the device plugin of amd, and this host has GPUs of nvidia"):
        converge(bare, pillar(THREE, slurm=None, kubernetes=True, device_plugin="amd"))
    shares = {"strategy": "none", "devices": [
        {"match": {"pci": FIRST}, "strategy": "time-slicing", "time_slicing": {"max_instance_count": 2}},
        {"match": {"pci": SECOND}, "strategy": "time-slicing", "time_slicing": {"max_instance_count": 3}},
    ]}  # fmt: skip
    with pytest.raises(errors.GpuSliceError, match="one number of shares for all of nvidia.com/gpu, and they differ"):
        converge(bare, pillar(slurm=None, kubernetes=True, slicing=shares))
    assert not bare.state()["written"]
    assert converge(bare, pillar(kubernetes=True, slicing={"devices": []})).ok and gres(bare) == f"gpu:{TYPE}:2"


def test_by_hand_what_the_pillar_keeps_is_not_written_otherwise(host):
    with Engine(hosts.config(host)) as engine:
        assert slurm.write(engine, CONF)["changes"] == {} and slurm.gres(engine)["node"] == "n1"
        with pytest.raises(errors.PolicyError, match=f"{CONF} is kept by the pillar"):
            slurm.write(engine, CONF, node="n2")
        with pytest.raises(errors.PolicyError, match=f"{FILE} is kept by the pillar"):
            kubernetes.write(engine, FILE, lambda data, remarks: f"{remarks}{data}")
        assert slurm.write(engine, "/etc/slurm/other.conf", node="n2")["changes"]


@pytest.mark.parametrize("path", [CONF, FILE])
def test_what_somebody_has_put_in_the_place_of_ours_is_left(host, path):
    with host.change() as state:
        state["written"][path] = "theirs\n"
    with pytest.raises(errors.ForeignChange, match=f"{path} was to say .*, and is a file of somebody else"):
        converge(host, pillar(THREE, kubernetes=True))
    off = {"slurm": {"enabled": False}, "kubernetes": {"enabled": False}}
    plan = planned(host, pillar(THREE, **off))
    assert f"is told nothing; {path} stays, which is somebody else's by now" in plan.text()
    assert converge(host, pillar(THREE, **off)).ok and text_of(host, path) == "theirs\n"
    assert not telling.on_record_of(host) and not telling.on_record_of(host, "kubernetes")


# -- back and forth --------------------------------------------------------------------------------------------------------
def test_a_rollback_brings_the_file_of_that_generation_back(host):
    before = text_of(host)
    assert converge(host, pillar(TWO, slurm={"path": "/etc/slurm/gpus.conf"}, kubernetes=True)).ok and not text_of(host)
    with Engine(hosts.config(host)) as engine:
        assert front.run(engine, engine.rollback_targets(1), False, {})["result"]
    assert text_of(host) == before and not text_of(host, "/etc/slurm/gpus.conf")


def test_nothing_of_it_is_left_of_a_host_that_is_given_up(host):
    answer = cleaned(host)
    assert answer["result"], answer
    assert not text_of(host) and not text_of(host, FILE) and hosts.shapes(host) == {FIRST: [], SECOND: []} and records(host) == []


def test_a_boot_compares_it_and_writes_it_only_where_it_differs(host):
    def replayed():
        with Engine(hosts.config(host)) as engine:
            return replay.replay(engine, wait=0)

    before, so_far = text_of(host), len(asked_of_slurm(host))
    host.reboot()
    answer = replayed()
    assert answer["result"] and text_of(host) == before == telling.as_it_is(host), answer
    assert f"Slurm: {CONF}: there already." in answer["comment"].splitlines() and len(asked_of_slurm(host)) == so_far
    with host.change() as state:
        del state["written"][CONF]
    assert f"Slurm: {CONF}: brought back." in replayed()["comment"].splitlines() and text_of(host) == before


def everything(host):
    on_record = [telling.on_record_of(host, name) for name in ("slurm", "kubernetes")]
    return hosts.shapes(host), text_of(host), text_of(host, FILE), *on_record


def _kills(host, tmp_path, chosen):
    """Kill a change at calls that it makes, and let the next run finish it, or undo it. Returns what was wrong with it."""
    before, after = pillar(THREE, kubernetes=True), pillar(TWO, slurm={"path": "/etc/slurm/gpus.conf"}, kubernetes=True)
    copy, found, old = consumers.copier(tmp_path), [], everything(host)
    trial = copy(host)
    tried = stages.points(trial, CALLS, lambda: converge(trial, after))
    new, there = everything(trial), text_of(trial, "/etc/slurm/gpus.conf")
    for call, number in tried[chosen]:
        for when in ("before", "after"):
            one = copy(host)
            one.add_fault({"call": call, "nth": number, "kill": when})
            assert in_child(functools.partial(converge, one, after)) == signal.SIGKILL
            one.clear_faults()
            other = copy(one)
            ended = hosts.closed(one)
            assert converge(one, after).ok and converge(other, before).ok
            if everything(one) != new or text_of(one, "/etc/slurm/gpus.conf") != there or not hosts.closed(one):
                found.append((call, number, when, "was not finished", everything(one)))
            if (everything(other) != old and not ended) or text_of(other) != telling.as_it_is(other):
                found.append((call, number, when, "was not undone", everything(other)))
            if text_of(other, "/etc/slurm/gpus.conf"):
                found.append((call, number, when, "left a file"))
            with Engine(hosts.config(one)) as engine:
                if slurm.control.node(engine.host, "n1").takes_none:
                    found.append((call, number, when, "left the node drained"))
    return tried, found


@pytest.mark.slow
def test_a_kill_at_each_step_is_finished_or_undone(host, tmp_path):
    tried, found = _kills(host, tmp_path, slice(None))
    assert len(tried) > 20 and found == []


def test_a_kill_when_the_file_was_written_is_finished_or_undone(bare, tmp_path):
    before, after = pillar(THREE), pillar(TWO, slurm={"path": "/etc/slurm/gpus.conf"})
    assert converge(bare, before).ok
    old, copy = everything(bare), consumers.copier(tmp_path)
    bare.add_fault({"call": "store_write", "nth": writes(copy(bare), after, "/etc/slurm/gpus.conf"), "kill": "after"})
    assert in_child(functools.partial(converge, bare, after)) == signal.SIGKILL
    bare.clear_faults()
    other = copy(bare)
    assert text_of(bare, "/etc/slurm/gpus.conf") and CONF in telling.on_record_of(bare)["files"]
    assert converge(bare, after).ok and not text_of(bare) and asked_of_slurm(bare)[-2:] == ["reconfigure", "State=RESUME"]
    assert converge(other, before).ok and everything(other) == old and not text_of(other, "/etc/slurm/gpus.conf")
