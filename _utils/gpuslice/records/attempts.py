"""
The loop guard of a boot, ``boot.json`` in the state directory: which layout was tried on what, how the last replay ended.
"""

import hashlib
import json

from gpuslice import errors
from gpuslice.host.base import ATTEMPTS
from gpuslice.records import shapes
from gpuslice.records.store import Record

_FORMAT = 1
#: Seconds for which an attempt counts.
DAY = 86400.0
#: A layout that failed this often within a day is not tried again by itself.
LIMIT = 3


class Attempts:
    """
    The attempts of one host. One is written down before it begins and struck off when its layout is there. One that takes the
    machine down with it is therefore counted, and a host that crashes in its own replay comes up without one after a few boots.
    """

    def __init__(self, host):
        self._host = host
        # The first versions counted by PCI address, and for a day only: what they counted is over soon.
        upgrades = {0: lambda found: {**found, "tried": {}}}
        self._file = Record(host, ATTEMPTS, "the count of replays", _FORMAT, shapes.attempts, upgrades)
        self.path = self._file.path

    def failures(self, key, entry):
        """How often the layout of this entry was begun within the last day and did not end well."""
        return len(self._times(self._read(), key, entry))

    def begin(self, entries):
        """
        Count an attempt at these entries (by key). Returns its time, for :meth:`withdraw`. Raises
        errors.StateDirUnusable: uncounted, none is made.
        """
        data, now = self._read(), self._host.now()
        for key, entry in entries.items():
            data["tried"][str(key)] = {"digest": _digest(key, entry), "times": [*self._times(data, key, entry), now]}
        self._write(data)
        return now

    def withdraw(self, keys, when):
        """The attempt of that time came to nothing before it touched anything of these. Raises errors.StateDirUnusable."""
        data, texts = self._read(), set(map(str, keys))
        for known in (data["tried"][text] for text in texts if text in data["tried"]):
            known["times"] = [each for each in known["times"] if each != when]
        data["tried"] = {text: known for text, known in data["tried"].items() if known["times"]}
        self._write(data)

    def counts(self, keys):
        """Whether an attempt at any of these is on record."""
        # Most hosts have no unit that replays anything, and then there is no file.
        return bool(self._read()["tried"].keys() & set(map(str, keys)))

    def succeeded(self, keys):
        """These are as they should be: what failed before counts no more. Raises errors.StateDirUnusable."""
        data, texts = self._read(), set(map(str, keys))
        if texts & data["tried"].keys():
            data["tried"] = {text: known for text, known in data["tried"].items() if text not in texts}
            self._write(data)

    def last(self):
        """How the last replay ended: ``time``, ``boot_id``, ``result``, ``comment``; None when there was none."""
        return self._read()["last"]

    def ended(self, result, comment):
        """Note how a replay ended. Raises errors.StateDirUnusable."""
        last = {"time": self._host.now(), "boot_id": self._host.boot_id(), "result": result, "comment": comment}
        self._write({**self._read(), "last": last})

    def _times(self, data, key, entry):
        """When this layout was tried. A time that is still to come is of a clock that was wrong, so it tells nothing."""
        known, now = data["tried"].get(str(key)), self._host.now()
        if not known or known["digest"] != _digest(key, entry):
            return []
        return [when for when in known["times"] if 0 <= now - when < DAY]

    def _read(self):
        try:
            return self._file.read()
        except (OSError, ValueError):
            # A count that is lost lets a layout be tried a few times more, which ends as well.
            return {"tried": {}, "last": None}

    def _write(self, data):
        self._file.keep(
            {"tried": data["tried"], "last": data["last"]},
            lambda err: errors.StateDirUnusable(
                f"The count of replays could not be written to {self.path}: {err.strerror}.",
                todo="Free space or mend its permissions, then run 'salt-call gpu_boot.replay'; without the count none is made.",
            ),
        )


def _digest(key, entry):
    """Tells one layout from another."""
    said = json.dumps([key.technique, entry["layout"], entry["awaits"]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
