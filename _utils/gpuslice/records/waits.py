"""
What of a pillar waits until its GPUs are idle, or for the window of maintenance.

It is noted by the run that found it could not be done yet, and goes when the host is as wanted, when the pillar asks for
something else, or when somebody takes it back.
"""

from gpuslice import errors
from gpuslice.host.base import WAITING
from gpuslice.records import shapes
from gpuslice.records.store import Record

_FORMAT = 1


class Waits:
    """
    The file of what waits.

    ``since``, ``noted`` (when this was written) and ``until`` (the moment before which nothing needs to be tried) are in seconds
    since the epoch, ``digest`` tells the policy, ``of`` is idle or window, ``what`` are (PCI address or what hands out,
    sentence), ``again`` says whether the minion tries it again by itself.
    """

    def __init__(self, host):
        self._file = Record(host, WAITING, "the record of what waits", _FORMAT, shapes.waits)
        self.path = self._file.path

    def read(self):
        """What waits, None where nothing does. Raises errors.StateDirUnusable, errors.NewerFormat."""
        return self._file.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"What waits on this host can't be told: {self._file.path} can't be read ({err}).",
                todo="Remove that file; the next 'state.apply gpu_slicing' writes it anew.",
            )
        )

    def write(self, data):
        """Note what waits. Raises OSError, errors.StateDirUnusable."""
        self._file.write(data)

    def remove(self):
        """Nothing waits any more. Raises OSError, errors.StateDirUnusable."""
        self._file.remove()
