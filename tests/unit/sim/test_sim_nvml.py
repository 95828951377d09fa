"""The simulated NVML against what is known of the real one."""

import ctypes
import itertools
import pathlib

import pynvml
import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice.sim.host import SimulatedHost

HOSTS = pathlib.Path(__file__).resolve().parents[3] / "examples" / "hosts"
A100 = "0000:07:00.0"
H100 = "0000:1b:00.0"


def described(tmp_path, text, name="box"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return SimulatedHost(path, tmp_path / "state")


def example(tmp_path, name):
    return SimulatedHost(HOSTS / f"{name}.yaml", tmp_path / "state")


def opened(host):
    lib = host.nvml()
    lib.nvmlInit()
    return lib


@pytest.fixture
def a100(tmp_path):
    lib = opened(example(tmp_path, "dgx-a100-40gb"))
    return lib, lib.nvmlDeviceGetHandleByPciBusId("00000000:07:00.0")


def place(start, size):
    return ctypes.byref(pynvml.c_nvmlGpuInstancePlacement_t(start, size))


def ci_place(start, size):
    return ctypes.byref(pynvml.c_nvmlComputeInstancePlacement_t(start, size))


def where(lib, gi):
    info = lib.nvmlGpuInstanceGetInfo(gi)
    return info.id, info.placement.start, info.placement.size


def placements(lib, device, profile_id):
    count = ctypes.c_uint(0)
    lib.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, None, ctypes.byref(count))
    array = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    lib.nvmlDeviceGetGpuInstancePossiblePlacements(device, profile_id, array, ctypes.byref(count))
    return [(p.start, p.size) for p in array]


def instances(lib, device, profile_id):
    array = (pynvml.c_nvmlGpuInstance_t * 8)()
    count = ctypes.c_uint(8)
    lib.nvmlDeviceGetGpuInstances(device, profile_id, array, ctypes.byref(count))
    return [array[n] for n in range(count.value)]


# -- library ---------------------------------------------------------------------------------------------------------
def test_functions_need_init(tmp_path):
    lib = example(tmp_path, "dgx-a100-40gb").nvml()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        lib.nvmlDeviceGetCount()


def test_init_is_counted_and_the_last_shutdown_makes_handles_stale(a100):
    lib, device = a100
    lib.nvmlInit()
    lib.nvmlShutdown()
    assert lib.nvmlDeviceGetMigMode(device) == [1, 1]
    lib.nvmlShutdown()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        lib.nvmlDeviceGetMigMode(device)
    lib.nvmlInit()
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceGetMigMode(device)


@pytest.mark.parametrize(
    ("driver", "error"),
    [
        ("{library: missing}", pynvml.NVMLError_LibraryNotFound),
        ("{loaded: false}", pynvml.NVMLError_DriverNotLoaded),
        ('{version: "580.95", library_version: "575.51"}', pynvml.NVMLError_LibRmVersionMismatch),
    ],
)
def test_a_driver_that_can_not_be_used(tmp_path, driver, error):
    host = described(tmp_path, f'driver: {driver}\ngpus: [{{model: a100-40gb, address: "{A100}"}}]\n')
    with pytest.raises(error):
        host.nvml().nvmlInit()


def test_other_names_are_those_of_pynvml_and_its_other_functions_are_absent(a100):
    lib, device = a100
    assert lib.NVML_ERROR_IN_USE == 19
    assert lib.c_nvmlGpuInstance_t is pynvml.c_nvmlGpuInstance_t
    assert lib.NVMLError is pynvml.NVMLError
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        lib.nvmlDeviceGetFanSpeed(device)
    with pytest.raises(AttributeError):
        lib.nothing_of_this_name  # noqa: B018


def test_calls_are_counted(a100):
    lib, device = a100
    lib.nvmlDeviceGetUUID(device)
    lib.nvmlDeviceGetUUID(device)
    assert lib.calls["nvmlDeviceGetUUID"] == 2


