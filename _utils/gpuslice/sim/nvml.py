"""
pynvml's functions on a simulated machine.

:class:`SimulatedNvml` is used as the module ``pynvml`` is: the names, the argument forms (``byref``, arrays to fill, None to
ask the count), the return forms and the ``NVMLError_*`` classes are the real ones. Constants, struct classes and error
classes are those of the installed pynvml. A function of pynvml that is not simulated raises ``NVMLError_FunctionNotFound``
when it is called, as with a driver that lacks it; no real library is ever loaded.

Two forms are stricter than they look: a placement is passed as ``byref(placement)``, because the library wants a pointer, and
handles die with :meth:`SimulatedNvml.nvmlShutdown` and with a change of the MIG mode.
"""

from gpuslice.sim import compute_policy
from gpuslice.sim import devices
from gpuslice.sim import hardware
from gpuslice.sim import power
from gpuslice.sim import telemetry
from gpuslice.sim.mistakes import normal_address
from gpuslice.sim.nvml_call import function
from gpuslice.sim.nvml_mig import MigFunctions
from gpuslice.sim.nvml_session import Session
from gpuslice.sim.nvml_telemetry import TelemetryFunctions
from gpuslice.sim.nvml_vgpu import VgpuFunctions

_ALL_INSTANCES = 0xFFFFFFFF
_ARGUMENT_VERSION_MISMATCH = 25
_FABRIC_V3_SINCE = 550
_MIB = 1 << 20

# Field ids of nvmlDeviceGetFieldValues, and the driver branches from which they answer.
_RESETLESS_MIG = 184
_INDEPENDENT_QUERY = 199
_RECOVERY_ACTION = 230
_ENERGY = 83
_FIELD_SINCE = {_RESETLESS_MIG: 535, _INDEPENDENT_QUERY: 550, _RECOVERY_ACTION: 570}


