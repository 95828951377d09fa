"""The simulated vGPU host: its kernel files under both interfaces, its program, its library, and what it forgets."""

import errno
import uuid

import pynvml
import pytest

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.inventory import discovery
from gpuslice.sim import vgpu_types

A, B = "0000:41:00.0", "0000:a1:00.0"
A100, T4 = "0000:3b:00.0", "0000:86:00.0"
DEVICES = "/sys/bus/pci/devices"
MDEVS = "/sys/bus/mdev/devices"
TOOL = "/usr/lib/nvidia/sriov-manage"
UUID = "3f1c9a52-7c3e-4c1b-9d0a-5b8e6f0a1d27"
NONE = 0xFFFFFFFF


@pytest.fixture
def vfio(simulated):
    """The host with the vendor's VFIO interface, and its VFs enabled."""
    host = simulated("vgpu-host-vfio")
    assert host.run([TOOL, "-e", "ALL"]).returncode == 0
    return host


@pytest.fixture
def mdev(simulated):
    """The host with mediated devices, and the VFs of its A100 enabled."""
    host = simulated("vgpu-host-mdev")
    assert host.run([TOOL, "-e", "ALL"]).returncode == 0
    return host


def functions(host, gpu):
    count = sum(name.startswith("virtfn") for name in host.listdir(f"{DEVICES}/{gpu}"))
    return [host.readlink(f"{DEVICES}/{gpu}/virtfn{n}") for n in range(count)]


def own(host, gpu, number, name):
    """A file of the vendor's directory of a VF."""
    return f"{DEVICES}/{functions(host, gpu)[number]}/nvidia/{name}"


def types_on(host, gpu, number):
    """Type name -> number, of what a VF could become."""
    header, *lines = host.read(own(host, gpu, number, "creatable_vgpu_types")).splitlines()
    assert header == "ID    : vGPU Name"
    return {name.strip(): int(number) for number, name in (line.split(" : ") for line in lines)}


def number_of(name, model="h100-80gb", device="2330"):
    return next(kind.id for kind in vgpu_types.types_of(model, device) if kind.name == name)


def make(host, gpu, number, name):
    host.write(own(host, gpu, number, "current_vgpu_type"), str(number_of(name)))


def refused(host, path, text):
    """The errno of a write that must fail, and changes nothing."""
    before = host.state()["gpus"]
    with pytest.raises(OSError) as caught:
        host.write(path, text)
    assert host.state()["gpus"] == before
    return caught.value.errno


def opened(host, gpu):
    lib = host.nvml()
    lib.nvmlInit()
    return lib, lib.nvmlDeviceGetHandleByPciBusId(gpu)


def node(host, gpu, number):
    return f"/dev/vfio/{host.readlink(f'{DEVICES}/{functions(host, gpu)[number]}/iommu_group')}"


def run_vm(host, held):
    host.add_process({"pid": 777, "command": "qemu-kvm", "unit": "vm.service", "nodes": [held], "memory_mib": 1024})


def instances(host, gpu, *ids, mode=True):
    """MIG on, VFs enabled anew, and GPU instances with those profile ids: the order that the driver wants."""
    lib, handle = opened(host, gpu)
    if mode:
        assert lib.nvmlDeviceSetMigMode(handle, 1) == pynvml.NVML_SUCCESS
    lib.nvmlShutdown()
    lib, handle = opened(host, gpu)
    made = [lib.nvmlDeviceCreateGpuInstance(handle, i) for i in ids]
    for gi in made:
        lib.nvmlGpuInstanceCreateComputeInstance(gi, 0 if lib.nvmlGpuInstanceGetInfo(gi).profileId == 19 else 2)
    found = [lib.nvmlGpuInstanceGetInfo(gi).id for gi in made]
    lib.nvmlShutdown()
    return found


def kinds(host, function):
    """Type name -> how many are left, of a function with mediated devices."""
    base = f"/sys/class/mdev_bus/{function}/mdev_supported_types"
    return {
        host.read(f"{base}/{name}/name"): int(host.read(f"{base}/{name}/available_instances")) for name in host.listdir(base)
    }


def of_type(host, function, name, entry):
    base = f"{DEVICES}/{function}/mdev_supported_types"
    return next(f"{base}/{kind}/{entry}" for kind in host.listdir(base) if host.read(f"{base}/{kind}/name") == name)


# -- types -----------------------------------------------------------------------------------------------------------------
def test_the_types_of_an_h100_are_named_after_its_board_and_its_mig_profiles():
    names = [kind.name for kind in vgpu_types.types_of("h100-80gb", "2330")]
    assert names == [
        *(f"NVIDIA H100XM-{size}C" for size in (80, 40, 20, 16, 10, 8, 5, 4)),
        *(f"NVIDIA H100XM-{part}" for part in ("1-10C", "1-10CME", "1-20C", "2-20C", "3-40C", "4-40C", "7-80C")),
    ]


