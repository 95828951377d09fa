"""
What the files of amdgpu do not tell and a later run has to know: which memory mode was requested, and that the driver was
unloaded by us. Kept in the state directory; it holds for one boot only, as both do.
"""

import threading

from gpuslice import errors
from gpuslice.records.store import Record
from gpuslice.shape import ADDRESS
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth

_FORMAT = 1
_MODES = table(ADDRESS, text())
_SHAPE = record({"boot_id": text(), "requested": _MODES, "unloaded": truth, "kept": _MODES})


class Notes:
    """The notes of one host. What can't be written is an error, since a crash would then leave GPUs without a driver."""

    def __init__(self, host):
        self._host = host
        # The first versions wrote the same without the number of its format.
        upgrades = {0: lambda found: found}
        self._file = Record(
            host,
            "partition.json",
            "the record of partition modes",
            _FORMAT,
            lambda found: _SHAPE(found, "it"),
            upgrades,
            compact=True,
        )
        self._lock = threading.Lock()

    def requested(self, address):
        """The memory mode that was requested of a GPU and not brought into force yet, "" for none."""
        return self._read()["requested"].get(address, "")

    @property
    def unloaded(self):
        """Whether a run of ours unloaded the driver and did not load it again."""
        return self._read()["unloaded"]

    @property
    def kept(self):
        """PCI address -> compute mode of the GPUs outside of the change for which the driver was unloaded."""
        return self._read()["kept"]

    def request(self, addresses, memory):
        """A memory mode is about to be requested of these GPUs; "" takes the note back."""
        with self._lock:
            found = self._read()
            found["requested"] = {a: m for a, m in {**found["requested"], **dict.fromkeys(addresses, memory)}.items() if m}
            self._write(found)

    def unload(self, kept):
        """The driver is about to be unloaded."""
        with self._lock:
            self._write({**self._read(), "unloaded": True, "kept": kept})

    def loaded(self, keep_requests=False):
        """The driver is loaded; requests were carried out when it was unloaded."""
        with self._lock:
            found = self._read()
            self._write({"requested": found["requested"] if keep_requests else {}, "unloaded": False, "kept": {}})

    def _read(self):
        nothing = {"requested": {}, "unloaded": False, "kept": {}}
        try:
            found = self._file.read()
            return {key: found[key] for key in nothing} if found["boot_id"] == self._host.boot_id() else nothing
        except (OSError, ValueError):
            # Without notes the driver is looked at as it is, and a missing one is reported.
            return nothing

    def _write(self, notes):
        something = notes["requested"] or notes["unloaded"]
        self._file.keep(
            {"boot_id": self._host.boot_id(), **notes} if something else None,
            lambda err: errors.StateDirUnusable(
                f"The notes on partition modes could not be written in {self._host.state_dir}: {err.strerror}.",
                todo="Free space or mend its permissions, then run again.",
            ),
        )
