"""
Where vGPUs are made: the two interfaces of NVIDIA's host driver. Kernel and driver together decide which there is, so that it is
looked for each time.

``vfio``
    a directory ``nvidia`` of each virtual function, where the number of a type is written to ``current_vgpu_type``.
``mdev``
    mediated devices: a directory for each type, of virtual functions or (Turing) of the GPU itself, where a UUID is written to
    ``create``.
"""

import errno
import re
from abc import ABC
from abc import abstractmethod
from typing import NamedTuple

from gpuslice import errors
from gpuslice import numbers
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers.pci import DEVICES
from gpuslice.printable import printable

_MDEVS = "/sys/bus/mdev/devices"
_TYPES = "mdev_supported_types"
_NONE = 0
_TYPE_LINE = re.compile(r"^[ \t]*([0-9]{1,9})[ \t]*:[ \t]*(\S.*?)[ \t]*$", re.MULTILINE)
_TYPE_NUMBER = re.compile(r"-([0-9]{1,9})\Z")
_NO_GI = 0xFFFFFFFF
_MAKERS = re.compile(r"^(?:NVIDIA\s+)?(?:GRID\s+)?", re.IGNORECASE)
_NVRM = "See 'dmesg | grep NVRM' for the driver's own words."
#: So that a host gives a mediated device the same UUID each time: virtual machines refer to it.
_NAMESPACE = "6f2f0c4e-7a4b-5d0c-9a31-0d5f5f3f9c11"

_MEANINGS = {
    errno.EIO: (
        errors.DriverError,
        "the driver refused it, as it does for a type whose GPU instance is missing",
        "See 'dmesg | grep NVRM' for the driver's own words.",
    ),
    errno.ENOSPC: (errors.ResourceConflict, "none is left of this type", "Remove vGPUs of the GPU, or ask for fewer."),
    errno.EEXIST: (errors.ForeignChange, "a device with this UUID exists already", "Another tool made it; run again."),
    errno.EBUSY: (errors.InUse, errors.IN_USE, "Shut down its virtual machine and run again."),
}
#: What is there after such a refusal is not ours: an undo must not take it for what it has to remove.
_TAKEN = {errno.EBUSY: (errors.ForeignChange, "it has become another one meanwhile", "Find out which tool made it; run again.")}


class Vgpu(NamedTuple):
    """
    One vGPU that exists or is wanted.

    :ivar type: name of its type without maker; :ivar at: PCI address of the function that carries it.
    :ivar uuid: of a mediated device, else ""; :ivar gi: id of the GPU instance behind it, None for none or one that is not told.
    """

    type: str
    at: str
    uuid: str = ""
    gi: int | None = None

    @property
    def identity(self):
        """What a virtual machine names it by: the UUID, or the address of the function."""
        return self.uuid or self.at


def interface(host, gpu):
    """``vfio`` or ``mdev``, "" where neither is there, as on a GPU whose virtual functions are not enabled yet."""
    # Not only the first: another program may have taken it.
    for function in (*pci.there(host, gpu), gpu):
        if host.exists(f"{DEVICES}/{function}/{_TYPES}"):
            return "mdev"
        if host.exists(f"{DEVICES}/{function}/nvidia/current_vgpu_type"):
            return "vfio"
    return ""


def slots(host, gpu, name_of=None):
    """The interface of a GPU: :class:`Vfio`, :class:`Mdev`, or None where there is none. Parameters as of :class:`Slots`."""
    kind = {"vfio": Vfio, "mdev": Mdev}.get(interface(host, gpu))
    return kind(host, gpu, name_of) if kind else None


class Slots(ABC):
    """
    What both interfaces share.

    :param gpu: PCI address of the GPU; :param name_of: function of a type's number that tells its name, "" for an unknown one.
    """

    def __init__(self, host, gpu, name_of=None):
        self._host, self._gpu, self._name_of = host, gpu, name_of

    def _name(self, number, told=""):
        """Name of a type by its number; the driver's file may tell one too, which counts where the number is not known."""
        return (self._name_of(number) if self._name_of else "") or plain(told) or _numbered(number)

    @abstractmethod
    def creatable(self, function):
        """Name of a type -> (its number, what the driver calls it there), of what this function could carry now."""

    def refuse_if_not_creatable(self, name, function):
        """Returns what the driver calls the type there. Raises errors.ResourceConflict with what can be made instead."""
        creatable = self.creatable(function)
        for known, (number, handle) in creatable.items():
            # One without a name, which somebody else made, may have to be made again by an undo.
            if name in (known, _numbered(number)):
                return handle
        raise errors.ResourceConflict(
            f"vGPU type {name} can't be made on {function} now.",
            self._gpu,
            f"What can be made there is: {', '.join(creatable) or 'nothing'}.",
        )


