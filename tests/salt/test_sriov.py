"""
Virtual functions through the real states and execution functions: from the pillar to the hardware and back, and everything that
can be wrong, each time as a sentence with nothing changed.
"""

import json

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.support import pillars
from tests.support.stages import refused

FLEX, B60, MAX, MI210 = "0000:3c:00.0", "0000:03:00.0", "0000:29:00.0", "0000:33:00.0"


def hardware(minion):
    """Everything of the simulated machine that a change could touch, as text."""
    state = minion.host.state()
    return json.dumps({key: state[key] for key in ("gpus", "processes", "written", "modules")}, sort_keys=True)


def board(repo, host, **keys):
    """The GPUs of an example host with other keys."""
    described = yaml.safe_load((repo / "examples" / "hosts" / f"{host}.yaml").read_text(encoding="utf-8"))
    return [{**gpu, **keys} for gpu in described["gpus"]]


def told(minion, function, *args, **kwargs):
    """What an execution function refuses with."""
    from salt.exceptions import CommandExecutionError

    before = hardware(minion)
    with pytest.raises(CommandExecutionError) as caught:
        minion.call(function, *args, **kwargs)
    assert hardware(minion) == before
    return str(caught.value)


# -- the way there and back --------------------------------------------------------------------------------------------
def test_a_pillar_is_planned_applied_and_found_applied(minion, repo):
    wanted = yaml.safe_load((repo / "examples" / "pillar" / "flex170.sls").read_text(encoding="utf-8"))
    one = minion("flex170", wanted)
    untouched = hardware(one)
    tested = [state for state in one.apply("gpu_slicing", test=True) if state.changes]
    assert tested and hardware(one) == untouched
    applied = [state for state in one.apply("gpu_slicing") if state.changes]
    assert [state.changes for state in applied] == [state.changes for state in tested]
    assert "vfs: 0 -> 5" in applied[0].changes[FLEX]
    assert not any(state.changes for state in one.apply("gpu_slicing"))
    assert one.host.read(f"/sys/bus/pci/devices/{FLEX}/sriov_numvfs") == "5"
    assert one.host.read("/sys/class/drm/card0/prelim_iov/vf3/gt0/lmem_quota") == "3355443200"


def test_functions_by_hand(minion):
    one = minion("arc-pro-b60")
    before = hardware(one)
    planned = one.call("gpu_sriov.set_vfs", B60, 2, vfs={"1": {"vram_mib": 10240}}, test=True)
    assert "create 2 virtual functions" in planned["comment"] and hardware(one) == before
    done = one.call("gpu_sriov.set_vfs", B60, 2, vfs={"1": {"vram_mib": 10240}})
    assert done["result"], done
    report = one.call("gpu_sriov.vfs", B60)
    assert [vf["vram_mib"] for vf in report["vfs"]] == [10240, 14208]
    assert [vf["address"] for vf in report["vfs"]] == ["0000:03:00.1", "0000:03:00.2"]
    assert {key: report[key] for key in ("driver", "total", "autoprobe", "files")} == {
        "driver": "xe",
        "total": 24,
        "autoprobe": False,
        "files": "sriov_admin",
    }
    slices = one.call("gpu.slices")
    assert [(part["kind"], part["profile"], part["memory_mib"]) for part in slices] == [
        ("vf", "vf1", 10240),
        ("vf", "vf2", 14208),
    ]
    again = one.call("gpu_sriov.set_vfs", B60, 2, vfs={"1": {"vram_mib": 10240}})
    assert again["result"] and again["changes"] == {}
    assert one.call("gpu_sriov.remove_vfs", B60)["result"]
    assert one.call("gpu_sriov.vfs", B60)["vfs"] == []
    assert json.loads(hardware(one))["gpus"][B60]["autoprobe"] == 1


