"""
NVIDIA vGPU on a host, from the pillar to the hardware: through the stages, by hand, with everything that can be wrong.
"""


import pytest

from tests.support import pillars
from tests.support.stages import machine
from tests.support.stages import refused
from tests.support.stages import stages

VFIO, MDEV = "vgpu-host-vfio", "vgpu-host-mdev"
H100, OTHER, A100, T4 = "0000:41:00.0", "0000:a1:00.0", "0000:3b:00.0", "0000:86:00.0"
FIRST = "0000:41:00.4"


def only(gpu, **vgpu):
    """The pillar that asks for vGPUs on one GPU alone."""
    management = vgpu.pop("management", {})
    return pillars.for_gpu(gpu, "vgpu", vgpu, **management)


def vgpus(minion, gpu):
    """The types of the GPU's vGPUs, by where they are."""
    return {part.get("address") or part["uuid"]: part["profile"] for part in minion.call("gpu_vgpu.vgpus", gpu)}


def guest(minion, at, **more):
    """A process that holds the vGPU at that function open, as the monitor of its virtual machine does."""
    node = next(part["device_nodes"][0] for part in minion.call("gpu_vgpu.vgpus", H100) if part["address"] == at)
    return {"pid": 4242, "command": "qemu-system-x86_64", "nodes": [node], **more}


# -- from the pillar -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "gpu", "settings", "expected"),
    [
        (VFIO, H100, {"profile": "H100XM-10C"}, ["H100XM-10C"] * 8),
        (VFIO, H100, {"profile": "nvidia h100xm-20c", "count": 3, "scheduler": "fixed-share"}, ["H100XM-20C"] * 3),
        (VFIO, H100, {"profiles": {"H100XM-40C": 1, "H100XM-20C": 2}}, ["H100XM-20C"] * 2 + ["H100XM-40C"]),
        (VFIO, H100, {"profiles": {"H100XM-3-40C": 1, "H100XM-1-10C": 2}}, ["H100XM-1-10C"] * 2 + ["H100XM-3-40C"]),
        (MDEV, A100, {"profile": "A100D-20C", "count": 2}, ["A100D-20C"] * 2),
        (MDEV, A100, {"profile": "A100D-2-20C"}, ["A100D-2-20C"] * 3),
        (MDEV, T4, {"profile": "GRID T4-4Q", "count": 3}, ["T4-4Q"] * 3),
    ],
)
def test_test_then_apply_then_nothing_left(minion, host, gpu, settings, expected):
    box, wanted = minion(host), only(gpu, **settings)
    untouched = machine(box.host)
    well, comment, planned = stages(box, wanted, test=True)
    assert well and machine(box.host) == untouched
    assert expected[0] in comment
    well, comment, done = stages(box, wanted)
    assert well, comment
    assert set(done) == {gpu}
    assert sorted(vgpus(box, gpu).values()) == expected
    settled = machine(box.host)
    for test in (False, True):
        assert stages(box, wanted, test)[::2] == (True, {})
    assert machine(box.host) == settled
    assert done == planned
    assert box.call("gpu_vgpu.status", gpu).get("scheduler") == settings.get("scheduler")


def test_from_mig_to_several_sizes_with_a_policy(minion):
    box = minion(VFIO)
    assert stages(box, only(H100, profile="H100XM-3-40C"))[0]
    wanted = only(H100, profiles={"H100XM-40C": 1, "H100XM-20C": 1}, scheduler="equal-share")
    well, comment, _ = stages(box, wanted)
    assert well, comment
    assert sorted(vgpus(box, H100).values()) == ["H100XM-20C", "H100XM-40C"]
    assert stages(box, wanted)[::2] == (True, {})


@pytest.mark.parametrize("host", [VFIO, MDEV])
def test_functions_whose_addresses_the_device_does_not_tell_before(minion, host):
    gpu, profile = (H100, "H100XM-20C") if host == VFIO else (A100, "A100D-20C")
    files = {f"/sys/bus/pci/devices/{gpu}/sriov_{name}": "0" for name in ("offset", "stride")}
    box, wanted = minion(host, changes={"files": files}), only(gpu, profile=profile, count=2)
    before = machine(box.host)["gpus"][gpu]["numvfs"]
    box.host.add_fault({"call": "write", "nth": 2, "error": "EIO"})
    well, comment, _ = stages(box, wanted)
    assert not well and "has been undone" in comment and machine(box.host)["gpus"][gpu]["numvfs"] == before == 0
    well, comment, _ = stages(box, wanted)
    assert well, comment
    assert list(vgpus(box, gpu).values()) == [profile] * 2
    assert stages(box, wanted)[::2] == (True, {})


