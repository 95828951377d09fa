"""
A driver update gives MIG profiles and vGPU types other names, between any two moments at which a name was written down and is
read again: in records of a boot, in the history, in an interrupted change, in a pillar. Both directions, on every model.
"""

import math

import pytest
import yaml

from gpuslice import errors
from gpuslice.boot import replay as boot
from gpuslice.catalog import nvidia
from gpuslice.engine import Engine
from gpuslice.model import Key
from gpuslice.records.journal import Journal
from gpuslice.records.verified import Verified
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mig import profile_names
from tests.support import crash
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import uuids
from tests.support.techniques import mig_targets

GPU, OTHER = "0000:41:00.0", "0000:a1:00.0"
MODELS = sorted(key for key in nvidia.MODELS if nvidia.mig_table(key))
GB200 = "gb200-186gb"
#: What one driver calls the profiles of a GB200 and another one does not.
OLD = {ours: theirs for theirs, ours in nvidia.aliases(GB200).items()}
KILL = {"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 2, "kill": "after"}


def renames_of(key, factor):
    """The names of a model's profiles in a driver that counts the board's memory as ``factor`` times what the catalog has."""
    table = nvidia.mig_table(key)
    whole = max(profile_names.parse(profile.name).gb for profile in table.profiles)
    found = {}
    for profile in table.profiles:
        gigabytes = math.floor(whole * factor * profile.size / table.slots + 0.5)
        name = profile_names.parse(profile.name)
        found[profile.name] = f"{name.slices}g.{gigabytes}gb{profile.name[len(f'{name.slices}g.{name.gb}gb'):]}"
    return found


def update_driver(host, renames):
    """Another driver on the same machine; returns the machine."""
    with open(host.description_path, encoding="utf-8") as handle:
        described = yaml.safe_load(handle)
    described["driver"] = {"renames": renames}
    with open(host.description_path, "w", encoding="utf-8") as handle:
        yaml.safe_dump(described, handle)
    return SimulatedHost(host.description_path, host.state_dir)


@pytest.fixture
def machine(simulated):
    """A function that makes a machine with these GPUs, whose driver has these names for profiles."""

    def make(key=GB200, renames=None, addresses=(GPU,), **more):
        gpus = [{"model": key, "address": address, "mig": "enabled"} for address in addresses]
        return simulated("dgx-h100", gpus=gpus, processes=[], driver={"renames": renames or {}}, **more)

    return make


def rollback(host, generation=None):
    with Engine(config(host)) as opened:
        return opened.reconciler().apply(opened.rollback_targets(generation))


def replay(host):
    with Engine(config(host)) as opened:
        return boot.replay(opened, wait=0)


def export(host):
    with Engine(config(host)) as opened:
        return opened.export()


def hardware(host, gpu=GPU):
    """The GPU instances and their compute instances as the machine has them, by numbers instead of names."""
    return sorted(
        (gi["profile"], gi["start"], sorted((ci["profile"], ci["start"]) for ci in gi["cis"].values()))
        for gi in host.state()["gpus"][gpu]["gis"].values()
    )


def live(host, gpu=GPU):
    """The instances as the driver names them now."""
    with Engine(config(host)) as opened:
        mig = opened.techniques("mig", gpu)[0][0][1]
        return mig.layout(mig.observe(opened.gpu(gpu)))["instances"]


def wishes_of(key):
    """Profiles to ask of a model: a half in parts, the small one of which there are two sizes, and one with media engines."""
    table = nvidia.mig_table(key)
    half = next(p for p in table.profiles if p.size == table.slots // 2)
    two = [p for p in table.profiles if p.slices == 1 and p.size == 2 and not p.attributes]
    me = next(p for p in table.profiles if p.attributes == ("me",) and p.slices == 1)
    rest = half.slices - 1
    parts = ["1c", f"{rest}c"] if rest == 2 else ["1c", "1c"]
    return [*(f"{part}.{half.name}" for part in parts), *(p.name for p in two[:1]), me.name]


@pytest.mark.parametrize("factor", [0.985, 1.015])
@pytest.mark.parametrize("key", MODELS)
def test_a_pillar_a_boot_and_a_rollback_know_the_names_of_another_driver(machine, key, factor):
    host, wanted = machine(key), pillars.mig(wishes_of(key))
    assert apply(host, wanted).ok
    first, slices = hardware(host), uuids(host)
    host = update_driver(host, renames_of(key, factor))
    assert apply(host, wanted).plan.empty
    assert uuids(host) == slices and Verified(host).entries()[Key(GPU, "mig")]["layout"]["instances"] == live(host)
    assert apply(host, export(host)).plan.empty
    full = next(p.name for p in nvidia.mig_table(key).profiles if p.size == nvidia.mig_table(key).slots)
    assert apply(host, pillars.mig([full])).ok
    assert rollback(host, 1).ok
    assert hardware(host) == first
    assert apply(host, wanted).plan.empty


@pytest.mark.parametrize("key", MODELS)
def test_a_boot_after_the_update_brings_back_what_was_verified_before_it(machine, key):
    host = machine(key)
    assert apply(host, pillars.mig(wishes_of(key))).ok
    before = hardware(host)
    for renames in (renames_of(key, 1.015), {}):
        host = update_driver(host, renames)
        host.reboot()
        assert hardware(host) == []
        answer = replay(host)
        assert answer["result"], answer["comment"]
        assert hardware(host) == before
        assert replay(host)["changes"] == {}


@pytest.mark.parametrize(("old", "new"), [(OLD, {}), ({}, OLD)])
def test_the_names_of_a_gb200(machine, old, new):
    small, big = old.get("1g.23gb", "1g.23gb"), old.get("3g.93gb", "3g.93gb")
    host = machine(renames=old)
    assert apply(host, pillars.mig([f"1c.{big}", f"2c.{big}", f"{small}+me", "1g.47gb"])).ok
    before, named = hardware(host), [name for name, *_ in live(host)]
    assert sorted(named) == sorted([big, f"{small}+me", "1g.47gb"])
    host = update_driver(host, new)
    host.reboot()
    assert replay(host)["result"]
    assert hardware(host) == before
    assert [name for name, *_ in live(host)] != named
    assert all(profile_names.parse(ci).gpu_instance == profile_names.parse(name) for name, _, cis in live(host) for ci, _ in cis)


@pytest.mark.parametrize(("old", "new"), [(OLD, {}), ({}, OLD), (renames_of(GB200, 0.99), OLD)])
@pytest.mark.parametrize("same", [True, False])
def test_what_a_crash_left_is_finished_or_undone_after_the_update(machine, old, new, same):
    host = machine(renames=old, addresses=(GPU, OTHER))
    first, second = pillars.mig(["3g.93gb@0", "1g.23gb@6"]), pillars.mig(["1g.23gb"] * 4 + ["1c.2g.47gb"])
    assert apply(host, first).ok
    before = hardware(host)
    host.add_fault(KILL)
    assert crash.in_child(lambda: apply(host, second))
    host.clear_faults()
    # Which of the two had come further can't be told: they change side by side.
    assert Journal(host).unfinished() and not hardware(host) == hardware(host, OTHER) == before
    host = update_driver(host, new)
    result = apply(host, second if same else first)
    assert result.ok, result.errors
    assert Journal(host).unfinished() is None
    assert any(("finished now" if same else "was undone") in line for line in result.warnings)
    assert (hardware(host) == hardware(host, OTHER) == before) is not same
    assert apply(host, second if same else first).plan.empty
    # The history and the record are of use after the update too.
    assert rollback(host, 1).ok
    assert hardware(host) == hardware(host, OTHER) == before


@pytest.mark.parametrize("name", ["3g.93gb@0", "3g.95gb@0", "3G.93GB@0"])
def test_an_instance_goes_by_hand_under_either_name(machine, name):
    host = machine(renames=OLD)
    assert apply(host, pillars.mig(["3g.93gb@0", "1g.23gb@6"])).ok
    with Engine(config(host)) as opened:
        assert opened.reconciler().apply(mig_targets(opened, "one_less", GPU, name)).ok
    assert [(profile, start) for profile, start, _ in hardware(host)] == [(19, 6)]


@pytest.mark.parametrize("again", [True, False])
def test_a_crash_by_hand_is_dealt_with_after_the_update(machine, again):
    host = machine()
    assert apply(host, pillars.mig(["3g.93gb@0", "1g.23gb@6"])).ok
    before = hardware(host)

    def destroy(name):
        with Engine(config(host)) as opened:
            return opened.reconciler().apply(mig_targets(opened, "one_less", GPU, name))

    host.add_fault({"call": "nvmlComputeInstanceDestroy", "kill": "after"})
    assert crash.in_child(lambda: destroy("3g.93gb@0"))
    host.clear_faults()
    host = update_driver(host, OLD)
    assert (destroy("3g.93gb@0") if again else apply(host, pillars.mig(["3g.93gb@0", "1g.23gb@6"]))).ok
    assert Journal(host).unfinished() is None
    assert hardware(host) == ([one for one in before if one[1] == 6] if again else before)


def test_an_undo_keeps_what_another_tool_made_though_all_names_have_changed(machine):
    host = machine()
    assert apply(host, pillars.mig(["3g.93gb@0"])).ok
    host.add_fault({**KILL, "nth": 1})
    assert crash.in_child(lambda: apply(host, pillars.mig(["3g.93gb@0", "1g.23gb@4"])))
    host.clear_faults()
    host.add_fault({"call": "nvmlInit", "foreign": [{"gpu": GPU, "action": "create_gi", "profile": "1g.23gb", "start": 6}]})
    host = update_driver(host, OLD)
    result = apply(host, pillars.mig(["3g.95gb@0", "1g.24gb@6"]))
    assert result.ok, result.errors
    assert result.plan.empty and any("was undone" in line for line in result.warnings)
    assert [(name, start) for name, start, _ in live(host)] == [("3g.95gb", 0), ("1g.24gb", 6)]


def test_a_record_of_another_board_is_told_and_keeps_no_run_from_working(machine):
    host = machine("a100-40gb")
    assert apply(host, pillars.mig(["3g.20gb@0"])).ok
    host.add_fault({**KILL, "nth": 1})
    assert crash.in_child(lambda: apply(host, pillars.mig(["3g.20gb@0", "1g.5gb@4"])))
    host.clear_faults()
    with host.change() as state:
        about = state["gpus"][GPU]["about"]
        about.update(model="a100-80gb", device="20b2", name="NVIDIA A100-SXM4-80GB", memory_mib=81920)
        state["gpus"][GPU]["gis"] = {}
    result = apply(host, pillars.mig(["2g.20gb"]))
    assert result.ok, result.errors
    assert any("It had 3g.20gb before the change" in line for line in result.warnings)
    assert Journal(host).unfinished() is None


@pytest.mark.parametrize(
    ("name", "found"),
    [("1g.24gb", "1g.23gb"), ("1g.47gb", "1g.47gb"), ("1g.48gb", "1g.47gb"), ("7g.189gb", "7g.186gb"), ("3g.92gb", "3g.93gb")],
)
def test_a_name_means_slices_attributes_and_a_share_of_the_memory(name, found):
    assert profile_names.resolve(name, nvidia.mig_table(GB200), {})[0].name == found


@pytest.mark.parametrize("name", ["1g.25gb", "1g.24gb+gfx", "2g.93gb", "7g.180gb", "1g.35gb"])
def test_a_name_of_another_board_means_nothing(name):
    with pytest.raises(errors.ProfileMismatch, match="does not exist on this GPU"):
        profile_names.resolve(name, nvidia.mig_table(GB200), nvidia.aliases(GB200))


def test_names_of_other_boards_stay_unknown_on_every_model():
    for key in MODELS:
        table = nvidia.mig_table(key)
        for profile in (profile for other in MODELS for profile in nvidia.mig_table(other).profiles):
            name = profile_names.parse(profile.name)
            own = (profile_names.parse(each.name) for each in table.profiles)
            near = [one.gb for one in own if (one.slices, one.attributes) == (name.slices, name.attributes)]
            if not any(abs(name.gb - gb) <= max(1, 0.05 * gb) for gb in near):
                with pytest.raises(errors.ProfileMismatch):
                    profile_names.resolve(profile.name, table, nvidia.aliases(key))


# -- the simulated driver ------------------------------------------------------------------------------------------------
def test_an_update_of_the_simulated_driver_leaves_the_machine_as_it_is(machine):
    host = machine()
    assert apply(host, pillars.mig(["1g.23gb"])).ok
    before, slices = hardware(host), uuids(host)
    host = update_driver(host, OLD)
    assert hardware(host) == before and uuids(host) == slices
    assert [name for name, *_ in live(host)] == ["1g.24gb"]


def test_a_description_of_another_machine_is_no_update(machine):
    host = machine()
    host.state()
    with open(host.description_path, "a", encoding="utf-8") as handle:
        handle.write("virtualization: virtual_host\n")
    with pytest.raises(errors.PolicyError, match="changed since the simulated host"):
        SimulatedHost(host.description_path, host.state_dir).state()


# -- vGPUs with a MIG instance each ----------------------------------------------------------------------------------------
VGPU = {"model": GB200, "address": GPU, "vgpu": "vfio", "sriov_totalvfs": 16, "vf_offset": 4}
#: A later driver that names profiles and types alike.
ALIKE = {"NVIDIA GB200-1-24C": "NVIDIA GB200-1-23C", "NVIDIA GB200-3-95C": "NVIDIA GB200-3-93C"}
TYPES = {"GB200-3-95C": 1, "GB200-1-24C": 2}


def vgpu_pillar(types):
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "vgpu", "vgpu": {"profiles": types}}}


