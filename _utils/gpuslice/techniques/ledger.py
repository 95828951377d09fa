"""
What a technology notes of GPUs, since nothing on them tells it, in a file of its own in the state directory.
"""

import threading

from gpuslice import errors
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.shape import ADDRESS
from gpuslice.shape import record
from gpuslice.shape import table

#: What sentences call the record of what shares slices.
SHARES = "the record of shared slices"
#: The number of the form of any of these.
FORMAT = 1


class Ledger:
    """
    What one technology notes, in its file of the state directory, by PCI address: ``device`` (PCI id of the GPU, since a slot may
    get another one), and the rest as it likes.

    :param file: name of the file; :param what: what sentences call it. :param shape: of what is noted of one GPU.
    :param nothing: what there is of a GPU of which nothing is noted; :param key: which part of that is empty then.
    """

    def __init__(self, host, file, what, shape, nothing, key):
        whole_record = record({"gpus": table(ADDRESS, shape)})
        self._file = Record(host, file, what, FORMAT, lambda data: whole_record(data, "it"))
        self._what, self._nothing, self._key = what, nothing, key
        # GPUs are changed side by side, and their record is one file.
        self._one = threading.Lock()

    def read(self, gpu):
        """What is noted of a GPU; nothing, where it was noted of another one in its slot. Raises errors.StateDirUnusable."""
        found = self._all(gpu.address).get(gpu.address)
        return found if found and found["device"] == _device(gpu) else self._nothing

    def write(self, gpu, noted):
        """Note it; of what is empty nothing is kept. Raises errors.StateDirUnusable."""
        address = gpu.address
        with self._one:
            kept = {one: found for one, found in self._all(address).items() if one != address}
            if noted[self._key]:
                kept[address] = {"device": _device(gpu), **noted}
            try:
                self._file.write({"gpus": dict(sorted(kept.items()))}) if kept else self._file.remove()
            except OSError as err:
                raise errors.StateDirUnusable(
                    f"{self._what.capitalize()}, {self._file.path}, can't be written: {err.strerror}.", address,
                    "Free space or mend its permissions, then run again.",
                ) from err  # fmt: skip

    def _all(self, address):
        found = self._file.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"{self._what.capitalize()}, {self._file.path}, can't be used ({reason(err)}).",
                address,
                "Remove that file, then run again: what is wanted is noted anew.",
            )
        )
        return found["gpus"] if found else {}


def _device(gpu):
    return f"{gpu.vendor} {gpu.device_id}"
