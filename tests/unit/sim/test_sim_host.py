"""The simulated host: its description, its lasting state, its files, its tools and its faults."""

import errno
import json
import multiprocessing
import pathlib
import signal
import subprocess
import sys
import threading

import pynvml
import pytest

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.sim.host import SimulatedHost

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
HOSTS = sorted((REPOSITORY / "examples" / "hosts").glob("*.yaml"))
A100 = "0000:07:00.0"
ONE_A100 = f'gpus: [{{model: a100-40gb, address: "{A100}", mig: enabled, sriov_totalvfs: 4}}]\n'


def described(tmp_path, text, name="box"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    return SimulatedHost(path, tmp_path / "state")


def example(tmp_path, name):
    return SimulatedHost(REPOSITORY / "examples" / "hosts" / f"{name}.yaml", tmp_path / "state")


@pytest.fixture
def host(tmp_path):
    return described(tmp_path, ONE_A100)


def device_of(host):
    lib = host.nvml()
    lib.nvmlInit()
    return lib, lib.nvmlDeviceGetHandleByIndex(0)


def mistakes_of(tmp_path, text):
    with pytest.raises(errors.PolicyError) as caught:
        described(tmp_path, text)
    return caught.value.mistakes


# -- description -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", HOSTS, ids=lambda path: path.stem)
def test_every_example_makes_a_host_that_can_be_read(path, tmp_path):
    host = SimulatedHost(path, tmp_path)
    assert host.name == path.stem
    addresses = host.listdir("/sys/bus/pci/devices")
    assert set(host.state()["gpus"]) <= set(addresses)
    for address, gpu in host.state()["gpus"].items():
        about = gpu["about"]
        assert about["memory_mib"] > 0
        assert host.read(f"/sys/bus/pci/devices/{address}/vendor") == f"0x{about['vendor']}"
        if about["vendor"] == "10de":
            assert about["device"] in nvidia.MODELS[about["model"]]["device_ids"]
    listed = host.run(["lspci", "-Dnnmm"]).stdout
    assert all(device["address"] in listed for device in host.state()["host"]["other_pci"])


def test_the_examples_have_gpus_of_every_vendor(tmp_path):
    machines = [SimulatedHost(path, tmp_path).state()["gpus"].values() for path in HOSTS]
    assert {gpu["about"]["vendor"] for gpus in machines for gpu in gpus} == {"10de", "1002", "8086"}


def test_an_address_without_quotes_is_explained(tmp_path):
    (mistake,) = mistakes_of(tmp_path, "gpus: [{model: a100-40gb, address: 0000:07:00.0}]\n")
    assert mistake.startswith("gpus[0].address: 420.0") and "quotes" in mistake


def test_all_mistakes_are_told_at_once_with_their_paths(tmp_path):
    found = mistakes_of(
        tmp_path,
        "drivr: {}\nlatency: {create_gi: -1}\ntools: [nvidia_smi]\nreset: sometimes\n"
        f'gpus: [{{model: a100-40g, address: "{A100}", mig: yes}}]\n'
        'processes: [{pid: 1, gpu: "0000:99:00.0"}]\nfaults: [{call: nvmlInit}, {call: nvmlInit, error: ENOSPC}]\n',
    )
    text = "\n".join(found)
    for part in (
        "drivr: unknown key, did you mean 'driver'?", "latency.create_gi: must not be negative", "tools[0]: 'nvidia_smi'",
        "reset: 'sometimes' is none of auto, tool, never", "did you mean 'a100-40gb'?", "gpus[0].mig: True is not a text",
        "processes[0].gpu: '0000:99:00.0' is no GPU", "faults[0]: has no effect",
        "faults[1].error: 'ENOSPC' is not an NVML error",
    ):  # fmt: skip
        assert part in text


def test_instances_that_can_not_exist_are_refused(tmp_path):
    with pytest.raises(errors.PolicyError, match=r"GPU 0000:07:00.0 the instance 3g.20gb@2"):
        described(tmp_path, f'gpus: [{{model: a100-40gb, address: "{A100}", mig: enabled, instances: ["3g.20gb@2"]}}]\n')


def test_instances_with_their_own_compute_instances(tmp_path):
    host = described(
        tmp_path,
        f'gpus: [{{model: a100-40gb, address: "{A100}", mig: enabled, instances: '
        '[{profile: 3g.20gb, start: 4, cis: [["1c.3g.20gb", 2]]}, "1g.5gb@0"]}]\n',
    )
    gis = host.state()["gpus"][A100]["gis"]
    assert sorted(gis) == ["2", "7"]
    assert gis["2"]["cis"]["0"]["start"] == 2


def test_a_missing_or_broken_file_is_a_sentence(tmp_path):
    with pytest.raises(errors.PolicyError, match="can't be read"):
        SimulatedHost(tmp_path / "none.yaml", tmp_path)
    with pytest.raises(errors.PolicyError, match="not valid YAML"):
        described(tmp_path, "gpus: [")


def test_gpus_of_other_vendors_are_pci_devices_with_their_own_files(tmp_path):
    host = described(
        tmp_path,
        'tools: [rocm-smi, amd-smi, xpu-smi]\ngpus:\n- {vendor: amd, device: "74a1", address: "0000:05:00.0", name: MI300X, '
        "sysfs: {current_compute_partition: SPX}}\n"
        '- {vendor: intel, device: "56c0", address: "0000:4d:00.0", driver: i915, sriov_totalvfs: 31}\n',
    )
    partition = "/sys/bus/pci/devices/0000:05:00.0/current_compute_partition"
    host.write(partition, "CPX\n")
    assert host.read(partition) == "CPX"
    assert host.readlink("/sys/bus/pci/devices/0000:4d:00.0/driver") == "i915"
    assert json.loads(host.run(["amd-smi", "list", "--json"]).stdout)[0]["bdf"] == "0000:05:00.0"
    cards = json.loads(host.run(["rocm-smi", "--showbus", "--showproductname", "--json"]).stdout)
    assert cards["card0"]["Card Series"] == "MI300X"
    devices = json.loads(host.run(["xpu-smi", "discovery", "-j"]).stdout)["device_list"]
    assert devices[0]["pci_bdf_address"] == "0000:4d:00.0"


# -- lasting state ---------------------------------------------------------------------------------------------------
def test_what_one_host_object_did_another_one_sees(host, tmp_path):
    other = SimulatedHost(host.description_path, host.state_dir)
    lib, device = device_of(host)
    their_lib, theirs = device_of(other)
    gi = lib.nvmlDeviceCreateGpuInstance(device, 9)
    assert their_lib.nvmlDeviceGetGpuInstanceRemainingCapacity(theirs, 9) == 1
    their_lib.nvmlGpuInstanceDestroy(their_lib.nvmlDeviceGetGpuInstanceById(theirs, lib.nvmlGpuInstanceGetInfo(gi).id))
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlGpuInstanceGetInfo(gi)
    assert json.loads((tmp_path / "state" / "simulated" / "box.json").read_text())["gpus"][A100]["gis"] == {}


def test_a_changed_description_asks_for_a_reset(host):
    lib, device = device_of(host)
    lib.nvmlDeviceCreateGpuInstance(device, 9)
    pathlib.Path(host.description_path).write_text(ONE_A100 + "iommu: true\n")
    changed = SimulatedHost(host.description_path, host.state_dir)
    with pytest.raises(errors.PolicyError, match="changed since .* [Rr]eset"):
        changed.read("/proc/driver/nvidia/version")
    changed.reset()
    assert changed.state()["gpus"][A100]["gis"] == {}
    assert changed.readlink(f"/sys/bus/pci/devices/{A100}/iommu_group") == "0"


def test_a_reset_does_not_give_a_mig_uuid_twice(tmp_path):
    host = described(tmp_path, f'gpus: [{{model: a100-40gb, address: "{A100}", mig: enabled, instances: ["1g.5gb@0"]}}]\n')
    before = host.state()["gpus"][A100]["gis"]["7"]["cis"]["0"]["uuid"]
    host.reset()
    assert host.state()["gpus"][A100]["gis"]["7"]["cis"]["0"]["uuid"] != before


def test_an_unusable_state_directory_is_a_sentence(tmp_path):
    (tmp_path / "state").write_text("a file, not a directory")
    with pytest.raises(errors.StateDirUnusable, match="state_dir"):
        described(tmp_path, ONE_A100)


def test_threads_side_by_side_lose_nothing(tmp_path):
    host = example(tmp_path, "dgx-a100-40gb")
    lib, _ = device_of(host)
    failures = []

    def work(index):
        try:
            device = lib.nvmlDeviceGetHandleByIndex(index)
            for _ in range(7):
                lib.nvmlGpuInstanceCreateComputeInstance(lib.nvmlDeviceCreateGpuInstance(device, 19), 0)
        except Exception as err:  # reported by the assertion below
            failures.append(err)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    gpus = host.state()["gpus"].values()
    assert [len(gpu["gis"]) for gpu in gpus] == [7] * 8
    uuids = [ci["uuid"] for gpu in gpus for gi in gpu["gis"].values() for ci in gi["cis"].values()]
    assert len(set(uuids)) == 56


def _create_in_process(path, state_dir, index):
    lib, _ = device_of(SimulatedHost(path, state_dir))
    device = lib.nvmlDeviceGetHandleByIndex(index)
    for _ in range(7):
        lib.nvmlDeviceCreateGpuInstance(device, 19)


def test_processes_side_by_side_lose_nothing(tmp_path):
    host = example(tmp_path, "dgx-a100-40gb")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_create_in_process, args=(host.description_path, host.state_dir, n)) for n in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert [len(gpu["gis"]) for gpu in list(host.state()["gpus"].values())[:2]] == [7, 7]


