"""
The files of the kernel on a simulated machine, and what happens when they are written.

The tree is made from a state and thrown away with it, so that it never shows what was.
"""

import errno
import importlib
import os
import re
from functools import cache

from gpuslice.sim import hardware

#: Modules that play further kernel drivers. Each has ``show(tree, state)``, which adds files with :meth:`Tree.file`,
#: :meth:`Tree.link` and :meth:`Tree.dir`; ``write(state, path, text) -> bool``, which says whether the file was its own and
#: raises OSError as the driver does; and ``modprobe(state, module, loading)``, which raises OSError where the module refuses.
#: It may have ``reboot(state)``, and ``gpu_of(state, path)``, the GPU that a file of another function concerns.
EXTENSIONS = (
    "gpuslice.sim.amdgpu",
    "gpuslice.sim.vfio",
    "gpuslice.sim.xe_ccs",
    "gpuslice.sim.xe",
    "gpuslice.sim.gim",
    "gpuslice.sim.vgpu",
    "gpuslice.sim.units",
)

#: Device nodes with the minor in their name, and the major of their driver.
_MAJORS = (
    (re.compile(r"/dev/dri/(?:card|renderD)(\d+)"), 226),
    (re.compile(r"/dev/nvidia(\d+)"), 195),
    (re.compile(r"/dev/nvidia-caps/nvidia-cap(\d+)"), 235),
    (re.compile(r"/dev/vfio/(\d+)"), 243),
    (re.compile(r"/dev/vfio/devices/vfio(\d+)"), 244),
)
#: The kernel's class of nodes whose number is told in sysfs.
_CLASSES = (("/dev/dri/", "drm"), ("/dev/kfd", "kfd"), ("/dev/vfio/devices/", "vfio-dev"), ("/dev/vfio/", "vfio"))

_FIRST_VF_GROUP, _VF_GROUPS_EACH = 100, 256
_DEVICES = "/sys/bus/pci/devices"
_DRIVERS = "/sys/bus/pci/drivers"
_DEVICE_FILE = re.compile(r"/sys/bus/pci/devices/([0-9a-f:.]+)/(.+)")
_DRIVER_FILE = re.compile(r"/sys/bus/pci/drivers/([^/]+)/(bind|unbind)")


def extensions():
    """The modules named in :data:`EXTENSIONS`."""
    return [importlib.import_module(name) for name in EXTENSIONS]


def device_number(node):
    """``major:minor`` of a device node by its name, "" for one that has no number here."""
    for pattern, major in _MAJORS:
        if found := pattern.fullmatch(node):
            return f"{major}:{found[1]}"
    return "241:0" if node == "/dev/kfd" else ""


