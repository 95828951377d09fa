"""
Compute instances made and destroyed by hand in a GPU instance that stays: what is asked, what is refused, and what goes wrong.
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
from gpuslice.records.journal import Journal
from gpuslice.techniques.mig import asks
from tests.engine.test_compute_instances import GPU
from tests.engine.test_compute_instances import NEIGHBOUR
from tests.engine.test_compute_instances import OTHER
from tests.engine.test_compute_instances import devices
from tests.engine.test_compute_instances import pids
from tests.engine.test_vgpu_shared import BOARD
from tests.engine.test_vgpu_shared import GPU as SERVER
from tests.support import crash
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

#: A GPU instance with room for one more compute slice, and one that is filled.
PART = {"profile": "3g.40gb", "start": 4, "cis": [["1c.3g.40gb", 0], ["1c.3g.40gb", 2]]}
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": [PART, "1g.10gb@0"]}
FIRST, LAST, MADE = (("3g.40gb@4", f"1c.3g.40gb@{at}") for at in (0, 2, 1))
CREATE, DESTROY = "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "nvmlComputeInstanceDestroy"


def run(host, ask, test=False, gpu=GPU, **given):
    with Engine(config(host)) as engine:
        return front.run(engine, engine.wanted("mig", gpu, *ask), test, None, **given)


def create_ci(host, instance, profile, count=1, **given):
    """What ``gpu_mig.create_ci`` answers."""
    return run(host, asks.one_more_inside(instance, profile, count), **given)


def destroy_ci(host, instance, **given):
    """What ``gpu_mig.destroy_ci`` answers."""
    return run(host, asks.one_less_inside(instance), **given)


def refused(host, kind, ask, *arguments):
    """The sentence of a refusal that changed nothing."""
    before = devices(host)
    with pytest.raises(kind) as caught:
        ask(host, *arguments)
    assert devices(host) == before and Journal(host).unfinished() is None and GPU in str(caught.value)
    return str(caught.value)


# -- made ------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("instance", ["3g.40gb@4", "3G.40GB@4", f"{GPU}-3g.40gb-4", f"{GPU}-3g.40gb-4-1c-2", "a UUID"])
@pytest.mark.parametrize("profile", ["1c", "1c.3g.40gb"])
def test_one_more_is_made_beside_those_in_use(simulated, instance, profile):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR])
    before = devices(host)
    instance = before[FIRST] if instance == "a UUID" else instance
    answer = create_ci(host, instance, profile)
    assert answer["result"] and "keeps 3, destroys 0, creates 1" in answer["comment"]
    after = devices(host)
    assert after.items() >= before.items() and set(after) - set(before) == {MADE} and pids(host) == [41]


def test_a_test_shows_it_and_changes_nothing(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    before = devices(host)
    text = create_ci(host, "3g.40gb@4", "1c", test=True)["comment"]
    assert "create compute instance 1c.3g.40gb in 3g.40gb at 4" in text and "=3g.40gb(=1c +1c =1c)" in text
    text = destroy_ci(host, before[FIRST], test=True)["comment"]
    assert "keeps 2, destroys 1, creates 0" in text and devices(host) == before


def test_several_are_made_at_once(simulated):
    bare = {"profile": "3g.40gb", "start": 4, "cis": []}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": [bare]}])
    assert create_ci(host, "3g.40gb@4", "1c", 3)["result"]
    assert [place for _, place in devices(host)] == [f"1c.3g.40gb@{at}" for at in (0, 1, 2)]
    for count in (0, 9, True, "2"):
        with pytest.raises(errors.PolicyError, match="^count is"):
            create_ci(host, "3g.40gb@4", "1c", count)


def test_the_one_that_fills_is_asked_for_by_the_name_of_the_gpu_instance(simulated):
    for name in ("3g.40gb", "3c", "3c.3g.40gb"):
        host = simulated("dgx-h100", gpus=[{**H100, "instances": [{"profile": "3g.40gb", "start": 4, "cis": []}]}])
        assert create_ci(host, "3g.40gb@4", name)["result"]
        assert list(devices(host)) == [("3g.40gb@4", "3g.40gb@0")]


# -- refused ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("instance", ["3g.40gb@0", "2g.20gb@4", f"{GPU}-2g.20gb-0", "MIG-0", "3g.40gb", "1c.3g.40gb@4"])
def test_a_gpu_instance_that_is_not_there_is_told_with_those_that_are(simulated, instance):
    host = simulated("dgx-h100", gpus=[H100])
    said = refused(host, errors.DeviceNotFound, create_ci, instance, "1c")
    assert f"There is no GPU instance {instance}; there are: 1g.10gb@0 (has 1g.10gb at 0, and takes nothing more); " in said
    assert "3g.40gb@4 (has 1c.3g.40gb at 0, 1c.3g.40gb at 2, and takes 1 x 1c.3g.40gb)" in said


def test_what_has_no_room_is_told_what_has(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    for profile, count, what in (("2c", 1, "2c.3g.40gb"), ("1c", 2, "2 x 1c.3g.40gb"), ("3g.40gb", 1, "3g.40gb")):
        said = refused(host, errors.ProfileMismatch, create_ci, "3g.40gb@4", profile, count)
        assert f"There is no room for {what} in 3g.40gb@4, which has 1c.3g.40gb at 0, 1c.3g.40gb at 2, and takes 1 x 1c" in said
    assert "which has 1g.10gb at 0, and takes nothing more." in refused(
        host, errors.ProfileMismatch, create_ci, "1g.10gb@0", "1c"
    )


@pytest.mark.parametrize("profile", ["4c", "9c", "1c.2g.20gb", "2g.20gb", "0c"])
def test_a_profile_that_the_gpu_instance_does_not_have_is_told_with_those_it_has(simulated, profile):
    host = simulated("dgx-h100", gpus=[H100])
    said = refused(host, errors.ProfileMismatch, create_ci, "3g.40gb@4", profile)
    assert f"has no compute instance profile {profile}. Use one of: 1c.3g.40gb, 2c.3g.40gb, 3g.40gb." in said


@pytest.mark.parametrize("profile", ["c", "c.3g", "5c.3g.40gb", "one"])
def test_what_is_no_profile_is_told(simulated, profile):
    said = refused(simulated("dgx-h100", gpus=[H100]), errors.ProfileMismatch, create_ci, "3g.40gb@4", profile)
    assert profile in said


def test_a_compute_instance_that_is_not_there_is_told_with_those_that_are(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    for name in (f"{GPU}-3g.40gb-4-1c-1", f"{GPU}-3g.40gb-4", "MIG-0", "3g.40gb@4"):
        said = refused(host, errors.DeviceNotFound, destroy_ci, name)
        assert f"There is no compute instance {name}; there are: {GPU}-1g.10gb-0, {GPU}-3g.40gb-4-1c-0, " in said


def test_the_last_one_goes_with_its_gpu_instance(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    said = refused(host, errors.PolicyError, destroy_ci, f"{GPU}-1g.10gb-0")
    assert "1g.10gb is the last compute instance in 1g.10gb@0" in said
    assert f"salt-call gpu_mig.destroy {GPU} 1g.10gb@0" in said


def test_where_mig_is_off_there_is_nothing_inside(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "mig": "disabled"}])
    for ask, arguments in ((create_ci, ("3g.40gb@4", "1c")), (destroy_ci, ("MIG-0",))):
        with pytest.raises(errors.Unsupported, match="MIG mode is disabled. Enable it first"):
            ask(host, *arguments)


def test_one_in_use_stays_and_its_user_is_named(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[OTHER, NEIGHBOUR])
    before = devices(host)
    answer = destroy_ci(host, f"{GPU}-3g.40gb-4-1c-0")
    assert answer["result"] is False and "1c.3g.40gb at 0 of 3g.40gb at 4 to go, which is in use by pid 42" in answer["comment"]
    assert "pid 41" not in answer["comment"] and devices(host) == before
    assert destroy_ci(host, f"{GPU}-3g.40gb-4-1c-0", force=True)["result"] and pids(host) == [41]


def test_under_a_vgpu_nothing_changes(simulated):
    host = simulated("vgpu-host-vfio", gpus=[BOARD], processes=[])
    assert apply(host, pillars.vgpu(profiles={"DC-2-48C": 1})).ok
    with Engine(config(host)) as engine:
        [held] = [part for part in engine.slices(SERVER, taken=True) if part["kind"] == "mig"]
    for ask, arguments in ((create_ci, ("1c",)), (destroy_ci, ())):
        with pytest.raises(errors.ResourceConflict, match="carries vGPUs, which have all that is in it: 0000:41:00.4. Remove"):
            ask(host, held["uuid"], *arguments, gpu=SERVER)


# -- destroyed -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", ["uuid", "UUID", "name"])
def test_one_goes_and_the_others_stay(simulated, by):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR])
    before = devices(host)
    name = {"uuid": before[FIRST], "UUID": before[FIRST].upper(), "name": f"{GPU}-3g.40gb-4-1c-0"}[by]
    answer = destroy_ci(host, name)
    assert answer["result"] and "keeps 2, destroys 1, creates 0" in answer["comment"]
    assert devices(host) == {place: uuid for place, uuid in before.items() if place != FIRST} and pids(host) == [41]


# -- when something goes wrong ---------------------------------------------------------------------------------------------
def test_a_step_that_fails_puts_back_what_there_was(simulated):
    for call, ask, arguments in ((CREATE, create_ci, ("3g.40gb@4", "1c")), (DESTROY, destroy_ci, (f"{GPU}-3g.40gb-4-1c-0",))):
        fault = {"call": call, "nth": 1, "error": "NVML_ERROR_UNKNOWN"}
        host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR], faults=[fault])
        before = devices(host)
        answer = ask(host, *arguments)
        assert answer["result"] is False and devices(host) == before and Journal(host).unfinished() is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_is_finished_by_the_same_and_makes_one(simulated, when):
    host = simulated("dgx-h100", gpus=[H100], processes=[NEIGHBOUR], faults=[{"call": CREATE, "nth": 1, "kill": when}])
    before = devices(host)
    assert crash.in_child(lambda: create_ci(host, "3g.40gb@4", "1c")) == signal.SIGKILL
    answer = create_ci(host, "3g.40gb@4", "1c")
    assert answer["result"] and "it is finished now" in answer["warnings"][0]
    assert set(devices(host)) == {*before, MADE} and Journal(host).unfinished() is None


def test_a_rollback_takes_it_back(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    before = devices(host)
    assert create_ci(host, "3g.40gb@4", "1c")["result"]
    with Engine(config(host)) as engine:
        assert front.run(engine, engine.rollback_targets(), False, None)["result"]
    assert devices(host) == before


# -- whatever is there -----------------------------------------------------------------------------------------------------
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([(), (0,), (1,), (0, 3), (1, 2), (0, 1, 2, 3)]), st.sampled_from(["1c", "2c", "4c"]), st.integers(1, 4))
def test_what_is_told_to_fit_fits_and_what_not_is_refused(simulated, taken, profile, count):
    inside = {"profile": "4g.40gb", "start": 0, "cis": [["1c.4g.40gb", at] for at in taken]}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": [inside]}])
    before, size = devices(host), int(profile[0])
    free = sum(not {*range(at, at + size)} & set(taken) for at in range(0, 4, size))
    if count > free:
        refused(host, errors.ProfileMismatch, create_ci, "4g.40gb@0", profile, count)
        return
    assert create_ci(host, "4g.40gb@0", profile, count)["result"]
    made = set(devices(host)) - set(before)
    assert len(made) == count and before.items() <= devices(host).items()
    for _ in made:
        if len(devices(host)) > 1:
            assert destroy_ci(host, devices(host)[sorted(made & set(devices(host)))[0]])["result"]