# -- files of the kernel ---------------------------------------------------------------------------------------------
def test_pci_files(host):
    base = f"/sys/bus/pci/devices/{A100}"
    read = {name: host.read(f"{base}/{name}") for name in ("vendor", "device", "class", "numa_node", "sriov_totalvfs")}
    assert read == {"vendor": "0x10de", "device": "0x20b0", "class": "0x030200", "numa_node": "0", "sriov_totalvfs": "4"}
    assert host.readlink(f"{base}/driver") == "nvidia"
    assert "PCI_ID=10DE:20B0" in host.read(f"{base}/uevent")
    assert host.readlink(f"{base}/iommu_group") == "" and not host.exists(f"{base}/iommu_group")
    assert host.exists(f"{base}/reset")
    assert host.listdir("/nowhere") == []
    with pytest.raises(FileNotFoundError):
        host.read(f"{base}/nothing")
    assert host.udev_pci() is None


def test_numvfs_follows_the_rules_of_the_kernel(host):
    base = f"/sys/bus/pci/devices/{A100}"
    host.write(f"{base}/sriov_numvfs", "2")
    assert host.readlink(f"{base}/virtfn1") == "0000:07:00.2"
    assert host.read(f"{base}/virtfn1/vendor") == "0x10de"
    assert host.readlink("/sys/bus/pci/devices/0000:07:00.2/physfn") == A100
    host.write(f"{base}/sriov_numvfs", "2")
    for text, number in (("3", errno.EBUSY), ("5", errno.ERANGE), ("-1", errno.EINVAL), ("two", errno.EINVAL)):
        with pytest.raises(OSError) as caught:
            host.write(f"{base}/sriov_numvfs", text)
        assert caught.value.errno == number
    host.write(f"{base}/sriov_numvfs", "0")
    assert host.listdir("/sys/bus/pci/devices") == [A100]


