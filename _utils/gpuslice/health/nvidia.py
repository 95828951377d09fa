"""
What is wrong with a GPU, so that it should not be sliced now.
"""

from gpuslice.drivers.nvml import FIELD_RECOVERY_ACTION
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NO_PERMISSION
from gpuslice.drivers.nvml import NOT_SUPPORTED

#: NVML's recovery actions (field GET_GPU_RECOVERY_ACTION); 0 is none.
RECOVERY = {
    1: "the driver asks for a GPU reset",
    2: "the driver asks for a reboot",
    3: "the driver asks to drain peer-to-peer traffic",
    4: "the driver asks to drain and reset the GPU",
    5: "the driver asks for an IMEX recovery",
}

_UNCORRECTED, _VOLATILE = 1, 0
_NO_ANSWER = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, INVALID_ARGUMENT, NO_PERMISSION)


def nvidia(nvml, gpu):
    """
    Reasons not to slice an NVIDIA GPU, as sentences; [] for a healthy one. What a GPU or driver can't answer is no reason.

    :param nvml: a :class:`gpuslice.drivers.nvml.Nvml`; :param gpu: a :class:`gpuslice.model.Gpu`.
    :raises errors.Unhealthy: the GPU has fallen off the bus.
    """
    return [reason for reason in (_recovery(nvml, gpu), _rows(nvml, gpu), _ecc(nvml, gpu)) if reason]


def _recovery(nvml, gpu):
    action = nvml.field(gpu.address, FIELD_RECOVERY_ACTION) or 0
    if not action:
        return ""
    mode = nvml.mig_mode(gpu.address)
    if action == 1 and mode and mode[0] != mode[1]:
        # The reset that a pending mode change owes is part of the plan, not an illness.
        return ""
    return RECOVERY.get(action, f"the driver asks for recovery action {action}")


def _rows(nvml, gpu):
    rows = nvml.call(
        "nvmlDeviceGetRemappedRows", nvml.handle(gpu.address), gpu=gpu.address, doing="read the remapped rows", quiet=_NO_ANSWER
    )
    if rows is None:
        return ""
    _, _, pending, failed = rows
    if failed:
        return "a memory row could not be remapped: the board must be replaced"
    return "a memory row remapping waits for a GPU reset" if pending else ""


def _ecc(nvml, gpu):
    handle = nvml.handle(gpu.address)
    count = nvml.call(
        "nvmlDeviceGetTotalEccErrors",
        handle,
        _UNCORRECTED,
        _VOLATILE,
        gpu=gpu.address,
        doing="read the ECC errors",
        quiet=_NO_ANSWER,
    )
    return f"{count} uncorrected ECC errors since the driver was loaded" if count else ""
