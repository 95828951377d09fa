"""
What is wrong with an NVIDIA GPU, as NVML tells it. Facts: NVML's header.

What a GPU or driver does not have is no finding. What it has and can't tell in the present mode is one: with GPU instances NVML
answers "not supported" for remapped rows, and with MIG mode for the volatile ECC errors of the whole GPU, sick or well.
"""

from gpuslice import errors
from gpuslice.drivers import fabric
from gpuslice.drivers.nvml import FIELD_RECOVERY_ACTION
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import GPU_IS_LOST
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NO_PERMISSION
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.health import recovery
from gpuslice.health.finding import found
from gpuslice.health.signs import NOTHING
from gpuslice.health.signs import Signs
from gpuslice.inventory import discovery

_FABRIC = "Look at the fabric manager ('systemctl status nvidia-fabricmanager'), and at SXid lines in 'dmesg'."
_CAPACITY = {fabric.UNHEALTHY: "is unhealthy", fabric.LIMITED: "has less capacity than it should"}
_UNCORRECTED, _VOLATILE = 1, 0
_NO_ANSWER = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, INVALID_ARGUMENT, NO_PERMISSION)
#: These tell of the host and of who asks, and not of the GPU.
_NOT_ASKED = (errors.DriverMissing, errors.DriverMismatch, errors.PermissionDenied)
_NVIDIA = "nvidia"


class Health:
    """
    The health of one GPU; parameters as of :class:`gpuslice.health.board.Reading`. What is told of it goes by the same answers.

    :param driver: the kernel driver that has it now. A vGPU in a guest has none: its board's health is for the host to tell.
    """

    def __init__(self, _host, sessions, gpu, driver):
        self._gpu, self._driver = gpu.address, driver
        is_asked = sessions is not None and not discovery.is_vgpu_name(gpu.name)
        self._answers = _Answers(sessions.nvml, gpu.address) if is_asked else None

    def faults(self):
        """What is wrong with it."""
        if self._answers is None:
            return []
        found = []
        for ask in (_recovery, _memory, _ecc, _fabric):
            try:
                found += ask(self._answers)
            except errors.GpuSliceError as err:
                # Who does not answer one question answers none.
                return [*found, _unanswered(self._gpu, self._driver, err)]
        return found

    def remarks(self):
        """What can't be read in its present mode."""
        if self._answers is None:
            return []
        try:
            return list(_unread(self._answers))
        except errors.GpuSliceError:
            # That there is no answer is a fault, and told as one.
            return []

    def signs(self):
        """
        Numbers that say something only beside those of an earlier look, as :class:`gpuslice.health.signs.Signs`. What does not
        answer is left out.
        """
        if self._answers is None:
            return NOTHING
        try:
            uncorrected, rows = self._answers.uncorrected, self._answers.rows
            counters = {} if uncorrected is None else {"ecc_uncorrected": uncorrected}
            return Signs(counters, self._answers.recovery, rows and tuple(rows), answered=True)
        except errors.GpuSliceError:
            # That there is no answer is a fault, and told as one.
            return NOTHING


class _Answers:
    """What NVML answers of one GPU, each asked for once. Asking raises errors.GpuSliceError where there is no answer."""

    def __init__(self, nvml, gpu):
        self.nvml, self.gpu = nvml, gpu
        self._known = {}

    @property
    def recovery(self):
        """The number of what the driver asks for, 0 for nothing, None where it does not tell."""
        return self._once("recovery", self.nvml.field, self.gpu, FIELD_RECOVERY_ACTION)

    @property
    def rows(self):
        """(corrected, uncorrected, pending, failed) remapped rows, None where they are not told."""
        return self._once("rows", self.ask, "nvmlDeviceGetRemappedRows", doing="read the remapped rows")

    @property
    def uncorrected(self):
        """Number of uncorrected ECC errors since the driver was loaded, None where it is not told."""
        name = "nvmlDeviceGetTotalEccErrors"
        return self._once("uncorrected", self.ask, name, _UNCORRECTED, _VOLATILE, doing="read the ECC errors")

    @property
    def mig_mode(self):
        """As of :meth:`gpuslice.drivers.nvml_mig.MigNvml.mig_mode`."""
        return self._once("mig_mode", self.nvml.mig_mode, self.gpu)

    def _once(self, what, ask, *args, **more):
        # No cached_property: before Python 3.12 one lock is kept for all GPUs while one of them is asked.
        if what not in self._known:
            self._known[what] = ask(*args, **more)
        return self._known[what]

    def ask(self, name, *args, doing):
        """The answer to a call that not every GPU has, None for one that has not."""
        return self.nvml.call(name, self.nvml.handle(self.gpu), *args, gpu=self.gpu, doing=doing, quiet=_NO_ANSWER)


