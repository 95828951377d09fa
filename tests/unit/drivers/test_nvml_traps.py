"""
What breaks naive users of NVML, fact by fact: the simulated library has the trap, and the engine does not step into it.
"""

import ctypes
from dataclasses import replace

import pynvml
import pytest
import yaml

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.drivers.nvml import IN_USE
from gpuslice.drivers.nvml import INSUFFICIENT_RESOURCES
from gpuslice.drivers.nvml import RESET_REQUIRED
from gpuslice.drivers.nvml import translate
from gpuslice.drivers.nvml_mig import MigNvml
from gpuslice.drivers.nvml_mig import profile_name
from gpuslice.drivers.sessions import Sessions
from gpuslice.engine import Engine
from gpuslice.inventory import discovery
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.technique import Mig
from tests.support import pillars
from tests.support.hosts import config
from tests.support.techniques import plan_one

A100, A30, H100 = "0000:07:00.0", "0000:41:00.0", "0000:1b:00.0"
SERVER, WORKSTATION = "0000:16:00.0", "0000:ac:00.0"


@pytest.fixture
def box(tmp_path):
    """``box("a100-40gb", mig="enabled", host={...})``: a host with one such GPU at the address ``A100``."""
    count = 0

    def make(model, host=None, **gpu):
        nonlocal count
        count += 1
        path = tmp_path / f"box{count}.yaml"
        gpus = [{"model": model, "address": A100, **gpu}]
        path.write_text(yaml.safe_dump({"name": f"box{count}", "gpus": gpus, **(host or {})}), encoding="utf-8")
        return SimulatedHost(str(path), str(tmp_path / f"state{count}"))

    return make


def apply(host, profiles, **mig):
    with Engine(config(host)) as engine:
        return engine.apply(pillars.for_all("mig", {"profiles": profiles, **mig}))


def names(host):
    with Engine(config(host)) as engine:
        return sorted(part["profile"] for part in engine.slices())


def opened(host):
    lib = host.nvml()
    lib.nvmlInit()
    return lib, lib.nvmlDeviceGetHandleByIndex(0)


def table(host, address=A100):
    [gpu] = [each for each in discovery.discover(host) if each.address == address]
    return Mig(host, Sessions(host)).table(gpu)


# -- 1: enum and id ---------------------------------------------------------------------------------------------------
def test_the_enum_to_ask_with_is_not_the_id_to_create_with(simulated):
    """Fact 1."""
    profiles = {profile.name: profile for profile in table(simulated("dgx-a100-40gb")).profiles}
    assert (profiles["3g.20gb"].enum, profiles["3g.20gb"].id) == (2, 9)
    assert (profiles["1g.5gb"].enum, profiles["1g.5gb"].id) == (0, 19)
    assert all(profile.enum != profile.id for profile in profiles.values())


def test_instances_are_made_of_the_profile_that_was_named(box):
    """Fact 1: creating with the enum 2 of a 3g would be another profile, or none."""
    host = box("a100-40gb", mig="enabled")
    assert apply(host, ["3g.20gb", "2g.10gb"]).ok
    lib, device = opened(host)
    found = {}
    for profile_id in (9, 14):
        [gi] = gis(lib, device, profile_id)
        found[lib.nvmlGpuInstanceGetInfo(gi).profileId] = lib.nvmlGpuInstanceGetInfo(gi).placement.size
    assert found == {9: 4, 14: 2}


def gis(lib, device, profile_id):
    array, count = (pynvml.c_nvmlGpuInstance_t * 8)(), ctypes.c_uint(8)
    lib.nvmlDeviceGetGpuInstances(device, profile_id, array, ctypes.byref(count))
    return [array[n] for n in range(count.value)]


def test_the_same_id_is_another_profile_in_another_family(simulated):
    """Fact 1 and the table of ids: 14, 5 and 0 mean different things on 7-slice and 4-slice GPUs."""
    seven = table(simulated("dgx-a100-40gb"))
    four = table(simulated("a30-pair"), A30)
    assert {number: (seven.by_id(number).name, four.by_id(number).name) for number in (14, 5, 0)} == {
        14: ("2g.10gb", "1g.6gb"),
        5: ("4g.20gb", "2g.12gb"),
        0: ("7g.40gb", "4g.24gb"),
    }


