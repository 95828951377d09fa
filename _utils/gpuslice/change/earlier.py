"""
What of the records is wanted again: targets for what an earlier change came to or began with, and for one that did not end.
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.records import interrupted
from gpuslice.records import shapes
from gpuslice.records.history import REPLAY
from gpuslice.records.history import UNDID
from gpuslice.records.history import History
from gpuslice.records.journal import by_key
from gpuslice.records.verified import Verified


class Wanted(NamedTuple):
    """
    What of the history is wanted again.

    :ivar record: a generation; :ivar layouts: which of its layouts, ``before`` or ``after``.
    :ivar newest: the number that the newest generation must have for that to be meant, None for any.
    """

    record: dict
    layouts: str
    newest: int | None


def finishing(host, entry, gpus):
    """
    Targets that finish an interrupted change, [] where there is none.

    :param entry: :class:`gpuslice.records.journal.Entry` or None; :param gpus: the GPUs of the host.
    :raises errors.DeviceNotFound: a GPU of it is gone.
    """
    by_address = {gpu.address: gpu for gpu in gpus}
    gone = [address for address in (entry.gpus if entry else ()) if address not in by_address]
    if gone:
        raise errors.DeviceNotFound(
            f"{interrupted.describe(entry)}; it can't be finished, since this host no longer has {', '.join(gone)}.",
            todo="Undo it on the others: 'salt-call gpu_slicing.recover undo'.",
        )
    newest = History(host).upcoming() - 1
    return [
        Target(by_address[address], key, settings, newest=newest)
        for key, settings in (entry.goal.items() if entry else ())
        for address in entry.covered(key)
    ]


def wanted(host, generation=None):
    """
    What a rollback goes to, as :class:`Wanted`; ``generation`` as of :meth:`gpuslice.engine.Engine.rollback_targets`.

    :raises errors.PolicyError: there is no such generation; :raises errors.JournalDamaged: it can't be used.
    """
    history = History(host)
    past = history.all()
    if not past:
        raise errors.PolicyError("There is no change in the history of this host.", todo="Nothing can be rolled back.")
    if generation is None:
        _refuse_lost(host, past[-1]["generation"])
        found = Wanted(_last_change(past), "before", past[-1]["generation"])
    else:
        found = Wanted(history.generation(generation), "after", None)
    try:
        shapes.outcome(found.record, found.layouts)
    except ValueError as err:
        why = found.record.get("error") or f"{err}."
        raise errors.JournalDamaged(f"Generation {found.record['generation']} can't be used: {why}") from err
    return found if generation is None else found._replace(record=_with_layers(found.record, past))


def _with_layers(record, past):
    """
    A generation with what it does not tell of: what stood on its slices at its end, or they on it, was made by another one. It is
    as the last one before left it, else as the first one after found it.
    """
    number, told = record["generation"], by_key(record["after"])
    older = [(entry, "after") for entry in reversed(past) if entry["generation"] < number]
    after, addresses = dict(record["after"]), dict(record.get("addresses", {}))
    for entry, layouts in (*older, *((entry, "before") for entry in past if entry["generation"] > number)):
        try:
            shapes.outcome(entry, layouts)
        except ValueError:
            # What it tells nobody knows.
            continue
        for text, layout in entry[layouts].items():
            key = Key.of(text)
            if text not in after and any(_in_layers(key, each) for each in told):
                after[text], addresses[text] = layout, entry.get("addresses", {}).get(text, [key.subject])
    return {**record, "after": after, "addresses": addresses}


def _in_layers(one, other):
    """Whether one of two keys is of what may stand on the other, of the same GPU."""
    kind = kinds.named(one.technique)
    if one == other or one.subject != other.subject or kind is None or not kind.cls or kind.host_wide:
        return False
    return kinds.go_together(one.technique, other.technique)


def _refuse_lost(host, newest):
    """
    A run that was killed after its change ended, or whose history could not be written, left a verified layout and no generation.
    The change before it is not the one that its user means to undo.

    :raises errors.PolicyError: the last change is not in the history.
    """
    try:
        verified = Verified(host).entries().values()
    except errors.JournalDamaged:
        return
    last = max((entry["generation"] or 0 for entry in verified), default=0)
    if last > newest:
        raise errors.PolicyError(
            f"The last change of this host, which was to be generation {last}, is not in the history: its run ended before it "
            "could be written. What it began with is not known.",
            todo="Nothing was changed. Name what to go to, for example 'salt-call gpu_slicing.rollback "
            f"{newest}', which brings back what generation {newest} came to.",
        )


def _last_change(past):
    """The last generation that changed anything: one that failed and was put back did not."""
    # What undid an interrupted change went back to where that had begun: to undo this would be to go half way again. A boot
    # brought back what the change before had come to: to undo this would be to take all slices away, for which nobody has asked.
    made = [entry for entry in past if entry.get("result") != UNDID and entry.get("who") != REPLAY]
    if not made:
        raise errors.PolicyError(
            "The history of this host has only the undoing of interrupted changes and what boots brought back, and no "
            "change that could be undone.",
            todo="Nothing was changed. 'salt-call gpu_slicing.history' tells what there was.",
        )
    changing = (entry for entry in reversed(made) if "error" in entry or entry.get("before") != entry.get("after"))
    return next(changing, made[-1])


def targets(found, tools, gpus):
    """
    Targets that bring back what is wanted.

    :param found: :class:`Wanted`; :param tools: the toolbox; :param gpus: the GPUs of the host.
    :raises errors.DeviceNotFound: a GPU of it is gone; :raises errors.JournalDamaged: a layout could not be read at that time.
    """
    record, layouts, newest = found
    earlier = by_key(record[layouts])
    covered = by_key(record.get("addresses", {}))
    by_address = {gpu.address: gpu for gpu in gpus}
    gone = [address for key in earlier for address in covered.get(key, [key.subject]) if address not in by_address]
    if gone:
        raise errors.DeviceNotFound(
            f"Generation {record['generation']} is of GPUs that this host no longer has: {', '.join(gone)}.",
            todo=f"It has {', '.join(by_address) or 'none'}; nothing was changed.",
        )
    made = []
    for key, layout in earlier.items():
        tool, addresses = tools.get(key.technique), covered.get(key, [key.subject])
        if "error" in layout:
            raise errors.JournalDamaged(
                f"Generation {record['generation']} does not tell the layout: {layout['error']}", addresses[0]
            )
        made += [Target(by_address[each], key, tool.settings_of(layout), newest=newest) for each in addresses]
    return made
