"""
pynvml's functions on a simulated machine.

:class:`SimulatedNvml` is used as the module ``pynvml`` is: the names, the argument forms (``byref``, arrays to fill, None to
ask the count), the return forms and the ``NVMLError_*`` classes are the real ones. Constants, struct classes and error
classes are those of the installed pynvml. A function of pynvml that is not simulated raises ``NVMLError_FunctionNotFound``
when it is called, as with a driver that lacks it; no real library is ever loaded.

Two forms are stricter than they look: a placement is passed as ``byref(placement)``, because the library wants a pointer, and
handles die with :meth:`SimulatedNvml.nvmlShutdown` and with a change of the MIG mode.
"""

import collections
import ctypes
import os
import signal
import threading
import types

from gpuslice.sim import description
from gpuslice.sim import faults
from gpuslice.sim import hardware
from gpuslice.sim.nvml_call import function as _function
from gpuslice.sim.nvml_vgpu import VgpuFunctions

_NO_PERMISSION = 4
_NOT_FOUND = 6
_INSUFFICIENT_SIZE = 7
_DRIVER_NOT_LOADED = 9
_LIBRARY_NOT_FOUND = 12
_FUNCTION_NOT_FOUND = 13
_VERSION_MISMATCH = 18

_NO_GPUS, _NO_ATTACH = 1, 2
_ALL_INSTANCES = 0xFFFFFFFF
_MIB = 1 << 20

# Field ids of nvmlDeviceGetFieldValues, and the driver branches from which they answer.
_RESETLESS_MIG = 184
_INDEPENDENT_QUERY = 199
_RECOVERY_ACTION = 230
_FIELD_SINCE = {_RESETLESS_MIG: 535, _INDEPENDENT_QUERY: 550, _RECOVERY_ACTION: 570}
#: Drivers before this branch tell profiles only while MIG is on.
_INDEPENDENT_SINCE = 550

#: Functions of pynvml that are plain Python and call no library.
_HELPERS = {"nvmlStructToFriendlyObject", "nvmlFriendlyObjectToStruct", "nvmlExceptionClass", "convertStrBytes"}


class _Handle:
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


