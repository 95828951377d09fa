"""
What a look changes of what is known: a pure function of what was known and what was seen.

It worsens at once, but for what is polled, which two looks in turn must see. It improves on evidence only: what has to be done
was seen to be done, and then several looks in turn saw nothing of it any more.
"""

from typing import NamedTuple

from gpuslice import status_words
from gpuslice.watch import meanings

#: Where something is looked for: files of the kernel, the kernel's log, the vendor's library, and what that tells only at times:
#: remapped memory rows, and what the driver asks for.
FILES, LOG, LIBRARY, ROWS, VERDICT = "files", "log", "library", "rows", "verdict"
#: Those for which a library is asked, and those for which none is.
OF_LIBRARY, OF_KERNEL = frozenset({LIBRARY, ROWS, VERDICT}), frozenset({FILES, LOG})
_ROWS_WAIT = "nvidia-row-remap-pending"
#: Place of the rows that wait among the numbers of remapped rows.
_PENDING = 2
#: Conditions that are kept: a log that is full of errors must not fill the disk.
_MOST = 200


class Reset(NamedTuple):
    """A GPU was seen to be reset. :ivar gpu: PCI address."""

    gpu: str


class Look(NamedTuple):
    """
    What was seen.

    :ivar boot: identifier of this boot; :ivar now: seconds since the epoch.
    :ivar counts: sources of which this is long enough after the last look at them to count as one of several in turn.
    :ivar seen: :class:`.condition.Condition` and :class:`Reset`, in their order.
    :ivar asked: (PCI address, source) of what was looked at and told how it is.
    :ivar verdicts: PCI address -> what the driver asks for, of GPUs whose driver tells it.
    :ivar uuids: PCI address -> UUID of the board that is there now, as far as it is known.
    :ivar ended: process ids, of those that conditions name, that do not run any more.
    :ivar rows: PCI address -> ``time`` of the last reading of its remapped rows, in seconds since the epoch, and ``rows``:
        corrected, uncorrected, pending, failed.
    :ivar gone: names of slices, of those that conditions name, that are not there any more.
    """

    boot: str
    now: float
    counts: frozenset
    seen: tuple = ()
    asked: frozenset = frozenset()
    verdicts: dict = {}
    uuids: dict = {}
    ended: frozenset = frozenset()
    gone: frozenset = frozenset()
    rows: dict = {}


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
        if each.code in meanings.VERDICTS:
            # A driver asks for one thing at a time.
            found = {key: one for key, one in found.items() if key == each.key or not _is_verdict_on(one, each.gpu)}
        found[each.key] = _seen(found.get(each.key), each, each.key in fresh, look.counts)
        fresh.add(each.key)
        if len(found) > 2 * _MOST:
            found = {one.key: one for one in _gravest(list(found.values()), treatments)}
    found = {key: each if key in fresh else _unseen(each, look) for key, each in found.items()}
    left = [_softened(each, look) for each in found.values()]
    return _gravest([each for each in left if not each.is_over(treatments, clean, look.now)], treatments)


def _gravest(conditions, treatments):
    """Those that are kept, in their order: the gravest, and of these the newest."""
    if len(conditions) <= _MOST:
        return conditions
    statuses = [(meaning := each.meaning(treatments)) and status_words.STATUSES.index(meaning.status) or 0 for each in conditions]
    places = sorted(range(len(conditions)), key=lambda place: (statuses[place], conditions[place].last, place))
    return [conditions[place] for place in sorted(places[-_MOST:])]


def _is_verdict_on(each, gpu):
    return each.gpu == gpu and each.code in meanings.VERDICTS


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
    if each.code in meanings.VERDICTS:
        verdict = look.verdicts.get(each.gpu)
        # One that was installed since may not tell what it asks for.
        return _cured(each) if verdict == 0 or replaced or (booted and verdict is None) else each
    if each.code == _ROWS_WAIT:
        # They are remapped with a boot; and who cuts the GPU reads them before, which nobody can after it.
        return _cured(each) if booted or replaced or _are_told_done(each, look) else each
    return _cured(each) if enough.get(_needs(each, treatments), False) else each


def _are_told_done(each, look):
    told = look.rows.get(each.gpu)
    return bool(told) and told["time"] > each.last and len(told["rows"]) > _PENDING and not told["rows"][_PENDING]


def _after_reset(each, gpu, treatments):
    if each.gpu != gpu or each.cured:
        return each
    cures = each.code in (*meanings.VERDICTS, _ROWS_WAIT) or _needs(each, treatments) in (meanings.PROGRAM, meanings.RESET)
    return _cured(each) if cures else each


def _cured(each):
    """Looks count from here on: what nobody saw before it was dealt with says nothing of how it is now."""
    return each if each.cured else each._replace(cured=True, clean=0)


def _seen(before, each, is_fresh, counts):
    """
    :param before: what was known of it, None for something new; :param is_fresh: whether this look has seen it already.
    :param counts: as of :class:`Look`.
    """
    if before is None:
        return each
    looks = before.in_turn + (1 if _source(each.code) in counts and not is_fresh else 0)
    newer = {name: getattr(each, name) for name in ("words", "todo", "last", "boot", "pid", "uuid")}
    return before.again(**newer)._replace(looks=max(looks, 1))


def _unseen(each, look):
    return each._replace(clean=each.clean + 1) if _was_asked(each, look) else each


def _was_asked(each, look):
    """Whether it was looked for, in a look that counts, so that its absence says something."""
    source = _source(each.code)
    if each.code in meanings.VERDICTS and each.cured:
        # Whoever looks would hear of another one: it stands in the log too.
        return LOG in look.counts and ("", LOG) in look.asked or _told(each, VERDICT, look)
    if source == ROWS and each.cured:
        # A GPU that was cut since does not tell them.
        source = LIBRARY
    return _told(each, source, look)


def _told(each, source, look):
    return source in look.counts and ("" if source == LOG else each.gpu, source) in look.asked


def _source(code):
    if code in meanings.VERDICTS:
        return VERDICT
    if code.startswith("xid-") or code in _OF_THE_LOG:
        return LOG
    if code.startswith("nvidia-row-"):
        return ROWS
    return LIBRARY if code.startswith("nvidia-") else FILES


_OF_THE_LOG = ("drm-hung", "drm-wedged", "intel-firmware", "intel-hardware", "nvswitch-fatal")


def _softened(each, look):
    verdict = look.verdicts.get(each.gpu)
    return each if verdict is None else each._replace(softened=verdict == 0)
