"""
What is carried through one change: what failed and what holds, and where no further step is begun.
"""

import logging
from dataclasses import dataclass
from dataclasses import field

from gpuslice import errors
from gpuslice.plan import Plan
from gpuslice.records.journal import Entry

log = logging.getLogger(__name__)

#: In the place of a PCI address: the whole change failed, wherever it was.
ALL = ""


@dataclass
class Change:
    """
    What is carried through one change.

    :ivar gpus: the GPUs of the request by PCI address; :ivar entry: its record in the journal.
    :ivar result: :class:`gpuslice.change.reconcile.Result`, filled up on the way.
    :ivar failed: errors by PCI address, or of the whole change (:data:`ALL`); :ivar left: errors of what could not be undone.
    :ivar unmet: PCI address -> why it waits for a reboot; :ivar verified: PCI address -> layout that was read and is as wanted.
    :ivar cut_short: a signal kept steps from being begun.
    """

    plan: Plan
    targets: list
    gpus: dict
    entry: Entry
    result: object
    failed: dict = field(default_factory=dict)
    left: dict = field(default_factory=dict)
    unmet: dict = field(default_factory=dict)
    verified: dict = field(default_factory=dict)
    cut_short: bool = False

    def group(self, gpu):
        """What a GPU rises and falls with: its own address where it changes alone."""
        return self.entry.groups.get(gpu) or gpu

    def affected(self, whole):
        """
        PCI addresses of the GPUs that are put back, since they or one of their group failed.

        :param whole: whether a failure concerns all GPUs of the change.
        """
        if not self.failed:
            return []
        groups = {self.group(gpu) for gpu in self.failed}
        return [gpu for gpu in self.entry.before if whole or ALL in self.failed or self.group(gpu) in groups]


class Halt:
    """
    Where no further step of a change is begun.

    :param group: function from a PCI address to what it rises and falls with; :param whole: a failure stops all GPUs.
    :param signals: :class:`gpuslice.change.signals.Signals`, None for undoing, which a signal does not stop.
    :ivar cut_short: whether a signal has kept a step from being begun.
    """

    def __init__(self, group=str, whole=False, signals=None):
        self._group, self._whole, self._signals = group, whole, signals
        self._failed = set()
        self.cut_short = False

    def failed(self, gpu):
        """Something failed on this GPU, or (:data:`ALL`) for all of them."""
        self._failed.add(self._group(gpu))

    def at(self, gpu):
        """Whether no step of this GPU may be begun any more."""
        if self._signals is not None and self._signals.number is not None:
            self.cut_short = True
        if self._whole or ALL in self._failed:
            return self.cut_short or bool(self._failed)
        return self.cut_short or self._group(gpu) in self._failed


def caught(err, gpu=""):
    """The error for anything that was caught; what nobody thought of goes to the log as well."""
    if isinstance(err, errors.GpuSliceError):
        return err
    log.error("something unexpected failed", exc_info=err)
    return errors.StepFailed(f"Something unexpected failed: {type(err).__name__}: {err}.", gpu, "Please report this.")
