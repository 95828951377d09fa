"""
A session with the simulated NVML: its begin and end, handles and what they stand for, errors, faults and privileges.
"""

import collections
import ctypes
import os
import signal
import threading
import types

from gpuslice.sim import faults
from gpuslice.sim import hardware
from gpuslice.sim.mistakes import normal_address
from gpuslice.sim.nvml_call import FUNCTION_NOT_FOUND
from gpuslice.sim.nvml_call import function

_NO_PERMISSION = 4
_INSUFFICIENT_SIZE = 7
_DRIVER_NOT_LOADED = 9
_LIBRARY_NOT_FOUND = 12
_VERSION_MISMATCH = 18

_NO_GPUS, _NO_ATTACH = 1, 2
#: First driver branch -> the newest CUDA that it runs, as NVML tells it.
_CUDA = {
    450: 11000, 470: 11040, 525: 12000, 535: 12020, 545: 12030, 550: 12040, 560: 12060, 570: 12080, 575: 12090, 580: 13000,
    590: 13010, 615: 13040,
}  # fmt: skip

#: Functions of pynvml that are plain Python and call no library.
_HELPERS = {"nvmlStructToFriendlyObject", "nvmlFriendlyObjectToStruct", "nvmlExceptionClass", "convertStrBytes"}


class Handle:
    """What a handle stands for: a device, MIG device, GPU instance or compute instance."""

    __slots__ = ("address", "ci_id", "ci_serial", "epoch", "gi_id", "gi_serial", "kind", "pointer")

    def __init__(self, kind, address, epoch, gi=(None, None), ci=(None, None)):
        self.kind = kind
        self.address = address
        self.epoch = epoch
        self.gi_id, self.gi_serial = gi
        self.ci_id, self.ci_serial = ci
        self.pointer = None

    def key(self):
        """The same for the same thing: the library hands out one handle for it."""
        return (self.kind, self.address, self.epoch, self.gi_serial, self.ci_serial)


