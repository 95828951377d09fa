"""
What users of other tools suffer from, one test for each pain that touches discovery, MIG, planning, applying, undoing or
locking. The number in a docstring is that of the pain in the list that the project was designed from; where another file has
the test already, a comment says which.
"""

import itertools
import pathlib

import pytest

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.a100 import A100
from tests.support.a100 import AFTER
from tests.support.a100 import BEFORE
from tests.support.a100 import CREATE
from tests.support.a100 import FIRST
from tests.support.a100 import SECOND
from tests.support.a100 import THIRD
from tests.support.a100 import TRIO
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import slices
from tests.support.stages import MUTATING
from tests.support.stages import counted
from tests.support.stages import counters
from tests.support.techniques import mig_targets

COUNTERS = counters((*MUTATING, "store_write", "store_append"))


# 1 (changing one slice ends all of its GPU): test_reconcile, promise 4; test_faults for every step.
# 2 (all GPUs are reset for one): test_reconcile, only_the_gpu_with_the_pending_mode_is_reset.


def test_there_is_a_dry_run(minion):
    """3: test mode says what is kept, destroyed and created on each GPU, and calls nothing that changes anything."""
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO, "faults": COUNTERS})
    before = slices(on.host)
    stages = list(on.apply("gpu_slicing", pillar=pillars.mig(AFTER), test=True))
    converged = stages[1]
    assert converged.result is None
    assert converged.comment.startswith(f"3 x NVIDIA A100-SXM4-40GB ({FIRST}, 0f, 47), mig: each keeps 2, destroys 1, creates 1")
    [(gpus, told)] = converged.changes.items()
    old, new = told.removeprefix("instances: ").split(" -> ")
    assert gpus == f"{FIRST}, 0f, 47" and old == "3g.20gb@0, 2g.10gb@4, 1g.5gb@6"
    assert sorted(part.partition("@")[0] for part in new.split(", ")) == ["1g.5gb", "1g.5gb", "3g.20gb"]
    by_hand = on.call("gpu_slicing.apply", pillar=pillars.mig(AFTER), test=True)
    assert set(by_hand["changes"]) == {FIRST, SECOND, THIRD} and "no reset" in by_hand["comment"]
    assert slices(on.host) == before and counted(on.host) == {}


def test_success_is_not_reported_when_nothing_was_created(minion):
    """4: a driver that says "done" and did nothing fails the state, with what was wanted and what is."""
    lie = {"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "gpu": SECOND, "lie": True}
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO, "faults": [lie]})
    before = slices(on.host)
    stages = list(on.apply("gpu_slicing", pillar=pillars.mig(AFTER, on_failure="host")))
    converged = stages[1]
    assert converged.result is False and SECOND in converged.comment
    assert "read again and is not as wanted: it has " in converged.comment
    assert "still to be done is: create compute instance" in converged.comment
    # The stages after a failed one do not run.
    assert stages[2].result is False and "requisite failed" in stages[2].comment
    assert slices(on.host).keys() == before.keys()


# 5 (nvidia_drm blocks the reset): test_reconcile, a_kernel_module_*.
# 6 (a monitor holds the device): test_reconcile, a_unit_*.


def test_the_layout_comes_back_after_a_reboot_where_it_was(simulated):
    """7: instances never outlive a boot; the same pillar makes them again, and the history knows where they were."""
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    # One change after the other, so that what is kept decides about the places.
    for profiles in (["1g.5gb@0", "2g.10gb@4"], ["1g.5gb", "2g.10gb", "1g.5gb"]):
        assert apply(host, pillars.mig(profiles)).ok
    before = slices(host)
    with Engine(config(host)) as engine:
        last = engine.history()[-1]["generation"]
    host.reboot()
    assert slices(host) == {}
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets(last)).ok
    assert slices(host).keys() == before.keys()
    assert apply(host, pillars.mig(["1g.5gb", "2g.10gb", "1g.5gb"])).plan.empty


def test_the_mode_of_a_hopper_comes_back_before_its_instances(simulated):
    """8: one run brings back the mode, then the layout, each of them verified."""
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": FIRST}])
    assert apply(host, pillars.mig(["3g.40gb"])).ok
    host.reboot()
    assert host.state()["gpus"][FIRST]["mode"] == 0
    result = apply(host, pillars.mig(["3g.40gb"]))
    assert result.ok
    assert [step.action for step in result.plan.steps] == ["set_mode", "create_gi", "create_ci"]
    assert [key[1] for key in slices(host)] == ["3g.40gb"]


