"""
Compute instances: several in one GPU instance that stays. What consumers see are these, so plans, counts, drawings and "in use"
are about them and not about the GPU instance around them. Through the front, on simulated machines.
"""

import signal

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import front
from gpuslice.engine import Engine
from gpuslice.plan import Plan
from gpuslice.records.journal import Journal
from tests.support import crash
from tests.support.hosts import config
from tests.support.techniques import mig_targets

GPU = "0000:07:00.0"
#: A GPU instance with three compute instances, and one that is filled by its only one.
SPLIT = {"profile": "3g.40gb", "start": 4, "cis": [["1c.3g.40gb", 0], ["1c.3g.40gb", 1], ["1c.3g.40gb", 2]]}
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": [SPLIT, "1g.10gb@0"]}
NEIGHBOUR = {"pid": 41, "command": "neighbour.py", "unit": "neighbour.service", "gpu": GPU, "slice": "3g.40gb@4", "ci": 2}
OTHER = {"pid": 42, "command": "other.py", "unit": "other.service", "gpu": GPU, "slice": "3g.40gb@4", "ci": 0}
#: Joins the first and second compute instance, the only place of a 2c; the third stays.
JOINED = ["1c.3g.40gb", "2c.3g.40gb", "1g.10gb"]


def give(host, profiles, test=False, **given):
    """What ``gpu_mig.apply_layout`` answers; ``profiles`` as in the pillar."""
    with Engine(config(host)) as engine:
        return front.run(engine, mig_targets(engine, "layout", GPU, profiles), test, given.pop("permissions", None), **given)


def destroy(host, instance, test=False, **given):
    """What ``gpu_mig.destroy`` answers."""
    with Engine(config(host)) as engine:
        return front.run(engine, mig_targets(engine, "one_less", GPU, instance), test, given.pop("permissions", None), **given)