def test_the_listing_ends_with_invalid_argument_and_holes_are_passed_over(box):
    """Fact 1: a driver of 2025 has 18 enums with holes in them, one of 2021 has 8; neither number is built in."""
    new, old = table(box("a100-80gb", mig="enabled")), table(box("a100-80gb", {"nvml_level": "r510"}, mig="enabled"))
    assert {"1g.20gb", "7g.80gb"} <= {profile.name for profile in new.profiles}
    assert {profile.name for profile in new.profiles} - {profile.name for profile in old.profiles} == {"1g.20gb"}


# -- 2: SetMigMode answers by its return value ------------------------------------------------------------------------
def test_in_use_is_an_answer_and_no_exception(box):
    """Fact 2: a mode change that was refused looks like a success to whoever waits for an exception."""
    host = box("h100-80gb", {"processes": [{"pid": 99, "command": "train", "gpu": A100}]})
    nvml = MigNvml(host)
    assert nvml.set_mig_mode(A100, True) == IN_USE
    assert nvml.mig_mode(A100) == (False, False)
    result = apply(host, ["1g.10gb"])
    assert not result.ok
    assert "in use by pid 99 (train)" in result.errors[0] and A100 in result.errors[0]


def test_a_status_that_turns_up_only_at_the_call_fails_the_change(box):
    """Fact 2: nobody was there when the plan was made, and the driver still says "in use"."""
    host = box("h100-80gb", {"faults": [{"call": "nvmlDeviceSetMigMode", "returns": "NVML_ERROR_IN_USE"}]})
    result = apply(host, ["1g.10gb"])
    assert not result.ok and "enable MIG mode" in result.errors[0] and "in use" in result.errors[0]
    assert host.state()["gpus"][A100]["mode"] == 0


def test_reset_required_is_an_answer_and_no_exception(box):
    """Fact 2: the setting is stored, and a reset is owed."""
    host = box("a100-40gb", reset="tool")
    nvml = MigNvml(host)
    assert nvml.set_mig_mode(A100, True) == RESET_REQUIRED
    assert nvml.mig_mode(A100) == (False, True)


def test_a_mode_call_that_lies_is_not_believed(box):
    """Fact 2: the mode is read again, whatever the call answered."""
    host = box("h100-80gb", {"faults": [{"call": "nvmlDeviceSetMigMode", "lie": True}]})
    result = apply(host, ["1g.10gb"])
    assert not result.ok and A100 in result.errors[0] and "still disabled" in result.errors[0]


# -- 3, 4: what needs a reset, what lasts -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "resets", "survives"),
    [("a100-40gb", 1, True), ("a30-24gb", 1, True), ("h100-80gb", 0, False), ("b200-180gb", 0, False)],
)
def test_generations_differ_in_reset_and_memory_of_the_mode(box, model, resets, survives):
    """Facts 3 and 4: the plan has a reset exactly where the generation needs one; instances never outlive a boot."""
    host = box(model, reset="tool")
    with Engine(config(host)) as engine:
        smallest = engine.techniques("mig", A100)[0][0][1].table(engine.gpu(A100)).profiles[0].name
        plan = engine.plan(pillars.mig([smallest]))
        assert [step.action for step in plan.steps].count("reset") == resets
    assert apply(host, [smallest]).ok
    host.reboot()
    assert MigNvml(host).mig_mode(A100) == (survives, survives)
    assert names(host) == []
    assert apply(host, [smallest]).ok
    assert names(host) == [smallest]


def test_a_driver_too_old_to_tell_is_judged_by_the_model(box):
    """Fact 3: the field that says "no reset needed" is younger than the first Hopper drivers."""
    host = box("h100-80gb", {"nvml_level": "r525"})
    with Engine(config(host)) as engine:
        assert "reset" not in [step.action for step in engine.plan(pillars.mig(["7g.80gb"])).steps]


# -- 5: a GPU instance alone is nothing -------------------------------------------------------------------------------
def test_every_gpu_instance_gets_a_compute_instance(box):
    """Fact 5."""
    host = box("a100-40gb", mig="enabled")
    result = apply(host, {"1g.5gb": 3})
    made = [step.action for step in result.plan.steps]
    assert made.count("create_gi") == made.count("create_ci") == 3
    assert len(names(host)) == 3


