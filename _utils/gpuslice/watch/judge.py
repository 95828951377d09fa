"""
What a look changes of what is known: a pure function of what was known and what was seen.

It worsens at once, but for what is polled, which two looks in turn must see. It improves on evidence only: what has to be done
was seen to be done, and then several looks in turn saw nothing of it any more.
"""

from typing import NamedTuple

from gpuslice.watch import meanings

#: Where something is looked for: files of the kernel, the vendor's library, its remapped memory rows, the kernel's log.
FILES, LIBRARY, ROWS, LOG = "files", "library", "rows", "log"
#: Conditions that are kept: a log that is full of errors must not fill the disk.
_MOST = 200


class Reset(NamedTuple):
    """A GPU was seen to be reset. :ivar gpu: PCI address."""

    gpu: str


class Look(NamedTuple):
    """
    What was seen.

    :ivar boot: identifier of this boot; :ivar now: seconds since the epoch.
    :ivar counts: whether it is long enough after the last look to count as one of several in turn.
    :ivar seen: :class:`.condition.Condition` and :class:`Reset`, in their order.
    :ivar asked: (PCI address, source) of what was looked at.
    :ivar verdicts: PCI address -> what the driver asks for, of GPUs whose driver tells it.
    :ivar uuids: PCI address -> UUID of the board that is there now, as far as it is known.
    :ivar ended: process ids, of those that conditions name, that do not run any more.
    :ivar gone: names of slices, of those that conditions name, that are not there any more.
    """

    boot: str
    now: float
    counts: bool
    seen: tuple = ()
    asked: frozenset = frozenset()
    verdicts: dict = {}
    uuids: dict = {}
    ended: frozenset = frozenset()
    gone: frozenset = frozenset()


def judged(known, look, treatments, clean):
    """
    The conditions after a look, as a list.

    :param known: those before it; :param look: :class:`Look`; :param treatments: as of :func:`gpuslice.watch.meanings.of_xid`.
    :param clean: looks in turn that must have seen nothing.
    """
    found = {each.key: _with_evidence(each, look, treatments) for each in known}
    fresh = set()
    for each in look.seen:
        if isinstance(each, Reset):
            found = {key: _after_reset(one, each.gpu, treatments) for key, one in found.items()}
            continue
        found[each.key] = _seen(found.get(each.key), each, each.key in fresh, look.counts)
        fresh.add(each.key)
    found = {key: each if key in fresh else _unseen(each, look) for key, each in found.items()}
    left = [_softened(each, look) for each in found.values()]
    return [each for each in left if not each.is_over(treatments, clean, look.now)][-_MOST:]


def _needs(each, treatments):
    meaning = each.meaning(treatments)
    return meaning.needs if meaning else ""


def _with_evidence(each, look, treatments):
    """What was known, with what this look shows beside resets."""
    booted = bool(look.boot) and each.boot != look.boot
    replaced = bool(each.uuid) and look.uuids.get(each.gpu, each.uuid) != each.uuid
    enough = {
        meanings.PROGRAM: booted or replaced or each.slice in look.gone or each.pid is None or each.pid in look.ended,
        meanings.RESET: booted or replaced,
        meanings.REBOOT: booted or replaced,
        meanings.REPLACED: replaced,
    }
    # What the driver asks for it takes back itself.
    taken_back = each.code in meanings.VERDICTS and look.verdicts.get(each.gpu) == 0
    return _cured(each) if taken_back or enough.get(_needs(each, treatments), False) else each


def _after_reset(each, gpu, treatments):
    cures = each.code in meanings.VERDICTS or _needs(each, treatments) in (meanings.PROGRAM, meanings.RESET)
    return _cured(each) if cures and each.gpu == gpu else each


def _cured(each):
    """Looks count from here on: what nobody saw before it was dealt with says nothing of how it is now."""
    return each if each.cured else each._replace(cured=True, clean=0)


def _seen(before, each, is_fresh, counts):
    """
    :param before: what was known of it, None for something new; :param is_fresh: whether this look has seen it already.
    :param counts: whether the look is one of several in turn.
    """
    if before is None:
        return each
    in_turn = before.looks if before.clean == 0 else 0
    looks = in_turn + (1 if counts and not is_fresh else 0)
    newer = {name: getattr(each, name) for name in ("words", "todo", "last", "boot", "pid", "uuid")}
    return before.again(**newer)._replace(looks=max(looks, 1))


def _unseen(each, look):
    return each._replace(clean=each.clean + 1) if look.counts and _was_asked(each, look.asked) else each


def _was_asked(each, asked):
    """Whether it was looked for, so that its absence says something."""
    if each.code in meanings.VERDICTS:
        return each.cured or (each.gpu, LIBRARY) in asked
    if each.code.startswith("xid-") or each.code in _OF_THE_LOG:
        return ("", LOG) in asked
    if each.code.startswith("nvidia-row-"):
        return (each.gpu, ROWS) in asked
    return (each.gpu, LIBRARY if each.code.startswith("nvidia-") else FILES) in asked


_OF_THE_LOG = ("drm-hung", "drm-wedged", "intel-firmware", "intel-hardware", "nvswitch-fatal")


def _softened(each, look):
    verdict = look.verdicts.get(each.gpu)
    return each if verdict is None else each._replace(softened=verdict == 0)
