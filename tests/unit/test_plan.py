"""Keys and plans as data: both ways through text and JSON, and as a person reads them."""

import json
from dataclasses import FrozenInstanceError
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import kinds
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.plan import CARVE
from gpuslice.plan import EFFECTS
from gpuslice.plan import NO
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.plan import Part
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.plan import merge

FIRST, SECOND, THIRD = "0000:07:00.0", "0000:0f:00.0", "0000:47:00.0"


def step(words="create GPU instance 1g.5gb at 0", gpu=FIRST, seconds=1.0, phase=CARVE, disrupts=()):
    action = {PREPARE: "set_mode", RESET: "reset", CARVE: "create_gi"}[phase]
    args, effect = {"profile": "1g.5gb", "start": 0}, {PREPARE: "mode", RESET: "reset", CARVE: "slice"}[phase]
    return Step(gpu, "mig", action, args, words, "destroy it", disrupts, (), seconds, phase, effect)


def part(*steps, gpu=FIRST, technique="mig", **more):
    return Part(Key(gpu, technique), (gpu,), "A board", tuple(steps), **more)


def licence(*steps, gpus=(FIRST, SECOND), **more):
    """The part of what several GPUs have in common."""
    return Part(Key(HOST, "licence"), gpus, "A board", tuple(steps), **more)


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
    phase=st.sampled_from([PREPARE, RESET, CARVE]),
    effect=st.sampled_from(EFFECTS),
)
ADDRESSES = st.lists(st.sampled_from([FIRST, SECOND, THIRD]), min_size=1, max_size=3, unique=True).map(tuple)
KEYS = st.builds(Key, st.sampled_from([FIRST, SECOND, HOST]), st.sampled_from([kind.name for kind in kinds.KINDS]))
PARTS = st.builds(
    Part,
    key=KEYS,
    addresses=ADDRESSES,
    model=TEXT,
    steps=st.lists(STEPS, max_size=3).map(tuple),
    before=MAPPING,
    after=MAPPING,
    old=MAPPING,
    new=MAPPING,
    keeps=WORDS,
    destroys=WORDS,
    creates=WORDS,
    destroys_empty=WORDS,
    creates_empty=WORDS,
    drawing=WORDS,
    stops=WORDS,
    unloads=WORDS,
    waits=st.sampled_from(["", "reboot"]),
    note=TEXT,
    wanted=st.booleans(),
    group=TEXT,
    concerns=WORDS,
    forecast=st.booleans(),
)
PLANS = st.builds(
    Plan,
    parts=st.lists(PARTS, max_size=3).map(tuple),
    untouched=WORDS,
    notes=WORDS,
    blocked=st.lists(st.tuples(TEXT, TEXT), max_size=2).map(tuple),
)


