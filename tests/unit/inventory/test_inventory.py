"""The inventory, on trees of files laid out as the kernel does."""

import os

import pytest

from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.inventory import discovery
from gpuslice.inventory import grain
from gpuslice.inventory import machine

A100 = {"vendor": "0x10de", "device": "0x20b0", "class": "0x030200", "subsystem_vendor": "0x10de", "subsystem_device": "0x134f"}
MI300X = {"vendor": "0x1002", "device": "0x74a1", "class": "0x120000", "subsystem_vendor": "0x1002", "subsystem_device": "0x74a1"}
FLEX = {"vendor": "0x8086", "device": "0x56c0", "class": "0x038000"}
IGPU = {"vendor": "0x8086", "device": "0x46a0", "class": "0x030000"}
BMC = {"vendor": "0x1a03", "device": "0x2000", "class": "0x030000"}
NIC = {"vendor": "0x8086", "device": "0x1572", "class": "0x020000"}
UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"


class TreeHost(RealHost):
    """A real host whose files lie below a directory; udev answers what it is given."""

    def __init__(self, root, udev=None):
        super().__init__()
        self.root = str(root)
        self.udev = udev

    def read(self, path):
        return super().read(self.root + path)

    def listdir(self, path):
        return super().listdir(self.root + path)

    def exists(self, path):
        return super().exists(self.root + path)

    def readlink(self, path):
        return super().readlink(self.root + path)

    def udev_pci(self):
        return self.udev

    def put(self, path, text=""):
        """Make a file."""
        full = self.root + path
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "w", encoding="utf-8") as handle:
            handle.write(text + "\n")

    def link(self, path, target):
        """Make a symbolic link."""
        os.makedirs(os.path.dirname(self.root + path), exist_ok=True)
        os.symlink(target, self.root + path)

    def device(self, address, files, driver="", vfs=0, total=0, iommu=False, **more):
        """Make a PCI device, with ``vfs`` enabled virtual functions of ``total``."""
        base = f"/sys/bus/pci/devices/{address}"
        for name, text in {"numa_node": "1", **files, **more}.items():
            self.put(f"{base}/{name}", text)
        if driver:
            self.link(f"{base}/driver", f"../../../../bus/pci/drivers/{driver}")
        if iommu:
            self.link(f"{base}/iommu_group", "../../../../kernel/iommu_groups/7")
            os.makedirs(f"{self.root}/sys/kernel/iommu_groups/7", exist_ok=True)
        if total:
            self.put(f"{base}/sriov_totalvfs", str(total))
            self.put(f"{base}/sriov_numvfs", str(vfs))
        for number in range(vfs):
            vf = f"{address[:-1]}{number + 1}" if number < 7 else f"{address[:-4]}{1 + number // 8:02x}.{number % 8}"
            self.link(f"{base}/virtfn{number}", f"../{vf}")
            self.device(vf, files, **({"driver": "vfio-pci"} if driver else {}))
            self.link(f"/sys/bus/pci/devices/{vf}/physfn", f"../{address}")


@pytest.fixture
def host(tmp_path):
    """A machine without anything."""
    return TreeHost(tmp_path)


def one(host):
    """The only GPU of a host."""
    (gpu,) = discovery.discover(host)
    return gpu


def test_a_host_without_pci_has_no_gpu(host):
    assert grain.facts(host) == {
        "count": 0, "vendors": [], "models": [], "addresses": [], "capabilities": [], "virtualization": "bare_metal",
        "iommu": False, "reboot_required": False, "interrupted": False, "devices": [], "owners": [], "vram_quota": [],
    }  # fmt: skip


def test_gpus_of_three_vendors_are_found_by_class_and_sorted_by_address(host):
    host.device("0000:c1:00.0", MI300X, driver="amdgpu")
    host.device("0000:07:00.0", A100, driver="nvidia")
    host.device("0000:00:02.0", IGPU, driver="i915")
    host.device("0000:3c:00.0", FLEX)
    host.device("0000:03:00.0", BMC, driver="ast")
    host.device("0000:04:00.0", NIC)
    host.device("0000:00:1f.3", {**NIC, "vendor": "0x10de", "class": "0x040300"})
    gpus = discovery.discover(host)
    assert [(gpu.address, gpu.vendor, gpu.driver, gpu.catalog_key) for gpu in gpus] == [
        ("0000:00:02.0", "intel", "i915", "alder-lake-p"),
        ("0000:07:00.0", "nvidia", "nvidia", "a100-40gb"),
        ("0000:3c:00.0", "intel", "", "flex-170"),
        ("0000:c1:00.0", "amd", "amdgpu", "mi300x"),
    ]
    assert gpus[1].subsystem_id == "10de:134f"
    assert gpus[1].model == gpus[1].name == "NVIDIA A100-SXM4-40GB"
    assert (gpus[1].memory_mib, gpus[0].memory_mib) == (40960, None)


