"""
One MIG instance more or less, all others where they are: what that makes of a layout.
"""

from gpuslice import errors


def settings_for(mig, gpu, state, difference):
    """
    Settings for what a difference makes of ``state``.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`, which has the other arguments and the errors at its ``settle``.
    """
    if "reset" in difference:
        if state.current == state.pending:
            raise errors.Unsupported("No mode change is pending, so a reset is not needed and not done.", gpu.address)
        return {"enabled": state.pending}
    if not state.current:
        raise errors.Unsupported(
            "MIG mode is disabled.", gpu.address, f"Enable it first: salt-call gpu_mig.set_mode {gpu.address} True"
        )
    layout = mig.layout(state)
    if "create" in difference:
        return {"layout": {**layout, "instances": [*layout["instances"], _one_more(mig, gpu, *difference["create"])]}}
    left = _without(mig, gpu, state, difference["destroy"])
    return {"layout": {**layout, "instances": mig.layout(state._replace(instances=left))["instances"]}}


def _one_more(mig, gpu, name, start):
    """One more instance for a layout: ``name`` as users write it, ``start`` a memory slice or None."""
    profile, ci = mig.resolve(gpu, name)
    return [profile.name, start, [[(ci or profile).name, None]]]


def _without(mig, gpu, state, name):
    """
    The GPU instances that are left without one, named as ``profile@start`` with all in it, or by the MIG UUID of a compute
    instance: the GPU instance around it goes with the last one in it.

    :raises errors.DeviceNotFound: the GPU has no such instance.
    """
    if name == "all":
        return ()
    uuids = mig.nvml.mig_devices(gpu.address) if str(name).startswith("MIG-") else {}
    gone = {ids for ids, (_, uuid) in uuids.items() if uuid == name}
    profile, _, start = str(name).partition("@")
    place = (_instance_name(mig, gpu, profile), start)
    named = [gi for gi in state.instances if (gi.profile, str(gi.start)) == place or any(gi.id == of for of, _ in gone)]
    if len(named) != 1 or len(gone) > 1:
        there = ", ".join(f"{gi.profile}@{gi.start}" for gi in state.instances) or "none"
        problem = "There is no instance" if not named else "There is more than one instance"
        raise errors.DeviceNotFound(
            f"{problem} {name}; there are: {there}.", gpu.address, "Name one of these, or a MIG UUID."
        )
    [found] = named
    stay = tuple(ci for ci in found.cis if gone and (found.id, ci.id) not in gone)
    kept = (gi if gi is not found else gi._replace(cis=stay) for gi in state.instances if gi is not found or stay)
    return tuple(kept)


def _instance_name(mig, gpu, name):
    """What the driver calls the GPU instance of that name. One of a compute instance names no GPU instance, and stays."""
    try:
        profile, ci = mig.resolve(gpu, name)
    except errors.ProfileMismatch:
        return name
    return name if ci else profile.name
