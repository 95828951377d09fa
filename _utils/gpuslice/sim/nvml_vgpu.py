"""
NVML's functions of vGPUs on a simulated machine, a part of :class:`gpuslice.sim.nvml.SimulatedNvml`.

A vGPU is active, and so known to NVML, while a process holds it. Functions that pynvml hands lists and texts from return them as
pynvml does.
"""

from gpuslice.sim import devices
from gpuslice.sim import hardware
from gpuslice.sim import vgpu_rules as rules
from gpuslice.sim import vgpu_types as types
from gpuslice.sim.nvml_call import function

_NONE = 0xFFFFFFFF
_VM_ID_UUID = 1
_MIB = 1 << 20
#: Handles of vGPUs are numbers; these are beyond every index of a GPU.
_FIRST_INSTANCE = 3_251_000_000

# Capabilities of nvmlDeviceGetVgpuCapabilities, of those that are played here.
_CAPABILITIES = 12
_MIXED_TYPES, _MIXED_SIZES = 1, 2


class VgpuFunctions:
    """The functions; everything that they share with the others is in :class:`gpuslice.sim.nvml_session.Session`."""

    def _board(self, handle):
        """(address, GPU) of a device that the vGPU manager has. Raises Refused for others."""
        address, gpu = self._device(handle)
        if not rules.manages(self._host.state(), address):
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return address, gpu

    def _turns(self, handle):
        """As :meth:`_board`, for what concerns vGPUs that take turns: there are none in MIG mode."""
        address, gpu = self._board(handle)
        if gpu["mode"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return address, gpu

    # -- what a GPU can do ---------------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetHostVgpuMode(self, handle):
        """1 where virtual functions carry the vGPUs, 0 where the GPU itself does."""
        return int(self._board(handle)[1]["about"]["sriov_totalvfs"] > 0)

    @function()
    def nvmlDeviceGetSupportedVgpus(self, handle):
        """Numbers of all types of the board, whatever mode it is in."""
        return [kind.id for kind in types.types(self._board(handle)[1])]

    @function()
    def nvmlDeviceGetCreatableVgpus(self, handle):
        """Numbers of the types of which some function can carry one now."""
        address, gpu = self._board(handle)
        state = self._host.state()
        functions = [carrier for carrier, _ in rules.carriers(state, address)]
        return [kind.id for kind in types.types(gpu) if any(rules.available(state, address, f, kind) for f in functions)]

    @function(since=525)
    def nvmlDeviceGetVgpuCapabilities(self, handle, capability):
        """1 for mixed types and, with virtual functions, for mixed sizes; 0 for all that is not played here."""
        _, gpu = self._board(handle)
        if not 0 <= capability < _CAPABILITIES:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return int(capability == _MIXED_TYPES or (capability == _MIXED_SIZES and gpu["about"]["sriov_totalvfs"] > 0))

    # -- types ---------------------------------------------------------------------------------------------------
    def _kind(self, number):
        """(GPU, type) of a type's number: the first GPU that has it tells."""
        for _, gpu in rules.managed(self._host.state()):
            kind = types.by_id(gpu, number)
            if kind:
                return gpu, kind
        raise hardware.Refused(hardware.INVALID_ARGUMENT)

    @function()
    def nvmlVgpuTypeGetName(self, vgpuTypeId):
        """Name with its maker."""
        return types.told(self._host.state(), self._kind(vgpuTypeId)[1])

    @function()
    def nvmlVgpuTypeGetClass(self, vgpuTypeId):
        """Compute, Quadro or NVS."""
        return self._kind(vgpuTypeId)[1].klass

    @function()
    def nvmlVgpuTypeGetFramebufferSize(self, vgpuTypeId):
        """Memory in bytes."""
        return self._kind(vgpuTypeId)[1].gigabytes << 30

    @function()
    def nvmlVgpuTypeGetGpuInstanceProfileId(self, vgpuTypeId):
        """Id of the GPU instance profile that backs it, 0xFFFFFFFF for a type that takes turns."""
        profile = self._kind(vgpuTypeId)[1].profile
        return profile.id if profile else _NONE

    @function()
    def nvmlVgpuTypeGetMaxInstances(self, handle, vgpuTypeId):
        """How many of a type an empty GPU can have."""
        _, gpu = self._board(handle)
        kind = types.by_id(gpu, vgpuTypeId)
        if kind is None:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        return rules.most(gpu, kind)

    @function(since=580)
    def nvmlVgpuTypeGetMaxInstancesPerGpuInstance(self, vgpuTypeId):
        """How many of a type a GPU instance can have; pynvml fills the struct of the library."""
        gpu, kind = self._kind(vgpuTypeId)
        if not kind.profile:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return rules.per_instance(gpu, kind)

    # -- vGPUs in use --------------------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetActiveVgpus(self, handle):
        """Handles, which are numbers, of the vGPUs that a process holds."""
        _, gpu = self._board(handle)
        state = self._host.state()
        return [_FIRST_INSTANCE + vgpu["serial"] for vgpu in hardware.vgpus(gpu) if rules.users(state, vgpu)]

    def _active(self, instance):
        """(GPU, vGPU, process) of a handle from nvmlDeviceGetActiveVgpus."""
        state = self._host.state()
        for _, gpu in rules.managed(state):
            for vgpu in hardware.vgpus(gpu):
                users = rules.users(state, vgpu)
                if users and vgpu["serial"] == instance - _FIRST_INSTANCE:
                    return gpu, vgpu, users[0]
        raise hardware.Refused(hardware.NOT_FOUND)

    @function()
    def nvmlVgpuInstanceGetUUID(self, vgpuInstance):
        """UUID of a vGPU; it is another one than that of its mediated device."""
        gpu, vgpu, _ = self._active(vgpuInstance)
        return devices.made_uuid("", gpu["about"]["uuid"], "vgpu", vgpu["serial"])

    @function()
    def nvmlVgpuInstanceGetMdevUUID(self, vgpuInstance):
        """UUID of the mediated device."""
        vgpu = self._active(vgpuInstance)[1]
        if not vgpu["uuid"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return vgpu["uuid"]

    @function()
    def nvmlVgpuInstanceGetType(self, vgpuInstance):
        """Number of the type."""
        return self._active(vgpuInstance)[1]["type"]

    @function()
    def nvmlVgpuInstanceGetVmID(self, vgpuInstance):
        """(UUID of the virtual machine as bytes, 1 for "it is a UUID")."""
        process = self._active(vgpuInstance)[2]
        return (devices.made_uuid("", self._host.name, "vm", process["pid"]).encode(), _VM_ID_UUID)

    @function()
    def nvmlVgpuInstanceGetFbUsage(self, vgpuInstance):
        """Used memory in bytes; pynvml has 32 bits for it, so 4 GiB and more lose their upper part."""
        return self._active(vgpuInstance)[2]["memory_mib"] * _MIB & 0xFFFFFFFF

    @function()
    def nvmlVgpuInstanceGetGpuInstanceId(self, vgpuInstance):
        """Id of the GPU instance that backs it, 0xFFFFFFFF without one."""
        gi_id = self._active(vgpuInstance)[1]["gi"]
        return _NONE if gi_id is None else gi_id

    # -- mixed sizes and the scheduler ---------------------------------------------------------------------------
    @function(since=550)
    def nvmlDeviceGetVgpuHeterogeneousMode(self, handle):
        """1 when vGPUs of several sizes may share the GPU."""
        _, gpu = self._turns(handle)
        if not gpu["about"]["sriov_totalvfs"]:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return hardware.vgpu_memory(gpu)["heterogeneous"]

    @function(since=550, lie=hardware.SUCCESS)
    def nvmlDeviceSetVgpuHeterogeneousMode(self, handle, heterogeneous_mode):
        """Set it; it lasts until the driver lets the GPU go."""
        address, _ = self._board(handle)
        self._privileged()
        with self._host.change() as state:
            rules.set_heterogeneous(state, address, heterogeneous_mode)
        return hardware.SUCCESS

    @function(since=525)
    def nvmlDeviceGetVgpuSchedulerCapabilities(self, handle):
        """Policies, and limits of the time slice (ns) and of the adaptive round robin."""
        self._board(handle)
        info = self._pynvml.c_nvmlVgpuSchedulerCapabilities_t()
        for place, policy in enumerate(rules.POLICIES):
            info.supportedSchedulers[place] = policy
        info.minTimeslice, info.maxTimeslice = rules.TIME_SLICES
        info.isArrModeSupported = 1
        info.minFrequencyForARR, info.maxFrequencyForARR = rules.FREQUENCIES
        info.minAvgFactorForARR, info.maxAvgFactorForARR = rules.FACTORS
        return info

    @function(since=525)
    def nvmlDeviceGetVgpuSchedulerState(self, handle):
        """Policy and time slice (ns), or averaging factor and time slice with the adaptive round robin."""
        now = rules.scheduler(self._turns(handle)[1])
        answer = self._pynvml.c_nvmlVgpuSchedulerGetState_t()
        answer.schedulerPolicy, answer.arrMode = now["policy"], now["arr"]
        if now["arr"] == rules.ARR_ON:
            answer.schedulerParams.vgpuSchedDataWithARR.avgFactor = now["factor"]
            answer.schedulerParams.vgpuSchedDataWithARR.timeslice = now["time_slice"]
        else:
            answer.schedulerParams.vgpuSchedData.timeslice = now["time_slice"]
        return answer

    @function(since=525, lie=hardware.SUCCESS)
    def nvmlDeviceSetVgpuSchedulerState(self, handle, sched_state):
        """Set it, with a struct c_nvmlVgpuSchedulerSetState_t; it lasts until the driver lets the GPU go."""
        address, _ = self._board(handle)
        self._privileged()
        if sched_state.enableARRMode == rules.ARR_ON:
            data = sched_state.schedulerParams.vgpuSchedDataWithARR
            wanted = {"factor": data.avgFactor, "frequency": data.frequency}
        else:
            wanted = {"time_slice": sched_state.schedulerParams.vgpuSchedData.timeslice}
        with self._host.change() as state:
            rules.set_scheduler(state, address, sched_state.schedulerPolicy, sched_state.enableARRMode, **wanted)
        return hardware.SUCCESS
