"""
The steps of a change of partitions, each carried out and read back.
"""

from gpuslice import errors
from gpuslice.drivers.amdgpu import DMESG
from gpuslice.drivers.amdgpu import MODULE


class Doing:
    """
    The steps on one host. A method ``run_<action>`` raises an error of gpuslice.errors where the step did not happen.

    :param driver: :class:`gpuslice.drivers.amdgpu.Amdgpu`; :param reload: :class:`.reload.Reload`; :param notes:
        :class:`.notes.Notes`.
    """

    def __init__(self, driver, reload, notes):
        self._driver, self._reload, self._notes = driver, reload, notes

    def run_set_memory(self, gpu, memory, doubtful=()):
        """Request a memory mode for the hive of a GPU, once every compute mode that is in doubt was tried."""
        if self._driver.memory(gpu.address) == memory:
            return
        self._reload.refuse_busy_module(gpu)
        for compute in doubtful:
            self._reload.refuse_what_the_driver_does_not_take(gpu, compute, memory)
        self._reload.request(gpu.address, memory)

    def run_reload(self, gpu, memory):
        """Load the driver anew, and find the memory modes by PCI address in force. Raises errors.ModeChangePending."""
        if self._notes.unloaded:
            self._reload.load(gpu)
        missing = {address: mode for address, mode in memory.items() if self._driver.memory(address) != mode}
        if not missing:
            return
        for address, mode in missing.items():
            if self._notes.requested(address) != mode:
                self._reload.request(address, mode)
        self._reload.reload(gpu, missing)
        left = {address: now for address, mode in missing.items() if (now := self._driver.memory(address)) != mode}
        if left:
            was = ", ".join(f"{address} has {mode or 'none'}" for address, mode in left.items())
            raise errors.ModeChangePending(
                f"{MODULE} was reloaded, but the memory mode did not change: {was}.",
                gpu.address,
                "The firmware (VBIOS) may be too old for it; see 'dmesg'.",
            )

    def run_confirm_memory(self, gpu, memory):
        """Find a memory mode in force. Raises errors.ModeChangePending."""
        now = self._driver.memory(gpu.address)
        if now != memory:
            raise errors.ModeChangePending(f"The memory mode is {now or 'unknown'} and not {memory}.", gpu.address, DMESG)

    def run_set_compute(self, gpu, compute):
        """Set the compute mode."""
        self._driver.set_compute(gpu.address, compute)

    def run_set_alloc(self, gpu, alloc):
        """Set how partitions share a memory domain."""
        self._driver.set_alloc(gpu.address, alloc)
