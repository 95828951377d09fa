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
_UNIFIED = "/sys/fs/cgroup/cgroup.controllers"
#: The first branch of NVIDIA's driver with limits of memory.
_LIMITS_SINCE = 615


def facts(host):
    """
    What the grain says of a host: plain data, stable between changes.

    :return: dict with ``count``, ``vendors``, ``models``, ``addresses``, ``capabilities`` (sorted lists without doubles),
        ``virtualization``, ``iommu``, ``reboot_required`` and ``interrupted`` (booleans), ``devices`` (list of dicts),
        ``owners`` (names of other tools, units and scripts that set GPUs too, as far as files tell),
        ``vram_quota`` (by what the memory of any of them can be limited), and ``errors`` (list of sentences) where there are any.
    """
    guest = machine.guest_test(host)
    gpus, problems = discovery.listed(host, guest)
    quotas = _vram_quotas(host, gpus)
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
        "devices": [{**each, "vram_quota": quotas[each["address"]]} for each in facts_of(gpus)],
        "owners": [owner.name for owner in owners.found(host, gpus)],
        "vram_quota": sorted({each["by"] for each in quotas.values()}),
    }
    if problems:
        found["errors"] = problems
    return found


def _vram_quotas(host, gpus):
    """
    Address -> by what memory can be limited for a control group, as far as files tell: ``by`` (nvml, dmem, none), and ``why`` it
    is none, or what only the driver tells.
    """
    if not gpus:
        return {}
    capacity, unified = machine.text(host, _CAPACITY), host.exists(_UNIFIED)
    regions = {line.split()[0] for line in capacity.splitlines() if line.strip()}
    nvidia = machine.text(host, "/sys/module/nvidia/version").partition(".")[0]
    return {gpu.address: dict(zip(("by", "why"), _means(gpu, unified, regions, nvidia), strict=True)) for gpu in gpus}


def _means(gpu, unified, regions, nvidia):
    if not unified:
        return "none", "this host has no cgroup version 2"
    is_nvidia = gpu.vendor == "nvidia" and gpu.driver == "nvidia"
    if is_nvidia and nvidia.isdecimal() and int(nvidia) >= _LIMITS_SINCE:
        return "nvml", f"by the version of its driver; it takes nvidia-ml-py 13.{_LIMITS_SINCE} too, and no MIG mode"
    if any(name.startswith((f"drm/{gpu.address}/vram", f"nvidia/{gpu.address}/vidmem")) for name in regions):
        return "dmem", ""
    if is_nvidia:
        return "none", f"its driver is older than r{_LIMITS_SINCE}"
    if not regions:
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