def test_a_gpu_instance_without_one_is_no_slice_and_is_completed(box):
    """Fact 5: an instance that another tool left half made is kept, and gets what it lacks."""
    host = box("a100-40gb", mig="enabled", instances=[{"profile": "3g.20gb", "start": 4, "cis": []}])
    assert names(host) == []
    result = apply(host, ["3g.20gb"])
    assert result.ok and [step.action for step in result.plan.steps] == ["create_ci"]
    assert names(host) == ["3g.20gb"]


# -- 6: placements ----------------------------------------------------------------------------------------------------
def test_an_order_that_the_driver_can_not_place_is_placed_by_us(box):
    """Fact 6: 1g, 1g, 2g, 3g fails when the driver chooses; the layout as such is legal."""
    host = box("a100-40gb", mig="enabled")
    lib, device = opened(host)
    for profile_id in (19, 19, 14):
        lib.nvmlDeviceCreateGpuInstance(device, profile_id)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        lib.nvmlDeviceCreateGpuInstance(device, 9)
    host.reset()
    assert apply(host, ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]).ok
    assert names(host) == ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]


def test_a_placement_is_handed_over_by_reference(box):
    """Fact 6: the binding does not turn a placement into the pointer that the library wants."""
    lib, device = opened(box("a100-40gb", mig="enabled"))
    place = pynvml.c_nvmlGpuInstancePlacement_t(0, 4)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, place)
    assert lib.nvmlGpuInstanceGetInfo(lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, ctypes.byref(place))).id == 1


def test_the_place_is_the_one_that_was_asked_for(box):
    """Fact 6: driver and engine would both choose others."""
    host = box("a100-40gb", mig="enabled")
    assert apply(host, ["1g.5gb@3", "2g.10gb@0"]).ok
    with Engine(config(host)) as engine:
        assert sorted((part["profile"], part["placement"]) for part in engine.slices()) == [
            ("1g.5gb", "3:1"),
            ("2g.10gb", "0:2"),
        ]


def test_the_place_is_read_and_not_derived_from_the_id(box):
    """Ids are neither dense nor in the order of creation, and indices of MIG devices have holes."""
    host = box("a100-40gb", mig="enabled", instances=["1g.5gb@0", "1g.5gb@6"])
    nvml = MigNvml(host)
    found = nvml.instances(A100, table(host))
    assert [(gi.id, gi.start) for gi in found] == [(7, 0), (13, 6)]
    nvml.destroy_ci(A100, 7, 0)
    nvml.destroy_gi(A100, 7)
    [(key, (_, uuid))] = nvml.mig_devices(A100).items()
    assert key == (13, 0) and uuid.startswith("MIG-")


# -- 7: no "already exists" -------------------------------------------------------------------------------------------
def test_an_occupied_place_is_told_as_lack_of_resources(box):
    """Fact 7."""
    host = box("a100-40gb", mig="enabled", instances=["3g.20gb@4"])
    lib, device = opened(host)
    place = pynvml.c_nvmlGpuInstancePlacement_t(4, 4)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, ctypes.byref(place))
    nvml = MigNvml(host)
    with pytest.raises(errors.ForeignChange, match=r"3g\.20gb at memory slice 4.*occupied"):
        nvml.create_gi(A100, table(host).profile("3g.20gb"), 4)


def test_what_exists_is_seen_and_not_made_again(box):
    """Fact 7: idempotence comes from reading; not one call that changes something is made."""
    host = box("a100-40gb", mig="enabled", instances=["3g.20gb@4"])
    with Engine(config(host)) as engine:
        result = engine.apply(pillars.mig(["3g.20gb"]))
        assert result.ok and result.plan.empty
        assert not [call for call in engine.tools.get("mig").nvml.calls if "Create" in call or "Destroy" in call or "Set" in call]


# -- 8: names and sizes differ between drivers ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "meant"),
    [("1g.24gb", "1g.23gb"), ("1g.24gb+me", "1g.23gb+me"), ("3g.95gb", "3g.93gb"), ("1c.3g.95gb", "1c.3g.93gb")],
)
def test_the_name_of_another_driver_version_is_understood(box, written, meant):
    """Fact 8: GB200 boards called their smallest profile 1g.24gb, then 1g.23gb."""
    host = box("gb200-186gb", mig="enabled")
    assert apply(host, [written]).ok
    assert names(host) == [meant]
    assert apply(host, [meant]).plan.empty
    assert apply(host, [written]).plan.empty


