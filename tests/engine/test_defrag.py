"""
Room made by moving idle instances: through plan, journal and verification, on simulated machines. What is in use, shared or under
a vGPU never moves; who had what moves is told of what he has then.
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
from gpuslice.techniques.mig import views
from tests.engine.test_compute_instances import GPU
from tests.engine.test_compute_instances import devices
from tests.engine.test_compute_instances import pids
from tests.engine.test_vgpu_shared import BOARD
from tests.engine.test_vgpu_shared import GPU as SERVER
from tests.support import consumers
from tests.support import crash
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

#: A fragmented H100: 4 of 8 memory slices are free, and no half is.
H100 = {"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": ["1g.10gb@0", "1g.20gb@2", "1g.10gb@5"]}
USER = {"pid": 41, "command": "train.py", "unit": "train.service", "gpu": GPU, "slice": "1g.10gb@0"}
GIVEN = "shared, under a vGPU, or given to a consumer by its name"
A30 = {"model": "a30-24gb", "address": GPU, "mig": "enabled"}


def defrag(host, profile=None, test=False, gpu=GPU):
    """What ``gpu_mig.defrag`` answers."""
    with Engine(config(host)) as engine:
        wanted = engine.wanted("mig", gpu, *asks.defragmented(profile, engine.stood_on(gpu)))
        return front.run(engine, wanted, test, None, force=False)


def create(host, profile, start=None, test=False, gpu=GPU):
    """What ``gpu_mig.create`` answers."""
    with Engine(config(host)) as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.one_more(profile, start, engine.stood_on(gpu))), test, None)


def refused(host, profile, ask=create, **given):
    """The sentence with which a profile is refused; nothing may have changed."""
    before = devices(host)
    with pytest.raises(errors.ProfileMismatch) as caught:
        ask(host, profile, **given)
    assert devices(host) == before and Journal(host).unfinished() is None
    return str(caught.value)


def fits(host, profile=None, data=True, gpu=GPU):
    """What ``gpu_mig.fits`` answers of one GPU."""
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", gpu)
        return views.fits(tool, one, profile, engine.stood_on(gpu), engine.given(), data)


# -- what fits -------------------------------------------------------------------------------------------------------------
def test_what_fits_now_and_what_after_moving_what_is_idle(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER])
    told = fits(host)
    assert (told["enabled"], told["free_memory_slices"], told["free_compute_slices"]) == (True, 4, 4)
    assert told["stays"] == {"1g.10gb@0": "in use by pid 41 (train.py, unit train.service)"}
    assert told["profiles"]["1g.10gb"] == {"now": 3, "at": [1, 4, 6], "after_moving": 4, "moves": [], "why": ""}
    move = {"from": "1g.10gb@5", "to": "1g.10gb@1", "consumers": []}
    assert told["profiles"]["3g.40gb"] == {"now": 0, "at": [], "after_moving": 1, "moves": [move], "why": ""}
    never = told["profiles"]["4g.40gb"]
    assert (never["now"], never["after_moving"], never["moves"]) == (0, 0, []) and "1g.10gb@0 is in use by pid 41" in never["why"]
    assert "together they take 12 of 8 memory slices" in told["profiles"]["7g.80gb"]["why"]


def test_one_place_of_one_profile(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER])
    [(name, told)] = fits(host, "1g.10gb@4")["profiles"].items()
    assert (name, told["now"], told["at"], told["after_moving"]) == ("1g.10gb", 1, [4], 1)
    told = fits(host, "1g.10gb@0")["profiles"]["1g.10gb"]
    assert told["now"] == told["after_moving"] == 0 and "1g.10gb@0 is in use" in told["why"]
    told = fits(host, "1g.10gb@5")["profiles"]["1g.10gb"]
    assert told["after_moving"] == 1 and [move["from"] for move in told["moves"]] == ["1g.10gb@5"]
    with pytest.raises(errors.ProfileMismatch, match="can't begin at memory slice 2. Legal starts, in memory slices: 0, 4"):
        fits(host, "3g.40gb@2")
    with pytest.raises(errors.ProfileMismatch, match="profile 3g.20gb does not exist on this GPU"):
        fits(host, "3g.20gb")


def test_where_mig_is_off_it_is_told_what_fits_once_it_is_on(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "mig": "disabled"}])
    told = fits(host)
    assert told["enabled"] is False and told["profiles"]["3g.40gb"]["now"] == 2
    text = fits(host, data=False)
    assert text.startswith(f"MIG mode is disabled. 'salt-call gpu_mig.set_mode {GPU} enabled' enables it; then there is:")
    with pytest.raises(errors.Unsupported, match="MIG mode is disabled"):
        defrag(host, "3g.40gb")
    with Engine(config(host)) as engine:
        numbers = engine.headroom("mig")[GPU]
    assert numbers["enabled"] is False and not any(numbers["now"].values())


def test_a_gpu_that_does_something_else_is_unsupported_and_has_no_headroom(simulated):
    host = simulated("mi300x-8")
    with Engine(config(host)) as engine:
        address = engine.gpus[0].address
        assert engine.headroom("mig") == {}
        assert "headroom" not in engine.abilities()[address] and "partition" in engine.abilities()[address]["technologies"]
    with pytest.raises(errors.Unsupported, match="can't do mig"):
        fits(host, gpu=address)
    with pytest.raises(errors.Unsupported, match="can't do mig"):
        defrag(host, gpu=address)


def test_headroom_leaves_out_what_cant_be_read_and_abilities_say_why(simulated, caplog):
    fault = {"call": "nvmlDeviceGetMigMode", "gpu": GPU, "times": 0, "error": "NVML_ERROR_GPU_IS_LOST"}
    other = {**H100, "address": "0000:0f:00.0"}
    host = simulated("dgx-h100", gpus=[H100, other], faults=[fault])
    with Engine(config(host)) as engine:
        assert list(engine.headroom("mig")) == ["0000:0f:00.0"] and GPU in caplog.text
        told = engine.abilities()
        assert isinstance(told[GPU]["headroom"]["mig"], str) and told["0000:0f:00.0"]["headroom"]["mig"]["now"]["1g.10gb"] == 3


# -- refused ---------------------------------------------------------------------------------------------------------------
def test_create_says_what_is_free_and_what_would_have_to_move(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER])
    assert refused(host, "3g.40gb") == (
        f"GPU {GPU}: There is no free place for 3g.40gb: free are memory slices 1, 4, 6-7 of 8 and 4 of 7 compute slices, which "
        "take 3 x 1g.10gb, 1 x 1g.10gb+me, 1 x 1g.20gb. It fits after moving 1 idle instance: 1g.10gb@5 to 1g.10gb@1. "
        f"'salt-call gpu_mig.defrag {GPU} 3g.40gb test=True' shows that; without test=True it is done."
    )
    assert f"gpu_mig.defrag {GPU} 1g.10gb@5 test=True" in refused(host, "1g.10gb", start=5)
    assert "3g.40gb can't begin at memory slice 2. Legal starts, in memory slices: 0, 4." in refused(host, "3g.40gb", start=2)


@pytest.mark.parametrize("ask", [create, defrag])
def test_what_only_fits_over_what_is_in_use_names_the_user(simulated, ask):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER])
    said = refused(host, "4g.40gb", ask)
    assert "What is in use or shared never moves, and 1g.10gb@0 is in use by pid 41 (train.py, unit train.service)." in said
    assert "Once it is free, gpu_mig.defrag makes room." in said and "do not fit together" not in said


@pytest.mark.parametrize("ask", [create, defrag])
def test_what_fits_nowhere_says_which_limit_it_breaks(simulated, ask):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["4g.40gb@0", "1g.10gb@4"]}])
    said = refused(host, "4g.40gb", ask)
    assert "No other place of what is there makes room: together they take 9 of 8 memory slices" in said
    assert "at most 1 x 4g.40gb can exist" in said and "Destroy what is not needed" in said


# -- done ------------------------------------------------------------------------------------------------------------------
def test_idle_instances_move_and_nothing_else_does(simulated):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER])
    before = devices(host)
    text = defrag(host, "3g.40gb", test=True)["comment"]
    assert "keeps 2, destroys 1, creates 1" in text and devices(host) == before
    assert "moves 1g.10gb@5 to 1g.10gb@1: what moves is made anew, and has a new UUID; 3g.40gb fits at 4 then" in text
    answer = defrag(host, "3g.40gb")
    assert answer["result"] and "Applied and verified" in answer["comment"]
    after = devices(host)
    assert {place for place, _ in after} == {"1g.10gb@0", "1g.10gb@1", "1g.20gb@2"} and pids(host) == [41]
    assert set(before.values()) - set(after.values()) == {before["1g.10gb@5", "1g.10gb@0"]}
    assert create(host, "3g.40gb")["result"]


def test_where_nothing_is_gained_nothing_is_planned(simulated):
    host = simulated("dgx-h100", gpus=[{**H100, "instances": ["1g.10gb@0", "3g.40gb@4"]}])
    for profile, said in ((None, "nothing is gained by moving what is idle"), ("1g.20gb", "1g.20gb fits already, at 2")):
        answer = defrag(host, profile)
        assert answer["result"] and answer["changes"] == {} and said in answer["comment"]
    with Engine(config(host)) as engine:
        assert engine.history() == []


def test_without_a_profile_it_is_as_much_as_can_be(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    with Engine(config(host)) as engine:
        before = engine.headroom("mig")[GPU]
    assert defrag(host)["result"]
    with Engine(config(host)) as engine:
        after = engine.headroom("mig")[GPU]
    assert after["fragmentation"] < before["fragmentation"] and after["now"]["4g.40gb"] == 1 == before["after_moving"]["4g.40gb"]
    assert "nothing is gained" in defrag(host)["comment"]


def test_what_is_in_a_gpu_instance_moves_with_it(simulated):
    split = {"profile": "2g.20gb", "start": 2, "cis": [["1c.2g.20gb", 1]]}
    host = simulated("dgx-h100", gpus=[{**H100, "instances": [split, {"profile": "1g.10gb", "start": 4, "cis": []}]}])
    assert defrag(host, "4g.40gb")["result"]
    assert [place for place in devices(host) if place[0].startswith("2g")] == [("2g.20gb@4", "1c.2g.20gb@1")]
    assert create(host, "4g.40gb")["result"]


def test_consumers_of_what_moves_are_told_of_and_bound_anew(simulated):
    host = consumers.machine(simulated, 1)
    wanted = consumers.pillar({"web": {"slice": "1g.20gb"}, "dev": {"slice": "1g.10gb"}}, ("1g.10gb@0", "1g.20gb@2", "1g.10gb@5"))
    assert apply(host, wanted).ok
    moves = fits(host, gpu=consumers.FIRST)["profiles"]["4g.40gb"]["moves"]
    assert [(move["from"], move["consumers"]) for move in moves] == [("1g.10gb@0", ["dev"]), ("1g.20gb@2", ["web"])]
    text = fits(host, data=False, gpu=consumers.FIRST)
    assert "What moves is made anew and has a new UUID; dev, web would be bound anew." in text
    told = defrag(host, "4g.40gb", test=True, gpu=consumers.FIRST)["comment"]
    assert "Consumers" in told and "web:" in told and f"{consumers.FIRST}-1g.20gb-2 -> {consumers.FIRST}-1g.20gb-" in told
    assert defrag(host, "4g.40gb", gpu=consumers.FIRST)["result"]
    assert consumers.astray(host) == [] and consumers.bindings(host)["web"] != [f"{consumers.FIRST}-1g.20gb-2"]


def test_what_a_consumer_has_by_its_name_never_moves(simulated):
    host, name = consumers.machine(simulated, 1), f"{consumers.FIRST}-1g.20gb-2"
    assert apply(host, consumers.pillar({"web": {"slice": {"name": name}}}, ("1g.10gb@0", "1g.20gb@2", "1g.10gb@5"))).ok
    assert list(fits(host, gpu=consumers.FIRST)["stays"]) == ["1g.20gb@2"]
    for profile in ("3g.40gb", None):
        assert defrag(host, profile, gpu=consumers.FIRST)["result"]
    with pytest.raises(errors.ProfileMismatch, match=f"1g.20gb@2 is {GIVEN}"):
        defrag(host, "4g.40gb", gpu=consumers.FIRST)
    assert consumers.bindings(host) == {"web": [name]} and consumers.astray(host) == []


def test_what_is_shared_never_moves(simulated):
    host = simulated("a30-pair", gpus=[{**A30, "instances": ["1g.6gb@0", "1g.6gb@2"]}], processes=[])
    settings = {"max_instance_count": 2, "profiles": ["1g.6gb"]}
    with Engine(config(host)) as engine:
        assert front.run(engine, engine.wanted_as("time-slicing", GPU, settings), False, None)["result"]
    assert fits(host)["stays"] == dict.fromkeys(("1g.6gb@0", "1g.6gb@2"), GIVEN)
    for ask in (create, defrag):
        assert f"never moves, and 1g.6gb@0 is {GIVEN}" in refused(host, "2g.12gb", ask)
    assert "nothing is gained" in defrag(host)["comment"]


def test_what_carries_a_vgpu_never_moves(simulated):
    host = simulated("vgpu-host-vfio", gpus=[BOARD], processes=[])
    assert apply(host, pillars.vgpu(profiles={"DC-1-24C": 2})).ok
    told = fits(host, gpu=SERVER)
    assert len(told["stays"]) == 2 and set(told["stays"].values()) == {GIVEN}
    assert "nothing is gained" in defrag(host, gpu=SERVER)["comment"]


# -- when something goes wrong ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("call", ["nvmlGpuInstanceDestroy", "nvmlDeviceCreateGpuInstanceWithPlacement"])
def test_a_step_that_fails_puts_back_what_moved(simulated, call):
    host = simulated("dgx-h100", gpus=[H100], processes=[USER], faults=[{"call": call, "nth": 1, "error": "NVML_ERROR_UNKNOWN"}])
    before = devices(host)
    answer = defrag(host, "3g.40gb")
    assert answer["result"] is False and "has been undone" in answer["comment"]
    assert set(devices(host)) == set(before) and Journal(host).unfinished() is None and pids(host) == [41]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", ["nvmlGpuInstanceDestroy", "nvmlDeviceCreateGpuInstanceWithPlacement"])
def test_a_kill_is_finished_by_the_same_and_undone_by_another(simulated, call, when):
    for again, words, places in (
        (lambda host: defrag(host, "3g.40gb"), "finished", {"1g.10gb@0", "1g.10gb@1", "1g.20gb@2"}),
        (lambda host: create(host, "1g.10gb", 4), "undone", {"1g.10gb@0", "1g.10gb@4", "1g.20gb@2", "1g.10gb@5"}),
    ):
        host = simulated("dgx-h100", gpus=[H100], processes=[USER], faults=[{"call": call, "nth": 1, "kill": when}])
        assert crash.in_child(lambda host=host: defrag(host, "3g.40gb")) == signal.SIGKILL
        answer = again(host)
        assert answer["result"] and words in answer["warnings"][0], answer
        assert {place for place, _ in devices(host)} == places and Journal(host).unfinished() is None


def test_a_rollback_brings_back_where_things_lay(simulated):
    host = simulated("dgx-h100", gpus=[H100])
    before = set(devices(host))
    assert defrag(host, "3g.40gb")["result"] and set(devices(host)) != before
    with Engine(config(host)) as engine:
        assert front.run(engine, engine.rollback_targets(), False, None)["result"]
    assert set(devices(host)) == before


# -- whatever is there -----------------------------------------------------------------------------------------------------
_STARTS = [(0, 2), (1, 3), (1,), (0, 1, 3), ()]
_LAYOUTS = [["2g.12gb@2"], *([f"1g.6gb@{start}" for start in starts] for starts in _STARTS)]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(_LAYOUTS), st.sampled_from(["1g.6gb", "2g.12gb", "4g.24gb"]), st.data())
def test_what_was_asked_can_be_made_afterwards_and_what_is_in_use_stays(simulated, layout, profile, data):
    used = data.draw(st.sampled_from(layout)) if layout and data.draw(st.booleans()) else None
    holder = {"pid": 41, "command": "train.py", "gpu": GPU, "slice": used}
    host = simulated("a30-pair", gpus=[{**A30, "instances": layout}], processes=[holder] if used else [])
    before = devices(host)
    told = fits(host, profile)["profiles"][profile]
    if not told["after_moving"]:
        refused(host, profile, defrag)
        return
    answer = defrag(host, profile)
    assert answer["result"] and bool(answer["changes"]) == bool(told["moves"]) == (not told["now"])
    after = devices(host)
    assert len(set(before.values()) - set(after.values())) == len(told["moves"]) and len(after) == len(before)
    assert used is None or {place: uuid for place, uuid in before.items() if place[0] == used}.items() <= after.items()
    assert create(host, profile)["result"]
