"""
The vGPU types of a GPU: what NVIDIA's library tells of them, under the names that users write.

A name is ``<board>-<GB><series>`` for a type that takes turns on the GPU, and ``<board>-<slices>-<GB><series>`` for one that has
a MIG instance to itself, or takes turns on one where its GB are fewer than those of the instance (NVML and the vGPU user guide).
"""

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers.nvml import ARGUMENT_VERSION_MISMATCH
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.vgpu_slots import plain

#: What NVML answers for a type that has no GPU instance.
_NO_PROFILE = 0xFFFFFFFF
#: How the name of a type ends that has a GPU instance: a driver without the call for its profile tells no more than that.
_BACKED = re.compile(r"-\d+-\d+[ABCQ]")
#: A name in lower case taken apart. The code of the board is its last word.
_PARTS = re.compile(r"(?:.* )?(?P<code>[^ ]+?)(?:-(?P<slices>\d+))?-(?P<gb>\d+)(?P<series>[a-z].*)?")
#: How much the memory differs with which two driver versions count one type.
_COUNTED = 0.05
_UNTOLD = -1
#: A type leaves room for another one of its kind from this share of the memory on; what a driver takes for itself is less.
_ROOM = 1.5
_OTHER_VERSION = (INVALID_ARGUMENT, ARGUMENT_VERSION_MISMATCH)
_QUIET = (NOT_SUPPORTED, FUNCTION_NOT_FOUND)


class VgpuType(NamedTuple):
    """
    One type.

    :ivar id: the driver's number; :ivar name: without its maker; :ivar memory_mib: framebuffer.
    :ivar gi_profile: id of the GPU instance profile that backs it, -1 where it is not told, None for a type that takes turns.
    :ivar most: how many of it a GPU can have, None where the driver does not tell.
    """

    id: int
    name: str
    memory_mib: int
    gi_profile: int | None
    most: int | None


class VgpuTypes(Mapping):
    """
    The types of one GPU, name -> :class:`VgpuType`; none where the driver is no vGPU manager. Each is asked for when it is first
    needed, and those in use come first: a GPU has dozens, of which a run without changes needs one or two.

    :param nvml: :class:`gpuslice.drivers.nvml.Nvml`; :param gpu: PCI address. All methods raise errors.DriverError.
    """

    def __init__(self, nvml, gpu):
        self._nvml, self._gpu = nvml, gpu
        self._listed = None
        self._names = {}
        self._found = {}
        self._shared = {}

    def name(self, number):
        """Name of the type with that number, "" where the driver knows none."""
        if number not in self._names:
            told = self._call("nvmlVgpuTypeGetName", number, quiet=(*_QUIET, INVALID_ARGUMENT, NOT_FOUND)) or ""
            self._names[number] = plain(told.decode(errors="replace") if isinstance(told, bytes) else told)
        return self._names[number]

    def _numbers(self):
        """The numbers of all types, also while none can be made; before these are listed, those that were met already."""
        met = tuple(self._names)
        if self._listed is None:
            yield from met
            handle = self._nvml.handle(self._gpu)
            self._listed = tuple(self._call("nvmlDeviceGetSupportedVgpus", handle, quiet=_QUIET) or ())
        yield from self._listed
        yield from met

    def __iter__(self):
        names = (self.name(number) for number in self._numbers())
        met = set()
        for name in names:
            if name and name not in met:
                met.add(name)
                yield name

    def __len__(self):
        return sum(1 for _ in self)

    def __getitem__(self, name):
        if name not in self._found:
            number = next((number for number in self._numbers() if self.name(number) == name), None)
            if number is None or not name:
                raise KeyError(name)
            self._found[name] = self._ask(number, name)
        return self._found[name]

    def _ask(self, number, name):
        profile = self._call("nvmlVgpuTypeGetGpuInstanceProfileId", number, quiet=_QUIET)
        if profile is None and _BACKED.search(name):
            profile = _UNTOLD
        return VgpuType(
            number,
            name,
            self._call("nvmlVgpuTypeGetFramebufferSize", number) // 2**20,
            None if profile in (None, _NO_PROFILE) else profile,
            self._call("nvmlVgpuTypeGetMaxInstances", self._nvml.handle(self._gpu), number, quiet=_QUIET) or None,
        )

    def per_instance(self, found, profile):
        """
        How many vGPUs of a type take turns on one GPU instance.

        :param profile: the :class:`gpuslice.catalog.mig.GiProfile` that backs the type.
        :raises errors.Unsupported: the instance has room for several, and the driver does not tell for how many.
        """
        if not profile.memory_mib or found.memory_mib * _ROOM > profile.memory_mib:
            return 1
        if found.id not in self._shared:
            quiet = (*_QUIET, *_OTHER_VERSION)
            self._shared[found.id] = self._call("nvmlVgpuTypeGetMaxInstancesPerGpuInstance", found.id, quiet=quiet)
        if told := self._shared[found.id]:
            return told
        raise errors.Unsupported(
            f"vGPUs of type {found.name} have {found.memory_mib} MiB each of a MIG instance {profile.name}, which has "
            f"{profile.memory_mib} MiB, and the driver does not tell how many share one.",
            self._gpu,
            "Ask for a type that fills its instance, or take a driver from R580 on and a newer nvidia-ml-py.",
        )

    def _call(self, function, *args, quiet=()):
        return self._nvml.call(function, *args, gpu=self._gpu, doing="list the vGPU types", quiet=quiet)


def resolve(gpu, name, types):
    """
    The type of that name, with or without its maker, in any case.

    The board may be written in full or by its code, ``RTX Pro 6000 Blackwell DC-24Q`` or ``DC-24Q``.

    :raises errors.ProfileMismatch: the GPU has no such type; the message names those that it has.
    :raises errors.Unsupported: the driver tells of none at all.
    """
    wanted = plain(name).lower()
    found = _find(wanted, types)
    if found:
        return types[found]
    if not types:
        raise errors.Unsupported(
            f"The driver tells of no vGPU types for {gpu.model}.", gpu.address, "Check that NVIDIA's vGPU host driver is loaded."
        )
    by_name = {known.lower().split()[-1]: known for known in types}
    near = difflib.get_close_matches(wanted.split()[-1], by_name, 1) if wanted else []
    hint = f" Did you mean {by_name[near[0]]}?" if near else ""
    raise errors.ProfileMismatch(
        f"{gpu.model} has no vGPU type {plain(name)}.{hint}", gpu.address, f"It has {', '.join(types)}."
    )


def renamed(name, types):
    """The name that the driver has now for a type of that name; the name itself where it has no such type."""
    return _find(plain(name).lower(), types) or name


def _find(wanted, types):
    """
    Name of the type that is meant by one in lower case: literally, else by the code of its board, its slices, its GB and its
    series. The GB of a type with a MIG instance follow the profile's, which another driver version may count a little differently
    (GB200: ``1-24C`` and ``1-23C``).
    """
    for known in types:
        if known.lower() == wanted:
            return known
    if not (mine := _PARTS.fullmatch(wanted)):
        return None
    near = []
    for known in types:
        theirs = _PARTS.fullmatch(known.lower())
        if theirs and all(mine[part] == theirs[part] for part in ("code", "slices", "series")):
            ours, other = int(mine["gb"]), int(theirs["gb"])
            if abs(ours - other) <= (_COUNTED * max(ours, other) if mine["slices"] else 0):
                near.append((abs(ours - other), known))
    return min(near)[1] if near else None
