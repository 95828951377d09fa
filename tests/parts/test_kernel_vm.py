"""
The engine on the files of a real kernel: a virtual machine with three GPUs that a module puts on its PCI bus. ``sriov_numvfs``,
IOMMU groups, ``driver_override``, vfio-pci, events and modprobe are the kernel's own; what the GPUs' drivers add (partition
files, sriov_admin) is the module's. See ``tests/parts/kernel``; one machine is booted for all tests of this file.
"""

import functools
import json
import signal

import pytest

from tests.parts import kernel
from tests.parts.machine import answer_of
from tests.support import needs

pytestmark = pytest.mark.slow

MI300X, FLEX, H100 = "0010:00:00.0", "0010:00:04.0", "0010:00:08.0"


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """(answers of ``tests/parts/kernel/inside.py`` by case, all that the machine said)."""
    needs.require(kernel.missing())
    return kernel.boot(kernel.build(tmp_path_factory.mktemp("kernel")))


@pytest.fixture
def answer(machine):
    """``answer("sriov")``: what that case came to."""

    return functools.partial(answer_of, machine)


def names(count):
    """What the files say of a Flex 170 with so many virtual functions: they follow it, eight functions a slot."""
    return [count, [f"0010:00:{4 + number // 8:02x}.{number % 8}" for number in range(1, count + 1)]]


def refused(found, *words):
    """Whether nothing was done, with one sentence that has all these words in it."""
    [sentence] = found["errors"]
    return not found["ok"] and not found.get("changed") and all(str(word) in sentence for word in words)


def made(found):
    return found["ok"] and found["changed"] and found["steps"] and not found["errors"]


def unchanged(found):
    return found["ok"] and not found["changed"] and not found["steps"]


def test_the_three_gpus_are_found_with_what_they_can_do(answer):
    found = answer("inventory")
    seen = {gpu["address"]: (gpu["model"], gpu["driver"], gpu["virtual_functions"]["total"]) for gpu in found["devices"]}
    assert seen == {
        MI300X: ("AMD Instinct MI300X", "amdgpu", 8),
        FLEX: ("Intel Data Center GPU Flex 170", "xe", 31),
        H100: ("NVIDIA H100 80GB HBM3", "nvidia", 16),
    }
    assert {gpu["address"]: gpu["capabilities"] for gpu in found["devices"]} == {
        MI300X: ["partition", "passthrough", "sriov"],
        FLEX: ["level-zero", "passthrough", "sriov"],
        H100: ["mig", "mps", "passthrough", "power", "sriov", "time-slicing"],
    }
    live = {gpu["address"]: gpu["live"] for gpu in found["devices"]}
    assert live[MI300X]["partition"] == {"compute": "SPX", "memory": "NPS1"}
    assert live[FLEX]["sriov"]["files"] == "sriov_admin" and live[FLEX]["sriov"]["numvfs"] == 0
    # There is no NVML here, and that is a sentence.
    assert "libnvidia-ml.so.1 is not installed" in live[H100]["mig"]
    assert found["health"][MI300X] == found["health"][FLEX] == []
    assert found["facts"]["count"] == 3 and found["facts"]["iommu"] and found["facts"]["virtualization"] == "virtual_guest"


def test_sriov_numvfs_refuses_what_the_stand_ins_of_other_tests_refuse(answer):
    assert answer("rules") == [
        [FLEX, "x", "EINVAL"], [FLEX, "-1", "EINVAL"], [FLEX, "32", "ERANGE"], [FLEX, "3", ""], [FLEX, "3", ""],
        [FLEX, "5", "EBUSY"], [FLEX, "0", ""], [FLEX, "5", ""], [FLEX, "0", ""], [MI300X, "1", "ENOENT"], [H100, "1", "ENOENT"],
    ]  # fmt: skip


def test_virtual_functions_come_change_through_none_and_go(answer):
    found = answer("sriov")
    assert made(found["first"]) and found["first"]["vfs"] == names(4)
    assert unchanged(found["again"]) and found["again"]["vfs"] == names(4)
    assert found["drivers"] == ["xe"] * 4
    first, last, absent = map(int, found["shares"])
    assert first == last > 0 and absent == 0
    assert made(found["more"]) and found["more"]["vfs"] == names(31)
    steps = found["more"]["steps"]
    assert steps[0] == "remove 4 virtual functions" and steps[-1] == "create 31 virtual functions"
    assert made(found["none"]) and found["none"]["vfs"] == names(0)
    assert unchanged(found["none again"])


