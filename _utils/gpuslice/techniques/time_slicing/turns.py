"""
How long a turn lasts on the GPUs of each vendor, as settings by name: what they are now, what a duration makes of them, and how
one is set.
"""

from gpuslice import errors
from gpuslice.drivers import intel_engines
from gpuslice.drivers import kernel
from gpuslice.drivers.compute_policy import MODES
from gpuslice.drivers.compute_policy import STEPS
from gpuslice.inventory import discovery

_MODE, _STEP = "compute_mode", "timeslice"
#: The driver has four steps and does not publish their lengths: this table is ours. (up to so many seconds, step)
_UP_TO = ((0.001, "short"), (0.010, "default"), (0.050, "medium"))
#: A duration that the table brings back to its step.
_SECONDS = {"short": 0.0005, "default": 0.010, "medium": 0.050, "long": 0.100}
_DURATION = "timeslice_duration_us"


def step_of(seconds):
    """The name of the step for a duration in seconds: below 1 ms short, up to 10 ms default, up to 50 ms medium, above long."""
    if seconds < _UP_TO[0][0]:
        return _UP_TO[0][1]
    return next((step for most, step in _UP_TO[1:] if seconds <= most), "long")


class NvidiaTurns:
    """
    ``timeslice`` (number of a step) and ``compute_mode`` of NVIDIA GPUs; neither in MIG mode.

    :param policy: :class:`gpuslice.drivers.compute_policy.ComputePolicy`.
    """

    def __init__(self, policy):
        self._policy = policy

    def read(self, gpu):
        """Name -> value now, {} where neither can be set."""
        mode = self._policy.mode(gpu)
        if mode is None:
            return {}
        return {_MODE: mode} if _is_vgpu(gpu) else {_MODE: mode, _STEP: self._policy.step(gpu)}

    def wanted(self, gpu, seconds):
        """Name -> value for turns of that length."""
        # Any other mode lets only one program in, or none.
        return {_MODE: 0} if _is_vgpu(gpu) else {_MODE: 0, _STEP: STEPS.index(step_of(seconds))}

    def write(self, gpu, name, value):
        """Set one of them."""
        self._policy.set_mode(gpu, value) if name == _MODE else self._policy.set_step(gpu, value)

    def words(self, name, value):
        """One of them, for people."""
        return f"compute mode {MODES[value]}" if name == _MODE else f"time slice {STEPS[value]}"

    def told(self, settings):
        """All of them, for people."""
        return ", ".join(self.words(name, value) for name, value in sorted(settings.items()))

    def seconds(self, settings):
        """A duration that comes to these settings, None where they tell none."""
        return _SECONDS[STEPS[settings[_STEP]]] if _STEP in settings else None

    def note(self, gpu, settings):
        """What has to be known of the length of turns."""
        if _is_vgpu(gpu):
            return "how long a turn lasts is for the host of this vGPU to say"
        return f"time slice {STEPS[settings[_STEP]]}; the driver does not publish its length"


class IntelTurns:
    """``<block>/<class>`` -> microseconds, of each engine class of an Intel GPU under the driver xe."""

    def __init__(self, host):
        self._host = host

    def read(self, gpu):
        """See :class:`NvidiaTurns`."""
        found = {where: kernel.number(self._host, self._path(gpu, where)) for where in self._places(gpu)}
        return {where: value for where, value in found.items() if value is not None}

    def wanted(self, gpu, seconds):
        """See :class:`NvidiaTurns`. Raises errors.PolicyError: the driver allows no turn of that length."""
        value = round(seconds * 1_000_000)
        for where in self._places(gpu):
            least, most = (kernel.number(self._host, f"{self._path(gpu, where)}_{end}") for end in ("min", "max"))
            if (least is not None and value < least) or (most is not None and value > most):
                raise errors.PolicyError(
                    f"slice_duration is {value} us, and the driver allows {least} to {most} us for {where}.",
                    gpu.address,
                    "Correct slice_duration.",
                )
        return dict.fromkeys(self._places(gpu), value)

    def write(self, gpu, name, value):
        """See :class:`NvidiaTurns`."""
        path = self._path(gpu, name)
        doing = f"set {_DURATION} of {name} to {value}"
        kernel.write(self._host, gpu.address, path, value, doing, intel_engines.PROPERTY_MEANINGS)

    def words(self, name, value):
        """See :class:`NvidiaTurns`."""
        return f"{_DURATION} {value} of {name}"

    def told(self, settings):
        """See :class:`NvidiaTurns`. Engine classes with the same duration are named together."""
        alike = {value: [name for name, one in sorted(settings.items()) if one == value] for value in settings.values()}
        return "; ".join(self.words(", ".join(names), value) for value, names in sorted(alike.items()))

    def seconds(self, settings):
        """See :class:`NvidiaTurns`."""
        return max(settings.values()) / 1_000_000 if settings else None

    def note(self, gpu, settings):
        """See :class:`NvidiaTurns`."""
        return "a new length counts for the queues that programs make from then on"

    def _places(self, gpu):
        return sorted(intel_engines.places(self._host, gpu.address))

    @staticmethod
    def _path(gpu, where):
        return intel_engines.property_path(gpu.address, where, _DURATION)


def _is_vgpu(gpu):
    """Whether it is a vGPU in a guest, whose turns its host divides."""
    return discovery.is_vgpu_name(gpu.name)
