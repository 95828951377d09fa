"""
One compute instance more or less in a GPU instance that stays: what that makes of a layout.
"""

from gpuslice import errors
from gpuslice.model import slice_name
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.devices import ci_slice_name
from gpuslice.techniques.mig.devices import instance_name
from gpuslice.techniques.mig.devices import instance_of


def with_more(mig, gpu, state, instance, profile, count):
    """
    The instances of a layout with compute instances added to one GPU instance.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param instance: the GPU instance, as users name it.
    :param profile: as users write it: ``1c`` or ``1c.3g.40gb``; :param count: how many.
    :raises errors.DeviceNotFound: there is no such GPU instance. :raises errors.ProfileMismatch: they don't fit into it.
    :raises errors.ResourceConflict: vGPUs stand on it.
    """
    uuids = _uuids(mig, gpu, state)
    found = next((gi for gi in state.instances if _is(mig, gpu, gi, instance, uuids)), None)
    if found is None:
        there = "; ".join(f"{gi.profile}@{gi.start} ({_held(mig.table(gpu), gi)})" for gi in state.instances) or "none"
        raise errors.DeviceNotFound(
            f"There is no GPU instance {instance}; there are: {there}.",
            gpu.address,
            f"Name one of these, or make one: salt-call gpu_mig.create {gpu.address} <profile>.",
        )
    ci = _profile(mig, gpu, found, profile)
    _refuse_under_vgpus(mig, gpu, found)
    _refuse_if_full(mig, gpu, found, ci, count)
    return _with_cis(mig, state, found, [[each.name, each.start] for each in found.cis] + [[ci.name, None]] * count)


def with_less(mig, gpu, state, device):
    """
    The instances of a layout without one compute instance, named by its MIG UUID or the name of its slice.

    :raises errors.DeviceNotFound: there is no such one. :raises errors.PolicyError: it is the last one in its GPU instance.
    :raises errors.ResourceConflict: vGPUs stand on that.
    """
    uuids = _uuids(mig, gpu, state)
    devices = [(gi, ci, uuids.get((gi.id, ci.id), "")) for gi in state.instances for ci in gi.cis]
    name = device.strip().lower()
    found = next((each for each in devices if name in _names(gpu, *each)), None)
    if found is None:
        there = ", ".join(ci_slice_name(gpu.address, gi, ci) for gi, ci, _ in devices) or "none"
        raise errors.DeviceNotFound(
            f"There is no compute instance {device}; there are: {there}.", gpu.address, "Name one of these, or a MIG UUID."
        )
    gi, ci, _ = found
    _refuse_under_vgpus(mig, gpu, gi)
    if len(gi.cis) == 1:
        raise errors.PolicyError(
            f"{ci.name} is the last compute instance in {gi.profile}@{gi.start}, which would be left as an empty GPU instance.",
            gpu.address,
            f"Destroy the GPU instance with it: salt-call gpu_mig.destroy {gpu.address} {gi.profile}@{gi.start}",
        )
    return _with_cis(mig, state, gi, [[each.name, each.start] for each in gi.cis if each is not ci])


def _uuids(mig, gpu, state):
    """(number of a GPU instance, of a compute instance in it) -> its MIG UUID."""
    return {ids: uuid for ids, (_, uuid) in mig.nvml.mig_devices(gpu.address).items()} if state.instances else {}


def _names(gpu, gi, ci, uuid):
    """What users may call a compute instance, in lower case."""
    return {ci_slice_name(gpu.address, gi, ci).lower(), *([uuid.lower()] if uuid else ())}


def _is(mig, gpu, gi, instance, uuids):
    """Whether a GPU instance, or a compute instance in it, is called so."""
    name = instance.strip().lower()
    profile, at, start = name.partition("@")
    if at:
        return start == str(gi.start) and instance_name(mig, gpu, profile) == gi.profile
    inside = {each for ci in gi.cis for each in _names(gpu, gi, ci, uuids.get((gi.id, ci.id), ""))}
    return name in {slice_name(gpu.address, gi.profile, gi.start).lower(), *inside}


def _with_cis(mig, state, gi, cis):
    layout = mig.layout(state)["instances"]
    return [[profile, start, cis if start == gi.start else own] for profile, start, own in layout]


def _profile(mig, gpu, gi, name):
    """The compute instance profile that is meant in a GPU instance."""
    bare = name.strip().lower()
    number = bare[:-1] if bare.endswith("c") else ""
    known = mig.table(gpu).profile(gi.profile)
    if number.isascii() and number.isdigit():
        slices, outer = int(number), known
    else:
        outer, ci = mig.resolve(gpu, name)
        slices = ci.slices if ci else outer.slices
    found = profile_names.plain_ci(known, slices) if outer == known else None
    if found is None:
        offer = ", ".join(ci.name for ci in sorted(known.cis, key=lambda ci: ci.slices))
        raise errors.ProfileMismatch(
            f"A GPU instance {gi.profile} has no compute instance profile {name}.", gpu.address, f"Use one of: {offer}."
        )
    return found


def _refuse_under_vgpus(mig, gpu, gi):
    there = [vgpu.identity for vgpu in mig.vgpus(gpu) if vgpu.gi in (None, gi.id)]
    if there:
        raise errors.ResourceConflict(
            f"{gi.profile}@{gi.start} carries vGPUs, which have all that is in it: {', '.join(there)}.",
            gpu.address,
            f"Remove them first: salt-call gpu_vgpu.remove {gpu.address}",
        )


def _refuse_if_full(mig, gpu, gi, ci, count):
    if placement.free_inside(mig.table(gpu), instance_of(gi))[ci.name] >= count:
        return
    what = ci.name if count == 1 else f"{count} x {ci.name}"
    raise errors.ProfileMismatch(
        f"There is no room for {what} in {gi.profile}@{gi.start}, which {_held(mig.table(gpu), gi)}.",
        gpu.address,
        "A compute instance can't move inside its GPU instance: destroy one that is not needed with gpu_mig.destroy_ci, "
        "or make another GPU instance with gpu_mig.create.",
    )


def _held(table, gi):
    """What is in a GPU instance, and what fits beside that, as words that follow its name."""
    there = ", ".join(f"{ci.name} at {ci.start}" for ci in gi.cis) or "nothing"
    fitting = placement.free_inside(table, instance_of(gi)).items()
    told = " or ".join(f"{number} x {name}" for name, number in fitting if number) or "nothing more"
    return f"has {there}, and takes {told}"
