"""
Readings of AMD's boards under amdgpu, by files of the kernel. All of them are of the whole board, also while it is in partitions.

Facts: ``Documentation/gpu/amdgpu/{driver-misc,thermal}.rst`` and ``drivers/gpu/drm/amd/pm/amdgpu_pm.c`` of Linux. There is no
file for energy in hwmon; see :mod:`.gpu_metrics`. What a partition does is told by ``xcp_metrics`` of the newest kernels,
which is not read here.
"""

from gpuslice.drivers import gpu_metrics
from gpuslice.drivers import readings
from gpuslice.drivers import telemetry_files as files
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.readings import Asked
from gpuslice.drivers.readings import Board
from gpuslice.drivers.readings import Use
from gpuslice.host import limits

_MILLI = 1000
#: Average power, and where a board has none, that of now. Temperature at the edge, or where there is no sensor, the hottest spot.
_POWER = ("power1_average", "power1_input")
_TEMPERATURE = ("temp1_input", "temp2_input")


class AmdTelemetry:
    """The readings of one host."""

    def __init__(self, host):
        self._host = host

    def board(self, gpu):
        """:class:`.readings.Board` of a GPU (:class:`gpuslice.model.Gpu`). Raises errors.Unhealthy: it does not answer."""
        return self._host.limits.call(limits.READ, gpu.address, "read what the board does", self._board, gpu)

    def uses(self, gpu, parts, before):
        """As :meth:`gpuslice.drivers.telemetry.Telemetry.uses`; there is nothing to keep."""
        board = self.board(gpu) if any(part.name == gpu.address for part in parts) else None
        return {part.name: self._use(part, board if part.name == gpu.address else None) for part in parts}, {}

    def _board(self, gpu):
        host, asked, base = self._host, Asked(), f"{DEVICES}/{gpu.address}"
        place, metrics = files.hwmon(host, gpu.address, "amdgpu"), _Metrics(host, base)
        energy = asked.number("energy", lambda: metrics.read().energy_mj)
        power = asked.number("power", lambda: files.first(host, place, _POWER) // _MILLI, most=readings.MOST_MILLIWATTS)
        temperature = asked.number(
            "temperature", lambda: _celsius(files.first(host, place, _TEMPERATURE)), readings.LEAST_CELSIUS,
            readings.MOST_CELSIUS,
        )  # fmt: skip
        total = asked.number("memory", lambda: files.number(host, f"{base}/mem_info_vram_total"))
        used = asked.number("memory", lambda: files.number(host, f"{base}/mem_info_vram_used"))
        percent = asked.number("utilization", lambda: _busy(host, base, metrics), most=100)
        busy = None if percent is None else percent / 100
        return Board(energy, power, temperature, *asked.memory(total, used), busy, asked.unreadable)

    @staticmethod
    def _use(part, board):
        if why := readings.not_its_own(part):
            return readings.no_use(why)
        asked = Asked()
        processes = len(part.in_use_by) if part.device_nodes else asked.lacks("processes", readings.UNSUPPORTED)
        if board is None:
            for what in ("memory", "utilization"):
                asked.lacks(what, readings.UNSUPPORTED)
            return Use(processes=processes, unreadable=asked.unreadable)
        for what, reason in board.unreadable:
            if what in readings.OF_SLICES:
                asked.lacks(what, reason)
        return Use(board.memory_bytes, board.memory_used_bytes, board.utilization, processes, asked.unreadable)


class _Metrics:
    """The binary table of one look, read when first asked for."""

    def __init__(self, host, base):
        self._host, self._path = host, f"{base}/gpu_metrics"
        self._found = None

    def read(self):
        """:class:`.gpu_metrics.Metrics`. Raises :class:`.readings.Untold`."""
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self):
        try:
            return gpu_metrics.parse(self._host.read_bytes(self._path))
        except OSError as err:
            raise files.untold(err) from err
        except gpu_metrics.UnknownVersion as err:
            raise readings.Untold(readings.UNKNOWN_VERSION) from err
        except gpu_metrics.Truncated as err:
            raise readings.Untold(readings.UNTRUE) from err


def _busy(host, base, metrics):
    """Percent by the driver's own file, or where a board has none, by the table."""
    try:
        return files.number(host, f"{base}/gpu_busy_percent")
    except readings.Untold as err:
        if err.reason != readings.UNSUPPORTED:
            raise
    return metrics.read().activity_percent


def _celsius(thousandths):
    return round(thousandths / _MILLI)
