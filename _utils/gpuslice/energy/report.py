"""
What was counted, as data and as a table.
"""

from collections.abc import Mapping
from typing import Any

from gpuslice import errors
from gpuslice import folding
from gpuslice import moments
from gpuslice.energy import sums
from gpuslice.energy.record import Energy

_COLUMNS = ("slice", "profile", "active J", "idle J", "method", "consumer", "there")


def made(engine: Any, gpu: Any = None, since: float | None = None) -> dict:
    """
    What each slice is charged with.

    :param engine: :class:`gpuslice.engine.Engine`; :param gpu: GPUs as users name them, None for all that are on record.
    :param since: seconds since the epoch, None for all since the record began.
    :return: as ``gpu_energy.report`` tells it. :raises errors.Unsupported: nothing is measured here.
    """
    data, now = Energy(engine.host).read(), engine.host.now()
    if data is None:
        raise errors.Unsupported(
            "Energy is not measured on this host yet.", todo="'salt-call gpu_energy.measure' begins; see docs/energy.md."
        )
    wanted = None if gpu is None else {one.address for one in engine.chosen(gpu).gpus}
    given, begun, boards, slices = engine.given(), data["since"], {}, []
    for address, board in data["boards"].items():
        if wanted is not None and address not in wanted:
            continue
        start, counted = (data["since"], board["total"]) if since is None else sums.since(board, since, now)
        begun = max(begun, start)
        found = figures(board, counted, everything=since is None)
        slices += [{"gpu": address, **row, "consumer": given.get(row["slice"], "")} for row in found.pop("slices")]
        boards[address] = {"model": board["model"], **found, **_state(board)}
    return {"since": moments.iso(begun), "until": moments.iso(now), "boards": boards, "slices": slices}


def looked(boards: Mapping[str, Any]) -> dict:
    """
    What a look came to, as ``gpu_energy.measure`` tells it.

    :param boards: as :func:`gpuslice.energy.meter.look` returns them.
    """
    return {address: {"sentence": _sentence(board), **_last(board)} for address, board in boards.items()}


def _sentence(board: Mapping[str, Any]) -> str:
    if board["unreadable"]:
        return f"Its counter can't be read now: {board['unreadable']}."
    method, why = board["last"]["method"], "; ".join(board["last"]["why"])
    if method:
        return f"What it took since the last look is apportioned by {method}{f': {why}' if why else ''}."
    return f"What it took since the last look counts for nothing: {why}." if why else "What it takes is counted from now on."


def figures(board: Mapping[str, Any], counted: Mapping[str, Any], everything: bool = True) -> dict:
    """
    The figures of a board, as :func:`gpuslice.energy.meter.totals` tells them.

    :param board: of the record; :param counted: one of its sums. :param everything: whether that is the sum of all.
    """
    there = set((board["last"] or {"there": {}})["there"].values())
    rows = [
        {**board["rows"][number], "method": method, **_amounts(amounts[place:]), "there": number in there}
        for number, amounts in counted["rows"].items()
        for method, place in sums.PLACES.items()
        if any(amounts[place : place + 2])
    ]
    return {
        "joules": _joules(counted["mj"]),
        "unallocated_joules": _joules(counted["unallocated"]),
        "earlier_joules": _joules(board["earlier"] if everything else counted["earlier"]),
        "seconds": counted["ms"] / 1000,
        "dropped": {why: {"intervals": count, "joules": _joules(mj)} for why, (count, mj) in counted["dropped"].items()},
        "slices": sorted(rows, key=lambda row: (row["slice"], row["uuid"], row["method"])),
    }


def _amounts(amounts: list[int]) -> dict[str, float]:
    return {"active_joules": _joules(amounts[0]), "idle_joules": _joules(amounts[1])}


def _state(board: Mapping[str, Any]) -> dict:
    """What is known of a board now: what it draws when nobody works, how it was apportioned last, why it can't be read."""
    known = board["idle_mw"].get(board["last"]["mode"], ()) if board["last"] else ()
    return {"idle_watts": min(known) / 1000 if known else None, **_last(board)}


def _last(board: Mapping[str, Any]) -> dict:
    last = board["last"] or {"method": "", "why": []}
    return {"last": "; ".join(filter(None, [last["method"], *last["why"]])), "unreadable": board["unreadable"]}


def _joules(millijoules: int) -> float:
    return millijoules / 1000


def table(found: Mapping[str, Any]) -> str:
    """A report as a table for people; what no slice is charged with stands below the slices of each board."""
    rows: list[tuple[str, ...]] = [_COLUMNS]
    for address, board in found["boards"].items():
        rows += [_row(row) for row in found["slices"] if row["gpu"] == address]
        rest = [("not allocated", board["unallocated_joules"]), ("earlier slices", board["earlier_joules"])]
        rows += [(f"{address} {what}", "", "", _shown(amount), "", "", "") for what, amount in rest if amount]
        rows.append((f"{address} board", "", "", _shown(board["joules"]) if board["seconds"] else "-", "", "", ""))
    lines = [f"From {found['since']} to {found['until']}", folding.in_columns(rows)]
    left_out = [_left_out(address, board) for address, board in found["boards"].items()]
    return "\n".join([*lines, *filter(None, left_out)])


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["slice"], row["profile"], _shown(row["active_joules"]), _shown(row["idle_joules"]), row["method"], row["consumer"],
        "yes" if row["there"] else "no",
    )  # fmt: skip


def _shown(joules: float) -> str:
    return f"{joules:.0f}"


def _left_out(address: str, board: Mapping[str, Any]) -> str:
    """A line on what is not in the figures of a board, "" where nothing is known to be missing."""
    told = [f"{each['intervals']} x {why}" for why, each in board["dropped"].items()]
    said = [f"left out: {', '.join(told)}"] if told else []
    if board["unreadable"]:
        said.append(f"not measured now: {board['unreadable']}")
    return f"{address} {'; '.join(said)}" if said else ""