class Tree:
    """All files of a machine in one state. ``state`` is the state that it shows."""

    def __init__(self, state):
        self.state = state
        self._files = {}
        self._links = {}
        self._dirs = {"/": set()}
        self._write_only = set()
        for path in ("/dev", _DEVICES, _DRIVERS, "/sys/kernel/iommu_groups", "/sys/class/drm", "/sys/class/iommu"):
            self.dir(path)
        self._pci()
        self._machine()
        self._nvidia()
        loaded = {**dict.fromkeys(_nvidia_modules(state), 0), **state["modules"]}
        self.file("/proc/modules", "".join(f"{name} 65536 {users} - Live 0x0\n" for name, users in loaded.items()))
        for extension in extensions():
            extension.show(self, state)
        for path, text in {**state["host"]["files"], **state["written"]}.items():
            self.file(path, text)

    # -- building ------------------------------------------------------------------------------------------------
    def dir(self, path):
        """Add a directory, and those above it."""
        if path in self._dirs:
            return
        self._dirs[path] = set()
        parent, _, name = path.rpartition("/")
        self.dir(parent or "/")
        self._dirs[parent or "/"].add(name)

    def file(self, path, text, write_only=False):
        """Add a file; reading one that is ``write_only`` fails."""
        self._files[path] = text
        if write_only:
            self._write_only.add(path)
        parent, _, name = path.rpartition("/")
        self.dir(parent)
        self._dirs[parent].add(name)

    def node(self, path):
        """Add a device node, and the file that tells its number."""
        self.file(path, "")
        number = device_number(path)
        kind = next((name for prefix, name in _CLASSES if path.startswith(prefix)), "")
        if number and kind:
            self.file(f"/sys/class/{kind}/{path.rpartition('/')[2]}/dev", number)

    def link(self, path, target):
        """Add a symbolic link to an absolute path."""
        self._links[path] = target
        parent, _, name = path.rpartition("/")
        self.dir(parent)
        self._dirs[parent].add(name)

    def _pci(self):
        state = self.state
        card = 0
        functions = pci_functions(state)
        for function in functions:
            address, driver, group = function["address"], function["driver"], group_of(functions, function["address"])
            base = f"{_DEVICES}/{address}"
            vendor, _, device = (function["subsystem_id"] or "0000:0000").partition(":")
            texts = {
                "vendor": f"0x{function['vendor']}",
                "device": f"0x{function['device']}",
                "class": function["class"],
                "revision": f"0x{function['revision']}",
                "subsystem_vendor": f"0x{vendor}",
                "subsystem_device": f"0x{device}",
                "numa_node": str(function["numa_node"]),
                "enable": "1" if driver else "0",
                "driver_override": "(null)",
                "uevent": _uevent(function),
                **function.get("files", {}),
            }
            for name, text in texts.items():
                self.file(f"{base}/{name}", text)
            self.link(f"{base}/subsystem", "/sys/bus/pci")
            if driver:
                self.link(f"{base}/driver", f"{_DRIVERS}/{driver}")
                self.link(f"{_DRIVERS}/{driver}/{address}", base)
            if state["host"]["iommu"]:
                self.link(f"{base}/iommu_group", f"/sys/kernel/iommu_groups/{group}")
                self.link(f"/sys/kernel/iommu_groups/{group}/devices/{address}", base)
            for name, target in function.get("links", {}).items():
                self.link(f"{base}/{name}", f"{_DEVICES}/{target}")
            if function.get("gpu"):
                self.file(f"{base}/reset", "", write_only=True)
            # A virtual function that NVIDIA's vGPU manager has is no display device.
            drawing = driver not in ("", "vfio-pci") and (function.get("gpu") or driver != "nvidia")
            if drawing and function["class"].startswith(("0x03", "0x12")):
                names = [f"card{card}"] + ([f"renderD{128 + card}"] if function.get("gpu") else [])
                card += 1
                for name in names:
                    self.file(f"/sys/class/drm/{name}/uevent", f"DEVNAME=dri/{name}\nDEVTYPE=drm_minor")
                    self.link(f"/sys/class/drm/{name}/device", base)
                    self.dir(f"{base}/drm/{name}")
                    self.node(f"/dev/dri/{name}")

    def _machine(self):
        host = self.state["host"]
        self.file("/proc/sys/kernel/random/boot_id", self.state["boot_id"])
        guest = host["virtualization"] == "virtual_guest"
        self.file("/proc/cpuinfo", "flags\t\t: fpu vme" + (" hypervisor" if guest else " vmx"))
        self.file("/sys/class/dmi/id/sys_vendor", "QEMU" if guest else "Simulated")
        self.file("/sys/class/dmi/id/product_name", "Standard PC" if guest else host["title"] or host["name"])
        self.file("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1" + (" intel_iommu=on iommu=pt" if host["iommu"] else ""))
        if host["iommu"]:
            self.file("/sys/class/iommu/dmar0/uevent", "")
        if host["virtualization"] == "virtual_host":
            self.file("/dev/kvm", "")
            self.dir("/sys/module/kvm")
            self.dir("/sys/module/kvm_intel")

    def _nvidia(self):
        driver = self.state["host"]["driver"]
        gpus = {a: g for a, g in self.state["gpus"].items() if g["about"]["driver"] == "nvidia"}
        if not driver["loaded"]:
            return
        version = driver["version"]
        self.file("/sys/module/nvidia/version", version)
        self.file("/sys/module/nvidia/refcnt", str(len(self.state["processes"])))
        self.file("/proc/devices", "Character devices:\n195 nvidia-frontend\n235 nvidia-caps\n511 nvidia-uvm")
        self.file(
            "/proc/driver/nvidia/version", f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build"
        )
        self.file("/proc/driver/nvidia/params", "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileMode: 438")
        self.file("/proc/driver/nvidia-caps/mig-minors", "")
        for name in ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-caps/nvidia-cap1", "nvidia-caps/nvidia-cap2"):
            self.file(f"/dev/{name}", "")
        self._capability("mig/config", 1)
        self._capability("mig/monitor", 2)
        for address, gpu in gpus.items():
            self._nvidia_gpu(address, gpu, version)

    def _nvidia_gpu(self, address, gpu, version):
        about = gpu["about"]
        minor = about["minor"]
        self.file(f"/dev/nvidia{minor}", "")
        self.file(
            f"/proc/driver/nvidia/gpus/{address}/information",
            f"Model: \t\t {about['name']}\nIRQ:   \t\t {64 + minor}\nGPU UUID: \t {about['uuid']}\nBus Type: \t PCIe\n"
            f"Bus Location: \t {address}\nDevice Minor: \t {minor}\nGPU Firmware: \t {version}\nGPU Excluded:\t No",
        )
        for gi_id, gi in gpu["gis"].items():
            self._capability(f"gpu{minor}/mig/gi{gi_id}/access", hardware.cap_minor(minor, gi_id))
            for ci_id in gi["cis"]:
                self._capability(f"gpu{minor}/mig/gi{gi_id}/ci{ci_id}/access", hardware.cap_minor(minor, gi_id, ci_id))

    def _capability(self, path, number):
        self.file(
            f"/proc/driver/nvidia/capabilities/{path}", f"DeviceFileMinor: {number}\nDeviceFileMode: 292\nDeviceFileModify: 1"
        )
        self.file(f"/dev/nvidia-caps/nvidia-cap{number}", "")

    # -- reading -------------------------------------------------------------------------------------------------
    def real(self, path):
        """The path with the symbolic links inside it followed; the last component is left as it is."""
        path = os.path.normpath(path)
        if path in self._files or path in self._dirs or path in self._links:
            return path
        parts = path.split("/")
        for count in range(2, len(parts)):
            target = self._links.get("/".join(parts[:count]))
            if target:
                return self.real(target + "/" + "/".join(parts[count:]))
        return path

    def read(self, path):
        """Text of a file. Raises OSError."""
        real = self.real(path)
        if real in self._write_only:
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        if real == "/proc/driver/nvidia-caps/mig-minors" and real in self._files:
            return _mig_minors()
        if real in self._files:
            return self._files[real].rstrip("\n")
        if real in self._dirs or real in self._links:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)

    def listdir(self, path):
        """Sorted names in a directory, [] when it is not there."""
        real = self.real(path)
        real = self._links.get(real, real)
        return sorted(self._dirs.get(real, ()))

    def exists(self, path):
        """Whether the path is there."""
        real = self.real(path)
        return real in self._files or real in self._dirs or real in self._links

    def readlink(self, path):
        """Last component of a link's target, "" when it is no link."""
        real = self.real(path)
        parent, _, name = real.rpartition("/")
        if parent == _DEVICES and real in self._dirs:
            return name
        return os.path.basename(self._links.get(real, ""))


