"""
What comes back to a change that waits: a job in the minion's own schedule, made by the run that found it could not be done yet.
It ends itself once the host is as wanted, or the pillar asks for something else. Loaded only where something waits.

Salt's functions are handed in, as everywhere in front.
"""

import logging
import os

from gpuslice import errors
from gpuslice import folding
from gpuslice import moments
from gpuslice.host.base import WAITING
from gpuslice.records.waits import Waits

log = logging.getLogger(__name__)

#: The job's name in the minion's schedule, and how often it looks.
JOB, MINUTES = "gpu_slicing_waiting", 5
_RESUME = "gpu_slicing.resume"
_AGAIN = (
    f"What waits is tried again every {MINUTES} minutes by the job {JOB} of this minion. 'gpu_slicing.waiting' tells of it, "
    "'gpu_slicing.forget_waiting' ends it."
)
_NOT_AGAIN = (
    "Nothing tries again by itself what waits: no minion runs here that would keep a schedule. Run "
    "'salt-call gpu_slicing.resume' when its time has come, for example from a timer, or apply the pillar again."
)
_BY_HAND = "What waits is not tried again: it was asked for with a pillar given by hand. Ask again when its time has come."
_NOTHING = "Nothing waits on this host."


def settled(answer, result, engine, pillar, own, salt, opts):
    """
    Keep the record and the job in step with what a run came to. Returns its answer, which says who comes back to what waits.

    :param answer: as :func:`gpuslice.front.done` made it of ``result``. :param own: whether ``pillar`` is the minion's own.
    :param salt: ``__salt__``; :param opts: ``__opts__`` of the loader file.
    """
    plan = result.plan if result.ok else _planned(engine, pillar)
    if not own:
        return _warned(answer, _BY_HAND) if plan.waiting else answer
    try:
        record = Waits(engine.host)
        if not plan.waiting:
            return _over(answer, result, record, salt, opts)
        again = _schedule(salt, opts)
        record.write(_data(engine, pillar, plan, again, _known(record)))
    except (OSError, errors.StateDirUnusable) as err:
        return _warned(answer, f"What waits could not be noted: {err}")
    return _warned(answer, _AGAIN if again else _NOT_AGAIN)


def _planned(engine, pillar):
    """What is to do after a run that failed: somebody may have come between its plan and its steps, for whom it waits then."""
    engine.tools.release()
    try:
        return engine.plan(pillar)
    except errors.GpuSliceError as err:
        log.info("what waits can't be planned: %s", err)
        # It can't even be said what is to be done, so that nothing is to come back to it by itself.
        from gpuslice.plan import Plan

        return Plan()


def _data(engine, pillar, plan, again, earlier):
    policy = engine.policy(pillar)
    digest = policy.digest
    now = engine.host.now()
    since = min(earlier["since"], now) if earlier and earlier["digest"] == digest else now
    return {
        "since": since, "noted": now, "until": _until(engine, policy), "digest": digest, "of": plan.waiting[0][1],
        "what": [[where, why] for where, _, why in plan.waiting], "again": again,
    }  # fmt: skip


def _until(engine, policy):
    """The moment before which nothing needs to be tried, None where it may be possible at any."""
    if policy.when != "window":
        return None
    from gpuslice import window

    hours, now = window.of(policy.maintenance_window), engine.host.now()
    return None if hours.is_open(now) else hours.next_opening(now)


def _known(record):
    try:
        return record.read()
    except errors.StateDirUnusable:
        # It is written anew.
        return None


def _over(answer, result, record, salt, opts):
    noted = _known(record)
    record.remove()
    _unschedule(salt, opts, noted)
    if not result.ok:
        return _warned(answer, "What waited is not tried again by itself, since it failed.")
    return answer


def _warned(answer, sentence):
    return {**answer, "warnings": [*answer.get("warnings", ()), sentence]}


def _has_bus(opts):
    """Whether a minion runs that would hear of it: to ask where none does takes seconds. It has sockets of that name."""
    try:
        return any(name.startswith("minion_event_") for name in os.listdir(opts.get("sock_dir") or ""))
    except OSError:
        return False