@pytest.mark.parametrize("files", ["sriov_admin", "sriov_admin-6.19", "debugfs", "debugfs-old", "none"])
def test_equal_shares_need_no_file_and_the_hosts_driver_may_take_them(minion, repo, files):
    one = minion("arc-pro-b60", changes={"gpus": board(repo, "arc-pro-b60", sriov_files=files), "iommu": False})
    done = one.call("gpu_sriov.set_vfs", B60, 3, profile="fair", autoprobe=True)
    assert done["result"], done
    report = one.call("gpu_sriov.vfs", B60)
    assert [vf["driver"] for vf in report["vfs"]] == ["xe"] * 3
    assert all("/dev/dri/" in node for vf in report["vfs"] for node in vf["device_nodes"])


def test_the_state_brings_a_single_gpu_about(minion):
    one = minion("arc-pro-b60")
    first = one.state("gpu_sriov.vfs", name=B60, count=2, scheduling={"exec_quantum_ms": 30})
    assert first.result is True and first.changes[B60]["new"]["vfs"] == 2
    second = one.state("gpu_sriov.vfs", name=B60, count=2, scheduling={"exec_quantum_ms": 30})
    assert second.result is True and second.changes == {}
    wrong = one.state("gpu_sriov.vfs", name=B60, count=2, shceduling={})
    assert wrong.result is False and "shceduling" in wrong.comment


def test_turns_change_under_running_functions(minion):
    one = minion("arc-pro-b60")
    assert one.call("gpu_sriov.set_vfs", B60, 2, scheduling={"exec_quantum_ms": 30})["result"]
    done = one.call("gpu_sriov.set_vfs", B60, 2, scheduling={"exec_quantum_ms": 10, "priority": "normal"})
    assert done["result"] and "destroys 0" in done["comment"]
    assert one.host.read(f"/sys/bus/pci/devices/{B60}/sriov_admin/vf2/profile/sched_priority") == "low [normal]"


def test_what_is_exported_asks_for_the_same(minion, repo):
    wanted = yaml.safe_load((repo / "examples" / "pillar" / "arc_pro_b60.sls").read_text(encoding="utf-8"))
    one = minion("arc-pro-b60", wanted)
    assert all(state.result is not False for state in one.apply("gpu_slicing"))
    one.set_pillar(one.call("gpu_slicing.export"))
    assert not any(state.changes for state in one.apply("gpu_slicing"))


# -- what the hardware, its driver or the host can't do ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("vendor", "device", "words"),
    [
        ("intel", "56a0", ["Arc A", "no SR-IOV on the chip"]),
        ("intel", "e20b", ["consumer Arc B", "Arc Pro B50"]),
        ("intel", "64a0", ["Lunar Lake"]),
        ("intel", "7d55", ["Meteor Lake", "port"]),
        ("intel", "56c0", ["firmware"]),
        ("amd", "740c", ["no virtual functions", "MI210"]),
        ("amd", "74a2", ["no release", "gim"]),
        ("amd", "7362", ["not public"]),
        ("amd", "7448", ["workstation"]),
        ("nvidia", "2330", ["vGPU"]),
    ],
)
def test_a_gpu_that_can_not_is_refused_with_the_reason_of_its_family(minion, vendor, device, words):
    driver = {"intel": "xe", "amd": "amdgpu", "nvidia": "nvidia"}[vendor]
    total = 16 if vendor == "nvidia" else 0
    gpu = {"vendor": vendor, "device": device, "address": FLEX, "driver": driver, "sriov_totalvfs": total}
    one = minion("flex170", changes={"gpus": [gpu]})
    comment = told(one, "gpu_sriov.set_vfs", FLEX, 2)
    assert FLEX in comment and all(word in comment for word in words), comment
    rule = {"match": {"pci": FLEX}, "strategy": "sriov"}
    refused(one, pillars.rules(rule), FLEX, *words)