def devices(host):
    """(GPU instance, compute instance) -> UUID of each MIG device of the GPU."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", GPU)
        state = tool.observe(one)
        uuids = tool.nvml.mig_devices(GPU)
        return {
            (f"{gi.profile}@{gi.start}", f"{ci.name}@{ci.start}"): uuids[gi.id, ci.id][1]
            for gi in state.instances
            for ci in gi.cis
        }


def drawn(host):
    with Engine(config(host)) as engine:
        return engine.maps()[GPU]


def pids(host):
    return [process.pid for process in host.processes()]


# -- in a GPU instance that stays ------------------------------------------------------------------------------------------
def test_compute_instances_are_joined_beside_one_that_is_in_use(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR])
    before = devices(host)
    answer = give(host, JOINED)
    assert answer["result"], answer["comment"]
    after = devices(host)
    assert set(after) == {("3g.40gb@4", "1c.3g.40gb@2"), ("3g.40gb@4", "2c.3g.40gb@0"), ("1g.10gb@0", "1g.10gb@0")}
    assert all(before[place] == uuid for place, uuid in after.items() if place in before) and len(set(before) & set(after)) == 2
    assert pids(host) == [41]


def test_compute_instances_are_not_joined_over_one_that_is_in_use(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR, OTHER])
    before = devices(host)
    answer = give(host, JOINED)
    assert answer["result"] is False and "1c.3g.40gb at 0 of 3g.40gb at 4 to go, which is in use by pid 42" in answer["comment"]
    assert "pid 41" not in answer["comment"] and devices(host) == before


def test_a_compute_instance_in_use_does_not_go_and_only_its_holder_is_named(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR, OTHER])
    before = devices(host)
    answer = destroy(host, before["3g.40gb@4", "1c.3g.40gb@0"])
    assert answer["result"] is False and not answer["changes"]
    for word in (GPU, "1c.3g.40gb at 0 of 3g.40gb at 4", "pid 42", "other.py", "other.service"):
        assert word in answer["comment"]
    assert "neighbour" not in answer["comment"] and "pid 41" not in answer["comment"]
    assert devices(host) == before and Journal(host).unfinished() is None


def test_force_ends_the_holder_of_the_one_that_goes_and_nobody_else(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR, OTHER])
    before = devices(host)
    answer = destroy(host, before["3g.40gb@4", "1c.3g.40gb@0"], force=True)
    assert answer["result"] and "destroys 1," in answer["comment"]
    assert pids(host) == [41]
    assert devices(host) == {place: uuid for place, uuid in before.items() if place != ("3g.40gb@4", "1c.3g.40gb@0")}


def test_only_the_unit_of_the_one_that_goes_is_stopped(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR, OTHER])
    gone = devices(host)["3g.40gb@4", "1c.3g.40gb@0"]
    permitted = {"containers_gpu_state_management": {"stop_units": ["neighbour.service", "other.service"]}}
    answer = destroy(host, gone, test=True, permissions=permitted)
    assert "unit other.service is stopped" in answer["comment"] and "neighbour.service" not in answer["comment"]
    assert destroy(host, gone, permissions=permitted)["result"]
    assert gone not in devices(host).values()


@pytest.mark.parametrize("call", ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"])
def test_a_step_that_fails_puts_the_compute_instances_back_and_leaves_the_neighbours(simulated, call):
    host = simulated(
        "dgx-h100", gpus=[H100], processes=[NEIGHBOUR], faults=[{"call": call, "nth": 1, "error": "NVML_ERROR_UNKNOWN"}]
    )
    before = devices(host)
    answer = give(host, JOINED)
    assert answer["result"] is False and "has been undone" in answer["comment"]
    after = devices(host)
    assert set(after) == set(before) and Journal(host).unfinished() is None and pids(host) == [41]
    for place in (("3g.40gb@4", "1c.3g.40gb@2"), ("1g.10gb@0", "1g.10gb@0")):
        assert after[place] == before[place]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("call", "nth"),
    [
        ("nvmlComputeInstanceDestroy", 1),
        ("nvmlComputeInstanceDestroy", 2),
        ("nvmlGpuInstanceCreateComputeInstanceWithPlacement", 1),
    ],
)
def test_a_kill_at_any_step_is_finished_by_the_same_and_undone_by_another(simulated, call, nth, when):
    for again, words in ((JOINED, "finished"), ([*["1c.3g.40gb"] * 3, "1g.10gb"], "undone")):
        host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR], faults=[{"call": call, "nth": nth, "kill": when}])
        before = devices(host)
        assert crash.in_child(lambda host=host: give(host, JOINED)) == signal.SIGKILL
        answer = give(host, again)
        assert answer["result"] and words in answer["warnings"][0]
        after = devices(host)
        assert len(after) == len(again) and Journal(host).unfinished() is None
        assert after["3g.40gb@4", "1c.3g.40gb@2"] == before["3g.40gb@4", "1c.3g.40gb@2"]


@pytest.mark.parametrize("lying", ["nvmlComputeInstanceDestroy", "nvmlGpuInstanceCreateComputeInstanceWithPlacement"])
def test_a_driver_that_says_done_and_did_nothing_is_found_out(simulated, lying):
    host = simulated("dgx-h100", gpus=[H100], faults=[{"call": lying, "nth": 1, "lie": True}])
    before = devices(host)
    answer = give(host, JOINED) if "Create" in lying else destroy(host, before["3g.40gb@4", "1c.3g.40gb@0"])
    assert answer["result"] is False
    assert set(devices(host)) == set(before)


# -- destroyed by name -----------------------------------------------------------------------------------------------------
def test_a_uuid_names_one_compute_instance(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    before = devices(host)
    gone = before["3g.40gb@4", "1c.3g.40gb@1"]
    assert "keeps 3, destroys 1, creates 0" in destroy(host, gone, test=True)["comment"]
    answer = destroy(host, gone)
    assert answer["result"] and "keeps 3, destroys 1, creates 0" in answer["comment"]
    assert devices(host) == {place: uuid for place, uuid in before.items() if uuid != gone}
    assert drawn(host).endswith("|3g.40gb(1c - 1c)               ]")


def test_with_the_last_one_in_it_the_gpu_instance_goes(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    for place in [place for place in devices(host) if place[0] == "3g.40gb@4"]:
        assert "3g.40gb" in drawn(host)
        assert destroy(host, devices(host)[place])["result"]
    assert drawn(host) == "[1g.10gb|   -   |   -   |   -   |   -   |   -   |   -   |   -   ]"


def test_a_place_names_the_gpu_instance_with_all_in_it(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    answer = destroy(host, "3g.40gb@4")
    assert answer["result"] and "keeps 1, destroys 3, creates 0" in answer["comment"]
    assert list(devices(host)) == [("1g.10gb@0", "1g.10gb@0")]


def test_a_uuid_that_is_not_there_is_told_with_what_is(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    before = devices(host)
    for name in ("MIG-00000000-0000-0000-0000-000000000000", "3g.40gb@0", "3g.40gb", "1c.3g.40gb@4"):
        with pytest.raises(errors.DeviceNotFound) as caught:
            destroy(host, name)
        assert f"There is no instance {name}; there are: 1g.10gb@0, 3g.40gb@4. Name one of these" in str(caught.value)
    assert devices(host) == before


# -- counted and drawn -----------------------------------------------------------------------------------------------------
def test_a_split_is_counted_and_drawn(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["3g.40gb@4", "1g.10gb@0"]}])
    text = give(host, JOINED, test=True)["comment"]
    assert f"{GPU} NVIDIA H100 80GB HBM3 (mig): keeps 1, destroys 1, creates 2" in text
    assert "now    [=1g.10gb|   -    |   -    |   -    |=3g.40gb(x3c)                      ]" in text
    assert "after  [=1g.10gb|   -    |   -    |   -    |=3g.40gb(+2c +1c)                  ]" in text
    assert "1 GPU to change: keeps 1 slice, destroys 1, creates 2, no reset" in text
    assert give(host, JOINED)["result"]
    assert drawn(host) == "[1g.10gb|   -   |   -   |   -   |3g.40gb(2c 1c)                 ]"


def test_a_gpu_instance_that_goes_is_drawn_with_what_is_in_it(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    text = give(host, ["1g.10gb@0"], test=True)["comment"]
    assert "keeps 1, destroys 3, creates 0" in text
    assert "now    [=1g.10gb|   -    |   -    |   -    |x3g.40gb(1c 1c 1c)                 ]" in text


def test_mig_off_destroys_every_device_and_on_none(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    with Engine(config(host)) as engine:
        plan = engine.reconciler().plan(mig_targets(engine, "mode", GPU, False))
        assert "destroys 4, creates 0, changes a mode on 1 GPU" in plan.summary()
        assert engine.reconciler().apply(mig_targets(engine, "mode", GPU, False)).ok
        again = engine.reconciler().plan(mig_targets(engine, "mode", GPU, True))
        assert "destroys 0, creates 0, changes a mode" in again.summary()


def test_a_gpu_instance_without_a_device_is_seen_where_it_goes_and_comes(simulated):
    bare = {"profile": "2g.20gb", "start": 0, "cis": []}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": [bare]}])
    assert drawn(host).startswith("[2g.20gb(- -) |")
    text = destroy(host, "2g.20gb@0", test=True)["comment"]
    assert "keeps 0, destroys 0 and 1 empty instance, creates 0, about" in text
    assert "keeps 0 slices, destroys 0 and 1 empty instance, creates 0, no reset" in text
    assert destroy(host, "2g.20gb@0")["result"] and devices(host) == {}
    with Engine(config(host)) as engine:
        back = engine.rollback_targets()
        text = front.run(engine, back, True, None)["comment"]
        assert "destroys 0, creates 0 and 1 empty instance" in text
        assert front.run(engine, back, False, None)["result"]
    assert drawn(host).startswith("[2g.20gb(- -) |")


def test_a_gpu_instance_that_had_no_device_gets_one(simulated):
    bare = {"profile": "2g.20gb", "start": 0, "cis": []}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": [bare]}])
    text = give(host, ["2g.20gb"], test=True)["comment"]
    assert "keeps 0, destroys 0, creates 1" in text
    assert "now    [=2g.20gb(- -)" in text and "after  [=2g.20gb(+2c)" in text


def test_a_plan_is_read_without_the_fields_that_may_be_left_out():
    data = {
        "key": f"mig:{GPU}",
        "addresses": [GPU],
        "keeps": ["a"],
        "destroys": [],
        "creates": [],
        "drawing": [],
        "stops": [],
        "unloads": [],
        "steps": [],
    }
    plan = Plan.from_dict({"parts": [data], "untouched": [], "blocked": [], "notes": []})
    [part] = plan.parts
    assert part.gpu == GPU and part.keeps == ("a",) and part.destroys_empty == part.creates_empty == ()


_SHAPES = [
    [],
    ["3g.40gb", "1g.10gb"],
    ["1c.3g.40gb", "2c.3g.40gb", "1g.10gb"],
    ["1c.3g.40gb"] * 3,
    ["1c.4g.40gb"] * 2 + ["2c.4g.40gb", "3g.40gb"],
    ["7g.80gb"],
    ["1c.7g.80gb"] * 7,
    ["1c.2g.20gb", "1c.2g.20gb", "2g.20gb", "3g.40gb"],
]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_SHAPES), st.sampled_from(_SHAPES))
def test_what_stays_and_goes_was_there_and_what_stays_and_comes_is_there(simulated, first, second):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": []}])
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(mig_targets(engine, "layout", GPU, first)).ok
        before = devices(host)
        result = engine.reconciler().apply(mig_targets(engine, "layout", GPU, second))
    after, [made] = devices(host), result.plan.parts
    assert result.ok
    assert len(made.keeps) + len(made.destroys) == len(before)
    assert len(made.keeps) + len(made.creates) == len(after)
    assert len(set(before.values()) & set(after.values())) == len(made.keeps)
