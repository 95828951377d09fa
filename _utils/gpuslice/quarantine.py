"""
Quarantine: what must not be handed out is noted, and who has it moves, as one change by hand does. Loaded only where something is
quarantined or released.

The record is written first, so that a run which ends half way leaves what others go by; where the change fails it goes back too.
"""

import fnmatch
import logging
from contextlib import suppress

from gpuslice import addresses
from gpuslice import errors
from gpuslice import folding
from gpuslice import front
from gpuslice import moments
from gpuslice.change import telling
from gpuslice.plan import NOTHING
from gpuslice.policy import health
from gpuslice.records import lock
from gpuslice.records import quarantine as records
from gpuslice.records.quarantine import BOARD
from gpuslice.records.quarantine import SLICE
from gpuslice.records.quarantine import Decision
from gpuslice.records.quarantine import Quarantine
from gpuslice.status_words import FAILING

log = logging.getLogger(__name__)

_WHY = "no reason was given"
#: In the place of a summary that nothing is to do, where something was noted.
_NOBODY = "No consumer moves."
_SPARED = (
    "Policy quarantines nothing of GPU {}: of the {} GPUs of this host more than half failed within an hour, which is rather "
    "the fault of its driver, its fabric or an update than of each of them. See 'dmesg', mend that or go back, and quarantine by "
    "hand what must not be handed out ('salt-call gpu_health.quarantine')."
)


def quarantined(engine, names, why="", test=False, permissions=None):
    """
    Hand these out to nobody, until somebody releases them; whoever has one moves where another one fits.

    :param names: a slice, a GPU, a pattern of GPUs, ``all``, or a list of these.
    :param why: a sentence; :param test: plan only, change nothing.
    :param permissions: the pillar: what becomes of those for whom nothing else fits, and which units may be stopped.
    :return: dict with ``changes``, ``comment``, ``result``, as :func:`gpuslice.front.done` and ``planned`` have it.
    :raises errors.DeviceNotFound, errors.PolicyError: a name is of nothing that is here; and what a change raises.
    """
    meant, doing = _meant(engine, names), engine.doing()
    consumers = _health(permissions)["consumers"]

    def decide(entries):
        now, made = engine.host.now(), Decision({}, {}, {})
        for name, (gpu, scope) in meant.items():
            old = entries.get(name)
            reason = why or (old.why if old and old.in_force else _WHY)
            entry = records.by_hand(old, gpu, scope, reason, doing.who, doing.jid, consumers, now)
            if old is None or not old.in_force:
                made.quarantine[name] = entry
            elif old._replace(who="", jid="") != entry._replace(who="", jid="", why=why or old.why):
                made.renew[name] = entry
        return made

    return _carried_out(engine, decide, test, permissions, [f"{name} is quarantined already." for name in meant])


def released(engine, names, test=False, permissions=None, statuses=None):
    """
    Hand these out again. Whoever moved stays where he is; who was left without gets one.

    :param names: as of :func:`quarantined`, or as :func:`listed` has them, also of a GPU that is gone.
    :param statuses: as of :func:`by_policy`, where they are known: for what stands now policy does not quarantine them again.
    :return: as :func:`quarantined`, which also says what is raised.
    """
    there = Quarantine(engine.host).entries()
    meant = _to_release(engine, names, {name for name, each in there.items() if each.in_force})

    def decide(entries):
        made = Decision({}, {}, {})
        for name in meant:
            if (old := entries.get(name)) and old.in_force:
                made.release[name] = records.let_go(old, _standing(name, old, statuses or {}), engine.host.now())
        return made

    return _carried_out(engine, decide, test, permissions, [f"{name} is not quarantined." for name in meant])


def by_policy(engine, statuses, pillar, test=False, known_since=0):
    """
    Quarantine what failed, where the pillar says so, and release what policy had quarantined and is well again.

    :param statuses: PCI address -> ``status``, ``action``, ``scope``, ``codes``, ``sentence`` and ``slices``, see
        :func:`gpuslice.records.quarantine.decide`.
    :param pillar: with ``containers_gpu_state_management:health``; its permissions hold too.
    :param known_since: as of :func:`gpuslice.records.quarantine.decide`.
    :return: as :func:`quarantined`.
    """
    wanted, spared = _health(pillar), []

    def decide(entries):
        made = records.decide(entries, statuses, wanted, engine.host.now(), known_since)
        spared[:] = made.spared
        return made

    answer = _carried_out(engine, decide, test, pillar, [])
    if not spared:
        return answer
    told = [_SPARED.format(", ".join(spared), len(statuses)), *([answer["comment"]] if answer["changes"] else [])]
    return {**answer, "result": False, "comment": "\n".join(told)}


