"""
Units that run with slices, when a change of these fails or is killed: old or new to the top, and nobody runs with what he does
not have.
"""

import functools
import signal

import pytest

from gpuslice import front
from gpuslice.engine import Engine
from gpuslice.sim import toolkit
from gpuslice.sim.host import SimulatedHost
from tests.support import consumers
from tests.support.consumers import EACH
from tests.support.consumers import FIRST
from tests.support.consumers import astray
from tests.support.consumers import pillar
from tests.support.consumers import summary
from tests.support.consumers import why
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config

PROFILES = ["1g.10gb"] * 4
INFER = {"kind": "service", "unit": "infer.service", "slice": "1g.10gb"}
#: A container goes, another one comes; a service goes, another one moves, as all do who have something of the first GPU.
BEFORE = pillar({**EACH, "infer": INFER}, PROFILES)
LEFT = {name: each for name, each in EACH.items() if name != "web"}
NEW = {**LEFT, "new": {"kind": "container", "image": "localhost/new:1", "slice": "1g.10gb"}}
AFTER = pillar(NEW, PROFILES, rules=[(FIRST, ["7g.80gb"])], on_failure="host")
#: The same without a change of a GPU: one limit is another one, so that a unit keeps its slice and starts anew.
LIMITED = {**NEW, "trainer": {**EACH["trainer"], "resource_limits": {"memory_gb": 16}}}
CALLS = ("run", "store_write", "store_remove")
LIMIT = pillar(LIMITED, PROFILES, on_failure="host")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Two GPUs, cut and handed out. Not to be changed."""
    place = tmp_path_factory.mktemp("original")

    def simulated(name, **changes):
        from tests.conftest import described

        return SimulatedHost(str(described(place, name, changes)), str(place / "state"))

    made = consumers.machine(simulated)
    assert apply(made, BEFORE).ok and astray(made) == []
    return made


@pytest.fixture
def copy(tmp_path):
    """``copy(host)``: one of the test's own that is as another one is now."""
    return consumers.copier(tmp_path)


WAYS = [
    pytest.param(AFTER, "error", CALLS, id="cut-error"),
    pytest.param(AFTER, "late", CALLS, id="cut-late"),
    pytest.param(LIMIT, "error", (*CALLS, "store_append"), id="limit-error"),
    pytest.param(LIMIT, "late", CALLS, id="limit-late"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("wanted", "effect", "calls"), WAYS)
def test_a_change_that_fails_leaves_the_old_or_the_new_to_the_top(original, copy, wanted, effect, calls):
    found = consumers.faults(original, copy, wanted, calls, effect)
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_change_that_is_killed_is_finished_or_undone_by_the_next_run(original, copy, when):
    found = consumers.kills(original, copy, AFTER, BEFORE, CALLS, when)
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("how", ["undo", "finish"])
@pytest.mark.parametrize("number", [1, 2, 4, 5])
def test_a_killed_change_is_dealt_with_by_hand(original, copy, how, number):
    old, trial = summary(original), copy(original)
    assert apply(trial, AFTER).ok
    host = copy(original)
    host.add_fault({"call": "run", "nth": number, "kill": "after"})
    assert in_child(functools.partial(apply, host, AFTER)) == signal.SIGKILL
    host.clear_faults()
    with Engine(config(host)) as engine:
        assert front.recovered(engine, how, False, {})["result"]
    assert astray(host) == [] and summary(host) == (old if how == "undo" else summary(trial))


@pytest.mark.parametrize("call", ["store_write", "run"])
@pytest.mark.parametrize("number", range(1, 6))
def test_an_undo_that_is_killed_is_ended_by_the_next_run(original, copy, call, number):
    """The first kill comes when almost all is done, the second while that is undone."""
    host, old = copy(original), summary(original)
    host.add_fault({"call": "run", "nth": 5, "kill": "after"})
    assert in_child(functools.partial(apply, host, AFTER)) == signal.SIGKILL
    host.clear_faults()
    host.add_fault({"call": call, "nth": number, "kill": "after"})
    ended = in_child(functools.partial(apply, host, BEFORE))
    assert ended == signal.SIGKILL or call == "run"
    host.clear_faults()
    assert why(host, BEFORE) == [] and astray(host) == [] and summary(host) == old


def test_on_a_full_disk_nothing_changes(original, copy):
    host = copy(original)
    for call in ("store_write", "store_append"):
        host.add_fault({"call": call, "times": 0, "error": "ENOSPC"})
    assert "No space left" in " ".join(why(host, AFTER))
    host.clear_faults()
    assert summary(host) == summary(original) and astray(host) == []


@pytest.mark.parametrize("number", range(3, 17))
def test_a_disk_that_is_full_from_some_write_on_is_told_and_mended_by_the_next_run(original, copy, number):
    host = copy(original)
    host.add_fault({"call": "store_write", "nth": number, "times": 0, "error": "ENOSPC"})
    told = " ".join(why(host, AFTER))
    assert "No space left" in told if told else astray(host) == []
    host.clear_faults()
    assert why(host, BEFORE) == [] and astray(host) == []


def test_a_unit_that_was_not_touched_is_not_restarted_by_an_undo(original, copy):
    host = copy(original)
    host.add_fault({"call": "run", "nth": 2, "error": "EIO"})
    before = consumers.start_counts(host)
    assert "daemon-reload" in " ".join(why(host, pillar(LIMITED, PROFILES)))
    host.clear_faults()
    # The container was stopped before, and runs again; the service never knew.
    assert consumers.start_counts(host) == {**before, consumers.WEB: before[consumers.WEB] + 1} and astray(host) == []


def test_the_vendors_own_names_are_written_anew_by_the_run_that_goes_on(simulated):
    described = {"tools": [*consumers.TOOLS, "nvidia-ctk"], "units": [toolkit.REFRESH, consumers.TRAINER, "infer.service"]}
    host = consumers.machine(simulated, **described)
    assert apply(host, BEFORE).ok and consumers.start_counts(host)[toolkit.REFRESH] == 1
    assert consumers.planned(host, AFTER).steps[-2].action == "refresh_vendor"
    # The last program of the change is the vendor's.
    host.add_fault({"call": "run", "nth": 6, "kill": "before"})
    assert in_child(functools.partial(apply, host, AFTER)) == signal.SIGKILL
    assert consumers.start_counts(host)[toolkit.REFRESH] == 1
    host.clear_faults()
    assert why(host, AFTER) == [] and astray(host) == [] and consumers.start_counts(host)[toolkit.REFRESH] == 2


def test_a_container_of_a_user_that_exists_is_adopted_where_his_podman_looks(simulated):
    host = consumers.machine(simulated)
    wanted = {"train": {"kind": "container", "unit": "train.container", "user": "ada", "slice": "1g.10gb"}}
    assert apply(host, pillar(wanted)).ok
    folder = "/etc/containers/systemd/users/1000"
    assert "AddDevice=gpu-slicing/consumer=train" in host.read(f"{folder}/train.container.d/50-gpu-slicing.conf")
    assert consumers.planned(host, pillar(wanted)).empty
