"""
Looks at all boards of a host: each closes the interval since the last one, apportions what the board took in it, and writes that
down. Two looks never count the same energy twice, whoever takes them.

Whoever gathers figures takes one each time; a change takes one before its first step and one when it is over, so that what is cut
is not charged to what comes after it. What a board takes while it is being cut is nobody's.
"""

import logging

from gpuslice.drivers.telemetry import Telemetry
from gpuslice.energy import interval
from gpuslice.energy import sums
from gpuslice.energy.attribution import attribute
from gpuslice.energy.board import Look
from gpuslice.energy.board import Seen
from gpuslice.energy.interval import Interval
from gpuslice.energy.interval import Reading
from gpuslice.energy.record import IDLE_LOOKS
from gpuslice.energy.record import Energy
from gpuslice.energy.record import fresh
from gpuslice.energy.record import fresh_board
from gpuslice.inventory import discovery
from gpuslice.printable import printable

log = logging.getLogger(__name__)

#: Whether a change of ours begins with a look, or is over.
BEFORE, AFTER = "before", "after"
#: What is told of a board that is on record and not there, and of an interval in which slices were made or ended.
GONE, CUT = "this board is no longer there", "its slices were being changed"
#: Milliseconds over which a counter tells a power.
_LONG_ENOUGH = 10_000
#: By how much more than at its end a board draws on the mean only if it worked in between.
_MUCH_MORE = 1.25


def look(engine, every=None, change="", telemetry=None, parts=None, read_at=None):
    """
    One look at every board of the host. The first one begins the record.

    :param engine: :class:`gpuslice.engine.Engine`, open; what it was told before a change counts no more after it.
    :param every: seconds from one look to the next, by whoever takes them regularly; None leaves what was said last.
    :param change: ``before`` or ``after`` a change of ours, "" for neither.
    :param telemetry: :class:`gpuslice.drivers.telemetry.Telemetry`, and :param parts: function of a GPU that tells its slices on
        which nothing else stands, of whoever reads both for something else as well. :param read_at: since when that is, by the
        monotonic clock: of a board at which another looked since it may tell what a change has ended, so that it counts nothing.
    :return: PCI address -> the board as it is on record now, see :mod:`gpuslice.energy.report`.
    :raises errors.LockHeld: another look goes on. :raises errors.JournalDamaged, errors.StateDirUnusable: of the record.
    """
    file = Energy(engine.host)
    with file.alone():
        data = file.read() or fresh(engine.host.now())
        data["every"] = every or data["every"]
        gpus, telemetry = _present(engine), telemetry or Telemetry(engine.host, engine.tools.sessions)
        parts = parts or (lambda gpu: engine.parts(gpu.address))
        looks = {gpu.address: Look(engine, telemetry, gpu, parts) for gpu in gpus}
        begun = engine.host.limits.side_by_side(lambda gpu: looks[gpu.address].begin(), gpus)
        for each in begun:
            each()
        telemetry.settle()
        boards = data["boards"]
        for gpu in gpus:
            boards.setdefault(gpu.address, fresh_board(printable(gpu.model)))
        due = [gpu for gpu in gpus if not _is_older(engine, read_at, boards[gpu.address]["last"])]
        seen = engine.host.limits.side_by_side(lambda gpu: looks[gpu.address].end(boards[gpu.address]["last"]), due)
        for gpu, each in zip(due, seen, strict=True):
            _note(boards[gpu.address], each(), data, engine.host.now())
        for address in data["boards"].keys() - {gpu.address for gpu in gpus}:
            _let_go(data["boards"], address, engine.host.now())
        data["changing"] = change == BEFORE or (data["changing"] and change != AFTER)
        file.write(data)
    return data["boards"]


def _is_older(engine, read_at, last):
    """Whether what was read is of before the last look at a board."""
    return bool(read_at and last) and last["boot_id"] == engine.host.boot_id() and read_at < last["seconds"]


