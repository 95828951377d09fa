"""
The real path: ``pynvml`` loads a real dynamic library, ``salt-call`` runs as a process of its own, sysfs comes from umockdev.

The library is ``tests/parts/fake_nvml``: an NVML written from NVML's documentation, independent of the project. The first part
holds it to that documentation, the second runs the project on it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.parts import fake_nvml
from tests.parts.fake_nvml import A100
from tests.parts.fake_nvml import H100
from tests.support import needs

pytestmark = [pytest.mark.slow, needs.programs("gcc")]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="session")
def built_old(tmp_path_factory):
    return fake_nvml.build(tmp_path_factory.mktemp("nvml-old"), old=True)


@pytest.fixture
def machine(tmp_path, built):
    return fake_nvml.Machine(tmp_path, built)


MIG_ON = "n.nvmlInit()\na = gpu('0000:07:00.0')\nn.nvmlDeviceSetMigMode(a, 1)\n"
CLEAR = "for gi in gpu_instances(a): n.nvmlGpuInstanceDestroy(gi)\n"

def machine_json(process):
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    return json.loads(stdout)


# ---- the library against NVML's documentation -----------------------------------------------------------------------


def test_the_documented_sequence_from_init_to_shutdown(machine):
    out = machine.nvml(
        MIG_ON
        + """
out["count"] = n.nvmlDeviceGetCount()
out["names"] = [n.nvmlDeviceGetName(n.nvmlDeviceGetHandleByIndex(i)) for i in range(2)]
out["bus"] = n.nvmlDeviceGetPciInfo(a).busId
out["same"] = n.nvmlDeviceGetUUID(n.nvmlDeviceGetHandleByUUID(n.nvmlDeviceGetUUID(a))) == n.nvmlDeviceGetUUID(a)
out["mode"] = n.nvmlDeviceGetMigMode(a)
gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 9, place(4, 4))
info = n.nvmlGpuInstanceGetInfo(gi)
out["gi"] = [info.id, info.profileId, info.placement.start, info.placement.size]
out["no_device_yet"] = code(n.nvmlDeviceGetMigDeviceHandleByIndex, a, 0)
ci = n.nvmlGpuInstanceCreateComputeInstance(gi, 2)
ci_info = n.nvmlComputeInstanceGetInfo(ci)
mig = n.nvmlDeviceGetMigDeviceHandleByIndex(a, 0)
out["uuid"] = [n.nvmlDeviceGetUUID(mig), n.nvmlDeviceGetUUID(ci_info.device)]
out["ids"] = [n.nvmlDeviceGetGpuInstanceId(mig), n.nvmlDeviceGetComputeInstanceId(mig)]
out["is_mig"] = [n.nvmlDeviceIsMigDeviceHandle(mig).value, n.nvmlDeviceIsMigDeviceHandle(a).value]
out["memory"] = [n.nvmlDeviceGetMemoryInfo(h).total >> 20 for h in (a, mig)]
attributes = n.nvmlDeviceGetAttributes(mig)
out["attributes"] = [attributes.gpuInstanceSliceCount, attributes.computeInstanceSliceCount, attributes.memorySizeMB]
out["parent"] = n.nvmlDeviceGetUUID(n.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)) == n.nvmlDeviceGetUUID(a)
out["busy"] = code(n.nvmlGpuInstanceDestroy, gi)
n.nvmlComputeInstanceDestroy(ci)
out["gone_ci"] = code(n.nvmlComputeInstanceGetInfo, ci)
n.nvmlGpuInstanceDestroy(gi)
out["left"] = layout(a)
n.nvmlShutdown()
out["after"] = code(n.nvmlDeviceGetCount)
"""
    )
    uuid = out.pop("uuid")
    assert uuid[0] == uuid[1] and uuid[0].startswith("MIG-")
    assert out == {
        "count": 2,
        "names": ["NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"],
        "bus": "00000000:07:00.0",
        "same": True,
        "mode": [1, 1],
        "gi": [2, 9, 4, 4],
        "no_device_yet": 6,
        "ids": [2, 0],
        "is_mig": [1, 0],
        "memory": [40960, 19968],
        "attributes": [3, 3, 19968],
        "parent": True,
        "busy": 19,
        "gone_ci": 6,
        "left": [],
        "after": 1,
    }


#: Groups of its own are in the place of those of this machine, for this process alone.
LIMITS = """
import os, sys
sys.path.insert(0, PLACE)
libc, new_mounts, private = ctypes.CDLL(None), 0x20000, 0x44000
assert not libc.unshare(new_mounts) and not libc.mount(b"none", b"/", None, private, None)
assert not libc.mount(b"tmpfs", b"/sys/fs/cgroup", b"tmpfs", 0, None)
os.makedirs("/sys/fs/cgroup/gpuslicing.slice/gpuslicing-a.slice")
open("/sys/fs/cgroup/cgroup.controllers", "w").close()

from gpuslice.drivers import quota
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.real import RealHost
from gpuslice.model import Gpu

host, board = RealHost(), Gpu("0000:07:00.0", "nvidia", "20b0", model="A100", memory_mib=40960, driver="nvidia")
sessions = Sessions(host)
by = quota.means(host, sessions, board)
out["by"] = [by.name, by.why, by.most and by.most >> 20]
"""


def limits(machine, script=""):
    """What the driver of limits comes to on the library, with a group ``gpuslicing-a.slice``."""
    if os.geteuid():
        pytest.skip("groups in the place of this machine's need root")
    return machine.nvml(f"PLACE = {str(ROOT / '_utils')!r}\n{LIMITS}{script}")


def test_a_limit_of_memory_goes_through_the_real_binding_and_back(machine):
    out = limits(
        machine,
        """
unit = "gpuslicing-a.slice"
out["first"] = quota.read(host, sessions, board, unit, by)
quota.write(host, sessions, board, unit, by, 8192 * 2**20)
out["then"] = quota.read(host, sessions, board, unit, by)
quota.write(host, sessions, board, unit, by, None)
out["last"] = quota.read(host, sessions, board, unit, by)
out["gone"] = quota.read(host, sessions, board, "gpuslicing-b.slice", by)
""",
    )
    assert out == {"by": ["nvml", "", 40960], "first": None, "then": 8192 * 2**20, "last": None, "gone": None}


def test_a_driver_without_limits_and_mig_mode_are_told(machine, tmp_path, built_old):
    old = fake_nvml.Machine(tmp_path, built_old)
    assert "r615" in limits(old)["by"][1]
    machine.nvml(MIG_ON)
    assert "MIG mode" in limits(machine)["by"][1]


def test_profiles_are_asked_by_enum_and_used_by_id(machine):
    out = machine.nvml(
        MIG_ON
        + """
