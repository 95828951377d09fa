"""
What is wrong with an Intel GPU, as its driver's files tell it.
"""

from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING


def faults(host, _sessions, gpu, _driver):
    """
    What is wrong with an Intel GPU. The driver makes the file ``survivability_mode`` for a card that is only alive for a repair
    of its firmware (the kernel's documentation of xe); parameters as of :func:`gpuslice.health.board.faults`.
    """
    if not host.exists(f"{DEVICES}/{gpu.address}/survivability_mode"):
        return []
    words = "its driver runs in survivability mode: the firmware has to be repaired"
    return [found(gpu.address, "intel-survivability-mode", words, "Flash the firmware of the card with the vendor's tool.")]


def remarks(_host, _sessions, _gpu, _driver):
    """There are none: nothing else is read."""
    return []


def signs(_host, _sessions, _gpu):
    """There are none: nothing is counted."""
    return NOTHING