# 9 (one reset rule for all generations): unit/test_nvml_traps, generations_differ_in_reset_and_memory_of_the_mode.
# 10 (a VM where the reset is refused, tried for ever): test_reconcile, a_reset_that_can_not_be_is_a_reboot_that_is_told_once.
# 11 (a partial create leaves an orphan): test_faults for every step; test_reconcile, a_gpu_instance_without_compute_instance_*.


def largest_mixes():
    """Every mix of profiles that fills an A100 to the point where nothing more fits, as sorted names."""
    table = nvidia.mig_table("a100-40gb")
    kinds = [profile for profile in table.profiles if not profile.attributes]

    def grow(placed):
        taken = set().union(*(range(start, start + profile.size) for profile, start in placed), set())
        compute = sum(profile.slices for profile, _ in placed)
        more = [
            (profile, start)
            for profile in kinds
            for start in profile.starts
            if compute + profile.slices <= table.compute
            and taken.isdisjoint(range(start, start + profile.size))
            and sum(other is profile for other, _ in placed) < profile.count
        ]
        if not more:
            yield tuple(sorted(profile.name for profile, _ in placed))
        for profile, start in more:
            if not placed or start > placed[-1][1]:
                yield from grow([*placed, (profile, start)])

    return sorted(set(grow([])))


def test_every_mix_that_fits_is_made_at_the_first_try(simulated):
    """12: no mix fails because of the order of its creation, and no creation is tried twice."""
    mixes = largest_mixes()
    # 38 mixes with the double-memory 1g are known to be all that there are.
    assert len(mixes) == 38
    host = simulated("dgx-a100-40gb", gpus=[{**A100, "address": FIRST, "instances": []}], faults=COUNTERS)
    expected = 0
    for mix in mixes:
        for order in (mix, mix[::-1]):
            result = apply(host, pillars.mig(order))
            assert result.ok, (order, result.errors)
            assert sorted(key[1] for key in slices(host)) == sorted(mix)
            expected += sum(step.action == "create_gi" for step in result.plan.steps)
    assert counted(host)[CREATE] == expected
    assert "nvmlDeviceCreateGpuInstance" not in counted(host)


def test_free_slices_without_a_legal_place_are_explained(simulated):
    """13: what stands in the way is named, and with the whole wish known what may move does."""
    gpus = [{**A100, "address": FIRST, "instances": ["1g.5gb@0", "1g.5gb@4"]}]
    holders = [{"pid": 70 + start, "gpu": FIRST, "slice": f"1g.5gb@{start}"} for start in (0, 4)]
    host = simulated("dgx-a100-40gb", gpus=gpus, processes=holders)
    with Engine(config(host)) as engine:
        [(one, tool)], _ = engine.techniques("mig", FIRST)
        assert tool.profiles(one)["3g.20gb"]["free"] == 0 and tool.profiles(one)["1g.5gb"]["free"] == 5
        with pytest.raises(errors.ProfileMismatch) as caught:
            engine.reconciler().plan(mig_targets(engine, "one_more", FIRST, "3g.20gb"))
    assert FIRST in str(caught.value) and "1g.5gb@4 is in use by pid 74" in str(caught.value)
    wanted = pillars.mig(["3g.20gb", "1g.5gb", "1g.5gb"])
    result = apply(host, wanted)
    assert not result.ok and "1g.5gb at " in result.errors[0] and "pid 7" in result.errors[0]
    host.remove_process(70)
    result = apply(host, wanted)
    assert result.ok and sum(len(made.destroys) for made in result.plan.parts) == 1
    assert (FIRST, "1g.5gb", "4:1") in slices(host) and (FIRST, "3g.20gb", "0:4") in slices(host)


def test_each_gpu_can_have_its_own_layout(simulated):
    """18: by address, by UUID, or by a pattern of its model; what no rule names stays untouched."""
    uuid = "GPU-0fc20f57-f3b2-4564-8296-e2b6598c37a0"
    h100 = {"model": "h100-80gb", "address": "0000:82:00.0"}
    host = simulated("dgx-a100-40gb", gpus=[TRIO[0], {**TRIO[1], "uuid": uuid}, TRIO[2], h100])
    before = slices(host)
    rules = [
        {"match": {"pci": FIRST}, "strategy": "mig", "mig": {"profiles": ["7g.40gb"]}},
        {"match": {"uuid": uuid}, "strategy": "mig", "mig": {"profiles": {"1g.5gb": 2}}},
        {"match": {"model": "NVIDIA H100*"}, "strategy": "mig", "mig": {"profiles": ["3g.40gb"]}},
    ]
    result = apply(host, {"containers_gpu_slicing": {"enabled": True, "devices": rules}})
    after = slices(host)
    assert result.ok and set(result.changes) == {FIRST, SECOND, "0000:82:00.0"}
    assert sorted(key[:2] for key in after if key[0] != THIRD) == [
        (FIRST, "7g.40gb"),
        (SECOND, "1g.5gb"),
        (SECOND, "1g.5gb"),
        ("0000:82:00.0", "3g.40gb"),
    ]
    assert {key: uuid for key, uuid in after.items() if key[0] == THIRD} == {
        key: uuid for key, uuid in before.items() if key[0] == THIRD
    }


