"""
Containers of users, whose own managers run them: they start anew with what they have, as those of root do, when a change is made,
fails or is killed; and nobody is asked who is not there.
"""


import pytest

from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.techniques.consumers import views
from tests.support import consumers
from tests.support.consumers import FIRST
from tests.support.consumers import astray
from tests.support.consumers import pillar
from tests.support.consumers import points
from tests.support.consumers import start_counts
from tests.support.consumers import summary
from tests.support.consumers import why
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.stages import counted
from tests.support.stages import counters

PROFILES = ["1g.10gb"] * 4
HERS, OTHER = "gpu-slicing-hers.service of uid 1000", "gpu-slicing-other.service of uid 1000"
JOB = "train.service of uid 1000"
FILES = {"/etc/passwd": consumers.PASSWD, "/var/lib/systemd/linger/ada": ""}
#: A user's container beside one of root's, and one that stays on another GPU.
TWO = {
    "hers": {"kind": "container", "image": "localhost/hers:1", "user": "ada", "slice": {"gpu": FIRST}},
    "other": {"kind": "container", "image": "localhost/other:1", "user": "ada", "slice": {"gpu": consumers.SECOND}},
    "web": consumers.EACH["web"],
}
BEFORE = pillar(TWO, PROFILES)
#: The first GPU is cut anew; one container goes, and another one comes.
CUT = pillar(TWO, PROFILES, rules=[(FIRST, ["7g.80gb"])], on_failure="host")
LEFT = {"hers": TWO["hers"], "more": {**TWO["hers"], "image": "localhost/more:1"}, "web": TWO["web"]}
AFTER = pillar(LEFT, PROFILES, rules=[(FIRST, ["3g.40gb", "3g.40gb"])], on_failure="host")
CALLS = ("run", "store_write", "store_remove")


def lingering(simulated, **more):
    """Two GPUs and a user who lingers."""
    return consumers.machine(simulated, **{"files": FILES, **more})


@pytest.fixture
def host(simulated):
    """The same, cut and handed out."""
    made = lingering(simulated)
    assert apply(made, BEFORE).ok and astray(made) == []
    return made


def steps(plan):
    """The steps by which consumers are told, in words."""
    return [step.words for step in plan.steps if step.technique == "consumers" and not step.words.startswith(("write", "note"))]


def restarted(host, before):
    """Units that were started since."""
    return {unit for unit, count in start_counts(host).items() if count != before.get(unit, 0)}


# -- a change ----------------------------------------------------------------------------------------------------------
def test_a_users_container_is_planned_and_started_by_his_own_manager(simulated):
    made = lingering(simulated)
    assert steps(consumers.planned(made, BEFORE)) == [
        "have systemd read its units anew",
        "have the systemd of uid 1000 read its units anew",
        f"restart {HERS}, with hers's slice",
        f"restart {OTHER}, with other's slice",
        f"restart {consumers.WEB}, with web's slice",
    ]
    assert apply(made, BEFORE).ok and astray(made) == []
    assert start_counts(made) == {HERS: 1, OTHER: 1, consumers.WEB: 1}


def test_exactly_the_container_starts_anew_whose_slice_is_another_one(host):
    before = start_counts(host)
    assert apply(host, CUT).ok and astray(host) == []
    assert HERS in restarted(host, before) and OTHER not in restarted(host, before)


def test_one_that_gets_nothing_any_more_ends_before_its_unit_goes(host):
    wanted = pillar({"hers": TWO["hers"], "web": TWO["web"]}, PROFILES)
    before = start_counts(host)
    path = "/etc/containers/systemd/users/1000/gpu-slicing-other.container"
    told = [step.words for step in consumers.planned(host, wanted).steps]
    assert told.index(f"stop {OTHER}, which gets no slice any more") < told.index(f"remove {path}")
    assert "have the systemd of uid 1000 read its units anew" in told
    assert apply(host, wanted).ok and astray(host) == []
    assert OTHER not in consumers.running_with(host) and OTHER not in host.state()["generated"]
    assert restarted(host, before) == set()


def test_a_host_on_which_all_is_as_wanted_asks_no_manager(host):
    for fault in counters((*CALLS, "store_append")):
        host.add_fault(fault)
    assert consumers.planned(host, BEFORE).empty and apply(host, BEFORE).ok
    assert counted(host) == {}


def test_a_container_that_holds_what_goes_is_stopped_for_the_change(host):
    [had] = consumers.bindings(host)["hers"]
    part = f"1g.10gb@{had[-1]}"
    host.add_process({"pid": 4711, "command": "train.py", "unit": HERS, "gpu": FIRST, "slice": part})
    wanted = pillar(TWO, PROFILES, rules=[(FIRST, ["7g.80gb"])])
    assert apply(host, wanted).ok and astray(host) == []
    assert start_counts(host)[HERS] == 2


def test_its_unit_is_told(host):
    with Engine(config(host)) as engine:
        assert views.listed(engine.host, engine.handed("consumers"))["hers"]["unit"] == HERS


# -- nobody to be told ---------------------------------------------------------------------------------------------------
WAITS = "is not started: that user's systemd does not run, and reads the file when it starts."