for number in range(20):
    try:
        info = n.nvmlDeviceGetGpuInstanceProfileInfo(a, number)
        count = ctypes.c_uint()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(a, info.id, None, byref(count))
        array = (n.c_nvmlGpuInstancePlacement_t * count.value)()
        n.nvmlDeviceGetGpuInstancePossiblePlacements(a, info.id, array, byref(count))
        v1 = n.nvmlDeviceGetGpuInstanceProfileInfo(a, number, version=1)
        assert (v1.id, v1.memorySizeMB, v1.ofaCount) == (info.id, info.memorySizeMB, info.ofaCount)
        out[number] = [info.id, info.name, [p.start for p in array], array[0].size]
    except n.NVMLError as err:
        out[number] = err.value
"""
    )
    assert {int(key): value for key, value in out.items() if isinstance(value, list)} == {
        0: [19, "MIG 1g.5gb", [0, 1, 2, 3, 4, 5, 6], 1],
        1: [14, "MIG 2g.10gb", [0, 2, 4], 2],
        2: [9, "MIG 3g.20gb", [0, 4], 4],
        3: [5, "MIG 4g.20gb", [0], 4],
        4: [0, "MIG 7g.40gb", [0], 8],
        7: [20, "MIG 1g.5gb+me", [0, 1, 2, 3, 4, 5, 6], 1],
        9: [15, "MIG 1g.10gb", [0, 2, 4, 6], 2],
    }
    assert [out[str(number)] for number in (5, 6, 8, 10, 17)] == [3] * 5, "absent on this GPU: not supported"
    assert [out[str(number)] for number in (18, 19)] == [2, 2], "beyond the last enum: invalid argument"


def test_every_create_error(machine):
    out = machine.nvml(
        """
n.nvmlInit()
a = gpu("0000:07:00.0")
out["off"] = [code(n.nvmlDeviceCreateGpuInstance, a, 19), code(n.nvmlDeviceGetGpuInstanceById, a, 1)]
out["capacity_off"] = code(n.nvmlDeviceGetGpuInstanceRemainingCapacity, a, 19)
out["devices_off"] = n.nvmlDeviceGetMaxMigDeviceCount(a)
n.nvmlDeviceSetMigMode(a, 1)
with_place = n.nvmlDeviceCreateGpuInstanceWithPlacement
gi = with_place(a, 9, place(0, 4))
out["illegal"] = [code(with_place, a, p, place(*where)) for p, where in ((14, (3, 2)), (14, (4, 1)), (77, (0, 1)))]
out["occupied"] = [code(with_place, a, 9, place(0, 4)), code(with_place, a, 19, place(3, 1)), code(with_place, a, 0, place(0, 8))]
with_place(a, 20, place(4, 1))
out["one_me"] = code(with_place, a, 20, place(5, 1))
out["capacity"] = {i: n.nvmlDeviceGetGpuInstanceRemainingCapacity(a, i) for i in (19, 15, 14, 9, 0)}
out["full_ci"] = code(n.nvmlGpuInstanceCreateComputeInstance, gi, 2)
out["no_room_ci"] = code(n.nvmlGpuInstanceCreateComputeInstance, gi, 0)
out["wrong_ci"] = code(n.nvmlGpuInstanceCreateComputeInstance, gi, 3)
out["no_such_gpu"] = code(gpu, "0000:99:00.0")
"""
    )
    assert out == {
        "off": [3, 3],
        "capacity_off": 3,
        "devices_off": 0,
        "illegal": [2, 2, 2],
        "occupied": [23, 23, 23],
        "one_me": 23,
        "capacity": {"19": 2, "15": 1, "14": 0, "9": 0, "0": 0},
        "full_ci": 0,
        "no_room_ci": 23,
        "wrong_ci": 2,
        "no_such_gpu": 6,
    }


def test_driver_chosen_placements_can_make_a_legal_layout_fail(machine):
    create = "\nout['codes'] = [code(n.nvmlDeviceCreateGpuInstance, a, p) for p in {}]"
    assert machine.nvml(MIG_ON + create.format("(19, 19, 14, 9)"))["codes"] == [0, 0, 0, 23]
    assert machine.nvml(MIG_ON + CLEAR + create.format("(9, 19, 14, 19)"))["codes"] == [0, 0, 0, 0]


def test_all_layouts_that_the_rules_allow(machine):
    """
    Create and destroy through every reachable set of placed instances, the empty one included.

    There are 298 of them without the double-memory 1g and 723 with it, which a count by hand over the placement table gives too.
    """
    out = machine.nvml(
        MIG_ON
        + """
plain = [(p, s, size) for p, size, starts in ((19, 1, range(7)), (14, 2, (0, 2, 4)), (9, 4, (0, 4)), (5, 4, (0,)), (0, 8, (0,)))
         for s in starts]
def walk(kinds, first=0):
    seen = 1
    for k in range(first, len(kinds)):
        profile, start, size = kinds[k]
        if code(n.nvmlDeviceCreateGpuInstanceWithPlacement, a, profile, place(start, size)) == 0:
            seen += walk(kinds, k + 1)
            for gi in gpu_instances(a):
                info = n.nvmlGpuInstanceGetInfo(gi)
                if (info.profileId, info.placement.start) == (profile, start):
                    n.nvmlGpuInstanceDestroy(gi)
    return seen
out["layouts"] = walk(plain), walk(plain + [(15, s, 2) for s in (0, 2, 4, 6)])
""",
        FAKE_NVML_LOG="",
    )
    assert out["layouts"] == [298, 723]


def test_instance_ids_follow_the_position_and_older_drivers_count_from_the_other_half(machine):
    script = MIG_ON + CLEAR + "for s in (0, 6): n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 19, place(s, 1))\n"
    script += "out['ids'] = [i[3] for i in layout(a)]"
    assert machine.nvml(script)["ids"] == [7, 13]
    assert machine.nvml(script, FAKE_NVML_ROTATED_IDS="1")["ids"] == [11, 9]


def test_uuids_change_at_each_creation_and_indices_have_holes(machine):
    out = machine.nvml(
        MIG_ON
        + """
gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 5, place(0, 4))
cis = [n.nvmlGpuInstanceCreateComputeInstance(gi, 0) for _ in range(4)]
out["distinct"] = len({ctypes.cast(h, ctypes.c_void_p).value for h in cis + [gi, a]})
before = layout(a)[0][4]
n.nvmlComputeInstanceDestroy(cis[1])
out["hole"] = [code(n.nvmlDeviceGetMigDeviceHandleByIndex, a, i) for i in range(5)]
n.nvmlGpuInstanceCreateComputeInstanceWithPlacement(gi, 0, ci_place(1, 1))
after = layout(a)[0][4]
out["kept"] = [b[2] == c[2] for b, c in zip(before, after)]
"""
    )
    assert out == {"distinct": 6, "hole": [0, 6, 0, 0, 6], "kept": [True, False, True, True]}


def test_ampere_resets_itself_when_idle(machine):
    assert machine.nvml(MIG_ON + "out['mode'] = n.nvmlDeviceGetMigMode(a)")["mode"] == [1, 1]
    machine.nvml(MIG_ON + "n.nvmlDeviceCreateGpuInstance(a, 0)")
    out = machine.nvml(MIG_ON + "out['status'] = n.nvmlDeviceSetMigMode(a, 0)\nout['mode'] = n.nvmlDeviceGetMigMode(a)")
    assert out == {"status": 0, "mode": [0, 0]}
    assert machine.nvml(MIG_ON + "out['left'] = layout(a)")["left"] == [], "the reset destroyed the instances"


def test_ampere_owes_a_reset_that_an_open_client_prevents(machine):
    machine.settings["FAKE_NVML_RESET"] = "tool"
    out = machine.nvml(
        """
import subprocess
n.nvmlInit()
a = gpu("0000:07:00.0")
out["status"] = n.nvmlDeviceSetMigMode(a, 1)
out["mode"] = n.nvmlDeviceGetMigMode(a)
reset = ["nvidia-smi", "--gpu-reset", "-i", "0000:07:00.0"]
out["own_client"] = subprocess.run(reset, capture_output=True).returncode
n.nvmlShutdown()
out["free"] = subprocess.run(reset, capture_output=True).returncode
n.nvmlInit()
out["after"] = n.nvmlDeviceGetMigMode(gpu("0000:07:00.0"))
"""
    )
    assert out == {"status": 16, "mode": [0, 1], "own_client": 19, "free": 0, "after": [1, 1]}
    assert machine.calls("nvidia-smi--gpu-reset") == [("nvidia-smi--gpu-reset", A100, 19), ("nvidia-smi--gpu-reset", A100, 0)]


def test_hopper_changes_at_once_but_not_under_instances(machine):
    out = machine.nvml(
        """
n.nvmlInit()
h = gpu("0000:1b:00.0")
out["on"] = [n.nvmlDeviceSetMigMode(h, 1), n.nvmlDeviceGetMigMode(h)]
out["resetless"] = [n.nvmlDeviceGetFieldValues(gpu(a), [184])[0].value.uiVal for a in ("0000:07:00.0", "0000:1b:00.0")]
gi = n.nvmlDeviceCreateGpuInstance(h, 9)
out["under"] = [n.nvmlDeviceSetMigMode(h, 0), n.nvmlDeviceGetMigMode(h)]
n.nvmlGpuInstanceDestroy(gi)
out["off"] = [n.nvmlDeviceSetMigMode(h, 0), n.nvmlDeviceGetMigMode(h)]
"""
    )
    assert out == {"on": [0, [1, 1]], "resetless": [0, 1], "under": [19, [1, 1]], "off": [0, [0, 0]]}


def test_processes_keep_what_they_run_on(machine):
    out = machine.nvml(
        MIG_ON
        + """
import os
os.environ["FAKE_NVML_BUSY"] = f"0000:07:00.0/1/0:{os.getpid()}"
ctypes.CDLL(None).setenv(b"FAKE_NVML_BUSY", os.environ["FAKE_NVML_BUSY"].encode(), 1)
gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 9, place(0, 4))
ci = n.nvmlGpuInstanceCreateComputeInstance(gi, 2)
mig = n.nvmlComputeInstanceGetInfo(ci).device
out["seen"] = [[p.pid == os.getpid(), p.gpuInstanceId, p.computeInstanceId]
               for h in (a, mig) for p in n.nvmlDeviceGetComputeRunningProcesses_v3(h)]
out["destroy"] = code(n.nvmlComputeInstanceDestroy, ci)
"""
    )
    assert out == {"seen": [[True, 1, 0], [True, 1, 0]], "destroy": 19}


def test_without_privilege_reading_the_mode_works_and_nothing_else_does(machine):
    machine.nvml(MIG_ON + "gi = n.nvmlDeviceCreateGpuInstance(a, 9)\nn.nvmlGpuInstanceCreateComputeInstance(gi, 2)")
    out = machine.nvml(
        """
n.nvmlInit()
a = gpu("0000:07:00.0")
out["mode"] = n.nvmlDeviceGetMigMode(a)
out["devices"] = code(n.nvmlDeviceGetMigDeviceHandleByIndex, a, 0)
array, count = (n.c_nvmlGpuInstance_t * 7)(), ctypes.c_uint()
out["refused"] = [code(n.nvmlDeviceSetMigMode, a, 0), code(n.nvmlDeviceCreateGpuInstance, a, 19),
                  code(n.nvmlDeviceGetGpuInstances, a, 9, array, byref(count)), code(n.nvmlDeviceGetMemoryInfo, a)]
""",
        FAKE_NVML_UNPRIVILEGED="1",
    )
    assert out == {"mode": [1, 1], "devices": 0, "refused": [4, 4, 4, 4]}


@pytest.mark.parametrize("status", [9, 18])
def test_init_answers_what_it_is_told(machine, status):
    assert machine.nvml("out['code'] = code(n.nvmlInit)", FAKE_NVML_INIT=str(status)) == {"code": status}


def test_no_library(tmp_path):
    machine = fake_nvml.Machine(tmp_path, None)
    assert machine.nvml("out['code'] = code(n.nvmlInit)") == {"code": 12}


def test_an_old_library_lacks_the_newer_functions(tmp_path, built_old):
    machine = fake_nvml.Machine(tmp_path, built_old)
    out = machine.nvml(
        MIG_ON
        + """
gi = n.nvmlDeviceCreateGpuInstance(a, 9)
out["missing"] = [code(n.nvmlDeviceGetGpuInstanceProfileInfo, a, 0),
                  code(n.nvmlGpuInstanceGetComputeInstanceProfileInfo, gi, 0, 0),
                  code(n.nvmlGpuInstanceCreateComputeInstanceWithPlacement, gi, 2, ci_place(0, 3))]