class Vfio(Slots):
    """The vendor's VFIO interface of one GPU."""

    name = "vfio"

    def carriers(self):
        """The functions that can carry a vGPU each: one that another program has taken from the driver can't."""
        there = pci.there(self._host, self._gpu)
        return [function for function in there if self._host.exists(self._current(function))]

    def vgpus(self):
        """The vGPUs that exist. Raises errors.DriverError: a function does not tell."""
        found = []
        for function in self.carriers():
            number = self._number(function)
            if number != _NONE:
                gi = kernel.number(self._host, f"{self._own(function)}/gpu_instance_id")
                found.append(Vgpu(self._name(number), function, "", None if gi in (None, _NO_GI) or gi < 0 else gi))
        return found

    def _own(self, function):
        return f"{DEVICES}/{function}/nvidia"

    def _current(self, function):
        return f"{self._own(function)}/current_vgpu_type"

    def _number(self, function):
        """Number of the type that a function carries, 0 for none: one that can't be read must not pass for free."""
        doing = f"read which vGPU {function} carries"
        try:
            told = self._host.read(self._current(function)).strip()
        except FileNotFoundError:
            return _NONE
        except OSError as err:
            raise kernel.failure(err, self._gpu, doing) from err
        number = numbers.whole(told)
        if number is None or number < 0:
            raise errors.DriverError(f"Could not {doing}: the driver says '{told[:40]}'.", self._gpu, _NVRM)
        return number

    def creatable(self, function):
        """What this function could become now: it shrinks as its siblings are taken. See :meth:`Slots.creatable`."""
        told = kernel.text(self._host, f"{self._own(function)}/creatable_vgpu_types") or ""
        return {plain(name): (int(number), int(number)) for number, name in _TYPE_LINE.findall(told)}

    def create(self, vgpu):
        """Make a vGPU on its function. Raises an error of gpuslice.errors; ForeignChange where another one is there."""
        self._refuse_if_other(vgpu.at, _NONE)
        number, path = self.refuse_if_not_creatable(vgpu.type, vgpu.at), self._current(vgpu.at)
        try:
            bounded.write(
                self._host,
                self._gpu,
                path,
                number,
                f"make vGPU {vgpu.type} on {vgpu.at}",
                {**_MEANINGS, **_TAKEN},
                there=lambda: self._number(vgpu.at) == number,
            )
        except errors.Unhealthy:
            # Even to look would wait.
            raise
        except errors.GpuSliceError:
            # Whatever the driver answered: an undo must not remove what came in between.
            self._refuse_if_other(vgpu.at, number)
            raise
        found = self._number(vgpu.at)
        if found != number:
            # It answers EBUSY where another tool was faster, so that this is ours, and an undo removes it.
            there = f"it made {self._name(found)}" if found else "it is not there"
            raise errors.ValidationFailed(
                f"The driver took vGPU type {vgpu.type} for {vgpu.at}, and {there}.", self._gpu, _NVRM
            )

    def _refuse_if_other(self, function, ours):
        found = self._number(function)
        if found not in (_NONE, ours):
            raise errors.ForeignChange(
                f"Virtual function {function} already carries a vGPU, {self._name(found)}.",
                self._gpu,
                "Another tool made it; run again.",
            )

    def remove(self, vgpu):
        """Remove a vGPU; one that is gone already counts as removed."""
        number, doing = self._number(vgpu.at), f"remove vGPU {vgpu.type} from {vgpu.at}"
        if number == _NONE:
            return
        if self._name(number) != vgpu.type:
            raise errors.ForeignChange(
                f"Could not {doing}: it carries {self._name(number)} now, which another tool made.", self._gpu, "Run again."
            )
        bounded.write(
            self._host,
            self._gpu,
            self._current(vgpu.at),
            _NONE,
            doing,
            _MEANINGS,
            there=lambda: self._number(vgpu.at) == _NONE,
        )

    def nodes(self, vgpu):
        """What a virtual machine opens to have this vGPU."""
        return device_nodes.vfio(self._host, vgpu.at)

    def uuid(self, function, taken):
        """"": a function carries one vGPU and is named by its address."""
        return ""