# -- devices ---------------------------------------------------------------------------------------------------------
def test_a_device_in_every_form(a100):
    lib, device = a100
    assert lib.nvmlDeviceGetCount() == 8
    assert lib.nvmlDeviceGetName(device) == "NVIDIA A100-SXM4-40GB"
    assert lib.nvmlDeviceGetUUID(device).startswith("GPU-")
    info = lib.nvmlDeviceGetPciInfo(device)
    assert (info.busId, info.bus, hex(info.pciDeviceId)) == ("00000000:07:00.0", 7, "0x20b010de")
    assert lib.nvmlDeviceGetMemoryInfo(device).total == 40960 << 20
    assert lib.nvmlDeviceGetCudaComputeCapability(device) == (8, 0)
    assert lib.nvmlDeviceGetRemappedRows(device) == (0, 0, 0, 0)
    same = lib.nvmlDeviceGetHandleByUUID(lib.nvmlDeviceGetUUID(device))
    assert ctypes.cast(same, ctypes.c_void_p).value == ctypes.cast(device, ctypes.c_void_p).value
    again = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetIndex(again) == 0 and lib.nvmlDeviceIsMigDeviceHandle(again).value == 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceGetHandleByIndex(8)
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlDeviceGetHandleByPciBusId("0000:ff:00.0")


def test_a_board_without_mig(tmp_path):
    lib = opened(example(tmp_path, "mixed"))
    t4 = lib.nvmlDeviceGetHandleByPciBusId("0000:3b:00.0")
    assert lib.nvmlDeviceGetMaxMigDeviceCount(t4) == 0
    for call in (lib.nvmlDeviceGetMigMode, lambda d: lib.nvmlDeviceSetMigMode(d, 1), lib.nvmlDeviceGetRemappedRows):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            call(t4)


def test_a_workstation_board_hides_mig_in_graphics_mode(tmp_path):
    lib = opened(example(tmp_path, "rtx-pro-6000"))
    assert lib.nvmlDeviceGetMigMode(lib.nvmlDeviceGetHandleByPciBusId("0000:16:00.0")) == [0, 0]
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceGetMigMode(lib.nvmlDeviceGetHandleByPciBusId("0000:ac:00.0"))


def test_fields_have_their_own_return_codes(tmp_path):
    lib = opened(example(tmp_path, "dgx-h100"))
    values = lib.nvmlDeviceGetFieldValues(lib.nvmlDeviceGetHandleByIndex(0), [184, (199, 0), 230, 1])
    assert [v.nvmlReturn for v in values] == [0, 0, 0, 3]
    assert [v.value.uiVal for v in values[:3]] == [1, 1, 0]


# -- profiles --------------------------------------------------------------------------------------------------------
def test_enums_and_ids_differ_and_the_list_ends_with_invalid_argument(a100):
    lib, device = a100
    found = {}
    for enum in itertools.count():
        try:
            info = lib.nvmlDeviceGetGpuInstanceProfileInfo(device, enum, version=2)
        except pynvml.NVMLError_NotSupported:
            continue
        except pynvml.NVMLError_InvalidArgument:
            break
        found[enum] = (info.id, info.name, info.sliceCount)
    assert found == {
        0: (19, "MIG 1g.5gb", 1),
        1: (14, "MIG 2g.10gb", 2),
        2: (9, "MIG 3g.20gb", 3),
        3: (5, "MIG 4g.20gb", 4),
        4: (0, "MIG 7g.40gb", 7),
        7: (20, "MIG 1g.5gb+me", 1),
        9: (15, "MIG 1g.10gb", 1),
    }
    assert enum == 18
    assert lib.nvmlDeviceGetGpuInstanceProfileInfo(device, 0, version=1).memorySizeMB == 4864
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        lib.nvmlDeviceGetGpuInstanceProfileInfo(device, 0, version=3)


def test_placements_are_all_legal_ones(a100):
    lib, device = a100
    assert placements(lib, device, 9) == [(0, 4), (4, 4)]
    assert placements(lib, device, 19) == [(n, 1) for n in range(7)]
    count = ctypes.c_uint(1)
    short = (pynvml.c_nvmlGpuInstancePlacement_t * 1)()
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlDeviceGetGpuInstancePossiblePlacements(device, 9, short, ctypes.byref(count))
    assert caught.value.value == pynvml.NVML_ERROR_INSUFFICIENT_SIZE and count.value == 2