out["v1"] = n.nvmlDeviceGetGpuInstanceProfileInfo(a, 0, version=1).id
out["ci"] = code(n.nvmlGpuInstanceCreateComputeInstance, gi, 2)
out["end"] = code(n.nvmlDeviceGetGpuInstanceProfileInfo, a, 10, 1)
"""
    )
    assert out == {"missing": [13, 13, 13], "v1": 19, "ci": 0, "end": 2}


def test_injected_failures_are_counted_over_processes(machine):
    fail = {"FAKE_NVML_FAIL": "nvmlDeviceCreateGpuInstance:3:999,nvmlDeviceGetName:1+:15"}
    script = MIG_ON + "out['codes'] = [code(n.nvmlDeviceCreateGpuInstance, a, 19) for _ in range(2)]"
    script += " + [code(n.nvmlDeviceGetName, a)]"
    assert machine.nvml(script, **fail)["codes"] == [0, 0, 15]
    assert machine.nvml(script, **fail)["codes"] == [999, 0, 15]


@pytest.mark.parametrize(("when", "left"), [("kill", 1), ("kill-after", 2)])
def test_a_process_can_be_killed_at_a_call(machine, when, left):
    process = machine.start(
        MIG_ON + "for _ in range(3): n.nvmlDeviceCreateGpuInstance(a, 19)", FAKE_NVML_FAIL=f"nvmlDeviceCreateGpuInstance:2:{when}"
    )
    process.communicate(timeout=60)
    assert process.returncode == -9
    assert len(machine.layout(A100)) == left


def test_processes_at_once_see_one_machine(machine):
    machine.nvml(MIG_ON)
    script = "n.nvmlInit()\na = gpu('0000:07:00.0')\n"
    script += "out['made'] = sum(code(n.nvmlDeviceCreateGpuInstance, a, 19) == 0 for _ in range(7))"
    running = [machine.start(script) for _ in range(4)]
    made = [machine_json(process)["made"] for process in running]
    assert sum(made) == 7
    assert [item[1] for item in machine.layout(A100)] == [0, 1, 2, 3, 4, 5, 6]


def test_the_log_names_what_each_call_was_about(machine):
    create = "gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 9, place(4, 4))\nn.nvmlGpuInstanceCreateComputeInstance(gi, 2)"
    machine.nvml(MIG_ON + create)
    assert machine.changes() == [
        ("nvmlDeviceSetMigMode", f"{A100}=1", 0),
        ("nvmlDeviceCreateGpuInstanceWithPlacement", f"{A100}/9@4:4", 0),
        ("nvmlGpuInstanceCreateComputeInstance", f"{A100}/2/2@-1", 0),
    ]


def test_threads_of_one_process_get_their_own_instances(machine):
    out = machine.nvml(
        """
import threading
n.nvmlInit()
made = {}
def fill(address):
    device = gpu(address)
    n.nvmlDeviceSetMigMode(device, 1)
    gis = [n.nvmlDeviceCreateGpuInstance(device, 19) for _ in range(7)]
    for gi in gis:
        n.nvmlGpuInstanceCreateComputeInstance(gi, 0)
    made[address] = [ci[2] for gi in layout(device) for ci in gi[4]]
threads = [threading.Thread(target=fill, args=(address,)) for address in ("0000:07:00.0", "0000:1b:00.0")]
[t.start() for t in threads]
[t.join() for t in threads]
out["uuids"] = sorted(len(set(uuids)) for uuids in made.values()), len(set(sum(made.values(), [])))
"""
    )
    assert out["uuids"] == [[7, 7], 14]


def test_strict_handles_die_with_a_mode_change(machine):
    script = "n.nvmlInit()\nh = gpu('0000:1b:00.0')\nn.nvmlDeviceSetMigMode(h, 1)\nout['old'] = code(n.nvmlDeviceGetMigMode, h)\n"
    script += "out['new'] = n.nvmlDeviceGetMigMode(gpu('0000:1b:00.0'))"
    assert machine.nvml(script, FAKE_NVML_STRICT_HANDLES="1") == {"old": 2, "new": [1, 1]}
    assert machine.mode(H100) == [1, 1]


# ---- the project on it, as a user runs it ---------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[2]
SALT_CALL = Path(sys.executable).with_name("salt-call")

PILLAR = """
containers_gpu_slicing:
  enabled: true
  strategy: none
  devices:
    - match: {pci: "0000:07:00.0"}
      strategy: mig
      mig: {profiles: {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 1}}
    - match: {pci: "0000:1b:00.0"}
      strategy: mig
      mig: {profiles: {"1g.10gb": 7}}
"""


@dataclass
class Answer:
    """What a ``salt-call`` said: its exit status, the value it returned (None when it is no JSON), all its text."""

    retcode: int
    value: object
    text: str


class Minion:
    """``salt-call --local`` on a machine, with the checkout as file root and sysfs from umockdev."""

    def __init__(self, machine, directory):
        self.machine = machine
        self.directory = directory
        self.state_dir = directory / "state"
        self.pillar("{}")
        config = {
            "id": "real-path",
            "root_dir": str(directory),
            "file_client": "local",
            "log_level": "warning",
            "module_dirs": [str(ROOT / "_modules")],
            "states_dirs": [str(ROOT / "_states")],
            "grains_dirs": [str(ROOT / "_grains")],
            "utils_dirs": [str(ROOT / "_utils")],
            "file_roots": {"base": [str(ROOT), str(ROOT / "states")]},
            "pillar_roots": {"base": [str(directory / "pillar")]},
            "enable_fqdns_grains": False,
            "gpu_slicing": {"state_dir": str(self.state_dir)},
        }
        (directory / "conf").mkdir()
        (directory / "conf" / "minion").write_text(json.dumps(config), encoding="utf-8")

    def pillar(self, text):
        """Set the pillar of the minion."""
        folder = self.directory / "pillar"
        folder.mkdir(exist_ok=True)
        (folder / "top.sls").write_text("base: {'*': [gpu]}\n", encoding="utf-8")
        (folder / "gpu.sls").write_text(text, encoding="utf-8")

    def command(self, *args):
        """The command line of a ``salt-call``."""
        options = ["--local", "--retcode-passthrough", "--out=json", "-c", str(self.directory / "conf")]
        return ["umockdev-run", "-d", str(self.machine.umockdev()), "--", str(SALT_CALL), *options, *args]

    def call(self, *args, **settings):
        """Run an execution function. Never may its text have a traceback."""
        done = subprocess.run(
            self.command(*args), env=self.machine.env(**settings), capture_output=True, text=True, timeout=120, check=False
        )
        text = done.stdout + done.stderr
        assert "Traceback" not in text, text
        try:
            value = json.loads(done.stdout)["local"]
        except (ValueError, KeyError, TypeError):
            value = None
        return Answer(done.returncode, value, " ".join(text.replace("\\n", " ").split()))

    def engine(self, gpu, profiles, **settings):
        """As :meth:`layout`, by the engine without Salt around it: several times quicker, for tests of many cases."""
        script = f"""
