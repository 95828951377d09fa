"""
A GPU that is being tried out (``gpu_slicing.qualify``): what it had before, so that it is put back also when the run was killed.
"""

import os
import shutil
from contextlib import contextmanager
from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice import moments
from gpuslice.host.base import TRIED
from gpuslice.host.base import TRYING
from gpuslice.model import Key
from gpuslice.records import lock
from gpuslice.records.store import Record
from gpuslice.records.store import saying
from gpuslice.shape import ADDRESS
from gpuslice.shape import WORD
from gpuslice.shape import anything
from gpuslice.shape import moment
from gpuslice.shape import record
from gpuslice.shape import table

_FORMAT = 1
_SHAPE = record({"gpu": ADDRESS, "technique": WORD, "layout": table(WORD, anything), "since": moment})


def _checked(data):
    _SHAPE(data, "it")
    kind = kinds.named(data["technique"])
    if kind is None:
        raise ValueError(f"{data['technique']} is no technology of this version")
    kinds.section(kind).layout()(data["layout"], "layout")


class Tried(NamedTuple):
    """
    What is on record.

    :ivar gpu: PCI address; :ivar technique: by which it is tried; :ivar layout: what it had before, in that technique's form.
    :ivar since: when that began, in seconds since the epoch.
    """

    gpu: str
    technique: str
    layout: dict
    since: float

    @property
    def key(self) -> Key:
        """As plans and the journal tell it."""
        return Key(self.gpu, self.technique)


class Trying:
    """The record of one host; there is one GPU at a time."""

    def __init__(self, host):
        self._host = host
        self._file = Record(host, TRIED, "the record of a GPU that is tried out", _FORMAT, _checked)
        #: Where reports go, and the lock of whoever tries.
        self.folder = os.path.join(host.state_dir, TRYING)
        #: The state directory of the other tool that comes in between.
        self.other = os.path.join(self.folder, "other")

    @contextmanager
    def alone(self, who):
        """Nobody else tries a GPU of this host meanwhile. Raises errors.LockHeld, errors.StateDirUnusable."""
        try:
            with lock.held(self.folder, who, patience=0):
                yield
        except errors.LockHeld as err:
            raise errors.LockHeld(
                "Another GPU of this host is being tried out, and one at a time is.", todo="Wait for it to end and run again."
            ) from err

    def read(self):
        """:class:`Tried`, None where no GPU is on record. Raises errors.JournalDamaged, errors.StateDirUnusable."""
        found = self._file.read_if_there(
            lambda err: errors.JournalDamaged(
                f"The record of a GPU that was tried out, {self._file.path}, can't be read ({err}).",
                todo="Compare the GPUs with what you want ('salt-call gpu.slices'), then remove that file.",
            )
        )
        return Tried(found["gpu"], found["technique"], found["layout"], found["since"]) if found else None

    def left(self):
        """:class:`Tried` of a run that ended without putting its GPU back; None where there is none, or it is at work still."""
        found = self.read()
        return None if found is None or lock.is_held(self.folder) else found

    def begin(self, gpu, technique, layout):
        """Note what a GPU has, before any of that goes. Raises errors.StateDirUnusable."""
        with saying(self._host.state_dir, "note what the GPU has"):
            self._file.write({"gpu": gpu, "technique": technique, "layout": layout, "since": self._host.now()})

    def end(self):
        """The GPU is as it was. Raises errors.StateDirUnusable."""
        # A run that was killed has left it.
        shutil.rmtree(self.other, ignore_errors=True)
        with saying(self._host.state_dir, "strike the GPU off its record"):
            self._file.remove()

    def forget(self, keys):
        """Something else was asked of these since. Raises as :meth:`read` and :meth:`end`."""
        found = self.read()
        if found and found.key in keys:
            self.end()


def describe(tried):
    """What was left, as a sentence."""
    when = moments.told(tried.since)
    return f"Trying out this GPU (gpu_slicing.qualify of {when}) was interrupted, and it was not put back as it was."
