"""
The nouns of the engine. Everything here is plain data: no hardware is touched, and all of it can be printed as JSON.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from dataclasses import field
from typing import NamedTuple

from gpuslice import addresses
from gpuslice import kinds

# Records without mutable defaults that nobody copies with dataclasses.replace are named tuples, here and elsewhere:
# making the class costs an eighth of what a frozen dataclass costs, which every salt-call pays, and they hash and compare in C.


#: The subject of what belongs to no single GPU of a host.
HOST = "host"

#: In a value of :attr:`Slice.environment`: the place of its GPU among those that the program sees, from 0.
PLACE = "{place}"


class Key(NamedTuple):
    """
    What a plan, the journal, the history and the records tell something of: one technology on one subject.

    :ivar subject: PCI address of a GPU, or :data:`HOST`; :ivar technique: a name of :data:`gpuslice.kinds.KINDS`.
    """

    subject: str
    technique: str

    def __str__(self) -> str:
        return f"{self.technique}:{self.subject}"

    @property
    def hands_out(self) -> bool:
        """Whether it is of what hands slices out or tells of them, and changes no GPU; of another version none is known."""
        kind = kinds.named(self.technique)
        return kind is not None and kind.layer >= kinds.HAND_OUT

    @property
    def layer(self) -> int:
        """The layer of its technology. Raises KeyError for one of another version."""
        return kinds.known(self.technique).layer

    @classmethod
    def of_gpu(cls, technique: str, address: str) -> "Key":
        """The key of a technology (its name) of the GPU at a PCI address, which may belong to the host."""
        return cls(HOST if kinds.known(technique).host_wide else address, technique)

    @classmethod
    def of(cls, text: str) -> "Key":
        """The key that :func:`str` made ``text`` of. Raises ValueError."""
        technique, colon, subject = text.partition(":")
        if not (technique and colon and subject):
            raise ValueError("it is no key of a technology and its subject")
        return cls(subject, technique)


@dataclass(frozen=True)
class Gpu:
    """
    One physical GPU as the kernel and the catalog describe it; nothing of it needs a device node or a vendor library.

    :ivar address: PCI address in the kernel's form, ``0000:07:00.0`` (lower case).
    :ivar vendor: ``nvidia``, ``amd`` or ``intel``.
    :ivar device_id: PCI device id, four lower-case hex digits.
    :ivar subsystem_id: ``vvvv:dddd`` of the subsystem, lower case, "" when unknown.
    :ivar model: product name with its vendor, ``NVIDIA A100-SXM4-40GB``, as the catalog has it. ``match: {model: ...}`` is
        compared with it, with ``name`` and with former names of the catalog.
    :ivar name: what the system itself calls the device (driver or PCI database); the model where it has no name.
    :ivar catalog_key: the catalog's entry, ``a100-40gb``; "" for a GPU the catalog does not know.
    :ivar memory_mib: memory of the board in MiB as the catalog has it, None when unknown.
    :ivar driver: kernel driver bound to it, "" when none is.
    :ivar uuid: the vendor's UUID where a file of the kernel tells it, else "".
    :ivar capabilities: slicing technologies that it can do: mig, time-slicing, mps, sriov, vgpu, partition, level-zero,
        passthrough.
    :ivar virtual_functions: ``{"total": int, "enabled": int, "addresses": [..]}``.
    """

    address: str
    vendor: str
    device_id: str
    subsystem_id: str = ""
    model: str = ""
    name: str = ""
    catalog_key: str = ""
    memory_mib: int | None = None
    driver: str = ""
    numa_node: int | None = None
    uuid: str = ""
    capabilities: tuple[str, ...] = ()
    virtual_functions: dict = field(default_factory=dict, hash=False, compare=False)


class Target(NamedTuple):
    """
    What is wanted of one GPU.

    :ivar gpu: :class:`Gpu`; :ivar key: the technology and what it is wanted of, None for a GPU that is left alone.
    :ivar settings: the technology's settings; {} for a GPU that is left alone, and for a wish until it is settled.
    :ivar wish: a difference to what is there (one instance more), which the technology's ``settle`` makes settings of under the
        lock; None where the settings say all.
    :ivar path: pillar path of the rule that decided, "" for a request by hand; :ivar reason: why, in words.
    :ivar automatic: whether strategy auto chose the technology, so that nobody has written it down.
    :ivar silent: pillar path of the key that would say what is to be there, where it is not written; else "".
    :ivar newest: the newest generation of the history that the wish goes by; None for one that does not go by it.
    """

    gpu: Gpu
    key: Key | None = None
    settings: dict = {}
    path: str = ""
    reason: str = ""
    wish: dict | None = None
    automatic: bool = False
    silent: str = ""
    newest: int | None = None

    @property
    def technique(self) -> str | None:
        """Name of the technology, None for a GPU that is left alone."""
        return self.key.technique if self.key else None


class Slice(NamedTuple):
    """
    Something a consumer can be given.

    :ivar gpu: PCI address of the GPU it is a part of.
    :ivar name: what and where it is, the same while it stands: ``<PCI address>[-<profile>-<start>[-<compute instance>]]``, in
        letters, digits and ``_ - . :`` only, see :func:`slice_name`.
    :ivar kind: mig, vf, vf-passthrough, partition, vgpu, replica, mps or environment.
    :ivar identity: UUID or PCI address; of a share that of what it is a share of, with ``::`` and a number.
    :ivar compute: share of the GPU's compute, 0 to 1.
    :ivar device_nodes: paths below /dev that a consumer needs.
    :ivar in_use_by: holders, as dicts with pid, command, unit, container, and domain where it is a virtual machine.
    :ivar of: name of the slice that it stands on, "" for one that stands on the GPU itself.
    :ivar taken: whether others stand on it, so that it is nobody's to give.
    :ivar environment: (name, value) pairs by which a program finds it; () where the vendor's own variable and its UUID do, or
        nothing has to. A value may have :data:`PLACE` in it.
    :ivar folders: of the host that a program needs, under the same path where it runs; a device node is none.
    :ivar units: of systemd, without which nobody can use it: who uses it starts anew with them, and has slices of one alone.
    :ivar isolated: whether the hardware keeps its memory and compute from those of others.
    :ivar weight: how much of what it stands on it is, beside the others there; None where nothing divides by weight.
    :ivar instance: (GPU instance, compute instance) ids by which the driver tells of it, in its log too; () where it has none.
    """

    gpu: str
    kind: str
    profile: str
    identity: str
    memory_mib: int | None = None
    compute: float | None = None
    placement: str = ""
    device_nodes: tuple[str, ...] = ()
    in_use_by: tuple[dict, ...] = ()
    name: str = ""
    of: str = ""
    taken: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    weight: int | None = None
    folders: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    isolated: bool = True
    instance: tuple[int, ...] = ()

    @property
    def device(self) -> str:
        """Identity of the slice itself, or of what it is a share of."""
        return self.identity.partition("::")[0]

    def as_dict(self) -> dict:
        """As the dict that users of ``gpu.slices`` get."""
        key = "address" if addresses.is_pci(self.identity) else "uuid"
        return {
            "gpu": self.gpu,
            "name": self.name,
            "of": self.of,
            "taken": self.taken,
            "kind": self.kind,
            "profile": self.profile,
            key: self.identity,
            "memory_mib": self.memory_mib,
            "compute": self.compute,
            "placement": self.placement,
            "device_nodes": list(self.device_nodes),
            "in_use_by": [dict(holder) for holder in self.in_use_by],
        }


_NO_NAME = re.compile(r"[^A-Za-z0-9_.:-]")


def slice_name(address: str, *places: object) -> str:
    """
    The name of a slice: the PCI address and what says where on it, in characters that unit names, CDI and labels can have.

    ``1g.10gb+me`` becomes ``1g.10gb.me``: what the other characters are is told by the profile.
    """
    return "-".join([address, *(_NO_NAME.sub(".", str(place)) for place in places)])


def with_taken(slices: Iterable[Slice]) -> list[Slice]:
    """
    The same slices, each knowing whether another stands on it, or on a whole of which it is a part.

    What stands on a slice has a name that begins like that of a part of it (``...-replica-2``), and is none: nobody takes a slice
    by what it stands on itself.
    """
    slices = list(slices)
    of = {part.name: part.of for part in slices}
    below = {part.of for part in slices} - {""}
    return [part._replace(taken=True) if _is_taken(part.name, below - _under(part.name, of)) else part for part in slices]


def _is_taken(name: str, below: set[str]) -> bool:
    """Whether a slice of that name is one of these on which others stand, or a part of one."""
    return name in below or any(name.startswith(f"{whole}-") for whole in below)


def _under(name: str, of: dict[str, str]) -> set[str]:
    """
    Names of all that a slice stands on, down to the silicon.

    :param of: name -> name of what it stands on. A GPU instance that carries a vGPU is no slice, so that it is not in it.
    """
    found: set[str] = set()
    while (name := of.get(name, "")) and name not in found:
        found.add(name)
    return found


class Process(NamedTuple):
    """
    A process that holds GPU device nodes open.

    :ivar unit: systemd unit, "" when it belongs to none.
    :ivar container: container id (its first 12 characters) or name, "" outside containers.
    :ivar nodes: the device nodes that it holds open, by the names that they have where it runs.
    :ivar numbers: device number of each of them, ``226:128``; "" where it can't be told, ``0:0`` for what is no device.
    :ivar domain: name of the virtual machine that it is, which libvirt calls a domain; "" for any other process.
    """

    pid: int
    command: str
    unit: str = ""
    container: str = ""
    nodes: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    domain: str = ""

    def has_open(self, node: str, number: str) -> bool:
        """
        Whether it holds a device open. Its number decides: a container may have any GPU under the name of any other.

        :param node: the device's path on the host; :param number: its device number, "" where it is not known. Where one of
            the two numbers is not known, the names are compared.
        """
        theirs = self.numbers or ("",) * len(self.nodes)
        return any(found == number if found and number else name == node for name, found in zip(self.nodes, theirs, strict=True))

    def __str__(self) -> str:
        where = [f"unit {self.unit}"] if self.unit else []
        if self.container and not self.unit.endswith(f" of container {self.container}"):
            where.append(f"container {self.container}")
        where += [f"domain {self.domain}"] if self.domain else []
        return f"pid {self.pid} ({self.command}{', ' + ', '.join(where) if where else ''})"

    def as_dict(self) -> dict:
        """For users and for JSON; a virtual machine has its ``domain`` beside the rest."""
        told = {"pid": self.pid, "command": self.command, "unit": self.unit, "container": self.container}
        return {**told, "domain": self.domain} if self.domain else told