def test_each_node_can_have_its_own_strategy(minion):
    """19: two minions, one SLS, two pillars: one is sliced, the other is left alone and says so."""
    sliced = minion("dgx-a100-40gb", changes={"gpus": TRIO[:1]}, pillar=pillars.mig(AFTER))
    whole = minion(
        "dgx-a100-40gb",
        changes={"gpus": TRIO[:1], "faults": COUNTERS},
        pillar={"containers_gpu_slicing": {"enabled": True, "strategy": "none"}},
    )
    before = slices(whole.host)
    for on in (sliced, whole):
        assert [stage.result for stage in on.apply("gpu_slicing")] == [True] * 3
    assert sorted(key[1] for key in slices(sliced.host)) == ["1g.5gb", "1g.5gb", "3g.20gb"]
    assert slices(whole.host) == before and counted(whole.host) == {}
    assert "left alone" in list(whole.apply("gpu_slicing"))[1].comment


def test_an_index_names_no_gpu(minion):
    """20: indices move between boots. The pillar's refusal is in test_bad_input, a_wrong_pillar; this is the functions'."""
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO})
    for index in ("0", "1"):
        with pytest.raises(Exception, match=f"{index} is the index of a GPU"):
            on.call("gpu_mig.mode", index)


def test_a_gpu_keeps_its_layout_when_its_index_moves(simulated):
    """20: with a GPU gone before them the others have new indices, and the pillar still means the same boards."""
    host = simulated("dgx-a100-40gb", gpus=TRIO)
    wanted = {
        "containers_gpu_slicing": {
            "enabled": True,
            "devices": [{"match": {"pci": THIRD}, "strategy": "mig", "mig": {"profiles": ["7g.40gb"]}}],
        }
    }
    assert apply(host, wanted).ok
    with host.change() as state:
        del state["gpus"][FIRST]
    assert apply(host, wanted).plan.empty
    with Engine(config(host)) as engine:
        assert [gpu.address for gpu in engine.gpus] == [SECOND, THIRD]


def test_a_slice_tells_its_uuid_its_profile_and_where_it_lies(simulated):
    """21: what we call a slice is the very device that the driver finds by that UUID."""
    gpus = [
        {**A100, "address": FIRST, "instances": [{"profile": "3g.20gb", "start": 4, "cis": [["1c.3g.20gb", 0]]}, *BEFORE[:1]]}
    ]
    host = simulated("dgx-a100-40gb", gpus=gpus)
    with Engine(config(host)) as engine:
        found = engine.slices()
    assert sorted((part["profile"], part["placement"]) for part in found) == [("1c.3g.20gb", "4:4"), ("3g.20gb", "0:4")]
    lib = host.nvml()
    lib.nvmlInit()
    device = lib.nvmlDeviceGetHandleByIndex(0)
    for part in found:
        handle = lib.nvmlDeviceGetHandleByUUID(part["uuid"])
        gi = lib.nvmlDeviceGetGpuInstanceById(device, lib.nvmlDeviceGetGpuInstanceId(handle))
        place = lib.nvmlGpuInstanceGetInfo(gi).placement
        assert part["placement"] == f"{place.start}:{place.size}"
        assert lib.nvmlDeviceGetName(handle).endswith(part["profile"])
        assert part["gpu"] == FIRST and all(node.startswith("/dev/nvidia") for node in part["device_nodes"])
        assert len(part["device_nodes"]) == 3


# 29 (a transient refusal is given up on, or tried for ever): unit/test_nvml_traps, in_use_for_a_moment_*; the end of patience is:


def test_a_refusal_that_lasts_is_given_up_on(simulated):
    """29: "in use" is waited out for a moment only, and then told."""
    fault = {"call": "nvmlGpuInstanceDestroy", "gpu": FIRST, "times": 4, "error": "NVML_ERROR_IN_USE"}
    host = simulated("dgx-a100-40gb", gpus=TRIO[:1], faults=[fault])
    before = slices(host)
    result = apply(host, pillars.mig(AFTER))
    assert not result.ok and FIRST in result.errors[0] and "in use" in result.errors[0]
    assert slices(host).keys() == before.keys()


