"""
MIG as NVML has it: modes, profiles, instances and devices. ctypes arrays and enum-versus-id end here.

Facts: NVML's header and the nvidia-ml-py binding. The profile *enum* is what one loops over, the profile *id* is what every
other call wants; an occupied placement is INSUFFICIENT_RESOURCES, there is no "already exists"; ``nvmlDeviceSetMigMode``
answers "in use" and "reset required" by its return value and raises only for a failed call.
"""

import ctypes
import math
from typing import NamedTuple

from gpuslice import errors
from gpuslice.catalog.mig import CiProfile
from gpuslice.catalog.mig import GiProfile
from gpuslice.catalog.mig import MigTable
from gpuslice.drivers.nvml import ARGUMENT_VERSION_MISMATCH
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.nvml import Nvml
from gpuslice.drivers.nvml import one_piece
from gpuslice.drivers.nvml import text_of
from gpuslice.drivers.nvml import translate

#: Attribute suffix by GPU instance profile enum; enum 9 (double-memory 1g) has no suffix of its own.
ATTRIBUTES = {
    7: ("me",),
    8: ("me",),
    10: ("gfx",),
    11: ("gfx",),
    12: ("gfx",),
    17: ("gfx",),
    13: ("-me",),
    14: ("-me",),
    15: ("me.all",),
    16: ("me.all",),
}

#: Compute instance profile enum (and id, they are equal) by compute slices.
CI_ENUMS = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}

#: More enums than any header has had: enumeration ends at INVALID_ARGUMENT, this only bounds a library that never says it.
_MAX_ENUM = 64
_MAX_INSTANCES = 16
#: More memory slices, placements or MIG devices of one GPU than any has had (8, 7 and 7): what tells more tells nothing true.
_MAX_SLICES = 64
_MAX_CI_ID = 9


class CiState(NamedTuple):
    """A compute instance that exists: its NVML id inside the GPU instance, profile name, first compute slice."""

    id: int
    name: str
    start: int


class GiState(NamedTuple):
    """A GPU instance that exists: its NVML id, profile name, memory slices ``start`` and ``size``, compute instances."""

    id: int
    profile: str
    start: int
    size: int
    cis: tuple


