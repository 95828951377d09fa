"""
One MIG instance more or less, all others where they are, or idle ones elsewhere: what that makes of a layout.
"""

from gpuslice import errors
from gpuslice.techniques.mig.devices import instance_name


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
    if "defrag" in difference:
        # Here and below, so that each difference loads what it needs.
        from gpuslice.techniques.mig import moving

        return moving.settings_for(mig, gpu, state, *difference["defrag"], difference.get("stays", ()))
    layout = mig.layout(state)
    if "create" in difference:
        made = _one_more(mig, gpu, state, *difference["create"], difference.get("stays", ()))
        return {"layout": {**layout, "instances": [*layout["instances"], made]}}
    if "create_ci" in difference or "destroy_ci" in difference:
        return {"layout": {**layout, "instances": _inside(mig, gpu, state, difference)}}
    left = _without(mig, gpu, state, difference["destroy"])
    return {"layout": {**layout, "instances": mig.layout(state._replace(instances=left))["instances"]}}


def _one_more(mig, gpu, state, name, start, stood_on):
    """One more instance for a layout: ``name`` as users write it, ``start`` a memory slice or None."""
    from gpuslice.techniques.mig import room

    profile, ci = mig.resolve(gpu, name)
    room.refuse_if_full(mig, gpu, state, profile, start, stood_on)
    return [profile.name, start, [[(ci or profile).name, None]]]


def _inside(mig, gpu, state, difference):
    """The instances of a layout with a compute instance more or less in one of them."""
    from gpuslice.techniques.mig import inside

    if "create_ci" in difference:
        return inside.with_more(mig, gpu, state, *difference["create_ci"])
    return inside.with_less(mig, gpu, state, difference["destroy_ci"])


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
    place = (instance_name(mig, gpu, profile), start)
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