def listed(engine):
    """What is quarantined, by name, as dicts for people and programs; {} where nothing is."""
    found = {}
    for name, each in engine.quarantined().items():
        found[name] = {
            "gpu": each.gpu, "scope": each.scope, "since": moments.iso(each.since), "by": each.by,
            "who": each.who, "jid": each.jid, "why": each.why, "codes": list(each.codes), "consumers": each.consumers,
            "released_by": "hand" if each.by == records.HAND or each.hold else "hand or evidence",
        }  # fmt: skip
    return found


# -- which are meant -------------------------------------------------------------------------------------------------------
def _meant(engine, names):
    """Name -> (PCI address, scope) of what a user names: slices by name or UUID, all else as boards."""
    slices, found = engine.slices(taken=True), {}
    for name in names if isinstance(names, list | tuple) else [names]:
        part = _slice_called(slices, name)
        if part:
            found[part["name"]] = (part["gpu"], SLICE)
        else:
            found.update({gpu.address: (gpu.address, BOARD) for gpu in engine.chosen(name).gpus})
    return found


def _slice_called(slices, name):
    if not isinstance(name, str):
        return None
    wanted = name.strip().lower()
    called = (each for each in slices if wanted in (each["name"].lower(), each.get("uuid", "").lower()))
    return next((each for each in called if each["name"] != each["gpu"]), None)


def _to_release(engine, names, in_force):
    """Names of what is meant, of those in force as far as there are any; what is gone from this host can be released too."""
    found = []
    for name in names if isinstance(names, list | tuple) else [names]:
        found += _matching(name, in_force) or _meant(engine, name)
    return list(dict.fromkeys(found))


def _matching(name, in_force):
    if not isinstance(name, str):
        return []
    wanted = name.strip().lower()
    if wanted == "all":
        return sorted(in_force)
    if addresses.is_pattern(wanted):
        return [each for each in sorted(in_force) if fnmatch.fnmatchcase(each.lower(), wanted)]
    return [each for each in in_force if each.lower() == wanted]


def _standing(name, entry, statuses):
    board = statuses.get(entry.gpu) or {}
    found = (board.get("slices") or {}).get(name, board) if entry.scope == SLICE else board
    return found.get("codes", ()) if found.get("status") in FAILING else ()


def _health(pillar):
    """What the pillar says of health; the defaults where it is wrong: what is asked for by hand must not depend on it."""
    try:
        return health.of_pillar(pillar)
    except errors.PolicyError as err:
        log.warning("the pillar is wrong, so that its words on health do not count: %s", err)
        return health.defaults()


# -- the change ------------------------------------------------------------------------------------------------------------
def _carried_out(engine, decide, test, permissions, otherwise):
    """
    Note what is decided, and hand out what there is then.

    :param decide: function of the entries on record that returns a :class:`gpuslice.records.quarantine.Decision`.
    :param otherwise: sentences for where there is nothing to note; none where only what is noted is to be carried out.
    """
    record = Quarantine(engine.host)
    entries = record.entries()
    made = decide(entries)
    if not made.entries and not otherwise:
        # Evidence says nothing new: what there is was handed out by it before, or is by whoever comes next.
        return {"result": True, "changes": {}, "comment": "What is quarantined is as it should be."}
    reconciler = engine.reconciler(permissions=permissions)
    if test:
        plan = reconciler.plan(_targets(engine, {**entries, **made.entries}))
        return _answer(engine, front.planned(plan), made, entries, otherwise, bool(plan.parts), would=True)
    doing = engine.doing()
    if made.entries:
        with lock.held(engine.host.state_dir, doing.who, doing.jid):
            # Somebody else may have noted something since.
            entries = record.entries()
            made = decide(entries)
            _note(record, made, entries)
    had = engine.given()
    front.changes()
    try:
        engine.tools.release()
        result = reconciler.apply(engine.handed_on([]))
    except BaseException as err:
        # What ends the process may come when all is done.
        if not (isinstance(err, errors.Interrupted) and _holds(engine, reconciler)):
            _put_back(engine, record, made, entries)
        raise
    if not result.ok and not _holds(engine, reconciler):
        result.errors += _put_back(engine, record, made, entries)
        result.errors += _told_again(engine, reconciler)
        return _answer(engine, front.done(result), Decision(), entries, otherwise, True)
    _announce(engine, made, entries, had, doing)
    return _answer(engine, front.done(result), made, entries, otherwise, bool(result.plan.parts))


def _note(record, made, before):
    try:
        record.write({**before, **made.entries})
    except errors.GpuSliceError:
        # It may have been written before that was found out.
        with suppress(errors.GpuSliceError):
            record.write(before)
        raise