def test_boards_that_draw_have_more_series_and_older_ones_another_maker():
    names = {kind.name for kind in vgpu_types.types_of("t4", "1eb8")}
    assert {"GRID T4-8Q", "GRID T4-1B", "GRID T4-4A", "GRID T4-16C"} <= names
    names = {kind.name for kind in vgpu_types.types_of("rtx-pro-6000-96gb", "2bb5")}
    assert {f"NVIDIA RTX Pro 6000 Blackwell DC-{rest}" for rest in ("96Q", "2B", "1-24C", "1-2B", "2-48A", "4-32Q")} <= names
    assert vgpu_types.types_of("a100x-80gb", "20b8") == () == vgpu_types.types_of("a10", "2236")


def test_no_number_stands_for_two_types():
    found = [kind for key, model in nvidia.MODELS.items() for d in model["device_ids"] for kind in vgpu_types.types_of(key, d)]
    assert len({kind.id for kind in found}) == len(found) == len({kind.name for kind in found})


def test_every_type_fits_its_board():
    for key, model in nvidia.MODELS.items():
        for device in model["device_ids"]:
            kinds_of = vgpu_types.types_of(key, device)
            whole = [kind for kind in kinds_of if kind.profile is None and kind.gigabytes == model["memory_gb"]]
            assert whole or not kinds_of


@pytest.mark.parametrize(
    ("board", "said"),
    [
        ({"model": "h100-80gb", "vgpu": "vfio"}, "vfio needs sriov_totalvfs"),
        ({"model": "a100x-80gb", "vgpu": "mdev"}, "no vGPU types of NVIDIA A100X are known"),
        ({"model": "h100-80gb", "vgpu": "sriov"}, "'sriov' is none of mdev, vfio"),
    ],
)
def test_a_description_that_can_not_be_is_refused(simulated, board, said):
    with pytest.raises(errors.PolicyError, match=said):
        simulated("no-gpu", gpus=[{**board, "address": A}])


# -- sriov-manage ----------------------------------------------------------------------------------------------------------
def test_the_manager_shows_itself_and_the_inventory_sees_it_with_and_without_functions(simulated):
    host = simulated("vgpu-host-vfio")
    assert host.read("/sys/module/nvidia_vgpu_vfio/refcnt") == "0"
    assert host.exists(TOOL) and "nvidia_vgpu_vfio" in host.read("/proc/modules")
    assert all("vgpu" in gpu.capabilities for gpu in discovery.discover(host))
    host.run([TOOL, "-e", A])
    first, second = discovery.discover(host)
    assert (first.virtual_functions["enabled"], second.virtual_functions["enabled"]) == (16, 0)
    assert "vgpu" in first.capabilities


def test_a_host_without_the_manager_has_none_of_it(simulated):
    host = simulated("dgx-h100")
    assert not host.exists("/sys/module/nvidia_vgpu_vfio") and not host.exists(TOOL)
    with pytest.raises(errors.ToolMissing):
        host.run([TOOL, "-e", "ALL"])
    lib, handle = opened(host, "0000:1b:00.0")
    for name in ("nvmlDeviceGetSupportedVgpus", "nvmlDeviceGetHostVgpuMode", "nvmlDeviceGetVgpuSchedulerState"):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            getattr(lib, name)(handle)


def test_the_driver_unloaded_takes_the_manager_with_it(simulated):
    host = simulated("vgpu-host-mdev", driver={"loaded": False})
    assert not host.exists("/sys/module/nvidia_vgpu_vfio") and not host.exists("/sys/class/mdev_bus")


@pytest.mark.parametrize("written", [A, "00000000:41:00.0", "0000:41:00.0 ".strip().upper(), "all"])
def test_all_functions_are_enabled_and_disabled_and_twice_is_once(simulated, written):
    host = simulated("vgpu-host-vfio")
    for _ in range(2):
        assert host.run([TOOL, "-e", written]).returncode == 0
        assert len(functions(host, A)) == 16
        assert len(functions(host, B)) == (16 if written == "all" else 0)
    first = f"{DEVICES}/{functions(host, A)[0]}"
    assert host.readlink(first) == "0000:41:00.4" and host.readlink(f"{first}/driver") == "nvidia"
    assert host.read(f"{first}/class") == "0x030200" and host.readlink(f"{first}/physfn") == A
    epoch = host.state()["gpus"][A]["epoch"]
    for _ in range(2):
        assert host.run(["sriov-manage", "-d", written]).returncode == 0
        assert functions(host, A) == []
    assert host.state()["gpus"][A]["epoch"] == epoch + 1


