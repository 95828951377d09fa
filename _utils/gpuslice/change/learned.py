"""
How long the steps of earlier changes took on this host, for the estimates of a plan: its own medians say more than anybody's
figures. What is in the history is checked like any other input, and nothing in it keeps a plan from being made.
"""

from dataclasses import replace

from gpuslice.costs import MEASURED
from gpuslice.records.history import History

#: From so many times on their median counts; no more of each are looked for.
LEAST, ENOUGH = 3, 25
#: Seconds that no step takes: a clock or a hand wrote them.
_ABSURD = 86_400


def kind(part, step):
    """What one step has in common with others that take as long."""
    return step.technique, step.action, part.model


def taken(part, step, seconds):
    """How the history tells that a step took so many seconds."""
    technique, action, model = kind(part, step)
    return {"technique": technique, "action": action, "model": model, "seconds": round(seconds, 4)}


def estimated(host, plan, known):
    """
    The plan, whose steps are told to take as long as those like them did on this host, where enough of these are known.

    :param known: kind -> median, None where too little is known; it is filled up with what this plan asks for.
    """
    new = {kind(part, step) for part in plan.changing for step in part.steps} - known.keys()
    if new:
        known.update({**dict.fromkeys(new), **medians(times(host, new))})
    return replace(plan, parts=tuple(_told(part, known) for part in plan.parts))


def _told(part, known):
    def told(step):
        took = known[kind(part, step)]
        return step if took is None else replace(step, seconds=took, source=MEASURED)

    return replace(part, steps=tuple(map(told, part.steps)))


def times(host, wanted):
    """Kind -> seconds that steps of it took, the newest first, of those that are wanted; no more than :data:`ENOUGH` of each."""
    found: dict[tuple, list[float]] = {each: [] for each in wanted}
    for generation in History(host).newest_first():
        for each, seconds in _believed(generation.get("times")):
            if each in found and len(found[each]) < ENOUGH:
                found[each].append(seconds)
        if all(len(seconds) == ENOUGH for seconds in found.values()):
            break
    return found


def medians(known):
    """Kind -> the median of its seconds, of those of which there are enough."""
    return {each: median(seconds) for each, seconds in known.items() if len(seconds) >= LEAST}


def median(numbers):
    """The one in the middle of at least one number; of an even count the mean of the two."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _believed(rows):
    """(kind, seconds) of those of these rows of a file that can be true."""
    for row in rows if isinstance(rows, list) else ():
        if not isinstance(row, dict):
            continue
        each, seconds = (row.get("technique"), row.get("action"), row.get("model")), row.get("seconds")
        if all(isinstance(word, str) for word in each) and type(seconds) in (int, float) and _is_likely(seconds):
            yield each, seconds


def _is_likely(seconds):
    # Compared, which no number is too large for; one that is none, or endless, is not below.
    return 0 <= seconds < _ABSURD