def _holds(engine, reconciler):
    """Whether slices are handed out as the record says now."""
    engine.tools.release()
    try:
        return reconciler.plan(engine.handed_on([])).empty
    except errors.GpuSliceError:
        return False


def _targets(engine, entries):
    """Targets of those who hand out, as if these were on record."""
    held = {name: each for name, each in entries.items() if each.in_force}
    why = {name: each.why for name, each in held.items()}
    told = {"quarantined": {name: each.consumers for name, each in held.items()}, "why": why}
    return [target._replace(settings={**target.settings, **told}) for target in engine.handed_on([])]


def _put_back(engine, record, made, before):
    """What was noted goes back, where nobody else noted something since. Returns what came of it, as sentences."""
    if not made.entries:
        return []
    try:
        doing = engine.doing()
        with lock.held(engine.host.state_dir, doing.who, doing.jid):
            now = record.entries()
            for name, entry in made.entries.items():
                # Of one that was released there may be nothing to remember.
                if now.get(name) == entry or not (entry.in_force or name in now):
                    now.pop(name, None)
                    now.update({name: before[name]} if name in before else {})
            record.write(now)
    except errors.GpuSliceError as err:
        return [f"What is quarantined could not be put back as it was: {err}"]
    return ["What is quarantined is as it was before."]


def _answer(engine, answer, made, before, otherwise, handing, would=False):
    """The answer of the hand-out, with what became of the quarantine before it."""
    lines, changes = [], {}
    for name, entry in made.quarantine.items():
        changes[name] = {"old": "in service", "new": f"quarantined: {entry.why}"}
        lines.append(f"{_called(name, entry)} {'would be' if would else 'is'} quarantined: {entry.why}")
    for name, entry in made.release.items():
        changes[name] = {"old": f"quarantined: {before[name].why}", "new": "in service"}
        lines.append(f"{_called(name, entry)} {'would be' if would else 'is'} handed out again.")
    for name, entry in made.renew.items():
        if (old := _words(before[name])) != (new := _words(entry)):
            changes[name] = {"old": old, "new": new}
            lines.append(f"{_called(name, entry)} {'would be' if would else 'is'} {new}")
    handed = answer["comment"]
    if changes and handed.endswith(NOTHING):
        handed = handed.removesuffix(NOTHING) + _NOBODY
    if not changes and answer.get("result") is not False:
        lines += otherwise
    told = {**answer, "changes": {**changes, **answer["changes"]}}
    told["comment"] = "\n".join([*folding.sentences(lines), *([handed] if handing else [])])
    if would and changes and answer.get("result"):
        told.pop("result")
    return told


def _words(entry):
    if not entry.in_force:
        return "in service"
    lost = ", and consumers without another one are stopped" if entry.consumers == records.STOP else ""
    return f"quarantined by {entry.by}{lost}: {entry.why}"


def _called(name, entry):
    return f"GPU {name}" if entry.scope == BOARD else f"Slice {name}"


# -- events ----------------------------------------------------------------------------------------------------------------
def _told_again(engine, reconciler):
    """
    What the undo told by the record of then is told by the one of now. Returns what came of it, as sentences; where all is as it
    was that is nothing, and nothing is done.
    """
    try:
        engine.tools.release()
        return reconciler.apply(engine.handed_on([])).errors
    except errors.GpuSliceError as err:
        return [str(err)]


def _announce(engine, made, before, had, doing):
    """Tell schedulers: one event for each that was quarantined or released. Who listens must not fail it."""
    if engine.health_events is None or not (made.quarantine or made.release):
        return
    parts = engine.parts(taken=True)
    given = {**had}
    has = {}
    for part, consumer in engine.given().items():
        has.setdefault(consumer, []).append(part)
        given.setdefault(part, consumer)
    for kind, entries in (("quarantined", made.quarantine), ("released", made.release)):
        for name, entry in entries.items():
            # A whole GPU, and one that can't be read, has no slices to be read: who has some of it is on record.
            handed = [part for part in given if part == name or part.startswith(f"{name}-")]
            slices = sorted({*records.barred(parts, [name]), *handed})
            theirs = dict.fromkeys(given[part] for part in slices if part in given)
            told = entry if kind == "quarantined" else before[name]
            event = {
                "name": name, "gpu": entry.gpu, "scope": entry.scope,
                "by": entry.by if kind == "quarantined" else entry.released_by,
                "why": told.why, "codes": list(told.codes), "slices": slices,
                "consumers": {consumer: has.get(consumer, []) for consumer in theirs}, "who": doing.who, "jid": doing.jid,
            }  # fmt: skip
            try:
                engine.health_events(kind, telling.plain(event))
            except Exception:
                log.warning("that %s is %s could not be told", name, kind, exc_info=True)