class MigNvml(Nvml):
    """An NVML session that also knows MIG. What it knows of a GPU's MIG devices ends with it and with a change of the mode."""

    def __init__(self, host):
        super().__init__(host)
        self._mig_devices = {}
        self._order = {}

    def close(self):
        """End the session, as :meth:`.Nvml.close`."""
        self._mig_devices.clear()
        super().close()

    # -- modes ---------------------------------------------------------------------------------------------------
    @one_piece
    def mig_mode(self, gpu):
        """(current, pending) MIG mode as booleans, None where the GPU or driver has no MIG."""
        found = self.call(
            "nvmlDeviceGetMigMode",
            self.handle(gpu),
            gpu=gpu,
            doing="read the MIG mode",
            quiet=(NOT_SUPPORTED, FUNCTION_NOT_FOUND),
        )
        return None if found is None else (bool(found[0]), bool(found[1]))

    @one_piece
    def set_mig_mode(self, gpu, enabled):
        """Set the MIG mode. Returns NVML's activation status: 0, RESET_REQUIRED, IN_USE or NOT_SUPPORTED."""
        try:
            return self.call(
                "nvmlDeviceSetMigMode",
                self.handle(gpu),
                int(enabled),
                gpu=gpu,
                doing=f"{'enable' if enabled else 'disable'} MIG mode",
            )
        finally:
            # Handles mean nothing after a mode change, which a driver may have made though it says no.
            self._handles.pop(gpu, None)
            self._mig_devices.pop(gpu, None)

    # -- profiles ------------------------------------------------------------------------------------------------
    @one_piece
    def table(self, gpu, known=None):
        """
        The MIG profiles that the driver reports for this GPU, None where it reports none (older drivers while MIG is off).

        :param known: the catalog's table of this model or None: compute instance profiles can't be asked for without a GPU
            instance, and one board (A30) reports wrong counts, so these two come from it where it has the profile.
        """
        handle = self.handle(gpu)
        # The newer form names the profiles, but is documented to answer only while MIG is on.
        found = self._profiles(handle, gpu, 2, known) or self._profiles(handle, gpu, 1, known)
        if not any(profile.starts for profile in found):
            return None
        return MigTable(
            slots=max(start + p.size for p in found for start in p.starts),
            compute=max(p.slices for p in found),
            profiles=tuple(sorted(found, key=lambda p: (p.slices, p.size, p.name))),
        )

    def _profiles(self, handle, gpu, version, known):
        lib, found = self.open(), []
        name = "nvmlDeviceGetGpuInstanceProfileInfo"
        ask = getattr(lib, name)
        for enum in range(_MAX_ENUM):
            try:
                info = self._ask(gpu, "read the MIG profiles", ask, name, handle, enum, version=version)
            except lib.NVMLError as err:
                code = getattr(err, "value", None)
                if code in (INVALID_ARGUMENT, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH):
                    break
                if code == NOT_SUPPORTED:
                    continue
                raise translate(err, gpu, "read the MIG profiles") from err
            found.append(self._profile(handle, gpu, enum, info, known))
        return found

    def _profile(self, handle, gpu, enum, info, known):
        _believe(info.sliceCount, "compute slices of a profile", gpu)
        starts, size = self._placements(handle, gpu, info.id)
        attributes = ATTRIBUTES.get(enum, ())
        name = text_of(getattr(info, "name", b"")).removeprefix("MIG ").strip() or self._name(handle, gpu, info, attributes)
        listed = known.by_id(info.id) if known else None
        same = listed is not None and (listed.slices, listed.size, listed.attributes) == (info.sliceCount, size, attributes)
        return GiProfile(
            name=name,
            enum=enum,
            id=info.id,
            slices=info.sliceCount,
            size=size,
            starts=starts,
            count=listed.count if same else min(info.instanceCount or len(starts), len(starts)),
            memory_mib=info.memorySizeMB,
            attributes=attributes,
            sm=info.multiprocessorCount,
            engines=(info.copyEngineCount, info.decoderCount, info.encoderCount, info.jpegCount, info.ofaCount),
            cis=_renamed(listed.cis, name) if same else ci_profiles(name, info.sliceCount),
        )

    def _name(self, handle, gpu, info, attributes):
        total = self.call("nvmlDeviceGetMemoryInfo", handle, gpu=gpu, doing="read the memory size").total / 2**20
        if info.memorySizeMB > total:
            raise _unbelievable(f"{info.memorySizeMB} MiB for a profile of a GPU that has {total:.0f} MiB", gpu)
        return profile_name(info.sliceCount, info.memorySizeMB, total, attributes)

    def _placements(self, handle, gpu, profile_id):
        lib, count = self.open(), ctypes.c_uint(0)
        ask = "nvmlDeviceGetGpuInstancePossiblePlacements"
        self.call(ask, handle, profile_id, None, ctypes.byref(count), gpu=gpu, doing="read the legal placements")
        room = max(_believe(count.value, "legal placements of a profile", gpu), 1)
        places = (lib.c_nvmlGpuInstancePlacement_t * room)()
        self.call(ask, handle, profile_id, places, ctypes.byref(count), gpu=gpu, doing="read the legal placements")
        found = sorted((p.start, p.size) for p in places[: count.value])
        for start, size in found:
            _believe(start + size, "memory slices", gpu)
        return tuple(start for start, _ in found), (found[0][1] if found else 0)

    # -- instances -----------------------------------------------------------------------------------------------
    @one_piece
    def instances(self, gpu, table):
        """
        The GPU instances that exist, with their compute instances, ordered by placement.

        Instances can only be listed profile by profile; the profiles seen last on a GPU of the same table are asked for first,
        and the listing ends when no room is left in which another instance could hide.
        """
        self._mig_devices.pop(gpu, None)
        handle, found = self.handle(gpu), []
        order = self._order.get(table, table.profiles)
        for profile in order:
            if _full(found, table):
                break
            for gi in self._gis(handle, gpu, profile):
                info = self.call("nvmlGpuInstanceGetInfo", gi, gpu=gpu, doing="read a GPU instance")
                cis = self._compute_instances(gi, gpu, profile)
                found.append((GiState(info.id, profile.name, info.placement.start, info.placement.size, cis), profile))
        seen = {profile.name for _, profile in found}
        self._order[table] = sorted(order, key=lambda p: p.name not in seen)
        return tuple(sorted((gi for gi, _ in found), key=lambda gi: gi.start))

    def _gis(self, handle, gpu, profile):
        room, count = (self.open().c_nvmlGpuInstance_t * _MAX_INSTANCES)(), ctypes.c_uint(_MAX_INSTANCES)
        self.call(
            "nvmlDeviceGetGpuInstances",
            handle,
            profile.id,
            room,
            ctypes.byref(count),
            gpu=gpu,
            doing="list the GPU instances",
            quiet=(NOT_SUPPORTED, INVALID_ARGUMENT),
        )
        return [gi for gi in room[: _believe(count.value, "GPU instances of a profile", gpu, _MAX_INSTANCES)] if gi]

    def _compute_instances(self, gi, gpu, profile):
        found, used = [], 0
        largest_first = sorted(profile.cis, key=lambda ci: -ci.slices)
        for ci in largest_first:
            if used >= profile.slices:
                break
            for info in self._cis(gi, gpu, ci.id):
                found.append(CiState(info.id, ci.name, info.placement.start))
                used += ci.slices
        if used < profile.slices:
            found += self._odd_compute_instances(gi, gpu, {ci.id for ci in profile.cis})
        return tuple(sorted(found, key=lambda ci: ci.start))

    def _odd_compute_instances(self, gi, gpu, known_ids):
        """Compute instances of the ids that recent drivers have beside the plain ones (1_SLICE_REV1, 7_SLICE_NVL)."""
        return [
            CiState(info.id, f"ci-profile-{profile_id}", info.placement.start)
            for profile_id in range(_MAX_CI_ID)
            if profile_id not in known_ids
            for info in self._cis(gi, gpu, profile_id)
        ]

    def _cis(self, gi, gpu, profile_id):
        lib = self.open()
        room, count = (lib.c_nvmlComputeInstance_t * _MAX_INSTANCES)(), ctypes.c_uint(_MAX_INSTANCES)
        self.call(
            "nvmlGpuInstanceGetComputeInstances",
            gi,
            profile_id,
            room,
            ctypes.byref(count),
            gpu=gpu,
            doing="list the compute instances",
            quiet=(NOT_SUPPORTED, INVALID_ARGUMENT),
        )
        return [
            self.call("nvmlComputeInstanceGetInfo", ci, gpu=gpu, doing="read a compute instance")
            for ci in room[: _believe(count.value, "compute instances of a profile", gpu, _MAX_INSTANCES)]
            if ci
        ]

    @one_piece
    def gi_handle(self, gpu, gi_id):
        """Handle of a GPU instance by its id, None when it is gone."""
        return self.call(
            "nvmlDeviceGetGpuInstanceById", self.handle(gpu), gi_id, gpu=gpu, doing="find a GPU instance", quiet=(NOT_FOUND,)
        )

    @one_piece
    def create_gi(self, gpu, profile, start):
        """Create a GPU instance there; returns its id, and the memory slice where the driver says that it is."""
        doing = f"create GPU instance {profile.name} at memory slice {start}"
        place = self.open().c_nvmlGpuInstancePlacement_t(start, profile.size)
        gi = self.call(
            "nvmlDeviceCreateGpuInstanceWithPlacement", self.handle(gpu), profile.id, ctypes.byref(place), gpu=gpu, doing=doing
        )
        made = self.call("nvmlGpuInstanceGetInfo", gi, gpu=gpu, doing=doing)
        return made.id, made.placement.start

    @one_piece
    def create_ci(self, gpu, gi_id, ci, start):
        """Create a compute instance in a GPU instance. Drivers that can't place one are asked to choose; the caller re-reads."""
        doing = f"create compute instance {ci.name} at compute slice {start}"
        gi = self.gi_handle(gpu, gi_id)
        if gi is None:
            raise errors.ForeignChange(
                f"Could not {doing}: its GPU instance {gi_id} is gone.", gpu, "Another tool may have destroyed it; run again."
            )
        place = self.open().c_nvmlComputeInstancePlacement_t(start, ci.slices)
        made = self.call(
            "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
            gi,
            ci.id,
            ctypes.byref(place),
            gpu=gpu,
            doing=doing,
            quiet=(FUNCTION_NOT_FOUND,),
        )
        if made is None:
            self.call("nvmlGpuInstanceCreateComputeInstance", gi, ci.id, gpu=gpu, doing=doing)

    @one_piece
    def destroy_ci(self, gpu, gi_id, ci_id):
        """Destroy a compute instance; one that is gone already counts as destroyed."""
        gi = self.gi_handle(gpu, gi_id)
        ci = gi and self.call(
            "nvmlGpuInstanceGetComputeInstanceById", gi, ci_id, gpu=gpu, doing="find a compute instance", quiet=(NOT_FOUND,)
        )
        if ci:
            self.call(
                "nvmlComputeInstanceDestroy",
                ci,
                gpu=gpu,
                doing=f"destroy compute instance {ci_id} of GPU instance {gi_id}",
                quiet=(NOT_FOUND,),
            )

    @one_piece
    def destroy_gi(self, gpu, gi_id):
        """Destroy a GPU instance that has no compute instances left; one that is gone already counts as destroyed."""
        gi = self.gi_handle(gpu, gi_id)
        if gi:
            self.call("nvmlGpuInstanceDestroy", gi, gpu=gpu, doing=f"destroy GPU instance {gi_id}", quiet=(NOT_FOUND,))

    @one_piece
    def mig_devices(self, gpu, anew=False):
        """
        The MIG devices as a dict (GPU instance id, compute instance id) -> (handle, UUID), as they were when the instances were
        read, or as they are now (``anew``). Indices may have holes.
        """
        if anew or gpu not in self._mig_devices:
            self._mig_devices[gpu] = self._list_mig_devices(gpu)
        return self._mig_devices[gpu]

    def _list_mig_devices(self, gpu):
        handle, found = self.handle(gpu), {}
        most = (
            self.call("nvmlDeviceGetMaxMigDeviceCount", handle, gpu=gpu, doing="count the MIG devices", quiet=(NOT_SUPPORTED,))
            or 0
        )
        for index in range(_believe(most, "MIG devices", gpu)):
            device = self.call(
                "nvmlDeviceGetMigDeviceHandleByIndex",
                handle,
                index,
                gpu=gpu,
                doing="list the MIG devices",
                quiet=(NOT_FOUND, INVALID_ARGUMENT, NOT_SUPPORTED),
            )
            if device is None:
                continue
            gi = self.call("nvmlDeviceGetGpuInstanceId", device, gpu=gpu, doing="read a MIG device")
            ci = self.call("nvmlDeviceGetComputeInstanceId", device, gpu=gpu, doing="read a MIG device")
            found[(gi, ci)] = (device, text_of(self.call("nvmlDeviceGetUUID", device, gpu=gpu, doing="read a MIG device's UUID")))
        return found