def totals(host):
    """
    What was counted since the record began, for those who gather figures: all of it only grows.

    :param host: :class:`gpuslice.host.base.Host`.
    :return: PCI address -> a dict of joules: ``joules`` (what the board took in intervals that count), ``unallocated_joules``,
        ``slices``, a list of dicts (``slice``, ``uuid``, ``kind``, ``profile``, ``method``, ``active_joules``, ``idle_joules``,
        ``there``), one for each slice and method, those included that are gone; ``dropped``, reason -> how many intervals. {}
        where nothing is measured.
    :raises errors.JournalDamaged, errors.StateDirUnusable: the record can't be read.
    """
    from gpuslice.energy import report

    data = Energy(host).read()
    return {} if data is None else {address: report.figures(board, board["total"]) for address, board in data["boards"].items()}


def _present(engine):
    """The GPUs of the host as they are now, with their UUIDs: a change may have made functions of them."""
    return engine.told_uuids(discovery.discover(engine.host))


def _let_go(boards: dict, address: str, now: float) -> None:
    """A board that is gone is told of for as long as its days are."""
    board = boards[address]
    board.update(last=None, unreadable=GONE)
    if not any(int(day) > sums.number(now, sums.DAY) - sums.DAYS for day in board["days"]):
        del boards[address]


def _note(board: dict, seen: Seen, data: dict, now: float) -> None:
    """Write down what a look at a board saw."""
    board["unreadable"] = seen.unreadable
    if seen.reading is None:
        # The interval goes on: the next look closes it, or finds it too long.
        return
    numbers, last = _numbers(board, seen), board["last"]
    method, why = "", tuple[str, ...]()
    if last:
        old = Reading(last["mj"], last["boot_id"], last["seconds"], last["layout"])
        method, why = _close(board, interval.between(old, seen.reading, data["every"], data["changing"]), seen, numbers, now)
    counter, boot_id, seconds, layout = seen.reading
    board["last"] = {
        "mj": counter, "boot_id": boot_id, "seconds": seconds, "layout": layout, "mode": seen.mode, "idle": seen.idle,
        "there": numbers, "samples": seen.samples, "used": seen.used, "method": method, "why": list(why),
    }  # fmt: skip
    sums.forget(board, numbers.values())


def _close(board: dict, part: Interval, seen: Seen, numbers: dict, now: float) -> tuple[str, tuple[str, ...]]:
    """Apportion an interval. Returns by which method, and what is to be known of that."""
    if part.dropped:
        log.info("%s ms of energy of a board count for nothing: %s", part.milliseconds, part.dropped)
        sums.book(board, now, part, None, numbers)
        return "", (part.dropped,)
    _learn(board, part, seen)
    # While it was cut it was no slice's.
    loads = {} if part.changed else seen.loads
    found = attribute(part.energy_mj, part.seconds, _idle_power(board, seen.mode), loads)
    sums.book(board, now, part, found, numbers)
    return found.method, (CUT,) if part.changed else (*found.why, *filter(None, [seen.doubt]))


def _learn(board: dict, part: Interval, seen: Seen) -> None:
    """What the board drew is its idle power where nobody worked at both ends, and none of the slices used anything between."""
    if not (seen.idle and board["last"]["idle"]) or part.changed or part.milliseconds < _LONG_ENOUGH:
        return
    # Rounded up, so that nothing of this interval is left to be somebody's work.
    drew = -(-part.energy_mj * 1000 // part.milliseconds)
    if seen.power_mw is not None and drew > seen.power_mw * _MUCH_MORE:
        # Somebody came and went, of whom nothing is seen at either end.
        return
    known = board["idle_mw"].setdefault(seen.mode, [])
    known.append(drew)
    del known[:-IDLE_LOOKS]


def _idle_power(board: dict, mode: str) -> int | None:
    """Milliwatts: the least that was seen, since what works unseen between two looks only adds to it."""
    return min(board["idle_mw"].get(mode, ()), default=None)


def _numbers(board: dict, seen: Seen) -> dict[str, str]:
    """Name of each slice -> its number in the record. The same name with another UUID is another slice."""
    known = {(row["slice"], row["uuid"]): number for number, row in board["rows"].items()}
    found = {}
    for part in seen.slices:
        if (part.name, part.identity) not in known:
            known[(part.name, part.identity)] = str(board["next"])
            board["rows"][str(board["next"])] = {
                "slice": part.name, "uuid": part.identity, "kind": part.kind, "profile": part.profile,
            }  # fmt: skip
            board["next"] += 1
        found[part.name] = known[(part.name, part.identity)]
    return found