def _nvidia_modules(state):
    """NVIDIA's modules that are loaded."""
    if not state["host"]["driver"]["loaded"] or not state["gpus"]:
        return []
    managed = any(gpu["about"].get("vgpu") for gpu in state["gpus"].values())
    return ["nvidia", "nvidia_vgpu_vfio"] if managed else ["nvidia"]


def _uevent(function):
    lines = [f"DRIVER={function['driver']}"] if function["driver"] else []
    lines.append(f"PCI_CLASS={int(function['class'], 16):X}")
    lines.append(f"PCI_ID={function['vendor']}:{function['device']}".upper())
    if function["subsystem_id"]:
        lines.append(f"PCI_SUBSYS_ID={function['subsystem_id']}".upper())
    lines.append(f"PCI_SLOT_NAME={function['address']}")
    return "\n".join(lines)


@cache
def _mig_minors():
    """The driver's static table of capability numbers: 32 GPUs, 15 GIs each, 8 CIs each."""
    lines = ["config 1", "monitor 2"]
    for minor in range(32):
        for gi_id in range(15):
            lines.append(f"gpu{minor}/gi{gi_id}/access {hardware.cap_minor(minor, gi_id)}")
            lines += [f"gpu{minor}/gi{gi_id}/ci{ci_id}/access {hardware.cap_minor(minor, gi_id, ci_id)}" for ci_id in range(8)]
    return "\n".join(lines)


