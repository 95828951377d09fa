"""
What still fits on a GPU, for people and as data.
"""

from gpuslice import folding


def fits(mig, gpu, profile=None, stood_on=(), given=None, data=False):
    """
    What can still be made on a GPU: now, and after idle instances moved.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param profile: the only one that is meant, None for all.
    :param stood_on: as of :func:`.room.room_of`; :param given: name of a slice -> who has it.
    :param data: a dict in the place of text. :raises errors.ProfileMismatch: there is no such profile.
    """
    # Every function of MIG by hand loads this file.
    from gpuslice.techniques.mig.fitting import found

    told = found(mig, gpu, profile, stood_on, given or {})
    return told if data else _text(gpu.address, told)


def _text(address, told):
    lines = [told["drawing"]]
    if not told["enabled"]:
        lines = [f"MIG mode is disabled. 'salt-call gpu_mig.set_mode {address} enabled' enables it; then there is:"]
    slices = f"{told['free_memory_slices']} memory slices and {told['free_compute_slices']} compute slices"
    lines += [f"free: {slices}; fragmentation {told['fragmentation']}"] if told["enabled"] else []
    lines += [f"stays: {name}, {why}" for name, why in told["stays"].items()]
    lines += [f"note: {told['note']}"] if told["note"] else []
    head = ("profile", "fits", "at", "after moving", "what moves") if told["enabled"] else ("profile", "fits", "at")
    rows = [_row(name, each)[: len(head)] for name, each in told["profiles"].items()]
    lines.append(folding.in_columns([head, *rows]))
    lines += _ways(address, told)
    return "\n".join(lines)


def _row(name, each):
    starts = ",".join(map(str, each["at"])) or "-"
    moves = ", ".join(_move(move) for move in each["moves"])
    return name, str(each["now"]), starts, str(each["after_moving"]), moves or "-"


def _move(move):
    whose = f" ({', '.join(move['consumers'])})" if move["consumers"] else ""
    return f"{move['from']} to {move['to']}{whose}"


def _ways(address, told):
    """What to type, where moving gains something; and what to know of it."""
    ways = [f"{name}: {each['why']}" for name, each in told["profiles"].items() if each["why"]] if told["asked"] else []
    movable = [name for name, each in told["profiles"].items() if each["moves"]]
    if not movable:
        return ways
    whose = sorted({owner for name in movable for move in told["profiles"][name]["moves"] for owner in move["consumers"]})
    ways.append(f"'salt-call gpu_mig.defrag {address} {movable[-1]} test=True' shows the way to it.")
    ways.append("What moves is made anew and has a new UUID" + (f"; {', '.join(whose)} would be bound anew." if whose else "."))
    return ways
