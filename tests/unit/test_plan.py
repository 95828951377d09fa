"""Plans as data: both ways through JSON, and as a person reads them."""

import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.plan import SHAPE
from gpuslice.plan import Part
from gpuslice.plan import Plan
from gpuslice.plan import Step

FIRST, SECOND = "0000:07:00.0", "0000:0f:00.0"


def step(words="create GPU instance 1g.5gb at 0", gpu=FIRST, seconds=1.0, phase=SHAPE, disrupts=()):
    action = {PREPARE: "set_mode", RESET: "reset", SHAPE: "create_gi"}[phase]
    return Step(gpu, "mig", action, {"profile": "1g.5gb", "start": 0}, words, "destroy it", disrupts, (), seconds, phase)


def gpu_plan(*steps, gpu=FIRST, **more):
    return Part(gpu, "mig", "A board", tuple(steps), **more)


TEXT = st.text(max_size=12)
WORDS = st.lists(TEXT, max_size=3).map(tuple)
# What JSON can carry and gives back as it was.
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
MAPPING = st.dictionaries(TEXT, PLAIN, max_size=3)
STEPS = st.builds(
    Step,
    gpu=st.sampled_from([FIRST, SECOND]),
    technique=TEXT,
    action=TEXT,
    args=MAPPING,
    words=TEXT,
    undo=TEXT,
    disrupts=WORDS,
    needs=WORDS,
    seconds=st.floats(0, 100),
    phase=st.sampled_from([PREPARE, RESET, SHAPE]),
)
GPU_PLANS = st.builds(
    Part,
    gpu=st.sampled_from([FIRST, SECOND]),
    technique=TEXT,
    model=TEXT,
    steps=st.lists(STEPS, max_size=3).map(tuple),
    before=MAPPING,
    after=MAPPING,
    old=MAPPING,
    new=MAPPING,
    keeps=WORDS,
    destroys=WORDS,
    creates=WORDS,
    drawing=WORDS,
    stops=WORDS,
    unloads=WORDS,
    waits=st.sampled_from(["", "reboot"]),
    note=TEXT,
)
PLANS = st.builds(
    Plan,
    gpus=st.lists(GPU_PLANS, max_size=3).map(tuple),
    untouched=WORDS,
    blocked=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
)


@given(PLANS)
def test_a_plan_survives_json(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@given(STEPS)
def test_a_step_survives_json(made):
    data = json.loads(json.dumps(Plan((gpu_plan(made),)).as_dict()))
    assert Step.from_dict(data["gpus"][0]["steps"][0]) == made


@given(PLANS)
def test_what_is_told_of_a_plan_agrees_with_its_steps(plan):
    assert plan.empty == (not plan.steps)
    assert set(plan.changes()) == {gpu.gpu for gpu in plan.changing}
    assert len(plan.steps) == sum(len(gpu.steps) for gpu in plan.parts)
    assert plan.text().split("\n")[-1] == plan.summary()
    # Nothing can take longer than doing everything one after the other, or less than its longest GPU.
    assert max((gpu.seconds for gpu in plan.parts), default=0) <= plan.seconds + 1e-6
    assert plan.seconds <= sum(gpu.seconds for gpu in plan.parts) + 1e-6


def test_a_plan_can_not_be_changed_after_it_was_shown():
    with pytest.raises(FrozenInstanceError):
        gpu_plan(step()).steps = ()


def test_gpus_go_side_by_side_and_resets_one_after_the_other():
    shaping = [gpu_plan(step(seconds=2.0), step(seconds=1.0)), gpu_plan(step(gpu=SECOND, seconds=2.5), gpu=SECOND)]
    assert Plan(tuple(shaping)).seconds == 3.0
    resets = [gpu_plan(step(gpu=gpu, seconds=8.0, phase=RESET), step(gpu=gpu, seconds=1.0), gpu=gpu) for gpu in (FIRST, SECOND)]
    assert Plan(tuple(resets)).seconds == 17.0
    assert Plan().seconds == 0


def test_a_host_that_is_right_has_nothing_to_do():
    plan = Plan((gpu_plan(),), ("0000:3b:00.0 T4: left alone, strategy none",))
    assert plan.empty and plan.changes() == {}
    assert plan.summary() == "Nothing to do."
    assert plan.text().split("\n") == [
        f"{FIRST} A board (mig): already as wanted",
        "0000:3b:00.0 T4: left alone, strategy none",
        "Nothing to do.",
    ]


def test_a_plan_that_waits_names_who_waits_for_what():
    plan = Plan((gpu_plan(waits="reboot", note="MIG mode comes at the next reboot"),))
    assert plan.summary() == f"Nothing to do; waits for a reboot: {FIRST}."
    assert "MIG mode comes at the next reboot" in plan.text()


def test_the_summary_counts_slices_resets_and_mode_changes():
    mode = step("enable MIG mode", seconds=1.0, phase=PREPARE)
    reset = step("reset the GPU", seconds=8.0, phase=RESET)
    plan = Plan((gpu_plan(mode, reset, step(), keeps=("a", "b"), destroys=("c",), creates=("d", "e", "f")),))
    assert plan.summary() == (
        "1 GPU to change: keeps 2 slices, destroys 1, creates 3, changes a mode on 1 GPU, resets 1 GPU; about 10.0 s."
    )
    assert Plan((gpu_plan(step()),)).summary() == "1 GPU to change: keeps 0 slices, destroys 0, creates 0, no reset; about 1.0 s."


def test_the_text_shows_slots_before_and_after_and_each_step():
    drawing = ("[ - | - ]", "[+1g.5gb| - ]")
    plan = Plan((gpu_plan(step("first thing"), step("second thing"), creates=("1g.5gb at 0",), drawing=drawing),))
    lines = plan.text().split("\n")
    assert lines[0] == f"{FIRST} A board (mig): keeps 0, destroys 0, creates 1, about 2.0 s"
    assert lines[1:3] == ["  now    [ - | - ]", "  after  [+1g.5gb| - ]"]
    assert lines[3:5] == ["  1. first thing", "  2. second thing"]
    assert "first thing" not in plan.text(steps=False)


def test_the_text_tells_what_stops_and_what_is_left_as_it_is():
    plan = Plan(
        (gpu_plan(step(), stops=("dcgm.service",), unloads=("nvidia_drm",)),),
        blocked=((SECOND, "It is in use by pid 4711."),),
    )
    assert plan.stops == ["dcgm.service"] and plan.unloads == ["nvidia_drm"]
    assert "  unit dcgm.service is stopped for it and started again afterwards" in plan.text().split("\n")
    assert "  kernel module nvidia_drm is stopped for it and started again afterwards" in plan.text().split("\n")
    assert "It is in use by pid 4711." in plan.text()


def test_a_host_where_all_is_blocked_is_not_called_right():
    plan = Plan(blocked=((FIRST, "in use"), (SECOND, "in use")))
    assert plan.summary() == "2 GPUs can't be changed now."


def test_what_a_gpu_that_does_not_change_would_stop_is_not_stopped():
    plan = Plan((gpu_plan(stops=("a.service",)), gpu_plan(step(gpu=SECOND), gpu=SECOND, stops=("b.service",))))
    assert plan.stops == ["b.service"]


def test_changes_are_old_and_new_of_the_gpus_that_change():
    old, new = {"instances": []}, {"instances": ["1g.5gb@0"]}
    plan = Plan((gpu_plan(step(), old=old, new=new), gpu_plan(gpu=SECOND, old=old, new=old)))
    assert plan.changes() == {FIRST: {"old": old, "new": new}}