@pytest.mark.parametrize(
    ("device", "words"),
    [("740c", "MI210, MI300X"), ("74a2", "no release of the host driver"), ("6929", "2016 to 2019"), ("73a1", "not public")],
)
def test_a_board_that_shows_the_capability_and_has_no_host_driver(minion, device, words):
    """The family decides, whatever the device says and whichever driver has it."""
    gpu = {"vendor": "amd", "device": device, "address": FLEX, "driver": "gim", "sriov_totalvfs": 8, "numvfs": 1}
    one = minion("flex170", changes={"gpus": [gpu]})
    refused(one, pillars.rules({"match": {"pci": FLEX}, "strategy": "sriov"}), FLEX, words)
    assert words in told(one, "gpu_sriov.set_vfs", FLEX, 1)
    assert all(state.result is not False for state in one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 1})))


def test_a_host_wide_strategy_leaves_gpus_alone_whose_functions_carry_vgpus(minion):
    stages = list(minion("hgx-h200").apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 2})))
    assert all(state.result is not False for state in stages)
    assert "vGPU" in " ".join(str(state.comment) for state in stages)


def test_no_functions_are_offered(minion, repo):
    gpus = board(repo, "arc-pro-b60", sriov_totalvfs=0, sysfs={"sriov_totalvfs": "0"})
    one = minion("arc-pro-b60", changes={"gpus": gpus, "files": {"/sys/module/xe/parameters/max_vfs": "0"}})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), B60, "sriov_totalvfs is 0", "xe.max_vfs=0", "reboot")


def test_the_kernels_own_i915(minion, repo):
    one = minion("flex170", changes={"gpus": board(repo, "flex170", sriov_files="none")})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), FLEX, "kernel's own i915", "xe.force_probe=56c0", "backports")


def test_a_driver_that_makes_no_functions_is_refused_in_test_mode_and_by_hand(minion, repo):
    i915 = minion("flex170", changes={"gpus": board(repo, "flex170", sriov_files="none")})
    xe = minion("arc-pro-b60", changes={"gpus": board(repo, "arc-pro-b60", sriov_files="no-pf")})
    for one, gpu, words in ((i915, FLEX, "kernel's own i915"), (xe, B60, "no option max_vfs")):
        before = hardware(one)
        stages = list(one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 2, "autoprobe": True}), test=True))
        comment = next(state.comment for state in stages if state.result is False)
        assert gpu in comment and words in comment and "ENOENT" not in comment
        assert words in told(one, "gpu_sriov.set_vfs", gpu, 2, autoprobe=True, test=True)
        assert hardware(one) == before


def test_a_kernel_without_the_option_of_the_older_ones_is_known_as_well(minion, repo):
    """Which other options a module has says nothing: a kernel that knows no force_probe makes no functions either."""
    gpus = board(repo, "flex170", sriov_files="none", sriov_totalvfs=0, sysfs={"sriov_totalvfs": "31", "sriov_numvfs": "0"})
    one = minion("flex170", changes={"gpus": gpus, "files": {"/sys/module/i915/parameters/modeset": "-1"}})
    refused(one, pillars.for_all("sriov", {"vf_count": 2, "autoprobe": True}), FLEX, "kernel's own i915")


def test_the_driver_does_not_run_as_a_pf(minion):
    one = minion("flex170", changes={"files": {"/sys/class/drm/card0/prelim_iov/mode": "native"}})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), FLEX, "mode 'native'", "i915.max_vfs")


def test_no_driver(minion, repo):
    one = minion("arc-pro-b60", changes={"gpus": board(repo, "arc-pro-b60", driver="")})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), B60, "has none", "modprobe xe")


def test_the_iommu_is_off(minion):
    one = minion("arc-pro-b60", changes={"iommu": False})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), B60, "IOMMU", "intel_iommu=on", "autoprobe")


def test_not_root(minion):
    one = minion("arc-pro-b60", changes={"privileged": False})
    refused(one, pillars.for_all("sriov", {"vf_count": 2}), B60, "root")