def test_old_drivers_know_less(tmp_path):
    gpu = f'gpus: [{{model: h100-80gb, address: "{H100}"}}]\n'
    r535 = opened(described(tmp_path, f"nvml_level: r535\n{gpu}", "r535"))
    device = r535.nvmlDeviceGetHandleByIndex(0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        r535.nvmlDeviceGetGpuInstanceProfileInfo(device, 0)
    assert r535.nvmlDeviceGetFieldValues(device, [199])[0].nvmlReturn == 3
    assert r535.nvmlDeviceSetMigMode(device, 1) == 0
    device = r535.nvmlDeviceGetHandleByIndex(0)
    assert r535.nvmlDeviceGetGpuInstanceProfileInfo(device, 0).id == 19
    r470 = opened(described(tmp_path, f"nvml_level: r470\n{gpu}", "r470"))
    with pytest.raises(pynvml.NVMLError_FunctionNotFound):
        r470.nvmlDeviceGetGpuInstanceProfileInfo(r470.nvmlDeviceGetHandleByIndex(0), 0, version=2)


# -- GPU instances ---------------------------------------------------------------------------------------------------
def test_the_driver_places_as_observed_and_can_spoil_a_legal_layout(a100):
    lib, device = a100
    assert where(lib, lib.nvmlDeviceCreateGpuInstance(device, 19))[1] == 6
    assert where(lib, lib.nvmlDeviceCreateGpuInstance(device, 19))[1] == 4
    lib.nvmlDeviceCreateGpuInstance(device, 14)
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlDeviceCreateGpuInstance(device, 9)
    assert caught.value.value == pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES
    other = lib.nvmlDeviceGetHandleByIndex(1)
    assert [where(lib, lib.nvmlDeviceCreateGpuInstance(other, p))[1] for p in (9, 19, 14, 19)][0] == 4


def test_ids_follow_from_positions(a100):
    lib, device = a100
    assert where(lib, lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, place(4, 4))) == (2, 4, 4)
    assert where(lib, lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 14, place(2, 2))) == (4, 2, 2)
    assert where(lib, lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 19, place(1, 1))) == (8, 1, 1)
    assert [where(lib, gi)[0] for gi in instances(lib, device, 19)] == [8]
    assert where(lib, lib.nvmlDeviceGetGpuInstanceById(device, 2))[1:] == (4, 4)
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlDeviceGetGpuInstanceById(device, 1)


def test_an_occupied_placement_is_no_resource_and_an_illegal_one_no_argument(a100):
    lib, device = a100
    lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, place(0, 4))
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, place(0, 4))
    assert caught.value.value == 23
    for wrong in (place(2, 4), place(4, 3), pynvml.c_nvmlGpuInstancePlacement_t(4, 4)):
        with pytest.raises(pynvml.NVMLError_InvalidArgument):
            lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, wrong)


def test_media_extensions_exist_once(a100):
    lib, device = a100
    lib.nvmlDeviceCreateGpuInstance(device, 20)
    assert lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 20) == 0
    assert lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 19) == 6


def test_all_media_engines_leave_room_for_instances_without_any(tmp_path):
    lib = opened(example(tmp_path, "rtx-pro-6000"))
    device = lib.nvmlDeviceGetHandleByPciBusId("0000:16:00.0")
    assert lib.nvmlDeviceSetMigMode(device, 1) == 0
    device = lib.nvmlDeviceGetHandleByPciBusId("0000:16:00.0")
    lib.nvmlDeviceCreateGpuInstance(device, 65)
    assert lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 14) == 0
    assert lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 67) == 3