class Mdev(Slots):
    """Mediated devices of one GPU."""

    name = "mdev"

    def carriers(self):
        """The functions that have types: virtual functions, which carry one vGPU each, or the GPU, which carries all."""
        candidates = (*pci.there(self._host, self._gpu), self._gpu)
        return [function for function in candidates if self._host.exists(f"{DEVICES}/{function}/{_TYPES}")]

    def vgpus(self):
        """The vGPUs that exist."""
        found = []
        for function in self.carriers():
            base = f"{DEVICES}/{function}"
            for name in self._host.listdir(base):
                if not self._host.exists(f"{base}/{name}/mdev_type"):
                    continue
                kind = self._host.readlink(f"{base}/{name}/mdev_type")
                found.append(Vgpu(self._named(function, kind)[0], function, name))
        return found

    def _named(self, function, kind):
        """(name, number) of a type by its directory, ``nvidia-<number>``."""
        number = _TYPE_NUMBER.search(kind)
        told = kernel.text(self._host, f"{DEVICES}/{function}/{_TYPES}/{kind}/name") or ""
        return (self._name(int(number[1]), told), int(number[1])) if number else (plain(told) or kind, None)

    def creatable(self, function):
        """What this function could carry now, see :meth:`Slots.creatable`: the driver calls a type by the name of a directory."""
        base, found = f"{DEVICES}/{function}/{_TYPES}", {}
        for kind in self._host.listdir(base):
            if kernel.number(self._host, f"{base}/{kind}/available_instances"):
                name, number = self._named(function, kind)
                found[name] = (number, kind)
        return found

    def create(self, vgpu):
        """Make a mediated device. Raises an error of gpuslice.errors."""
        kind = self.refuse_if_not_creatable(vgpu.type, vgpu.at)
        path = f"{DEVICES}/{vgpu.at}/{_TYPES}/{kind}/create"
        bounded.write(
            self._host,
            self._gpu,
            path,
            vgpu.uuid,
            f"make vGPU {vgpu.type} on {vgpu.at}",
            _MEANINGS,
            there=lambda: self._type_of(vgpu) == kind,
        )
        if not self._host.exists(f"{_MDEVS}/{vgpu.uuid}"):
            raise errors.ValidationFailed(
                f"The driver took vGPU {vgpu.type} {vgpu.uuid}, and it is not there.", self._gpu, _NVRM
            )
        if (found := self._type_of(vgpu)) not in (kind, ""):
            raise errors.ValidationFailed(
                f"The driver took vGPU {vgpu.type} {vgpu.uuid}, and it made {self._named(vgpu.at, found)[0]}.", self._gpu, _NVRM
            )

    def _type_of(self, vgpu):
        """What the driver calls the type of a mediated device, "" where it is not there."""
        return self._host.readlink(f"{_MDEVS}/{vgpu.uuid}/mdev_type")

    def remove(self, vgpu):
        """Remove a mediated device; one that is gone already counts as removed."""
        if not self._host.exists(f"{_MDEVS}/{vgpu.uuid}"):
            return
        path = f"{_MDEVS}/{vgpu.uuid}/remove"
        bounded.write(
            self._host,
            self._gpu,
            path,
            "1",
            f"remove vGPU {vgpu.uuid} of type {vgpu.type}",
            _MEANINGS,
            there=lambda: not self._host.exists(f"{_MDEVS}/{vgpu.uuid}"),
        )

    def nodes(self, vgpu):
        """What a virtual machine opens to have this vGPU: the node of its group or, on newer kernels, that of the device."""
        base = f"{_MDEVS}/{vgpu.uuid}"
        group, own = self._host.readlink(f"{base}/iommu_group"), self._host.listdir(f"{base}/vfio-dev")
        return ([f"/dev/vfio/{group}"] if group else []) + [f"/dev/vfio/devices/{name}" for name in own]

    def uuid(self, function, taken):
        """
        A UUID for a new device on that function, the same each time.

        :param taken: UUIDs that are in use already.
        """
        # Here, so that a host which is only looked at does not load it.
        from uuid import UUID
        from uuid import uuid5

        machine = kernel.text(self._host, "/etc/machine-id") or ""
        candidates = (str(uuid5(UUID(_NAMESPACE), f"{machine}/{function}/{n}")) for n in range(len(taken) + 1))
        return next(made for made in candidates if made not in taken)


def plain(name):
    """A type's name as users write it: the driver puts ``NVIDIA`` or ``GRID`` before it."""
    return _MAKERS.sub("", printable(name).strip())


def _numbered(number):
    """How a type is called whose name nobody tells."""
    return f"type {number}"


def is_numbered(name):
    """Whether a type is called by its number, because nobody tells its name."""
    return re.fullmatch(r"type \d+", name) is not None