# -- numbers that do not fit ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("host", "sriov", "words"),
    [
        ("flex170", {"vf_count": 32}, [FLEX, "32", "can have 31"]),
        ("max1550", {"vf_count": 3}, [MAX, "two tiles", "2 or 4"]),
        ("max1550", {"vf_count": 2, "profile": "Flexible_30fps"}, [MAX, "BurstableQoS only"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {1: {"vram_mib": 20000}, 2: {"vram_mib": 9000}}}, ["20000 + 9000", "24448"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {1: {"vram_mib": 24448}}}, ["24448", "leaves nothing for vf2"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {1: {"contexts": 5}}}, [B60, "sriov_admin", "contexts"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {3: {"vram_mib": 5}}}, ["sriov:vfs:3", "beyond"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {0: {"vram_mib": 5}}}, ["sriov:vfs:0", "count from 1"]),
        ("arc-pro-b60", {"vf_count": 2, "vfs": {1: {"vram": 5}}}, ["sriov:vfs:1:vram", "vram_mib"]),
        ("arc-pro-b60", {"vf_count": 2, "profile": "flexible"}, ["sriov:profile", "Flexible_30fps"]),
        ("arc-pro-b60", {"vf_count": 2, "pf_device": "0000:99:00.0"}, ["pf_device", "0000:99:00.0"]),
        ("arc-pro-b60", {"vf_count": 2, "vf_devices": ["0000:03:00.5"]}, ["vf_devices", "0000:03:00.1, 0000:03:00.2"]),
        ("mi210-gim", {"vf_count": 2}, [MI210, "2 virtual functions", "can have 1"]),
        ("mi210-gim", {"vf_count": 0}, [MI210, "at least one"]),
        ("mi210-gim", {"vf_count": 1, "vfs": {1: {"vram_mib": 5}}}, [MI210, "every virtual function the same"]),
        ("mi210-gim", {"vf_count": 1, "autoprobe": True}, [MI210, "leaves it unbound", "autoprobe"]),
    ],
)  # fmt: skip
def test_numbers_that_do_not_fit_are_refused_with_the_numbers(minion, host, sriov, words):
    refused(minion(host), pillars.for_all("sriov", sriov), *words)


@pytest.mark.parametrize(("files", "word"), [("sriov_admin-6.19", "7.0"), ("none", "6.19")])
def test_a_kernel_without_the_file_is_told_with_the_one_that_has_it(minion, repo, files, word):
    one = minion("arc-pro-b60", changes={"gpus": board(repo, "arc-pro-b60", sriov_files=files)})
    refused(one, pillars.for_all("sriov", {"vf_count": 2, "vfs": {1: {"vram_mib": 4096}}}), B60, "vram_mib", word, "fair")


def test_memory_of_a_gpu_that_has_none_of_its_own(minion):
    gpu = {"vendor": "intel", "device": "b080", "address": FLEX, "driver": "xe", "sriov_totalvfs": 7}
    one = minion("flex170", changes={"gpus": [gpu]})
    refused(one, pillars.for_all("sriov", {"vf_count": 2, "vfs": {1: {"vram_mib": 4096}}}), FLEX, "no memory of its own")


def test_a_pf_that_is_none(minion):
    one = minion("arc-pro-b60")
    assert one.call("gpu_sriov.set_vfs", B60, 2)["result"]
    refused(one, pillars.for_all("sriov", {"vf_count": 2, "pf_device": "0000:03:00.1"}), "virtual function of 0000:03:00.0")


def test_only_the_named_pf_is_changed(minion):
    one = minion("max1550")
    stages = list(one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 2, "pf_device": "0000:9a:00.0"})))
    assert all(state.result is not False for state in stages)
    assert [one.host.read(f"/sys/bus/pci/devices/{a}/sriov_numvfs") for a in (MAX, "0000:9a:00.0")] == ["0", "2"]
    assert set(one.call("gpu_boot.status")["gpus"]) == {"0000:9a:00.0"}