def group_of(functions, address):
    """
    Number of the IOMMU group of a function: the described one, or one of its own.

    :param functions: all functions of the machine, see :func:`pci_functions`.
    """
    told = {function["address"]: function.get("iommu_group") for function in functions}
    if told[address] is not None:
        return told[address]
    free = (number for number in range(2 * len(functions) + 1) if number not in told.values())
    for function in functions:
        number = next(free) if told[function["address"]] is None else None
        if function["address"] == address:
            return number
    raise KeyError(address)


def pci_functions(state):
    """
    All PCI functions of a machine, by address: GPUs (``gpu`` true), their virtual functions and the other devices.

    :return: list of dicts with the keys of ``other_pci``, and ``files`` and ``links`` of their directories.
    """
    found = [dict(device) for device in state["host"]["other_pci"]]
    for address, gpu in state["gpus"].items():
        found += _gpu_functions(state, address, gpu)
    return sorted(found, key=lambda function: function["address"])


def _gpu_functions(state, address, gpu):
    about = gpu["about"]
    common = {key: about[key] for key in ("vendor", "subsystem_id", "class", "revision", "numa_node", "name")}
    files = dict(about["sysfs"])
    total = about["sriov_totalvfs"]
    if total:
        files.update(
            sriov_totalvfs=str(total),
            sriov_numvfs=str(gpu["numvfs"]),
            sriov_vf_device=about["vf_device"],
            sriov_drivers_autoprobe=str(gpu["autoprobe"]),
            sriov_offset=str(about["vf_offset"]),
            sriov_stride="1",
        )
    physical = {
        **common, "address": address, "device": about["device"], "driver": _loaded(state, about["driver"]), "gpu": True,
        "iommu_group": about.get("iommu_group"),
        "files": files, "links": {},
    }  # fmt: skip
    functions = [physical]
    for number in range(gpu["numvfs"]):
        where = vf_address(address, about["vf_offset"] + number)
        physical["links"][f"virtfn{number}"] = where
        functions.append({
            **common, "address": where, "device": about["vf_device"], "links": {"physfn": address},
            "driver": about["vf_driver"] if gpu["autoprobe"] else "", "iommu_group": vf_group(state, address, number),
        })  # fmt: skip
    return functions


def vf_group(state, address, number):
    """IOMMU group of a virtual function that may carry a vGPU, so that no other GPU's VFs change it; None for others."""
    if not state["gpus"][address]["about"].get("vgpu"):
        return None
    return _FIRST_VF_GROUP + _VF_GROUPS_EACH * list(state["gpus"]).index(address) + number


def _loaded(state, driver):
    return "" if driver == "nvidia" and not state["host"]["driver"]["loaded"] else driver


def vf_address(address, offset):
    """PCI address of a virtual function ``offset`` routing ids after its physical function."""
    domain, bus, rest = address.split(":")
    slot, _, function = rest.partition(".")
    routing = (int(bus, 16) << 8 | int(slot, 16) << 3 | int(function)) + offset
    return f"{domain}:{routing >> 8 & 0xFF:02x}:{routing >> 3 & 0x1F:02x}.{routing & 7}"


def gpu_of(state, path):
    """Address of the GPU that a file concerns, "" for other files."""
    found = _DEVICE_FILE.fullmatch(path)
    if found and found.group(1) in state["gpus"]:
        return found.group(1)
    asked = (extension.gpu_of(state, path) for extension in extensions() if hasattr(extension, "gpu_of"))
    return next(filter(None, asked), "")


