"""
What kind of machine a host is, from the files of its kernel: bare metal, a host of virtual machines, one of them or a container;
whether its IOMMU is on and a reboot is due.
"""

import re
from functools import cache

from gpuslice import numbers
from gpuslice.host.base import REBOOT_NAME
from gpuslice.host.base import REBOOT_PACKAGES
from gpuslice.printable import printable_lines

#: Maker and product in the firmware of virtual machines.
_HYPERVISORS = re.compile(
    r"qemu|kvm|vmware|virtualbox|xen|bochs|parallels|bhyve|openstack|nutanix ahv|virtual machine|cloud hypervisor|firecracker",
    re.IGNORECASE,
)

#: The same of clouds that also rent out bare metal: believed only where the processor can't tell.
_CLOUDS = re.compile(r"amazon ec2(?!.*\bmetal)|google compute engine|alibaba cloud ecs", re.IGNORECASE)

#: What is there on a machine that gives devices to virtual machines, or manages them.
_VM_SIGNS = (
    "/sys/bus/pci/drivers/vfio-pci",
    "/sys/module/nvidia_vgpu_vfio",
    "/run/libvirt/libvirt-sock",
    "/run/libvirt/virtqemud-sock",
    "/run/qemu-server",
)

#: Files that container runtimes and their managers put into a container.
_CONTAINER_FILES = ("/run/.containerenv", "/.dockerenv", "/run/systemd/container")
#: Components of a control group's path that only containers have.
_CONTAINER_GROUP = re.compile(
    r"(?:^|/)(?:(?:docker|libpod|crio|cri-containerd|containerd)(?:-[0-9a-f]{12,64}(?:\.scope)?)?"
    r"|kubepods[^/]*|lxc(?:\.payload[^/]*)?)(?:/|$)"
)


def virtualization(host, gpus, guest=None):
    """
    What kind of machine this is: ``bare_metal``, ``virtual_host`` or ``virtual_guest``.

    A guest is a machine whose processor says so (the flag ``hypervisor`` in /proc/cpuinfo); where processors have no such flag
    (Arm) the firmware's maker and product decide, and under Xen /sys/hypervisor. A host is a machine that is no guest, has KVM
    (or is Xen's control domain), and is used for virtual machines. Loaded KVM alone does not say so, as distributions load it
    everywhere; one of these does: the driver vfio-pci is loaded, a GPU has virtual functions or is driven by gim, mediated
    devices exist, NVIDIA's vGPU manager is loaded, a manager of virtual machines runs (libvirt, Proxmox), or a virtual machine
    does. Most of these hold before a GPU is sliced, so that slicing it does not change the answer.

    :param gpus: the GPUs of the host. :param guest: the answer of :func:`guest_test` where somebody has it already.
    """
    if (guest or guest_test(host))():
        return "virtual_guest"
    has_hypervisor = host.exists("/sys/module/kvm") or _is_xen_control_domain(host)
    return "virtual_host" if has_hypervisor and _serves_virtual_machines(host, gpus) else "bare_metal"


def is_container(host):
    """
    Whether this runs in a container: a runtime left its file there, or the first process is in a container's control group.
    """
    if any(host.exists(path) for path in _CONTAINER_FILES):
        return True
    groups = (line.rpartition(":")[2] for line in text(host, "/proc/1/cgroup").splitlines())
    return any(_CONTAINER_GROUP.search(path) for path in groups)


def environment(host, gpus):
    """Where this runs, for strategy auto: ``container``, or what :func:`virtualization` says of the machine."""
    return "container" if is_container(host) else virtualization(host, gpus)


def _is_xen_control_domain(host):
    return "control_d" in text(host, "/proc/xen/capabilities")


def guest_test(host):
    """
    A function that says whether this is a virtual machine. It looks when first called: the processor's file takes milliseconds on
    big servers, and most questions are answered without it.
    """
    return cache(lambda: _is_guest(host))


def _is_guest(host):
    """Whether this machine runs under a hypervisor and is not its control domain."""
    if text(host, "/sys/hypervisor/type") == "xen":
        return not _is_xen_control_domain(host)
    # Asked before the processor: on big servers the kernel needs milliseconds to write /proc/cpuinfo.
    maker = f"{text(host, '/sys/class/dmi/id/sys_vendor')} {text(host, '/sys/class/dmi/id/product_name')}"
    if _HYPERVISORS.search(maker):
        return True
    flags = re.search(r"^flags\s*:(.*)$", text(host, "/proc/cpuinfo"), re.MULTILINE)
    return "hypervisor" in flags[1].split() if flags else bool(_CLOUDS.search(maker))


def _serves_virtual_machines(host, gpus):
    """Whether there is a sign that virtual machines run here, or are to have GPUs."""
    if any(gpu.virtual_functions["enabled"] or gpu.driver in ("vfio-pci", "gim") for gpu in gpus):
        return True
    if any(host.exists(path) for path in _VM_SIGNS) or host.listdir("/sys/bus/mdev/devices"):
        return True
    running = (number(host, f"/sys/module/{module}/refcnt") for module in ("kvm_intel", "kvm_amd"))
    return any(running)


def iommu(host):
    """Whether the IOMMU is on: the kernel has made groups of devices."""
    return bool(host.listdir("/sys/kernel/iommu_groups"))


def reboot_required(host):
    """Whether a change of ours waits for a reboot; the list is in /run, so a reboot clears it."""
    return REBOOT_NAME in text(host, REBOOT_PACKAGES).split()


def text(host, path):
    """Text of a file that need not be there, "" when it can't be read."""
    try:
        return printable_lines(host.read(path)).strip()
    except OSError:
        return ""


def number(host, path):
    """The decimal number in a file, None for anything else and where it can't be read."""
    # One that can't be true is kept, so that whoever wants to use it meets it and says so.
    return numbers.whole(text(host, path), most=10**25)