def test_a_virtual_function_belongs_to_its_physical_function(host):
    host.device("0000:3c:00.0", FLEX, driver="xe", vfs=12, total=31)
    gpu = one(host)
    assert gpu.virtual_functions["total"] == 31
    assert gpu.virtual_functions["enabled"] == 12
    assert gpu.virtual_functions["addresses"][:2] == ["0000:3c:00.1", "0000:3c:00.2"]
    # In the order of their numbers: virtfn10 comes after virtfn9.
    assert gpu.virtual_functions["addresses"][-1] == "0000:3c:02.3"


def test_what_the_driver_calls_the_gpu_and_its_uuid_come_from_its_file(host):
    host.device("0000:c7:00.0", A100, driver="nvidia")
    text = f"Model: \t\t NVIDIA A100-SXM4-40GB\nIRQ:   \t\t 174\nGPU UUID: \t {UUID}\nBus Location: \t 0000:c7:00.0"
    host.put("/proc/driver/nvidia/gpus/0000:C7:00.0/information", text)
    gpu = one(host)
    assert (gpu.uuid, gpu.name) == (UUID, "NVIDIA A100-SXM4-40GB")


def test_a_driver_that_does_not_know_its_gpu_yet_is_not_believed(host):
    host.device("0000:07:00.0", A100, driver="nvidia")
    text = "Model: \t\t Unknown\nGPU UUID: \t GPU-????????-????-????-????-????????????"
    host.put("/proc/driver/nvidia/gpus/0000:07:00.0/information", text)
    gpu = one(host)
    assert (gpu.uuid, gpu.name) == ("", "NVIDIA A100-SXM4-40GB")


def test_udev_names_a_gpu_that_the_catalog_does_not_know(tmp_path):
    udev = [
        {"SYSNAME": "0000:07:00.0", "PCI_CLASS": "30200", "PCI_ID": "10DE:1234", "ID_MODEL_FROM_DATABASE": "GX100 [Future 9000]"},
        {"SYSNAME": "0000:08:00.0", "PCI_CLASS": "20000", "PCI_ID": "8086:1572"},
    ]
    host = TreeHost(tmp_path, udev)
    host.device("0000:07:00.0", {**A100, "device": "0x1234"})
    gpu = one(host)
    assert (gpu.model, gpu.catalog_key, gpu.memory_mib) == ("NVIDIA Future 9000", "", None)
    assert gpu.capabilities == ("mps", "time-slicing")
    assert grain.facts(host)["models"] == ["NVIDIA Future 9000"]


def test_the_grain_does_not_load_udev_for_gpus_that_the_catalog_knows(host):
    host.device("0000:07:00.0", A100)
    host.udev_pci = lambda: pytest.fail("udev was asked")
    assert grain.facts(host)["models"] == ["NVIDIA A100-SXM4-40GB"]


def test_without_udev_an_unknown_gpu_is_named_by_its_id(host):
    host.device("0000:07:00.0", {**A100, "device": "0x1234"})
    assert one(host).model == "NVIDIA GPU 1234"


def test_boards_of_one_id_are_told_apart_by_subsystem_or_by_the_driver(host):
    host.device("0000:07:00.0", {**A100, "device": "0x2bb3", "subsystem_device": "0x227a"})
    host.device("0000:08:00.0", {**A100, "device": "0x2bb3", "subsystem_device": "0xffff"}, driver="nvidia")
    host.put("/proc/driver/nvidia/gpus/0000:08:00.0/information", "Model: \t NVIDIA RTX PRO 5000 Blackwell")
    models = [gpu.model for gpu in discovery.discover(host)]
    assert models == ["NVIDIA RTX PRO 5000 72GB Blackwell", "NVIDIA RTX PRO 5000 Blackwell"]


def test_amd_memory_comes_from_the_driver_where_boards_differ(host):
    mi50 = {**MI300X, "device": "0x66a1", "class": "0x038000", "mem_info_vram_total": "34342961152"}
    host.device("0000:07:00.0", mi50, driver="amdgpu")
    assert one(host).memory_mib == 32752


def test_a_system_without_numa_says_so(host):
    host.device("0000:07:00.0", A100, numa_node="-1")
    host.device("0000:08:00.0", A100)
    assert [gpu.numa_node for gpu in discovery.discover(host)] == [None, 1]


