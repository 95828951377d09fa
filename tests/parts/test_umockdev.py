"""
The inventory on devices that umockdev puts under libudev and /sys: the same code as on a machine with these GPUs, in a process
of its own, as umockdev works by preloading a library.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.support import needs

pytestmark = needs.programs("umockdev-run")

DEVICES = """\
P: /devices/pci0000:80/0000:80:01.1/0000:81:00.0
E: DRIVER=amdgpu
E: PCI_CLASS=120000
E: PCI_ID=1002:74A1
E: PCI_SLOT_NAME=0000:81:00.0
E: SUBSYSTEM=pci
A: vendor=0x1002\\n
A: device=0x74a1\\n
A: class=0x120000\\n
A: numa_node=1\\n
A: sriov_totalvfs=8\\n
A: sriov_numvfs=0\\n
A: current_compute_partition=SPX\\n
L: driver=../../../../bus/pci/drivers/amdgpu

P: /devices/pci0000:3a/0000:3a:00.0/0000:3c:00.0
E: DRIVER=i915
E: PCI_CLASS=38000
E: PCI_ID=8086:56C0
E: PCI_SLOT_NAME=0000:3c:00.0
E: SUBSYSTEM=pci
A: vendor=0x8086\\n
A: device=0x56c0\\n
A: class=0x038000\\n
A: numa_node=-1\\n
A: sriov_totalvfs=31\\n
A: sriov_numvfs=1\\n
L: driver=../../../../bus/pci/drivers/i915
L: virtfn0=../0000:3c:00.1

P: /devices/pci0000:3a/0000:3a:00.0/0000:3c:00.1
E: PCI_CLASS=38000
E: PCI_ID=8086:56C0
E: PCI_SLOT_NAME=0000:3c:00.1
E: SUBSYSTEM=pci
A: vendor=0x8086\\n
A: device=0x56c0\\n
A: class=0x038000\\n
L: physfn=../0000:3c:00.0

P: /devices/pci0000:00/0000:00:1c.0/0000:03:00.0
E: DRIVER=ast
E: PCI_CLASS=30000
E: PCI_ID=1A03:2000
E: PCI_SLOT_NAME=0000:03:00.0
E: SUBSYSTEM=pci
A: vendor=0x1a03\\n
A: device=0x2000\\n
A: class=0x030000\\n

P: /devices/pci0000:3a/0000:3a:02.0/0000:3d:00.0
E: DRIVER=i40e
E: PCI_CLASS=20000
E: PCI_ID=8086:1572
E: PCI_SLOT_NAME=0000:3d:00.0
E: SUBSYSTEM=pci
A: vendor=0x8086\\n
A: device=0x1572\\n
A: class=0x020000\\n

"""

PROGRAM = """
import json
from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.inventory import detection, discovery, grain
host = RealHost()
discovered = grain.facts_of(discovery.discover(host))
facts = grain.facts(host)
try:
    lspci = detection.detect(host, "lspci")
except errors.ToolMissing:
    lspci = None
answer = {"udev": host.udev_pci(), "detected": detection.detect(host), "lspci": lspci, "discovered": discovered, "facts": facts}
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the engine says on the described devices."""
    path = tmp_path_factory.mktemp("umockdev") / "gpus.umockdev"
    path.write_text(DEVICES)
    utils = os.path.join(os.path.dirname(__file__), "..", "..", "_utils")
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(utils), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = ["umockdev-run", "-d", str(path), "--", sys.executable, "-c", PROGRAM]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_udev_hands_out_only_display_and_accelerator_classes_and_no_virtual_function(seen):
    assert {device["SYSNAME"]: device["PCI_ID"] for device in seen["udev"]} == {
        "0000:03:00.0": "1A03:2000", "0000:3c:00.0": "8086:56C0", "0000:81:00.0": "1002:74A1",
    }  # fmt: skip


def test_the_detected_are_those_of_a_gpu_vendor(seen):
    assert seen["detected"] == ["0000:3c:00.0", "0000:81:00.0"]


@needs.programs("lspci")
def test_the_real_lspci_tells_the_same_gpus_and_each_virtual_function(seen):
    assert seen["lspci"] == ["0000:3c:00.0", "0000:3c:00.1", "0000:81:00.0"]


def test_the_inventory_says_the_same_from_udev_and_from_sysfs(seen):
    # What limits memory is the host's, and told with its facts.
    told = [{key: value for key, value in each.items() if key != "vram_quota"} for each in seen["facts"]["devices"]]
    assert seen["discovered"] == told and len(told) == 2


def test_the_inventory_lists_two_gpus_and_the_function_of_one(seen):
    flex, mi300x = seen["facts"]["devices"]
    assert seen["facts"]["addresses"] == ["0000:3c:00.0", "0000:81:00.0"]
    assert (flex["model"], flex["driver"], flex["numa_node"]) == ("Intel Data Center GPU Flex 170", "i915", None)
    assert flex["virtual_functions"] == {"total": 31, "enabled": 1, "addresses": ["0000:3c:00.1"]}
    assert (mi300x["model"], mi300x["driver"], mi300x["numa_node"]) == ("AMD Instinct MI300X", "amdgpu", 1)
    assert mi300x["capabilities"] == ["partition", "sriov"]
    assert "errors" not in seen["facts"]


# -- a GPU that comes and goes -------------------------------------------------------------------------------------------
#: One process from beginning to end, as a minion is. The library is asked by its C functions, so that no bindings are needed.
HOTPLUG = """
import ctypes, json, sys
from gpuslice.inventory import discovery
from gpuslice.inventory import grain
from gpuslice.host.real import RealHost