def test_names_follow_the_rule_where_the_driver_tells_none(box):
    """Fact 8: the first form of the profile info has no name; the rule gives those that users know."""
    for model, gpu in (("a100-40gb", {}), ("a30-24gb", {})):
        told = table(box(model, mig="enabled", **gpu))
        counted = table(box(model, {"nvml_level": "r470"}, mig="enabled", **gpu))
        old = {profile.name for profile in counted.profiles}
        assert old and old <= {profile.name for profile in told.profiles}


def test_the_older_rounding_is_not_ours():
    """Fact 8: rounding the memory plainly made 7g.79gb of an 80 GB board."""
    assert profile_name(7, 81089, 81920) == "7g.80gb"
    assert profile_name(1, 9728, 81920, ("me",)) == "1g.10gb+me"


def test_megabytes_are_shown_and_never_compared(box):
    """Fact 8: another driver reports another size for the same instance; it is still the one that was wanted."""
    host = box("a100-40gb", mig="enabled", instances=["3g.20gb@4"], memory_mib=40000)
    assert apply(host, ["3g.20gb"]).plan.empty


# -- 9: one id, two boards --------------------------------------------------------------------------------------------
def test_boards_that_share_an_id_are_told_apart_by_their_subsystem(box):
    """Fact 9: 2bb3 has 48 or 72 GB."""
    found = {}
    for subsystem in ("10de:204d", "10de:227a"):
        model = "rtx-pro-5000-48gb" if subsystem.endswith("204d") else "rtx-pro-5000-72gb"
        [gpu] = discovery.discover(box(model, device="2bb3", subsystem_id=subsystem))
        found[subsystem] = (gpu.catalog_key, gpu.memory_mib)
    assert found["10de:204d"][0] == "rtx-pro-5000-48gb"
    assert found["10de:227a"][0] == "rtx-pro-5000-72gb"
    assert found["10de:204d"] != found["10de:227a"]


# -- 10: published tables are wrong -----------------------------------------------------------------------------------
@pytest.mark.parametrize("key", ["h100-80gb", "h200-141gb", "b200-180gb"])
def test_our_tables_are_not_those_of_the_public_mocks(key):
    """Fact 10: there a 3g takes 3 slices, a 7g takes 7, and the id is the enum."""
    known = nvidia.mig_table(key)
    [half] = [profile for profile in known.profiles if profile.slices == 3]
    [whole] = [profile for profile in known.profiles if profile.slices == 7]
    [double] = [profile for profile in known.profiles if profile.enum == 9]
    assert (half.size, half.starts, half.id) == (4, (0, 4), 9)
    assert (whole.size, whole.starts, whole.id) == (8, (0,), 0)
    assert (double.size, double.starts, double.id) == (2, (0, 2, 4, 6), 15)


# -- 11: UUIDs --------------------------------------------------------------------------------------------------------
def test_uuids_change_with_the_instance_and_only_with_it(box):
    """Fact 11."""
    host = box("a100-40gb", mig="enabled")
    assert apply(host, ["3g.20gb@4", "1g.5gb@0"]).ok

    def uuids():
        with Engine(config(host)) as engine:
            return {part["profile"]: part["uuid"] for part in engine.slices()}

    first = uuids()
    assert apply(host, ["3g.20gb@4"]).ok and apply(host, ["3g.20gb@4", "1g.5gb@0"]).ok
    second = uuids()
    assert second["3g.20gb"] == first["3g.20gb"]
    assert second["1g.5gb"] != first["1g.5gb"]


def test_layouts_that_are_kept_carry_no_uuid(box):
    """Fact 11: what is stored to be compared or restored later would be stale at once."""
    host = box("a100-40gb", mig="enabled")
    assert apply(host, ["3g.20gb"]).ok
    with Engine(config(host)) as engine:
        [entry] = engine.history()
        assert "MIG-" not in str(entry["before"]) + str(entry["after"])


