"""
Around a change: whether its node may be given back, and whose a drain is. All schedulers go by the same.
"""

import os

from gpuslice.host.base import JOURNAL
from gpuslice.records import interrupted
from gpuslice.records.journal import Journal

#: What those who run before and after a change are told: its GPUs; and, of one that is over, how it ended.
_ADDRESSES, RESULT = "GPU_SLICING_ADDRESSES", "GPU_SLICING_RESULT"
#: The outcome with which nobody is to get the node back.
_FAILED = "failed"
_BY_HAND = ", by hand)"


def reason(doing, why):
    """What a node is drained for: a sentence, the job that wanted it, and whether that was a change or somebody by hand."""
    job = f"job {doing.jid}" if doing.jid else doing.who
    return f"{' '.join(why.split()) or 'GPUs are sliced anew'} ({job}{')' if _ADDRESSES in os.environ else _BY_HAND}"


def may_end(said):
    """Whether who asks may end a drain of ours: a change leaves one that was begun by hand, whoever asks by hand ends both."""
    return _ADDRESSES not in os.environ or _BY_HAND not in said


def until_resumed(function):
    """The end of an answer on a node whose jobs stay: by hand it is given no more until somebody calls this function."""
    return "" if _ADDRESSES in os.environ else f" It is given no more until {function} is called."


def refusal(engine, function):
    """
    Why this node is not to be given back now, as sentences; "" where it may be.

    :param function: the one that gives it back, for the message. :raises errors.JournalDamaged, errors.StateDirUnusable: nobody
        knows whether a change is half done.
    """
    over = os.environ.get(RESULT)
    if over == _FAILED:
        return (
            "the change before it left something half done. Mend that (see gpu.health and gpu_slicing.history), then call "
            f"{function}."
        )
    if over or JOURNAL not in engine.host.store_names(engine.host.state_dir) or not (entry := Journal(engine.host).unfinished()):
        return ""
    if interrupted.found(engine.host):
        return (
            f"{interrupted.describe(entry)}, and its GPUs may be half cut. Run 'salt-call state.apply gpu_slicing', which ends "
            f"it and gives the node back, or undo it with 'salt-call gpu_slicing.recover'; then call {function}."
        )
    return f"a change by {entry.who} is going on. Wait for its end, then call {function}."
