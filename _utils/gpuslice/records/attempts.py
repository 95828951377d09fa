"""
The loop guard of a boot, ``boot.json`` in the state directory: which layout was tried on which GPU, how the last replay ended.
"""

import hashlib
import json
import os

from gpuslice import errors
from gpuslice.records import shapes

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
        self.path = os.path.join(host.state_dir, "boot.json")

    def failures(self, address, entry):
        """How often this layout was begun on this GPU within the last day and did not end well."""
        return len(self._times(self._read(), address, entry))

    def begin(self, entries):
        """
        Count an attempt at these entries (by PCI address). Returns its time, for :meth:`withdraw`. Raises
        errors.StateDirUnusable: uncounted, none is made.
        """
        data, now = self._read(), self._host.now()
        for address, entry in entries.items():
            data["tried"][address] = {"digest": _digest(entry), "times": [*self._times(data, address, entry), now]}
        self._write(data)
        return now

    def withdraw(self, addresses, when):
        """The attempt of that time came to nothing before it touched these GPUs. Raises errors.StateDirUnusable."""
        data = self._read()
        for known in (data["tried"][address] for address in addresses if address in data["tried"]):
            known["times"] = [each for each in known["times"] if each != when]
        data["tried"] = {address: known for address, known in data["tried"].items() if known["times"]}
        self._write(data)

    def counts(self, addresses):
        """Whether an attempt at any of these GPUs is on record."""
        # Most hosts have no unit that replays anything, and then there is no file.
        return bool(self._read()["tried"].keys() & set(addresses))

    def succeeded(self, addresses):
        """These GPUs are as they should be: what failed before counts no more. Raises errors.StateDirUnusable."""
        data = self._read()
        if any(address in data["tried"] for address in addresses):
            data["tried"] = {address: known for address, known in data["tried"].items() if address not in addresses}
            self._write(data)

    def last(self):
        """How the last replay ended: ``time``, ``boot_id``, ``result``, ``comment``; None when there was none."""
        return self._read()["last"]

    def ended(self, result, comment):
        """Note how a replay ended. Raises errors.StateDirUnusable."""
        last = {"time": self._host.now(), "boot_id": self._host.boot_id(), "result": result, "comment": comment}
        self._write({**self._read(), "last": last})

    def _times(self, data, address, entry):
        """When this layout was tried. A time that is still to come is of a clock that was wrong, so it tells nothing."""
        known, now = data["tried"].get(address), self._host.now()
        if not known or known["digest"] != _digest(entry):
            return []
        return [when for when in known["times"] if 0 <= now - when < DAY]

    def _read(self):
        try:
            found = self._host.store_load(self.path)
            shapes.attempts(found)
            return found
        except (OSError, ValueError):
            # A count that is lost lets a layout be tried a few times more, which ends as well.
            return {"tried": {}, "last": None}

    def _write(self, data):
        try:
            self._host.store_write(self.path, json.dumps(data, indent=1) + "\n")
        except OSError as err:
            raise errors.StateDirUnusable(
                f"The count of replays could not be written to {self.path}: {err.strerror}.",
                todo="Free space or mend its permissions, then run 'salt-call gpu_boot.replay'; without the count none is made.",
            ) from err


def _digest(entry):
    """Tells one layout of a GPU from another."""
    said = json.dumps([entry["technique"], entry["layout"], entry["awaits"]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]
