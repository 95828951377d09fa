"""The record of what waits, and the job of the minion that comes back to it."""

from functools import partial
from types import SimpleNamespace

import pytest
from salt.modules import schedule

from gpuslice import cleaning
from gpuslice import errors
from gpuslice import front
from gpuslice import waits
from gpuslice.engine import Engine
from gpuslice.plan import Plan
from gpuslice.records.waits import Waits
from tests.support import hosts
from tests.support import pillars

GPU = "0000:1b:00.0"
WANTED = pillars.mig({"1g.10gb": 7}, when="idle")
WAITING = Plan(waiting=((GPU, "idle", f"GPU {GPU}: It is in use."),))


class Minion:
    """The functions of Salt's schedule with the answers of a minion that runs; what it was asked is in ``jobs`` and ``asked``."""

    def __init__(self, place, runs=True):
        self.jobs, self.asked = {}, []
        self.opts = {"sock_dir": str(place), "schedule": self.jobs}
        if runs:
            (place / "minion_event_0123456789_pub.ipc").touch()
        self.salt = {"schedule.add": self._add, "schedule.delete": self._delete}

    def _add(self, name, **kwargs):
        self.asked.append("add")
        if name in self.jobs:
            return {"result": False, "comment": f"Job {name} already exists in schedule."}
        # Salt's own function says whether it can be a job.
        self.jobs[name] = schedule.build_schedule_item(name, **kwargs)
        return {"result": True, "comment": f"Added job: {name} to schedule."}

    def _delete(self, name, **_):
        self.asked.append("delete")
        self.jobs.pop(name, None)
        return {"result": True, "comment": ""}


@pytest.fixture
def engine(simulated):
    with Engine(hosts.config(simulated("dgx-h100"))) as made:
        yield made


@pytest.fixture
def minion(tmp_path):
    return Minion(tmp_path)


def settled(engine, minion, plan, own=True, ok=True, pillar=WANTED):
    """What a run is told that came to this plan."""
    answer = {"result": ok, "changes": {}, "comment": ""}
    result = SimpleNamespace(plan=plan, ok=ok)
    return waits.settled(answer, result, engine, pillar, own, minion.salt, minion.opts).get("warnings", [])


def test_a_job_is_made_once_and_ends_when_nothing_waits(engine, minion):
    [told] = settled(engine, minion, WAITING)
    assert "every 5 minutes by the job gpu_slicing_waiting of this minion" in told
    [job] = minion.jobs.values()
    assert job["function"] == "gpu_slicing.resume" and job["minutes"] == 5 and job["run_on_start"] is False
    since = waits.listed(engine)["since"]
    assert settled(engine, minion, WAITING) == [told] and waits.listed(engine)["since"] == since
    assert settled(engine, minion, Plan()) == [] and not minion.jobs and waits.listed(engine) == {}
    assert settled(engine, minion, Plan()) == [] and minion.asked == ["add", "add", "delete"]


def test_where_no_minion_runs_nobody_is_asked_and_it_is_said(engine, tmp_path):
    minion = Minion(tmp_path, runs=False)
    [told] = settled(engine, minion, WAITING)
    assert told.startswith("Nothing tries again by itself what waits") and "salt-call gpu_slicing.resume" in told
    assert waits.listed(engine)["again"].startswith("by nobody")
    settled(engine, minion, Plan())
    assert minion.asked == []


def test_a_schedule_that_refuses_is_told(engine, minion):
    def refuses(*_, **__):
        raise OSError("no bus")

    minion.salt["schedule.add"] = refuses
    assert settled(engine, minion, WAITING)[0].startswith("Nothing tries again by itself")


def test_a_pillar_given_by_hand_is_not_tried_again(engine, minion):
    assert settled(engine, minion, WAITING, own=False) == [
        "What waits is not tried again: it was asked for with a pillar given by hand. Ask again when its time has come."
    ]
    assert not minion.asked and waits.listed(engine) == {}


def test_what_failed_waits_no_more_unless_somebody_came_in_between(engine, minion):
    settled(engine, minion, WAITING)
    assert settled(engine, minion, Plan(), ok=False) == ["What waited is not tried again by itself, since it failed."]
    assert not minion.jobs
    assert hosts.apply(engine.host, pillars.mig(["7g.80gb"])).ok
    engine.host.add_process({"pid": 4711, "command": "train.py", "gpu": GPU, "slice": "7g.80gb@0"})
    settled(engine, minion, Plan(), ok=False)
    assert minion.jobs and list(waits.listed(engine)["waiting"]) == [GPU]


def test_a_job_without_anything_to_do_ends_itself(engine, minion):
    minion.jobs[waits.JOB] = {}
    assert waits.why_not_yet(engine, True, minion.salt, minion.opts)["comment"] == "Nothing waits on this host." and minion.jobs
    assert waits.why_not_yet(engine, False, minion.salt, minion.opts)["result"] is True and not minion.jobs


def test_another_pillar_ends_the_wait_and_does_nothing(engine, minion):
    settled(engine, minion, WAITING)
    assert waits.why_no_more(engine, WANTED, False, minion.salt, minion.opts) is None
    other = pillars.mig({"1g.10gb": 6}, when="idle")
    for test in (True, False):
        told = waits.why_no_more(engine, other, test, minion.salt, minion.opts)
        assert told["comment"].startswith("The pillar is another one than when its change began to wait: nothing was done")
        assert bool(minion.jobs) is test
    assert waits.listed(engine) == {}


