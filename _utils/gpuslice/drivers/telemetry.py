"""
Readings of boards and slices: energy, power, temperature, memory, utilisation, processes, whatever vendor and driver.

No reading waits, none wakes a card that sleeps, and nothing is asked of a GPU that a VFIO driver has. What is not told is left
out with a word that says why, see :mod:`.readings`.

Most readings are of a moment. How busy a slice was is told of the time between two looks, which lie

- in one process: a :class:`Telemetry` keeps the samples of the last look by itself, so that whoever looks every minute is told of
  that minute;
- in one run that looks once: it calls :meth:`Telemetry.begin` for all GPUs first, does what else it has to do, :meth:`~
  Telemetry.settle`, which waits for what is left of a tenth of a second, and then :meth:`~Telemetry.uses`;
- in two processes, for what is told by counters: :meth:`~Telemetry.uses` returns them, as JSON data to be handed in at the next.
"""

import logging
from functools import cached_property

from gpuslice import errors
from gpuslice.drivers import readings
from gpuslice.drivers import telemetry_files
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.drivers.readings import Board
from gpuslice.drivers.readings import Use
from gpuslice.host.base import Host
from gpuslice.model import Gpu
from gpuslice.model import Slice

__all__ = ["Board", "Telemetry", "Use"]

log = logging.getLogger(__name__)

#: Kernel driver -> the property of :class:`Telemetry` that knows its boards.
_BY_DRIVER = {"nvidia": "_nvidia", "amdgpu": "_amd", "xe": "_intel", "i915": "_intel"}


class Telemetry:
    """
    The readings of one host.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`: samples last as long as its sessions do.
    """

    def __init__(self, host: Host, sessions) -> None:
        self._host, self._sessions = host, sessions

    def board(self, gpu: Gpu) -> Board:
        """What a board tells of itself; raises nothing."""
        reader, why = self._reader(gpu)
        if reader is None:
            return readings.no_board(why)
        try:
            return reader.board(gpu)
        except errors.GpuSliceError as err:
            return readings.no_board(readings.reason_of(err))

    def uses(self, gpu: Gpu, parts: list[Slice], before: dict | None = None) -> tuple[dict[str, Use], dict]:
        """
        How the slices of a GPU are used; raises nothing.

        :param parts: slices of that GPU, the same ones as in :meth:`begin`; those on which others stand (``taken``) tell how busy
            they are as well, and what stands on them does not. :param before: what the last look returned as second, JSON data.
        :return: (name of each slice -> :class:`Use`, what is to be handed in as ``before`` at the next look).
        """
        reader, why = self._reader(gpu)
        if reader is None:
            return _unread(parts, why)
        try:
            return reader.uses(gpu, parts, before if isinstance(before, dict) else {})
        except (readings.Untold, errors.GpuSliceError) as err:
            return _unread(parts, readings.reason_of(err))

    def begin(self, gpu: Gpu, parts: list[Slice]) -> None:
        """Take the first sample of slices that tell how busy they were between two; raises nothing."""
        reader, _ = self._reader(gpu)
        if not hasattr(reader, "begin"):
            return
        try:
            reader.begin(gpu, parts)
        except errors.GpuSliceError as err:
            # The look itself tells of it.
            log.debug("%s", err)

    def settle(self) -> None:
        """Wait until all samples of :meth:`begin` can be followed by another, a tenth of a second at most. Nothing else waits."""
        seconds = self._nvidia.waits() if "_nvidia" in self.__dict__ else 0
        if seconds > 0:
            self._host.sleep(seconds)

    # -- who knows it --------------------------------------------------------------------------------------------
    def _reader(self, gpu):
        """(whoever knows the driver that has the GPU now, ""), or (None, why it is not asked)."""
        base = f"{DEVICES}/{gpu.address}"
        driver = self._host.readlink(f"{base}/driver")
        if driver in VFIO_DRIVERS:
            return None, readings.GIVEN_AWAY
        if not driver:
            return None, readings.NO_DRIVER if self._host.exists(base) else readings.GONE
        if telemetry_files.sleeps(self._host, gpu.address):
            return None, readings.ASLEEP
        found = _BY_DRIVER.get(driver)
        return (getattr(self, found), "") if found else (None, readings.UNSUPPORTED)

    @cached_property
    def _nvidia(self):
        # Here and below, so that a host without such a GPU does not load it.
        from gpuslice.drivers.telemetry_nvidia import NvidiaTelemetry

        # Boards are looked at side by side: all of them have their samples in one place.
        return self.__dict__.setdefault("_nvidia", NvidiaTelemetry(self._host, self._sessions.nvml))

    @cached_property
    def _amd(self):
        from gpuslice.drivers.telemetry_amd import AmdTelemetry

        return AmdTelemetry(self._host)

    @cached_property
    def _intel(self):
        from gpuslice.drivers.telemetry_intel import IntelTelemetry

        return IntelTelemetry(self._host)


def _unread(parts, why):
    """The answer of :meth:`Telemetry.uses` where nothing can be asked, for one reason."""
    return {part.name: readings.no_use(why) for part in parts}, {}