def test_more_than_the_hardware_has_is_refused_and_nothing_changes(answer):
    found = answer("sriov")["too many"]
    assert refused(found, FLEX, "32 virtual functions are wanted", "can have 31") and found["kind"] == "ProfileMismatch"
    assert found["vfs"] == names(31)


def test_memory_and_turns_reach_the_files_of_the_driver(answer):
    found = answer("sriov_quotas")
    assert made(found["made"]) and found["made"]["vfs"] == names(2)
    assert found["files"] == [[str(4096 * 2**20), "20"], [str(2048 * 2**20), "0"]]
    assert unchanged(found["again"])
    assert [(part["memory_mib"], part["in_use_by"]) for part in found["slices"]] == [(4096, []), (2048, [])]
    assert all(node.startswith("/dev/dri/") for part in found["slices"] for node in part["device_nodes"])
    assert len({node for part in found["slices"] for node in part["device_nodes"]}) == 4
    assert refused(found["too much"], FLEX, "24000") and found["too much"]["vfs"] == names(2)
    assert made(found["none"]) and found["none"]["vfs"] == names(0) and found["left"] == "0"


def test_the_preset_of_the_vendor_is_written_and_taken_back(answer):
    found = answer("sriov_preset")
    assert made(found["made"]) and found["made"]["vfs"] == names(4) and unchanged(found["again"])
    assert found["turns"] == ["20", "8", "8", "0"]
    assert made(found["none"]) and found["left"] == ["0", "0", "0"]


def test_a_driver_that_fails_half_way_leaves_the_old_functions(answer):
    found = answer("sriov_failure")
    failed = found["failed"]
    assert not failed["ok"] and not failed["changed"] and failed["vfs"] == names(3)
    told = " ".join(failed["errors"])
    assert FLEX in told and "not enough left" in told and "undone" in told
    assert found["shares"][0] == found["shares"][1] != "0"
    assert made(found["after"]) and found["after"]["vfs"] == names(5) and found["none"]["vfs"] == names(0)


def test_kill_in_the_middle_is_mended_by_the_next_run(answer):
    found = answer("sriov_killed")
    assert found["signal"] == signal.SIGKILL and found["left"] == names(0)
    assert found["after"]["ok"] and found["after"]["vfs"] == names(5)
    assert "interrupted" in " ".join(found["after"]["warnings"])
    assert unchanged(found["again"]) and found["none"]["vfs"] == names(0)


def test_a_function_that_a_process_of_the_host_uses_is_not_taken_away(answer):
    found = answer("sriov_held")["by host"]
    assert refused(found, FLEX, f"in use by pid {found['pid']} (", found["node"]) and found["vfs"] == names(3)


def test_a_function_that_a_virtual_machine_has_is_not_taken_away(answer):
    found = answer("sriov_held")
    assert made(found["free"]) and found["free"]["vfs"] == names(2) and found["unbound"] == ["", ""]
    assert found["bound"] == "vfio-pci"
    held = found["by guest"]
    assert refused(held, FLEX, f"in use by pid {held['pid']} (", "/dev/vfio/") and held["vfs"] == names(2)
    free, given = found["slices"]
    assert given["device_nodes"][0].startswith("/dev/vfio/") and [user["pid"] for user in given["in_use_by"]] == [held["pid"]]
    assert free["device_nodes"] == [] and free["in_use_by"] == []
    assert made(found["released"]) and found["released"]["vfs"] == names(4)
    assert made(found["none"]) and found["none"]["vfs"] == names(0)


def test_drivers_that_make_no_virtual_functions_are_named_before_anything_is_written(answer):
    found = answer("sriov_elsewhere")
    assert refused(found["amd"], MI300X, "host driver gim", "amdgpu") and found["vfs"] == [0, []]
    assert refused(found["nvidia"], H100, "use strategy vgpu")


def test_virtual_functions_come_back_after_the_driver_was_loaded_anew(answer):
    found = answer("reload")
    assert found["gone"] == ["", 0]
    assert refused(found["without"], FLEX, "modprobe xe")
    assert found["replayed"]["result"] is True and list(found["replayed"]["changes"]) == [FLEX], found["replayed"]
    assert found["after"] == names(3) and found["none"]["vfs"] == names(0)