def test_a_pillar_that_can_t_be_made_ends_no_wait(engine, minion):
    settled(engine, minion, WAITING)
    with pytest.raises(errors.PolicyError, match="could not be made"):
        waits.why_no_more(engine, {"_errors": ["x"]}, False, minion.salt, minion.opts)
    assert minion.jobs


def test_before_the_window_nothing_is_read(engine, minion):
    settled(engine, minion, WAITING)
    record = Waits(engine.host)
    record.write({**record.read(), "until": engine.host.now() + 1000})
    told = waits.why_not_yet(engine, False, minion.salt, minion.opts)
    assert told["comment"] == f"It is not yet time:\nWaits: GPU {GPU}: It is in use."
    both = [[gpu, f"GPU {gpu}: It is in use."] for gpu in (GPU, "0000:43:00.0")]
    record.write({**record.read(), "what": both})
    told = waits.why_not_yet(engine, False, minion.salt, minion.opts)
    assert told["comment"] == "It is not yet time:\nWaits: 2 x GPU (0000:1b:00.0, 43): It is in use."


def test_a_moment_that_a_wrong_clock_told_is_not_waited_for(engine, minion):
    year = 365 * 86_400
    settled(engine, minion, WAITING)
    engine.host.set_clock(year)
    settled(engine, minion, WAITING)
    record = Waits(engine.host)
    record.write({**record.read(), "until": engine.host.now() + 1000})
    assert waits.why_not_yet(engine, False, minion.salt, minion.opts)
    engine.host.set_clock(-year)
    assert waits.why_not_yet(engine, False, minion.salt, minion.opts) is None
    engine.host.set_clock(-year)
    settled(engine, minion, WAITING)
    assert record.read()["since"] <= engine.host.now()


def cleaned(engine, minion, test, force):
    """``gpu_slicing.clean`` of this minion."""
    gives_up = partial(front.give_up_waiting, engine, minion.salt, minion.opts)
    return cleaning.clean(engine, WANTED, test, force, gives_up=gives_up)


def rolled_back(engine, minion, generation, test):
    """``gpu_slicing.rollback`` of this minion."""
    if generation == 0:
        answer = cleaning.rolled_back(engine, {}, test)
    else:
        answer = front.run(engine, engine.rollback_targets(generation), test, {})
    return front.without_waits(engine, answer, test, minion.salt, minion.opts)


@pytest.mark.parametrize("force", [False, True])
def test_nothing_comes_back_to_a_host_that_is_given_up_also_where_that_takes_several_attempts(engine, minion, force):
    assert hosts.apply(engine.host, pillars.mig(["7g.80gb"])).ok
    engine.host.add_process({"pid": 4711, "command": "train.py", "gpu": GPU, "slice": "7g.80gb@0"})
    settled(engine, minion, WAITING)
    tested = cleaned(engine, minion, True, force)
    assert minion.jobs and waits.listed(engine) and tested["changes"]
    done = cleaned(engine, minion, False, force)
    assert done["result"] is force and not minion.jobs and waits.listed(engine) == {}


def test_a_host_of_which_nothing_but_a_wait_is_on_record_is_given_up_too(engine, minion):
    settled(engine, minion, WAITING)
    tested = cleaned(engine, minion, True, False)
    done = cleaned(engine, minion, False, False)
    assert done["result"] and done["changes"] == tested["changes"] and not minion.jobs
    assert "1 record in " in done["comment"]


def test_a_rollback_is_not_undone_by_what_waits(engine, minion):
    for profile in ("7g.80gb", "3g.40gb"):
        assert hosts.apply(engine.host, pillars.mig([profile])).ok
    settled(engine, minion, WAITING)
    assert rolled_back(engine, minion, None, True)["changes"] and minion.jobs
    done = rolled_back(engine, minion, None, False)
    assert done["result"] and done["warnings"] == ["What waited is forgotten, since an earlier layout was asked for."]
    assert not minion.jobs and waits.listed(engine) == {}
    assert "warnings" not in rolled_back(engine, minion, 0, False)


def test_it_can_be_taken_back(engine, minion):
    settled(engine, minion, WAITING)
    assert "result" not in waits.forgotten(engine, True, minion.salt, minion.opts) and minion.jobs
    done = waits.forgotten(engine, False, minion.salt, minion.opts)
    assert done["result"] and list(done["changes"]) == [GPU] and not minion.jobs and waits.listed(engine) == {}
    assert waits.forgotten(engine, False, minion.salt, minion.opts)["comment"] == "Nothing waits on this host."


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1, "of": "never"}'])
def test_a_damaged_record_is_named_and_can_be_taken_back(engine, minion, text):
    record = Waits(engine.host)
    engine.host.store_write(record.path, text)
    with pytest.raises(errors.StateDirUnusable, match="can't be told"):
        waits.listed(engine)
    assert waits.forgotten(engine, False, minion.salt, minion.opts)["result"] and waits.listed(engine) == {}


def test_what_can_t_be_noted_is_a_warning(engine, minion):
    engine.host.add_fault({"call": "store_write", "error": "ENOSPC", "times": 0})
    assert settled(engine, minion, WAITING)[0].startswith("What waits could not be noted: ")