@pytest.mark.parametrize(
    ("files", "options", "capabilities"),
    [
        (A100, {"driver": "nvidia"}, "mig mps power time-slicing"),
        (A100, {"driver": "nvidia", "total": 16, "iommu": True}, "mig mps passthrough power sriov time-slicing"),
        ({**A100, "device": "0x1eb8"}, {"driver": "nvidia"}, "mps power time-slicing"),
        (MI300X, {"driver": "amdgpu", "current_compute_partition": "SPX", "total": 8}, "partition sriov"),
        # The kernel is too old for partitions: the driver is there and its file is not.
        (MI300X, {"driver": "amdgpu"}, ""),
        # No driver: the hardware can, and the technique says what is missing.
        (MI300X, {}, "partition"),
        # The catalog says SR-IOV, but firmware or driver offer none.
        (FLEX, {"driver": "i915"}, "level-zero"),
        (FLEX, {"driver": "xe", "total": 31}, "level-zero sriov"),
        (IGPU, {"driver": "i915", "mdev_supported_types/i915-GVTg_V5_4/name": "x"}, "level-zero vgpu"),
    ],
)
def test_capabilities(host, files, options, capabilities):
    host.device("0000:07:00.0", files, **options)
    assert one(host).capabilities == tuple(capabilities.split())


def test_the_vendors_vfio_interface_on_a_virtual_function_means_vgpu(host):
    host.device("0000:07:00.0", A100, driver="nvidia", vfs=4, total=16)
    assert "vgpu" not in one(host).capabilities
    host.put("/sys/bus/pci/devices/0000:07:00.1/nvidia/current_vgpu_type", "0")
    assert "vgpu" in one(host).capabilities


def test_the_vgpu_manager_means_vgpu_before_virtual_functions_are_enabled(host):
    host.device("0000:07:00.0", A100, driver="nvidia", total=16)
    host.put("/sys/module/nvidia_vgpu_vfio/refcnt", "0")
    assert "vgpu" in one(host).capabilities


def test_a_vgpu_in_a_guest_has_no_mig_and_not_the_memory_of_the_board(host):
    host.put("/proc/cpuinfo", "flags\t\t: fpu vme hypervisor")
    host.device("0000:02:01.0", A100, driver="nvidia")
    host.device("0000:02:02.0", A100, driver="nvidia")
    host.put("/proc/driver/nvidia/gpus/0000:02:01.0/information", "Model: \t GRID A100X-10C")
    host.put("/proc/driver/nvidia/gpus/0000:02:02.0/information", "Model: \t NVIDIA A100-SXM4-40GB")
    vgpu, passed_through = discovery.discover(host)
    assert (vgpu.capabilities, vgpu.memory_mib, vgpu.model) == (("mps", "time-slicing", "vgpu"), None, "NVIDIA GRID A100X-10C")
    assert "mig" in passed_through.capabilities and "vgpu" not in passed_through.capabilities


@pytest.mark.parametrize(
    ("name", "vgpu"),
    [
        ("NVIDIA H100XM-10C", True),
        ("NVIDIA H100XM-1-10CME", True),
        ("GRID T4-2B4", True),
        ("NVIDIA RTX 6000D-4-48QMEALL", True),
        ("NVIDIA A100-SXM4-40GB", False),
        ("NVIDIA H100 80GB HBM3", False),
        ("NVIDIA A100-PCIE-40GB MIG 1g.5gb", False),
        ("", False),
    ],
)
def test_the_name_of_a_vgpu_is_told_from_that_of_a_board(name, vgpu):
    assert discovery.is_vgpu_name(name) is vgpu


def test_a_virtual_function_in_a_guest_can_not_be_partitioned(host):
    host.device("0000:02:01.0", {**MI300X, "device": "0x74b5"}, driver="amdgpu", current_compute_partition="SPX")
    gpu = one(host)
    assert (gpu.catalog_key, gpu.capabilities) == ("mi300x", ())


@pytest.mark.parametrize("missing", ["device", "class", "vendor"])
def test_a_device_that_vanishes_is_told_and_left_out(tmp_path, missing):
    known = {"PCI_CLASS": "30200", "PCI_ID": "10DE:20B0"}
    host = TreeHost(tmp_path, [{**known, "SYSNAME": address} for address in ("0000:07:00.0", "0000:08:00.0")])
    host.device("0000:07:00.0", A100)
    host.device("0000:08:00.0", A100)
    os.unlink(f"{tmp_path}/sys/bus/pci/devices/0000:08:00.0/{missing}")
    gpus, problems = discovery.discover_with_errors(host)
    assert [gpu.address for gpu in gpus] == ["0000:07:00.0"]
    assert len(problems) == 1 and "0000:08:00.0" in problems[0]
    assert grain.facts(host)["errors"] == problems


