"""
The validation stage tells what the slicing stage of the same run has read, and of that only what can still be true.
"""

import logging

import pytest

from tests.support import pillars

GPU = "0000:1b:00.0"
SHAPE = ["3g.40gb", "1g.10gb"]
ANOTHER_TOOL = {"gpu": GPU, "action": "destroy_gi", "profile": "3g.40gb", "start": 4}


@pytest.fixture
def box(minion):
    """A minion that has what its pillar wants."""
    made = minion("dgx-h100", pillar=pillars.mig(SHAPE), changes={"gpus": [{"model": "h100-80gb", "address": GPU}]})
    assert made.call("gpu_slicing.apply")["result"]
    return made


def destroy_all(box):
    """What another tool does."""
    with box.host.change() as state:
        state["gpus"][GPU]["gis"] = {}


def sessions(box):
    """The NVML sessions that were begun since there is a fault that counts them."""
    return next(fault["seen"] for fault in box.host.state()["faults"] if fault["call"] == "nvmlInit")


def run(box, *states, **more):
    """The results of these states in one run, in their order; each is a function and its arguments."""
    high = {}
    for number, (function, *given) in enumerate(states):
        module, _, name = function.partition(".")
        high[f"stage {number}"] = {module: [name, *given, {"order": number + 1}]}
    return [found.result for found in sorted(box.call("state.high", high, **more), key=lambda found: found.run_num)]


@pytest.mark.parametrize("wanted", [SHAPE, ["7g.80gb"]], ids=["as it is", "changed"])
def test_a_run_validates_by_what_it_has_read(box, wanted):
    """One session where nothing changes; a change begins another under its lock, and the validation none."""
    box.set_pillar(pillars.mig(wanted))
    box.host.add_fault({"call": "nvmlInit", "nth": 10**9, "lie": True})
    assert run(box, ("gpu_slicing.converged",)) == [True]
    alone = sessions(box)
    box.call("gpu_slicing.apply", pillars.mig(SHAPE))
    before = sessions(box)
    assert run(box, ("gpu_slicing.converged",), ("gpu_slicing.validated",)) == [True, True]
    assert sessions(box) - before == alone


def test_what_was_read_by_hand_earlier_validates_no_later_run(box):
    """A minion that forks for no job has one context for all of them, for as long as it runs."""
    assert box.call("gpu_slicing.apply")["result"]
    destroy_all(box)
    assert run(box, ("gpu_slicing.validated",)) == [False]
    assert box.call("gpu_slicing.apply", test=True)["changes"] and box.call("gpu_slicing.apply")["result"]
    assert run(box, ("gpu_slicing.validated",)) == [True]


def test_a_check_by_hand_reads_anew(box):
    assert run(box, ("gpu_slicing.converged",)) == [True]
    destroy_all(box)
    assert box.call("gpu_slicing.check")["result"] is False


@pytest.mark.parametrize(
    "later",
    [("gpu_mig.mode", {"name": GPU}, {"enabled": False}), ("module.run", {"gpu_mig.set_mode": [GPU, False]})],
    ids=["state", "function"],
)
def test_what_was_read_before_another_change_of_the_run_does_not_count(box, later):
    assert run(box, ("gpu_slicing.converged",), later, ("gpu_slicing.validated",)) == [True, True, False]


def test_a_stage_that_could_not_be_begun_leaves_nothing_of_an_earlier_one(box, caplog):
    caplog.set_level(logging.CRITICAL)
    box.host.add_fault({"call": "nvmlInit", "nth": 2, "foreign": [ANOTHER_TOOL], "error": "NVML_ERROR_UNKNOWN"})
    states = [("gpu_slicing.converged",), ("gpu_slicing.converged", {"name": "again"}), ("gpu_slicing.validated",)]
    assert run(box, *states) == [True, False, False]


def test_another_pillar_for_one_run_is_what_is_validated(box):
    wanted = pillars.mig(["7g.80gb"])
    assert run(box, ("gpu_slicing.validated",), pillar=wanted) == [False]
    assert run(box, ("gpu_slicing.converged",), ("gpu_slicing.validated",), pillar=wanted) == [True, True]
    assert run(box, ("gpu_slicing.validated",)) == [False]


def test_a_run_that_tests_validates_nothing_that_would_change(box):
    destroy_all(box)
    assert run(box, ("gpu_slicing.converged",), ("gpu_slicing.validated",), test=True) == [None, None]
    assert run(box, ("gpu_slicing.converged",), ("gpu_slicing.validated",)) == [True, True]
