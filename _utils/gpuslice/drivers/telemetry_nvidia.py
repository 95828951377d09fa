"""
Readings of NVIDIA's boards and their slices, by NVML.

Facts: NVML's header and the nvidia-ml-py binding. Energy counts from the load of the driver on, from Volta on. A GPU in MIG mode
tells no utilisation, neither as a whole nor of a MIG device: GPM does, see :mod:`.gpm`. The binding's call for the memory that a
vGPU uses has 32 bits for a number of 64.
"""

from gpuslice.drivers import readings
from gpuslice.drivers.gpm import Gpm
from gpuslice.drivers.nvml import ARGUMENT_VERSION_MISMATCH
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.nvml import one_piece
from gpuslice.drivers.nvml import text_of
from gpuslice.drivers.readings import Asked
from gpuslice.drivers.readings import Board
from gpuslice.drivers.readings import Use

_ABSENT = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
#: The only sensor that NVML has, on the die.
_ON_DIE = 0
_MIB = 1 << 20
_FITS_32_BITS_MIB = 4095
#: In the names of compute instances that are not all of their GPU instance: ``1c.3g.20gb``.
_PART_OF_INSTANCE = "c."


class NvidiaTelemetry:
    """The readings of one session."""

    def __init__(self, host, nvml):
        self._host, self._nvml = host, nvml
        self._gpm = Gpm(host, nvml)

    @one_piece
    def board(self, gpu):
        """:class:`.readings.Board` of a GPU (:class:`gpuslice.model.Gpu`). Raises errors.Unhealthy: a call does not end."""
        asked = Asked()
        energy = asked.number("energy", lambda: self._ask(gpu, "nvmlDeviceGetTotalEnergyConsumption"))
        power = asked.number("power", lambda: self._ask(gpu, "nvmlDeviceGetPowerUsage"), most=readings.MOST_MILLIWATTS)
        temperature = asked.number(
            "temperature", lambda: self._temperature(gpu), readings.LEAST_CELSIUS, readings.MOST_CELSIUS
        )
        total, used = self._memory(asked, gpu, lambda: self._nvml.handle(gpu.address))
        return Board(energy, power, temperature, total, used, self._rates(asked, gpu), asked.unreadable)

    @one_piece
    def begin(self, gpu, parts):
        """Take the first sample of each GPU instance; see :meth:`gpuslice.drivers.telemetry.Telemetry.begin`. Raises errors."""
        for gi_id, whom in _instances(parts).items():
            self._gpm.begin(gpu.address, gi_id, whom)

    def waits(self):
        """Seconds until samples can be followed by others."""
        return self._gpm.waits()

    @one_piece
    def uses(self, gpu, parts, before):
        """As :meth:`gpuslice.drivers.telemetry.Telemetry.uses`; nothing of it has to be kept outside of the session."""
        busy = {gi_id: self._busy(gpu, gi_id, whom) for gi_id, whom in _instances(parts).items()}
        return {part.name: self._use(gpu, part, busy) for part in parts}, {}

    # -- slices --------------------------------------------------------------------------------------------------
    def _use(self, gpu, part, busy):
        if part.name == gpu.address:
            return self._whole(gpu)
        if part.kind == "vgpu":
            return self._vgpu(gpu, part)
        if why := readings.not_its_own(part):
            return readings.no_use(why)
        return self._mig(gpu, part, busy) if part.kind == "mig" else readings.no_use(readings.UNSUPPORTED)

    def _whole(self, gpu):
        asked = Asked()
        total, used = self._memory(asked, gpu, lambda: self._nvml.handle(gpu.address))
        processes = self._processes(asked, gpu, lambda: self._nvml.handle(gpu.address))
        return Use(total, used, self._rates(asked, gpu), processes, asked.unreadable)

    def _mig(self, gpu, part, busy):
        asked = Asked()
        handle = asked.anything("memory", lambda: self._device(gpu, part))
        if handle is None:
            return readings.no_use(asked.unreadable[0][1])
        total, used = self._memory(asked, gpu, lambda: handle)
        processes = self._processes(asked, gpu, lambda: handle)
        found, unreadable = busy.get(part.instance[0], (None, ()))
        if _PART_OF_INSTANCE in part.profile:
            asked.lacks("utilization", readings.SHARED)
            return Use(total, used, None, processes, asked.unreadable, found)
        for what, reason in unreadable:
            asked.lacks(what, reason)
        return Use(total, used, found, processes, asked.unreadable)

    def _device(self, gpu, part):
        """The MIG device's handle. Raises :class:`.readings.Untold`: it is gone."""
        for anew in (False, True):
            found = self._nvml.mig_devices(gpu.address, anew).get(part.instance)
            if found and found[1] == part.identity:
                return found[0]
        raise readings.Untold(readings.GONE)

    def _busy(self, gpu, gi_id, whom):
        asked = Asked()
        return self._gpm.utilization(asked, gpu.address, gi_id, whom), asked.unreadable

    def _vgpu(self, gpu, part):
        """A vGPU that a virtual machine has; which one is which is told of mediated devices only."""
        asked = Asked()
        for what in ("utilization", "processes"):
            asked.lacks(what, readings.GIVEN_AWAY)
        if not part.identity or part.memory_mib is None or part.memory_mib > _FITS_32_BITS_MIB:
            asked.lacks("memory", readings.UNSUPPORTED)
            return Use(unreadable=asked.unreadable)
        used = asked.number("memory", lambda: self._used_by_vgpu(gpu, part))
        total, used = asked.memory(part.memory_mib * _MIB, used)
        return Use(total, used, None, None, asked.unreadable)

    def _used_by_vgpu(self, gpu, part):
        for active in self._ask(gpu, "nvmlDeviceGetActiveVgpus") or ():
            found = self._call(gpu, "nvmlVgpuInstanceGetMdevUUID", active, quiet=(*_ABSENT, NOT_FOUND, INVALID_ARGUMENT))
            if found and text_of(found).lower() == part.identity.lower():
                return self._call(gpu, "nvmlVgpuInstanceGetFbUsage", active)
        raise readings.Untold(readings.NOT_IN_USE)

    # -- questions -----------------------------------------------------------------------------------------------
    def _call(self, gpu, name, *args, quiet=_ABSENT):
        return self._nvml.call(name, *args, gpu=gpu.address, doing="read how a GPU is used", quiet=quiet)

    def _ask(self, gpu, name, *args, quiet=_ABSENT):
        """Of the board."""
        return self._call(gpu, name, self._nvml.handle(gpu.address), *args, quiet=quiet)

    def _temperature(self, gpu):
        quiet = (*_ABSENT, INVALID_ARGUMENT, ARGUMENT_VERSION_MISMATCH)
        found = self._ask(gpu, "nvmlDeviceGetTemperatureV", _ON_DIE, quiet=quiet)
        return self._ask(gpu, "nvmlDeviceGetTemperature", _ON_DIE) if found is None else found

    def _memory(self, asked, gpu, handle):
        found = asked.anything("memory", lambda: self._call(gpu, "nvmlDeviceGetMemoryInfo", handle()))
        return asked.memory(found.total, found.used) if found else (None, None)

    def _rates(self, asked, gpu):
        found = asked.anything("utilization", lambda: self._ask(gpu, "nvmlDeviceGetUtilizationRates"))
        percent = found and asked.number("utilization", lambda: found.gpu, most=100)
        return None if percent is None else percent / 100

    def _processes(self, asked, gpu, handle):
        def listed():
            names = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")
            found = [self._call(gpu, name, handle(), quiet=(*_ABSENT, INVALID_ARGUMENT)) for name in names]
            told = [one for one in found if one is not None]
            return {process.pid for one in told for process in one} if told else None

        pids = asked.anything("processes", listed)
        return None if pids is None else len(pids)


def _instances(parts):
    """GPU instance id -> UUIDs of its MIG devices, which tell it from another of the same id."""
    found = {}
    for part in parts:
        if part.kind == "mig" and part.instance:
            found.setdefault(part.instance[0], []).append(part.identity)
    return {gi_id: tuple(sorted(uuids)) for gi_id, uuids in found.items()}