def test_functions_have_groups_of_their_own_which_other_gpus_do_not_change(simulated):
    host = simulated("vgpu-host-vfio")
    host.run([TOOL, "-e", B])
    before = node(host, B, 3)
    host.run([TOOL, "-e", A])
    assert node(host, B, 3) == before
    groups = [host.readlink(f"{DEVICES}/{address}/iommu_group") for address in host.listdir(DEVICES)]
    assert len(groups) == 34 == len(set(groups))


def test_enabling_functions_rebinds_the_driver_and_mig_mode_survives(simulated):
    host = simulated("vgpu-host-vfio")
    assert len(instances(host, A, 19, 19)) == 2
    host.run([TOOL, "-e", A])
    assert host.state()["gpus"][A]["gis"] == {} and host.state()["gpus"][A]["mode"] == 1


def test_a_client_of_the_driver_keeps_its_lock(simulated):
    host = simulated("vgpu-host-vfio")
    lib, _ = opened(host, A)
    before = host.state()["gpus"]
    done = host.run([TOOL, "-e", "ALL"])
    assert done.returncode == 1 and "Cannot obtain unbindLock" in done.stdout
    assert host.state()["gpus"] == before
    lib.nvmlShutdown()
    host.add_process({"pid": 5, "gpu": A})
    done = host.run([TOOL, "-e", "ALL"])
    assert done.returncode == 1 and f"Cannot obtain unbindLock for {A}" in done.stdout
    assert (len(functions(host, A)), len(functions(host, B))) == (0, 16)


def test_an_nvml_handle_is_stale_after_the_rebind(simulated):
    host = simulated("vgpu-host-vfio")
    lib = host.nvml()
    lib.nvmlInitWithFlags(2)
    handle = lib.nvmlDeviceGetHandleByPciBusId(A)
    assert host.run([TOOL, "-e", A]).returncode == 0
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceGetName(handle)


def test_functions_stay_while_a_vgpu_exists(vfio):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    done = vfio.run([TOOL, "-d", A])
    assert done.returncode == 1 and "vGPUs" in done.stdout
    assert len(functions(vfio, A)) == 16
    assert vfio.run([TOOL, "-e", A]).returncode == 0


@pytest.mark.parametrize("arguments", [[], ["-e"], ["-x", A], ["-e", "0000:99:00.0"]])
def test_arguments_that_the_program_does_not_know(simulated, arguments):
    done = simulated("vgpu-host-vfio").run([TOOL, *arguments])
    assert done.returncode == 1 and done.stdout


def test_the_program_wants_root_and_a_board_with_functions(simulated):
    assert "root" in simulated("vgpu-host-vfio", privileged=False).run([TOOL, "-e", "ALL"]).stdout
    assert simulated("vgpu-host-mdev").run([TOOL, "-e", T4]).returncode == 1


def test_the_program_takes_its_time_and_meets_faults(simulated):
    host = simulated("vgpu-host-vfio", latency={"sriov_manage": 3})
    slept = []
    host.sleep = slept.append
    host.run([TOOL, "-e", A])
    assert slept == [3]
    host.add_fault({"call": "run", "error": "EIO"})
    with pytest.raises(errors.ToolFailed):
        host.run([TOOL, "-d", A])


@pytest.mark.parametrize(("text", "code"), [("4", errno.EINVAL), ("17", errno.ERANGE), ("many", errno.EINVAL)])
def test_the_number_of_functions_is_not_written_directly(vfio, text, code):
    assert refused(vfio, f"{DEVICES}/{A}/sriov_numvfs", text) == code
    vfio.write(f"{DEVICES}/{A}/sriov_numvfs", "16")
    assert len(functions(vfio, A)) == 16


# -- the vendor's VFIO interface -------------------------------------------------------------------------------------------
def test_a_function_without_a_vgpu_says_so(vfio):
    assert not vfio.exists(f"{DEVICES}/{A}/nvidia")
    told = {name: vfio.read(own(vfio, A, 0, name)) for name in ("current_vgpu_type", "gpu_instance_id", "placement_id")}
    assert told == {"current_vgpu_type": "0", "gpu_instance_id": str(NONE), "placement_id": "65535"}
    assert not vfio.exists(node(vfio, A, 0))


def test_a_vgpu_is_made_and_removed_and_its_siblings_see_it(vfio):
    assert len(types_on(vfio, A, 0)) == 8
    make(vfio, A, 0, "NVIDIA H100XM-40C")
    assert vfio.read(own(vfio, A, 0, "current_vgpu_type")) == str(number_of("NVIDIA H100XM-40C"))
    assert vfio.exists(node(vfio, A, 0)) and types_on(vfio, A, 0) == {}
    assert list(types_on(vfio, A, 1)) == ["NVIDIA H100XM-40C"]
    assert len(types_on(vfio, B, 1)) == 8
    make(vfio, A, 15, "NVIDIA H100XM-40C")
    assert types_on(vfio, A, 1) == {}
    vfio.write(own(vfio, A, 0, "current_vgpu_type"), "0")
    assert list(types_on(vfio, A, 0)) == ["NVIDIA H100XM-40C"]
    assert not vfio.exists(node(vfio, A, 0))


