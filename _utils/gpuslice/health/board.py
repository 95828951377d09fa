"""
The health of one GPU, whatever slices it or can't: asked of the PCI core and of whoever knows its kind.
"""

import importlib

from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.health import pci
from gpuslice.health.finding import CRITICAL

#: Vendor -> what asks for the health of its GPUs; loaded for a GPU of that vendor.
_BY_VENDOR = {
    "nvidia": "gpuslice.health.nvidia",
    "amd": "gpuslice.health.amd",
    "intel": "gpuslice.health.intel",
}


def findings(host, sessions, gpu):
    """
    Everything that is known to be wrong with a GPU, or can't be known.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`; :param gpu: :class:`gpuslice.model.Gpu`. Its driver is read
        anew, because a change may have moved it meanwhile: under a VFIO driver no vendor's library or file is asked.
    :return: list of :class:`.finding.Finding`, [] for a healthy GPU. That a GPU does not answer is a finding too.
    """
    if pci.is_gone(host, gpu.address):
        return [pci.gone(gpu.address)]
    return [*_of_its_kind(host, sessions, gpu), *pci.findings(host, gpu)]


def _of_its_kind(host, sessions, gpu):
    driver = host.readlink(f"{DEVICES}/{gpu.address}/driver")
    if driver in VFIO_DRIVERS or gpu.vendor not in _BY_VENDOR:
        return []
    return importlib.import_module(_BY_VENDOR[gpu.vendor]).findings(host, sessions, gpu, driver)


def refusing(host, sessions, gpu):
    """Why a GPU should not be changed now, as words without a full stop; parameters as of :func:`findings`."""
    return [each.words.rstrip(".") for each in findings(host, sessions, gpu) if each.severity == CRITICAL]
