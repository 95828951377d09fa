"""
The engines of an Intel GPU as its driver's files tell them: how many compute engines the compute slices are divided among (CCS
mode), and the scheduling properties of each engine class.

Engine blocks are named ``tile0/gt0`` (xe, as their directory below the PCI function's) or ``gt/gt0`` (i915, whose directory is
that of the card's node: the number of a card can be another one after a boot).
"""

import errno
import re

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers.pci import DEVICES

PROPERTIES = ("timeslice_duration_us", "preempt_timeout_us", "job_timeout_ms")

CCS_MEANINGS = {
    errno.EBUSY: (errors.InUse, errors.IN_USE, "Stop its users and run again."),
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