@given(PLANS)
def test_a_plan_survives_json(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@given(STEPS)
def test_a_step_survives_json(made):
    data = json.loads(json.dumps(Plan((part(made),)).as_dict()))
    assert Step.from_dict(data["parts"][0]["steps"][0]) == made


@given(PLANS)
def test_what_is_told_of_a_plan_agrees_with_its_steps(plan):
    assert plan.empty == (not plan.steps)
    assert set(plan.changes()) == {where for each in plan.changing for where in each.shown_under}
    assert len(plan.steps) == sum(len(each.steps) for each in plan.parts)
    assert plan.text().split("\n")[-1] == plan.summary()
    # Nothing can take longer than doing everything one after the other, or less than its longest part.
    assert max((each.seconds for each in plan.parts), default=0) <= plan.seconds + 1e-6
    assert plan.seconds <= sum(each.seconds for each in plan.parts) + 1e-6


@given(KEYS)
def test_a_key_survives_its_text(key):
    assert Key.of(str(key)) == key


@given(st.text(), st.text(st.characters(exclude_characters=":")))
def test_a_text_is_a_key_or_refused(subject, technique):
    if subject and technique:
        assert Key.of(f"{technique}:{subject}") == Key(subject, technique)
    else:
        with pytest.raises(ValueError, match="no key"):
            Key.of(f"{technique}:{subject}")
    if technique:
        with pytest.raises(ValueError, match="no key"):
            Key.of(technique)


def test_keys_read_as_technology_and_subject():
    assert str(Key(FIRST, "mig")) == f"mig:{FIRST}" and str(Key(HOST, "licence")) == "licence:host"
    # What the GPUs of a host have in common has one key, whichever of them is asked.
    assert Key.of_gpu("licence", FIRST) == Key.of_gpu("licence", SECOND) == Key(HOST, "licence")
    assert Key.of_gpu("mig", FIRST) == Key(FIRST, "mig") != Key.of_gpu("vgpu", FIRST)


@given(st.sampled_from([kind for kind in kinds.KINDS if kind.cls]))
def test_only_what_is_of_the_host_has_its_key(kind):
    assert (Key.of_gpu(kind.name, FIRST).subject == HOST) == kind.host_wide


def test_a_plan_can_not_be_changed_after_it_was_shown():
    with pytest.raises(FrozenInstanceError):
        part(step()).steps = ()


def test_gpus_go_side_by_side_and_resets_one_after_the_other():
    shaping = [part(step(seconds=2.0), step(seconds=1.0)), part(step(gpu=SECOND, seconds=2.5), gpu=SECOND)]
    assert Plan(tuple(shaping)).seconds == 3.0
    resets = [part(step(gpu=gpu, seconds=8.0, phase=RESET), step(gpu=gpu, seconds=1.0), gpu=gpu) for gpu in (FIRST, SECOND)]
    assert Plan(tuple(resets)).seconds == 17.0
    assert Plan().seconds == 0


def test_a_host_that_is_right_has_nothing_to_do():
    plan = Plan((part(),), ("0000:3b:00.0 T4: left alone, strategy none",))
    assert plan.empty and plan.changes() == {}
    assert plan.summary() == "Nothing to do."
    assert plan.text().split("\n") == [
        f"{FIRST} A board (mig): already as wanted",
        "0000:3b:00.0 T4: left alone, strategy none",
        "Nothing to do.",
    ]


def test_a_plan_that_waits_names_who_waits_for_what():
    plan = Plan((part(waits="reboot", note="MIG mode comes at the next reboot"),))
    assert plan.summary() == f"Nothing to do; waits for a reboot: {FIRST}."
    assert "MIG mode comes at the next reboot" in plan.text()


def test_the_summary_counts_slices_resets_and_mode_changes():
    mode = step("enable MIG mode", seconds=1.0, phase=PREPARE)
    reset = step("reset the GPU", seconds=8.0, phase=RESET)
    plan = Plan((part(mode, reset, step(), keeps=("a", "b"), destroys=("c",), creates=("d", "e", "f")),))
    assert plan.summary() == (
        "1 GPU to change: keeps 2 slices, destroys 1, creates 3, changes a mode on 1 GPU, resets 1 GPU; about 10.0 s."
    )
    assert Plan((part(step()),)).summary() == "1 GPU to change: keeps 0 slices, destroys 0, creates 0, no reset; about 1.0 s."


def test_what_concerns_no_slice_is_named_and_not_counted():
    limits = {"old": {"power_limit": "700 W"}, "new": {"power_limit": "400 W"}}
    capped = [
        part(replace(step(gpu=gpu), effect=effect), gpu=gpu, technique="power", **limits)
        for gpu, effect in ((FIRST, "setting"), (SECOND, "file"))
    ]
    alone, beside = Plan(tuple(capped)), Plan((part(step(), creates=("d",)), *capped))
    assert alone.summary() == "2 GPUs to change: sets power_limit on 2 GPUs, no reset; about 1.0 s."
    assert f"2 x A board ({FIRST}, 0f), power: each sets power_limit, about 1.0 s" in alone.text()
    counts = "keeps 0 slices, destroys 0, creates 1"
    assert beside.summary() == f"2 GPUs to change: {counts}, sets power_limit on 2 GPUs, no reset; about 2.0 s."


def test_the_text_shows_slots_before_and_after_and_each_step():
    drawing = ("[ - | - ]", "[+1g.5gb| - ]")
    plan = Plan((part(step("first thing"), step("second thing"), creates=("1g.5gb at 0",), drawing=drawing),))
    lines = plan.text().split("\n")
    assert lines[0] == f"{FIRST} A board (mig): keeps 0, destroys 0, creates 1, about 2.0 s"
    assert lines[1:3] == ["  now    [ - | - ]", "  after  [+1g.5gb| - ]"]
    assert lines[3:5] == ["  1. first thing", "  2. second thing"]
    assert "first thing" not in plan.text(NO)


def test_the_text_tells_what_stops_and_what_is_left_as_it_is():
    plan = Plan(
        (part(step(), stops=("dcgm.service",), unloads=("nvidia_drm",)),),
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
    plan = Plan((part(stops=("a.service",)), part(step(gpu=SECOND), gpu=SECOND, stops=("b.service",))))
    assert plan.stops == ["b.service"]


def test_changes_are_old_and_new_of_the_gpus_that_change():
    old, new = {"instances": []}, {"instances": ["1g.5gb@0"]}
    plan = Plan((part(step(), old=old, new=new), part(gpu=SECOND, old=old, new=old)))
    assert plan.changes() == {FIRST: {"old": old, "new": new}}


def test_what_gpus_have_in_common_is_told_of_each_of_them():
    old, new = {"license_server": ""}, {"license_server": "lic1"}
    plan = Plan((licence(step("write it"), old=old, new=new),))
    assert plan.changes() == {FIRST: {"old": old, "new": new}, SECOND: {"old": old, "new": new}}
    assert plan.summary().startswith("2 GPUs to change: ") and plan.parts[0].gpu == FIRST
    assert plan.text().startswith(f"{FIRST}, {SECOND} A board (vgpu): ")


def test_two_technologies_of_one_gpu_are_told_as_one_change_and_take_their_time_one_after_the_other():
    mig = part(step(seconds=2.0), old={"mode": "off", "instances": []}, new={"mode": "on", "instances": ["1g.5gb@0"]})
    shared = part(step(seconds=1.0), technique="mps", old={"clients": 0}, new={"clients": 4})
    plan = Plan((mig, shared))
    assert plan.changes() == {
        FIRST: {
            "old": {"mode": "off", "instances": [], "clients": 0},
            "new": {"mode": "on", "instances": ["1g.5gb@0"], "clients": 4},
        }
    }
    assert plan.summary().startswith("1 GPU to change: ") and plan.seconds == 3.0


def test_of_what_is_merged_the_first_old_and_the_last_new_stay():
    changes = {}
    merge(changes, FIRST, {"a": 1}, {"a": 2})
    merge(changes, FIRST, {"a": 2, "b": 1}, {"a": 3, "b": 2})
    merge(changes, SECOND, {"a": 7}, {"a": 8})
    assert changes == {FIRST: {"old": {"a": 1, "b": 1}, "new": {"a": 3, "b": 2}}, SECOND: {"old": {"a": 7}, "new": {"a": 8}}}


@given(st.lists(st.tuples(st.sampled_from([FIRST, SECOND]), MAPPING, MAPPING), max_size=4))
def test_merging_changes_nothing_that_was_handed_in(told):
    before, changes = json.dumps(told), {}
    for address, old, new in told:
        merge(changes, address, old, new)
    assert json.dumps(told) == before and set(changes) == {address for address, _, _ in told}
    for address, found in changes.items():
        assert set(found["old"]) == {name for each, old, _ in told if each == address for name in old}
        assert set(found["new"]) == {name for each, _, new in told if each == address for name in new}


def test_what_a_forecast_is_is_told():
    assert "  planned again once its slices are there" in Plan((part(step(), forecast=True),)).text().split("\n")
    assert "planned anew" not in Plan((part(step()),)).text()


def test_parts_are_of_the_layer_of_their_technology():
    assert part().layer < licence().layer
    assert [part(technique=kind.name).layer for kind in kinds.KINDS] == [kind.layer for kind in kinds.KINDS]


def test_of_a_group_only_what_leads_to_the_reload_is_told_of_all():
    found, own = step("find the mode in force"), step("set compute mode QPX")
    steps = (replace(step("reload amdgpu"), effect="driver"), found, own)
    told = Plan((part(found, gpu=SECOND, group="amdgpu"), part(*steps, group="amdgpu"))).text().splitlines()
    assert told[:2] == [f"2 x A board ({SECOND}, 07), together: about 1.0 s", "  1. reload amdgpu"]
    place = next(place for place, line in enumerate(told) if line.startswith(f"{FIRST} A board"))
    assert told[place + 1 : place + 3] == ["  1. find the mode in force", "  2. set compute mode QPX"]
    without = Plan((part(found, gpu=SECOND, group="amdgpu"), part(found, own, group="amdgpu"))).text()
    assert "together" not in without
