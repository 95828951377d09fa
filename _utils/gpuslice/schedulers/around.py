"""
What taking a node out of use around a change is for every scheduler: for whom, until when, and how it is answered.
"""

import os

#: What a change that is over tells those who run after it, and the outcome of it with which nobody is to get the node back.
RESULT, _FAILED = "GPU_SLICING_RESULT", "failed"
#: Seconds between two looks at a node.
_PAUSE = 2


def is_after_change():
    """Whether this runs after a change, as a part of it."""
    return RESULT in os.environ


def half_done(node, whom, resume):
    """
    The answer of a node that nobody is to get back, None for any other.

    :param node: what it is called; :param whom: in which scheduler; :param resume: the function to call later.
    """
    if os.environ.get(RESULT) != _FAILED:
        return None
    said = (
        f"{node} stays as it is in {whom}: the change before it left something half done. Mend that (see gpu.health and "
        f"gpu_slicing.history), then call {resume}."
    )
    return answer({}, [said], result=False)


def job(doing):
    """Who wants it, in words; :param doing: of the engine."""
    return f"job {doing.jid}" if doing.jid else doing.who


def reason(doing, why):
    """What a node is out of use for, and the job that wanted it."""
    return f"{' '.join(why.split()) or 'GPUs are sliced anew'} ({job(doing)})"


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
