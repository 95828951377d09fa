"""
Who has what: who was handed which slices, what opens these, and which files were written for it.
"""

from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.host.base import Host
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from gpuslice.records.store import FORMAT
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.shape import LINE
from gpuslice.shape import anything
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.techniques.consumers.section import HANDED
from gpuslice.techniques.consumers.section import NAME
from gpuslice.techniques.consumers.section import QUADLETS
from gpuslice.techniques.consumers.section import TEMPLATES

FILE = "consumers.json"
_FORMAT = 1
_ABSOLUTE = text(r"/(?:(?!\.\.?/)[^/\x00-\x1f\x7f]+/)*(?!\.\.?\Z)[^/\x00-\x1f\x7f]+")
_DEVICE = row(
    listing(row(_ABSOLUTE, text("r?w?"))),
    listing(row(LINE, LINE)),
    listing(row(_ABSOLUTE, _ABSOLUTE, listing(LINE))),
    listing(LINE),
)
_CHECKED = record(
    {
        "cdi": truth,
        "consumers": HANDED,
        "devices": table(text(r"[A-Za-z0-9_.:-]+"), _DEVICE),
        "digests": table(text(NAME), text("[0-9a-f]+")),
        "files": table(_ABSOLUTE, text("[0-9a-f]*")),
        "templates": TEMPLATES,
        "gpus": table(text(r"[A-Za-z0-9_.:-]+"), LINE),
        "programs": table(LINE, listing(LINE)),
        "driver": either(record({}), record({"key": LINE, "edits": table(LINE, anything), "version": LINE})),
        "quadlets": QUADLETS,
        "units": table(LINE, truth),
    },
    # Only where there are any, so that a version before quarantine reads the record of a host without.
    {"halted": listing(LINE)},
)


class Noted(NamedTuple):
    """
    What is on record.

    :ivar cdi: whether names are written; :ivar consumers: name -> what it asked for, and the names of its ``slices``.
    :ivar devices: name of a slice -> what opened it when it was handed out.
    :ivar digests: name of a consumer -> digest of his device and files: whoever runs with another one has to start anew.
    :ivar files: path of each file of ours -> digest of its text, "" for one that was about to be written or removed.
    :ivar gpus: name of a slice -> PCI address of its GPU.
    :ivar templates: name -> text, of those that the site has in the place of ours.
    :ivar driver: what containers need of NVIDIA's driver, as it was told last; see :class:`gpuslice.drivers.nvidia_ctk.Part`.
    :ivar programs: name of a program or unit -> what changes with it, and what it answered.
    :ivar quadlets: digest -> keys of Quadlet units, of those that consumers have, or had: a rollback goes back to these.
    :ivar units: unit that was about to be stopped or started -> whether it is one of ours: with what it runs is not known.
    :ivar halted: units of others that ran and were stopped, since their slice is quarantined: they are started with the next one.
    """

    cdi: bool = False
    consumers: dict[str, dict[str, Any]] = {}
    devices: dict[str, Device] = {}
    digests: dict[str, str] = {}
    files: dict[str, str] = {}
    gpus: dict[str, str] = {}
    programs: dict[str, list[str]] = {}
    driver: dict[str, Any] = {}
    templates: dict[str, str] = {}
    quadlets: dict[str, dict[str, Any]] = {}
    units: dict[str, bool] = {}
    halted: tuple[str, ...] = ()

    def of(self, name: str) -> dict[str, Any]:
        """What a consumer asked for, with the names of his ``slices``. Raises errors.PolicyError: there is no such one."""
        if name not in self.consumers:
            there = ", ".join(sorted(self.consumers)) or "none"
            raise errors.PolicyError(f"There is no consumer {name} on this host.", todo=f"It has {there}.")
        return self.consumers[name]

    def given(self) -> dict[str, str]:
        """Name of a slice -> the consumer who has it."""
        return {part: name for name, each in self.consumers.items() for part in each["slices"]}


NOTHING = Noted()


class Register:
    """The record of one host."""

    def __init__(self, host: Host) -> None:
        self._file = Record(host, FILE, "the record of consumers", _FORMAT, lambda data: _CHECKED(data, "it"), private=True)

    def read(self) -> Noted:
        """What is noted. Raises errors.StateDirUnusable, errors.NewerFormat."""
        found = self._file.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"The record of consumers, {self._file.path}, can't be used ({reason(err)}).",
                todo="Remove that file, then run again: who gets what is noted anew, and may be another slice than before.",
            )
        )
        if found is None:
            return NOTHING
        devices = {name: _device(name, each) for name, each in found["devices"].items()}
        found.pop(FORMAT, None)
        return Noted(**{**found, "devices": devices, "halted": tuple(found.get("halted", ()))})

    def write(self, noted: Noted) -> None:
        """Note it; where there is nothing the file goes. Raises errors.StateDirUnusable."""
        data = None
        if noted.cdi or noted.consumers or noted.files or noted.units or noted.quadlets:
            devices = {name: [list(part) for part in each[1:]] for name, each in noted.devices.items()}
            data = {**noted._asdict(), "devices": devices}
            if not noted.halted:
                del data["halted"]
        self._file.keep(
            data,
            lambda err: errors.StateDirUnusable(
                f"The record of consumers, {self._file.path}, can't be written: {err.strerror}.",
                todo="Free space or mend its permissions, then run again.",
            ),
        )


def _device(name: str, found: list) -> Device:
    nodes, environment, mounts, units = found
    return Device(
        name,
        tuple(Node(*each) for each in nodes),
        tuple((variable, value) for variable, value in environment),
        tuple(Mount(source, target, tuple(options)) for source, target, options in mounts),
        tuple(units),
    )
