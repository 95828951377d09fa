"""
NVML's functions of MIG on a simulated machine, a part of :class:`gpuslice.sim.nvml.SimulatedNvml`.

A placement is passed as ``byref(placement)``, because the library wants a pointer.
"""

import ctypes

from gpuslice.sim import hardware
from gpuslice.sim.nvml_call import FUNCTION_NOT_FOUND
from gpuslice.sim.nvml_call import function
from gpuslice.sim.nvml_session import Handle

#: Drivers before this branch tell profiles only while MIG is on.
_INDEPENDENT_SINCE = 550


class MigFunctions:
    """The functions; everything that they share with the others is in :class:`gpuslice.sim.nvml_session.Session`."""

    # -- handles -------------------------------------------------------------------------------------------------
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

    def _gi_handle(self, gpu, gi_id):
        serial = gpu["gis"][str(gi_id)]["serial"]
        return self._make(Handle("gi", gpu["about"]["address"], gpu["epoch"], (gi_id, serial)))

    def _ci_handle(self, gi_handle, ci_id, gi):
        ci = (ci_id, gi["cis"][str(ci_id)]["serial"])
        return self._make(Handle("ci", gi_handle.address, gi_handle.epoch, (gi_handle.gi_id, gi_handle.gi_serial), ci))

    # -- MIG mode and MIG devices --------------------------------------------------------------------------------
    @function()
    def nvmlDeviceGetMigMode(self, device):
        """[current, pending]."""
        _, gpu = self._device(device)
        if hardware.mig_table(gpu) is None:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        return [gpu["mode"], gpu["pending"]]

    @function(latency="set_mode", lie=hardware.SUCCESS)
    def nvmlDeviceSetMigMode(self, device, mode):
        """Change the mode. "In use" and "reset required" are returned, not raised."""
        address, gpu = self._device(device)
        if hardware.mig_table(gpu) is None:
            raise hardware.Refused(hardware.NOT_SUPPORTED)
        self._privileged()
        with self._host.change() as state:
            return hardware.set_mode(state, address, mode)

    @function()
    def nvmlDeviceGetMaxMigDeviceCount(self, device):
        """How many MIG device indices there are to look through; 0 when MIG is off or unknown to the GPU."""
        _, gpu = self._device(device)
        table = hardware.mig_table(gpu)
        return table.compute if table is not None and gpu["mode"] else 0

    @function()
    def nvmlDeviceGetMigDeviceHandleByIndex(self, device, index):
        """Handle of a MIG device; NOT_FOUND for a hole."""
        _, gpu = self._device(device)
        self._mig_on(gpu)
        if not 0 <= index < hardware.mig_table(gpu).compute:
            raise hardware.Refused(hardware.INVALID_ARGUMENT)
        for taken, gi_id, ci_id in hardware.mig_devices(gpu):
            if taken == index:
                return self._mig_handle(gpu, gi_id, ci_id)
        raise hardware.Refused(hardware.NOT_FOUND)

    @function()
    def nvmlDeviceGetGpuInstanceId(self, device):
        """Id of a MIG device's GPU instance."""
        return self._mig_device(device)[0].gi_id

    @function()
    def nvmlDeviceGetComputeInstanceId(self, device):
        """Id of a MIG device's compute instance."""
        return self._mig_device(device)[0].ci_id

    @function()
    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, migDevice):
        """Handle of the GPU that a MIG device is a part of."""
        return self._device_handle(self._mig_device(migDevice)[0].address)

    @function()
    def nvmlDeviceIsMigDeviceHandle(self, device):
        """A c_uint, 1 for MIG devices."""
        return ctypes.c_uint(self._resolve(device, "device", "mig")[0].kind == "mig")

    @function()
    def nvmlDeviceGetAttributes(self, device):
        """Size of a MIG device."""
        return self._attributes(device)

    @function()
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
    @function()
    def nvmlDeviceGetGpuInstanceProfileInfo(self, device, profile, version=2):
        """A GPU instance profile by enum: NOT_SUPPORTED where the GPU lacks it, INVALID_ARGUMENT past the last one."""
        level = self._level()
        if version not in (1, 2) or (version == 2 and level < 495):
            raise hardware.Refused(FUNCTION_NOT_FOUND)
        _, gpu = self._device(device)
        self._tells_profiles(gpu, level)
        return self._profile_info(hardware.profile_by_enum(gpu, profile, level), version)

    @function(since=580)
    def nvmlDeviceGetGpuInstanceProfileInfoById(self, device, profileId):
        """A GPU instance profile by id."""
        _, gpu = self._device(device)
        level = self._level()
        self._tells_profiles(gpu, level)
        return self._profile_info(hardware.profile_by_id(gpu, profileId, level), 2)

    @function(since=580)
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

    @function(since=470)
    def nvmlDeviceGetGpuInstancePossiblePlacements(self, device, profileId, placementsRef, countRef):
        """All legal placements of a profile, whether they are free or not."""
        _, gpu = self._device(device)
        self._privileged()
        level = self._level()
        self._tells_profiles(gpu, level)
        profile = hardware.profile_by_id(gpu, profileId, level)
        return self._fill(placementsRef, countRef, [(s, profile.size) for s in profile.starts], self._put_place)

    @function()
    def nvmlDeviceGetGpuInstanceRemainingCapacity(self, device, profileId):
        """How many more instances of a profile fit."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        return hardware.capacity(gpu, hardware.profile_by_id(gpu, profileId, self._level()), self._level())

    @function()
    def nvmlDeviceGetGpuInstances(self, device, profileId, gpuInstancesRef, countRef):
        """Handles of the instances of a profile."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        profile = hardware.profile_by_id(gpu, profileId, self._level())
        ids = sorted(int(gi_id) for gi_id, gi in gpu["gis"].items() if gi["profile"] == profile.id)
        return self._fill(gpuInstancesRef, countRef, [self._gi_handle(gpu, i) for i in ids], self._put_handle)

    @function()
    def nvmlDeviceGetGpuInstanceById(self, device, gpuInstanceId):
        """Handle of an instance by its id."""
        _, gpu = self._device(device)
        self._privileged()
        self._mig_on(gpu)
        if str(gpuInstanceId) not in gpu["gis"]:
            raise hardware.Refused(hardware.NOT_FOUND)
        return self._gi_handle(gpu, gpuInstanceId)

    @function(latency="create_gi")
    def nvmlDeviceCreateGpuInstance(self, device, profileId):
        """Make an instance where the driver likes."""
        return self._create_gi(device, profileId, None, None)

    @function(since=455, latency="create_gi")
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

    @function()
    def nvmlGpuInstanceGetInfo(self, gpuInstance):
        """GPU, id, profile id and placement of an instance."""
        handle, _, gi = self._gi(gpuInstance)
        info = self._pynvml.c_nvmlGpuInstanceInfo_t()
        info.device = self._device_handle(handle.address)
        info.id, info.profileId = handle.gi_id, gi["profile"]
        info.placement.start, info.placement.size = gi["start"], gi["size"]
        return info

    @function(latency="destroy_gi", lie=hardware.SUCCESS)
    def nvmlGpuInstanceDestroy(self, gpuInstance):
        """Destroy an empty instance."""
        handle, _, _ = self._gi(gpuInstance)
        self._privileged()
        with self._host.change() as state:
            hardware.destroy_gi(state, handle.address, handle.gi_id)
        return hardware.SUCCESS

    # -- compute instances ---------------------------------------------------------------------------------------
    @function()
    def nvmlGpuInstanceGetComputeInstanceProfileInfo(self, device, profile, engProfile, version=2):
        """A compute instance profile of a GPU instance by enum."""
        if version not in (1, 2) or (version == 2 and self._level() < 495):
            raise hardware.Refused(FUNCTION_NOT_FOUND)
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

    @function(since=525)
    def nvmlGpuInstanceGetComputeInstancePossiblePlacements(self, gpuInstance, profileId, placementsRef, countRef):
        """All legal placements of a compute instance profile."""
        _, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        profile = hardware.ci_profile_by_id(gpu, gi, profileId, self._level())
        return self._fill(placementsRef, countRef, [(s, profile.slices) for s in profile.starts], self._put_place)

    @function()
    def nvmlGpuInstanceGetComputeInstanceRemainingCapacity(self, gpuInstance, profileId):
        """How many more compute instances of a profile fit."""
        _, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        return hardware.ci_capacity(gpu, gi, hardware.ci_profile_by_id(gpu, gi, profileId, self._level()))

    @function()
    def nvmlGpuInstanceGetComputeInstances(self, gpuInstance, profileId, computeInstancesRef, countRef):
        """Handles of the compute instances of a profile."""
        handle, gpu, gi = self._gi(gpuInstance)
        self._privileged()
        profile = hardware.ci_profile_by_id(gpu, gi, profileId, self._level())
        ids = sorted(int(ci_id) for ci_id, ci in gi["cis"].items() if ci["profile"] == profile.id)
        return self._fill(computeInstancesRef, countRef, [self._ci_handle(handle, i, gi) for i in ids], self._put_handle)

    @function(latency="create_ci")
    def nvmlGpuInstanceCreateComputeInstance(self, gpuInstance, profileId):
        """Make a compute instance where the driver likes."""
        return self._create_ci(gpuInstance, profileId, None, None)

    @function(since=525, latency="create_ci")
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

    @function()
    def nvmlGpuInstanceGetComputeInstanceById(self, gpuInstance, computeInstanceId):
        """Handle of a compute instance by its id."""
        handle, _, gi = self._gi(gpuInstance)
        self._privileged()
        if str(computeInstanceId) not in gi["cis"]:
            raise hardware.Refused(hardware.NOT_FOUND)
        return self._ci_handle(handle, computeInstanceId, gi)

    @function()
    def nvmlComputeInstanceGetInfo(self, computeInstance):
        """MIG device, GPU instance, id, profile id and placement of a compute instance."""
        return self._ci_info(computeInstance)

    @function()
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

    @function(latency="destroy_ci", lie=hardware.SUCCESS)
    def nvmlComputeInstanceDestroy(self, computeInstance):
        """Destroy a compute instance that no process uses."""
        handle, _ = self._resolve(computeInstance, "ci")
        self._privileged()
        with self._host.change() as state:
            hardware.destroy_ci(state, handle.address, handle.gi_id, handle.ci_id)
        return hardware.SUCCESS