def test_what_can_not_be_made_is_refused_with_the_kernels_errors(vfio):
    current = own(vfio, A, 0, "current_vgpu_type")
    for wrong in ("99999", "-1", "H100XM-20C", "", str(number_of("GRID T4-8Q", "t4", "1eb8"))):
        assert refused(vfio, current, wrong) == errno.EINVAL
    assert refused(vfio, current, str(number_of("NVIDIA H100XM-1-10C"))) == errno.EIO
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    assert refused(vfio, current, str(number_of("NVIDIA H100XM-20C"))) == errno.EBUSY
    assert refused(vfio, own(vfio, A, 1, "current_vgpu_type"), str(number_of("NVIDIA H100XM-40C"))) == errno.EINVAL
    assert refused(vfio, f"{DEVICES}/{A}/nvidia/current_vgpu_type", "0") == errno.ENOENT
    assert refused(vfio, own(vfio, A, 0, "placement_id"), "0") == errno.EACCES


def test_no_more_than_the_memory_of_the_board(vfio):
    for number in range(8):
        make(vfio, A, number, "NVIDIA H100XM-10C")
    assert refused(vfio, own(vfio, A, 8, "current_vgpu_type"), str(number_of("NVIDIA H100XM-10C"))) == errno.EINVAL
    places = [vfio.read(own(vfio, A, number, "placement_id")) for number in range(9)]
    assert places == [*map(str, range(8)), "65535"]


def test_a_vgpu_that_a_virtual_machine_holds_stays(vfio):
    make(vfio, A, 2, "NVIDIA H100XM-20C")
    run_vm(vfio, node(vfio, A, 2))
    assert vfio.read("/sys/module/nvidia_vgpu_vfio/refcnt") == "1"
    assert refused(vfio, own(vfio, A, 2, "current_vgpu_type"), "0") == errno.EBUSY
    vfio.remove_process(777)
    vfio.write(own(vfio, A, 2, "current_vgpu_type"), "0")
    assert vfio.read(own(vfio, A, 2, "current_vgpu_type")) == "0"


def test_parameters_are_kept_with_the_vgpu_and_go_with_it(vfio):
    params = own(vfio, A, 0, "vgpu_params")
    assert refused(vfio, params, "enable_uvm=1") == errno.EINVAL
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    vfio.write(params, "enable_uvm=1\n")
    assert vfio.read(params) == "enable_uvm=1"
    vfio.write(own(vfio, A, 0, "current_vgpu_type"), "0")
    assert vfio.read(params) == ""


def test_the_files_answer_under_the_links_that_lead_to_them(vfio):
    vfio.write(f"{DEVICES}/{A}/virtfn5/nvidia/current_vgpu_type", str(number_of("NVIDIA H100XM-20C")))
    assert vfio.read(own(vfio, A, 5, "current_vgpu_type")) == str(number_of("NVIDIA H100XM-20C"))


def test_without_root_nothing_is_made(simulated):
    host = simulated("vgpu-host-mdev", privileged=False)
    assert refused(host, of_type(host, T4, "GRID T4-8Q", "create"), UUID) == errno.EACCES


def test_a_mig_backed_vgpu_takes_a_gpu_instance_of_its_profile(vfio):
    small, big = instances(vfio, A, 19, 9)
    assert list(types_on(vfio, A, 0)) == ["NVIDIA H100XM-1-10C", "NVIDIA H100XM-3-40C"]
    make(vfio, A, 0, "NVIDIA H100XM-1-10C")
    assert vfio.read(own(vfio, A, 0, "gpu_instance_id")) == str(small)
    assert vfio.read(own(vfio, A, 0, "placement_id")) == "65535"
    assert list(types_on(vfio, A, 1)) == ["NVIDIA H100XM-3-40C"]
    assert refused(vfio, own(vfio, A, 1, "current_vgpu_type"), str(number_of("NVIDIA H100XM-1-10C"))) == errno.EIO
    assert refused(vfio, own(vfio, A, 1, "current_vgpu_type"), str(number_of("NVIDIA H100XM-20C"))) == errno.EINVAL
    make(vfio, A, 1, "NVIDIA H100XM-3-40C")
    assert vfio.read(own(vfio, A, 1, "gpu_instance_id")) == str(big)
    assert types_on(vfio, A, 2) == {}


