"""
NVML in Python's terms: its session, its errors and what it tells of any GPU. Missing functions of old drivers end here.

Facts: NVML's header and the nvidia-ml-py binding. What it has of MIG is in :mod:`.nvml_mig`.

Every call has a limit of time, see :mod:`gpuslice.host.limits`: a driver in trouble answers none, and no signal ends the waiting.
"""

import functools
import threading
from collections import Counter

from gpuslice import errors
from gpuslice.host import limits
from gpuslice.printable import printable

INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
DRIVER_NOT_LOADED = 9
LIBRARY_NOT_FOUND = 12
FUNCTION_NOT_FOUND = 13
GPU_IS_LOST = 15
RESET_REQUIRED = 16
LIB_RM_VERSION_MISMATCH = 18
IN_USE = 19
INSUFFICIENT_RESOURCES = 23
ARGUMENT_VERSION_MISMATCH = 25

FIELD_RESETLESS_MIG = 184
FIELD_RECOVERY_ACTION = 230

#: Type of a field's value -> the member of its union that has it (NVML's header, nvmlValueType_t).
_MEMBERS = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}

#: What a session hangs under that can't be begun: nothing of any GPU can be asked then.
_LIBRARY = "NVML"


def one_piece(method):
    """A method whose calls are one piece of work, handed to another thread once and not call by call."""

    @functools.wraps(method)
    def handed(self, *args, **kwargs):
        return self._host.limits.within(method, self, *args, **kwargs)

    return handed


class Nvml:
    """
    One NVML session on a host. It is opened by the first call that needs it and ended by :meth:`close`.

    :ivar calls: how often each NVML function was called, for the benchmarks.
    """

    def __init__(self, host):
        self._host = host
        self._lib = None
        # GPUs are changed in threads: two of them must not begin two sessions, of which one would never end.
        self._opening = threading.Lock()
        self._handles = {}
        self._endings = []
        self.calls = Counter()

    # -- session -------------------------------------------------------------------------------------------------
    def open(self, gpu=""):
        """
        The library with its session begun.

        :param gpu: PCI address of the GPU for which it is begun, for error messages.
        :raises errors.DriverMissing: :raises errors.DriverMismatch: :raises errors.PermissionDenied: :raises errors.DriverError:
        :raises errors.Unhealthy: the driver does not answer.
        """
        # Outside of the lock, which one that hangs never gives back.
        return self._lib or self._host.limits.call(limits.BEGIN, gpu, "begin an NVML session", self._begin, key=_LIBRARY)

    def _begin(self):
        with self._opening:
            if self._lib is None:
                lib = self._host.nvml()
                try:
                    self.calls["nvmlInit"] += 1
                    lib.nvmlInit()
                except lib.NVMLError as err:
                    raise translate(err, "", "begin an NVML session") from err
                self._lib = lib
            return self._lib

    def close(self):
        """End the session: our own handles count as clients of the GPU and would stand in the way of a reset."""
        if self._lib is None:
            return
        if not self._host.limits.left_behind():
            for ending in self._endings:
                ending()
        lib, self._lib = self._lib, None
        self._handles.clear()
        if self._host.limits.left_behind():
            # It still uses the library, which must not be taken from under it.
            return
        try:
            self._host.limits.call(limits.CHANGE, "", "end the NVML session", lib.nvmlShutdown, key=_LIBRARY)
        except lib.NVMLError as err:
            raise translate(err, "", "end the NVML session") from err

    def at_end(self, ending):
        """Call a function, which raises nothing, before each end of a session: what it holds of the library ends with it."""
        self._endings.append(ending)

    def call(self, name, *args, gpu="", doing="", quiet=()):
        """
        Call an NVML function.

        :param gpu: PCI address for error messages; :param doing: what this is for, completing "could not ...".
        :param quiet: error codes that are an answer here: they are returned as None.
        :raises errors.Unhealthy: it does not come back; nothing is asked of this GPU any more.
        """
        lib = self._lib or self.open(gpu)
        doing = doing or f"do {name}"
        function = getattr(lib, name, None)
        if function is None:
            self.calls[name] += 1
            # An older binding lacks what a driver of its time lacked.
            if FUNCTION_NOT_FOUND in quiet:
                return None
            raise errors.Unsupported(
                f"Could not {doing}: the installed nvidia-ml-py is too old for it.",
                gpu,
                "Update it: salt-call pip.install nvidia-ml-py upgrade=True",
            )
        try:
            return self._ask(gpu, doing, function, name, *args)
        except lib.NVMLError as err:
            if getattr(err, "value", None) in quiet:
                return None
            raise translate(err, gpu, doing) from err

    def _ask(self, gpu, doing, function, name, *args, **kwargs):
        """One call, as it is; raises what it raises."""
        self.calls[name] += 1
        seconds = limits.READ if "Get" in name else limits.CHANGE
        return self._host.limits.call(seconds, gpu, doing, function, *args, **kwargs)

    @one_piece
    def handle(self, gpu):
        """NVML's handle of the GPU at that PCI address. Raises errors.DeviceNotFound when NVML does not know it."""
        known = self._handles.get(gpu)
        if known is not None:
            return known
        found = self.call(
            "nvmlDeviceGetHandleByPciBusId", gpu, gpu=gpu, doing="find the GPU", quiet=(NOT_FOUND, INVALID_ARGUMENT)
        )
        if found is None:
            raise errors.DeviceNotFound(
                "NVML does not know a GPU at this address, though PCI has one.",
                gpu,
                "Check that the nvidia driver is bound to it and that it has not fallen off the bus ('dmesg | grep NVRM').",
            )
        self._handles[gpu] = found
        return found

    # -- facts ---------------------------------------------------------------------------------------------------
    @one_piece
    def uuid(self, gpu):
        """The GPU's UUID, ``GPU-...``."""
        return text_of(self.call("nvmlDeviceGetUUID", self.handle(gpu), gpu=gpu, doing="read the UUID"))

    @one_piece
    def cuda(self, gpu=""):
        """
        The newest CUDA that the driver runs, as ``12.4``; "" where it does not tell. ``nvmlSystemGetCudaDriverVersion_v2`` has
        1000 times the major and 10 times the minor.
        """
        found = self.call(
            "nvmlSystemGetCudaDriverVersion_v2",
            gpu=gpu,
            doing="read the CUDA version of the driver",
            quiet=(NOT_SUPPORTED, FUNCTION_NOT_FOUND),
        )
        return f"{found // 1000}.{found % 1000 // 10}" if found else ""

    @one_piece
    def minor(self, gpu):
        """N of ``/dev/nvidiaN``."""
        return self.call("nvmlDeviceGetMinorNumber", self.handle(gpu), gpu=gpu, doing="read the device minor number")

    @one_piece
    def index(self, gpu):
        """NVML's index of the GPU: it moves between boots, so it names a GPU only for tools that know nothing else."""
        return self.call("nvmlDeviceGetIndex", self.handle(gpu), gpu=gpu, doing="read the index")

    @one_piece
    def is_vgpu_guest(self, gpu):
        """Whether this is a vGPU in a guest, whose MIG layout only the host can change."""
        mode = self.call(
            "nvmlDeviceGetVirtualizationMode",
            self.handle(gpu),
            gpu=gpu,
            doing="read the virtualization mode",
            quiet=(NOT_SUPPORTED, FUNCTION_NOT_FOUND),
        )
        return mode == 2

    @one_piece
    def field(self, gpu, field_id):
        """Value of an NVML field as the type that the driver says, None where it does not know the field, or we not the type."""
        values = self.call(
            "nvmlDeviceGetFieldValues",
            self.handle(gpu),
            [field_id],
            gpu=gpu,
            doing="read a field value",
            quiet=(NOT_SUPPORTED, FUNCTION_NOT_FOUND, INVALID_ARGUMENT),
        )
        if values is None or values[0].nvmlReturn != 0:
            return None
        member = _MEMBERS.get(values[0].valueType)
        return getattr(values[0].value, member) if member else None

    @one_piece
    def pids(self, handle, gpu):
        """Process ids with a compute or graphics context on a GPU or MIG device."""
        found = set()
        for name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
            listed = self.call(
                name,
                handle,
                gpu=gpu,
                doing="list the processes",
                quiet=(NOT_SUPPORTED, NO_PERMISSION, NOT_FOUND, FUNCTION_NOT_FOUND, INVALID_ARGUMENT),
            )
            found.update(process.pid for process in listed or ())
        return sorted(found)


