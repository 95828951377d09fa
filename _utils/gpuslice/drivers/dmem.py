"""
Limits of a GPU's memory for the services and containers of a systemd slice, by the cgroup controller dmem (Linux 6.14).
"""

import errno
import re

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers import systemd
from gpuslice.numbers import whole
from gpuslice.outputs.unit_names import CONSUMERS
from gpuslice.outputs.unit_names import MEMORY_DROP_IN
from gpuslice.outputs.unit_names import UNITS

_ROOT = "/sys/fs/cgroup"
CAPACITY = f"{_ROOT}/dmem.capacity"
CURRENT = f"{_ROOT}/dmem.current"
_MEANINGS = {
    errno.EINVAL: (errors.Unsupported, "the kernel does not know the region or the value", "See dmem.capacity."),
    errno.EBUSY: (errors.ResourceConflict, "more is in use than the new limit allows", "Stop its users and run again."),
}
_CONTROL = "cgroup.subtree_control"
_CONTROL_MEANINGS = {
    errno.EBUSY: (errors.ResourceConflict, "processes run in that group itself", "Give them a service or scope of their own."),
    errno.ENOENT: (errors.Unsupported, "this host has no cgroup version 2 with the controller dmem", "See vram_max_mib."),
}


def regions(host, address):
    """Region -> bytes, of the memory of a GPU that can be limited."""
    found = {}
    for line in (kernel.text(host, CAPACITY) or "").splitlines():
        words = line.split()
        if len(words) == 2 and _is_of(words[0], address) and (size := whole(words[1])) is not None:
            found[words[0]] = size
    return found


def _is_of(region, address):
    """Whether a region is memory of a GPU: of xe and amdgpu, or of NVIDIA's own driver (r615 and later)."""
    return region.startswith(f"drm/{address}/vram") or region == f"nvidia/{address}/vidmem"


def used(host, address):
    """(bytes, bytes in use) of the memory of a GPU or virtual function; (None, None) where the kernel does not account for it."""
    mine = regions(host, address)
    rows = (line.split() for line in (kernel.text(host, CURRENT) or "").splitlines())
    # The root group's account is that of all groups below it.
    now = [whole(row[1]) for row in rows if len(row) == 2 and row[0] in mine]
    known = bool(mine) and len(now) == len(mine) and None not in now
    return (sum(mine.values()), sum(now)) if known else (None, None)


def limits(host, address):
    """Slice unit -> region -> bytes, of all limits that are set for a GPU but those of consumers, who have their own."""
    if not host.exists(CAPACITY):
        return {}
    mine, found = set(regions(host, address)), {}
    for unit, path in _slices(host, _ROOT):
        if _is_of_consumer(host, unit):
            continue
        rows = (line.split() for line in (kernel.text(host, f"{path}/dmem.max") or "").splitlines())
        sizes = ((row[0], whole(row[1])) for row in rows if len(row) == 2 and row[0] in mine)
        set_here = {region: size for region, size in sizes if size is not None}
        if set_here:
            found[unit] = set_here
    return found


def _is_of_consumer(host, unit):
    """Whether a slice is limited for a consumer: one that is only his, or that of a login user."""
    user = re.fullmatch(r"user-([0-9]+)\.slice", unit)
    return unit.startswith(CONSUMERS) or (user and host.exists(f"{UNITS}/user@{user[1]}.service.d/{MEMORY_DROP_IN}"))


def limit_of(host, unit, region):
    """Bytes to which a slice is limited in a region; None for no limit, or no such file."""
    rows = (line.split() for line in (kernel.text(host, f"{path_of(unit)}/dmem.max") or "").splitlines())
    return next((whole(row[1]) for row in rows if len(row) == 2 and row[0] == region), None)


def _slices(host, path):
    """(unit, directory) of all slices below a directory."""
    for name in host.listdir(path):
        if name.endswith(".slice"):
            yield name, f"{path}/{name}"
            yield from _slices(host, f"{path}/{name}")


def path_of(unit):
    """The directory of a slice: ``a-b.slice`` lies in ``a.slice``."""
    parts = unit.removesuffix(".slice").split("-")
    return "/".join([_ROOT, *("-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)))])


def is_open(host, unit):
    """Whether a slice is there and can be limited. After a boot it often is not, until a service starts in it."""
    return host.exists(f"{path_of(unit)}/dmem.max")


def open_slice(host, gpu, unit):
    """
    Start a slice, and switch the controller on in the groups above it, which systemd does not know to do.

    :raises errors.ToolFailed: systemd does not start it; errors.GpuSliceError: the kernel refuses.
    """
    start_slice(host, gpu, unit, "Correct vram_slice, or mend that.")
    for above in _above(path_of(unit)):
        if "dmem" not in (kernel.text(host, f"{above}/{_CONTROL}") or "").split():
            doing = f"switch the controller dmem on for {unit} in {above}/{_CONTROL}"
            kernel.write(host, gpu.address, f"{above}/{_CONTROL}", "+dmem", doing, _CONTROL_MEANINGS)


def start_slice(host, gpu, unit, todo="See 'systemctl status' of it, mend that and run again."):
    """Start a slice that is not there. Raises errors.ToolFailed: systemd does not start it; :param todo: what helps then."""
    path = path_of(unit)
    if host.exists(path):
        return
    done = systemd.start(host, unit)
    if done.returncode or not host.exists(path):
        said = done.said or f"systemctl said nothing, but {path} is not there"
        raise errors.ToolFailed(f"{unit} could not be started: {said}", gpu.address, todo)


def _above(path):
    """The groups above a group, from the root on."""
    parts = path.removeprefix(_ROOT).split("/")[1:]
    return ["/".join([_ROOT, *parts[:count]]) for count in range(len(parts))]


def write(host, gpu, unit, region, limit):
    """Set the limit of one region in bytes, None for no limit. Raises errors of gpuslice.errors."""
    value = "max" if limit is None else limit
    path = f"{path_of(unit)}/dmem.max"
    kernel.write(host, gpu.address, path, f"{region} {value}\n", f"limit {region} for {unit}", _MEANINGS)
