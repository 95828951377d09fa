"""
Sums of intervals, as plain data: since the record began, by hour, and by day. What is added to one is added to all.

``mj`` is what the board took in intervals that count, ``unallocated`` what of it no slice is charged with, ``ms`` how long they
were. ``rows`` has for each slice, by its number in the record, four figures: active and idle by activity, active and idle by
capacity; ``earlier`` is what those took of which no row tells any more. ``dropped`` has for each reason how many intervals count
for nothing, and what the board is known to have taken in them. Hours and days are those of UTC, counted since the epoch; an
interval is of the hour in which it ended.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from functools import partial

from gpuslice.energy.attribution import ACTIVITY
from gpuslice.energy.attribution import CAPACITY
from gpuslice.energy.attribution import Attribution
from gpuslice.energy.interval import Interval

HOUR, DAY = 3600, 86400
#: How many of each are kept.
HOURS, DAYS = 48, 90
#: How many slices of a board that are gone are told of by name.
GONE = 300
#: The number of an hour or day that no other follows.
_LAST = 10**9 - 1
#: Place of the active figure in a row; that of the idle one is the next.
PLACES = {ACTIVITY: 0, CAPACITY: 2}


def empty() -> dict:
    """Nothing yet."""
    return {"mj": 0, "unallocated": 0, "ms": 0, "earlier": 0, "rows": {}, "dropped": {}}


def book(board: dict, now: float, interval: Interval, found: Attribution | None, numbers: Mapping[str, str]) -> None:
    """
    Add an interval to all sums of a board in the record, and let go of the oldest.

    :param now: seconds since the epoch. :param found: how its energy is apportioned; None for one that counts for nothing.
    :param numbers: name of a slice -> its number in the record.
    """
    for sums in (board["total"], _of(board["hours"], now, HOUR), _of(board["days"], now, DAY)):
        if found is None:
            _drop(sums, interval)
        else:
            _add(sums, interval, found, numbers)
    for kept, length, most in ((board["hours"], HOUR, HOURS), (board["days"], DAY, DAYS)):
        for old in sorted(kept, key=partial(_worth, number(now, length)))[:-most]:
            del kept[old]


def number(moment: float, length: int) -> int:
    """
    Of the hour or day of a moment. What a clock says that was never set right is the first or the last that there is: a record
    that had another number would not be believed any more.
    """
    return int(min(max(moment // length, 0), _LAST))


def _worth(now: int, kept: str) -> tuple[bool, int]:
    """By which what is let go of comes first: what a wrong clock put into the future, and then what is oldest."""
    ahead = int(kept) > now
    return not ahead, -int(kept) if ahead else int(kept)


def _of(kept: dict, now: float, length: int) -> dict:
    return kept.setdefault(str(number(now, length)), empty())


def _drop(sums: dict, interval: Interval) -> None:
    count, energy = sums["dropped"].get(interval.dropped, (0, 0))
    sums["dropped"][interval.dropped] = [count + 1, energy + interval.energy_mj]


def _add(sums: dict, interval: Interval, found: Attribution, numbers: Mapping[str, str]) -> None:
    sums["mj"] += interval.energy_mj
    sums["ms"] += interval.milliseconds
    sums["unallocated"] += found.unallocated
    place = PLACES[found.method]
    for name, active in found.active.items():
        row = sums["rows"].setdefault(numbers[name], [0, 0, 0, 0])
        row[place] += active
        row[place + 1] += found.idle[name]


def summed(each: Iterable[dict]) -> dict:
    """Several of these as one."""
    whole = empty()
    for sums in each:
        for name in ("mj", "unallocated", "ms", "earlier"):
            whole[name] += sums.get(name, 0)
        for kind in ("rows", "dropped"):
            for name, figures in sums[kind].items():
                known = whole[kind].get(name, [0] * len(figures))
                whole[kind][name] = [one + other for one, other in zip(known, figures, strict=True)]
    return whole


def since(board: dict, moment: float, now: float) -> tuple[float, dict]:
    """
    (from when on, the sums since then) as exactly as it is still known: from the beginning of an hour, or further back of a day.

    :param moment: seconds since the epoch; :param now: likewise. What a wrong clock put into the future does not count.
    """
    recent = number(moment, HOUR) > number(now, HOUR) - HOURS
    kept, length, most = (board["hours"], HOUR, HOURS) if recent else (board["days"], DAY, DAYS)
    last = number(now, length)
    first = max(number(moment, length), last - most + 1)
    return float(first * length), summed(sums for each, sums in kept.items() if first <= int(each) <= last)


def forget(board: dict, there: Iterable[str]) -> None:
    """
    Let go of slices that are gone: of which no hour or day tells any more, and of more than :data:`GONE` the oldest, as where
    somebody cuts a board anew for each job. What they took stays in each sum as that of earlier slices.

    :param there: numbers of those that are there.
    """
    here, told = set(there), [*board["hours"].values(), *board["days"].values()]
    known = {number for each in told for number in each["rows"]}.difference(here)
    kept = {*here, *sorted(known.intersection(board["rows"]), key=int)[-GONE:]}
    for number in [number for number in board["rows"] if number not in kept]:
        del board["rows"][number]
        board["earlier"] += sum(board["total"]["rows"].pop(number, ()))
        for each in told:
            if took := sum(each["rows"].pop(number, ())):
                each["earlier"] = each.get("earlier", 0) + took
