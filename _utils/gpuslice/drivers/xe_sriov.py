"""
Provisioning of virtual functions by the xe driver: three layouts of files, of which a kernel has one or two.

``sriov_admin``
    below the PF's PCI directory, since Linux 6.19: execution quantum, preemption timeout and priority; memory since 7.0.
``sriov`` in debugfs
    newer kernels: everything, and ``restore_auto_provisioning``.
``gt0``, ``gt1`` in debugfs
    older kernels: everything.
"""

import re

from gpuslice.drivers import modules
from gpuslice.drivers import pci
from gpuslice.drivers.sriov_files import Attribute
from gpuslice.drivers.sriov_files import Files
from gpuslice.drivers.sriov_files import existing

_DEBUG = "/sys/kernel/debug/dri"
_PROFILE = {"exec_quantum_ms": "exec_quantum_ms", "preempt_timeout_us": "preempt_timeout_us", "vram": "vram_quota"}
_OF_TILE = {"vram": "vram_quota", "ggtt": "ggtt_quota"}
_OF_GT = {
    "contexts": "contexts_quota",
    "doorbells": "doorbells_quota",
    "exec_quantum_ms": "exec_quantum_ms",
    "preempt_timeout_us": "preempt_timeout_us",
}
_OF_OLD_GT = {**_OF_GT, "vram": "lmem_quota", "ggtt": "ggtt_quota"}


def find(host, gpu, total):
    """
    The files of a GPU that xe drives.

    :param total: how many VFs it can have. :return: :class:`gpuslice.drivers.sriov_files.Files`, None where there are none.
    """
    restore = next((f"{root}/sriov/restore_auto_provisioning" for root in _debug_roots(host, gpu)), "")
    restore = restore if restore and host.exists(restore) else ""
    return _admin(host, gpu, total, restore) or _debugfs(host, gpu, total, restore)


def _admin(host, gpu, total, restore):
    root = f"{pci.DEVICES}/{gpu.address}/sriov_admin"
    if not host.exists(root):
        return None
    # The VFs' own priority files are read only: one file sets them all, and the PF's along with them.
    listed = [
        Attribute(".bulk_profile/sched_priority", 0, "priority", source="vf1/profile/sched_priority"),
        Attribute("pf/profile/sched_priority", 0, "priority"),
    ]
    for owner in range(total + 1):
        where = f"vf{owner}" if owner else "pf"
        listed += [Attribute(f"{where}/profile/{name}", owner, field) for field, name in _PROFILE.items()]
    return Files("sriov_admin", root, existing(host, root, listed), "", restore, complete=False, telling=False)


def _debugfs(host, gpu, total, restore):
    for root in _debug_roots(host, gpu):
        listed = _newer(host, root, total) if host.exists(f"{root}/sriov") else _older(host, root, total)
        found = existing(host, root, listed)
        if found:
            return Files("debugfs", root, found, "", restore)
    return None


def _debug_roots(host, gpu):
    """Directories of the GPU in debugfs: named by its address, or by the number of its card."""
    cards = [name[4:] for name in host.listdir(f"{pci.DEVICES}/{gpu.address}/drm") if re.fullmatch(r"card\d+", name)]
    return [f"{_DEBUG}/{name}" for name in (gpu.address, *cards) if host.exists(f"{_DEBUG}/{name}")]


def _newer(host, root, total):
    listed = []
    for owner in range(total + 1):
        where = f"sriov/vf{owner}" if owner else "sriov/pf"
        for tile in _numbered(host, f"{root}/{where}", "tile"):
            listed += [Attribute(f"{where}/tile{tile}/{name}", owner, field, tile) for field, name in _OF_TILE.items()]
            for gt in _numbered(host, f"{root}/{where}/tile{tile}", "gt"):
                listed += _gt(f"{where}/tile{tile}/gt{gt}", owner, tile, _OF_GT)
    return listed


def _older(host, root, total):
    listed = []
    for gt in _numbered(host, root, "gt"):
        # A second GT is that of the media engines, on the same tile: it has no memory to give.
        for owner in range(total + 1):
            listed += _gt(f"gt{gt}/vf{owner}" if owner else f"gt{gt}/pf", owner, 0, _OF_OLD_GT)
    return listed


def _gt(where, owner, tile, names):
    listed = [Attribute(f"{where}/{name}", owner, field, tile) for field, name in names.items()]
    return listed if owner else [*listed, Attribute(f"{where}/sched_if_idle", 0, "sched_if_idle", tile)]


def _numbered(host, directory, prefix):
    """Numbers of the entries ``<prefix><number>`` of a directory, in order."""
    found = (re.fullmatch(rf"{prefix}([0-9]{{1,9}})", name) for name in host.listdir(directory))
    return sorted(int(match[1]) for match in found if match)


def why_none(host, gpu):
    """What to do when the driver offers no VF at all (``sriov_totalvfs`` is 0)."""
    limit = modules.parameter(host, "xe", "max_vfs")
    if limit == 0:
        return "Remove xe.max_vfs=0 from the kernel's command line (or set it to a number) and reboot."
    return "Boot with xe.max_vfs=<number> on the kernel's command line, and let GuC firmware be loaded; then reboot."
