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

#: Vendor -> the module that knows its GPUs, with the class Health of one; loaded for a GPU of that vendor.
_BY_VENDOR = {
    "nvidia": "gpuslice.health.nvidia",
    "amd": "gpuslice.health.amd",
    "intel": "gpuslice.health.intel",
}

_REBOOT = "Reboot the host."
_MOST = 2**63


class Reading:
    """
    One reading of a GPU's health: what both its faults and its signs go by is asked once.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`, None where no library is to be asked, but files of the kernel
        alone; :param gpu: :class:`gpuslice.model.Gpu`. Its driver is read
        anew, because a change may have moved it meanwhile: under a VFIO driver no vendor's library or file is asked.
    """

    def __init__(self, host, sessions, gpu):
        self._host, self._gpu = host, gpu
        self._is_gone = pci.is_gone(host, gpu.address)
        self._known = None if self._is_gone else _known(host, sessions, gpu)

    def findings(self):
        """Everything that was found: :meth:`faults`, and remarks on what is none."""
        if self._is_gone:
            return self.faults()
        return [*self.faults(), *(self._known.remarks() if self._known else ()), *pci.remarks(self._host, self._gpu)]

    def faults(self):
        """
        What is wrong with it, as a list of :class:`.finding.Finding`, [] for a healthy GPU. Remarks are left out, and what has to
        be asked only for them. That a GPU does not answer is a finding too.
        """
        if self._is_gone:
            return [pci.gone(self._gpu.address)]
        return [*(self._known.faults() if self._known else ()), *pci.faults(self._host, self._gpu)]

    def signs(self):
        """Numbers to be compared with those of an earlier look, as :class:`.signs.Signs`."""
        if self._is_gone:
            return NOTHING
        told = self._known.signs() if self._known else NOTHING
        counters = {**pci.counters(self._host, self._gpu), **told.counters}
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


def _known(host, sessions, gpu):
    """``Health`` of the module that knows GPUs of this kind, None where nobody does."""
    driver = host.readlink(f"{DEVICES}/{gpu.address}/driver")
    if driver in VFIO_DRIVERS or gpu.vendor not in _BY_VENDOR:
        return None
    return importlib.import_module(_BY_VENDOR[gpu.vendor]).Health(host, sessions, gpu, driver)


def refusing(host, sessions, gpu):
    """Why a GPU should not be changed now, as words without a full stop; parameters as of :class:`Reading`."""
    return [each.words.rstrip(".") for each in Reading(host, sessions, gpu).faults() if each.severity == CRITICAL]