# -- 13, 14: see test_faults (kept slices) and test_reconcile (only the GPU with the pending mode is reset) -----------


# -- 16: what a GPU in MIG mode does not answer -----------------------------------------------------------------------
def test_questions_that_a_gpu_in_mig_mode_refuses_are_no_illness(box):
    """Fact 16: volatile ECC counts, for one, are refused; a healthy GPU stays healthy."""
    host = box("a100-40gb", mig="enabled", instances=["1g.5gb@0"])
    lib, device = opened(host)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceGetTotalEccErrors(device, 1, 0)
    with Engine(config(host)) as engine:
        assert engine.health() == {A100: []}
    assert apply(host, ["2g.10gb"]).ok


# -- 19: boards that hide MIG -----------------------------------------------------------------------------------------
def test_a_workstation_board_says_how_mig_comes_out(simulated):
    """Fact 19: NOT_SUPPORTED there is a setting, and the sentence names the tool and its option."""
    host = simulated("rtx-pro-6000")
    rule = {"match": {"pci": WORKSTATION}, "strategy": "mig", "mig": {"profiles": ["1g.24gb"]}}
    wanted = {"containers_gpu_slicing": {"enabled": True, "devices": [rule]}}
    with Engine(config(host)) as engine, pytest.raises(errors.Unsupported) as caught:
        engine.apply(wanted)
    assert WORKSTATION in str(caught.value)
    assert "displaymodeselector" in str(caught.value) and "compute" in str(caught.value)


def test_the_server_board_beside_it_works(simulated):
    """Fact 19."""
    host = simulated("rtx-pro-6000")
    rule = {"match": {"pci": SERVER}, "strategy": "mig", "mig": {"profiles": {"1g.24gb": 4}}}
    with Engine(config(host)) as engine:
        assert engine.apply({"containers_gpu_slicing": {"enabled": True, "devices": [rule]}}).ok
    assert names(host) == ["1g.24gb"] * 4


# -- 20: which package ------------------------------------------------------------------------------------------------
def test_the_binding_is_the_maintained_one(repo):
    """Fact 20: the package that is itself called pynvml is only a wrapper, and warns that it is deprecated."""
    text = (repo / "pyproject.toml").read_text(encoding="utf-8")
    assert '"nvidia-ml-py' in text and '"pynvml' not in text


# -- more: counts, versions, guests -----------------------------------------------------------------------------------
def test_counts_of_the_a30_come_from_the_catalog(simulated):
    """The board reports wrong counts of instances; those that fit are 4, 2 and 1."""
    counts = {profile.name: profile.count for profile in table(simulated("a30-pair"), A30).profiles}
    assert {name: counts[name] for name in ("1g.6gb", "2g.12gb", "4g.24gb")} == {"1g.6gb": 4, "2g.12gb": 2, "4g.24gb": 1}


@pytest.mark.parametrize("level", ["r470", "r510", "r525", "r535", "r550", "newest"])
def test_every_driver_branch_reaches_the_same_layout(box, level):
    """Old drivers lack the second profile info, or tell profiles only while MIG is on, or can't place compute instances."""
    host = box("a100-40gb", {"nvml_level": level}, reset="auto")
    result = apply(host, ["3g.20gb", "1g.5gb", "1g.5gb"])
    assert result.ok, result.errors
    assert names(host) == ["1g.5gb", "1g.5gb", "3g.20gb"]
    assert apply(host, ["3g.20gb", "1g.5gb", "1g.5gb"]).plan.empty


def test_a_plan_made_from_the_catalog_is_checked_against_the_driver(box):
    """Around R535 profiles are told only once MIG is on; one that the driver then does not have ends in the state before."""
    host = box("a100-80gb", {"nvml_level": "r510"})
    with Engine(config(host)) as engine:
        engine.plan(pillars.mig(["1g.20gb"]))
    result = apply(host, ["1g.20gb"])
    assert not result.ok
    text = " ".join(result.errors)
    assert A100 in text and "1g.20gb" in text and "1g.10gb" in text
    assert MigNvml(host).mig_mode(A100) == (False, False)
    assert names(host) == []


