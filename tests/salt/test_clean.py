"""
A host is given up by hand and as a state, through Salt's own loaders.
"""

import re

import pytest

from tests.support import pages
from tests.support import pillars
from tests.support.cleaned import found
from tests.support.cleaned import records
from tests.support.cleaned import with_boot

NOTHING = "Nothing of ours is here."


@pytest.fixture
def sliced(minion):
    """A minion whose host was sliced and handed out; and how it was found."""
    on = minion("dgx-h100", pillars.example("consumers"))
    before = found(on.host)
    assert on.call("gpu_slicing.apply")["result"]
    with_boot(on.host)
    return on, before


def test_the_state_gives_a_host_up_says_before_what_it_will_do_and_then_changes_nothing(sliced):
    on, before = sliced
    now, names = found(on.host), records(on.host)
    [planned] = on.apply("gpu_slicing.clean", test=True)
    assert planned.result is None and (found(on.host), records(on.host)) == (now, names)
    [done] = on.apply("gpu_slicing.clean")
    assert done.result is True and planned.changes.keys() == done.changes.keys()
    assert done.changes["gpu-slicing.service"] == "enabled -> absent"
    assert found(on.host) == before and records(on.host) == []
    assert any("the next highstate slices again" in line for line in done.warnings)
    for test in (False, True):
        [again] = on.apply("gpu_slicing.clean", test=test)
        assert (again.result, again.changes, again.comment) == (True, {}, NOTHING)
    # What the document shows is what is told.
    shown = pages.printed("state.apply gpu_slicing.clean")
    comment = done.comment.replace(str(on.state_dir), "/var/lib/gpu-slicing")
    assert [_without_time(line) for line in shown] == [_without_time(line) for line in comment.splitlines()]


def _without_time(line):
    """Of estimates it is learned from the change before how long its steps took here."""
    return re.sub(r"[0-9.]+ s\b", "some time", line)


def test_no_stage_includes_it(minion):
    shown = minion("dgx-h100", pillars.example("consumers")).show("gpu_slicing")
    assert not [chunk for chunk in shown if chunk["fun"] == "cleaned"]


def test_by_hand_and_generation_0(minion):
    on = minion("l4-pair")
    before = found(on.host)
    assert on.call("gpu_slicing.clean") == {"result": True, "changes": {}, "comment": NOTHING}
    assert on.call("gpu_slicing.apply", pillars.example("time_slicing"))["result"]
    assert "result" not in on.call("gpu_slicing.rollback", 0, test=True)
    assert on.call("gpu_slicing.rollback", 0)["result"] and found(on.host) == before and records(on.host)
    assert on.call("gpu_slicing.clean")["result"] and records(on.host) == []


def test_a_stranger_among_the_arguments_does_nothing(minion):
    answer = minion("l4-pair").state("gpu_slicing.cleaned", forse=True)
    assert answer.result is False and "forse" in answer.comment