def test_a_layout_of_a_4_slice_gpu(tmp_path):
    lib = opened(example(tmp_path, "a30-pair"))
    device = lib.nvmlDeviceGetHandleByIndex(0)
    ids = {i: where(lib, lib.nvmlDeviceGetGpuInstanceById(device, i)) for i in (1, 5, 6)}
    assert ids == {1: (1, 0, 2), 5: (5, 2, 1), 6: (6, 3, 1)}


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wanted=st.lists(st.sampled_from([0, 5, 9, 14, 15, 19, 20]), min_size=1, max_size=9))
def test_what_exists_never_overlaps_and_capacity_tells_the_truth(a100, wanted):
    lib, device = a100
    made = []
    for profile in wanted:
        room = lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, profile)
        try:
            made.append(lib.nvmlDeviceCreateGpuInstance(device, profile))
        except pynvml.NVMLError as err:
            assert err.value == 23 and room == 0
        else:
            assert room > 0
    taken = [n for gi in made for _, start, size in [where(lib, gi)] for n in range(start, start + size)]
    assert len(taken) == len(set(taken))
    for gi in made:
        lib.nvmlGpuInstanceDestroy(gi)
    assert lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 19) == 7


# -- compute instances and MIG devices -------------------------------------------------------------------------------
def test_a_compute_instance_makes_a_mig_device_with_a_new_uuid_each_time(a100):
    lib, device = a100
    gi = lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, place(4, 4))
    ci = lib.nvmlGpuInstanceCreateComputeInstance(gi, 2)
    info = lib.nvmlComputeInstanceGetInfo(ci)
    first = lib.nvmlDeviceGetUUID(info.device)
    assert first.startswith("MIG-") and (info.id, info.profileId, info.placement.size) == (0, 2, 3)
    mig = lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 0)
    assert lib.nvmlDeviceIsMigDeviceHandle(mig).value == 1
    assert (lib.nvmlDeviceGetGpuInstanceId(mig), lib.nvmlDeviceGetComputeInstanceId(mig)) == (2, 0)
    assert lib.nvmlDeviceGetUUID(lib.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig)) == lib.nvmlDeviceGetUUID(device)
    attributes = lib.nvmlDeviceGetAttributes(mig)
    assert (attributes.multiprocessorCount, attributes.gpuInstanceSliceCount, attributes.memorySizeMB) == (42, 3, 19968)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceGetAttributes(device)
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlGpuInstanceDestroy(gi)
    assert caught.value.value == pynvml.NVML_ERROR_IN_USE
    lib.nvmlComputeInstanceDestroy(ci)
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlComputeInstanceGetInfo(ci)
    again = lib.nvmlComputeInstanceGetInfo(lib.nvmlGpuInstanceCreateComputeInstance(gi, 2))
    assert lib.nvmlDeviceGetUUID(again.device) != first


def test_mig_device_indices_have_holes(a100):
    lib, device = a100
    gi = lib.nvmlDeviceCreateGpuInstance(device, 9)
    cis = [lib.nvmlGpuInstanceCreateComputeInstance(gi, 0) for _ in range(3)]
    lib.nvmlComputeInstanceDestroy(cis[0])
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 0)
    assert lib.nvmlDeviceGetComputeInstanceId(lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 1)) == 1
    assert lib.nvmlDeviceGetMaxMigDeviceCount(device) == 7
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceGetMigDeviceHandleByIndex(device, 7)


def test_compute_instances_are_placed_and_limited(a100):
    lib, device = a100
    gi = lib.nvmlDeviceCreateGpuInstance(device, 0)
    count = ctypes.c_uint()
    lib.nvmlGpuInstanceGetComputeInstancePossiblePlacements(gi, 2, None, ctypes.byref(count))
    assert count.value == 2
    ci = lib.nvmlGpuInstanceCreateComputeInstanceWithPlacement(gi, 2, ci_place(4, 3))
    assert lib.nvmlComputeInstanceGetInfo(ci).placement.start == 4
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlGpuInstanceCreateComputeInstance(gi, 4)
    assert caught.value.value == 23
    assert lib.nvmlGpuInstanceGetComputeInstanceRemainingCapacity(gi, 0) == 4
    array = (pynvml.c_nvmlComputeInstance_t * 2)()
    lib.nvmlGpuInstanceGetComputeInstances(gi, 2, array, ctypes.byref(count))
    assert count.value == 1 and lib.nvmlComputeInstanceGetInfo(array[0]).id == 0