def test_other_files_are_not_written(host):
    for path, number in ((f"/sys/bus/pci/devices/{A100}/vendor", errno.EACCES), ("/sys/none", errno.ENOENT)):
        with pytest.raises(OSError) as caught:
            host.write(path, "1")
        assert caught.value.errno == number


def test_a_driver_is_unbound_and_bound(tmp_path):
    host = described(tmp_path, ONE_A100 + "iommu: true\nmodules: {vfio_pci: 0}\n")
    base = f"/sys/bus/pci/devices/{A100}"
    host.write(f"{base}/driver_override", "vfio-pci")
    host.write(f"{base}/driver/unbind", A100)
    assert host.readlink(f"{base}/driver") == ""
    host.write("/sys/bus/pci/drivers_probe", A100)
    assert host.readlink(f"{base}/driver") == "vfio-pci"
    with pytest.raises(pynvml.NVMLError_NotFound):
        host.nvml().nvmlInit()


def test_proc_tells_of_gpus_and_instances(host):
    lib, device = device_of(host)
    lib.nvmlGpuInstanceCreateComputeInstance(lib.nvmlDeviceCreateGpuInstance(device, 0), 4)
    assert "Device Minor: \t 0" in host.read(f"/proc/driver/nvidia/gpus/{A100}/information")
    minors = host.read("/proc/driver/nvidia-caps/mig-minors").splitlines()
    assert minors[:4] == ["config 1", "monitor 2", "gpu0/gi0/access 3", "gpu0/gi0/ci0/access 4"]
    assert minors[-1] == "gpu31/gi14/ci7/access 4322"
    access = host.read("/proc/driver/nvidia/capabilities/gpu0/mig/gi0/ci0/access")
    assert access.startswith("DeviceFileMinor: 4\n")
    assert host.exists("/dev/nvidia-caps/nvidia-cap4") and not host.exists("/dev/nvidia-caps/nvidia-cap5")


