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


def faults(_host, sessions, gpu, driver):
    """
    What is wrong with an NVIDIA GPU; parameters as of :func:`gpuslice.health.board.faults`.

    :param driver: the kernel driver that has it now. A vGPU in a guest has none: its board's health is for the host to tell.
    """
    if sessions is None or discovery.is_vgpu_name(gpu.name):
        return []
    found = []
    for ask in (_recovery, _memory, _ecc, _fabric):
        try:
            found += ask(sessions.nvml, gpu.address)
        except errors.GpuSliceError as err:
            # Who does not answer one question answers none.
            return [*found, _unanswered(gpu.address, driver, err)]
    return found


def remarks(_host, sessions, gpu, _driver):
    """What can't be read in the present mode of an NVIDIA GPU; parameters as of :func:`faults`."""
    if discovery.is_vgpu_name(gpu.name):
        return []
    try:
        return list(_unread(sessions.nvml, gpu.address))
    except errors.GpuSliceError:
        # That there is no answer is a fault, and told as one.
        return []


def signs(_host, sessions, gpu):
    """
    Numbers that say something only beside those of an earlier look, as :class:`gpuslice.health.signs.Signs`; parameters as of
    :func:`faults`. What does not answer is left out.
    """
    if sessions is None or discovery.is_vgpu_name(gpu.name):
        return NOTHING
    nvml, address = sessions.nvml, gpu.address
    try:
        uncorrected, rows = _uncorrected(nvml, address), _rows(nvml, address)
        counters = {} if uncorrected is None else {"ecc_uncorrected": uncorrected}
        return Signs(counters, nvml.field(address, FIELD_RECOVERY_ACTION), rows and tuple(rows), answered=True)
    except errors.GpuSliceError:
        # That there is no answer is a fault, and told as one.
        return NOTHING


def _recovery(nvml, gpu):
    action = nvml.field(gpu, FIELD_RECOVERY_ACTION) or 0
    if not action:
        return
    mode = nvml.mig_mode(gpu)
    if action == 1 and mode and mode[0] != mode[1]:
        # The reset that a pending mode change owes is part of the plan, not an illness.
        return
    yield found(gpu, *recovery.of(action))


def _memory(nvml, gpu):
    rows = _rows(nvml, gpu)
    if rows is None:
        yield from _retired_pages(nvml, gpu)
        return
    _, _, pending, failed = rows
    if failed:
        words = "a memory row could not be remapped: the board must be replaced"
        yield found(gpu, "nvidia-row-remap-failed", words, "Drain it and have the board replaced.")
    elif pending:
        yield found(gpu, "nvidia-row-remap-pending", "a memory row remapping waits for a GPU reset", recovery.RESET)


def _retired_pages(nvml, gpu):
    """Boards before Ampere have no rows to remap: they take memory pages out of use."""
    ask, doing = "nvmlDeviceGetRetiredPagesPendingStatus", "read whether memory pages wait to be retired"
    if nvml.call(ask, nvml.handle(gpu), gpu=gpu, doing=doing, quiet=_NO_ANSWER):
        words = "memory pages wait for a reboot to be taken out of use"
        yield found(gpu, "nvidia-page-retirement-pending", words, "Drain the host and reboot it.")


def _ecc(nvml, gpu):
    if count := _uncorrected(nvml, gpu):
        words = f"{count} uncorrected ECC errors since the driver was loaded"
        yield found(gpu, "nvidia-uncorrectable-ecc", words, "Reset it when it is idle; if they come again, replace the board.")


def _fabric(nvml, gpu):
    told = fabric.read(nvml, gpu)
    # With MIG nobody keeps the GPU in it.
    if told is None or any(nvml.mig_mode(gpu) or ()):
        return
    if told.state != fabric.COMPLETED:
        words = "it is not registered with the NVLink fabric: no program can use it before it is"
        yield found(gpu, "nvidia-fabric-not-ready", words, _FABRIC)
    elif fabric.is_refused(told):
        words = f"its registration with the NVLink fabric failed with NVML's code {told.status}"
        yield found(gpu, "nvidia-fabric-not-ready", words, _FABRIC)
    elif told.summary in _CAPACITY:
        yield found(gpu, "nvidia-fabric-degraded", f"the NVLink fabric tells that it {_CAPACITY[told.summary]}", _FABRIC)


def _unread(nvml, gpu):
    mode = nvml.mig_mode(gpu)
    if not mode or not mode[0]:
        return
    if _rows(nvml, gpu) is None:
        words = "whether memory rows wait for a remapping or could not be remapped can't be read while GPU instances exist"
        todo = "Look in the kernel's log for the Xids 48, 63, 64, 95 and 140, and ask again when it is not sliced."
        yield found(gpu, "nvidia-row-remap-unknown", words, todo)
    if _uncorrected(nvml, gpu) is None:
        words = "uncorrected ECC errors since the driver was loaded can't be read while MIG mode is enabled"
        yield found(gpu, "nvidia-ecc-unknown", words, "Look in the kernel's log for the Xids 48, 94 and 95.")


def _rows(nvml, gpu):
    """(corrected, uncorrected, pending, failed) remapped rows, None where they are not told."""
    ask, doing = "nvmlDeviceGetRemappedRows", "read the remapped rows"
    return nvml.call(ask, nvml.handle(gpu), gpu=gpu, doing=doing, quiet=_NO_ANSWER)


def _uncorrected(nvml, gpu):
    """Number of uncorrected ECC errors since the driver was loaded, None where it is not told."""
    ask, doing = "nvmlDeviceGetTotalEccErrors", "read the ECC errors"
    return nvml.call(ask, nvml.handle(gpu), _UNCORRECTED, _VOLATILE, gpu=gpu, doing=doing, quiet=_NO_ANSWER)


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