# -- writing ---------------------------------------------------------------------------------------------------------
def write(state, path, text, attached):
    """
    What the kernel does when a file is written.

    :param state: the machine, inside a change.
    :param attached: whether this very process holds the GPUs open, which blocks a reset.

    Raises OSError as the kernel does.
    """
    path = os.path.normpath(path)
    if not state["host"]["privileged"]:
        raise _os_error(errno.EACCES, path)
    _refuse_own_session(state, path, text.strip(), attached)
    if any(extension.write(state, path, text.strip()) for extension in extensions()):
        return
    bound = re.fullmatch(r"(/sys/bus/pci/devices/[0-9a-f:.]+)/driver/unbind", path)
    if bound:
        _unbind(state, bound.group(1).rpartition("/")[2], path)
        return
    of_driver = _DRIVER_FILE.fullmatch(path)
    if of_driver:
        _bind_file(state, *of_driver.groups(), text.strip(), path)
        return
    if path == "/sys/bus/pci/drivers_probe":
        _probe(state, text.strip(), path)
        return
    found = _DEVICE_FILE.fullmatch(path)
    address, name = found.groups() if found else ("", "")
    if address in state["gpus"] and name in _GPU_FILES:
        _GPU_FILES[name](state, address, text.strip(), path, attached)
        return
    described = name in state["gpus"][address]["about"]["sysfs"] if address in state["gpus"] else False
    if described or path in state["host"]["files"] or name == "driver_override":
        state["written"][path] = "(null)" if name == "driver_override" and not text.strip() else text.rstrip("\n")
        return
    raise _os_error(errno.EACCES if Tree(state).exists(path) else errno.ENOENT, path)


def _refuse_own_session(state, path, text, attached):
    """This very process has the vendor's library open, so the driver can't let a GPU go."""
    gpu = state["gpus"].get(text)
    if attached and path.endswith("/unbind") and gpu and gpu["about"]["driver"] == "nvidia":
        raise _os_error(errno.EBUSY, path)


def _os_error(number, path):
    return OSError(number, os.strerror(number), path)


def _number(text, path):
    if not re.fullmatch(r"\d+", text):
        raise _os_error(errno.EINVAL, path)
    return int(text)


def _set_numvfs(state, address, text, path, attached):
    gpu = state["gpus"][address]
    about = gpu["about"]
    if not about["sriov_totalvfs"]:
        raise _os_error(errno.ENOENT, path)
    wanted = _number(text, path)
    if wanted > about["sriov_totalvfs"]:
        raise _os_error(errno.ERANGE, path)
    if wanted == gpu["numvfs"]:
        return
    if not _loaded(state, about["driver"]):
        raise _os_error(errno.ENOENT, path)
    if wanted and gpu["numvfs"]:
        raise _os_error(errno.EBUSY, path)
    gpu["numvfs"] = wanted


def _set_autoprobe(state, address, text, path, attached):
    wanted = _number(text, path)
    if wanted > 1:
        raise _os_error(errno.EINVAL, path)
    state["gpus"][address]["autoprobe"] = wanted


def _function_reset(state, address, text, path, attached):
    if _number(text, path) != 1:
        raise _os_error(errno.EINVAL, path)
    if attached or hardware.taken(state, address):
        raise _os_error(errno.EBUSY, path)
    if state["gpus"][address]["about"]["reset"] == "never":
        raise _os_error(errno.ENOTTY, path)
    hardware.reset(state, address)


_GPU_FILES = {"sriov_numvfs": _set_numvfs, "sriov_drivers_autoprobe": _set_autoprobe, "reset": _function_reset}


def _unbind(state, address, path):
    gpu = state["gpus"].get(address)
    if gpu is None or not gpu["about"]["driver"]:
        raise _os_error(errno.ENODEV, path)
    gpu["about"]["driver"] = ""
    gpu["gis"], gpu["numvfs"] = {}, 0
    gpu["epoch"] += 1


def _bind_file(state, driver, action, address, path):
    gpu = state["gpus"].get(address)
    if action == "unbind":
        if gpu is None or gpu["about"]["driver"] != driver:
            raise _os_error(errno.ENODEV, path)
        _unbind(state, address, path)
        return
    override = state["written"].get(f"{_DEVICES}/{address}/driver_override", "(null)")
    if gpu is None or gpu["about"]["driver"] or override not in ("(null)", driver):
        raise _os_error(errno.ENODEV, path)
    gpu["about"]["driver"] = driver


def _probe(state, address, path):
    gpu = state["gpus"].get(address)
    if gpu is None:
        raise _os_error(errno.EINVAL, path)
    if gpu["about"]["driver"]:
        return
    override = state["written"].get(f"{_DEVICES}/{address}/driver_override", "(null)")
    usual = {"10de": "nvidia", "1002": "amdgpu", "8086": "xe"}.get(gpu["about"]["vendor"], "")
    gpu["about"]["driver"] = usual if override == "(null)" else override
