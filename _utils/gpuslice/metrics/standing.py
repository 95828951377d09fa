"""
What the records say of a host, beside what its boards have now.
"""

from gpuslice import kinds
from gpuslice.inventory import discovery
from gpuslice.plan import same
from gpuslice.records.history import History
from gpuslice.records.verified import Verified


def tell_records(found, engine):
    """Which change was the newest, and when one was last verified. Raises what reading the records raises."""
    found.add("layout_generation", {}, History(engine.host).upcoming() - 1)
    # What was only found as wanted has no generation.
    times = [entry["time"] for entry in Verified(engine.host).entries().values() if entry["generation"]]
    found.add("last_verified_change_timestamp_seconds", {}, max(times, default=None))


def tell_quarantine(found, engine):
    """What nobody is given. Raises what reading the record raises."""
    for name, entry in engine.quarantined().items():
        found.add("quarantined", {"name": name, "scope": entry.scope, "pci_bus_id": entry.gpu}, 1)


def tell_drift(found, engine, boards):
    """
    Whether each board has what was verified last, without asking what the pillar wants now. A board of which nothing was ever
    verified has no such series, nor one that can't be read. Raises what reading the record raises.
    """
    entries = Verified(engine.host).entries()
    for board in boards:
        mine = {key: entry for key, entry in entries.items() if board.gpu.address in entry["addresses"] and _is_of_a_gpu(key)}
        differs = [_differs(engine, board, key.technique, entry["layout"]) for key, entry in mine.items()]
        if True in differs:
            found.add("drift", board.labels, 1)
        elif None in differs:
            found.missed("drift", "unreadable", differs.count(None))
        elif differs:
            found.add("drift", board.labels, 0)


def _is_of_a_gpu(key):
    """What belongs to the host is no board's; of a technology of another version nothing can be told."""
    kind = kinds.named(key.technique)
    return kind is not None and bool(kind.cls) and not kind.host_wide


def _differs(engine, board, name, layout):
    """Whether a board has another layout of a technology than this one; None where that can't be told."""
    if name in board.errors:
        return None
    tool, kind, gpu = engine.tools.get(name), kinds.known(name), board.gpu
    if name in board.states:
        return not same(tool.layout(board.states[name]), layout)
    given_away = discovery.is_given_away(gpu) and not kind.gives_away
    if given_away or not kind.may_concern(gpu) or not tool.supports(gpu):
        return True
    # Where its own record is gone it was not looked at with the others.
    return not same(tool.layout(tool.observe(gpu)), layout)