def test_a_model_that_nobody_knows_says_what_to_do_first(box):
    """No catalog entry and a driver that tells nothing yet: the way out is in the sentence."""
    host = box("a100-40gb", {"nvml_level": "r510"})
    [gpu] = discovery.discover(host)
    unknown = replace(gpu, device_id="ffff", catalog_key="")
    with pytest.raises(errors.Unsupported) as caught:
        Mig(host, Sessions(host)).table(unknown)
    assert A100 in str(caught.value) and "ffff" in str(caught.value) and "gpu_mig.set_mode" in str(caught.value)
    MigNvml(host).set_mig_mode(A100, True)
    assert Mig(host, Sessions(host)).table(unknown).profile("3g.20gb")


def test_a_name_that_no_driver_uses_lists_what_there_is():
    """A wrong name never becomes the nearest one by itself."""
    with pytest.raises(errors.ProfileMismatch, match=r"1g\.5gb.*nearest"):
        profile_names.resolve("1g.6gb", nvidia.mig_table("a100-40gb"), {}, A100)


def test_a_guest_with_a_vgpu_is_told_where_to_go(box):
    """The mode of a vGPU is its host's to change, and NVML's "not supported" does not say so."""
    host = box("a100-40gb", vgpu_guest=True)
    assert MigNvml(host).is_vgpu_guest(A100)
    mig = Mig(host, Sessions(host))
    [gpu] = discovery.discover(host)
    with pytest.raises(errors.Unsupported, match="only the host can change"):
        plan_one(mig, gpu, mig.observe(gpu), {"entries": [("1g.5gb", None, 1)]})


def test_handles_are_looked_up_anew_after_a_mode_change(box):
    """A handle means nothing after the mode changed; the same session goes on working."""
    host = box("h100-80gb")
    nvml = MigNvml(host)
    stale = nvml.handle(A100)
    assert nvml.set_mig_mode(A100, True) == 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        host.nvml().nvmlDeviceGetMigMode(stale)
    assert nvml.mig_mode(A100) == (True, True)


def test_our_own_session_does_not_stand_in_the_way_of_a_reset(box):
    """An open NVML session of ours counts as a client of the GPU."""
    host = box("a100-40gb", reset="tool")
    nvml = MigNvml(host)
    nvml.set_mig_mode(A100, True)
    assert host.run(["nvidia-smi", "--gpu-reset", "-i", A100]).returncode != 0
    nvml.close()
    assert host.run(["nvidia-smi", "--gpu-reset", "-i", A100]).returncode == 0
    assert nvml.mig_mode(A100) == (True, True)


def test_a_destroy_that_finds_nothing_counts_as_done(box):
    """Between reading and destroying an instance can be gone."""
    host = box("a100-40gb", mig="enabled")
    nvml = MigNvml(host)
    nvml.destroy_ci(A100, 7, 0)
    nvml.destroy_gi(A100, 7)
    assert nvml.instances(A100, table(host)) == ()


@pytest.mark.parametrize("pauses", [1, 2, 3])
def test_in_use_for_a_moment_after_the_last_process_is_waited_out(box, pauses):
    """The driver says "in use" for some tenths of a second after the last compute instance went."""
    fault = {"call": "nvmlGpuInstanceDestroy", "times": pauses, "error": "NVML_ERROR_IN_USE"}
    host = box("a100-40gb", {"faults": [fault]}, mig="enabled", instances=["7g.40gb@0"])
    assert apply(host, ["1g.5gb"]).ok
    assert names(host) == ["1g.5gb"]


@pytest.mark.parametrize("code", sorted(set(pynvml.NVMLError._valClassMapping)))
def test_every_code_of_nvml_becomes_a_sentence_with_a_way_on(code):
    """None leaves as a number alone, and each has the GPU and what to do in it."""
    err = translate(pynvml.NVMLError(code), A100, "create GPU instance 3g.20gb at memory slice 4")
    assert isinstance(err, errors.GpuSliceError)
    assert A100 in str(err) and "create GPU instance 3g.20gb" in str(err) and err.todo.endswith(".")


def test_a_code_of_the_future_is_a_sentence_too():
    """A library newer than the binding answers with numbers that nobody knows."""
    err = translate(pynvml.NVMLError(INSUFFICIENT_RESOURCES + 7000), A100, "read the MIG mode")
    assert isinstance(err, errors.DriverError) and A100 in str(err)