library = ctypes.CDLL("libumockdev.so.0")
library.umockdev_testbed_new.restype = ctypes.c_void_p
for name, count in (("add_from_string", 3), ("remove_device", 2), ("uevent", 3)):
    getattr(library, "umockdev_testbed_" + name).argtypes = [ctypes.c_void_p] + [ctypes.c_char_p] * (count - 1)
bed = library.umockdev_testbed_new()
host, seen = RealHost(), []

def look(what):
    facts = grain.facts(host)
    udev = host.udev_pci()
    seen.append({"after": what, "addresses": facts["addresses"], "capabilities": facts["capabilities"],
                 "discovered": [gpu.address for gpu in discovery.discover(host)], "errors": facts.get("errors", []),
                 "udev": None if udev is None else sorted(device["SYSNAME"] for device in udev)})

def add(text):
    assert library.umockdev_testbed_add_from_string(bed, text.encode(), None)

devices = {text.split("\\n")[0].rpartition("/")[2]: text + "\\n\\n" for text in open(sys.argv[1]).read().strip().split("\\n\\n")}
add(devices["0000:03:00.0"])
look("the console's own video")
add(devices["0000:81:00.0"])
look("a GPU appeared")
add(devices["0000:3c:00.0"] + devices["0000:3c:00.1"])
look("another with a virtual function")
for path in (b"/sys/devices/pci0000:80/0000:80:01.1/0000:81:00.0",):
    library.umockdev_testbed_uevent(bed, path, b"remove")
    library.umockdev_testbed_remove_device(bed, path)
look("the first is gone")
add(devices["0000:81:00.0"])
look("and is back")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def hotplugged(tmp_path_factory):
    """What one process saw, one look after the other, while GPUs came and went."""
    path = tmp_path_factory.mktemp("hotplug") / "gpus.umockdev"
    path.write_text(DEVICES)
    utils = os.path.join(os.path.dirname(__file__), "..", "..", "_utils")
    environment = {**os.environ, "PYTHONPATH": os.path.abspath(utils), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = ["umockdev-wrapper", sys.executable, "-c", HOTPLUG, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return {look["after"]: look for look in json.loads(done.stdout)}


FLEX, MI300X, VIDEO = "0000:3c:00.0", "0000:81:00.0", "0000:03:00.0"


@pytest.mark.parametrize(
    ("after", "gpus", "capabilities"),
    [
        ("the console's own video", [], []),
        ("a GPU appeared", [MI300X], ["partition", "sriov"]),
        ("another with a virtual function", [FLEX, MI300X], ["level-zero", "partition", "sriov"]),
        ("the first is gone", [FLEX], ["level-zero", "sriov"]),
        ("and is back", [FLEX, MI300X], ["level-zero", "partition", "sriov"]),
    ],
)
def test_the_inventory_of_one_process_follows_what_is_plugged_in_and_taken_out(hotplugged, after, gpus, capabilities):
    seen = hotplugged[after]
    assert seen["addresses"] == seen["discovered"] == gpus
    assert seen["capabilities"] == capabilities and seen["errors"] == []
    # libudev saw the same: the answer is not that of sysfs alone.
    assert seen["udev"] == sorted([VIDEO, *gpus])