def test_force_is_true_or_false(minion):
    with pytest.raises(CommandExecutionError, match="force is 'maybe'; True or False is wanted"):
        minion("max1550").call("gpu_sriov.set_vfs", MAX, 2, force="maybe")


def test_a_pf_that_another_rule_leaves_alone(minion):
    """Nothing would be made, and nobody told."""
    one = minion("max1550")
    rule = {"match": {"pci": MAX}, "strategy": "sriov", "sriov": {"vf_count": 2, "pf_device": "0000:9a:00.0"}}
    refused(one, pillars.rules(rule), MAX, "pf_device names 0000:9a:00.0, of which strategy sriov is not wanted")


def test_one_list_names_the_functions_of_several_pfs(minion):
    one = minion("max1550")
    named = [f"0000:{bus}:00.{number}" for bus in ("29", "9a") for number in (1, 2)]
    refused(one, pillars.for_all("sriov", {"vf_count": 2, "vf_devices": [*named, "0000:9a:00.3"]}), "names 0000:9a:00.3", MAX)
    wanted = pillars.for_all("sriov", {"vf_count": 2, "vf_devices": named, "pf_device": MAX})
    refused(one, wanted, "names 0000:9a:00.1, 0000:9a:00.2")
    stages = one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 2, "vf_devices": named}))
    assert all(state.result is not False for state in stages)
    assert [part["address"] for part in one.call("gpu_sriov.vfs", MAX)["vfs"]] == named[:2]


def test_turns_of_functions_that_are_no_more_do_not_stay_behind(minion):
    one = minion("flex170")
    assert one.call("gpu_sriov.set_vfs", FLEX, 5)["result"]
    done = one.call("gpu_sriov.set_vfs", FLEX, 2)
    assert done["result"] and set(done["changes"][FLEX]["new"]) == {"vfs", "autoprobe", "provisioning", "pf", "vf1-vf2"}
    assert one.host.read("/sys/class/drm/card0/prelim_iov/vf3/gt0/exec_quantum_ms") == "0"


def test_the_priority_is_exported(minion):
    one = minion("arc-pro-b60")
    assert one.call("gpu_sriov.set_vfs", B60, 2, profile="fair", scheduling={"priority": "normal"})["result"]
    exported = one.call("gpu_slicing.export")
    assert exported["containers_gpu_slicing"]["devices"][0]["sriov"]["scheduling"] == {"priority": "normal"}


# -- what is in use ------------------------------------------------------------------------------------------------------
@pytest.fixture
def guest(minion, repo):
    """An Arc Pro B60 with two functions, of which a virtual machine has the first."""
    one = minion("arc-pro-b60", changes={"gpus": board(repo, "arc-pro-b60", vf_driver="vfio-pci")})
    assert one.call("gpu_sriov.set_vfs", B60, 2, profile="fair", autoprobe=True)["result"]
    first = one.call("gpu_sriov.vfs", B60)["vfs"][0]
    assert first["driver"] == "vfio-pci"
    node = f"/dev/vfio/{first['iommu_group']}"
    assert node in first["device_nodes"]
    one.host.add_process({"pid": 4711, "command": "qemu-system-x86_64", "unit": "machine-qemu.scope", "nodes": [node]})
    return one


def test_a_function_in_use_is_not_taken_from_its_virtual_machine(guest):
    wanted = pillars.for_all("sriov", {"vf_count": 4, "profile": "fair", "autoprobe": True})
    refused(guest, wanted, B60, "pid 4711 (qemu-system-x86_64, unit machine-qemu.scope)")
    assert guest.call("gpu_sriov.vfs", B60)["vfs"][0]["in_use_by"][0]["pid"] == 4711
    assert guest.call("gpu.holders", B60)[0]["pid"] == 4711


