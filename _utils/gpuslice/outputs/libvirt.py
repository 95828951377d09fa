"""
A slice as libvirt gives it to a virtual machine: the ``<hostdev>`` of its domain.

Source: "Domain XML format", section "Host device assignment", and the schema ``domaincommon.rng`` of libvirt: a PCI function by
its address, a mediated device by its UUID. A vGPU that is a virtual function of the vendor's VFIO interface is an ordinary PCI
device with ``managed='no'``: its driver must keep it (NVIDIA vGPU User Guide, "Configuring a vGPU VM with libvirt").
"""

import re

from gpuslice import addresses
from gpuslice.printable import printable

#: What libvirt takes as a name that a user gives to a device: it begins so, which names of libvirt's own never do.
PREFIX = "ua-"
_ALIAS = re.compile(r"[A-Za-z0-9_-]{1,100}")
#: Kind of a slice that no virtual machine can be given -> what it is, and what to do.
_NO_DEVICE = {
    "mig": (
        "a MIG device, which is for programs on this host: on the bus it is no device of its own",
        "A virtual machine is given a vGPU with a MIG instance (strategy vgpu), or the whole GPU (gpu_passthrough.bind).",
    ),
    "replica": (
        "a share in time of a GPU, which is for programs on this host",
        "Make a slice that is a device: a vGPU or a virtual function, or give the whole GPU away (gpu_passthrough.bind).",
    ),
    "mps": (
        "a share of an MPS daemon, which is for programs on this host",
        "Make a slice that is a device: a vGPU, or give the whole GPU away (gpu_passthrough.bind).",
    ),
    "partition": (
        "a compute partition, which is for programs on this host: its GPU is one device on the bus",
        "Give the whole GPU away (gpu_passthrough.bind), or make virtual functions if its driver has them (gpu_sriov.set_vfs).",
    ),
    "environment": (
        "a part of a GPU by environment variables, which are for programs on this host",
        "Make virtual functions (gpu_sriov.set_vfs), or give the whole GPU away (gpu_passthrough.bind).",
    ),
    "gpu": (
        "a whole GPU that a driver of this host has",
        "Give it away first (gpu_passthrough.bind).",
    ),
    "cut": (
        "a GPU that is cut into slices, which it can't be given beside",
        "Name one of its slices (see gpu.slices), or take these away and give the whole GPU (gpu_passthrough.bind).",
    ),
}  # fmt: skip


def why_no_device(kind: str) -> tuple[str, str]:
    """What a slice of this kind is that no virtual machine can be given, and what to do; ("", "") for one that can."""
    return _NO_DEVICE.get(kind, ("", ""))


def alias_of(name: str) -> str:
    """The name of a device in its domain, ``ua-<name>``; "" for what can be none."""
    found = name.removeprefix(PREFIX)
    return PREFIX + found if _ALIAS.fullmatch(found) else ""


def hostdev(identity: str, managed: bool = False, alias: str = "", notes: tuple[str, ...] = ()) -> str:
    """
    The ``<hostdev>`` of a device.

    :param identity: PCI address, or UUID of a mediated device, in the kernel's form. :param managed: whether libvirt takes it
        from its driver when the domain starts and gives it back at the end; it means nothing for a mediated device.
    :param alias: as :func:`alias_of` makes it. :param notes: sentences that stand before it as comments.
    """
    is_pci = addresses.is_pci(identity)
    head = f"type='pci' managed='{'yes' if managed else 'no'}'" if is_pci else "type='mdev' managed='no' model='vfio-pci'"
    lines = [f"<!-- {_comment(note)} -->" for note in notes]
    lines += [f"<hostdev mode='subsystem' {head}>", "  <source>", f"    {_address(identity)}", "  </source>"]
    lines += [f"  <alias name='{alias}'/>"] if alias else []
    return "\n".join([*lines, "</hostdev>"]) + "\n"


def _address(identity: str) -> str:
    if not addresses.is_pci(identity):
        return f"<address uuid='{identity}'/>"
    domain, bus, rest = identity.split(":")
    slot, _, function = rest.partition(".")
    return f"<address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>"


def _comment(text: str) -> str:
    """What may stand in a comment of XML: two dashes end it."""
    return re.sub(r"-{2,}|-$", "-.", printable(text))