def test_what_is_exported_changes_nothing(minion):
    box = minion(VFIO)
    assert stages(box, pillars.vgpu(profiles={"H100XM-40C": 1, "H100XM-20C": 1}))[0]
    exported = box.call("gpu_slicing.export")
    rules = exported["containers_gpu_slicing"]["devices"]
    assert [rule["vgpu"] for rule in rules] == [{"profiles": {"H100XM-20C": 1, "H100XM-40C": 1}}] * 2
    assert stages(box, exported)[::2] == (True, {})


def test_a_mediated_device_has_the_same_uuid_after_it_came_back(minion):
    box, wanted = minion(MDEV), only(T4, profile="T4-8Q")
    assert stages(box, wanted)[0]
    first = vgpus(box, T4)
    assert len(first) == 2 and all(len(uuid) == 36 for uuid in first)
    box.host.reboot()
    assert vgpus(box, T4) == {}
    assert stages(box, wanted)[0]
    assert vgpus(box, T4) == first


@pytest.mark.parametrize("settings", [{"profile": "H100XM-20C", "scheduler": "equal-share"}, {"profile": "H100XM-3-40C"}])
def test_a_boot_brings_vgpus_back(minion, settings):
    box = minion(VFIO)
    assert stages(box, only(H100, **settings))[0]
    before, status = vgpus(box, H100), box.call("gpu_vgpu.status", H100)
    box.host.reboot()
    assert vgpus(box, H100) == {}
    told = box.call("gpu_boot.replay")
    assert told["result"], told
    assert vgpus(box, H100) == before and box.call("gpu_vgpu.status", H100) == status


def test_fewer_are_wanted_and_the_one_in_use_stays(minion):
    box = minion(VFIO)
    assert stages(box, only(H100, profile="H100XM-10C", count=4))[0]
    used = "0000:41:00.7"
    box.host.add_process(guest(box, used))
    well, comment, _ = stages(box, only(H100, profile="H100XM-10C", count=1))
    assert well, comment
    assert vgpus(box, H100) == {used: "H100XM-10C"}
    [part] = box.call("gpu.slices", H100)
    assert (part["kind"], part["address"], part["memory_mib"]) == ("vgpu", used, 10240)
    assert [holder["pid"] for holder in part["in_use_by"]] == [4242]


def test_a_vgpu_behind_mig_keeps_its_instance_when_another_goes(minion):
    box = minion(VFIO)
    assert stages(box, only(H100, profiles={"H100XM-1-10C": 3}))[0]
    at = sorted(vgpus(box, H100))[-1]
    box.host.add_process(guest(box, at))
    well, comment, _ = stages(box, only(H100, profiles={"H100XM-1-10C": 1, "H100XM-3-40C": 1}))
    assert well, comment
    assert vgpus(box, H100)[at] == "H100XM-1-10C"


def test_auto_takes_vgpus_on_a_host_of_virtual_machines(minion):
    box = minion(VFIO)
    wanted = {"containers_gpu_slicing": {"enabled": True, "strategy": "auto", "vgpu": {"profile": "H100XM-40C"}}}
    well, comment, changes = stages(box, wanted)
    assert well and set(changes) == {H100, OTHER}, comment
    assert "auto picks vgpu on virtual_host instead of sriov" in comment
    assert vgpus(box, H100) == {FIRST: "H100XM-40C", "0000:41:00.5": "H100XM-40C"}


