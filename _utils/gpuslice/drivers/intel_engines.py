"""
The engines of an Intel GPU as its driver's files tell them: how many compute engines the compute slices are divided among (CCS
mode), and the scheduling properties of each engine class.

Engine blocks are named ``tile0/gt0`` (xe, as their directory below the PCI function's) or ``gt/gt0`` (i915, whose directory is
that of the card's node: the number of a card can be another one after a boot).
"""

import errno
import re

from gpuslice import errors
from gpuslice.catalog import intel
from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES

PROPERTIES = ("timeslice_duration_us", "preempt_timeout_us", "job_timeout_ms")

CCS_MEANINGS = {
    errno.EBUSY: (errors.InUse, "it is in use", "Stop its users and run again."),
    errno.EOPNOTSUPP: (
        errors.Unsupported,
        "the driver runs as a physical or virtual function of SR-IOV and refuses it, even without virtual functions",
        "Boot with 'xe.max_vfs=0' (or write 0 to sriov/max_vfs below /sys/kernel/config/xe/ before the driver is bound).",
    ),
    errno.EINVAL: (errors.PolicyError, "it must divide the number of compute slices", "Correct ccs_mode."),
}
PROPERTY_MEANINGS = {
    errno.EINVAL: (errors.PolicyError, "it is outside of what the driver allows", "Correct engines."),
}


def tiles(host, address):
    """How many tiles the driver shows, None where it shows none."""
    base = f"{DEVICES}/{address}"
    found = [name for name in host.listdir(base) if re.match(r"tile\d+\Z", name)]
    return len(found) or None


def blocks(host, address):
    """The engine blocks of a GPU, sorted."""
    base = f"{DEVICES}/{address}"
    found = []
    for tile in (name for name in host.listdir(base) if re.match(r"tile\d+\Z", name)):
        found += [f"{tile}/{gt}" for gt in host.listdir(f"{base}/{tile}") if re.match(r"gt\d+\Z", gt)]
    for card in (name for name in host.listdir(f"{base}/drm") if re.match(r"card\d+\Z", name)):
        found += [f"gt/{gt}" for gt in host.listdir(f"{base}/drm/{card}/gt") if re.match(r"gt\d+\Z", gt)]
    return sorted(found)


def directory(host, address, block):
    """Where the files of an engine block are."""
    base = f"{DEVICES}/{address}"
    if block.startswith("tile"):
        return f"{base}/{block}"
    card = next((name for name in host.listdir(f"{base}/drm") if re.match(r"card\d+\Z", name)), "card0")
    return f"{base}/drm/{card}/{block}"


def modes(host, address):
    """Engine block -> CCS mode, of the blocks that have one."""
    found = {}
    for block in blocks(host, address):
        mode = kernel.number(host, f"{directory(host, address, block)}/ccs_mode")
        if mode is not None:
            found[block] = mode
    return found


def slices(host, address, block):
    """Compute slices of an engine block, None where it tells none."""
    return kernel.number(host, f"{directory(host, address, block)}/num_cslices")


def check_mode(host, gpu, modes_now, wanted):
    """
    Refuse a CCS mode that the hardware can't have.

    :param modes_now: result of :func:`modes`. :raises errors.Unsupported: it has no such mode, with the reason of its family.
    :raises errors.PolicyError: it does not divide the compute slices.
    """
    if not modes_now:
        raise errors.Unsupported(
            f"ccs_mode {wanted} is wanted, but {why_no_ccs(gpu)}.", gpu.address, "Leave ccs_mode out for this GPU."
        )
    for block in modes_now:
        count = slices(host, gpu.address, block)
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


def differing(host, address):
    """
    ``<block>/<class>`` -> property -> value, of the scheduling properties that are not as they were at boot.
    """
    found = {}
    for where in places(host, address):
        base = f"{DEVICES}/{address}/{_path(where)}"
        values = {key: kernel.number(host, f"{base}/{key}") for key in PROPERTIES}
        other = {k: v for k, v in values.items() if v is not None and v != kernel.number(host, f"{base}/.defaults/{k}")}
        if other:
            found[where] = other
    return found


def places(host, address):
    """``<block>/<class>`` of each engine class that has scheduling properties."""
    found = [(block, directory(host, address, block)) for block in blocks(host, address)]
    return [f"{block}/{name}" for block, base in found for name in host.listdir(f"{base}/engines")]


def property_path(address, where, key):
    """The file of a scheduling property."""
    return f"{DEVICES}/{address}/{_path(where)}/{key}"


def _path(where):
    block, _, name = where.rpartition("/")
    return f"{block}/engines/{name}"


def default(host, address, where, key):
    """What a scheduling property was at boot, None where the driver does not tell."""
    block = property_path(address, where, "")
    return kernel.number(host, f"{block}.defaults/{key}")


def wanted_properties(host, gpu, engines, now):
    """
    The differing properties (see :func:`differing`) after a wish.

    :param engines: class -> property -> value, 0 for the one at boot. :param now: the differing properties now.
    :raises errors.Unsupported: the GPU has no such class. :raises errors.PolicyError: a value outside of what the driver allows.
    """
    made = {where: dict(values) for where, values in now.items()}
    there = places(host, gpu.address)
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
    at_boot = default(host, gpu.address, where, key)
    values = made.setdefault(where, {})
    if value == 0 or value == at_boot:
        values.pop(key, None)
        return
    path = property_path(gpu.address, where, key)
    least, most = kernel.number(host, f"{path}_min"), kernel.number(host, f"{path}_max")
    if (least is not None and value < least) or (most is not None and value > most):
        raise errors.PolicyError(
            f"{key} {value} is wanted for {where}, and the driver allows {least} to {most}.", gpu.address, "Correct engines."
        )
    values[key] = value
