"""
What is carried through one change: what failed and what holds, where no further step is begun, and what became of the request.
"""

import logging
from dataclasses import dataclass
from dataclasses import field

from gpuslice import errors
from gpuslice.model import HOST
from gpuslice.plan import Plan
from gpuslice.records.journal import Entry

log = logging.getLogger(__name__)

#: In the place of a key: the whole change failed, wherever it was.
ALL = ""


@dataclass
class Result:
    """
    What became of a request.

    :ivar changes: PCI address -> {"old": layout, "new": layout}, both read from the hardware.
    :ivar errors: sentences, empty when all is as wanted; :ivar reboot: GPUs that wait for a reboot.
    :ivar warnings: sentences worth reading; :ivar generation: its number in the history, None when nothing was touched.
    :ivar verified: False where a GPU was read after the change and is not as wanted, which ``validation: false`` lets pass.
    :ivar undone: whether an interrupted change was undone first.
    :ivar found: what the last reading of this run came to, a plan without steps where all is as wanted; None where some of it was
        not read after a change.
    """

    plan: Plan
    changes: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    reboot: list = field(default_factory=list)
    seconds: float = 0.0
    generation: int | None = None
    verified: bool = True
    undone: bool = False
    found: Plan | None = None

    @property
    def ok(self):
        """Whether the hardware is as wanted, or will be at the next reboot."""
        return not self.errors


@dataclass
class Change:
    """
    What is carried through one change. What is keyed is keyed by :class:`gpuslice.model.Key`.

    :ivar gpus: the GPUs of the request by PCI address; :ivar entry: its record in the journal.
    :ivar result: :class:`Result`, filled up on the way.
    :ivar whole: whether a failure concerns all GPUs of the change.
    :ivar failed: errors by key, or of the whole change (:data:`ALL`); :ivar left: errors of what could not be undone.
    :ivar unmet: key -> why it waits for a reboot; :ivar verified: key -> layout that was read and is as wanted.
    :ivar found: key -> the part that the reading came to, which has no steps.
    :ivar refused: what runs before it kept it from being begun.
    :ivar cut_short: a signal kept steps from being begun.
    :ivar losses: what virtual machines lose by it, as :class:`gpuslice.change.machines.Loss`.
    """

    plan: Plan
    targets: list
    gpus: dict
    entry: Entry
    result: Result
    whole: bool = False
    failed: dict = field(default_factory=dict)
    left: dict = field(default_factory=dict)
    unmet: dict = field(default_factory=dict)
    verified: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    refused: bool = False
    cut_short: bool = False
    losses: list = field(default_factory=list)

    def group(self, key):
        """What a key rises and falls with: its GPU where that changes alone, itself where it belongs to the host."""
        if key in self.entry.groups:
            return self.entry.groups[key]
        return str(key) if key.subject == HOST else key.subject

    def affected(self):
        """Keys of what is put back, since it or something of its group failed, or stands on a GPU where something did."""
        if not self.failed:
            return []
        if self.whole or ALL in self.failed:
            return list(self.entry.before)
        groups, grown = {self.group(key) for key in self.failed}, True
        while grown:
            # All that is on one GPU goes back with it, and takes its own groups along.
            found = [key for key in self.entry.before if self.group(key) in groups]
            gpus = {key.subject for key in found} - {HOST}
            more = {self.group(key) for key in self.entry.before if key.subject in gpus}
            grown = not more <= groups
            groups |= more
        return [key for key in self.entry.before if self.group(key) in groups]

    def kept(self):
        """Keys of what keeps its change, whatever became of the others."""
        affected = self.affected()
        return [key for key in self.entry.before if key not in affected]


class Halt:
    """
    Where no further step of a change is begun.

    :param group: function from a key to what it rises and falls with; :param whole: a failure stops all GPUs.
    :param signals: :class:`gpuslice.change.signals.Signals`, None for undoing, which a signal does not stop.
    :ivar cut_short: whether a signal has kept a step from being begun.
    """

    def __init__(self, group=str, whole=False, signals=None):
        self._group, self._whole, self._signals = group, whole, signals
        self._failed = set()
        self.cut_short = False

    def failed(self, key):
        """Something of this key failed, or (:data:`ALL`) everything."""
        self._failed.add(ALL if key == ALL else self._group(key))

    def at(self, key):
        """Whether no step of this key may be begun any more."""
        if self._signals is not None and self._signals.number is not None:
            self.cut_short = True
        if self._whole or ALL in self._failed:
            return self.cut_short or bool(self._failed)
        return self.cut_short or self._group(key) in self._failed


def caught(err, gpu=""):
    """The error for anything that was caught; what nobody thought of goes to the log as well."""
    if isinstance(err, errors.GpuSliceError):
        return err
    log.error("something unexpected failed", exc_info=err)
    return errors.StepFailed(f"Something unexpected failed: {type(err).__name__}: {err}.", gpu, "Please report this.")
