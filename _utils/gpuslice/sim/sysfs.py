"""
The files of the kernel on a simulated machine, and what happens when they are written.

The tree is made from a state and thrown away with it, so that it never shows what was.
"""

import errno
import os
import re
from functools import cache

from gpuslice.sim import amdgpu
from gpuslice.sim import cgroups
from gpuslice.sim import gim
from gpuslice.sim import hardware
from gpuslice.sim import kernel
from gpuslice.sim import mps
from gpuslice.sim import nvidia_files
from gpuslice.sim import pci
from gpuslice.sim import power
from gpuslice.sim import telemetry
from gpuslice.sim import toolkit
from gpuslice.sim import units
from gpuslice.sim import user_managers
from gpuslice.sim import vfio
from gpuslice.sim import vgpu
from gpuslice.sim import xe
from gpuslice.sim import xe_ccs
from gpuslice.sim.tree import Tree

#: Modules that play further kernel drivers. Each has ``show(tree, state)``, which adds files with :meth:`Tree.file`,
#: :meth:`Tree.link` and :meth:`Tree.dir`; ``write(state, path, text, look) -> bool``, which says whether the file was its own and
#: raises OSError as the driver does; and ``modprobe(state, module, loading)``, which raises OSError where the module refuses.
#: It may have ``reboot(state)``, and ``gpu_of(state, path, look)``, the GPU that a file of another function concerns. ``look()``
#: gives the files as they are before the write: none of them can make the tree itself, which is made of all of them.
EXTENSIONS = (cgroups, amdgpu, vfio, xe_ccs, xe, gim, vgpu, units, user_managers, toolkit, mps, power, telemetry)

_DRIVERS = "/sys/bus/pci/drivers"
_DRIVER_FILE = re.compile(r"/sys/bus/pci/drivers/([^/]+)/(bind|unbind)")


def files_of(state):
    """All files of a machine in this state, as a :class:`gpuslice.sim.tree.Tree`."""
    tree = Tree(state)
    for path in ("/dev", kernel.DEVICES, _DRIVERS, "/sys/kernel/iommu_groups", "/sys/class/drm", "/sys/class/iommu"):
        tree.dir(path)
    _pci(tree, state)
    _machine(tree, state)
    tree.link("/var/run", "/run")
    nvidia_files.show(tree, state)
    loaded = {**dict.fromkeys(nvidia_files.modules(state), 0), **state["modules"]}
    tree.file("/proc/modules", "".join(f"{name} 65536 {users} - Live 0x0\n" for name, users in loaded.items()))
    for extension in EXTENSIONS:
        extension.show(tree, state)
    for path, text in {**state["host"]["files"], **state["written"]}.items():
        tree.file(path, text)
    return tree


def _pci(tree, state):
    card = 0
    functions = pci.functions(state)
    for function in functions:
        address, driver, group = function["address"], function["driver"], pci.group_of(functions, function["address"])
        base = f"{kernel.DEVICES}/{address}"
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
            tree.file(f"{base}/{name}", text)
        tree.link(f"{base}/subsystem", "/sys/bus/pci")
        if driver:
            tree.link(f"{base}/driver", f"{_DRIVERS}/{driver}")
            tree.link(f"{_DRIVERS}/{driver}/{address}", base)
        if state["host"]["iommu"]:
            tree.link(f"{base}/iommu_group", f"/sys/kernel/iommu_groups/{group}")
            tree.link(f"/sys/kernel/iommu_groups/{group}/devices/{address}", base)
        for name, target in function.get("links", {}).items():
            tree.link(f"{base}/{name}", f"{kernel.DEVICES}/{target}")
        if function.get("gpu"):
            tree.file(f"{base}/reset", "", write_only=True)
        # A virtual function that NVIDIA's vGPU manager has is no display device.
        drawing = driver not in ("", "vfio-pci") and (function.get("gpu") or driver != "nvidia")
        if drawing and function["class"].startswith(("0x03", "0x12")):
            names = [f"card{card}", f"renderD{128 + card}"]
            card += 1
            for name in names:
                tree.file(f"/sys/class/drm/{name}/uevent", f"DEVNAME=dri/{name}\nDEVTYPE=drm_minor")
                tree.link(f"/sys/class/drm/{name}/device", base)
                tree.dir(f"{base}/drm/{name}")
                tree.node(f"/dev/dri/{name}")


def _uevent(function):
    lines = [f"DRIVER={function['driver']}"] if function["driver"] else []
    lines.append(f"PCI_CLASS={int(function['class'], 16):X}")
    lines.append(f"PCI_ID={function['vendor']}:{function['device']}".upper())
    if function["subsystem_id"]:
        lines.append(f"PCI_SUBSYS_ID={function['subsystem_id']}".upper())
    lines.append(f"PCI_SLOT_NAME={function['address']}")
    return "\n".join(lines)


