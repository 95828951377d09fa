"""
What the conditions come to: a status for each GPU and each of its slices.
"""

from gpuslice.numbers import many
from gpuslice.status_words import ACTIONS
from gpuslice.status_words import STATUSES
from gpuslice.watch import meanings

#: Action -> what a user does, as a sentence.
TODO = {
    "none": "Nothing has to be done at once: look in 'dmesg' and watch it.",
    "restart_program": "Start what ran there anew; the slice itself can be used.",
    "reset": "End what runs on the GPU and reset it with its vendor's tool, or reboot.",
    "reboot": "Drain the host and reboot it.",
    "drain": "Take the GPU out of use, and have it looked at.",
    "replace": "Take the GPU out of use, and have the board replaced.",
}
_NEEDS = {
    "": "", meanings.PROGRAM: "the end of the program", meanings.RESET: "a reset or a reboot", meanings.REBOOT: "a reboot",
    meanings.REPLACED: "another board in its place",
}  # fmt: skip


_DOUBT = (
    "It came {} times within a day: look whether one program brings it about, and the fault is its own, or programs of all "
    "kinds, and it is the hardware's."
)


def statuses(gpus, slices, conditions, treatments):
    """
    PCI address -> status, action, scope, codes and sentence of the board, and ``slices``: name -> the same.

    :param gpus: PCI addresses; :param slices: PCI address -> names of its slices.
    :param conditions: as :func:`gpuslice.watch.judge.judged` leaves them; :param treatments: as there.
    """
    counting = [(_with_doubt(each, treatments), meaning) for each in conditions if (meaning := _counting(each, treatments))]
    return {gpu: _board(gpu, slices.get(gpu, ()), counting) for gpu in gpus}


def _counting(each, treatments):
    """What a condition means, None for one that does not count, or not yet."""
    meaning = each.meaning(treatments)
    if meaning is None or meaning.status == meanings.OK or not each.is_certain(meaning):
        return None
    # What is known of one instance, but not of which, or of a GPU that has none, is the board's.
    return meaning._replace(scope=meanings.BOARD) if meaning.scope == meanings.SLICE and not each.slice else meaning


def _with_doubt(each, treatments):
    """With what to do, where many errors of programs are the matter."""
    return each._replace(todo=_DOUBT.format(each.of_a_day)) if each.meaning(treatments) is meanings.SUSPECT else each


def _board(gpu, names, counting):
    here = [(each, meaning) for each, meaning in counting if each.gpu in (gpu, "") or meaning.scope == meanings.ALL_GPUS]
    of_board = [pair for pair in here if pair[1].scope != meanings.SLICE]
    # What has to be done with the board ends what runs on all of its slices, whichever of them met the error.
    for_all = [pair for pair in of_board if pair[1].action not in ("none", "restart_program")]
    return {**_status(gpu, of_board), "slices": {name: _status(name, [*for_all, *_of(name, here)]) for name in names}}


def _of(name, here):
    # A share is called as what it is a share of, and more: what befell that befell it.
    met = [(each, meaning) for each, meaning in here if meaning.scope == meanings.SLICE and each.slice]
    return [(each, meaning) for each, meaning in met if name == each.slice or name.startswith(f"{each.slice}-")]


def _status(subject, pairs):
    if not pairs:
        return {"status": meanings.OK, "action": "none", "scope": meanings.SLICE if "-" in subject else meanings.BOARD,
                "codes": [], "sentence": ""}  # fmt: skip
    # Of those that are as bad as one another the first.
    worst, meaning = max(pairs, key=lambda pair: (STATUSES.index(pair[1].status), ACTIONS.index(pair[1].action)))
    action = max((each.action for _, each in pairs), key=ACTIONS.index)
    todo = worst.todo if worst.todo and action == meaning.action else TODO[action]
    more = f" ({many(len(pairs) - 1, 'more reason')})" if len(pairs) > 1 else ""
    met_by = f"Slice {worst.slice}" if meaning.scope == meanings.SLICE else f"GPU {worst.gpu or subject}"
    return {
        "status": meaning.status,
        "action": action,
        "scope": meaning.scope,
        "codes": sorted({each.code for each, _ in pairs}),
        "sentence": f"{met_by}: {worst.words}{more}. {todo}",
    }


def reasons(gpu, conditions, treatments, clean):
    """Everything that is known of a GPU as a list of dicts, what does not count yet or only in numbers included."""
    return [_reason(each, treatments, clean) for each in conditions if each.gpu in (gpu, "")]


def _reason(each, treatments, clean):
    meaning = _counting(each, treatments)
    raw = each.meaning(treatments)
    return {
        "code": each.code,
        "status": meaning.status if meaning else meanings.OK,
        "action": meaning.action if meaning else "none",
        "scope": meaning.scope if meaning else meanings.BOARD,
        "slice": each.slice,
        "words": each.words,
        "todo": _with_doubt(each, treatments).todo or TODO[meaning.action if meaning else "none"],
        "since": each.since,
        "last": each.last,
        "count": each.count,
        "clears": _clears(each, meaning or raw, clean),
    }


def _clears(each, meaning, clean):
    """What makes it go, in words."""
    if meaning.status == meanings.OK or meaning is meanings.SUSPECT:
        return "it is only counted, and forgotten a day after the last one"
    looks = f"{many(clean, 'look')} in turn that see nothing of it ({each.clean} so far)"
    needs = _NEEDS[meaning.needs]
    return f"{needs}{' (seen)' if each.cured else ''}, then {looks}" if needs else looks