class SimulatedNvml(MigFunctions, VgpuFunctions, TelemetryFunctions, Session):
    """The functions of pynvml for one simulated host, in one process; those of GPUs as a whole are here."""

    # -- devices -------------------------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetCount(self):
        """How many GPUs the driver has, lost ones too."""
        return len(self._devices())

    @function()
    def nvmlDeviceGetHandleByIndex(self, index):
        """Handle of a GPU by its index, which the order of PCI addresses gives."""
        devices = self._devices()
        if not 0 <= index < len(devices):
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return self._device_handle(devices[index])

    @function()
    def nvmlDeviceGetHandleByPciBusId(self, pciBusId):
        """Handle of a GPU by its PCI address, with a domain of four or eight digits."""
        text = pciBusId.decode() if isinstance(pciBusId, bytes) else pciBusId
        address = normal_address(text)
        if address not in self._devices():
            raise hardware.Refused(hardware.NOT_FOUND)
        return self._device_handle(address)

    @function()
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
        raise hardware.Refused(hardware.NOT_FOUND)

    @function()
    def nvmlDeviceGetPciInfo(self, handle):
        """PCI ids and address."""
        return self._pci_info(handle)

    @function()
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

    @function()
    def nvmlDeviceGetName(self, handle):
        """Product name; of a MIG device with its profile."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return gpu["about"]["name"]
        profile, ci = self._shape(gpu, gpu["gis"][str(seen.gi_id)], seen.ci_id)
        return f"{gpu['about']['name']} MIG {ci.name if ci else profile.name}"

    @function()
    def nvmlDeviceGetUUID(self, handle):
        """``GPU-...`` or ``MIG-...``."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return gpu["about"]["uuid"]
        return gpu["gis"][str(seen.gi_id)]["cis"][str(seen.ci_id)]["uuid"]

    @function()
    def nvmlDeviceGetMinorNumber(self, handle):
        """Number of the device node /dev/nvidia<minor>; not the index."""
        return self._device(handle)[1]["about"]["minor"]

    @function()
    def nvmlDeviceGetIndex(self, handle):
        """Index of a GPU, or of a MIG device on its GPU."""
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device":
            return self._devices().index(seen.address)
        return gpu["gis"][str(seen.gi_id)]["cis"][str(seen.ci_id)]["index"]

    @function()
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

    @function()
    def nvmlDeviceGetCudaComputeCapability(self, handle):
        """(major, minor)."""
        major, _, minor = self._resolve(handle, "device", "mig")[1]["about"]["compute_capability"].partition(".")
        return (int(major), int(minor or 0))

    @function()
    def nvmlDeviceGetVirtualizationMode(self, handle):
        """0 bare metal, 1 pass-through, 2 vGPU in a guest, 3 vGPU host."""
        about = self._device(handle)[1]["about"]
        if about["vgpu_guest"]:
            return 2
        if about.get("vgpu"):
            return 3
        return {"bare_metal": 0, "virtual_guest": 1, "virtual_host": 3}[self._host.state()["host"]["virtualization"]]

    @function()
    def nvmlDeviceGetPersistenceMode(self, handle):
        """Always on."""
        self._device(handle)
        return 1

    @function()
    def nvmlDeviceGetComputeMode(self, handle):
        """A GPU in MIG mode answers only for its MIG devices, which have DEFAULT."""
        seen, gpu = self._resolve(handle, "device", "mig")
        return compute_policy.mode(gpu) if seen.kind == "device" else 0

    @function(lie=hardware.SUCCESS)
    def nvmlDeviceSetComputeMode(self, handle, mode):
        """Needs root."""
        self._privileged()
        seen, _ = self._resolve(handle, "device")
        with self._host.change() as state:
            compute_policy.set_mode(state["gpus"][seen.address], mode)

    # -- power ---------------------------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetPowerManagementLimit(self, handle):
        """The limit that was asked of the board, in milliwatts."""
        return power.now(self._device(handle)[1])

    @function()
    def nvmlDeviceGetEnforcedPowerLimit(self, handle):
        """The one in force: nothing else limits these boards."""
        return power.now(self._device(handle)[1])

    @function()
    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle):
        """What the vendor gave the board."""
        return power.of(self._device(handle)[1])["default"] * 1000

    @function()
    def nvmlDeviceGetPowerManagementLimitConstraints(self, handle):
        """[least, most]."""
        limits = power.of(self._device(handle)[1])
        return [limits["least"] * 1000, limits["most"] * 1000]

    @function(lie=hardware.SUCCESS)
    def nvmlDeviceSetPowerManagementLimit(self, handle, limit):
        """Needs root."""
        self._privileged()
        seen, _ = self._resolve(handle, "device")
        with self._host.change() as state:
            power.set_limit(state["gpus"][seen.address], limit)

    # -- health --------------------------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetEccMode(self, handle):
        """[current, pending]."""
        self._device(handle)
        return [1, 1]

    @function()
    def nvmlDeviceGetTotalEccErrors(self, handle, errorType, counterType):
        """Count of errors: type 0 corrected, 1 uncorrected; counter 0 volatile, 1 aggregate."""
        return self._ecc(handle, errorType, counterType)

    @function()
    def nvmlDeviceGetMemoryErrorCounter(self, handle, errorType, counterType, locationType):
        """As nvmlDeviceGetTotalEccErrors for one place; all errors of the simulation are in device memory (2)."""
        count = self._ecc(handle, errorType, counterType)
        return count if locationType == 2 else 0

    def _ecc(self, handle, error_type, counter_type):
        seen, gpu = self._resolve(handle, "device", "mig")
        if seen.kind == "device" and gpu["mode"] and counter_type == 0:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return gpu["health"]["ecc_uncorrected"] if error_type == 1 else 0

    @function()
    def nvmlDeviceGetRemappedRows(self, handle):
        """(corrected, uncorrected, pending, failed). Not told while there are GPU instances, as NVML's header says."""
        _, gpu = self._device(handle)
        if not _remaps_rows(gpu) or gpu["gis"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        health = gpu["health"]
        pending, failed = int(health["row_remap_pending"]), int(health["row_remap_failed"])
        return (0, pending + failed, pending, failed)

    @function(since=545)
    def nvmlDeviceGetGpuFabricInfoV(self, handle, gpuFabricInfo):
        """Fills in what it is given: version 2 of the struct, and version 3 from branch 550 on."""
        _, gpu = self._device(handle)
        info = gpuFabricInfo._obj
        if info.version == self._pynvml.nvmlGpuFabricInfo_v3 and self._level() < _FABRIC_V3_SINCE:
            raise hardware.Refused(_ARGUMENT_VERSION_MISMATCH)
        word = gpu["health"].get("fabric", "none")
        info.state = {"none": 0, "not_started": 1, "in_progress": 2}.get(word, 3)
        # While MIG mode is on, nobody keeps the GPU in the fabric.
        info.state = 1 if gpu["mode"] and info.state else info.state
        info.status = hardware.GPU_IS_LOST if word == "failed" else hardware.SUCCESS
        if info.version == self._pynvml.nvmlGpuFabricInfo_v3:
            info.healthSummary = {"unhealthy": 2, "limited": 3}.get(word, 1)
        return hardware.SUCCESS

    @function()
    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle):
        """Whether memory pages wait to be retired; boards that remap rows retire none."""
        _, gpu = self._device(handle)
        if _remaps_rows(gpu):
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return int(gpu["health"]["page_retirement_pending"])

    @function()
    def nvmlDeviceGetFieldValues(self, handle, fieldIds):
        """One value for each field id (or ``(id, scope)``), each with its own return code."""
        _, gpu = self._device(handle)
        values = (self._pynvml.c_nvmlFieldValue_t * len(fieldIds))()
        for value, field in zip(values, fieldIds, strict=True):
            value.fieldId, value.scopeId = field if isinstance(field, tuple | list) else (field, 0)
            answer = self._field(gpu, value.fieldId)
            value.nvmlReturn = hardware.NOT_SUPPORTED if answer is None else hardware.SUCCESS
            if answer is not None and value.fieldId == _ENERGY:
                value.valueType = self._pynvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG
                value.value.ullVal = answer
            elif answer is not None:
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
            return devices.RECOVERY_ACTIONS[gpu["health"]["recovery_action"]]
        if field == _ENERGY and "draw" in gpu["about"]:
            return int(telemetry.millijoules(self._host.state(), gpu["about"]["address"]))
        return None

    @function(since=510)
    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        """Processes with a compute context on a GPU or a MIG device."""
        return self._running(handle, "compute")

    @function(since=510)
    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle):
        """As nvmlDeviceGetComputeRunningProcesses."""
        return self._running(handle, "compute")

    @function(since=510)
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        """Processes with a graphics context on a GPU or a MIG device."""
        return self._running(handle, "graphics")

    @function(since=510)
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


def _remaps_rows(gpu):
    """Whether it is a board of the Ampere generation or later: earlier ones retire memory pages instead."""
    return float(gpu["about"]["compute_capability"]) >= 8
