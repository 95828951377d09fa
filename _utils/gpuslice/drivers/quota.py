"""
A hard limit of a GPU's memory for all that runs in a systemd slice, by the best means that the host has: NVML's memory limits
(driver r615 and later, any product, Linux with cgroup version 2, not in MIG mode), or the cgroup controller dmem of the kernel.

Facts: NVML's change log of 13.4 and pynvml (``c_nvmlSetMemoryLimits_v1_t``; cleared by soft 0 and hard
``NVML_DEVICE_MEMORY_LIMIT_MAX``; root alone); ``kernel/cgroup/dmem.c`` of Linux for the other. NVML goes first: on a kernel
without dmem the driver counts by itself. Where the kernel counts for it, what the kernel says is in force.
"""

from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import dmem
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.sessions import Sessions
from gpuslice.host.base import Host
from gpuslice.model import Gpu

NVML, DMEM, NONE = "nvml", "dmem", "none"
#: What sentences call them.
LABELS = {NVML: "NVML's memory limits", DMEM: "the cgroup controller dmem"}
MIB = 2**20

_UNIFIED = f"{dmem.ROOT}/cgroup.controllers"
_NO_LIMIT = 2**64 - 1
_ASKING = "read the limit of memory"
#: Answers of a driver that has the function, of a group that it does not know.
_NO_GROUP = (INVALID_ARGUMENT, NOT_FOUND)


class Means(NamedTuple):
    """
    How the memory of a GPU can be limited.

    :ivar name: NVML, DMEM or NONE; :ivar why: why it is none, as words that follow "since"; :ivar most: bytes of the GPU, None
        where that is not told.
    """

    name: str
    why: str = ""
    most: int | None = None


def means(host: Host, sessions: Sessions, gpu: Gpu) -> Means:
    """The best means for a GPU. Raises errors of NVML: its driver does not answer."""
    if not host.exists(_UNIFIED):
        return Means(NONE, "this host has no cgroup version 2")
    regions = dmem.regions(host, gpu.address)
    most = sum(regions.values()) or (gpu.memory_mib * MIB if gpu.memory_mib else None)
    why = ""
    if gpu.vendor == "nvidia":
        why = _lacks(sessions, gpu)
        if not why:
            return Means(NVML, "", _memory(sessions, gpu) or most)
    if regions:
        return Means(DMEM, "", most)
    return Means(NONE, why or _no_dmem(host, gpu))


def _no_dmem(host: Host, gpu: Gpu) -> str:
    if not host.exists(dmem.CAPACITY):
        return "the kernel of this host has no cgroup controller dmem (CONFIG_CGROUP_DMEM, Linux 6.14 and later)"
    return f"its driver {gpu.driver or '(none)'} offers no memory of it to the cgroup controller dmem"


def _lacks(sessions: Sessions, gpu: Gpu) -> str:
    """Why NVML can't limit it, "" where it can."""
    nvml = sessions.nvml
    lib = nvml.open(gpu.address)
    if getattr(lib, "c_nvmlGetMemoryLimits_v1_t", None) is None:
        return "the installed nvidia-ml-py knows no memory limits (13.615 and later do)"
    told = _ask(sessions, gpu, dmem.ROOT)
    if told == FUNCTION_NOT_FOUND:
        return "its driver has no memory limits (r615 and later have them)"
    return "its driver limits no memory of it as it is now, as in MIG mode" if told == NOT_SUPPORTED else ""


def _ask(sessions: Sessions, gpu: Gpu, path: str) -> Any:
    """What NVML tells of a group; FUNCTION_NOT_FOUND, NOT_SUPPORTED, or None for a group that it does not know."""
    nvml = sessions.nvml
    asked = nvml.open(gpu.address).c_nvmlGetMemoryLimits_v1_t()
    asked.nameSpace = path.encode()
    try:
        nvml.call("nvmlDeviceGetMemoryLimits_v1", nvml.handle(gpu.address), asked, gpu=gpu.address, doing=_ASKING)
    except errors.GpuSliceError as err:
        code = getattr(err.__cause__, "value", None)
        if code in (FUNCTION_NOT_FOUND, NOT_SUPPORTED):
            return code
        if code in _NO_GROUP:
            return None
        raise
    return asked


def _memory(sessions: Sessions, gpu: Gpu) -> int | None:
    nvml = sessions.nvml
    found = nvml.call(
        "nvmlDeviceGetMemoryInfo", nvml.handle(gpu.address), gpu=gpu.address, doing="read the size of its memory",
        quiet=(NOT_SUPPORTED,),
    )  # fmt: skip
    return found.total if found else None


def is_there(host: Host, unit: str) -> bool:
    """Whether a slice has a group now."""
    return host.exists(dmem.path_of(unit))