# -- everything that can be wrong ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "gpu", "settings", "words"),
    [
        (VFIO, H100, {"profile": "H100XM-11C"}, [H100, "no vGPU type H100XM-11C", "Did you mean H100XM-1", "H100XM-40C"]),
        (VFIO, H100, {"profile": "H100XM-20C", "count": 5}, [H100, "5 vGPUs", "can have 4"]),
        (VFIO, H100, {"profiles": {"H100XM-40C": 2, "H100XM-20C": 1}}, [H100, "102400 MiB", "81920 MiB"]),
        (VFIO, H100, {"profiles": {"H100XM-40C": 1, "H100XM-3-40C": 1}}, [H100, "don't go together"]),
        (VFIO, H100, {"profiles": {"H100XM-4-40C": 1, "H100XM-2-20C": 2}}, [H100]),
        (VFIO, H100, {"profile": "H100XM-3-40C", "scheduler": "equal-share"}, [H100, "scheduling policy", "Leave"]),
        (VFIO, H100, {"license_server": "licence.example.com"}, [H100, "no type is named", "vgpu:profile"]),
    ],
)
def test_what_can_not_be_is_a_sentence_and_changes_nothing(minion, host, gpu, settings, words):
    refused(minion(host), only(gpu, **settings), *words)


def test_a_vgpu_in_use_is_not_removed_and_its_holder_is_named(minion):
    box = minion(VFIO)
    assert stages(box, only(H100, profile="H100XM-10C", count=2))[0]
    box.host.add_process(guest(box, FIRST, unit="machine-qemu.scope"))
    refused(box, only(H100, profile="H100XM-20C"), H100, FIRST, "pid 4242", "machine-qemu.scope", "force")
    forced = only(H100, profile="H100XM-20C", management={"apply_strategy": "force"})
    well, comment, _ = stages(box, forced)
    assert well, comment
    assert set(vgpus(box, H100).values()) == {"H100XM-20C"} and box.host.processes() == []


def test_a_client_of_the_gpu_stands_in_the_way_of_the_virtual_functions(minion):
    monitor = {"pid": 77, "command": "dcgm", "unit": "dcgm.service", "type": "monitor", "gpu": H100}
    box = minion(VFIO, changes={"processes": [monitor]})
    refused(box, only(H100, profile="H100XM-10C"), H100, "pid 77", "dcgm.service")
    well, comment, _ = stages(box, only(H100, profile="H100XM-10C", management={"stop_units": ["dcgm.service"]}))
    assert well, comment
    assert [process.pid for process in box.host.processes()] == [77]


def test_without_iommu_no_virtual_machine_could_have_one(minion):
    box = minion(VFIO, changes={"iommu": False})
    refused(box, only(H100, profile="H100XM-10C"), H100, "IOMMU", "intel_iommu=on")
    assert {kind["set_vgpus"] for kind in box.call("gpu_vgpu.types", H100).values()} == {0}


def test_a_missing_sriov_manage_is_named(minion):
    box = minion(VFIO, changes={"tools": ["lspci", "nvidia-smi", "systemctl", "modprobe"]})
    refused(box, only(H100, profile="H100XM-10C"), H100, "sriov-manage is not installed", "vGPU host driver")


def test_the_driver_for_bare_metal_makes_no_vgpus(minion):
    gpu = "0000:1b:00.0"
    refused(minion("dgx-h100"), only(gpu, profile="H100XM-10C"), gpu, "not NVIDIA's vGPU host driver")


def test_what_another_tool_took_meanwhile_is_not_destroyed(minion):
    box = minion(VFIO)
    assert stages(box, only(H100, profile="H100XM-20C", count=1))[0]
    # Another tool makes two more just before our second write: on the very functions that we had in mind.
    foreign = [{"gpu": H100, "action": "create_vgpu", "profile": "H100XM-20C"}] * 2
    box.host.add_fault({"call": "write", "nth": 2, "foreign": foreign})
    well, comment, _ = stages(box, only(H100, profile="H100XM-20C", count=4))
    assert not well
    assert H100 in comment and "Traceback" not in comment
    assert set(vgpus(box, H100)) == {FIRST, "0000:41:00.6", "0000:41:00.7"}


def test_a_wrong_pillar_is_told_with_its_path(minion):
    both, odd = {"profile": "x", "profiles": {"y": 1}}, {"scheduler": "fair", "profile": "x"}
    for settings, word in ((both, "profiles"), (odd, "scheduler")):
        refused(minion(VFIO), pillars.vgpu(**settings), "containers_gpu_slicing", word)


