"""
How an NVIDIA GPU stands in the NVLink fabric of its system, which NVML tells where NVSwitches are.

Facts: NVML's header. Version 3 of the struct is of branch 550; a driver that does not know it knows version 2. While MIG mode is
on, the driver does not keep the GPU in the fabric, and what it tells then is no fault.
"""

import ctypes
from typing import NamedTuple

from gpuslice.drivers.nvml import ARGUMENT_VERSION_MISMATCH
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NO_PERMISSION
from gpuslice.drivers.nvml import NOT_SUPPORTED

NOT_IN_ONE, NOT_STARTED, IN_PROGRESS, COMPLETED = range(4)
UNHEALTHY, LIMITED = 2, 3

_ASK = "nvmlDeviceGetGpuFabricInfoV"
_QUIET = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, INVALID_ARGUMENT, NO_PERMISSION, ARGUMENT_VERSION_MISMATCH)
_SUCCESS = 0


class Fabric(NamedTuple):
    """
    :ivar state: 0 it is in none, 1 not registered yet, 2 being registered, 3 registered.
    :ivar status: NVML's return code of the registration, which counts only when that has ended.
    :ivar summary: 1 healthy, 2 unhealthy, 3 of limited capacity; 0 where the driver does not tell.
    """

    state: int
    status: int
    summary: int


def read(nvml, gpu):
    """
    :class:`Fabric` of the GPU at a PCI address, None where there is no fabric or the driver tells nothing of it.

    :raises errors.GpuSliceError: as of :meth:`gpuslice.drivers.nvml.Nvml.call`.
    """
    lib, handle = nvml.open(gpu), nvml.handle(gpu)
    for name in ("c_nvmlGpuFabricInfo_v3_t", "c_nvmlGpuFabricInfo_v2_t"):
        made = getattr(lib, name, None)
        if made is None:
            continue
        info = made()
        # The binding answers that it succeeded, and fills in what it was given.
        if nvml.call(_ASK, handle, ctypes.byref(info), gpu=gpu, doing="read its place in the fabric", quiet=_QUIET) is not None:
            return Fabric(info.state, info.status, getattr(info, "healthSummary", 0)) if info.state else None
    return None


def is_refused(fabric):
    """Whether the registration has ended and failed."""
    return fabric.state == COMPLETED and fabric.status != _SUCCESS
