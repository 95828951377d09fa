"""
A change that did not end, as those see it who only look.
"""

import os

from gpuslice import errors
from gpuslice.host.base import TRIED
from gpuslice.records import lock
from gpuslice.records.journal import Journal

#: What to do about it, for every place that tells of it.
WHAT_TO_DO = "'salt-call gpu_slicing.recover test=True' shows what would undo it, 'salt-call gpu_slicing.recover' does it."


def found(host):
    """
    The interrupted change of a host as :class:`gpuslice.records.journal.Entry`;
    None where there is none or one is still going on.

    :raises errors.JournalDamaged: there is one that can't be read. :raises errors.StateDirUnusable: this user may not read it.
    """
    entry = Journal(host).unfinished()
    if entry is None or lock.is_held(host.state_dir):
        return None
    # Between the two looks it may have ended.
    return Journal(host).unfinished()


def describe(entry):
    """Who began it, and when."""
    # Here, so that a run that finds none does not load it.
    from gpuslice import moments

    return f"A change by {entry.who} of {moments.told(entry.time)} was interrupted"


def by_gpu(host):
    """
    PCI address -> a sentence, for each GPU that an interrupted change may have left half changed; "" -> one about a record that
    can't be read.
    """
    try:
        entry, tried = found(host), _tried(host)
    except errors.GpuSliceError as err:
        return {"": str(err)}
    sentences = {address: f"{describe(entry)} here. {WHAT_TO_DO}" for address in entry.gpus} if entry else {}
    # What is put back last says all: what to do is the same.
    return {**sentences, **tried}


def _tried(host):
    """The same of a GPU that was tried out and not put back. Most hosts have no such record, and load nothing for it."""
    if not os.path.exists(os.path.join(host.state_dir, TRIED)):
        return {}
    from gpuslice.records import tried

    left = tried.Trying(host).left()
    return {left.gpu: f"{tried.describe(left)} {WHAT_TO_DO}"} if left else {}
