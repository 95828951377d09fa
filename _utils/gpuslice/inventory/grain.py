"""
What the grain ``gpu`` says of a host: its GPUs and its kind of machine as plain data.
"""

import os

from gpuslice.host.base import JOURNAL
from gpuslice.host.base import TRIED
from gpuslice.host.base import TRYING
from gpuslice.inventory import discovery
from gpuslice.inventory import machine
from gpuslice.inventory import owners

_CAPACITY = "/sys/fs/cgroup/dmem.capacity"
#: The first branch of NVIDIA's driver with limits of memory.
_LIMITS_SINCE = 615


def facts(host):
    """
    What the grain says of a host: plain data, stable between changes.

    :return: dict with ``count``, ``vendors``, ``models``, ``addresses``, ``capabilities`` (sorted lists without doubles),
        ``virtualization``, ``iommu``, ``reboot_required`` and ``interrupted`` (booleans), ``devices`` (list of dicts),
        ``owners`` (names of other tools, units and scripts that set GPUs too, as far as files tell),
        ``vram_quota`` (PCI address -> by what its memory can be limited), and ``errors`` (list of sentences) where there are any.
    """
    guest = machine.guest_test(host)
    gpus, problems = discovery.listed(host, guest)
    found = {
        "count": len(gpus),
        "vendors": sorted({gpu.vendor for gpu in gpus}),
        "models": sorted({gpu.model for gpu in gpus}),
        "addresses": [gpu.address for gpu in gpus],
        "capabilities": sorted({capability for gpu in gpus for capability in gpu.capabilities}),
        "virtualization": machine.virtualization(host, gpus, guest),
        "iommu": machine.iommu(host),
        "reboot_required": machine.reboot_required(host),
        "interrupted": _interrupted(host),
        "devices": facts_of(gpus),
        "owners": [owner.name for owner in owners.found(host, gpus)],
        "vram_quota": _vram_quota(host, gpus),
    }
    if problems:
        found["errors"] = problems
    return found


def _vram_quota(host, gpus):
    """
    Address -> by what memory can be limited for a control group, as far as files tell: ``by`` (dmem, none, or unknown where only
    the driver's functions tell it, which would open the GPU), and ``why`` it is one of the latter two.
    """
    if not gpus:
        return {}
    capacity = machine.text(host, _CAPACITY)
    regions = {line.split()[0] for line in capacity.splitlines() if line.strip()}
    nvidia = machine.text(host, "/sys/module/nvidia/version").partition(".")[0]
    return {gpu.address: dict(zip(("by", "why"), _means(gpu, capacity, regions, nvidia), strict=True)) for gpu in gpus}


def _means(gpu, capacity, regions, nvidia):
    if any(name.startswith((f"drm/{gpu.address}/vram", f"nvidia/{gpu.address}/vidmem")) for name in regions):
        return "dmem", ""
    if gpu.vendor == "nvidia" and gpu.driver == "nvidia":
        if nvidia.isdecimal() and int(nvidia) < _LIMITS_SINCE:
            return "none", f"its driver is older than r{_LIMITS_SINCE}"
        return "unknown", "only the driver tells it, when a limit is asked for"
    if not capacity:
        return "none", "the kernel has no cgroup controller dmem"
    return "none", f"its driver {gpu.driver or '(none)'} offers no memory to the cgroup controller dmem"


def facts_of(gpus):
    """GPUs as the grain's ``devices`` has them, a list of dicts."""
    return [_facts_of_one(gpu) for gpu in gpus]


def _facts_of_one(gpu):
    return {
        "address": gpu.address,
        "vendor": gpu.vendor,
        "model": gpu.model,
        "name": gpu.name,
        "device_id": gpu.device_id,
        "memory_mib": gpu.memory_mib,
        "driver": gpu.driver,
        "numa_node": gpu.numa_node,
        "capabilities": list(gpu.capabilities),
        "virtual_functions": {**gpu.virtual_functions, "addresses": list(gpu.virtual_functions.get("addresses", ()))},
    }


def _interrupted(host):
    """Whether a change of ours did not end on this host, or a GPU that was tried out was not put back."""
    return any(_is_left(host, name, place) for name, place in ((JOURNAL, ""), (TRIED, TRYING)))


def _is_left(host, name, place):
    """
    Whether a record is there and nobody is at work on it.

    :param place: the directory below the state directory whose lock they hold.
    """
    if not os.path.exists(os.path.join(host.state_dir, name)):
        return False
    from gpuslice.records import lock

    return not lock.is_held(os.path.join(host.state_dir, place))