import sys
from gpuslice import errors
from gpuslice.engine import Engine
from tests.support.techniques import mig_targets
with Engine({{"state_dir": {str(self.state_dir)!r}}}) as engine:
    try:
        result = engine.reconciler().apply(mig_targets(engine, "layout", {gpu!r}, {profiles!r}))
    except errors.GpuSliceError as err:
        sys.exit(str(err))
    if result.errors:
        sys.exit(" ".join(result.errors))
"""
        env = {**self.machine.env(**settings), "PYTHONPATH": str(ROOT / "_utils")}
        command = ["umockdev-run", "-d", str(self.machine.umockdev()), "--", sys.executable, "-c", script]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        # umockdev-run tells the death of its child by a signal as 128 and more, or dies of it itself.
        retcode = 128 - done.returncode if done.returncode > 128 else done.returncode
        return Answer(retcode, None, done.stdout + done.stderr)

    def layout(self, gpu, profiles, **settings):
        """``gpu_mig.apply_layout`` with these profiles."""
        return self.call("gpu_mig.apply_layout", gpu, json.dumps(profiles), **settings)


@pytest.fixture
def minion(machine, tmp_path):
    needs.require(needs.lacking("umockdev-run"))
    directory = tmp_path / "minion"
    directory.mkdir()
    return Minion(machine, directory)


def placed(machine, gpu):
    """Profile id and start of each instance."""
    return [(item[0], item[1]) for item in machine.layout(gpu)]


def uuids(machine, gpu):
    """UUIDs of the MIG devices by (profile id, start) of their GPU instance."""
    return {(item[0], item[1]): [ci[2] for ci in item[4]] for item in machine.layout(gpu)}


def layout_now(machine, gpu):
    """Everything of the layout but what a creation changes (UUIDs)."""
    return [[*item[:4], [ci[:2] for ci in item[4]]] for item in machine.layout(gpu)]


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "300"])
    yield process.pid
    process.kill()
    process.wait()


#: From a 3g and a 2g to these takes eight changes: a CI and a GI go, three GIs and three CIs come.
WANTED = ["2g.20gb", "2g.20gb", "1g.10gb", "1g.10gb"]


def start_layout(machine):
    """Make 3g@0 and 2g@4 with NVML alone; returns the UUID of the latter, which every change here can keep."""
    script = """
n.nvmlInit()
h = gpu("0000:1b:00.0")
n.nvmlDeviceSetMigMode(h, 1)
for profile, start, size, ci in ((9, 0, 4, 2), (14, 4, 2, 1)):
    gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(h, profile, place(start, size))
    n.nvmlGpuInstanceCreateComputeInstance(gi, ci)