def test_a_host_without_a_driver_has_none_of_its_files(tmp_path):
    host = example(tmp_path, "no-gpu")
    assert not host.exists("/sys/module/nvidia") and not host.exists("/proc/driver/nvidia")
    with pytest.raises(errors.ToolMissing):
        host.run(["nvidia-smi", "-L"])


# -- tools -----------------------------------------------------------------------------------------------------------
def test_lspci_prints_as_the_real_one(host):
    assert host.run(["lspci", "-Dnnmm"]).stdout == (
        f'{A100} "3D controller [0302]" "NVIDIA Corporation [10de]" "A100-SXM4-40GB [20b0]" -ra1 -p00 "" ""\n'
    )


def test_nvidia_smi_lists_and_answers_queries(tmp_path):
    host = example(tmp_path, "a30-pair")
    listed = host.run(["nvidia-smi", "-L"]).stdout.splitlines()
    assert listed[0].startswith("GPU 0: NVIDIA A30 (UUID: GPU-")
    assert listed[1].startswith("  MIG 2g.12gb        Device  0: (UUID: MIG-")
    query = "--query-gpu=index,pci.bus_id,mig.mode.current"
    rows = host.run(["nvidia-smi", query, "--format=csv,noheader"]).stdout.splitlines()
    assert rows == ["0, 00000000:41:00.0, Enabled", "1, 00000000:A1:00.0, Disabled"]
    assert host.run(["nvidia-smi", "--query-gpu=colour", "--format=csv,noheader"]).returncode == 2
    assert host.run(["nvidia-smi", "-L", "-i", "0000:99:00.0"]).returncode == 6


def test_a_reset_with_a_busy_gpu_among_them_resets_none(tmp_path):
    host = example(tmp_path, "a30-pair")
    refused = host.run(["nvidia-smi", "--gpu-reset", "-i", "0000:41:00.0,0000:a1:00.0"])
    assert refused.returncode == 255 and "GPU 00000000:41:00.0: In use by another client" in refused.stdout
    assert len(host.state()["gpus"]["0000:41:00.0"]["gis"]) == 3
    host.remove_process(4711)
    assert host.run(["nvidia-smi", "--gpu-reset", "-i", "0000:41:00.0,0000:a1:00.0"]).returncode == 0
    assert host.state()["gpus"]["0000:41:00.0"]["gis"] == {}


# -- faults ----------------------------------------------------------------------------------------------------------
def test_an_error_hits_the_nth_call_once_also_for_another_process(host):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstance", "gpu": A100, "nth": 2, "error": "NVML_ERROR_UNKNOWN"})
    lib, device = device_of(host)
    lib.nvmlDeviceCreateGpuInstance(device, 19)
    other, same = device_of(SimulatedHost(host.description_path, host.state_dir))
    with pytest.raises(pynvml.NVMLError_Unknown):
        other.nvmlDeviceCreateGpuInstance(same, 19)
    other.nvmlDeviceCreateGpuInstance(same, 19)
    assert len(host.state()["gpus"][A100]["gis"]) == 2


def test_a_gpu_falls_off_the_bus(host):
    host.add_fault({"call": "nvmlGpuInstanceDestroy", "lost": True})
    lib, device = device_of(host)
    gi = lib.nvmlDeviceCreateGpuInstance(device, 19)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        lib.nvmlGpuInstanceDestroy(gi)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        lib.nvmlDeviceGetMigMode(device)
    host.reboot()
    assert lib.nvmlDeviceGetMigMode(lib.nvmlDeviceGetHandleByIndex(0)) == [1, 1]


def test_a_lie_does_nothing(host):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstance", "lie": True})
    host.add_fault({"call": "nvmlDeviceSetMigMode", "lie": True})
    lib, device = device_of(host)
    gi = lib.nvmlDeviceCreateGpuInstance(device, 19)
    with pytest.raises(pynvml.NVMLError_NotFound):
        lib.nvmlGpuInstanceGetInfo(gi)
    assert lib.nvmlDeviceSetMigMode(device, 0) == 0
    assert lib.nvmlDeviceGetMigMode(device) == [1, 1]