def _machine(tree, state):
    host = state["host"]
    tree.file("/proc/sys/kernel/random/boot_id", state["boot_id"])
    tree.file("/proc/sys/kernel/hostname", host["name"])
    guest = host["virtualization"] == "virtual_guest"
    tree.file("/proc/cpuinfo", "flags\t\t: fpu vme" + (" hypervisor" if guest else " vmx"))
    tree.file("/sys/class/dmi/id/sys_vendor", "QEMU" if guest else "Simulated")
    tree.file("/sys/class/dmi/id/product_name", "Standard PC" if guest else host["title"] or host["name"])
    tree.file("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda1" + (" intel_iommu=on iommu=pt" if host["iommu"] else ""))
    if host["iommu"]:
        tree.file("/sys/class/iommu/dmar0/uevent", "")
    if host["virtualization"] == "virtual_host":
        tree.file("/dev/kvm", "")
        tree.dir("/sys/module/kvm")
        tree.dir("/sys/module/kvm_intel")


def gpu_of(state, path, look):
    """
    Address of the GPU that a file concerns, "" for other files.

    :param look: gives the files of this state, see :func:`files_of`.
    """
    address, _ = kernel.device_file(path)
    if address in state["gpus"]:
        return address
    asked = (extension.gpu_of(state, path, look) for extension in EXTENSIONS if hasattr(extension, "gpu_of"))
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
        raise kernel.error(errno.EACCES, path)
    _refuse_own_session(state, path, text.strip(), attached)
    # At most once: most writes need none.
    look = cache(lambda: files_of(state))
    if any(extension.write(state, path, text.strip(), look) for extension in EXTENSIONS):
        return
    address, name = kernel.device_file(path)
    if name == "driver/unbind":
        _unbind(state, address, path)
        return
    of_driver = _DRIVER_FILE.fullmatch(path)
    if of_driver:
        _bind_file(state, *of_driver.groups(), text.strip(), path)
        return
    if path == "/sys/bus/pci/drivers_probe":
        _probe(state, text.strip(), path)
        return
    if address in state["gpus"] and name in _GPU_FILES:
        _GPU_FILES[name](state, address, text.strip(), path, attached)
        return
    described = name in state["gpus"][address]["about"]["sysfs"] if address in state["gpus"] else False
    if described or path in state["host"]["files"] or name == "driver_override":
        state["written"][path] = "(null)" if name == "driver_override" and not text.strip() else text.rstrip("\n")
        return
    raise kernel.error(errno.EACCES if look().exists(path) else errno.ENOENT, path)


def _refuse_own_session(state, path, text, attached):
    """This very process has the vendor's library open, so the driver can't let a GPU go."""
    gpu = state["gpus"].get(text)
    if attached and path.endswith("/unbind") and gpu and gpu["about"]["driver"] == "nvidia":
        raise kernel.error(errno.EBUSY, path)


def _set_numvfs(state, address, text, path, attached):
    gpu = state["gpus"][address]
    about = gpu["about"]
    if not about["sriov_totalvfs"]:
        raise kernel.error(errno.ENOENT, path)
    wanted = kernel.number_of(text, path)
    if wanted > about["sriov_totalvfs"]:
        raise kernel.error(errno.ERANGE, path)
    if wanted == gpu["numvfs"]:
        return
    if not pci.driver_of(state, about["driver"]):
        raise kernel.error(errno.ENOENT, path)
    if wanted and gpu["numvfs"]:
        raise kernel.error(errno.EBUSY, path)
    pci.forget_functions(state, address)
    gpu["numvfs"] = wanted


def _set_autoprobe(state, address, text, path, attached):
    wanted = kernel.number_of(text, path)
    if wanted > 1:
        raise kernel.error(errno.EINVAL, path)
    state["gpus"][address]["autoprobe"] = wanted


def _function_reset(state, address, text, path, attached):
    if kernel.number_of(text, path) != 1:
        raise kernel.error(errno.EINVAL, path)
    if attached or hardware.taken(state, address):
        raise kernel.error(errno.EBUSY, path)
    if state["gpus"][address]["about"]["reset"] == "never":
        raise kernel.error(errno.ENOTTY, path)
    hardware.reset(state, address)


_GPU_FILES = {"sriov_numvfs": _set_numvfs, "sriov_drivers_autoprobe": _set_autoprobe, "reset": _function_reset}


def _unbind(state, address, path):
    gpu = state["gpus"].get(address)
    if gpu is None or not gpu["about"]["driver"]:
        raise kernel.error(errno.ENODEV, path)
    gpu["about"]["driver"] = ""
    gpu["gis"] = {}
    pci.forget_functions(state, address)
    gpu["epoch"] += 1


def _bind_file(state, driver, action, address, path):
    gpu = state["gpus"].get(address)
    if action == "unbind":
        if gpu is None or gpu["about"]["driver"] != driver:
            raise kernel.error(errno.ENODEV, path)
        _unbind(state, address, path)
        return
    override = state["written"].get(f"{kernel.DEVICES}/{address}/driver_override", "(null)")
    if gpu is None or gpu["about"]["driver"] or override not in ("(null)", driver):
        raise kernel.error(errno.ENODEV, path)
    gpu["about"]["driver"] = driver


def _probe(state, address, path):
    gpu = state["gpus"].get(address)
    if gpu is None:
        raise kernel.error(errno.EINVAL, path)
    if gpu["about"]["driver"]:
        return
    override = state["written"].get(f"{kernel.DEVICES}/{address}/driver_override", "(null)")
    usual = {"10de": "nvidia", "1002": "amdgpu", "8086": "xe"}.get(gpu["about"]["vendor"], "")
    gpu["about"]["driver"] = usual if override == "(null)" else override
