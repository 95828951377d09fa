"""
What is wrong with an Intel GPU, as its driver's files tell it.
"""

from gpuslice.drivers.pci import DEVICES
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING


class Health:
    """The health of one GPU; parameters as of :class:`gpuslice.health.board.Reading`."""

    def __init__(self, host, _sessions, gpu, _driver):
        self._host, self._gpu = host, gpu.address

    def faults(self):
        """
        What is wrong with it. The driver makes the file ``survivability_mode`` for a card that is only alive for a repair of its
        firmware (the kernel's documentation of xe).
        """
        if not self._host.exists(f"{DEVICES}/{self._gpu}/survivability_mode"):
            return []
        words = "its driver runs in survivability mode: the firmware has to be repaired"
        return [found(self._gpu, "intel-survivability-mode", words, "Flash the firmware of the card with the vendor's tool.")]

    def remarks(self):
        """There are none: nothing else is read."""
        return []

    def signs(self):
        """There are none: nothing is counted."""
        return NOTHING