@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({}, "bare_metal"),
        ({"/proc/cpuinfo": "flags\t\t: fpu vme svm"}, "bare_metal"),
        ({"/proc/cpuinfo": "flags\t\t: fpu hypervisor\n"}, "virtual_guest"),
        ({"/sys/class/dmi/id/sys_vendor": "QEMU"}, "virtual_guest"),
        ({"/sys/class/dmi/id/sys_vendor": "Microsoft Corporation",
          "/sys/class/dmi/id/product_name": "Virtual Machine"}, "virtual_guest"),
        ({"/sys/class/dmi/id/sys_vendor": "Microsoft Corporation", "/sys/class/dmi/id/product_name": "Surface"}, "bare_metal"),
        ({"/sys/class/dmi/id/sys_vendor": "Amazon EC2", "/sys/class/dmi/id/product_name": "g5g.xlarge"}, "virtual_guest"),
        ({"/sys/class/dmi/id/sys_vendor": "Amazon EC2", "/sys/class/dmi/id/product_name": "g5g.metal"}, "bare_metal"),
        ({"/sys/class/dmi/id/sys_vendor": "Google", "/sys/class/dmi/id/product_name": "Google Compute Engine",
          "/proc/cpuinfo": "flags\t: fpu vmx"}, "bare_metal"),
        ({"/sys/hypervisor/type": "xen"}, "virtual_guest"),
        ({"/sys/hypervisor/type": "xen", "/proc/xen/capabilities": "control_d"}, "bare_metal"),
        ({"/sys/module/kvm/parameters/x": ""}, "bare_metal"),
        ({"/sys/module/kvm/parameters/x": "", "/sys/bus/pci/drivers/vfio-pci/bind": ""}, "virtual_host"),
        ({"/sys/module/kvm/parameters/x": "", "/run/libvirt/libvirt-sock": ""}, "virtual_host"),
        ({"/sys/module/kvm/parameters/x": "", "/sys/module/kvm_amd/refcnt": "2"}, "virtual_host"),
        ({"/sys/module/kvm/parameters/x": "", "/sys/module/kvm_amd/refcnt": "0"}, "bare_metal"),
        ({"/sys/bus/pci/drivers/vfio-pci/bind": ""}, "bare_metal"),
        ({"/proc/cpuinfo": "flags\t: hypervisor", "/sys/module/kvm/x": "", "/run/libvirt/libvirt-sock": ""}, "virtual_guest"),
    ],
)  # fmt: skip
def test_virtualization(host, files, answer):
    for path, text in files.items():
        host.put(path, text)
    assert machine.virtualization(host, discovery.discover(host)) == answer


def test_enabled_virtual_functions_make_a_machine_with_kvm_a_virtual_host(host):
    host.device("0000:3c:00.0", FLEX, driver="xe", vfs=2, total=31)
    assert machine.virtualization(host, discovery.discover(host)) == "bare_metal"
    host.put("/sys/module/kvm/parameters/x")
    assert machine.virtualization(host, discovery.discover(host)) == "virtual_host"
    assert grain.facts(host)["virtualization"] == "virtual_host"


def test_a_pending_reboot_is_ours_only_by_name(host):
    assert not machine.reboot_required(host)
    host.put("/run/reboot-required.pkgs", "linux-image-6.1\ngpu-slicing-docs")
    assert not machine.reboot_required(host)
    host.put("/run/reboot-required.pkgs", "linux-image-6.1\ngpu-slicing")
    assert machine.reboot_required(host)


def test_facts_of_a_mixed_host(host):
    host.device("0000:07:00.0", A100, driver="nvidia", iommu=True)
    host.device("0000:08:00.0", A100, driver="nvidia", iommu=True)
    host.device("0000:3c:00.0", FLEX, driver="xe", vfs=1, total=31, iommu=True)
    found = grain.facts(host)
    assert found["count"] == 3
    assert found["vendors"] == ["intel", "nvidia"]
    assert found["models"] == ["Intel Data Center GPU Flex 170", "NVIDIA A100-SXM4-40GB"]
    assert found["addresses"] == ["0000:07:00.0", "0000:08:00.0", "0000:3c:00.0"]
    assert found["capabilities"] == ["level-zero", "mig", "mps", "passthrough", "power", "sriov", "time-slicing"]
    assert found["iommu"] is True and "errors" not in found
    assert found["devices"][2] == {
        "address": "0000:3c:00.0", "vendor": "intel", "model": "Intel Data Center GPU Flex 170",
        "name": "Intel Data Center GPU Flex 170", "device_id": "56c0", "memory_mib": 16384, "driver": "xe", "numa_node": 1,
        "capabilities": ["level-zero", "passthrough", "sriov"],
        "virtual_functions": {"total": 31, "enabled": 1, "addresses": ["0000:3c:00.1"]},
        "vram_quota": {"by": "none", "why": "this host has no cgroup version 2"},
    }  # fmt: skip


