"""
What gives a node back to its scheduler after a change, and failed: it is called again until it went well. Most hosts owe nothing,
and load nothing for it.
"""

from gpuslice import errors
from gpuslice.host.base import OWED
from gpuslice.records import shapes
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.records.store import saying

_FORMAT = 1


class Owed:
    """The record of one host: hooks that are ``around`` a technology, as of :func:`gpuslice.policy.hooks.hooks`."""

    def __init__(self, host):
        self._host = host
        self._file = Record(host, OWED, "the list of what is to be called again", _FORMAT, shapes.owed)

    def hooks(self):
        """The hooks. Raises errors.StateDirUnusable."""
        found = self._file.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"The list of what is to be called again after a change, {self._file.path}, can't be used ({reason(err)}).",
                todo="See whether the node of this host is still drained; then remove that file and run again.",
            )
        )
        return found["after_hooks"] if found else []

    def note(self, hooks):
        """These are owed, and no others. Raises errors.StateDirUnusable."""
        with saying(self._host.state_dir, "note what is to be called again"):
            if hooks:
                self._file.write({"after_hooks": hooks})
            else:
                self._file.remove()