def test_recent_drivers_list_two_more_profiles_on_an_a100_that_are_traps(a100):
    lib, device = a100
    gi = lib.nvmlDeviceCreateGpuInstance(device, 0)
    listed = []
    for enum in range(9):
        try:
            listed.append(lib.nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, enum, 0).id)
        except pynvml.NVMLError_NotSupported:
            continue
    assert listed == [0, 1, 2, 3, 4, 7, 8]
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlGpuInstanceCreateComputeInstance(gi, 8)
    assert caught.value.value == 23


# -- who uses what ---------------------------------------------------------------------------------------------------
def test_a_process_on_a_slice_is_listed_and_keeps_it(tmp_path):
    host = example(tmp_path, "a30-pair")
    lib = opened(host)
    device = lib.nvmlDeviceGetHandleByIndex(0)
    rows = lib.nvmlDeviceGetComputeRunningProcesses(device)
    assert [(r.pid, r.gpuInstanceId, r.computeInstanceId) for r in rows] == [(4711, 1, 0)]
    gi = lib.nvmlDeviceGetGpuInstanceById(device, 1)
    ci = lib.nvmlGpuInstanceGetComputeInstanceById(gi, 0)
    mig = lib.nvmlComputeInstanceGetInfo(ci).device
    assert [r.pid for r in lib.nvmlDeviceGetComputeRunningProcesses(mig)] == [4711]
    assert lib.nvmlDeviceGetGraphicsRunningProcesses(mig) == []
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlComputeInstanceDestroy(ci)
    assert caught.value.value == pynvml.NVML_ERROR_IN_USE
    (process,) = host.processes()
    assert process.unit == "notebook.service"
    assert process.nodes[-2:] == ("/dev/nvidia-caps/nvidia-cap12", "/dev/nvidia-caps/nvidia-cap13")
    host.remove_process(4711)
    assert lib.nvmlComputeInstanceDestroy(ci) == 0


def test_without_root_nothing_can_be_changed(tmp_path):
    host = described(tmp_path, f'privileged: false\ngpus: [{{model: a100-40gb, address: "{A100}", mig: enabled}}]\n')
    lib = opened(host)
    device = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetMigMode(device) == [1, 1]
    assert lib.nvmlDeviceGetGpuInstanceProfileInfo(device, 0).id == 19
    for call in (
        lambda: lib.nvmlDeviceSetMigMode(device, 0),
        lambda: lib.nvmlDeviceCreateGpuInstance(device, 19),
        lambda: lib.nvmlDeviceGetComputeRunningProcesses(device),
        lambda: instances(lib, device, 19),
    ):
        with pytest.raises(pynvml.NVMLError_NoPermission):
            call()


# -- mode ------------------------------------------------------------------------------------------------------------
def test_hopper_switches_at_once_unless_something_is_there(tmp_path):
    host = example(tmp_path, "dgx-h100")
    lib = opened(host)
    device = lib.nvmlDeviceGetHandleByIndex(0)
    host.add_process({"pid": 7, "gpu": H100})
    assert lib.nvmlDeviceSetMigMode(device, 1) == pynvml.NVML_ERROR_IN_USE
    assert lib.nvmlDeviceGetMigMode(device) == [0, 0]
    host.remove_process(7)
    host.add_process({"pid": 8, "gpu": H100, "type": "monitor"})
    assert lib.nvmlDeviceSetMigMode(device, 1) == 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceGetMigMode(device)
    device = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetMigMode(device) == [1, 1]
    gi = lib.nvmlDeviceCreateGpuInstance(device, 19)
    assert lib.nvmlDeviceSetMigMode(device, 0) == pynvml.NVML_ERROR_IN_USE
    lib.nvmlGpuInstanceDestroy(gi)
    assert lib.nvmlDeviceSetMigMode(device, 0) == 0