def test_a_status_is_returned(host):
    host.add_fault({"call": "nvmlDeviceSetMigMode", "returns": "NVML_ERROR_IN_USE"})
    lib, device = device_of(host)
    assert lib.nvmlDeviceSetMigMode(device, 0) == 19


def test_another_tool_is_faster(host):
    change = {"gpu": A100, "action": "create_gi", "profile": "3g.20gb", "start": 4}
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "foreign": [change]})
    lib, device = device_of(host)
    place = pynvml.c_nvmlGpuInstancePlacement_t(4, 4)
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlDeviceCreateGpuInstanceWithPlacement(device, 9, pynvml.byref(place))
    assert caught.value.value == 23
    assert host.state()["gpus"][A100]["gis"]["2"]["cis"] != {}


def test_an_act_of_another_tool_has_to_be_named(host):
    with pytest.raises(errors.PolicyError, match=r"fault.foreign\[0\].action: is missing"):
        host.add_fault({"call": "run", "foreign": [{"gpu": A100, "profile": "3g.20gb"}]})


def test_files_of_our_own_and_of_the_kernel_fail_with_their_errno(host, tmp_path):
    path = str(tmp_path / "journal")
    for call in ("store_write", "store_append", "write"):
        host.add_fault({"call": call, "error": "ENOSPC"})
    for work in (
        lambda: host.store_write(path, "text"),
        lambda: host.store_append(path, "line"),
        lambda: host.write(f"/sys/bus/pci/devices/{A100}/sriov_numvfs", "1"),
    ):
        with pytest.raises(OSError) as caught:
            work()
        assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "journal").exists()
    host.store_write(path, "text\n")
    host.store_append(path, "line")
    assert (tmp_path / "journal").read_text() == "text\nline\n"


def test_a_program_fails_as_a_fault_says(host):
    host.add_fault({"call": "run", "error": "ETIMEDOUT"})
    with pytest.raises(errors.ToolFailed, match="did not end within"):
        host.run(["lspci", "-Dnnmm"])
    assert host.run(["lspci", "-Dnnmm"]).returncode == 0


CHILD = """
import sys
from gpuslice.sim.host import SimulatedHost
lib = SimulatedHost(sys.argv[1], sys.argv[2]).nvml()
lib.nvmlInit()
device = lib.nvmlDeviceGetHandleByIndex(0)
lib.nvmlDeviceCreateGpuInstance(device, 9)
lib.nvmlDeviceCreateGpuInstance(device, 9)
"""


@pytest.mark.parametrize(("moment", "after_first_run"), [("before", 1), ("after", 2)])
def test_a_killed_process_leaves_the_hardware_as_it_was_before_or_after(host, moment, after_first_run):
    host.add_fault({"call": "nvmlDeviceCreateGpuInstance", "nth": 2, "kill": moment})
    command = [sys.executable, "-c", CHILD, host.description_path, str(host.state_dir)]
    environment = {"PYTHONPATH": str(REPOSITORY / "_utils")}
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    assert len(host.state()["gpus"][A100]["gis"]) == after_first_run
    lib, device = device_of(host)
    left = lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, 9)
    assert left == 2 - after_first_run
    for _ in range(left):
        lib.nvmlDeviceCreateGpuInstance(device, 9)


# -- processes, latency, and what may be missing ---------------------------------------------------------------------
def test_a_process_that_only_holds_nodes_uses_what_they_stand_for(tmp_path):
    host = described(
        tmp_path,
        f'gpus: [{{model: a100-40gb, address: "{A100}", minor: 2, mig: enabled, instances: ["3g.20gb@4"]}}]\n'
        "processes: [{pid: 9, command: cuda-app, container: web, nodes: [/dev/nvidia2, /dev/nvidia-caps/nvidia-cap292]}]\n",
    )
    lib, device = device_of(host)
    ci = lib.nvmlGpuInstanceGetComputeInstanceById(lib.nvmlDeviceGetGpuInstanceById(device, 2), 0)
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlComputeInstanceDestroy(ci)
    assert caught.value.value == pynvml.NVML_ERROR_IN_USE
    assert str(host.processes()[0]) == "pid 9 (cuda-app, container web)"


