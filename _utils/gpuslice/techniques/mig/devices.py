"""
MIG devices for those who use them: as slices, as profiles of which there may be more, and in words.
"""

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.model import slice_name
from gpuslice.techniques.mig import placement


def slices_of(gpu, state, table, nvml, users):
    """
    The MIG devices of a GPU as slices, with who uses them.

    :param state: :class:`gpuslice.techniques.mig.technique.MigState`; :param users: :class:`.users.Users`.
    """
    minor = nvml.minor(gpu.address)
    devices, busy = nvml.mig_devices(gpu.address), users.of_instances(gpu)

    def slice_of(gi, ci):
        profile = table.profile(gi.profile)
        nodes = (f"/dev/nvidia{minor}", *(node for node in users.cap_nodes(minor, gi.id, ci.id) if node))
        return Slice(
            gpu.address,
            "mig",
            ci.name,
            devices.get((gi.id, ci.id), (None, ""))[1],
            profile.memory_mib if profile else None,
            _share(table, profile, ci.name),
            f"{gi.start}:{gi.size}",
            nodes,
            tuple(p.as_dict() for p in busy.get((gi.id, ci.id), ())),
            ci_slice_name(gpu.address, gi, ci),
            instance=(gi.id, ci.id),
        )

    return [slice_of(gi, ci) for gi in state.instances for ci in gi.cis]


def expected_of(gpu, layout, table):
    """The MIG devices that a layout has; what only exists when it is made, such as the UUID, is left out."""
    return [
        _expected(gpu, table, profile, start, name, ci_start)
        for profile, start, cis in layout["instances"]
        for name, ci_start in cis
    ]


def _expected(gpu, table, profile, start, name, ci_start):
    found = table.profile(profile)
    place = f"{start}:{found.size}" if found else ""
    return Slice(
        gpu.address, "mig", name, "", found.memory_mib if found else None, _share(table, found, name), place,
        name=slice_name(gpu.address, *_places(profile, start, name, ci_start)),
    )  # fmt: skip


def _share(table, profile, name):
    """The part of the GPU's compute slices that a compute instance of that name has."""
    compute = next((ci.slices for ci in profile.cis if ci.name == name), profile.slices) if profile else 0
    return round(compute / table.compute, 3)


#: The engines of a profile, in the order in which the driver tells them.
ENGINES = ("copy", "decoder", "encoder", "jpeg", "optical_flow")


def profiles_of(table, state):
    """The profiles of a GPU for users, with how many more of each fit beside what is there."""
    free = placement.free_room(table, [instance_of(gi) for gi in state.instances])
    return {
        p.name: {
            "memory_mib": p.memory_mib,
            "compute_slices": p.slices,
            "memory_slices": p.size,
            "placements": list(p.starts),
            "max": p.count,
            "free": free[p.name],
            "compute_instances": [ci.name for ci in p.cis],
            "multiprocessors": p.sm,
            "engines": dict(zip(ENGINES, p.engines, strict=True)),
        }
        for p in table.profiles
    }


def instance_of(gi, busy=None):
    """A GPU instance as :mod:`.placement` takes it; ``busy`` has the (GPU instance, compute instance) ids in use."""
    cis = tuple((ci.name, ci.start) for ci in gi.cis)
    used = tuple((ci.name, ci.start) for ci in gi.cis if busy and (gi.id, ci.id) in busy)
    return placement.Instance(gi.profile, gi.start, gi.size, cis, used)


def ci_slice_name(address, gi, ci):
    """The name of the slice that a compute instance is."""
    return slice_name(address, *_places(gi.profile, gi.start, ci.name, ci.start))


def instance_name(mig, gpu, name):
    """
    What the driver calls the GPU instance of that name. One of a compute instance names no GPU instance, and stays.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`.
    """
    try:
        profile, ci = mig.resolve(gpu, name)
    except errors.ProfileMismatch:
        return name
    return name if ci else profile.name


def _places(profile, start, ci, ci_start):
    """What the name of a MIG device has after the address: of a compute instance also which it is, where it does not fill all."""
    return (profile, start) if ci == profile else (profile, start, ci.partition(".")[0], ci_start)


def device_words(profile, start, ci, ci_start):
    """``3g.40gb at 4``; for a compute instance that does not fill its GPU instance ``1c.3g.40gb at 0 of 3g.40gb at 4``."""
    return f"{profile} at {start}" if ci == profile else f"{ci} at {ci_start} of {profile} at {start}"


def instance_words(profile, start, cis):
    """``3g.40gb@4``, and its compute instances where they are not the one that fills it."""
    if len(cis) == 1 and cis[0][0] == profile:
        return f"{profile}@{start}"
    parts = ", ".join(f"{name.split('.')[0]}@{ci_start}" for name, ci_start in cis)
    return f"{profile}@{start} [{parts or 'no compute instance'}]"


def mode_word(enabled):
    """A MIG mode as users read it."""
    return "enabled" if enabled else "disabled"