"""
    machine.nvml(script)
    machine.forget()
    return uuids(machine, H100)[(14, 4)]


def assert_wanted(machine, kept):
    """The GPU has what WANTED says, each instance with its compute instance, and kept what it could."""
    assert sorted(profile for profile, _ in placed(machine, H100)) == [14, 14, 19, 19]
    assert all(len(item[4]) == 1 for item in machine.layout(H100))
    assert uuids(machine, H100)[(14, 4)] == kept


def test_devices_are_both_gpus_and_no_display_controller(minion):
    answer = minion.call("gpu.devices")
    assert answer.retcode == 0, answer.text
    assert {(d["address"], d["vendor"], d["model"]) for d in answer.value} == {
        (A100, "nvidia", "NVIDIA A100-SXM4-40GB"),
        (H100, "nvidia", "NVIDIA H100 80GB HBM3"),
    }
    assert minion.machine.changes() == []


def test_a_layout_is_applied_and_found_right_the_second_time(minion):
    machine = minion.machine
    answer = minion.layout(H100, ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"])
    assert answer.retcode == 0, answer.text
    assert sorted(profile for profile, _ in placed(machine, H100)) == [9, 14, 19, 19]
    assert all(len(item[4]) == 1 for item in machine.layout(H100)), "each GPU instance has its compute instance"
    assert machine.mode(A100) == [0, 0]
    assert all(call[1].startswith(H100) for call in machine.changes()), "the other GPU was not touched"
    created = [call for call in machine.changes() if "CreateGpuInstance" in call[0]]
    assert {call[0] for call in created} == {"nvmlDeviceCreateGpuInstanceWithPlacement"}, "placements are always passed"
    before = uuids(machine, H100)
    machine.forget()
    answer = minion.layout(H100, ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"])
    assert answer.retcode == 0, answer.text
    assert machine.changes() == []
    assert len(machine.calls("nvmlInit_v2")) == len(machine.calls("nvmlShutdown")) > 0, "every session is ended"
    assert uuids(machine, H100) == before


def test_only_what_must_go_goes(minion):
    machine = minion.machine
    assert minion.layout(H100, ["3g.40gb@4", "1g.10gb@0"]).retcode == 0
    before = uuids(machine, H100)
    machine.forget()
    answer = minion.layout(H100, ["3g.40gb", "4g.40gb"])
    assert answer.retcode == 0, answer.text
    assert placed(machine, H100) == [(5, 0), (9, 4)]
    assert uuids(machine, H100)[(9, 4)] == before[(9, 4)]
    assert len([call for call in machine.changes() if call[0] == "nvmlGpuInstanceDestroy"]) == 1


def test_a_dry_run_changes_nothing_and_says_what_it_would(minion):
    answer = minion.call("gpu_mig.apply_layout", H100, '["3g.40gb"]', "test=True")
    assert answer.retcode == 0, answer.text
    assert "3g.40gb" in answer.text
    assert minion.machine.changes() == []
    assert minion.machine.mode(H100) == [0, 0]


def test_instances_and_slices_tell_what_nvml_tells(minion):
    machine = minion.machine
    assert minion.layout(H100, ["3g.40gb", "1g.10gb"]).retcode == 0
    known = {uuid for found in uuids(machine, H100).values() for uuid in found}
    answer = minion.call("gpu.slices")
    assert answer.retcode == 0, answer.text
    assert {(s["gpu"], s["kind"], s["profile"]) for s in answer.value} == {(H100, "mig", "3g.40gb"), (H100, "mig", "1g.10gb")}
    assert {s["uuid"] for s in answer.value} == known
    assert {s["memory_mib"] for s in answer.value} == {40448, 9984}


def test_highstate_from_a_pillar_and_again_without_a_change(minion):
    machine = minion.machine
    minion.pillar(PILLAR)
    answer = minion.call("state.apply", "gpu_slicing.slicing")
    assert answer.retcode == 0, answer.text
    assert sorted(profile for profile, _ in placed(machine, A100)) == [9, 14, 19]
    assert placed(machine, H100) == [(19, start) for start in range(7)]
    before = uuids(machine, A100), uuids(machine, H100)
    machine.forget()
    answer = minion.call("state.apply", "gpu_slicing")
    assert answer.retcode == 0, answer.text
    assert [name for name, state in answer.value.items() if "gpu_slicing_|-" in name and state["changes"]] == []
    assert machine.changes() == []
    assert (uuids(machine, A100), uuids(machine, H100)) == before


def test_a_failing_create_is_rolled_back(minion):
    machine = minion.machine
    kept = start_layout(machine)
    before = layout_now(machine, H100)
    answer = minion.layout(H100, WANTED, FAKE_NVML_FAIL="nvmlDeviceCreateGpuInstanceWithPlacement:2:999")
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text
    assert layout_now(machine, H100) == before
    assert uuids(machine, H100)[(14, 4)] == kept


def test_a_failure_on_one_gpu_leaves_both_as_they_were(minion):
    machine = minion.machine
    minion.pillar(PILLAR + "containers_gpu_state_management: {on_failure: host}\n")
    fail = "nvmlGpuInstanceCreateComputeInstanceWithPlacement:6:23"
    answer = minion.call("state.apply", "gpu_slicing.slicing", FAKE_NVML_FAIL=fail)
    assert answer.retcode != 0, answer.text
    assert [machine.mode(gpu) for gpu in (A100, H100)] == [[0, 0], [0, 0]]
    assert [machine.layout(gpu) for gpu in (A100, H100)] == [[], []]


def test_a_rollback_that_fails_says_what_is_left(minion):
    machine = minion.machine
    assert minion.layout(H100, ["3g.40gb@0", "2g.20gb@4"]).retcode == 0
    answer = minion.layout(H100, ["7g.80gb"], FAKE_NVML_FAIL="nvmlDeviceCreateGpuInstanceWithPlacement:1+:999")
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and "3g.40gb" in answer.text, answer.text
    answer = minion.layout(H100, ["7g.80gb"])
    assert answer.retcode == 0, answer.text
    assert placed(machine, H100) == [(0, 0)]


def test_a_destroy_that_is_refused_for_a_moment_is_tried_again(minion):
    start_layout(minion.machine)
    answer = minion.engine(H100, ["4g.40gb"], FAKE_NVML_FAIL="nvmlGpuInstanceDestroy:1:19")
    assert answer.retcode == 0, answer.text
    assert placed(minion.machine, H100) == [(5, 0)]


def test_what_a_killed_change_leaves_is_finished_by_the_next_run(minion):
    machine = minion.machine
    kept = start_layout(machine)
    killed = minion.layout(H100, WANTED, FAKE_NVML_FAIL="nvmlDeviceCreateGpuInstanceWithPlacement:2:kill-after")
    assert killed.value is None and killed.retcode not in (0, 1), killed.text
    answer = minion.layout(H100, WANTED)
    assert answer.retcode == 0, answer.text
    assert_wanted(machine, kept)


def test_what_a_killed_change_leaves_is_undone_when_something_else_is_wanted(minion):
    start_layout(minion.machine)
    assert minion.engine(H100, WANTED, FAKE_NVML_FAIL="nvmlDeviceCreateGpuInstanceWithPlacement:2:kill-after").retcode == -9
    answer = minion.engine(H100, ["3g.40gb@0", "2g.20gb@4"])
    assert answer.retcode == 0, answer.text
    assert placed(minion.machine, H100) == [(9, 0), (14, 4)]


@pytest.mark.parametrize("nth", range(1, 9))
def test_killed_at_any_change_the_next_run_finishes(minion, nth):
    machine = minion.machine
    kept = start_layout(machine)
    assert minion.engine(H100, WANTED, FAKE_NVML_FAIL=f"change:{nth}:{'kill-after' if nth % 2 else 'kill'}").retcode == -9
    answer = minion.engine(H100, WANTED)
    assert answer.retcode == 0, answer.text
    assert_wanted(machine, kept)
    machine.forget()
    assert minion.engine(H100, WANTED).retcode == 0
    assert machine.changes() == []


@pytest.mark.parametrize("nth", range(1, 9))
def test_failed_at_any_change_the_gpu_is_as_it_was(minion, nth):
    machine = minion.machine
    kept = start_layout(machine)
    before = layout_now(machine, H100)
    answer = minion.engine(H100, WANTED, FAKE_NVML_FAIL=f"change:{nth}:999")
    assert answer.retcode == 1 and H100 in answer.text, answer.text
    assert layout_now(machine, H100) == before
    assert uuids(machine, H100)[(14, 4)] == kept
    assert minion.engine(H100, WANTED).retcode == 0
    assert_wanted(machine, kept)


@pytest.mark.parametrize("fail", ["change:3+:15", "nvmlDeviceGetHandleByPciBusId_v2:1+:15", "nvmlDeviceGetGpuInstances:1+:15"])
def test_a_gpu_that_is_lost_is_told(minion, fail):
    start_layout(minion.machine)
    answer = minion.engine(H100, WANTED, FAKE_NVML_FAIL=fail)
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and "bus" in answer.text, answer.text


@pytest.mark.parametrize(("sick", "words"), [("rows", "row"), ("reset", "reset")])
def test_a_sick_gpu_is_not_sliced_and_the_other_is(minion, sick, words):
    minion.pillar(PILLAR)
    answer = minion.call("gpu_slicing.apply", FAKE_NVML_SICK=f"{H100}:{sick}")
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and words in answer.text, answer.text
    assert placed(minion.machine, H100) == []
    assert sorted(profile for profile, _ in placed(minion.machine, A100)) == [9, 14, 19]


def test_what_is_in_use_is_named_and_stays(minion, sleeper):
    machine = minion.machine
    assert minion.layout(H100, ["3g.40gb@4", "1g.10gb@0"]).retcode == 0
    busy = {"FAKE_NVML_BUSY": f"{H100}/2/0:{sleeper}"}
    before = machine.layout(H100)
    machine.forget()
    answer = minion.layout(H100, ["7g.80gb"], **busy)
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and str(sleeper) in answer.text and "sleep" in answer.text, answer.text
    assert machine.changes() == []
    assert machine.layout(H100) == before
    answer = minion.layout(H100, ["4g.40gb", "3g.40gb"], **busy)
    assert answer.retcode == 0, answer.text
    assert uuids(machine, H100)[(9, 4)] == before[1][4][0][2:]


def test_a_profile_that_the_gpu_has_not_is_answered_with_those_it_has(minion):
    answer = minion.layout(H100, ["3g.20gb"])
    assert answer.retcode == 1, answer.text
    assert "3g.20gb" in answer.text and "3g.40gb" in answer.text and H100 in answer.text, answer.text
    assert minion.machine.changes() == []


def test_more_than_fits_is_refused_before_anything_is_touched(minion):
    answer = minion.engine(H100, {"3g.40gb": 3})
    assert answer.retcode == 1, answer.text
    assert "3g.40gb" in answer.text and H100 in answer.text, answer.text
    assert minion.machine.changes() == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"FAKE_NVML_INIT": "9"}, "driver"),
        ({"FAKE_NVML_INIT": "18"}, "version"),
        ({"FAKE_NVML_INIT": "4"}, "root"),
        ({"FAKE_NVML_INIT": "17"}, ""),
        ({"FAKE_NVML_INIT": "999"}, ""),
    ],
)
def test_a_driver_that_refuses_the_session_is_a_sentence(minion, settings, words):
    answer = minion.engine(H100, ["3g.40gb"], **settings)
    assert answer.retcode == 1, answer.text
    assert words in answer.text and len(answer.text) > 20, answer.text
    assert minion.machine.layout(H100) == []


@pytest.mark.parametrize(("setting", "value", "words"), [("INIT", "18", "version"), ("UNPRIVILEGED", "1", "root")])
def test_a_driver_that_refuses_is_a_sentence_of_salt_call(minion, setting, value, words):
    answer = minion.layout(H100, ["3g.40gb"], **{f"FAKE_NVML_{setting}": value})
    assert answer.retcode == 1, answer.text
    assert words in answer.text, answer.text
    assert minion.machine.layout(H100) == []


def test_without_the_library_a_change_fails_with_a_sentence_and_reading_works(minion):
    minion.machine.built = None
    answer = minion.layout(H100, ["3g.40gb"])
    assert answer.retcode == 1, answer.text
    assert "libnvidia-ml" in answer.text or "driver" in answer.text, answer.text
    answer = minion.call("gpu.devices")
    assert answer.retcode == 0, answer.text
    assert {d["address"] for d in answer.value} == {A100, H100}


def test_an_old_library_is_enough(minion, built_old):
    machine = minion.machine
    machine.built = built_old
    wanted = {"3g.20gb": 1, "1g.5gb": 2, "2g.10gb": 1}
    answer = minion.engine(A100, wanted)
    assert answer.retcode == 0, answer.text
    assert sorted(profile for profile, _ in placed(machine, A100)) == [9, 14, 19, 19]
    assert all(len(item[4]) == 1 for item in machine.layout(A100))
    machine.forget()
    assert minion.engine(A100, wanted).retcode == 0
    assert machine.changes() == []


def test_drivers_that_tell_no_profiles_before_mig_is_on(minion):
    minion.machine.settings["FAKE_NVML_PROFILES_NEED_MIG"] = "1"
    answer = minion.engine(H100, ["3g.40gb", "4g.40gb"])
    assert answer.retcode == 0, answer.text
    assert placed(minion.machine, H100) == [(5, 0), (9, 4)]


@pytest.mark.parametrize(
    "settings", [{"FAKE_NVML_ROTATED_IDS": "1"}, {"FAKE_NVML_STRICT_HANDLES": "1"}, {"FAKE_NVML_NAME_PREFIX": ""}]
)
def test_drivers_differ_and_the_layout_is_the_same(minion, settings):
    minion.machine.settings.update(settings)
    for gpu, profiles in ((A100, ["3g.20gb@0", "1g.5gb@6"]), (H100, ["3g.40gb@0", "1g.10gb@6"])):
        answer = minion.engine(gpu, profiles)
        assert answer.retcode == 0, answer.text
        assert placed(minion.machine, gpu) == [(9, 0), (19, 6)]


def test_ampere_is_reset_alone_when_the_driver_did_not(minion):
    machine = minion.machine
    machine.settings["FAKE_NVML_RESET"] = "tool"
    answer = minion.layout(A100, ["7g.40gb"])
    assert answer.retcode == 0, answer.text
    assert placed(machine, A100) == [(0, 0)]
    assert machine.calls("nvidia-smi--gpu-reset") == [("nvidia-smi--gpu-reset", A100, 0)]


def test_a_reset_that_can_not_be_is_told_as_a_reboot(minion):
    machine = minion.machine
    machine.settings["FAKE_NVML_RESET"] = "never"
    answer = minion.call("gpu_mig.set_mode", A100, "True")
    assert "reboot" in answer.text.lower() and A100 in answer.text, answer.text
    assert "verified" not in answer.text, "what waits for a reboot is not there yet: " + answer.text
    assert machine.mode(A100) == [0, 1]
    machine.forget()
    minion.call("gpu_mig.set_mode", A100, "True")
    assert machine.calls("nvidia-smi--gpu-reset") == [], "this boot's refusal is remembered"


def test_the_mode_goes_off_with_its_instances(minion):
    machine = minion.machine
    assert minion.layout(H100, ["3g.40gb", "2g.20gb"]).retcode == 0
    answer = minion.call("gpu_mig.set_mode", H100, "False")
    assert answer.retcode == 0, answer.text
    assert machine.mode(H100) == [0, 0]


def test_two_changes_at_once_are_one_after_the_other_or_refused(minion):
    machine = minion.machine
    # Two first runs of a minion would race for Salt's own directories, which is not what this is about.
    minion.call("test.ping")
    wanted = json.dumps(["3g.40gb", "2g.20gb"])
    command = minion.command("gpu_mig.apply_layout", H100, wanted)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    running = [subprocess.Popen(command, env=machine.env(), **pipes) for _ in range(2)]
    texts = [process.communicate(timeout=120)[0].decode() for process in running]
    assert min(process.returncode for process in running) == 0, texts
    assert all("Traceback" not in text for text in texts), texts
    assert sorted(profile for profile, _ in placed(machine, H100)) == [9, 14]
    assert len([call for call in machine.changes() if "CreateGpuInstance" in call[0]]) == 2


def test_reading_opens_no_session_for_grains(minion):
    answer = minion.call("grains.item", "gpu")
    assert answer.retcode == 0, answer.text
    assert answer.value["gpu"]["count"] == 2
    assert sorted(answer.value["gpu"]["addresses"]) == [A100, H100]
    assert minion.machine.calls() == [], "grains open no NVML session"


def test_compute_instances_and_media_profiles_lie_as_asked(minion):
    machine, wanted = minion.machine, ["2c.3g.40gb", "1g.10gb+me", "2g.20gb"]
    answer = minion.engine(H100, wanted)
    assert answer.retcode == 0, answer.text
    found = {item[0]: [ci[:2] for ci in item[4]] for item in machine.layout(H100)}
    assert found == {9: [[1, 0]], 20: [[0, 0]], 14: [[1, 0]]}
    machine.forget()
    assert minion.engine(H100, wanted).retcode == 0
    assert machine.changes() == []


def test_instances_that_another_tool_made_in_an_odd_way_can_go(minion):
    """A GPU instance that holds a plain compute instance and one of the second one-slice profile of recent drivers."""
    machine = minion.machine
    machine.nvml(
        MIG_ON + "gi = n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 9, place(0, 4))\n"
        "for profile in (0, 7): n.nvmlGpuInstanceCreateComputeInstance(gi, profile)"
    )
    answer = minion.engine(A100, ["7g.40gb"])
    assert answer.retcode == 0, answer.text
    assert placed(machine, A100) == [(0, 0)]


def test_a_gpu_instance_without_compute_instance_is_completed(minion):
    minion.machine.nvml(MIG_ON + "n.nvmlDeviceCreateGpuInstanceWithPlacement(a, 9, place(4, 4))")
    answer = minion.engine(A100, ["3g.20gb"])
    assert answer.retcode == 0, answer.text
    [instance] = minion.machine.layout(A100)
    assert instance[:3] == [9, 4, 4] and [ci[0] for ci in instance[4]] == [2]


def test_a_gpu_is_found_by_its_uuid(minion):
    uuid = minion.machine.nvml("n.nvmlInit()\nout['it'] = n.nvmlDeviceGetUUID(gpu('0000:1b:00.0'))")["it"]
    answer = minion.engine(uuid, ["7g.80gb"])
    assert answer.retcode == 0, answer.text
    assert placed(minion.machine, H100) == [(0, 0)]


def test_ampere_with_another_client_is_a_conflict_and_owes_nothing_after(minion):
    """A monitor holds NVML open: neither the driver nor nvidia-smi can reset the GPU."""
    machine = minion.machine
    monitor = machine.start("import time\nn.nvmlInit()\nprint('open', flush=True)\ntime.sleep(60)")
    assert monitor.stdout.readline() == "open\n"
    try:
        answer = minion.engine(A100, ["7g.40gb"])
    finally:
        monitor.kill()
        monitor.communicate()
    assert answer.retcode == 1, answer.text
    assert A100 in answer.text and "use" in answer.text, answer.text
    assert machine.mode(A100) == [0, 0]
    assert [call[1] for call in machine.calls("nvidia-smi--gpu-reset") if not call[1].startswith(A100)] == []


def test_hopper_with_a_process_on_it_names_the_process(minion, sleeper):
    answer = minion.engine(H100, ["7g.80gb"], FAKE_NVML_BUSY=f"{H100}:{sleeper}")
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and str(sleeper) in answer.text and "sleep" in answer.text, answer.text
    assert minion.machine.mode(H100) == [0, 0]


def test_reading_without_privilege_is_a_sentence_and_no_failure(minion):
    start_layout(minion.machine)
    answer = minion.call("gpu.slices", FAKE_NVML_UNPRIVILEGED="1")
    assert answer.retcode == 0, answer.text
    assert "root" in answer.text, answer.text
    assert minion.machine.changes() == []


def test_a_state_in_test_mode_changes_nothing_and_tells_the_plan(minion):
    minion.pillar(PILLAR)
    answer = minion.call("state.apply", "gpu_slicing.slicing", "test=True")
    assert answer.retcode == 0, answer.text
    [state] = [state for name, state in answer.value.items() if "converged" in name]
    assert state["result"] is None and "3g.20gb" in answer.text and "1g.10gb" in answer.text, answer.text
    assert minion.machine.changes() == []


def test_even_force_can_not_destroy_what_the_driver_holds(minion, sleeper):
    machine = minion.machine
    start_layout(machine)
    before = layout_now(machine, H100)
    busy = {"FAKE_NVML_BUSY": f"{H100}/1/0:{sleeper}"}
    answer = minion.call("gpu_mig.apply_layout", H100, '["7g.80gb"]', "force=True", **busy)
    assert answer.retcode == 1, answer.text
    assert H100 in answer.text and "use" in answer.text, answer.text
    assert layout_now(machine, H100) == before


def test_an_earlier_layout_comes_back(minion):
    machine = minion.machine
    assert minion.engine(H100, ["3g.40gb@0", "2g.20gb@4"]).retcode == 0
    before = layout_now(machine, H100)
    assert minion.engine(H100, ["7g.80gb"]).retcode == 0
    answer = minion.call("gpu_slicing.rollback")
    assert answer.retcode == 0, answer.text
    assert layout_now(machine, H100) == before


@pytest.mark.parametrize("gpu", [H100, A100])
def test_a_gpu_that_can_be_spared_is_tried_and_put_back(minion, gpu):
    answer = minion.call("gpu_slicing.qualify", gpu, "confirm=True")
    assert answer.retcode == 0 and answer.value["result"], answer.text
    report = json.loads(Path(answer.value["report"]).read_text(encoding="utf-8"))
    [found] = report["technologies"]
    assert {each["what"]: (each["result"], each["why"]) for each in found["trials"] if each["result"] != "ok"} == {}
    assert len(found["trials"]) == 34
    assert [found[name]["result"] for name in ("stopped", "killed", "refused")] == ["ok"] * 3
    machine = minion.machine
    assert machine.mode(gpu) == [0, 0] and machine.layout(gpu) == []
    assert all(call[1].startswith(gpu) for call in machine.changes() if call[1].startswith("0000:")), "the other was not touched"


def test_the_suite_for_real_gpus_reads_only(minion):
    suite = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "gpu" / "look.py")]
    command = ["umockdev-run", "-d", str(minion.machine.umockdev()), "--", *suite]
    done = subprocess.run(command, env=minion.machine.env(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout and minion.machine.changes() == []