def test_processes_are_checked_and_end(host):
    host.add_process({"pid": 5, "gpu": A100})
    with pytest.raises(errors.PolicyError, match="5 runs already"):
        host.add_process({"pid": 5, "gpu": A100})
    assert host.processes()[0].nodes == ("/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm")
    host.remove_process(5)
    assert host.processes() == []


def test_the_first_instance_needs_a_gpu_without_contexts(host):
    host.add_process({"pid": 5, "gpu": A100})
    lib, device = device_of(host)
    with pytest.raises(pynvml.NVMLError) as caught:
        lib.nvmlDeviceCreateGpuInstance(device, 19)
    assert caught.value.value == pynvml.NVML_ERROR_IN_USE


class _Meanwhile(SimulatedHost):
    """Notes how long it would wait, and lets another one change the machine in that time."""

    other = None
    waited = ()

    def sleep(self, seconds):
        self.waited += (seconds,)
        self.other.add_process({"pid": 100 + len(self.waited), "gpu": A100, "type": "monitor"})


def test_time_passes_while_no_lock_is_held(tmp_path):
    text = "latency: {init: 1.5, create_gi: 0.25, reset: 6}\n" + ONE_A100
    other = described(tmp_path, text)
    host = _Meanwhile(other.description_path, other.state_dir)
    host.other = other
    lib, device = device_of(host)
    lib.nvmlDeviceCreateGpuInstance(device, 19)
    host.run(["nvidia-smi", "--gpu-reset", "-i", "0"])
    assert host.waited == (1.5, 0.25, 6)
    assert [process["pid"] for process in host.state()["processes"]] == [101, 102, 103]


def test_without_pynvml_the_package_is_named(host, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(errors.DriverMissing, match="nvidia-ml-py"):
        host.nvml()


@pytest.mark.parametrize("key", sorted(nvidia.MODELS))
def test_every_model_of_the_catalog_can_be_described(key, tmp_path):
    table = nvidia.mig_table(key)
    mig = "mig: enabled, " if table else ""
    host = described(tmp_path, f'gpus: [{{{mig}model: {key}, address: "{A100}"}}]\n')
    lib, device = device_of(host)
    assert lib.nvmlDeviceGetMemoryInfo(device).total > 0
    if table is None:
        with pytest.raises(pynvml.NVMLError_NotSupported):
            lib.nvmlDeviceGetMigMode(device)
        return
    for profile in table.profiles:
        assert lib.nvmlDeviceGetGpuInstanceProfileInfo(device, profile.enum).id == profile.id
        assert 1 <= lib.nvmlDeviceGetGpuInstanceRemainingCapacity(device, profile.id) <= profile.count
        gi = lib.nvmlDeviceCreateGpuInstance(device, profile.id)
        full = next(ci for ci in profile.cis if ci.slices == profile.slices)
        ci = lib.nvmlGpuInstanceCreateComputeInstance(gi, full.id)
        assert lib.nvmlDeviceGetUUID(lib.nvmlComputeInstanceGetInfo(ci).device).startswith("MIG-")
        lib.nvmlComputeInstanceDestroy(ci)
        lib.nvmlGpuInstanceDestroy(gi)


def test_a_process_is_ended_only_under_its_own_name_and_if_it_will(host):
    host.add_process({"pid": 5, "command": "train", "gpu": A100})
    host.add_process({"pid": 6, "command": "hung", "gpu": A100, "stubborn": True})
    assert host.end_process(5, "another")
    assert [process.pid for process in host.processes()] == [5, 6]
    assert host.end_process(5, "train") and not host.end_process(6, "hung")
    assert [process.pid for process in host.processes()] == [6]


def test_the_reboot_marker_is_the_simulated_machines_own_and_gone_after_the_boot(host):
    host.mark_reboot_required()
    host.mark_reboot_required()
    host.schedule_reboot("MIG mode of a GPU")
    assert host.read("/run/reboot-required.pkgs") == "gpu-slicing"
    assert host.exists("/run/reboot-required")
    assert host.state()["reboot_scheduled"] == "MIG mode of a GPU"
    host.reboot()
    assert not host.exists("/run/reboot-required") and host.state()["reboot_scheduled"] == ""


def test_time_that_is_let_pass_moves_both_clocks(host):
    before = host.now(), host.monotonic()
    host.let_pass(3600)
    assert host.now() - before[0] >= 3600 and host.monotonic() - before[1] >= 3600
    host.set_clock(-7200)
    assert host.now() < before[0] and host.monotonic() - before[1] >= 3600
