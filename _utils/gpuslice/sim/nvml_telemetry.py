"""
NVML's functions of energy, power, temperature and utilisation on a simulated machine, a part of
:class:`gpuslice.sim.nvml.SimulatedNvml`.

What a board draws and who is busy tells :mod:`gpuslice.sim.telemetry`. GPM, which samples GPU instances too, is of boards from
Hopper on. What it answers for two samples that are too close to one another is ours: NVML's header only says how far apart they
have to be.
"""

import ctypes
import types

from gpuslice.sim import cgroups
from gpuslice.sim import hardware
from gpuslice.sim import telemetry
from gpuslice.sim.nvml_call import function

_NO_DATA = 21
_VERSION_MISMATCH = 25
_GPM_SINCE = 8.9
_APART = 0.1
_GRAPHICS_UTIL, _SM_UTIL = 1, 2


class TelemetryFunctions:
    """The functions; everything that they share with the others is in :class:`gpuslice.sim.nvml_session.Session`."""

    def _told(self, handle, tell):
        """What the meter of a board tells. Lost boards and MIG devices refuse."""
        address, _ = self._device(handle)
        return tell(self._host.state(), address)

    @function()
    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        """Millijoules since the driver was loaded; from Volta on."""
        if float(self._device(handle)[1]["about"]["compute_capability"]) < 7:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return int(self._told(handle, telemetry.millijoules))

    @function()
    def nvmlDeviceGetPowerUsage(self, handle):
        """Milliwatts."""
        return int(self._told(handle, telemetry.milliwatts))

    @function()
    def nvmlDeviceGetTemperature(self, handle, sensor):
        """Degrees Celsius of the only sensor, 0."""
        return self._celsius(handle, sensor)

    @function(since=570)
    def nvmlDeviceGetTemperatureV(self, handle, sensor, version=0x100000C):
        """As nvmlDeviceGetTemperature."""
        if version != self._pynvml.nvmlTemperature_v1:
            raise hardware.Refused(_VERSION_MISMATCH)
        return self._celsius(handle, sensor)

    def _celsius(self, handle, sensor):
        if sensor != 0:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return self._told(handle, telemetry.celsius)

    @function()
    def nvmlDeviceGetUtilizationRates(self, handle):
        """Percent of a board in one piece: a GPU in MIG mode and MIG devices do not tell it."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "mig" or gpu["mode"] or "draw" not in gpu["about"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        rates = self._pynvml.c_nvmlUtilization_t()
        rates.gpu = round(100 * telemetry.utilisation(self._host.state(), seen.address))
        return rates

    # -- limits of memory ----------------------------------------------------------------------------------------
    @function(since=615)
    def nvmlDeviceGetMemoryLimits_v1(self, handle, limits):
        """Fills in what a control group may have of a GPU."""
        address = self._limitable(handle)
        limits.softLimit, limits.hardLimit = cgroups.limits(self._host.state(), _path(limits), address)
        limits.currentUsed = self._host.state().get("memory_used", {}).get(_path(limits), 0)

    @function(since=615, lie=hardware.SUCCESS)
    def nvmlDeviceSetMemoryLimits_v1(self, handle, limits):
        """Needs root, and a control group that is there."""
        self._privileged()
        address = self._limitable(handle)
        with self._host.change() as state:
            cgroups.set_limit(state, _path(limits), address, limits.hardLimit, limits.softLimit)

    def _limitable(self, handle):
        """Address of a GPU in one piece: of MIG devices nothing can be limited."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "mig" or gpu["mode"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return seen.address

    # -- GPM -----------------------------------------------------------------------------------------------------
    @property
    def gpm_samples(self):
        """Address of each buffer that was allocated and not freed -> what was sampled into it, None for nothing."""
        return self.__dict__.setdefault("_gpm", {})

    def _sampled(self, handle):
        address, gpu = self._device(handle)
        if float(gpu["about"]["compute_capability"]) <= _GPM_SINCE or "draw" not in gpu["about"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return address, gpu

    def _buffer(self, sample):
        where = ctypes.cast(sample, ctypes.c_void_p).value
        if where not in self.gpm_samples:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return where

    @function(since=520)
    def nvmlGpmQueryDeviceSupport(self, device):
        """A struct that says whether GPM samples this board."""
        _, gpu = self._device(device)
        answer = self._pynvml.c_nvmlGpmSupport_t()
        answer.version = self._pynvml.NVML_GPM_SUPPORT_VERSION
        answer.isSupportedDevice = int(float(gpu["about"]["compute_capability"]) > _GPM_SINCE and "draw" in gpu["about"])
        return answer

    @function(since=520)
    def nvmlGpmSampleAlloc(self):
        """A buffer."""
        with self._lock:
            self._next += 0x100
            self.gpm_samples[self._next] = None
            return ctypes.cast(self._next, self._pynvml.c_nvmlGpmSample_t)

    @function(since=520)
    def nvmlGpmSampleFree(self, gpmSample):
        """Give a buffer back."""
        del self.gpm_samples[self._buffer(gpmSample)]

    @function(since=520)
    def nvmlGpmSampleGet(self, device, gpmSample):
        """Sample a board."""
        address, _ = self._sampled(device)
        where, meter = self._buffer(gpmSample), telemetry.meter(self._host.state(), address)
        shares = telemetry.parts(self._host.state(), address)
        busy = sum(share * meter["busy"].get(name, 0.0) for name, share in shares.items())
        self.gpm_samples[where] = types.SimpleNamespace(of=(address, None), at=meter["since"], busy=busy)
        return gpmSample

    @function(since=520)
    def nvmlGpmMigSampleGet(self, device, gpuInstanceId, gpmSample):
        """Sample a GPU instance, by the handle of its board."""
        address, gpu = self._sampled(device)
        gi = gpu["gis"].get(str(gpuInstanceId))
        if not gpu["mode"] or gi is None:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        where, meter = self._buffer(gpmSample), telemetry.meter(self._host.state(), address)
        name = f"{hardware.mig_table(gpu).by_id(gi['profile']).name}@{gi['start']}"
        busy = meter["busy"].get(name, 0.0)
        self.gpm_samples[where] = types.SimpleNamespace(of=(address, gi["serial"]), at=meter["since"], busy=busy)
        return gpmSample

    @function(since=520)
    def nvmlGpmMetricsGet(self, metricsGet):
        """Fill in metrics of the time between two samples of the same board or instance, in percent."""
        if metricsGet.version != self._pynvml.NVML_GPM_METRICS_GET_VERSION:
            raise hardware.Refused(_VERSION_MISMATCH)
        first, second = (self.gpm_samples[self._buffer(one)] for one in (metricsGet.sample1, metricsGet.sample2))
        if first is None or second is None or first.of != second.of:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        seconds = second.at - first.at
        for metric in metricsGet.metrics[: metricsGet.numMetrics]:
            if metric.metricId not in (_GRAPHICS_UTIL, _SM_UTIL):
                metric.nvmlReturn = hardware.NOT_SUPPORTED
            elif seconds <= _APART:
                metric.nvmlReturn = _NO_DATA
            else:
                metric.nvmlReturn, metric.value = hardware.SUCCESS, 100 * (second.busy - first.busy) / seconds
        return metricsGet


def _path(limits):
    """The control group that a structure names; how the binding gives it back differs by its version."""
    name = limits.nameSpace
    return name.decode() if isinstance(name, bytes) else name