def test_a_gpu_instance_without_a_compute_instance_or_in_use_backs_nothing(vfio):
    instances(vfio, A, 19)
    lib, handle = opened(vfio, A)
    lib.nvmlDeviceCreateGpuInstance(handle, 9)
    assert list(types_on(vfio, A, 0)) == ["NVIDIA H100XM-1-10C"]
    vfio.add_process({"pid": 9, "gpu": A, "slice": "1g.10gb"})
    assert types_on(vfio, A, 0) == {}


def test_what_backs_a_vgpu_can_not_be_destroyed(vfio):
    (gi_id,) = instances(vfio, A, 19)
    make(vfio, A, 0, "NVIDIA H100XM-1-10C")
    lib, handle = opened(vfio, A)
    gi = lib.nvmlDeviceGetGpuInstanceById(handle, gi_id)
    with pytest.raises(pynvml.NVMLError_InUse):
        lib.nvmlComputeInstanceDestroy(lib.nvmlGpuInstanceGetComputeInstanceById(gi, 0))
    with pytest.raises(pynvml.NVMLError_InUse):
        lib.nvmlGpuInstanceDestroy(gi)
    vfio.write(own(vfio, A, 0, "current_vgpu_type"), "0")
    lib.nvmlComputeInstanceDestroy(lib.nvmlGpuInstanceGetComputeInstanceById(gi, 0))
    assert lib.nvmlGpuInstanceDestroy(gi) == pynvml.NVML_SUCCESS


def test_mig_mode_goes_off_only_without_functions(vfio):
    instances(vfio, A)
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceSetMigMode(handle, 0) == pynvml.NVML_ERROR_IN_USE
    assert lib.nvmlDeviceGetMigMode(handle) == [1, 1]
    lib.nvmlShutdown()
    vfio.run([TOOL, "-d", A])
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceSetMigMode(handle, 0) == pynvml.NVML_SUCCESS


def test_a_gpu_with_vgpus_is_neither_switched_nor_reset_nor_unbound(vfio):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    assert refused(vfio, f"{DEVICES}/{A}/reset", "1") == errno.EBUSY
    assert refused(vfio, f"{DEVICES}/{A}/driver/unbind", A) == errno.ETIMEDOUT
    assert "In use" in vfio.run(["nvidia-smi", "--gpu-reset", "-i", A]).stdout
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceSetMigMode(handle, 1) == pynvml.NVML_ERROR_IN_USE
    assert lib.nvmlDeviceGetMigMode(handle) == [0, 0]
    assert vfio.read(own(vfio, A, 0, "current_vgpu_type")) != "0"


# -- mediated devices ------------------------------------------------------------------------------------------------------
def test_the_types_of_turing_are_in_the_gpu_and_of_later_boards_in_their_functions(simulated):
    host = simulated("vgpu-host-mdev")
    assert host.listdir("/sys/class/mdev_bus") == [T4]
    host.run([TOOL, "-e", "ALL"])
    assert host.listdir("/sys/class/mdev_bus") == sorted([T4, *functions(host, A100)])
    assert len(functions(host, A100)) == 20
    base = of_type(host, T4, "GRID T4-8Q", "")
    assert host.read(f"{base}description") == "framebuffer=8192M, max_instance=2"
    assert host.read(f"{base}device_api") == "vfio-pci"
    with pytest.raises(OSError):
        host.read(f"{base}create")


def test_a_mediated_device_is_made_under_all_its_names(mdev):
    mdev.write(of_type(mdev, T4, "GRID T4-8Q", "create").replace(DEVICES, "/sys/class/mdev_bus"), UUID.upper() + "\n")
    assert mdev.listdir(MDEVS) == [UUID]
    kind = f"nvidia-{number_of('GRID T4-8Q', 't4', '1eb8')}"
    group = mdev.readlink(f"{MDEVS}/{UUID}/iommu_group")
    assert mdev.readlink(f"{MDEVS}/{UUID}/mdev_type") == kind == mdev.readlink(f"{DEVICES}/{T4}/{UUID}/mdev_type")
    assert mdev.listdir(f"/sys/kernel/iommu_groups/{group}/devices") == [UUID] and mdev.exists(f"/dev/vfio/{group}")
    assert mdev.listdir(of_type(mdev, T4, "GRID T4-8Q", "devices")) == [UUID]
    mdev.write(f"{MDEVS}/{UUID}/nvidia/vgpu_params", "frame_rate_limiter=0")
    assert mdev.read(f"{DEVICES}/{T4}/{UUID}/nvidia/vgpu_params") == "frame_rate_limiter=0"
    mdev.write(f"{MDEVS}/{UUID}/remove", "0")
    assert mdev.listdir(MDEVS) == [UUID]
    mdev.write(f"{MDEVS}/{UUID}/remove", "1")
    assert mdev.listdir(MDEVS) == [] and not mdev.exists(f"/dev/vfio/{group}")