def _schedule(salt, opts):
    """Have the minion come back by itself. Returns whether it will."""
    if not _has_bus(opts) or "schedule.add" not in salt:
        return False
    try:
        done = salt["schedule.add"](
            JOB, function=_RESUME, minutes=MINUTES, maxrunning=1, persist=True, enabled=True, run_on_start=False, return_job=False
        )
    except Exception:
        # Whatever Salt has against it: the change itself is none the worse, and that nothing comes back is told.
        log.warning("the minion's schedule could not be changed", exc_info=True)
        return False
    return bool(done.get("result")) or "already exists" in str(done.get("comment"))


def _unschedule(salt, opts, noted):
    """Take the job out of the minion's schedule, where it may be in it: without a minion, asking takes seconds."""
    listed_there = (noted and noted["again"]) or JOB in (opts.get("schedule") or ())
    if not listed_there or not _has_bus(opts):
        return
    try:
        done = salt["schedule.delete"](JOB, persist=True)
        log.info("the job %s was taken out of the minion's schedule: %s", JOB, done.get("comment"))
    except Exception:
        # It finds nothing to do when it runs next, and tries to end itself again.
        log.warning("the job %s could not be taken out of the minion's schedule", JOB, exc_info=True)


def why_not_yet(engine, test, salt, opts):
    """Why there is nothing to try now, as an answer; None where there is. The pillar is not looked at."""
    noted = Waits(engine.host).read()
    if noted is None:
        if not test:
            _unschedule(salt, opts, None)
        return _told(_NOTHING)
    if _is_early(noted, engine.host.now()):
        return _told("\n".join(["It is not yet time:", *folding.sentences(f"Waits: {why}" for _, why in noted["what"])]))
    return None


def _is_early(noted, now):
    """Whether nothing needs to be tried yet. A clock that went back since says that the moment was told by a wrong one."""
    return noted["until"] is not None and noted.get("noted", noted["since"]) <= now < noted["until"]


def why_no_more(engine, pillar, test, salt, opts):
    """
    Why what waits is no longer wanted, as an answer; None where it is.

    :raises errors.PolicyError: the pillar could not be made, or has mistakes. What waits goes on waiting.
    """
    if "_errors" in pillar:
        raise errors.PolicyError("The pillar of this minion could not be made, so that what waits was not tried.")
    record = Waits(engine.host)
    noted = record.read()
    if noted is None:
        # Another run was faster.
        return _told(_NOTHING)
    if engine.policy(pillar).digest == noted["digest"]:
        return None
    if not test:
        record.remove()
        _unschedule(salt, opts, noted)
    return _told(
        "The pillar is another one than when its change began to wait: nothing was done, and it waits no more. "
        "'state.apply gpu_slicing' does what the pillar says now."
    )


def _told(comment):
    return {"result": True, "changes": {}, "comment": comment}


def given_up(engine, salt, opts):
    """Nothing is to come back to what waits: something else was asked for. Raises errors.StateDirUnusable."""
    record = Waits(engine.host)
    noted = _known(record)
    _remove(record)
    _unschedule(salt, opts, noted)


def _remove(record):
    try:
        record.remove()
    except OSError as err:
        what = f"What waits could not be forgotten: {err.strerror}."
        raise errors.StateDirUnusable(what, todo="Mend the state directory.") from err


def listed(engine):
    """What waits, as a dict for people and programs; {} where nothing does."""
    noted = Waits(engine.host).read()
    if noted is None:
        return {}
    return {
        "for": noted["of"],
        "since": moments.iso(noted["since"]),
        "until": noted["until"] and moments.iso(noted["until"]),
        "waiting": {where: why for where, why in noted["what"]},
        "again": f"every {MINUTES} minutes, by the job {JOB}" if noted["again"] else "by nobody: run 'gpu_slicing.resume'",
    }


def forgotten(engine, test, salt, opts):
    """Take back what waits. Returns an answer."""
    record = Waits(engine.host)
    noted = _known(record)
    if noted is None and not engine.host.has_record(WAITING):
        if not test:
            _unschedule(salt, opts, None)
        return _told(_NOTHING)
    gone = {where: why for where, why in noted["what"]} if noted else {}
    changes = {where: {"old": f"waits: {why}", "new": "waits no more"} for where, why in gone.items()}
    if test:
        return {"changes": changes, "comment": "What waits would be forgotten."}
    _remove(record)
    _unschedule(salt, opts, noted)
    return {
        "result": True,
        "changes": changes,
        "comment": "Forgotten. The pillar still asks for it: the next 'state.apply gpu_slicing' does it, or has it wait again.",
    }
