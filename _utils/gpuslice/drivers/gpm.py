"""
How busy GPU instances are, by NVML's GPM: of boards from Hopper on.

Facts: NVML's header. A sample is an opaque buffer of the library, so that it can't outlast its process, nor the session; what
lies between two of them, more than 100 ms apart, is what is told. It is of GPU instances: what of it is a compute instance's,
nothing tells. That it is relative to the instance's own SMs is assumed, no document says it.
"""

from gpuslice import errors
from gpuslice.drivers import readings
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED

#: Seconds that two samples have to be apart, and a little for clocks that differ.
APART = 0.105
#: The metrics that say it, the better one first: SM_UTIL, GRAPHICS_UTIL (NVML's header, nvmlGpmMetricId_t).
_METRICS = (2, 1)
_QUIET = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)
#: What rounding may make of 100 %.
_MOST_PERCENT = 100.5


class _Sample:
    """A buffer that was filled: when, and of whom it was (:meth:`Gpm.utilization`)."""

    def __init__(self, buffer, at, whom):
        self.buffer, self.at, self.whom = buffer, at, whom


class Gpm:
    """The samples of one session, the last one of each GPU instance."""

    def __init__(self, host, nvml):
        self._host, self._nvml = host, nvml
        self._last = {}
        self._supported = {}
        nvml.at_end(self._forget)

    def begin(self, gpu, gi_id, whom):
        """Take a first sample where there is none of the same; parameters as of :meth:`utilization`. Raises errors."""
        known = self._last.get((gpu, gi_id))
        if (known is None or known.whom != whom) and self._supports(gpu):
            self._take(gpu, gi_id, whom)

    def waits(self):
        """Seconds until every sample that was taken can be followed by another one."""
        now = self._host.monotonic()
        return max((sample.at + APART - now for sample in self._last.values()), default=0.0)

    def utilization(self, asked, gpu, gi_id, whom):
        """
        How busy a GPU instance was since its last sample, 0 to 1; None for what ``asked`` then says.

        :param asked: :class:`gpuslice.drivers.readings.Asked`; :param gpu: PCI address.
        :param gi_id: NVML's id of the instance, which another one may have had before; :param whom: what tells them apart.
        """
        try:
            return self._since_last(asked, gpu, gi_id, whom)
        except errors.GpuSliceError as err:
            return asked.lacks("utilization", readings.reason_of(err))

    def _since_last(self, asked, gpu, gi_id, whom):
        if not self._supports(gpu):
            return asked.lacks("utilization", readings.UNSUPPORTED)
        before = self._last.get((gpu, gi_id))
        if before and before.whom == whom and self._host.monotonic() - before.at < APART:
            return asked.lacks("utilization", readings.NOT_SAMPLED_YET)
        # It is freed when the new one was compared with it.
        before = self._last.pop((gpu, gi_id), None)
        try:
            now = self._take(gpu, gi_id, whom)
            if before is None or now is None or before.whom != whom:
                return asked.lacks("utilization", readings.NOT_SAMPLED_YET)
            return self._between(asked, gpu, before, now)
        finally:
            self._free(gpu, before)

    def _supports(self, gpu):
        if gpu not in self._supported:
            found = self._call("nvmlGpmQueryDeviceSupport", self._nvml.handle(gpu), gpu=gpu, quiet=_QUIET)
            self._supported[gpu] = bool(found and found.isSupportedDevice)
        return self._supported[gpu]

    def _take(self, gpu, gi_id, whom):
        """A new sample, which is the last one from now on; None where the instance is gone."""
        handle = self._nvml.handle(gpu)
        sample = _Sample(self._call("nvmlGpmSampleAlloc", gpu=gpu), self._host.monotonic(), whom)
        quiet = (INVALID_ARGUMENT, NOT_FOUND)
        try:
            found = self._call("nvmlGpmMigSampleGet", handle, gi_id, sample.buffer, gpu=gpu, quiet=quiet)
        except errors.GpuSliceError:
            self._free(gpu, sample)
            raise
        if found is None:
            self._free(gpu, sample)
            return None
        self._free(gpu, self._last.pop((gpu, gi_id), None))
        self._last[(gpu, gi_id)] = sample
        return sample

    def _between(self, asked, gpu, first, second):
        lib = self._nvml.open(gpu)
        wanted = lib.c_nvmlGpmMetricsGet_t()
        wanted.version, wanted.numMetrics = lib.NVML_GPM_METRICS_GET_VERSION, len(_METRICS)
        wanted.sample1, wanted.sample2 = first.buffer, second.buffer
        for place, metric in enumerate(_METRICS):
            wanted.metrics[place].metricId = metric
        answer = self._call("nvmlGpmMetricsGet", wanted, gpu=gpu)
        told = [metric.value for metric in answer.metrics[: len(_METRICS)] if metric.nvmlReturn == 0]
        if not told:
            return asked.lacks("utilization", readings.UNSUPPORTED)
        percent = asked.number("utilization", lambda: told[0], most=_MOST_PERCENT)
        return None if percent is None else min(percent / 100, 1.0)

    def _call(self, name, *args, gpu="", quiet=()):
        return self._nvml.call(name, *args, gpu=gpu, doing="read how busy a GPU instance is", quiet=quiet)

    def _free(self, gpu, sample):
        if sample is None:
            return
        try:
            self._call("nvmlGpmSampleFree", sample.buffer, gpu=gpu)
        except errors.GpuSliceError:
            # Memory of a process that ends soon; whoever asked gets what was read.
            return

    def _forget(self):
        """The session ends, and all buffers with it."""
        for (gpu, _), sample in list(self._last.items()):
            self._free(gpu, sample)
        self._last.clear()
        self._supported.clear()