def test_another_owner_of_the_slices_is_named(minion):
    """30: a tool that sets layouts at boot and this one undo each other's work: nothing is changed beside it."""
    unit = "/etc/systemd/system/multi-user.target.wants/nvidia-mig-manager.service"
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO[:1], "files": {unit: "[Unit]\n"}})
    [stage] = list(on.apply("gpu_slicing", pillar=pillars.mig(AFTER)))[1:2]
    assert stage.result is False and stage.changes == {}
    assert "nvidia-mig-manager.service is enabled" in stage.comment and "share_with: [mig-manager]" in stage.comment


# 30 (another tool changes a GPU under our hands): test_bad_input, a_gpu_that_another_tool_changed_after_the_plan_* and following.

# Restoring on a host that lost a GPU: test_reconcile, rollback_names_a_gpu_that_is_gone_and_changes_nothing.
# Restoring a state that differs in one instance touches that one: test_reconcile, rollback_undoes_the_last_change_and_keeps_*.
# One odd device takes the whole host down the reboot path: test_reconcile, a_gpu_that_waits_keeps_no_other_from_its_layout.
# A failed change of the mode is dropped and the run goes on: test_reconcile, a_failed_change_of_the_mode_stops_the_run_*.


def test_a_typing_mistake_is_never_taken_for_a_default(minion):
    """Peers took an unknown mode for the plainest one, with a line in a log: here nothing is called at all."""
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO[:1], "faults": COUNTERS})
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "partition", "partition": {"compute": "SPQ"}}}
    stages = list(on.apply("gpu_slicing", pillar=wanted))
    assert stages[0].result is False and "SPQ" in stages[0].comment and "SPX" in stages[0].comment
    assert counted(on.host) == {}


def test_the_grain_sees_accelerators_of_every_class(minion):
    """Salt's own grain looks for display classes only and knows no address: class 1200 is invisible to it."""
    gpus = [{"vendor": "amd", "device": "74a1", "address": "0000:05:00.0"}, {**A100, "address": FIRST}]
    on = minion("dgx-a100-40gb", changes={"gpus": gpus})
    grain = on.grains["gpu"]
    assert grain["count"] == 2 and grain["vendors"] == ["amd", "nvidia"]
    assert [device["address"] for device in grain["devices"]] == ["0000:05:00.0", FIRST]
    assert "MI300X" in grain["devices"][0]["model"]
    # The board's own video is no accelerator, though it is of a display class.
    assert not any("ASPEED" in str(device) for device in grain["devices"])


def test_the_grain_needs_no_driver(minion):
    """Discovery that asks the vendor's library finds nothing on a host whose driver is not there yet."""
    on = minion("dgx-a100-40gb", changes={"gpus": TRIO, "driver": {"loaded": False, "library": "missing"}})
    assert on.grains["gpu"]["addresses"] == [FIRST, SECOND, THIRD]
    assert "mig" in on.grains["gpu"]["capabilities"]


def test_slices_that_were_made_by_hand_can_be_adopted(salt_call, tmp_path):
    """Adopting a host: what is exported becomes its pillar, and the next run changes nothing."""
    call = salt_call("dgx-a100-40gb", changes={"gpus": TRIO[:2], "faults": COUNTERS})
    before = slices(call.host)
    exported = call("gpu_slicing.export").data
    answer = call("gpu_slicing.apply", f"pillar={exported}")
    assert answer.retcode == 0 and answer.data["result"] is True and answer.data["changes"] == {}
    # The one file that is written says what a boot has to bring back from now on.
    assert slices(call.host) == before and counted(call.host) == {"store_write": 1}


@pytest.mark.parametrize("pair", list(itertools.permutations([("3g.20gb",), ("1g.5gb",) * 7, ("7g.40gb",)], 2)))
def test_growing_and_shrinking_leave_nothing_behind(simulated, pair):
    """26, in part: whatever the number of slices was, afterwards there are exactly those that were wanted."""
    host = simulated("dgx-a100-40gb", gpus=[{**A100, "address": FIRST, "instances": []}])
    for profiles in (*pair, ()):
        assert apply(host, pillars.mig(profiles)).ok
        assert sorted(key[1] for key in slices(host)) == sorted(profiles)
    assert not pathlib.Path(host.state_dir, "journal.json").exists()
