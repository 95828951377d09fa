"""
Provisioning of virtual functions by the i915 driver of the vendor's backports and of the community's port: a directory
``prelim_iov`` (older drops: ``iov``) of the card. The i915 of the Linux kernel itself has none and makes no virtual functions.
"""

import re

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers.sriov_files import Attribute
from gpuslice.drivers.sriov_files import Files
from gpuslice.drivers.sriov_files import existing

_NAMES = {
    "vram": "lmem_quota",
    "ggtt": "ggtt_quota",
    "contexts": "contexts_quota",
    "doorbells": "doorbells_quota",
    "exec_quantum_ms": "exec_quantum_ms",
    "preempt_timeout_us": "preempt_timeout_us",
}
PARAMETERS = "i915.enable_guc=3 i915.max_vfs=<number>"


def root_of(host, gpu):
    """(directory, name of the layout) of the GPU, ("", "") where its driver has none."""
    for card in host.listdir(f"{pci.DEVICES}/{gpu.address}/drm"):
        for name in ("prelim_iov", "iov"):
            if re.fullmatch(r"card\d+", card) and host.exists(f"/sys/class/drm/{card}/{name}"):
                return f"/sys/class/drm/{card}/{name}", name
    return "", ""


def find(host, gpu, total):
    """
    The files of a GPU that i915 drives.

    :param total: how many VFs it can have.
    :return: :class:`gpuslice.drivers.sriov_files.Files`, None where there are none.
    :raises errors.Unsupported: it does not run as a PF.
    """
    root, name = root_of(host, gpu)
    if not root:
        return None
    mode = kernel.text(host, f"{root}/mode") or ""
    if mode and "PF" not in mode.split():
        raise errors.Unsupported(
            f"The i915 driver runs in the mode '{mode}', not as a PF.",
            gpu.address,
            f"Boot with {PARAMETERS} on the kernel's command line.",
        )
    listed = []
    for directory in host.listdir(f"{root}/pf"):
        match = re.fullmatch(r"gt(\d*)", directory)
        if match:
            # A GT without memory and address space of its own is that of the media engines, on the first tile.
            own = host.exists(f"{root}/vf1/{directory}/ggtt_quota") or host.exists(f"{root}/vf1/{directory}/lmem_quota")
            listed += _gt(directory, int(match[1] or 0) if own else 0, total)
    switch = "pf/auto_provisioning"
    return Files(name, root, existing(host, root, listed), switch if host.exists(f"{root}/{switch}") else "")


def _gt(directory, tile, total):
    listed = [Attribute(f"pf/{directory}/policies/sched_if_idle", 0, "sched_if_idle", tile)]
    for owner in range(total + 1):
        where = f"vf{owner}" if owner else "pf"
        listed += [Attribute(f"{where}/{directory}/{name}", owner, field, tile) for field, name in _NAMES.items()]
    return listed


def others(gpu):
    """Which driver makes the VFs of a GPU whose own does not, as a sentence."""
    model = intel.MODELS.get(gpu.catalog_key, {})
    drivers = model.get("sriov_drivers", ())
    probe = f"the xe driver (xe.force_probe={gpu.device_id} i915.force_probe=!{gpu.device_id} on the kernel's command line)"
    ways = {
        "xe": probe if model.get("xe_force_probe") else "the xe driver of Linux 6.17 or later",
        "i915-backport": "the vendor's i915 backports (package intel-i915-dkms)",
        "i915-port": f"the i915 of a long-term or community port ({PARAMETERS})",
    }
    known = " or ".join(ways[driver] for driver in drivers if driver in ways)
    return f"Use {known}." if known else "No driver that makes them is known for this GPU."


def usable(host, files):
    """Bytes of memory that VFs can share as the driver tells it while nothing is provisioned, None where it does not."""
    free = {a.path.split("/")[1] for a in files.attributes if a.owner == 0 and a.field == "exec_quantum_ms"}
    told = [kernel.number(host, f"{files.root}/pf/{gt}/available/lmem_free") for gt in sorted(free)]
    return sum(told) if told and None not in told else None