@pytest.fixture
def gpus(host):
    """Two GPUs, one with a UUID and one with a virtual function."""
    host.device("0000:07:00.0", A100, driver="nvidia")
    host.device("0000:3c:00.0", FLEX, driver="xe", vfs=1, total=31)
    host.put("/proc/driver/nvidia/gpus/0000:07:00.0/information", f"GPU UUID: \t {UUID}")
    return discovery.discover(host)


def test_auto_selects_all(gpus):
    assert discovery.select(gpus, "auto", ["0000:99:00.0"]) == (gpus, [])


@pytest.mark.parametrize("name", ["0000:07:00.0", "07:00.0", "00000000:07:00.0", UUID, UUID.upper()])
def test_manual_selects_by_any_name(gpus, name):
    assert discovery.select(gpus, "manual", [name]) == ([gpus[0]], [])


def test_manual_selects_each_once_in_the_order_of_the_host_and_hands_warnings_on(gpus):
    found, warnings = discovery.select(gpus, "manual", ["3c:00.0", UUID, 420.0])
    assert found == gpus
    assert len(warnings) == 1 and "quote" in warnings[0]


def test_manual_without_devices_selects_none(gpus):
    assert discovery.select(gpus, "manual", []) == ([], [])


def test_a_device_that_is_not_there_is_an_error_that_names_what_is(gpus):
    with pytest.raises(errors.DeviceNotFound) as caught:
        discovery.select(gpus, "manual", ["0000:07:00.0", "0000:99:00.0", "0000:3c:00.1"])
    text = str(caught.value)
    assert "0000:99:00.0" in text and "0000:07:00.0 (NVIDIA A100-SXM4-40GB)" in text
    assert "0000:3c:00.1 is a virtual function of 0000:3c:00.0" in text


def test_an_unknown_uuid_says_when_uuids_are_known(gpus):
    with pytest.raises(errors.DeviceNotFound, match="driver is loaded"):
        discovery.select(gpus, "manual", [UUID[:-1] + "0"])


def test_what_is_no_address_and_no_method_is_a_mistake_of_the_policy(gpus):
    with pytest.raises(errors.PolicyError):
        discovery.select(gpus, "manual", ["first"])
    with pytest.raises(errors.PolicyError):
        discovery.select(gpus, "some", [])


@pytest.mark.parametrize(
    ("files", "answer"),
    [
        ({"/run/.containerenv": ""}, True),
        ({"/.dockerenv": ""}, True),
        ({"/run/systemd/container": "lxc"}, True),
        ({"/proc/1/cgroup": "0::/docker/0123456789ab\n"}, True),
        ({"/proc/1/cgroup": "1:name=systemd:/kubepods/besteffort/pod1/0123\n"}, True),
        ({"/proc/1/cgroup": "0::/machine.slice/libpod-0123456789ab.scope\n"}, True),
        ({"/proc/1/cgroup": "0::/lxc.payload.web/init.scope\n"}, True),
        ({"/proc/1/cgroup": "0::/init.scope\n"}, False),
        ({"/proc/1/cgroup": "0::/system.slice/docker-registry-mirror\n"}, False),
        ({}, False),
    ],
)
def test_containers(host, files, answer):
    for path, text in files.items():
        host.put(path, text)
    assert machine.is_container(host) is answer
    assert machine.environment(host, discovery.discover(host)) == ("container" if answer else "bare_metal")


def test_virtual_functions_are_counted_without_the_file_that_waits_for_a_driver_that_hangs(host, monkeypatch):
    host.device("0000:3c:00.0", FLEX, driver="xe", vfs=2, total=31)
    read = host.read
    waiting = []
    monkeypatch.setattr(host, "read", lambda path: waiting.append(path) if path.endswith("sriov_numvfs") else read(path))
    assert one(host).virtual_functions == {"total": 31, "enabled": 2, "addresses": ["0000:3c:00.1", "0000:3c:00.2"]}
    assert waiting == []