class SimulatedNvml(VgpuFunctions):
    """
    The functions of pynvml for one simulated host, in one process.

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
            raise self._error(_FUNCTION_NOT_FOUND)

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
            if text == gpu["about"]["uuid"] or description.normal_address(text) == address:
                return address
        return ""

    def _liar(self, name, args):
        """A handle of something that was never made."""
        known = self._handles[ctypes.cast(args[0], ctypes.c_void_p).value]
        if "ComputeInstance" in name:
            return self._make(_Handle("ci", known.address, known.epoch, (known.gi_id, known.gi_serial), (-1, -1)))
        return self._make(_Handle("gi", known.address, known.epoch, (-1, -1)))

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
            raise hardware.Refused(_NOT_FOUND)
        if handle.ci_id is not None and gi["cis"].get(str(handle.ci_id), {}).get("serial") != handle.ci_serial:
            raise hardware.Refused(_NOT_FOUND)
        return handle, gpu

    def _device(self, pointer):
        handle, gpu = self._resolve(pointer, "device")
        return handle.address, gpu

    def _mig_device(self, pointer):
        """(handle, gpu, gi, ci) of a MIG device handle."""
        handle, gpu = self._resolve(pointer, "mig")
        gi = gpu["gis"][str(handle.gi_id)]
        return handle, gpu, gi, gi["cis"][str(handle.ci_id)]

    def _gi(self, pointer):
        """(handle, gpu, gi) of a GPU instance handle."""
        handle, gpu = self._resolve(pointer, "gi")
        return handle, gpu, gpu["gis"][str(handle.gi_id)]

    def _mig_on(self, gpu):
        if hardware.mig_table(gpu) is None or not gpu["mode"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)

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
        return self._make(_Handle("device", address, gpu["epoch"]))

    def _mig_handle(self, gpu, gi_id, ci_id):
        gi = gpu["gis"][str(gi_id)]
        ci = (ci_id, gi["cis"][str(ci_id)]["serial"])
        return self._make(_Handle("mig", gpu["about"]["address"], gpu["epoch"], (gi_id, gi["serial"]), ci))

    def _gi_handle(self, gpu, gi_id):
        serial = gpu["gis"][str(gi_id)]["serial"]
        return self._make(_Handle("gi", gpu["about"]["address"], gpu["epoch"], (gi_id, serial)))

    def _ci_handle(self, gi_handle, ci_id, gi):
        ci = (ci_id, gi["cis"][str(ci_id)]["serial"])
        return self._make(_Handle("ci", gi_handle.address, gi_handle.epoch, (gi_handle.gi_id, gi_handle.gi_serial), ci))

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
    @_function(before_init=True)
    def nvmlInit(self):
        """Start using the library; counted, see :meth:`nvmlShutdown`."""
        self._start(0)

    @_function(before_init=True)
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
            raise hardware.Refused(_NOT_FOUND)
        if not self._users:
            self._host.take("init")
        with self._lock:
            self._users += 1
            self._flags.append(flags)
            self._attached += not flags & _NO_ATTACH

    @_function()
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

    @_function()
    def nvmlSystemGetDriverVersion(self):
        """Version of the kernel driver."""
        return self._host.state()["host"]["driver"]["version"]

    @_function()
    def nvmlSystemGetNVMLVersion(self):
        """Version of the library."""
        return "13." + self._host.state()["host"]["driver"]["library_version"]

    # -- devices -------------------------------------------------------------------------------------------------
    @_function()
    def nvmlDeviceGetCount(self):
        """How many GPUs the driver has, lost ones too."""
        return len(self._devices())

    @_function()
    def nvmlDeviceGetHandleByIndex(self, index):
        """Handle of a GPU by its index, which the order of PCI addresses gives."""
        devices = self._devices()
        if not 0 <= index < len(devices):
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return self._device_handle(devices[index])

    @_function()
    def nvmlDeviceGetHandleByPciBusId(self, pciBusId):
        """Handle of a GPU by its PCI address, with a domain of four or eight digits."""
        text = pciBusId.decode() if isinstance(pciBusId, bytes) else pciBusId
        address = description.normal_address(text)
        if address not in self._devices():
            raise hardware.Refused(_NOT_FOUND)
        return self._device_handle(address)

    @_function()
    def nvmlDeviceGetHandleByUUID(self, uuid):
        """Handle of a GPU or a MIG device by its UUID."""
        text = uuid.decode() if isinstance(uuid, bytes) else uuid
        for address in self._devices():
            gpu = self._host.state()["gpus"][address]
            if gpu["about"]["uuid"] == text:
                return self._device_handle(address)
            for _, gi_id, ci_id in hardware.mig_devices(gpu):
                if gpu["gis"][str(gi_id)]["cis"][str(ci_id)]["uuid"] == text:
                    hardware.alive(self._host.state(), address)
                    return self._mig_handle(gpu, gi_id, ci_id)
        raise hardware.Refused(_NOT_FOUND)

    @_function()
    def nvmlDeviceGetPciInfo(self, handle):
        """PCI ids and address."""
        return self._pci_info(handle)

    @_function()
    def nvmlDeviceGetPciInfo_v3(self, handle):
        """As nvmlDeviceGetPciInfo."""
        return self._pci_info(handle)

    def _pci_info(self, handle):
        address, gpu = self._device(handle)
        about = gpu["about"]
        domain, bus, rest = address.split(":")
        info = self._pynvml.nvmlPciInfo_t()
        info.busIdLegacy = address.upper().encode()
        info.busId = f"{domain:0>8}:{bus}:{rest}".upper().encode()
        info.domain, info.bus, info.device = int(domain, 16), int(bus, 16), int(rest.split(".")[0], 16)
        info.pciDeviceId = int(about["device"] + about["vendor"], 16)
        vendor, _, device = (about["subsystem_id"] or "0000:0000").partition(":")
        info.pciSubSystemId = int(device + vendor, 16)
        return info

    @_function()
    def nvmlDeviceGetName(self, handle):
        """Product name; of a MIG device with its profile."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return gpu["about"]["name"]
        profile, ci = self._shape(gpu, gpu["gis"][str(seen.gi_id)], seen.ci_id)
        return f"{gpu['about']['name']} MIG {ci.name if ci else profile.name}"

    @_function()
    def nvmlDeviceGetUUID(self, handle):
        """``GPU-...`` or ``MIG-...``."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return gpu["about"]["uuid"]
        return gpu["gis"][str(seen.gi_id)]["cis"][str(seen.ci_id)]["uuid"]

    @_function()
    def nvmlDeviceGetMinorNumber(self, handle):
        """Number of the device node /dev/nvidia<minor>; not the index."""
        return self._device(handle)[1]["about"]["minor"]

    @_function()
    def nvmlDeviceGetIndex(self, handle):
        """Index of a GPU, or of a MIG device on its GPU."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return self._devices().index(seen.address)
        return gpu["gis"][str(seen.gi_id)]["cis"][str(seen.ci_id)]["index"]

    @_function()
    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        """Memory in bytes of a GPU or a MIG device."""
        seen, gpu = self._resolve(handle, "device", "mig")
        info = self._pynvml.c_nvmlMemory_v2_t() if version else self._pynvml.c_nvmlMemory_t()
        if version:
            info.version = version
        total = gpu["about"]["memory_mib"]
        ci_id = None
        if seen.kind == "mig":
            total = self._shape(gpu, gpu["gis"][str(seen.gi_id)], seen.ci_id)[0].memory_mib or 0
            ci_id = seen.ci_id
        elif gpu["mode"]:
            self._privileged()
        users = hardware.holders(self._host.state(), seen.address, seen.gi_id, ci_id, contexts=True)
        info.total = total * _MIB
        info.used = min(info.total, sum(process["memory_mib"] for process in users) * _MIB)
        info.free = info.total - info.used
        return info

    @_function()
    def nvmlDeviceGetCudaComputeCapability(self, handle):
        """(major, minor)."""
        major, _, minor = self._resolve(handle, "device", "mig")[1]["about"]["compute_capability"].partition(".")
        return (int(major), int(minor or 0))

    @_function()
    def nvmlDeviceGetVirtualizationMode(self, handle):
        """0 bare metal, 1 pass-through, 2 vGPU in a guest, 3 vGPU host."""
        about = self._device(handle)[1]["about"]
        if about["vgpu_guest"]:
            return 2
        if about.get("vgpu"):
            return 3
        return {"bare_metal": 0, "virtual_guest": 1, "virtual_host": 3}[self._host.state()["host"]["virtualization"]]

    @_function()
    def nvmlDeviceGetPersistenceMode(self, handle):
        """Always on."""
        self._device(handle)
        return 1

    @_function()
    def nvmlDeviceGetComputeMode(self, handle):
        """DEFAULT; a GPU in MIG mode answers only for its MIG devices."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device" and gpu["mode"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return 0

    # -- health --------------------------------------------------------------------------------------------------
    @_function()
    def nvmlDeviceGetEccMode(self, handle):
        """[current, pending]."""
        self._device(handle)
        return [1, 1]

    @_function()
    def nvmlDeviceGetTotalEccErrors(self, handle, errorType, counterType):
        """Count of errors: type 0 corrected, 1 uncorrected; counter 0 volatile, 1 aggregate."""
        return self._ecc(handle, errorType, counterType)

    @_function()
    def nvmlDeviceGetMemoryErrorCounter(self, handle, errorType, counterType, locationType):
        """As nvmlDeviceGetTotalEccErrors for one place; all errors of the simulation are in device memory (2)."""
        count = self._ecc(handle, errorType, counterType)
        return count if locationType == 2 else 0

    def _ecc(self, handle, error_type, counter_type):
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device" and gpu["mode"] and counter_type == 0:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return gpu["health"]["ecc_uncorrected"] if error_type == 1 else 0

    @_function()
    def nvmlDeviceGetRemappedRows(self, handle):
        """(corrected, uncorrected, pending, failed). Not told while there are GPU instances, as NVML's header says."""
        _, gpu = self._device(handle)
        if not _remaps_rows(gpu) or gpu["gis"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        health = gpu["health"]
        pending, failed = int(health["row_remap_pending"]), int(health["row_remap_failed"])
        return (0, pending + failed, pending, failed)

    @_function()
    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle):
        """Whether memory pages wait to be retired; boards that remap rows retire none."""
        _, gpu = self._device(handle)
        if _remaps_rows(gpu):
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return int(gpu["health"]["page_retirement_pending"])

    @_function()
    def nvmlDeviceGetFieldValues(self, handle, fieldIds):
        """One value for each field id (or ``(id, scope)``), each with its own return code."""
        _, gpu = self._device(handle)
        values = (self._pynvml.c_nvmlFieldValue_t * len(fieldIds))()
        for value, field in zip(values, fieldIds, strict=True):
            value.fieldId, value.scopeId = field if isinstance(field, tuple | list) else (field, 0)
            answer = self._field(gpu, value.fieldId)
            value.nvmlReturn = hardware.NOT_SUPPORTED if answer is None else hardware.SUCCESS
            if answer is not None:
                value.valueType = self._pynvml.NVML_VALUE_TYPE_UNSIGNED_INT
                value.value.uiVal = answer
        return values

    def _field(self, gpu, field):
        if self._level() < _FIELD_SINCE.get(field, 0):
            return None
        if field == _RESETLESS_MIG:
            return int(hardware.mig_table(gpu) is not None and gpu["about"]["resetless"])
        if field == _INDEPENDENT_QUERY:
            return int(hardware.mig_table(gpu) is not None)
        if field == _RECOVERY_ACTION:
            return description.RECOVERY_ACTIONS[gpu["health"]["recovery_action"]]
        return None

    @_function(since=510)
    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        """Processes with a compute context on a GPU or a MIG device."""
        return self._running(handle, "compute")

    @_function(since=510)
    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        """As nvmlDeviceGetComputeRunningProcesses."""
        return self._running(handle, "compute")

    @_function(since=510)
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        """Processes with a graphics context on a GPU or a MIG device."""
        return self._running(handle, "graphics")

    @_function(since=510)
    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle):
        """As nvmlDeviceGetGraphicsRunningProcesses."""
        return self._running(handle, "graphics")

    def _running(self, handle, kind):
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device" and gpu["mode"]:
            self._privileged()
        state = self._host.state()
        found = []
        for process in hardware.holders(state, seen.address, seen.gi_id, seen.ci_id):
            if process["type"] != kind:
                continue
            used = next(use for use in hardware.uses(state, process) if use[0] == seen.address)
            row = {
                "pid": process["pid"],
                "usedGpuMemory": process["memory_mib"] * _MIB,
                "gpuInstanceId": _ALL_INSTANCES if used[1] is None else used[1],
                "computeInstanceId": _ALL_INSTANCES if used[2] is None else used[2],
            }
            found.append(self._pynvml.nvmlFriendlyObject(row))
        return found

    # -- MIG mode and MIG devices --------------------------------------------------------------------------------
    @_function()
    def nvmlDeviceGetMigMode(self, device):
        """[current, pending]."""
        _, gpu = self._device(device)
        if hardware.mig_table(gpu) is None:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return [gpu["mode"], gpu["pending"]]

    @_function(latency="set_mode", lie=hardware.SUCCESS)
    def nvmlDeviceSetMigMode(self, device, mode):
        """Change the mode. "In use" and "reset required" are returned, not raised."""
        address, gpu = self._device(device)
        if hardware.mig_table(gpu) is None:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        self._privileged()
        with self._host.change() as state:
            return hardware.set_mode(state, address, mode)

    @_function()
    def nvmlDeviceGetMaxMigDeviceCount(self, device):
        """How many MIG device indices there are to look through; 0 when MIG is off or unknown to the GPU."""
        _, gpu = self._device(device)
        table = hardware.mig_table(gpu)
        return table.compute if table is not None and gpu["mode"] else 0

    @_function()
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        """Handle of a MIG device; NOT_FOUND for a hole."""
        _, gpu = self._device(device)
        self._mig_on(gpu)
        if not 0 <= index < hardware.mig_table(gpu).compute:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        for taken, gi_id, ci_id in hardware.mig_devices(gpu):
            if taken == index:
                return self._mig_handle(gpu, gi_id, ci_id)
        raise hardware.Refused(_NOT_FOUND)

    @_function()
    def nvmlDeviceGetGpuInstanceId(self, device):
        """Id of a MIG device's GPU instance."""
        return self._mig_device(device)[0].gi_id

    @_function()
    def nvmlDeviceGetComputeInstanceId(self, device):
        """Id of a MIG device's compute instance."""
        return self._mig_device(device)[0].ci_id

    @_function()
    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice):
        """Handle of the GPU that a MIG device is a part of."""
        return self._device_handle(self._mig_device(migDevice)[0].address)

    @_function()
    def nvmlDeviceIsMigDeviceHandle(self, device):
        """A c_uint, 1 for MIG devices."""
        return ctypes.c_uint(self._resolve(device, "device", "mig")[0].kind == "mig")

    @_function()
    def nvmlDeviceGetAttributes(self, device):
        """Size of a MIG device."""
        return self._attributes(device)

    @_function()
    def nvmlDeviceGetAttributes_v2(self, device):
        """As nvmlDeviceGetAttributes."""
        return self._attributes(device)

    def _attributes(self, device):
        seen, _ = self._resolve(device, "device", "mig")
        if seen.kind == "device":
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        seen, gpu, gi, ci = self._mig_device(device)
        profile, _ = self._shape(gpu, gi, seen.ci_id)
        attributes = self._pynvml.c_nvmlDeviceAttributes()
        attributes.multiprocessorCount = (profile.sm or 0) * ci["size"] // profile.slices
        self._engines(attributes, profile)
        attributes.gpuInstanceSliceCount = profile.slices
        attributes.computeInstanceSliceCount = ci["size"]
        attributes.memorySizeMB = profile.memory_mib or 0
        return attributes

    @staticmethod
    def _engines(struct, profile):
        struct.sharedCopyEngineCount, struct.sharedDecoderCount, struct.sharedEncoderCount = profile.engines[:3]
        struct.sharedJpegCount, struct.sharedOfaCount = profile.engines[3:]

    def _shape(self, gpu, gi, ci_id):
        """GPU instance profile and compute instance profile of a MIG device."""
        profile = hardware.mig_table(gpu).by_id(gi["profile"])
        return profile, hardware.ci_profile_by_id(gpu, gi, gi["cis"][str(ci_id)]["profile"], self._level())

    # -- GPU instances -------------------------------------------------------------------------------------------
    @_function()
    def nvmlDeviceGetGpuInstanceProfileInfo(self, device, profile, version=2):
        """A GPU instance profile by enum: NOT_SUPPORTED where the GPU lacks it, INVALID_ARGUMENT past the last one."""
        level = self._level()
        if version not in (1, 2) or (version == 2 and level < 495):
            raise hardware.Refused(_FUNCTION_NOT_FOUND)
        _, gpu = self._device(device)
        self._tells_profiles(gpu, level)
        return self._profile_info(hardware.profile_by_enum(gpu, profile, level), version)

    @_function(since=580)
    def nvmlDeviceGetGpuInstanceProfileInfoById(self, device, profileId):
        """A GPU instance profile by id."""
        _, gpu = self._device(device)
        level = self._level()
        self._tells_profiles(gpu, level)
        return self._profile_info(hardware.profile_by_id(gpu, profileId, level), 2)

    @_function(since=580)
    def nvmlDeviceGetGpuInstanceProfileInfoByIdV(self, device, profileId):
        """As nvmlDeviceGetGpuInstanceProfileInfoById."""
        _, gpu = self._device(device)
        level = self._level()
        self._tells_profiles(gpu, level)
        return self._profile_info(hardware.profile_by_id(gpu, profileId, level), 2)

    @staticmethod
    def _tells_profiles(gpu, level):
        off = not gpu["mode"] and level < _INDEPENDENT_SINCE
        if hardware.mig_table(gpu) is None or off:
            raise hardware.Refused(hardware.NOT_SUPPORTED)

    def _profile_info(self, profile, version):
        lib = self._pynvml
        info = lib.c_nvmlGpuInstanceProfileInfo_v2_t() if version == 2 else lib.c_nvmlGpuInstanceProfileInfo_t()
        info.id, info.sliceCount, info.instanceCount = profile.id, profile.slices, profile.count
        info.multiprocessorCount = profile.sm or 0
        info.copyEngineCount, info.decoderCount, info.encoderCount = profile.engines[:3]
        info.jpegCount, info.ofaCount = profile.engines[3:]
        info.memorySizeMB = profile.memory_mib or 0
        if version == 2:
            info.name = f"MIG {self._named(profile.name)}".encode()
        return info

    def _named(self, name):
        """What this driver calls a profile of the catalog, a compute instance's by the name of its GPU instance."""
        renames = self._host.state()["host"]["driver"]["renames"]
        part, dot, whole = name.partition("c.")
        return f"{part}{dot}{renames.get(whole, whole)}" if dot else renames.get(name, name)

    @_function(since=470)
    def nvmlDeviceGetGpuInstancePossiblePlacements(self, device, profileId, placementsRef, countRef):
        """All legal placements of a profile, whether they are free or not."""
        _, gpu = self._device(device)
        self._privileged()
        level = self._level()
        self._tells_profiles(gpu, level)
        profile = hardware.profile_by_id(gpu, profileId, level)
        return self._fill(placementsRef, countRef, [(s, profile.size) for s in profile.starts], self._put_place)

    @_function()
    def nvmlDeviceGetGpuInstanceRemainingCapacity(self, device, profileId):
        """How many more instances of a profile fit."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        return hardware.capacity(gpu, hardware.profile_by_id(gpu, profileId, self._level()), self._level())

    @_function()
    def nvmlDeviceGetGpuInstances(self, device, profileId, gpuInstancesRef, countRef):
        """Handles of the instances of a profile."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        profile = hardware.profile_by_id(gpu, profileId, self._level())
        ids = sorted(int(gi_id) for gi_id, gi in gpu["gis"].items() if gi["profile"] == profile.id)
        return self._fill(gpuInstancesRef, countRef, [self._gi_handle(gpu, i) for i in ids], self._put_handle)

    @_function()
    def nvmlDeviceGetGpuInstanceById(self, device, gpuInstanceId):
        """Handle of an instance by its id."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        if str(gpuInstanceId) not in gpu["gis"]:
            raise hardware.Refused(_NOT_FOUND)
        return self._gi_handle(gpu, gpuInstanceId)

    @_function(latency="create_gi")
    def nvmlDeviceCreateGpuInstance(self, device, profileId):
        """Make an instance where the driver likes."""
        return self._create_gi(device, profileId, None, None)

    @_function(since=455, latency="create_gi")
    def nvmlDeviceCreateGpuInstanceWithPlacement(self, device, profileId, placement):
        """Make an instance at ``byref(placement)``."""
        place = self._target(placement)
        return self._create_gi(device, profileId, place.start, place.size)

    def _create_gi(self, device, profile_id, start, size):
        address, _ = self._device(device)
        self._privileged()
        with self._host.change() as state:
            gi_id = hardware.create_gi(state, address, profile_id, start, size)
            return self._gi_handle(state["gpus"][address], gi_id)

    @_function()
    def nvmlGpuInstanceGetInfo(self, gpuInstance):
        """GPU, id, profile id and placement of an instance."""
        handle, _, gi = self._gi(gpuInstance)
        info = self._pynvml.c_nvmlGpuInstanceInfo_t()
        info.device = self._device_handle(handle.address)
        info.id, info.profileId = handle.gi_id, gi["profile"]
        info.placement.start, info.placement.size = gi["start"], gi["size"]
        return info

    @_function(latency="destroy_gi", lie=hardware.SUCCESS)
    def nvmlGpuInstanceDestroy(self, gpuInstance):
        """Destroy an empty instance."""
        handle, _, _ = self._gi(gpuInstance)
        self._privileged()
        with self._host.change() as state:
            hardware.destroy_gi(state, handle.address, handle.gi_id)
        return hardware.SUCCESS

    # -- compute instances ---------------------------------------------------------------------------------------
    @_function()
    def nvmlGpuInstanceGetComputeInstanceProfileInfo(self, device, profile, engProfile, version=2):
        """A compute instance profile of a GPU instance by enum."""
        if version not in (1, 2) or (version == 2 and self._level() < 495):
            raise hardware.Refused(_FUNCTION_NOT_FOUND)
        _, gpu, gi = self._gi(device)
        self._privileged()
        if not 0 <= profile < 9 or engProfile != 0:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        parent = hardware.mig_table(gpu).by_id(gi["profile"])
        found = next((ci for ci in hardware.ci_profiles(gpu, parent, self._level()) if ci.enum == profile), None)
        if found is None:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        lib = self._pynvml
        info = lib.c_nvmlComputeInstanceProfileInfo_v2_t() if version == 2 else lib.c_nvmlComputeInstanceProfileInfo_t()
        info.id, info.sliceCount, info.instanceCount = found.id, found.slices, found.count
        info.multiprocessorCount = (parent.sm or 0) * found.slices // parent.slices
        self._engines(info, parent)
        if version == 2:
            info.name = f"MIG {self._named(found.name)}".encode()
        return info

    @_function(since=525)
    def nvmlGpuInstanceGetComputeInstancePossiblePlacements(self, gpuInstance, profileId, placementsRef, countRef):
        """All legal placements of a compute instance profile."""
        _, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        profile = hardware.ci_profile_by_id(gpu, gi, profileId, self._level())
        return self._fill(placementsRef, countRef, [(s, profile.slices) for s in profile.starts], self._put_place)

    @_function()
    def nvmlGpuInstanceGetComputeInstanceRemainingCapacity(self, gpuInstance, profileId):
        """How many more compute instances of a profile fit."""
        _, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        return hardware.ci_capacity(gpu, gi, hardware.ci_profile_by_id(gpu, gi, profileId, self._level()))

    @_function()
    def nvmlGpuInstanceGetComputeInstances(self, gpuInstance, profileId, computeInstancesRef, countRef):
        """Handles of the compute instances of a profile."""
        handle, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        profile = hardware.ci_profile_by_id(gpu, gi, profileId, self._level())
        ids = sorted(int(ci_id) for ci_id, ci in gi["cis"].items() if ci["profile"] == profile.id)
        return self._fill(computeInstancesRef, countRef, [self._ci_handle(handle, i, gi) for i in ids], self._put_handle)

    @_function(latency="create_ci")
    def nvmlGpuInstanceCreateComputeInstance(self, gpuInstance, profileId):
        """Make a compute instance where the driver likes."""
        return self._create_ci(gpuInstance, profileId, None, None)

    @_function(since=525, latency="create_ci")
    def nvmlGpuInstanceCreateComputeInstanceWithPlacement(self, gpuInstance, profileId, placement):
        """Make a compute instance at ``byref(placement)``."""
        place = self._target(placement)
        return self._create_ci(gpuInstance, profileId, place.start, place.size)

    def _create_ci(self, gpu_instance, profile_id, start, size):
        handle, _, _ = self._gi(gpu_instance)
        self._privileged()
        with self._host.change() as state:
            ci_id = hardware.create_ci(state, handle.address, handle.gi_id, profile_id, start, size)
            gi = state["gpus"][handle.address]["gis"][str(handle.gi_id)]
        return self._ci_handle(handle, ci_id, gi)

    @_function()
    def nvmlGpuInstanceGetComputeInstanceById(self, gpuInstance, computeInstanceId):
        """Handle of a compute instance by its id."""
        handle, _, gi = self._gi(gpuInstance)
        self._privileged()
        if str(computeInstanceId) not in gi["cis"]:
            raise hardware.Refused(_NOT_FOUND)
        return self._ci_handle(handle, computeInstanceId, gi)

    @_function()
    def nvmlComputeInstanceGetInfo(self, computeInstance):
        """MIG device, GPU instance, id, profile id and placement of a compute instance."""
        return self._ci_info(computeInstance)

    @_function()
    def nvmlComputeInstanceGetInfo_v2(self, computeInstance):
        """As nvmlComputeInstanceGetInfo."""
        return self._ci_info(computeInstance)

    def _ci_info(self, compute_instance):
        handle, gpu = self._resolve(compute_instance, "ci")
        ci = gpu["gis"][str(handle.gi_id)]["cis"][str(handle.ci_id)]
        info = self._pynvml.c_nvmlComputeInstanceInfo_t()
        info.device = self._mig_handle(gpu, handle.gi_id, handle.ci_id)
        info.gpuInstance = self._gi_handle(gpu, handle.gi_id)
        info.id, info.profileId = handle.ci_id, ci["profile"]
        info.placement.start, info.placement.size = ci["start"], ci["size"]
        return info

    @_function(latency="destroy_ci", lie=hardware.SUCCESS)
    def nvmlComputeInstanceDestroy(self, computeInstance):
        """Destroy a compute instance that no process uses."""
        handle, _ = self._resolve(computeInstance, "ci")
        self._privileged()
        with self._host.change() as state:
            hardware.destroy_ci(state, handle.address, handle.gi_id, handle.ci_id)
        return hardware.SUCCESS


def _remaps_rows(gpu):
    """Whether it is a board of the Ampere generation or later: earlier ones retire memory pages instead."""
    return float(gpu["about"]["compute_capability"]) >= 8