# -- by hand ---------------------------------------------------------------------------------------------------------
def test_types_say_what_can_be_made_now(minion):
    box = minion(VFIO)
    fresh = box.call("gpu_vgpu.types", H100)
    assert not any(kind["creatable"] for kind in fresh.values()) and all(kind["set_vgpus"] for kind in fresh.values())
    # What is promised there is what there will be.
    for name in ("H100XM-20C", "H100XM-1-10C", "H100XM-2-20C"):
        planned = box.call("gpu_vgpu.set_vgpus", H100, name, test=True)["changes"][H100]["new"]["vgpus"]
        assert fresh[name]["set_vgpus"] == len(planned)
    assert box.call("gpu_vgpu.set_vgpus", H100, "H100XM-20C", 1)["result"]
    found = box.call("gpu_vgpu.types", H100)
    assert found["H100XM-20C"] == {"memory_mib": 20480, "max": 4, "creatable": True, "set_vgpus": 4}
    assert not found["H100XM-40C"]["creatable"] and found["H100XM-1-10C"]["mig_profile"] == "1g.10gb"


def test_one_vgpu_more_and_one_less(minion):
    box = minion(VFIO)
    assert box.call("gpu_vgpu.set_vgpus", H100, "H100XM-20C", 1)["result"]
    assert box.call("gpu_vgpu.set_type", H100, "0000:41:01.2", "H100XM-20C")["result"]
    assert vgpus(box, H100) == {FIRST: "H100XM-20C", "0000:41:01.2": "H100XM-20C"}
    assert box.call("gpu_vgpu.remove", H100, FIRST)["result"]
    assert vgpus(box, H100) == {"0000:41:01.2": "H100XM-20C"}
    assert box.call("gpu_vgpu.remove", H100)["result"]
    assert box.call("gpu_vgpu.status", H100)["vfs"] == 0


def test_a_device_of_the_gpu_itself_comes_and_goes_by_hand(minion):
    box = minion(MDEV)
    assert box.call("gpu_vgpu.set_type", T4, T4, "T4-4Q")["result"]
    assert box.call("gpu_vgpu.set_type", T4, T4, "T4-4Q")["result"]
    first, second = vgpus(box, T4)
    assert box.call("gpu_vgpu.remove", T4, first)["result"]
    assert list(vgpus(box, T4)) == [second]


def test_the_states_test_apply_and_settle(minion):
    box = minion(VFIO)
    untouched = machine(box.host)
    for function, settings in (("present", {"profile": "H100XM-40C"}), ("absent", {})):
        name = f"gpu_vgpu.{function}"
        planned = box.state(name, H100, test=True, **settings)
        assert planned.result is None and planned.changes
        assert machine(box.host) == untouched
        done = box.state(name, H100, **settings)
        assert done.result is True and set(done.changes) == {H100}, done.comment
        untouched = machine(box.host)
        again = box.state(name, H100, **settings)
        assert again.result is True and not again.changes
    wrong = box.state("gpu_vgpu.present", H100, profil="x")
    assert wrong.result is False and "profil" in wrong.comment


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        ("gpu_vgpu.set_type", [H100, "0000:99:00.4", "H100XM-20C"], ["carries no vGPU", FIRST]),
        ("gpu_vgpu.set_type", [H100, "0000:41:00.5", "H100XM-10C"], ["can't be made on 0000:41:00.5 now", "is: H100XM-20C"]),
        ("gpu_vgpu.set_type", [H100, "nonsense", "H100XM-20C"], ["not a PCI address"]),
        ("gpu_vgpu.remove", [H100, "0000:41:00.5"], ["no vGPU 0000:41:00.5"]),
        ("gpu_vgpu.set_vgpus", [H100], ["no type is named"]),
        ("gpu_vgpu.set_vgpus", [H100, "H100XM-20C", -1], ["count"]),
        ("gpu_vgpu.types", ["0000:00:00.0"], ["0000:00:00.0"]),
        ("gpu_vgpu.set_license", [H100, "licence.example.com"], [f"GPU {H100}", "no vGPU of a guest", "gpu_vgpu.set_vgpus"]),
        ("gpu_vgpu.clear_license", [H100], [f"GPU {H100}", "no vGPU of a guest"]),
    ],
)
def test_wrong_arguments_are_sentences(minion, function, args, words):
    from salt.exceptions import CommandExecutionError

    box = minion(VFIO)
    assert box.call("gpu_vgpu.set_vgpus", H100, "H100XM-20C", 1)["result"]
    before = machine(box.host)
    with pytest.raises(CommandExecutionError) as told:
        box.call(function, *args)
    assert all(word in str(told.value) for word in words), told.value
    assert "Please report" not in str(told.value)
    assert machine(box.host) == before