def test_idle_functions_that_were_bound_for_guests_are_told(guest):
    guest.host.remove_process(4711)
    planned = guest.call("gpu_sriov.set_vfs", B60, 4, profile="fair", autoprobe=True, test=True)
    assert "0000:03:00.1, 0000:03:00.2: bound for virtual machines" in planned["comment"]


def test_by_hand_a_unit_is_stopped_that_the_pillar_allows(guest):
    allowed = {"containers_gpu_state_management": {"stop_units": ["machine-qemu.scope"]}}
    assert guest.call("gpu_sriov.set_vfs", B60, 4, profile="fair", autoprobe=True)["result"] is False
    guest.set_pillar(allowed)
    done = guest.call("gpu_sriov.set_vfs", B60, 4, profile="fair", autoprobe=True)
    assert done["result"], done


def test_force_ends_the_holder(guest):
    wanted = pillars.for_all("sriov", {"vf_count": 4, "profile": "fair", "autoprobe": True}, apply_strategy="force")
    assert all(state.result is not False for state in guest.apply("gpu_slicing", pillar=wanted))
    assert len(guest.call("gpu_sriov.vfs", B60)["vfs"]) == 4
    assert guest.host.processes() == []


def test_a_change_of_turns_leaves_a_guest_running(guest):
    done = guest.call("gpu_sriov.set_vfs", B60, 2, profile="fair", autoprobe=True, scheduling={"exec_quantum_ms": 5})
    assert done["result"] and guest.host.processes()


def test_a_guest_holds_gim(minion, repo):
    gpus = board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8, vf_driver="vfio-pci")
    one = minion("mi210-gim", changes={"gpus": gpus})
    wanted = pillars.for_all("sriov", {"vf_count": 8}, unload_modules=["gim"])
    refused(one, wanted, MI210, "bound for virtual machines", "force")
    group = one.call("gpu_sriov.vfs", "0000:c3:00.0")["vfs"][0]["iommu_group"]
    one.host.add_process({"pid": 4712, "command": "qemu-system-x86_64", "nodes": [f"/dev/vfio/{group}"]})
    refused(one, wanted, MI210, "pid 4712")


# -- AMD's driver ---------------------------------------------------------------------------------------------------------
def test_amdgpu_is_the_wrong_driver(minion, repo):
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", driver="amdgpu", numvfs=0)})
    refused(one, pillars.for_all("sriov", {"vf_count": 1}), MI210, "host driver gim", "amdgpu", "modprobe.blacklist=amdgpu")


def test_a_number_that_does_not_divide_the_dies(minion, repo):
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8)})
    refused(one, pillars.for_all("sriov", {"vf_count": 3}), MI210, "8 compute dies", "1, 2, 4, 8")


@pytest.mark.parametrize(
    ("path", "text", "told"),
    [
        ("/etc/modprobe.d/amd.conf", "options gim vf_num=1", "/etc/modprobe.d/amd.conf sets vf_num"),
        ("/usr/lib/modprobe.d/amd.conf", "options gim log_level=2 vf_num=1,1", "/usr/lib/modprobe.d/amd.conf sets vf_num"),
        ("/etc/gim_config", "fb_option=0\nvf_num=1", "/etc/gim_config sets vf_num"),
        ("/proc/cmdline", "quiet gim.vf_num=1", "the kernel's command line sets vf_num"),
    ],
)
def test_another_place_sets_the_option(minion, path, text, told):
    one = minion("mi210-gim", changes={"files": {path: text}})
    refused(one, pillars.for_all("sriov", {"vf_count": 1}), MI210, told)


def test_gim_may_write_the_number_into_a_file_of_its_own(minion, repo):
    gpus = board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8, numvfs=2)
    options = "# Written by GPU slicing.\n# 0000:33:00.0 2\n# 0000:c3:00.0 2\noptions gim vf_num=2,2\n"
    files = {"/etc/modprobe.d/gpu-slicing-gim.conf": options, "/etc/gim_config": "vf_num=2,2"}
    one = minion("mi210-gim", changes={"gpus": gpus, "files": files})
    before = hardware(one)
    assert all(state.result is not False for state in one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 2})))
    assert hardware(one) == before
    refused(one, pillars.for_all("sriov", {"vf_count": 8}), MI210, "/etc/gim_config", "Move that file away")