def read(host: Host, sessions: Sessions, gpu: Gpu, unit: str, by: Means) -> int | None:
    """Bytes to which a slice is limited now; None for no limit, or no such group."""
    if not is_there(host, unit):
        return None
    by_kernel = dmem.limit_of(host, unit, gpu.address)
    if by.name == DMEM:
        return by_kernel
    told = _ask(sessions, gpu, dmem.path_of(unit))
    hard = getattr(told, "hardLimit", _NO_LIMIT)
    by_driver = None if hard == _NO_LIMIT else hard
    return by_kernel if dmem.regions(host, gpu.address) else by_driver


def in_use(host: Host, sessions: Sessions, gpu: Gpu, unit: str, by: Means) -> int | None:
    """Bytes of a GPU that a slice has in use, None where that is not told. Raises errors of NVML."""
    if by.name == DMEM or not is_there(host, unit):
        return dmem.used_by(host, unit, gpu.address)
    return getattr(_ask(sessions, gpu, dmem.path_of(unit)), "currentUsed", None)


def write(host: Host, sessions: Sessions, gpu: Gpu, unit: str, by: Means, limit: int | None) -> None:
    """
    Limit a slice, which is started where it is not there, and read that back.

    :param limit: in bytes, None for no limit. :raises errors.ToolFailed: systemd does not start the slice;
        errors.ValidationFailed: another limit is in force than was set; any error of NVML or of the kernel.
    """
    if by.name == NVML:
        dmem.start_slice(host, gpu, unit)
        _set(sessions, gpu, unit, limit)
    else:
        dmem.open_slice(host, gpu, unit)
        dmem.write(host, gpu, unit, limit)
    found = read(host, sessions, gpu, unit, by)
    if found != limit:
        raise errors.ValidationFailed(
            f"{unit} was to be limited to {words(limit)} of memory by {LABELS[by.name]}, and what is in force is {words(found)}.",
            gpu.address,
            "See 'dmesg' for the driver's own words; another tool may set limits of its own.",
        )


def set_best(host: Host, sessions: Sessions, gpu: Gpu, unit: str, limit: int | None) -> None:
    """
    Limit a slice by the best means that there is, and read that back; :param limit: in bytes, None for no limit.

    :raises errors.Unsupported: nothing here can. Others as of :func:`write`.
    """
    by = means(host, sessions, gpu)
    if by.name == NONE:
        raise errors.Unsupported(
            f"The memory for {unit} can't be limited, since {by.why}.",
            gpu.address,
            "Mend that, or apply the pillar again: where nobody can enforce it a limit is advisory, and nothing waits for it.",
        )
    write(host, sessions, gpu, unit, by, limit)


def _set(sessions: Sessions, gpu: Gpu, unit: str, limit: int | None) -> None:
    nvml = sessions.nvml
    asked = nvml.open(gpu.address).c_nvmlSetMemoryLimits_v1_t()
    asked.nameSpace = dmem.path_of(unit).encode()
    asked.softLimit, asked.hardLimit = 0, _NO_LIMIT if limit is None else limit
    doing = f"limit {unit} to {words(limit)} of memory"
    try:
        nvml.call("nvmlDeviceSetMemoryLimits_v1", nvml.handle(gpu.address), asked, gpu=gpu.address, doing=doing)
    except errors.GpuSliceError as err:
        code = getattr(err.__cause__, "value", None)
        if code == NOT_FOUND:
            raise errors.could_not(errors.ResourceConflict, doing, dmem.GONE, gpu.address, "Run again.") from err
        if code != INVALID_ARGUMENT:
            raise
        why, todo = "the driver takes no such limit", "It may be less than the driver itself needs of the GPU: allow more."
        raise errors.could_not(errors.Unsupported, doing, why, gpu.address, todo) from err


def told(gpu: Gpu, who: str, mebibytes: int, by: Means) -> str:
    """Who makes a limit hold, or why nobody does, as a sentence; :param who: is limited."""
    what = f"The limit of {mebibytes} MiB for {who} on {gpu.address}"
    if by.name == NONE:
        return f"{what} is advisory: nobody enforces it, since {by.why}."
    return f"{what} is enforced by {LABELS[by.name]}."


def refuse_above(gpu: Gpu, who: str, mebibytes: int, by: Means, word: str) -> None:
    """Raise errors.PolicyError for a limit above the memory of its GPU; :param word: what it is called in the pillar."""
    if by.most is not None and mebibytes * MIB > by.most:
        raise errors.PolicyError(
            f"{who} is to have {mebibytes} MiB of memory, and {gpu.model} has {by.most // MIB} MiB.",
            gpu.address,
            f"Lower {word}.",
        )


def words(limit: int | None) -> str:
    """A limit for sentences."""
    return "no limit" if limit is None else f"{limit // MIB} MiB" if limit % MIB == 0 else f"{limit} bytes"
