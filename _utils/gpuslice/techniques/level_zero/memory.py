"""
Limits of memory for slices of systemd, whoever runs in them: by the same means and files as those of consumers, for slice units
that somebody else has made.
"""

import os
import re
import sys

import gpuslice
from gpuslice import errors
from gpuslice.drivers import dmem
from gpuslice.drivers import kernel
from gpuslice.drivers import quota
from gpuslice.outputs import memory_limit
from gpuslice.outputs.unit_names import CONSUMERS
from gpuslice.outputs.unit_names import MEMORY_DROP_IN
from gpuslice.outputs.unit_names import UNITS


def in_force(host, address):
    """Slice unit -> bytes, of all limits of a GPU that the kernel has but those of consumers, who have their own."""
    return {unit: size for unit, size in dmem.limits(host, address).items() if not _is_of_consumer(host, unit)}


def _is_of_consumer(host, unit):
    """Whether a slice is limited for a consumer: one that is only his, or that of a login user."""
    user = re.fullmatch(r"user-([0-9]+)\.slice", unit)
    return unit.startswith(CONSUMERS) or (user and host.exists(f"{UNITS}/user@{user[1]}.service.d/{MEMORY_DROP_IN}"))


def kept(host, address):
    """Slice unit -> MiB, of all that a unit of ours limits for a GPU whenever they are there."""
    found = {}
    for name in host.listdir(UNITS):
        if unit := memory_limit.limited_slice(name, address):
            found[unit] = memory_limit.mebibytes_of(kernel.text(host, f"{UNITS}/{name}") or "", address) or 0
    return found


def wanted(host, sessions, gpu, state, unit, mebibytes):
    """
    What a wish comes to: (slice unit -> bytes in force, slice unit -> MiB of a unit of ours, what has to be known of it).

    :param state: :class:`.technique.LevelZeroState`; :param unit: slice unit, "" leaves all as they are to be.
    :param mebibytes: limit for the whole GPU, 0 lifts it. :raises errors.PolicyError: more than there is.
    """
    ours, now = dict(state.kept), dict(state.vram)
    if unit:
        ours.pop(unit, None)
        now.pop(unit, None)
        ours.update({unit: mebibytes} if mebibytes else {})
    if not ours:
        return now, ours, ""
    by = quota.means(host, sessions, gpu)
    for name, each in ours.items():
        quota.refuse_above(gpu, name, each, by, "vram_max_mib")
    told = " ".join(quota.told(gpu, name, each, by) for name, each in sorted(ours.items()))
    if by.name == quota.NONE:
        return now, {}, told
    return {**now, **{name: each * quota.MIB for name, each in ours.items()}}, ours, told


def files(gpu, ours):
    """Path -> text of the files by which these limits come back; :param ours: slice unit -> MiB."""
    program = (sys.executable, "-m", memory_limit.MODULE)
    place = os.path.dirname(os.path.dirname(os.path.abspath(gpuslice.__file__)))
    made = (memory_limit.of_slice(unit, gpu.address, each, program, place) for unit, each in ours.items())
    return {file.path: file.text for pair in made for file in pair}


def write(host, gpu, unit, mebibytes):
    """Write the files for a slice; :param mebibytes: None removes them. Raises errors.ToolFailed."""
    for path, text in files(gpu, {unit: mebibytes or 0}).items():
        try:
            host.store_remove(path) if mebibytes is None else host.store_write(path, text)
        except OSError as err:
            what = "removed" if mebibytes is None else "written"
            raise errors.ToolFailed(
                f"{path} can't be {what}: {err.strerror}.", gpu.address, "Mend its folder or free space, then run again."
            ) from err


def is_written(host, gpu, unit, mebibytes):
    """Whether the files for a slice are there and say so much."""
    return all(kernel.text(host, path) == text.strip() for path, text in files(gpu, {unit: mebibytes}).items())


def set_limit(host, sessions, gpu, unit, limit):
    """Limit a slice to so many bytes, None for no more, and read it back. Raises errors of :mod:`gpuslice.drivers.quota`."""
    if limit is not None or quota.is_there(host, unit):
        quota.set_best(host, sessions, gpu, unit, limit)
