"""
What settings come to on one GPU: which CCS mode, and which scheduling properties.
"""

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import intel_engines
from gpuslice.drivers import kernel


def check_mode(host, gpu, modes_now, wanted):
    """
    Refuse a CCS mode that the hardware can't have.

    :param modes_now: result of :func:`gpuslice.drivers.intel_engines.modes`.
    :raises errors.Unsupported: it has no such mode, with the reason of its family.
    :raises errors.PolicyError: it does not divide the compute slices.
    """
    if not modes_now:
        raise errors.Unsupported(
            f"ccs_mode {wanted} is wanted, but {why_no_ccs(gpu)}.", gpu.address, "Leave ccs_mode out for this GPU."
        )
    for block in modes_now:
        count = intel_engines.slices(host, gpu.address, block)
        if count and (wanted > count or count % wanted):
            allowed = ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)
            raise errors.PolicyError(
                f"ccs_mode {wanted} is wanted, but it must divide the {count} compute slices of {block}.",
                gpu.address,
                f"Possible are {allowed}.",
            )


def why_no_ccs(gpu):
    """Why a GPU has no CCS mode, by its driver and family."""
    model = intel.MODELS.get(gpu.catalog_key, {})
    name = gpu.model or f"device {gpu.device_id}"
    if model.get("max_ccs") == 1:
        return f"{name} has a single compute engine, so there is nothing to divide"
    if gpu.driver == "i915":
        return f"the driver i915 of the kernel uses one compute engine of {name}; only the vendor's own i915 and xe can divide it"
    if gpu.virtual_functions.get("enabled"):
        return "virtual functions are enabled"
    return f"the driver {gpu.driver or '(none)'} tells no compute slices of {name}, so it has one alone or is a virtual function"


def wanted_properties(host, gpu, engines, now):
    """
    The differing properties (see :func:`gpuslice.drivers.intel_engines.differing`) after a wish.

    :param engines: class -> property -> value, 0 for the one at boot. :param now: the differing properties now.
    :raises errors.Unsupported: the GPU has no such class. :raises errors.PolicyError: a value outside of what the driver allows.
    """
    made = {where: dict(values) for where, values in now.items()}
    there = intel_engines.places(host, gpu.address)
    for name, properties in engines.items():
        concerned = [where for where in there if where.rpartition("/")[2] == name]
        if not concerned and properties:
            known = ", ".join(sorted({where.rpartition("/")[2] for where in there})) or "none, as it needs the driver xe"
            raise errors.Unsupported(
                f"Scheduling properties of the engine class {name} are wanted; this GPU has those of: {known}.",
                gpu.address,
                "Correct engines.",
            )
        for where in concerned:
            for key, value in properties.items():
                _set(host, gpu, made, where, key, value)
    return {where: values for where, values in made.items() if values}


def _set(host, gpu, made, where, key, value):
    at_boot = intel_engines.default(host, gpu.address, where, key)
    values = made.setdefault(where, {})
    if value == 0 or value == at_boot:
        values.pop(key, None)
        return
    path = intel_engines.property_path(gpu.address, where, key)
    least, most = kernel.number(host, f"{path}_min"), kernel.number(host, f"{path}_max")
    if (least is not None and value < least) or (most is not None and value > most):
        raise errors.PolicyError(
            f"{key} {value} is wanted for {where}, and the driver allows {least} to {most}.", gpu.address, "Correct engines."
        )
    values[key] = value
