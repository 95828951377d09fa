"""
How each GPU was first found: generation 0 of the history, which is never pruned.

``history/000000.json`` has the form of a generation whose outcome that is. A layout is added before the first change of its key
is begun, so that a crash leaves no change without it. A host that was changed before there was such a file has it made of the
oldest generations that are left.
"""

import logging
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.records import shapes
from gpuslice.records.history import UNDID
from gpuslice.records.history import History
from gpuslice.records.journal import by_key
from gpuslice.records.journal import by_text
from gpuslice.records.store import saying

log = logging.getLogger(__name__)

NUMBER = 0


class Found(NamedTuple):
    """
    What was found first. What is keyed is keyed by :class:`gpuslice.model.Key`, those that were touched first before the others.

    :ivar layouts: layout of each key; :ivar addresses: PCI addresses of the GPUs that it covers.
    :ivar devices: what was in the slot of each GPU then, "" where that is not known.
    :ivar since: number of the oldest generation that is known, where older ones had been lost by the time; else 0.
    """

    layouts: dict
    addresses: dict
    devices: dict
    since: int = 0

    def is_of(self, key, gpu):
        """Whether what was found of a key was found of this GPU, and not of another model that was in its slot."""
        return self.devices.get(key, "") in ("", device(gpu))


def device(gpu):
    """What tells the model of a GPU from others, whatever driver it has."""
    return f"{gpu.vendor} {gpu.device_id} {gpu.subsystem_id}".strip()


class First:
    """Generation 0 of one host."""

    def __init__(self, host):
        self._host, self._history = host, History(host)
        self._file = self._history.file(NUMBER)

    def found(self):
        """:class:`Found`. Raises errors.JournalDamaged: it can't be used; errors.StateDirUnusable: it can't be read."""
        return self._written() or self._derived()

    def _written(self):
        """What the file tells, None where there is none. Raises as :meth:`found`."""
        try:
            record = self._file.read()
            shapes.outcome(record, "after")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as err:
            raise errors.JournalDamaged(
                f"How the GPUs of this host were first found can't be read ({self._file.path}: {err}).",
                todo="Move that file away: then the oldest generation of the history that is left counts in its place.",
            ) from err
        keyed = (by_key(record.get(name, {})) for name in ("after", "addresses", "devices"))
        return Found(*keyed, record.get("since", 0))

    def _derived(self):
        """What the generations that are left tell of it."""
        layouts, addresses = {}, {}
        past = self._history.all()
        for entry in past:
            # What undid an interrupted change began with hardware half way, and went back to how that had begun.
            which = "after" if entry.get("result") == UNDID else "before"
            try:
                shapes.outcome(entry, which)
            except ValueError:
                continue
            for text, layout in entry[which].items():
                if text not in layouts and "error" not in layout:
                    layouts[text] = layout
                    addresses[text] = entry.get("addresses", {}).get(text) or [Key.of(text).subject]
        oldest = past[0]["generation"] if past else 1
        return Found(by_key(layouts), by_key(addresses), {}, oldest if oldest > 1 else 0)

    def note(self, entry, gpus):
        """
        Note what a change touches for the first time, before it is begun.

        :param entry: its :class:`gpuslice.records.journal.Entry`; :param gpus: PCI address -> GPU, of the request.
        :raises errors.StateDirUnusable: it can't be written.
        """
        try:
            written = self._written()
            known = written or self._derived()
        except errors.JournalDamaged as err:
            # It keeps nobody from changing a GPU, and what it still may tell is not written over.
            log.warning("%s", err)
            return
        new = {key: layout for key, layout in entry.before.items() if self._is_new(known, key, gpus)}
        if not new and written:
            return
        devices = {key: device(gpus[key.subject]) for key in new if key.subject in gpus}
        layouts = {**{key: layout for key, layout in known.layouts.items() if key not in new}, **new}
        addresses = {**known.addresses, **{key: entry.covered(key) for key in new}}
        self._write(Found(layouts, addresses, {**known.devices, **devices}, known.since))

    @staticmethod
    def _is_new(known, key, gpus):
        if key not in known.layouts:
            return True
        return key.subject != HOST and key.subject in gpus and not known.is_of(key, gpus[key.subject])

    def _write(self, found):
        with saying(self._host.state_dir, "note how the GPUs were first found"):
            self._file.write({
                "generation": NUMBER,
                "result": "first found",
                "after": by_text(found.layouts),
                "addresses": by_text(found.addresses),
                "devices": by_text(found.devices),
                "since": found.since,
            })  # fmt: skip
