"""
What taking a node out of use around a change is for every scheduler: for whom, until when, whether its node may be given back,
whose a drain is, and how it is answered.
"""

import os

from gpuslice.host.base import JOURNAL
from gpuslice.records import interrupted
from gpuslice.records.journal import Journal

#: What those who run before and after a change are told: its GPUs; and, of one that is over, how it ended.
_ADDRESSES, RESULT, _REFUSED = "GPU_SLICING_ADDRESSES", "GPU_SLICING_RESULT", "GPU_SLICING_REFUSED"
#: The outcome with which nobody is to get the node back.
_FAILED = "failed"
_BY_HAND = ", by hand)"
#: Seconds between two looks at a node.
_PAUSE = 2


def is_after_change():
    """Whether this runs after a change, as a part of it or called again."""
    return RESULT in os.environ


def is_refused():
    """Whether this runs after a change that was refused before it was begun."""
    return _REFUSED in os.environ


def has_no_generation(host):
    """Whether this runs as a part of a change that is not in the history yet. What is called again belongs to none."""
    return RESULT in os.environ and host.has_record(JOURNAL)


def half_done(engine, node, whom, function):
    """
    The answer of a node that nobody is to get back now, None where it may be given back.

    :param node: what it is called; :param whom: in which scheduler; :param function: the one that gives it back.
    :raises errors.JournalDamaged, errors.StateDirUnusable: nobody knows whether a change is half done.
    """
    why = _half_done(engine, function)
    return answer({}, [f"{node} stays as it is in {whom}: {why}"], result=False) if why else None


def _half_done(engine, function):
    """Why, as sentences; "" where no change is half done."""
    over = os.environ.get(RESULT)
    if over == _FAILED:
        return (
            "the change before it left something half done. Mend that (see gpu.health and gpu_slicing.history), then call "
            f"{function}."
        )
    if over or not engine.host.has_record(JOURNAL) or not (entry := Journal(engine.host).unfinished()):
        return ""
    if interrupted.found(engine.host):
        return (
            f"{interrupted.describe(entry)}, and its GPUs may be half cut. Run 'salt-call state.apply gpu_slicing', which ends "
            f"it and gives the node back, or undo it with 'salt-call gpu_slicing.recover'; then call {function}."
        )
    return f"a change by {entry.who} is going on. Wait for its end, then call {function}."


def job(doing):
    """Who wants it, in words; :param doing: of the engine."""
    return f"job {doing.jid}" if doing.jid else doing.who


def reason(doing, why):
    """What a node is drained for: a sentence, the job that wanted it, and whether that was a change or somebody by hand."""
    return f"{' '.join(why.split()) or 'GPUs are sliced anew'} ({job(doing)}{')' if _ADDRESSES in os.environ else _BY_HAND}"


def may_end(said):
    """Whether who asks may end a drain of ours: a change leaves one that was begun by hand, whoever asks by hand ends both."""
    return _ADDRESSES not in os.environ or _BY_HAND not in said


def until_resumed(function):
    """The end of an answer on a node whose jobs stay: by hand it is given no more until somebody calls this function."""
    return "" if _ADDRESSES in os.environ else f" It is given no more until {function} is called."


def changed(name, old, new):
    """The change of a node's state, {} for none."""
    return {} if old == new else {name: {"old": old, "new": new}}


def answer(changes, told, test=False, result=True):
    """What a function answers; :param told: sentences. In a test what would change has no ``result``."""
    found = {"changes": changes, "comment": " ".join(told)}
    return found if test and changes and result else {"result": result, **found}


def awaited(host, within, look, is_so):
    """What a look at a node finds once it is as wanted, or when ``within`` seconds are over."""
    last = host.monotonic() + within * host.patience()
    while True:
        found = look()
        if is_so(found) or host.monotonic() >= last:
            return found
        host.sleep(min(_PAUSE * host.patience(), max(0.0, last - host.monotonic())))