def test_the_compute_mode_changes_and_is_refused_while_a_process_has_the_gpu(answer):
    found = answer("partition")
    assert made(found["first"]) and found["first"]["modes"] == ["CPX", "NPS1"]
    assert unchanged(found["again"])
    assert refused(found["impossible"], MI300X, "no compute mode TPX", "CPX/NPS4")
    assert found["impossible"]["modes"] == ["CPX", "NPS1"]
    held = found["held"]
    assert refused(held, MI300X, f"in use by pid {held['pid']} (", "/dev/dri/renderD128") and held["modes"] == ["CPX", "NPS1"]
    assert made(found["back"]) and found["back"]["modes"] == ["SPX", "NPS1"]
    # The compute driver alone knows which node belongs to which partition, and it is not here.
    assert found["slices"] == []


def test_the_memory_mode_changes_by_a_real_reload_of_the_driver(answer):
    found = answer("partition_memory")
    assert refused(found["forbidden"], MI300X, "NPS4 is wanted", "unload_modules")
    held = found["held"]
    assert refused(held, MI300X, "reload amdgpu", f"in use by pid {held['pid']} (") and held["modes"] == ["SPX", "NPS1"]
    assert made(found["changed"]) and found["changed"]["modes"] == ["QPX", "NPS4"]
    assert any(step.startswith("reload amdgpu") for step in found["changed"]["steps"])
    assert found["listed"] == ["QPX, CPX", "SPX, DPX, QPX, CPX"]
    assert found["available"]["pairs"] == ["SPX/NPS1", "DPX/NPS1", "QPX/NPS1", "QPX/NPS4", "CPX/NPS1", "CPX/NPS4"]
    assert unchanged(found["again"])
    assert made(found["back"]) and found["back"]["modes"] == ["SPX", "NPS1"]


def test_a_gpu_goes_to_vfio_and_back_to_its_driver(answer):
    found = answer("passthrough")
    first = found["first"]
    assert made(first) and (first["driver"], first["override"]) == ("vfio-pci", "vfio-pci")
    assert first["steps"][0] == "load the kernel module vfio-pci"
    assert unchanged(found["again"])
    [part] = found["slices"]
    assert part["kind"] == "passthrough" and part["device_nodes"][0].startswith("/dev/vfio/")
    assert found["techniques"] == ["passthrough"]
    held = found["held"]
    assert refused(held, H100, f"in use by pid {held['pid']} (") and held["driver"] == "vfio-pci"
    assert made(found["back"]) and found["back"]["driver"] == "nvidia"
    assert unchanged(found["back again"])
    # No override is left on any GPU: another driver could not take it then.
    assert found["before"] == found["after"] == dict.fromkeys((MI300X, FLEX, H100), "(null)")


def test_a_gpu_of_the_pillar_goes_to_vfio_and_a_rollback_brings_it_back(answer):
    found = answer("passthrough_by_pillar")
    assert made(found["first"]) and found["driver"] == "vfio-pci"
    assert refused(found["partition"], MI300X, "bound to vfio-pci", "gpu_passthrough.release")
    assert made(found["back"]) and found["after"] == "amdgpu" and found["modes"] == ["SPX", "NPS1"]


def test_a_gpu_with_virtual_functions_is_not_given_away(answer):
    found = answer("passthrough_of_pf")
    assert refused(found["with"], FLEX, "2 virtual functions enabled") and found["with"]["driver"] == "xe"
    assert made(found["without"]) and found["without"]["driver"] == "vfio-pci"
    assert refused(found["sriov"], FLEX, "bound to vfio-pci") and found["sriov"]["vfs"] == names(0)
    assert made(found["back"]) and found["back"]["driver"] == "xe"


def test_a_gpu_that_fell_off_the_bus_is_named(answer):
    found = answer("removed")
    assert refused(found["during"], H100, "gone")
    assert refused(found["after"], H100, "not among the GPUs of this host")
    assert found["back"] == "nvidia"


def test_salt_call_makes_virtual_functions(answer):
    found = answer("salt")
    assert found["code"] == 0, found
    told = json.loads(found["out"])["local"]
    assert told["result"] is True and told["changes"][FLEX]["new"]["vfs"] == 2
    assert found["vfs"] == names(2) and "Traceback" not in found["err"]
    assert f"PCI address {FLEX} was written without quotes" in found["err"]