def test_turing_carries_several_of_one_size(mdev):
    for left in (3, 2, 1, 0):
        mdev.write(of_type(mdev, T4, "GRID T4-4Q", "create"), str(uuid.uuid4()))
        assert kinds(mdev, T4)["GRID T4-4Q"] == left == kinds(mdev, T4)["GRID T4-4C"]
        assert kinds(mdev, T4)["GRID T4-8Q"] == 0
    assert refused(mdev, of_type(mdev, T4, "GRID T4-4Q", "create"), UUID) == errno.ENOSPC
    groups = {mdev.readlink(f"{MDEVS}/{name}/iommu_group") for name in mdev.listdir(MDEVS)}
    assert len(groups) == 4


def test_a_function_carries_one_mediated_device(mdev):
    first, second, *_ = functions(mdev, A100)
    mdev.write(of_type(mdev, first, "NVIDIA A100D-40C", "create"), UUID)
    assert set(kinds(mdev, first).values()) == {0}
    assert {name: left for name, left in kinds(mdev, second).items() if left} == {"NVIDIA A100D-40C": 1}
    assert refused(mdev, of_type(mdev, first, "NVIDIA A100D-40C", "create"), str(uuid.uuid4())) == errno.ENOSPC
    assert refused(mdev, of_type(mdev, second, "NVIDIA A100D-20C", "create"), str(uuid.uuid4())) == errno.ENOSPC


def test_a_uuid_is_a_uuid_and_used_once_on_the_host(mdev):
    create = of_type(mdev, T4, "GRID T4-8Q", "create")
    for wrong in ("", "1", UUID[:-1], UUID.replace("-", ""), UUID + "0"):
        assert refused(mdev, create, wrong) == errno.EINVAL
    mdev.write(create, UUID)
    assert refused(mdev, create, UUID.upper()) == errno.EEXIST
    assert refused(mdev, of_type(mdev, functions(mdev, A100)[0], "NVIDIA A100D-8C", "create"), UUID) == errno.EEXIST
    assert refused(mdev, f"{MDEVS}/{uuid.uuid4()}/remove", "1") == errno.ENOENT
    assert refused(mdev, f"{DEVICES}/{T4}/mdev_supported_types/nvidia-1/create", UUID) == errno.ENOENT


def test_a_mediated_device_that_is_held_is_not_removed(mdev):
    mdev.write(of_type(mdev, T4, "GRID T4-8Q", "create"), UUID)
    run_vm(mdev, f"/dev/vfio/{mdev.readlink(f'{MDEVS}/{UUID}/iommu_group')}")
    assert refused(mdev, f"{MDEVS}/{UUID}/remove", "1") == errno.EBUSY
    lib, handle = opened(mdev, T4)
    (active,) = lib.nvmlDeviceGetActiveVgpus(handle)
    assert lib.nvmlVgpuInstanceGetMdevUUID(active) == UUID
    mdev.remove_process(777)
    mdev.write(f"{MDEVS}/{UUID}/remove", "1")
    assert mdev.listdir(MDEVS) == []


def test_mig_backed_mediated_devices(mdev):
    first = functions(mdev, A100)[0]
    assert refused(mdev, of_type(mdev, first, "NVIDIA A100D-1-10C", "create"), UUID) == errno.ENOSPC
    instances(mdev, A100, 19)
    mdev.write(of_type(mdev, first, "NVIDIA A100D-1-10C", "create"), UUID)
    assert mdev.readlink(f"{MDEVS}/{UUID}/mdev_type") == f"nvidia-{number_of('NVIDIA A100D-1-10C', 'a100-80gb', '20b5')}"
    assert set(kinds(mdev, functions(mdev, A100)[1]).values()) == {0}


# -- NVML ------------------------------------------------------------------------------------------------------------------
def test_the_library_tells_the_types_also_without_functions(simulated):
    host = simulated("vgpu-host-vfio")
    lib, handle = opened(host, A)
    assert (lib.nvmlDeviceGetHostVgpuMode(handle), lib.nvmlDeviceGetVirtualizationMode(handle)) == (1, 3)
    found = {lib.nvmlVgpuTypeGetName(number): number for number in lib.nvmlDeviceGetSupportedVgpus(handle)}
    assert len(found) == 15 and lib.nvmlDeviceGetCreatableVgpus(handle) == []
    turns, backed = found["NVIDIA H100XM-20C"], found["NVIDIA H100XM-3-40C"]
    assert lib.nvmlVgpuTypeGetClass(turns) == "Compute"
    assert lib.nvmlVgpuTypeGetFramebufferSize(turns) == 20 << 30
    assert [lib.nvmlVgpuTypeGetGpuInstanceProfileId(number) for number in (turns, backed)] == [NONE, 9]
    assert [lib.nvmlVgpuTypeGetMaxInstances(handle, number) for number in (turns, backed)] == [4, 2]
    assert lib.nvmlVgpuTypeGetMaxInstances(handle, found["NVIDIA H100XM-4C"]) == 16
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlVgpuTypeGetName(1)


