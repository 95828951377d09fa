"""
Acts of other tools: what somebody else does to a GPU while a change of ours runs.
"""

from gpuslice.sim import hardware
from gpuslice.sim import vgpu_rules
from gpuslice.sim import vgpu_types
from gpuslice.sim.devices import made_uuid


def act(state, change):
    """
    Do to a GPU what a fault describes. What the driver refuses another tool, it does not do either.

    :param state: the machine, inside a change.
    :param change: ``{gpu, action, profile, start, enabled}``, see :mod:`gpuslice.sim.faults`.
    """
    try:
        _ACTS[change["action"]](state, change["gpu"], change)
    except hardware.Refused:
        return


def _set_mode(state, address, change):
    hardware.set_mode(state, address, int(change["enabled"]))


def _create_gi(state, address, change):
    profile = hardware.profile_named(state["gpus"][address], change["profile"])
    gi_id = hardware.create_gi(state, address, profile.id, change["start"])
    hardware.create_ci(state, address, gi_id, hardware.filling_ci(profile).id)


def _destroy_gi(state, address, change):
    gpu = state["gpus"][address]
    profile = hardware.profile_named(gpu, change["profile"])
    for gi_id, gi in list(gpu["gis"].items()):
        if gi["profile"] == profile.id and change["start"] in (None, gi["start"]):
            for ci_id in list(gi["cis"]):
                hardware.destroy_ci(state, address, gi_id, ci_id)
            hardware.destroy_gi(state, address, gi_id)
            return


def _create_vgpu(state, address, change):
    """A vGPU of the type ``profile`` on the first free function, where that is possible."""
    gpu = state["gpus"][address]
    kind = vgpu_types.by_name(gpu, change["profile"])
    carriers = [carrier for carrier, _ in vgpu_rules.carriers(state, address)]
    free = [carrier for carrier in carriers if kind and vgpu_rules.available(state, address, carrier, kind)]
    if free:
        mediated = gpu["about"]["vgpu"] == "mdev"
        uuid = made_uuid("", state["host"]["name"], "foreign", hardware.next_serial(state)) if mediated else ""
        vgpu_rules.create(state, address, free[0], kind, uuid)


#: The actions that :data:`gpuslice.sim.faults.ACTIONS` allows.
_ACTS = {"set_mode": _set_mode, "create_gi": _create_gi, "destroy_gi": _destroy_gi, "create_vgpu": _create_vgpu}