def test_a_user_without_a_manager_is_said_and_has_it_when_that_starts(simulated):
    made = lingering(simulated, files={"/etc/passwd": consumers.PASSWD})
    plan = consumers.planned(made, BEFORE)
    assert not [words for words in steps(plan) if "1000" in words]
    assert f"{HERS} {WAITS}\n{OTHER} {WAITS}" in "\n".join(part.note for part in plan.parts)
    assert apply(made, BEFORE).ok and astray(made) == [] and start_counts(made) == {consumers.WEB: 1}
    assert consumers.planned(made, BEFORE).empty


def test_a_manager_that_was_stopped_leaves_its_socket_and_takes_no_orders(host):
    assert host.run(["systemctl", "stop", "user@1000.service"]).failure == ""
    assert host.exists("/run/user/1000/systemd/private")
    before = start_counts(host)
    assert apply(host, AFTER).ok and astray(host) == [] and not {unit for unit in restarted(host, before) if "1000" in unit}
    assert host.run(["systemctl", "start", "user@1000.service"]).failure == ""
    assert astray(host) == [] and HERS in consumers.running_with(host) and OTHER not in consumers.running_with(host)


def test_who_can_not_tell_whether_a_manager_runs_changes_nothing(host):
    before = consumers.all_of(host)
    host.add_fault({"call": "run", "late": "EIO"})
    assert "systemd does not say whether user@1000.service runs" in " ".join(why(host, CUT))
    host.clear_faults()
    assert consumers.all_of(host) == before and astray(host) == []


def test_one_whose_user_is_gone_is_not_looked_for(host):
    with host.change() as state:
        state["host"]["files"]["/etc/passwd"] = "root:x:0:0::/root:/bin/sh\n"
        state["running"] = {unit: files for unit, files in state["running"].items() if "1000" not in unit}
    wanted = pillar({"web": TWO["web"]}, PROFILES)
    assert not [words for words in steps(consumers.planned(host, wanted)) if "1000" in words and "remove" not in words]
    assert apply(host, wanted).ok and consumers.bindings(host).keys() == {"web"}


# -- adopted -----------------------------------------------------------------------------------------------------------
def test_a_container_of_his_own_is_restarted_only_if_it_runs(simulated):
    unit = "/etc/containers/systemd/users/1000/train.container"
    made = lingering(simulated, files={**FILES, unit: "[Container]\nImage=localhost/train:1\n"})
    adopted = {"train": {"kind": "container", "unit": "train.container", "user": "ada", "slice": "1g.10gb"}}
    assert f"restart {JOB} if it runs, with train's slice" in steps(consumers.planned(made, pillar(adopted, PROFILES)))
    assert apply(made, pillar(adopted, PROFILES)).ok and start_counts(made) == {}
    made.reboot()
    with Engine(config(made)) as engine:
        assert replay.replay(engine)["result"]
    assert apply(made, pillar(adopted, PROFILES)).ok and astray(made) == []
    before = start_counts(made)
    # It has no slice any more, and runs on without.
    with made.change() as state:
        state["generated"], state["running"] = [JOB], {JOB: state.get("running", {}).get(JOB, {})}
    assert apply(made, pillar({}, PROFILES)).ok and restarted(made, before) == {JOB}
    assert f"{unit}.d/50-gpu-slicing.conf" not in "".join(consumers.running_with(made)[JOB])


# -- a boot ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_boot_queues_the_start_where_the_manager_runs_already(host, when):
    host.reboot()
    if when == "after":
        # As it is with the order that we write: it starts when the slices are back.
        host.run(["systemctl", "stop", "user@1000.service"])
    assert HERS not in consumers.running_with(host)
    with Engine(config(host)) as engine:
        answer = replay.replay(engine)
    assert answer["result"], answer
    if when == "after":
        host.run(["systemctl", "start", "user@1000.service"])
    assert astray(host) == [] and {HERS, OTHER} <= set(consumers.running_with(host))


# -- failures ----------------------------------------------------------------------------------------------------------
def test_whatever_of_it_does_not_work_puts_everything_back(host, tmp_path):
    before, old, told = summary(host), start_counts(host), []
    for _, number in points(consumers.copier(tmp_path)(host), AFTER, ["run"]):
        host.add_fault({"call": "run", "nth": number, "late": "EIO"})
        told += why(host, AFTER)
        host.clear_faults()
        assert summary(host) == before and astray(host) == [], told
    assert f"The unit {HERS} could not be started" in " ".join(told)
    assert f"The unit {OTHER} could not be stopped" in " ".join(told)
    assert "As that user, see 'journalctl --user -u gpu-slicing-hers.service'." in " ".join(told)
    assert "in the manager of uid 1000 failed" in " ".join(told)
    assert start_counts(host)[HERS] > old[HERS]


@pytest.mark.slow
@pytest.mark.parametrize("effect", ["error", "late"])
def test_a_change_that_fails_anywhere_leaves_the_old_or_the_new_to_the_top(host, tmp_path, effect):
    found = consumers.faults(host, consumers.copier(tmp_path), AFTER, CALLS, effect)
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_that_is_killed_anywhere_is_finished_or_undone_by_the_next_run(host, tmp_path, when):
    found = consumers.kills(host, consumers.copier(tmp_path), AFTER, BEFORE, CALLS, when)
    assert not found, "\n".join(map(str, found))