def _recovery(told):
    action = told.recovery or 0
    if not action:
        return
    mode = told.mig_mode
    if action == 1 and mode and mode[0] != mode[1]:
        # The reset that a pending mode change owes is part of the plan, not an illness.
        return
    yield found(told.gpu, *recovery.of(action))


def _memory(told):
    if told.rows is None:
        yield from _retired_pages(told)
        return
    _, _, pending, failed = told.rows
    if failed:
        words = "a memory row could not be remapped: the board must be replaced"
        yield found(told.gpu, "nvidia-row-remap-failed", words, "Drain it and have the board replaced.")
    elif pending:
        yield found(told.gpu, "nvidia-row-remap-pending", "a memory row remapping waits for a GPU reset", recovery.RESET)


def _retired_pages(told):
    """Boards before Ampere have no rows to remap: they take memory pages out of use."""
    if told.ask("nvmlDeviceGetRetiredPagesPendingStatus", doing="read whether memory pages wait to be retired"):
        words = "memory pages wait for a reboot to be taken out of use"
        yield found(told.gpu, "nvidia-page-retirement-pending", words, "Drain the host and reboot it.")


def _ecc(told):
    if count := told.uncorrected:
        words = f"{count} uncorrected ECC errors since the driver was loaded"
        todo = "Reset it when it is idle; if they come again, replace the board."
        yield found(told.gpu, "nvidia-uncorrectable-ecc", words, todo)


def _fabric(told):
    gpu, place = told.gpu, fabric.read(told.nvml, told.gpu)
    # With MIG nobody keeps the GPU in it.
    if place is None or any(told.mig_mode or ()):
        return
    if place.state != fabric.COMPLETED:
        words = "it is not registered with the NVLink fabric: no program can use it before it is"
        yield found(gpu, "nvidia-fabric-not-ready", words, _FABRIC)
    elif fabric.is_refused(place):
        words = f"its registration with the NVLink fabric failed with NVML's code {place.status}"
        yield found(gpu, "nvidia-fabric-not-ready", words, _FABRIC)
    elif place.summary in _CAPACITY:
        yield found(gpu, "nvidia-fabric-degraded", f"the NVLink fabric tells that it {_CAPACITY[place.summary]}", _FABRIC)


def _unread(told):
    if not told.mig_mode or not told.mig_mode[0]:
        return
    if told.rows is None:
        words = "whether memory rows wait for a remapping or could not be remapped can't be read while GPU instances exist"
        todo = "Look in the kernel's log for the Xids 48, 63, 64, 95 and 140, and ask again when it is not sliced."
        yield found(told.gpu, "nvidia-row-remap-unknown", words, todo)
    if told.uncorrected is None:
        words = "uncorrected ECC errors since the driver was loaded can't be read while MIG mode is enabled"
        yield found(told.gpu, "nvidia-ecc-unknown", words, "Look in the kernel's log for the Xids 48, 94 and 95.")


def _unanswered(gpu, driver, err):
    """The finding for a GPU of which NVML told an error."""
    place = f"GPU {err.gpu}: " if err.gpu and f"GPU {err.gpu}" not in err.what else ""
    return found(gpu, _code_of(driver, err), f"{place}{err.what}", err.todo)


def _code_of(driver, err):
    if getattr(err.__cause__, "value", None) == GPU_IS_LOST or (
        isinstance(err, errors.DeviceNotFound) and driver == _NVIDIA
    ):
        return "nvidia-gpu-lost"
    if isinstance(err, errors.Unhealthy):
        return "nvidia-driver-hangs"
    if isinstance(err, errors.DriverMismatch) and driver == _NVIDIA:
        # Not only we: no program that begins now gets this GPU.
        return "nvidia-driver-mismatch"
    # Of a session that can't be begun, and of a GPU that another driver has or none, nothing of the GPU is known.
    if isinstance(err, (*_NOT_ASKED, errors.DeviceNotFound)) or not err.gpu:
        return "nvidia-not-asked"
    return "nvidia-health-unreadable"