class Session:
    """
    What all functions share, and those that begin and end the use of the library.

    :ivar calls: how often each function was called, by name.
    """

    def __init__(self, host, pynvml):
        self._host = host
        self._pynvml = pynvml
        self._users = 0
        self._attached = 0
        self._flags = []
        self._lock = threading.RLock()
        self._handles = {}
        self._known = {}
        self._next = 0x10000
        self.calls = collections.Counter()

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._pynvml, name)
        foreign = isinstance(value, types.FunctionType) and value.__module__ == self._pynvml.__name__
        if not foreign or name in _HELPERS or not name.startswith("nvml"):
            return value

        def absent(*args, **kwargs):
            self.calls[name] += 1
            raise self._error(FUNCTION_NOT_FOUND)

        absent.__name__ = name
        return absent

    @property
    def attached(self):
        """Whether this process is a client of the GPUs at present."""
        return self._attached > 0

    # -- what the functions share --------------------------------------------------------------------------------
    def _error(self, code):
        return self._pynvml.NVMLError(code)

    def _privileged(self):
        if not self._host.state()["host"]["privileged"]:
            raise hardware.Refused(_NO_PERMISSION)

    def _with_faults(self, name, body, args, kwargs, lie, latency):
        hits = self._host.hit(name, self._gpu_of(args))
        self._host.linger(hits)
        errors = [fault["error"] for fault in hits if fault["error"]]
        if errors:
            raise self._error(faults.NVML_CODES[errors[0]])
        for fault in hits:
            if fault["returns"]:
                return faults.NVML_CODES[fault["returns"]]
        if latency:
            self._host.take(latency)
        if any(fault["lie"] for fault in hits):
            return self._liar(name, args) if lie is None else lie
        for fault in hits:
            if fault.get("elsewhere") is not None:
                asked = self._target(args[-1])
                args = (*args[:-1], ctypes.byref(type(asked)(fault["elsewhere"], asked.size)))
        answer = body(self, *args, **kwargs)
        if any(fault["kill"] == "after" for fault in hits):
            os.kill(os.getpid(), signal.SIGKILL)
        for fault in hits:
            if fault.get("late"):
                raise self._error(faults.NVML_CODES[fault["late"]])
        return answer

    def _gpu_of(self, args):
        """Address of the GPU that a call concerns, "" when it concerns none."""
        if not args:
            return ""
        first = args[0]
        if isinstance(first, ctypes._Pointer):
            known = self._handles.get(ctypes.cast(first, ctypes.c_void_p).value)
            return known.address if known else ""
        if isinstance(first, int):
            devices = self._devices()
            return devices[first] if 0 <= first < len(devices) else ""
        text = first.decode() if isinstance(first, bytes) else str(first)
        for address, gpu in self._host.state()["gpus"].items():
            if text == gpu["about"]["uuid"] or normal_address(text) == address:
                return address
        return ""

    def _liar(self, name, args):
        """A handle of something that was never made."""
        known = self._handles[ctypes.cast(args[0], ctypes.c_void_p).value]
        if "ComputeInstance" in name:
            return self._make(Handle("ci", known.address, known.epoch, (known.gi_id, known.gi_serial), (-1, -1)))
        return self._make(Handle("gi", known.address, known.epoch, (-1, -1)))

    def _make(self, handle):
        """The ctypes pointer for a handle, the same one for the same thing."""
        with self._lock:
            known = self._known.get(handle.key())
            if known is not None:
                return known.pointer
            kinds = {
                "gi": self._pynvml.c_nvmlGpuInstance_t,
                "ci": self._pynvml.c_nvmlComputeInstance_t,
            }
            self._next += 0x100
            handle.pointer = ctypes.cast(self._next, kinds.get(handle.kind, self._pynvml.c_nvmlDevice_t))
            self._known[handle.key()] = self._handles[self._next] = handle
            return handle.pointer

    def _resolve(self, pointer, *kinds):
        """What a handle stands for and its GPU. Raises Refused for stale handles, other kinds and lost GPUs."""
        try:
            handle = self._handles.get(ctypes.cast(pointer, ctypes.c_void_p).value)
        except (ctypes.ArgumentError, TypeError):
            handle = None
        if handle is None or handle.kind not in kinds:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        gpu = hardware.alive(self._host.state(), handle.address)
        if gpu["epoch"] != handle.epoch:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        if handle.gi_id is None:
            return handle, gpu
        gi = gpu["gis"].get(str(handle.gi_id))
        if gi is None or gi["serial"] != handle.gi_serial:
            raise hardware.Refused(hardware.NOT_FOUND)
        if handle.ci_id is not None and gi["cis"].get(str(handle.ci_id), {}).get("serial") != handle.ci_serial:
            raise hardware.Refused(hardware.NOT_FOUND)
        return handle, gpu

    def _device(self, pointer):
        handle, gpu = self._resolve(pointer, "device")
        return handle.address, gpu

    def _level(self):
        return self._host.state()["host"]["nvml_level"]

    def _devices(self):
        """Addresses of the GPUs that the driver has, by NVML index: in the order of their addresses."""
        return [
            address
            for address, gpu in self._host.state()["gpus"].items()
            if gpu["about"]["vendor"] == "10de" and gpu["about"]["driver"] == "nvidia"
        ]

    def _device_handle(self, address):
        gpu = hardware.alive(self._host.state(), address)
        return self._make(Handle("device", address, gpu["epoch"]))

    def _mig_handle(self, gpu, gi_id, ci_id):
        gi = gpu["gis"][str(gi_id)]
        ci = (ci_id, gi["cis"][str(ci_id)]["serial"])
        return self._make(Handle("mig", gpu["about"]["address"], gpu["epoch"], (gi_id, gi["serial"]), ci))

    @staticmethod
    def _target(reference):
        """The object behind ``byref(x)`` or ``pointer(x)``. Raises Refused for anything else: the library would crash."""
        if hasattr(reference, "_obj"):
            return reference._obj
        if isinstance(reference, ctypes._Pointer) and reference:
            return reference.contents
        raise hardware.Refused(hardware.INVALID_ARGUMENT)

    def _fill(self, array, count, values, put):
        """Hand a list to a caller's array and count, as the library does. A None array only asks the count."""
        number = self._target(count)
        number_before = number.value
        number.value = len(values)
        if array is None:
            return hardware.SUCCESS
        array = getattr(array, "_obj", array)
        room = len(array) if isinstance(array, ctypes.Array) else number_before
        if room < len(values):
            raise hardware.Refused(_INSUFFICIENT_SIZE)
        for index, value in enumerate(values):
            put(array, index, value)
        return hardware.SUCCESS

    @staticmethod
    def _put_place(array, index, place):
        array[index].start, array[index].size = place

    @staticmethod
    def _put_handle(array, index, handle):
        array[index] = handle

    # -- library -------------------------------------------------------------------------------------------------
    @function(before_init=True)
    def nvmlInit(self):
        """Start using the library; counted, see :meth:`nvmlShutdown`."""
        self._start(0)

    @function(before_init=True)
    def nvmlInitWithFlags(self, flags):
        """As nvmlInit; flag 1 accepts a machine without GPUs, 2 does not attach to them."""
        self._start(flags)

    def _start(self, flags):
        driver = self._host.state()["host"]["driver"]
        if driver["library"] == "missing":
            raise hardware.Refused(_LIBRARY_NOT_FOUND)
        if not driver["loaded"]:
            raise hardware.Refused(_DRIVER_NOT_LOADED)
        if driver["library_version"] != driver["version"]:
            raise hardware.Refused(_VERSION_MISMATCH)
        if not self._devices() and not flags & _NO_GPUS:
            raise hardware.Refused(hardware.NOT_FOUND)
        if not self._users:
            self._host.take("init")
        with self._lock:
            self._users += 1
            self._flags.append(flags)
            self._attached += not flags & _NO_ATTACH

    @function()
    def nvmlShutdown(self):
        """End one use of the library; the last one makes all handles stale."""
        with self._lock:
            self._users -= 1
            self._attached -= not self._flags.pop() & _NO_ATTACH
            if not self._users:
                self._handles.clear()
                self._known.clear()

    def nvmlErrorString(self, result):
        """The text of a return code."""
        self.calls["nvmlErrorString"] += 1
        return self._pynvml.NVMLError._errcode_to_string.get(result, f"NVML Error with code {result}")

    @function()
    def nvmlSystemGetDriverVersion(self):
        """Version of the kernel driver."""
        return self._host.state()["host"]["driver"]["version"]

    @function()
    def nvmlSystemGetCudaDriverVersion(self):
        """1000 times the major of the CUDA that the driver runs, and 10 times its minor."""
        return self._cuda()

    @function()
    def nvmlSystemGetCudaDriverVersion_v2(self):
        """As nvmlSystemGetCudaDriverVersion."""
        return self._cuda()

    def _cuda(self):
        branch = int(self._host.state()["host"]["driver"]["version"].partition(".")[0])
        return max((cuda for since, cuda in _CUDA.items() if since <= branch), default=11040)

    @function()
    def nvmlSystemGetNVMLVersion(self):
        """Version of the library."""
        return "13." + self._host.state()["host"]["driver"]["library_version"]