def translate(err, gpu, doing):
    """The engine's error for an NVML error: what could not be done, why, and what to do next."""
    code = getattr(err, "value", None)
    kind, why, todo = _MEANINGS.get(
        code, (errors.DriverError, f"NVML answered: {err}", "See 'dmesg | grep NVRM' for the driver's own words.")
    )
    return errors.could_not(kind, doing, why, gpu, todo)


_MEANINGS = {
    INVALID_ARGUMENT: (
        errors.DriverError,
        "the driver calls an argument invalid",
        "The GPU may have changed meanwhile; run again.",
    ),
    NOT_SUPPORTED: (
        errors.Unsupported,
        "the GPU or its driver does not support it in the present mode",
        "Check the model, the MIG mode and the driver version.",
    ),
    NO_PERMISSION: (errors.PermissionDenied, "it needs root", "Run the minion (or salt-call) as root."),
    NOT_FOUND: (errors.ForeignChange, "it is not there any more", "Another tool may have changed the GPU; run again."),
    DRIVER_NOT_LOADED: (
        errors.DriverMissing,
        "the nvidia kernel driver is not loaded",
        "Load it with 'modprobe nvidia', or install it.",
    ),
    LIBRARY_NOT_FOUND: (
        errors.DriverMissing,
        "the NVML library libnvidia-ml.so.1 is not installed",
        "Install the driver's user-space libraries.",
    ),
    FUNCTION_NOT_FOUND: (errors.Unsupported, "the installed driver is too old for it", "Update the NVIDIA driver."),
    GPU_IS_LOST: (
        errors.Unhealthy,
        "the GPU has fallen off the bus",
        "Drain the host and power-cycle it; see 'dmesg | grep Xid'.",
    ),
    RESET_REQUIRED: (
        errors.ModeChangePending,
        "the GPU needs a reset first",
        "Reset it when idle ('nvidia-smi --gpu-reset -i <address>') or reboot.",
    ),
    LIB_RM_VERSION_MISMATCH: (
        errors.DriverMismatch,
        "the loaded kernel driver and the NVML library have different versions",
        "Reboot, or unload and reload the nvidia modules.",
    ),
    IN_USE: (errors.InUse, errors.IN_USE, "Stop its users and run again."),
    INSUFFICIENT_RESOURCES: (
        errors.ForeignChange,
        "the place is occupied or out of resources",
        "Another tool may have changed the GPU; run again.",
    ),
}


def text_of(value):
    """What NVML tells as bytes or text, as printable text."""
    return printable(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