def test_the_library_of_turing(mdev):
    lib, handle = opened(mdev, T4)
    assert (lib.nvmlDeviceGetHostVgpuMode(handle), lib.nvmlDeviceGetVirtualizationMode(handle)) == (0, 3)
    classes = {lib.nvmlVgpuTypeGetClass(number) for number in lib.nvmlDeviceGetCreatableVgpus(handle)}
    assert classes == {"Compute", "Quadro", "NVS"}
    assert lib.nvmlDeviceGetVgpuCapabilities(handle, pynvml.NVML_DEVICE_VGPU_CAP_HETEROGENEOUS_TIMESLICE_SIZES) == 0
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceGetVgpuHeterogeneousMode(handle)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1)
    assert lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(2)) == pynvml.NVML_SUCCESS


def test_only_vgpus_in_use_are_active(vfio):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    make(vfio, A, 1, "NVIDIA H100XM-20C")
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceGetActiveVgpus(handle) == []
    assert lib.nvmlDeviceGetCreatableVgpus(handle) == [number_of("NVIDIA H100XM-20C")]
    run_vm(vfio, node(vfio, A, 1))
    (active,) = lib.nvmlDeviceGetActiveVgpus(handle)
    assert lib.nvmlVgpuInstanceGetType(active) == number_of("NVIDIA H100XM-20C")
    assert lib.nvmlVgpuInstanceGetFbUsage(active) == 1 << 30
    assert lib.nvmlVgpuInstanceGetGpuInstanceId(active) == NONE
    assert uuid.UUID(lib.nvmlVgpuInstanceGetUUID(active)) != uuid.UUID(lib.nvmlVgpuInstanceGetVmID(active)[0].decode())
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlVgpuInstanceGetMdevUUID(active)
    vfio.remove_process(777)
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlVgpuInstanceGetType(active)


def test_mixed_sizes_need_the_heterogeneous_mode(vfio):
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceGetVgpuHeterogeneousMode(handle) == 0
    assert lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1) == pynvml.NVML_SUCCESS
    make(vfio, A, 0, "NVIDIA H100XM-40C")
    make(vfio, A, 1, "NVIDIA H100XM-20C")
    with pytest.raises(pynvml.NVMLError_InUse):
        lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 0)
    assert "NVIDIA H100XM-40C" not in types_on(vfio, A, 2)
    make(vfio, A, 2, "NVIDIA H100XM-16C")
    assert list(types_on(vfio, A, 3)) == ["NVIDIA H100XM-4C"]


def test_the_heterogeneous_mode_needs_functions_and_no_mig(simulated):
    host = simulated("vgpu-host-vfio")
    lib, handle = opened(host, A)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1)
    lib.nvmlShutdown()
    host.run([TOOL, "-e", A])
    instances(host, A)
    lib, handle = opened(host, A)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceGetVgpuHeterogeneousMode(handle)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1)


def scheduler(policy, time_slice=0, arr=0, factor=0, frequency=0):
    wanted = pynvml.c_nvmlVgpuSchedulerSetState_t()
    wanted.schedulerPolicy, wanted.enableARRMode = policy, arr
    if arr == pynvml.NVML_VGPU_SCHEDULER_ARR_ENABLE:
        wanted.schedulerParams.vgpuSchedDataWithARR.avgFactor = factor
        wanted.schedulerParams.vgpuSchedDataWithARR.frequency = frequency
    else:
        wanted.schedulerParams.vgpuSchedData.timeslice = time_slice
    return wanted


def test_the_scheduler_is_set_and_told(vfio):
    lib, handle = opened(vfio, A)
    able = lib.nvmlDeviceGetVgpuSchedulerCapabilities(handle)
    assert list(able.supportedSchedulers) == [1, 2, 3] and able.minTimeslice < able.maxTimeslice
    assert lib.nvmlDeviceGetVgpuSchedulerState(handle).schedulerPolicy == 1
    assert lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(3, 5_000_000, arr=1)) == pynvml.NVML_SUCCESS
    now = lib.nvmlDeviceGetVgpuSchedulerState(handle)
    assert (now.schedulerPolicy, now.arrMode, now.schedulerParams.vgpuSchedData.timeslice) == (3, 1, 5_000_000)
    lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(2, arr=2, factor=33, frequency=480))
    now = lib.nvmlDeviceGetVgpuSchedulerState(handle)
    assert (now.schedulerPolicy, now.arrMode, now.schedulerParams.vgpuSchedDataWithARR.avgFactor) == (2, 2, 33)
    other = lib.nvmlDeviceGetHandleByPciBusId(B)
    assert lib.nvmlDeviceGetVgpuSchedulerState(other).schedulerPolicy == 1


