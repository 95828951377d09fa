"""
One vGPU more or less, all others as they are: what that makes of a layout.
"""

from gpuslice import addresses
from gpuslice import errors
from gpuslice.techniques.vgpu import types as vgpu_types


def one_more(gpu, layout, types, slots, function, profile):
    """
    Settings for a layout with one more vGPU.

    :param layout: of now; :param types: :class:`.types.VgpuTypes`; :param slots: as of :func:`gpuslice.drivers.vgpu_slots.slots`.
    :param function: PCI address of the virtual function that carries it, or of a GPU that carries all.
    :raises errors.ProfileMismatch: no such type. :raises errors.DeviceNotFound: the GPU has no such function.
    :raises errors.PolicyError: no PCI address. :raises errors.ResourceConflict: there is no room for the type now.
    """
    function, _ = addresses.normalize(function)
    found = vgpu_types.resolve(gpu, profile, types)
    carriers = slots.carriers() if slots else []
    if function not in carriers:
        there = ", ".join(carriers) or "none: gpu_vgpu.set_vgpus enables them"
        raise errors.DeviceNotFound(f"{function} carries no vGPU of this GPU.", gpu.address, f"What can is: {there}.")
    if function not in [at for _, at, _ in layout["vgpus"]] or function == gpu.address:
        slots.refuse_if_not_creatable(found.name, function)
    taken = [uuid for _, _, uuid in layout["vgpus"]]
    others = [entry for entry in layout["vgpus"] if entry[1] != function or function == gpu.address]
    return {"layout": {**layout, "vgpus": [*others, [found.name, function, slots.uuid(function, taken)]]}}


def one_less(gpu, layout, vgpu):
    """
    Settings for a layout without one vGPU, named by UUID or by the address of its function.

    :raises errors.DeviceNotFound: the GPU has no such vGPU.
    """
    vgpu = vgpu.strip().lower() if addresses.is_uuid(vgpu) else addresses.normalize(vgpu)[0]
    left = [entry for entry in layout["vgpus"] if vgpu not in (entry[2] or entry[1], entry[1])]
    if len(left) == len(layout["vgpus"]):
        there = ", ".join(uuid or at for _, at, uuid in layout["vgpus"]) or "none"
        raise errors.DeviceNotFound(f"There is no vGPU {vgpu}; there are: {there}.", gpu.address, "Name one of these.")
    return {"layout": {**layout, "vgpus": left}}
