"""
The health of one GPU, whatever slices it or can't: asked of the PCI core and of whoever knows its kind.
"""

import importlib

from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.health import pci
from gpuslice.health.finding import CRITICAL
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING

#: Vendor -> the module that knows its GPUs, with faults and remarks; loaded for a GPU of that vendor.
_BY_VENDOR = {
    "nvidia": "gpuslice.health.nvidia",
    "amd": "gpuslice.health.amd",
    "intel": "gpuslice.health.intel",
}

_REBOOT = "Reboot the host."
_MOST = 2**63


def findings(host, sessions, gpu):
    """Everything that was found on a GPU: :func:`faults`, and remarks on what is none; parameters as there."""
    if pci.is_gone(host, gpu.address):
        return [pci.gone(gpu.address)]
    known, driver = _module(host, gpu)
    remarks = known.remarks(host, sessions, gpu, driver) if known else []
    return [*faults(host, sessions, gpu), *remarks, *pci.remarks(host, gpu)]


def faults(host, sessions, gpu):
    """
    What is wrong with a GPU. Remarks are left out, and what has to be asked only for them.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`, None where no library is to be asked, but files of the kernel
        alone; :param gpu: :class:`gpuslice.model.Gpu`. Its driver is read
        anew, because a change may have moved it meanwhile: under a VFIO driver no vendor's library or file is asked.
    :return: list of :class:`.finding.Finding`, [] for a healthy GPU. That a GPU does not answer is a finding too.
    """
    if pci.is_gone(host, gpu.address):
        return [pci.gone(gpu.address)]
    known, driver = _module(host, gpu)
    return [*(known.faults(host, sessions, gpu, driver) if known else ()), *pci.faults(host, gpu)]


def signs(host, sessions, gpu):
    """Numbers to be compared with those of an earlier look, as :class:`.signs.Signs`; parameters as of :func:`faults`."""
    if pci.is_gone(host, gpu.address):
        return NOTHING
    known, _ = _module(host, gpu)
    told = known.signs(host, sessions, gpu) if known else NOTHING
    counters = {**pci.counters(host, gpu), **told.counters}
    # What nobody counts to is no count.
    possible = {name: count for name, count in counters.items() if 0 <= count <= _MOST}
    return told._replace(counters=possible, rows=told.rows if all(0 <= row <= _MOST for row in told.rows or ()) else None)


def waiting(gpu, for_reboot="", mode=""):
    """
    What of a GPU is not in force yet, which is no fault, as a list of one finding or none.

    :param gpu: PCI address; :param for_reboot: why it waits for a reboot, by the record of that.
    :param mode: what waits for what, as its technology tells it.
    """
    if for_reboot:
        why = for_reboot.removeprefix(f"GPU {gpu}: ").removesuffix(f" {_REBOOT}").rstrip(".")
        return [found(gpu, "reboot-pending", f"waits for a reboot: {why}", _REBOOT)]
    return [found(gpu, "mode-pending", mode, "The next change of this GPU's slices does that.")] if mode else []


def _module(host, gpu):
    """(the module that knows GPUs of this kind, or None, the driver that has the GPU now)."""
    driver = host.readlink(f"{DEVICES}/{gpu.address}/driver")
    if driver in VFIO_DRIVERS or gpu.vendor not in _BY_VENDOR:
        return None, driver
    return importlib.import_module(_BY_VENDOR[gpu.vendor]), driver


def refusing(host, sessions, gpu):
    """Why a GPU should not be changed now, as words without a full stop; parameters as of :func:`faults`."""
    return [each.words.rstrip(".") for each in faults(host, sessions, gpu) if each.severity == CRITICAL]