@pytest.mark.parametrize("wrong", [(0,), (4,), (2, 999), (2, 30_000_001), (2, 0, 3), (2, 0, 2, 0, 480), (2, 0, 2, 33, 5)])
def test_a_scheduler_that_can_not_be(vfio, wrong):
    lib, handle = opened(vfio, A)
    with pytest.raises(pynvml.NVMLError_InvalidArgument):
        lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(*wrong))
    assert lib.nvmlDeviceGetVgpuSchedulerState(handle).schedulerPolicy == 1


def test_the_scheduler_is_not_changed_under_vgpus_nor_in_mig_mode(vfio):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    lib, handle = opened(vfio, A)
    with pytest.raises(pynvml.NVMLError_InUse):
        lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(2))
    lib.nvmlShutdown()
    instances(vfio, B)
    lib, handle = opened(vfio, B)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(2))


def test_setting_needs_root(simulated):
    lib, handle = opened(simulated("vgpu-host-mdev", privileged=False), T4)
    with pytest.raises(pynvml.NVMLError_NoPermission):
        lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(2))


# -- what is forgotten, and what goes wrong --------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["rebind", "reboot"])
def test_modes_are_forgotten(vfio, how):
    lib, handle = opened(vfio, A)
    lib.nvmlDeviceSetVgpuHeterogeneousMode(handle, 1)
    lib.nvmlDeviceSetVgpuSchedulerState(handle, scheduler(3))
    lib.nvmlShutdown()
    if how == "reboot":
        vfio.reboot()
        assert functions(vfio, A) == []
    vfio.run([TOOL, "-d", A])
    vfio.run([TOOL, "-e", A])
    lib, handle = opened(vfio, A)
    assert lib.nvmlDeviceGetVgpuHeterogeneousMode(handle) == 0
    assert lib.nvmlDeviceGetVgpuSchedulerState(handle).schedulerPolicy == 1


def test_no_vgpu_survives_a_reboot(vfio, mdev):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    mdev.write(of_type(mdev, T4, "GRID T4-8Q", "create"), UUID)
    for host in (vfio, mdev):
        host.reboot()
    assert mdev.listdir(MDEVS) == [] and mdev.listdir("/sys/class/mdev_bus") == [T4]
    assert mdev.listdir(f"{DEVICES}/{T4}/mdev_supported_types") != []
    vfio.run([TOOL, "-e", A])
    assert vfio.read(own(vfio, A, 0, "current_vgpu_type")) == "0"


def test_a_gpu_that_another_driver_takes_leaves_nothing_behind(mdev):
    mdev.write(f"{DEVICES}/{T4}/driver/unbind", T4)
    assert mdev.listdir("/sys/class/mdev_bus") == functions(mdev, A100)
    mdev.write("/sys/bus/pci/drivers_probe", T4)
    assert T4 in mdev.listdir("/sys/class/mdev_bus")


def test_what_one_process_made_another_one_sees(vfio):
    make(vfio, A, 0, "NVIDIA H100XM-20C")
    other = type(vfio)(vfio.description_path, vfio.state_dir)
    assert other.read(own(other, A, 0, "current_vgpu_type")) == str(number_of("NVIDIA H100XM-20C"))


def test_a_write_to_a_function_counts_as_one_to_its_gpu(vfio, mdev):
    vfio.add_fault({"call": "write", "gpu": A, "error": "ENODEV"})
    make(vfio, B, 0, "NVIDIA H100XM-20C")
    assert refused(vfio, own(vfio, A, 0, "current_vgpu_type"), "0") == errno.ENODEV
    mdev.write(of_type(mdev, T4, "GRID T4-8Q", "create"), UUID)
    mdev.add_fault({"call": "write", "gpu": T4, "error": "EIO"})
    assert refused(mdev, f"{MDEVS}/{UUID}/remove", "1") == errno.EIO


def test_another_tool_makes_a_vgpu_first(vfio, mdev):
    vfio.add_fault({"call": "write", "gpu": A, "foreign": [{"action": "create_vgpu", "profile": "H100XM-40C"}]})
    with pytest.raises(OSError) as caught:
        make(vfio, A, 0, "NVIDIA H100XM-20C")
    assert caught.value.errno == errno.EBUSY
    assert vfio.read(own(vfio, A, 0, "current_vgpu_type")) == str(number_of("NVIDIA H100XM-40C"))
    change = {"action": "create_vgpu", "profile": "GRID T4-8Q", "gpu": T4}
    mdev.add_fault({"call": "run", "foreign": [change, change, change]})
    mdev.run(["lspci", "-Dnnmm"])
    assert len(mdev.listdir(MDEVS)) == 2
