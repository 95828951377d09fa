"""
How many consumers each slice may be handed to: nothing of the hardware tells it, so it is kept in the state directory.
"""

import threading

from gpuslice import errors
from gpuslice.records.store import Record
from gpuslice.shape import ADDRESS
from gpuslice.shape import LINE
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.techniques.time_slicing import section

FILE = "time-slicing.json"
_FORMAT = 1
_SHARES = record({"device": LINE, "replicas": section.REPLICAS, "profiles": section.PROFILES, "former": section.VALUES})
_CHECKED = record({"gpus": table(ADDRESS, _SHARES)})
NOTHING = {"replicas": {}, "profiles": [], "former": {}}


class Ledger:
    """
    By PCI address: ``device`` (PCI id of the GPU, since a slot may get another one), ``replicas`` (name of a slice -> consumers),
    ``profiles`` (those that are shared, [] for all), and ``former`` (what was set before it was shared first, which is set again
    at the end).
    """

    def __init__(self, host):
        self._file = Record(host, FILE, "the record of shared slices", _FORMAT, lambda data: _CHECKED(data, "it"))
        # GPUs are changed side by side, and their record is one file.
        self._one = threading.Lock()

    def read(self, gpu):
        """What is noted of a GPU; nothing, where it was noted of another one in its slot. Raises errors.StateDirUnusable."""
        found = self._all(gpu.address).get(gpu.address, NOTHING)
        return found if found is NOTHING or found["device"] == _device(gpu) else NOTHING

    def write(self, gpu, shares):
        """Note it; what shares nothing is forgotten. Raises errors.StateDirUnusable."""
        address = gpu.address
        with self._one:
            kept = {one: found for one, found in self._all(address).items() if one != address}
            if shares["replicas"]:
                kept[address] = {"device": _device(gpu), **shares}
            try:
                self._file.write({"gpus": dict(sorted(kept.items()))}) if kept else self._file.remove()
            except OSError as err:
                raise errors.StateDirUnusable(
                    f"The record of shared slices, {self._file.path}, can't be written: {err.strerror}.", address,
                    "Free space or mend its permissions, then run again.",
                ) from err  # fmt: skip

    def _all(self, address):
        try:
            return self._file.read()["gpus"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as err:
            raise errors.StateDirUnusable(
                f"The record of shared slices, {self._file.path}, can't be used ({getattr(err, 'strerror', None) or err}).",
                address,
                "Remove that file, then run again: what is to be shared is noted anew.",
            ) from err


def _device(gpu):
    return f"{gpu.vendor} {gpu.device_id}"
