"""
The device nodes of one GPU, as sysfs and /proc name them: what a consumer needs, and what a holder has open.
"""

import re

from gpuslice.drivers.kernel import DEVICES
from gpuslice.drivers.kernel import text


def drm(host, address):
    """``/dev/dri/card<n>`` and ``/dev/dri/renderD<n>`` of a GPU, [] where no graphics driver is bound."""
    return [f"/dev/dri/{name}" for name in host.listdir(f"{DEVICES}/{address}/drm") if re.match(r"(card|renderD)\d+\Z", name)]


def render(host, address):
    """Only the render nodes: enough for compute and media, without the display."""
    return [node for node in drm(host, address) if "renderD" in node]


def minor(host, address):
    """N of ``/dev/nvidia<N>``, None where that driver has no such GPU."""
    for form in (address, address.upper()):
        found = re.search(r"Device Minor:\s*([0-9]{1,9})\b", text(host, f"/proc/driver/nvidia/gpus/{form}/information") or "")
        if found:
            return int(found[1])
    return None


def group(host, address):
    """Number of the IOMMU group, "" where the function has none."""
    return host.readlink(f"{DEVICES}/{address}/iommu_group")


def vfio(host, address):
    """What a virtual machine monitor opens: ``/dev/vfio/<group>`` and, where the kernel has it, the node of the device itself."""
    number = group(host, address)
    names = host.listdir(f"{DEVICES}/{address}/vfio-dev")
    return ([_group_node(host, number)] if number else []) + [f"/dev/vfio/devices/{name}" for name in names]


def _group_node(host, number):
    """The node of a group; VFIO's mode without an IOMMU names it differently."""
    unsafe = f"/dev/vfio/noiommu-{number}"
    return unsafe if host.exists(unsafe) else f"/dev/vfio/{number}"


def of(host, address):
    """All device nodes that belong to this GPU alone."""
    number = minor(host, address)
    return ([] if number is None else [f"/dev/nvidia{number}"]) + drm(host, address) + vfio(host, address)
