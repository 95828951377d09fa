"""A highstate whose change waits: the states, what they tell, and who comes back to it."""

import json

import pytest

from tests.support import consumers
from tests.support import pages
from tests.support import pillars
from tests.support.hosts import shapes

FIRST = "0000:1b:00.0"
WANTED = pillars.mig({"3g.40gb": 2}, when="idle")
BUSY = {"pid": 4711, "command": "train.py", "gpu": FIRST, "slice": "7g.80gb@0"}


@pytest.fixture
def busy(minion):
    """A DGX H100 with one slice a GPU, of which one is in use; its pillar wants two."""
    made = minion("dgx-h100", pillars.mig(["7g.80gb"]))
    assert all(state.result for state in made.apply("gpu_slicing"))
    made.host.add_process(BUSY)
    made.set_pillar(WANTED)
    return made


def test_the_stages_do_what_can_be_done_and_say_what_waits(busy):
    tested = list(busy.apply("gpu_slicing", test=True))
    assert [state.result for state in tested] == [True, None, None]
    stages = list(busy.apply("gpu_slicing"))
    assert [state.result for state in stages] == [True] * 3
    for stage in stages[1:]:
        assert f"Waits: GPU {FIRST}: The wanted layout needs 7g.80gb at 0 to go, which is in use by pid 4711" in stage.comment
    assert stages[1].full_return["warnings"][0].startswith("Nothing tries again by itself what waits")
    assert shapes(busy.host)[FIRST] == ["7g.80gb"]
    # Nothing is left to do now: no result None, and none that claims all is as wanted.
    again, tested = list(busy.apply("gpu_slicing")), list(busy.apply("gpu_slicing", test=True))
    assert [state.result for state in (*again, *tested)] == [True] * 6 and not any(state.changes for state in again)
    assert "1 GPU waits until idle." in again[1].comment


def test_the_documents_show_what_is_told(busy):
    assert all(state.result for state in busy.apply("gpu_slicing"))
    text = pages.page("usage")
    for line in list(busy.apply("gpu_slicing"))[1].comment.splitlines():
        assert line in text, line
    assert busy.call("gpu_slicing.summary") in text


def test_the_host_does_not_claim_to_be_as_wanted(busy):
    assert all(state.result for state in busy.apply("gpu_slicing"))
    found = busy.call("gpu_slicing.check")
    assert found["result"] is False and list(found["waiting"]) == [FIRST] and found["changes"] == {}
    assert busy.call("gpu_slicing.summary").startswith("1 GPU waits until idle; 8 x NVIDIA H100 80GB HBM3; 15 slices (")
    told = busy.call("gpu_slicing.plan", data=True)["waiting"]
    assert [(each["where"], each["for"]) for each in told] == [(FIRST, "idle")] and json.dumps(told)


def test_what_waits_is_done_when_it_is_idle_and_then_nothing_waits(busy):
    assert all(state.result for state in busy.apply("gpu_slicing"))
    waiting = busy.call("gpu_slicing.waiting")
    assert (waiting["for"], waiting["until"], list(waiting["waiting"])) == ("idle", None, [FIRST])
    assert busy.call("gpu_slicing.resume")["result"] is True and busy.call("gpu_slicing.waiting") == {**waiting}
    busy.host.remove_process(4711)
    assert "result" not in busy.call("gpu_slicing.resume", test=True)
    done = busy.call("gpu_slicing.resume")
    assert done["result"] and list(done["changes"]) == [FIRST]
    assert busy.call("gpu_slicing.waiting") == {} and busy.call("gpu_slicing.check")["result"] is True
    assert busy.call("gpu_slicing.resume")["comment"] == "Nothing waits on this host."


def test_a_wait_is_taken_back(busy):
    assert all(state.result for state in busy.apply("gpu_slicing"))
    assert busy.call("gpu_slicing.forget_waiting")["changes"][FIRST]["new"] == "waits no more"
    assert busy.call("gpu_slicing.waiting") == {}


def test_a_pillar_that_was_switched_off_wants_nothing_any_more(busy):
    assert all(state.result for state in busy.apply("gpu_slicing"))
    busy.set_pillar({"containers_gpu_slicing": {"enabled": False}})
    busy.host.remove_process(4711)
    assert "it waits no more" in busy.call("gpu_slicing.resume")["comment"]
    assert shapes(busy.host)[FIRST] == ["7g.80gb"] and busy.call("gpu_slicing.waiting") == {}


def test_by_hand_it_is_done_now(busy):
    busy.host.remove_process(4711)
    closed = {"when": "window", "maintenance_window": {"hours": "00:00-00:01", "days": ["mon"]}}
    busy.set_pillar(pillars.mig({"3g.40gb": 2}, **closed))
    assert busy.call("gpu_mig.apply_layout", FIRST, {"3g.40gb": 2})["result"] is True


def test_the_stage_of_containers_hands_out_what_is_there(minion):
    described = {"gpus": consumers.boards(1), "tools": consumers.TOOLS}
    first = consumers.pillar({"old": {"slice": "7g.80gb"}}, ["7g.80gb"])
    made = minion("dgx-h100", first, described)
    assert all(state.result for state in made.apply("gpu_slicing"))
    made.host.add_process(BUSY)
    made.set_pillar(consumers.pillar({"new": {"slice": "3g.40gb"}}, ["3g.40gb"] * 2, when="idle"))
    stages = list(made.apply("gpu_slicing"))
    assert [state.result for state in stages] == [True] * 4, [state.comment for state in stages]
    assert "Who has slices keeps them until then." in stages[1].comment
    assert list(made.call("gpu_consumer.list")) == ["old"]
    made.host.remove_process(4711)
    assert made.call("gpu_slicing.resume")["result"] is True and list(made.call("gpu_consumer.list")) == ["new"]