def profile_name(slices, memory_mib, total_mib, attributes=()):
    """
    The name of a profile by NVIDIA's rule, for drivers that do not tell it: eighths of the memory rounded up, times the
    board's GiB rounded up, halves rounded up.
    """
    share = math.ceil(8 * memory_mib / total_mib) / 8
    gigabytes = math.floor(share * math.ceil(total_mib / 1024) + 0.5)
    plus = ",".join(a for a in attributes if not a.startswith("-"))
    minus = "".join(a for a in attributes if a.startswith("-"))
    return f"{slices}g.{gigabytes}gb{'+' + plus if plus else ''}{minus}"


def ci_profiles(gi_name, slices):
    """
    Compute instance profiles of a GPU instance by the rule seen on A100: sizes 1, 2, 3, 4 and 7 that fit, on multiples of
    2 for two slices and of 4 for three and more, and no three in a four-slice instance.
    """
    found = []
    for size, enum in CI_ENUMS.items():
        if size > slices or (size == 3 and slices == 4):
            continue
        if size == slices:
            found.append(CiProfile(gi_name, enum, enum, size, 1, (0,)))
            continue
        step = {1: 1, 2: 2}.get(size, 4)
        starts = tuple(range(0, slices - size + 1, step))
        found.append(CiProfile(f"{size}c.{gi_name}", enum, enum, size, len(starts), starts))
    return tuple(found)


def _believe(count, what, gpu, most=_MAX_SLICES):
    """A number that the driver tells, if it can be true. Raises errors.DriverError."""
    if 0 <= count <= most:
        return count
    raise _unbelievable(f"{count} {what}", gpu)


def _unbelievable(what, gpu):
    return errors.DriverError(
        f"NVML tells {what}, which can't be true.",
        gpu,
        "See 'dmesg | grep NVRM'; the driver and its libraries may not belong together.",
    )


def _full(found, table):
    compute = sum(profile.slices for _, profile in found)
    slots = sum(gi.size for gi, _ in found)
    return compute >= table.compute or slots >= table.slots


def _renamed(cis, gi_name):
    """The catalog's compute instance profiles under the names that follow from the driver's name of the GPU instance."""
    return tuple(
        CiProfile(
            f"{ci.name.split('.')[0]}.{gi_name}" if "c." in ci.name else gi_name, ci.enum, ci.id, ci.slices, ci.count, ci.starts
        )
        for ci in cis
    )