def test_none_are_wanted_and_another_driver_makes_none(minion, repo):
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", driver="amdgpu", numvfs=0)})
    before = hardware(one)
    assert all(state.result is not False for state in one.apply("gpu_slicing", pillar=pillars.for_all("sriov", {"vf_count": 0})))
    assert one.call("gpu_sriov.remove_vfs", MI210)["result"] and hardware(one) == before


def test_an_option_is_taken_out_without_loading_the_driver(minion, repo):
    path = "/etc/modprobe.d/gpu-slicing-gim.conf"
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8)})
    assert one.call("gpu_sriov.set_vfs", MI210, 2, reload_driver=True)["result"]
    assert one.host.run(["modprobe", "-r", "gim"]).returncode == 0
    done = one.call("gpu_sriov.remove_vfs", MI210, reload_driver=True)
    assert done["result"] and not one.host.exists(path), done
    assert one.host.readlink(f"/sys/bus/pci/devices/{MI210}/driver") == ""


def test_by_hand_gim_is_reloaded_where_the_pillar_allows_it(minion, repo):
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8)})
    told = one.call("gpu_sriov.set_vfs", MI210, 4)["comment"]
    assert "Reboot required" in told and "release notes name 1, 2, 8 only" in told
    one.set_pillar({"containers_gpu_state_management": {"unload_modules": ["gim"]}})
    assert one.call("gpu_sriov.set_vfs", MI210, 4)["result"]
    assert len(one.call("gpu_sriov.vfs", MI210)["vfs"]) == 4


def test_gim_without_an_iommu_is_not_sent_to_the_containers(minion):
    one = minion("mi210-gim", changes={"iommu": False})
    comment = refused(one, pillars.for_all("sriov", {"vf_count": 1}), MI210, "IOMMU", "amd_iommu=on")
    assert "autoprobe" not in comment


def test_gim_by_hand_and_back(minion, repo):
    one = minion("mi210-gim", changes={"gpus": board(repo, "mi210-gim", device="75a0", sriov_totalvfs=8)})
    done = one.call("gpu_sriov.set_vfs", MI210, 2, reload_driver=True)
    assert done["result"] and "preview firmware" in done["comment"]
    assert [len(one.call("gpu_sriov.vfs", a)["vfs"]) for a in (MI210, "0000:c3:00.0")] == [2, 1]
    assert one.call("gpu_sriov.remove_vfs", MI210, reload_driver=True)["result"]
    assert [len(one.call("gpu_sriov.vfs", a)["vfs"]) for a in (MI210, "0000:c3:00.0")] == [1, 1]
    assert not one.host.exists("/etc/modprobe.d/gpu-slicing-gim.conf")


@pytest.mark.parametrize("function", ["set_vfs", "remove_vfs"])
def test_a_word_that_is_no_truth_value_permits_no_reload(minion, function):
    count = [1] if function == "set_vfs" else []
    assert "true or false" in told(minion("mi210-gim"), f"gpu_sriov.{function}", MI210, *count, reload_driver="maybe")


# -- a kernel that does less than it says ------------------------------------------------------------------------------
def test_fewer_functions_than_asked_for(minion):
    one = minion("arc-pro-b60", changes={"faults": [{"call": "write", "nth": 2, "lie": True}]})
    comment = one.call("gpu_sriov.set_vfs", B60, 2, profile="fair")["comment"]
    assert "2 virtual functions were asked for, the kernel says 0 and 0 are there" in comment
    assert "has been undone" in comment
    report = one.call("gpu_sriov.vfs", B60)
    assert report["vfs"] == [] and report["autoprobe"] is True