def test_ampere_resets_itself_when_idle_and_waits_otherwise(tmp_path):
    host = example(tmp_path, "dgx-a100-40gb")
    lib = opened(host)
    device = lib.nvmlDeviceGetHandleByIndex(0)
    lib.nvmlDeviceCreateGpuInstance(device, 19)
    host.add_process({"pid": 8, "gpu": A100, "type": "monitor"})
    assert lib.nvmlDeviceSetMigMode(device, 0) == pynvml.NVML_ERROR_IN_USE
    assert lib.nvmlDeviceGetMigMode(device) == [1, 0]
    host.remove_process(8)
    assert lib.nvmlDeviceSetMigMode(device, 0) == 0
    device = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetMigMode(device) == [0, 0]
    assert host.state()["gpus"][A100]["gis"] == {}


@pytest.mark.parametrize("way", ["tool", "never"])
def test_ampere_needs_the_tool_or_a_reboot(tmp_path, way):
    host = described(tmp_path, f'reset: {way}\ngpus: [{{model: a100-40gb, address: "{A100}"}}]\n')
    lib = opened(host)
    assert lib.nvmlDeviceSetMigMode(lib.nvmlDeviceGetHandleByIndex(0), 1) == pynvml.NVML_ERROR_RESET_REQUIRED
    busy = host.run(["nvidia-smi", "--gpu-reset", "-i", A100])
    assert busy.returncode == 255
    lib.nvmlShutdown()
    done = host.run(["nvidia-smi", "--gpu-reset", "-i", A100])
    lib.nvmlInit()
    mode = lib.nvmlDeviceGetMigMode(lib.nvmlDeviceGetHandleByIndex(0))
    if way == "tool":
        assert "In use by another client" in busy.stdout
        assert done.returncode == 0 and "successfully reset" in done.stdout and mode == [1, 1]
        return
    assert done.returncode == 255 and "Not Supported" in done.stdout and mode == [0, 1]
    host.reboot()
    assert lib.nvmlDeviceGetMigMode(lib.nvmlDeviceGetHandleByIndex(0)) == [1, 1]


def test_a_reboot_forgets_instances_and_the_mode_of_hopper(tmp_path):
    host = described(
        tmp_path,
        f'gpus:\n- {{model: a100-40gb, address: "{A100}", mig: enabled, instances: ["3g.20gb@0"]}}\n'
        f'- {{model: h100-80gb, address: "{H100}", mig: enabled, instances: ["7g.80gb"]}}\n',
    )
    before = host.boot_id()
    host.reboot()
    assert host.boot_id() != before
    lib = opened(host)
    ampere, hopper = (lib.nvmlDeviceGetHandleByIndex(n) for n in (0, 1))
    assert (lib.nvmlDeviceGetMigMode(ampere), lib.nvmlDeviceGetMigMode(hopper)) == ([1, 1], [0, 0])
    assert instances(lib, ampere, 9) == []


def test_a_vgpu_in_a_guest_can_not_change(tmp_path):
    lib = opened(described(tmp_path, f'gpus: [{{model: a100-40gb, address: "{A100}", vgpu_guest: true}}]\n'))
    device = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetVirtualizationMode(device) == 2
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceSetMigMode(device, 1)


def test_health_is_told(tmp_path):
    text = (
        f'gpus:\n- {{model: a100-40gb, address: "{A100}", health: '
        "{ecc_uncorrected: 3, row_remap_failed: true, recovery_action: gpu_reset}}\n"
        f'- {{model: h100-80gb, address: "{H100}", health: {{lost: true}}}}\n'
    )
    lib = opened(described(tmp_path, text))
    device = lib.nvmlDeviceGetHandleByIndex(0)
    assert lib.nvmlDeviceGetTotalEccErrors(device, 1, 0) == 3
    assert lib.nvmlDeviceGetRemappedRows(device) == (0, 1, 0, 1)
    assert lib.nvmlDeviceGetFieldValues(device, [230])[0].value.uiVal == 1
    assert lib.nvmlDeviceGetCount() == 2
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        lib.nvmlDeviceGetHandleByIndex(1)
