"""
Limits of a GPU's memory for all that runs in a systemd slice, by the cgroup controller dmem (Linux 6.14).

Facts: ``kernel/cgroup/dmem.c``, and what a kernel with it did in ``tests/parts/test_dmem_vm.py``.
"""

import errno

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.drivers import systemd
from gpuslice.numbers import whole

ROOT = "/sys/fs/cgroup"
CAPACITY = f"{ROOT}/dmem.capacity"
CURRENT = f"{ROOT}/dmem.current"
#: Why a slice has no group any more.
GONE = "its group is gone: a slice that was stopped, or of a user who has logged out"
_MEANINGS = {
    errno.EINVAL: (errors.Unsupported, "the kernel does not know the region or the value", "See dmem.capacity."),
    errno.ENOENT: (errors.ResourceConflict, f"{GONE}, or the controller dmem is not on in it", "Run again."),
    errno.EBUSY: (errors.ResourceConflict, "more is in use than the new limit allows", "Stop its users and run again."),
}
_CONTROL = "cgroup.subtree_control"
_CONTROL_MEANINGS = {
    errno.EBUSY: (errors.ResourceConflict, "processes run in that group itself", "Give them a service or scope of their own."),
    errno.ENOENT: (errors.Unsupported, "this host has no cgroup version 2 with the controller dmem", "See docs/quotas.md."),
}


def _rows(host, path):
    """Region -> bytes of a file of the controller, None for ``max``; {} where there is no such file."""
    rows = (line.split() for line in (kernel.text(host, path) or "").splitlines())
    return {row[0]: whole(row[1]) for row in rows if len(row) == 2}


def regions(host, address):
    """Region -> bytes, of the memory of a GPU that can be limited."""
    return {name: size for name, size in _rows(host, CAPACITY).items() if size is not None and _is_of(name, address)}


def _is_of(region, address):
    """Whether a region is memory of a GPU: of xe and amdgpu, or of NVIDIA's own driver (r615 and later)."""
    return region.startswith(f"drm/{address}/vram") or region == f"nvidia/{address}/vidmem"


def _sum(rows, mine):
    """Bytes of all regions of a GPU together; None where one of them has no number."""
    sizes = [rows.get(name) for name in mine]
    return sum(sizes) if sizes and None not in sizes else None


def used(host, address):
    """(bytes, bytes in use) of the memory of a GPU or virtual function; (None, None) where the kernel does not account for it."""
    mine = regions(host, address)
    # The root group's account is that of all groups below it.
    now = _sum(_rows(host, CURRENT), mine)
    return (None, None) if now is None else (sum(mine.values()), now)


def limits(host, address):
    """Slice unit -> bytes, of all limits that are set for a GPU."""
    mine = regions(host, address)
    if not mine:
        return {}
    found = {unit: _sum(_rows(host, f"{path}/dmem.max"), mine) for unit, path in _slices(host, ROOT)}
    return {unit: size for unit, size in found.items() if size is not None}


def limit_of(host, unit, address):
    """Bytes to which a slice is limited for a GPU; None for no limit, or no such file."""
    return _sum(_rows(host, f"{path_of(unit)}/dmem.max"), regions(host, address))


def used_by(host, unit, address):
    """Bytes of a GPU that a slice has in use; None where the kernel does not account for it."""
    return _sum(_rows(host, f"{path_of(unit)}/dmem.current"), regions(host, address))


def _slices(host, path):
    """(unit, directory) of all slices below a directory."""
    for name in host.listdir(path):
        if name.endswith(".slice"):
            yield name, f"{path}/{name}"
            yield from _slices(host, f"{path}/{name}")


def path_of(unit):
    """The directory of a slice: ``a-b.slice`` lies in ``a.slice``."""
    parts = unit.removesuffix(".slice").split("-")
    return "/".join([ROOT, *("-".join(parts[: n + 1]) + ".slice" for n in range(len(parts)))])


def open_slice(host, gpu, unit):
    """
    Start a slice, and switch the controller on in the groups above it, which systemd does not know to do.

    :raises errors.ToolFailed: systemd does not start it; errors.GpuSliceError: the kernel refuses.
    """
    start_slice(host, gpu, unit)
    for above in _above(path_of(unit)):
        if "dmem" not in (kernel.text(host, f"{above}/{_CONTROL}") or "").split():
            doing = f"switch the controller dmem on for {unit} in {above}/{_CONTROL}"
            kernel.write(host, gpu.address, f"{above}/{_CONTROL}", "+dmem", doing, _CONTROL_MEANINGS)


def start_slice(host, gpu, unit):
    """Start a slice that is not there. Raises errors.ToolFailed: systemd does not start it."""
    path = path_of(unit)
    if host.exists(path):
        return
    done = systemd.start(host, unit)
    if done.returncode or not host.exists(path):
        said = (done.said or f"systemctl said nothing, but {path} is not there").rstrip(".")
        todo = "See 'systemctl status' of it; mend that, or correct its name, and run again."
        raise errors.ToolFailed(f"{unit} could not be started: {said}.", gpu.address, todo)


def _above(path):
    """The groups above a group, from the root on."""
    parts = path.removeprefix(ROOT).split("/")[1:]
    return ["/".join([ROOT, *parts[:count]]) for count in range(len(parts))]


def write(host, gpu, unit, limit):
    """Limit a slice for a GPU, its regions as evenly as bytes go; :param limit: None for none. Raises errors of the kernel."""
    path, there = f"{path_of(unit)}/dmem.max", regions(host, gpu.address)
    for number, region in enumerate(there):
        # One region a write: the kernel refuses two lines. Together they are the limit, to the byte.
        value = "max" if limit is None else (limit + number) // len(there)
        kernel.write(host, gpu.address, path, f"{region} {value}\n", f"limit {region} for {unit}", _MEANINGS)