def vgpus(host):
    """The vGPUs of the machine by the numbers of their types, with the GPU instances behind them."""
    return sorted((vgpu["type"], vgpu["function"], vgpu["gi"]) for vgpu in host.state()["gpus"][GPU]["vgpu_memory"]["vgpus"])


@pytest.mark.parametrize(("old", "new"), [({}, {**OLD, **ALIKE}), ({**OLD, **ALIKE}, {}), ({}, ALIKE)])
def test_vgpus_with_a_mig_instance_come_back_after_the_update(simulated, old, new):
    host = simulated("vgpu-host-vfio", gpus=[VGPU], processes=[], driver={"renames": old})
    assert apply(host, vgpu_pillar(TYPES)).ok
    there, instances = vgpus(host), hardware(host)
    host = update_driver(host, new)
    assert apply(host, vgpu_pillar(TYPES)).plan.empty and apply(host, export(host)).plan.empty
    assert vgpus(host) == there
    assert apply(host, vgpu_pillar({"GB200-2-47C": 2})).ok
    assert rollback(host, 1).ok
    assert ([one[:2] for one in vgpus(host)], hardware(host)) == ([one[:2] for one in there], instances)
    host = update_driver(host, old)
    host.reboot()
    answer = replay(host)
    assert answer["result"], answer["comment"]
    assert ([one[:2] for one in vgpus(host)], hardware(host)) == ([one[:2] for one in there], instances)


@pytest.mark.parametrize("same", [True, False])
def test_a_crash_among_vgpus_is_finished_or_undone_after_the_update(simulated, same):
    host = simulated("vgpu-host-vfio", gpus=[VGPU], processes=[])
    assert apply(host, vgpu_pillar(TYPES)).ok
    there, instances = vgpus(host), hardware(host)
    host.add_fault({**KILL, "nth": 1})
    assert crash.in_child(lambda: apply(host, vgpu_pillar({"GB200-2-47C": 1, "GB200-1-24C": 2})))
    host.clear_faults()
    host = update_driver(host, {**OLD, **ALIKE})
    result = apply(host, vgpu_pillar({"GB200-2-47C": 1, "GB200-1-24C": 2} if same else TYPES))
    assert result.ok, result.errors
    assert Journal(host).unfinished() is None
    same_again = ([one[:2] for one in vgpus(host)], hardware(host)) == ([one[:2] for one in there], instances)
    assert same_again is not same
