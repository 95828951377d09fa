"""
What still fits on a GPU, profile by profile, as plain data.
"""

from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import room as rooms
from gpuslice.techniques.mig.devices import ci_slice_name


def found(mig, gpu, name, stood_on, given):
    """
    Parameters as of :func:`.views.fits`; ``name`` is the profile.

    :return: dict: ``enabled``, ``asked`` (whether one profile is meant), ``drawing``, ``free_memory_slices``,
        ``free_compute_slices``, ``fragmentation``, ``stays`` (instance -> why it never moves), ``note``, and ``profiles``: name
        -> ``now``, ``at``, ``after_moving``, ``moves`` (``from``, ``to``, ``consumers``), ``why`` (where none makes it fit).
    """
    state = mig.observe(gpu)
    room = rooms.room_of(mig, gpu, state, stood_on)
    whose = _whose(gpu, state, given)
    asked, start = _asked(mig, gpu, name)
    numbers = rooms.numbers(room)
    places = placement.free_places(room.table, room.instances)
    profiles = [profile for profile in room.table.profiles if asked in (None, profile)]
    return {
        "enabled": state.current,
        "asked": asked is not None,
        "drawing": mig.drawing(gpu, state),
        "free_memory_slices": numbers["free_memory_slices"],
        "free_compute_slices": numbers["free_compute_slices"],
        "fragmentation": numbers["fragmentation"],
        "stays": {rooms.named(each): why for each, why in room.staying.items()},
        "note": _note(room, state),
        "profiles": {each.name: _profile(room, each, start, numbers, places, whose) for each in profiles},
    }


def _asked(mig, gpu, name):
    """(profile, start) of a name as users write it, (None, None) for none."""
    if name is None:
        return None, None
    from gpuslice.techniques.mig import section

    [(plain, start, _)] = section.entries([name])
    profile = mig.resolve(gpu, plain)[0]
    rooms.refuse_start(gpu, profile, start)
    return profile, start


def _whose(gpu, state, given):
    """Start of each GPU instance -> who was handed a slice in it."""
    names = {gi.start: [ci_slice_name(gpu.address, gi, ci) for ci in gi.cis] for gi in state.instances}
    return {start: [given[name] for name in inside if name in given] for start, inside in names.items()}


def _note(room, state):
    if room.odd:
        odd = ", ".join(map(rooms.named, room.odd))
        return f"the driver does not tell the profile of {odd}, so that nothing is planned beside it"
    if state.current != state.pending:
        return f"MIG mode becomes {'enabled' if state.pending else 'disabled'} after a reset or reboot"
    return ""


def _profile(room, profile, start, numbers, places, whose):
    at = [] if room.odd else [place for place in places[profile.name] if start in (None, place)]
    told = {"now": numbers["now"][profile.name] if start is None else len(at), "at": at}
    after = numbers["after_moving"][profile.name]
    made = None
    if not at and not room.odd:
        made = placement.room_made(room.table, room.instances, room.staying, profile.name, start)
    moves = [
        {"from": rooms.named(old), "to": f"{old.profile}@{new}", "consumers": whose.get(old.start, [])}
        for old, new in (made[1] if made else ())
    ]
    told["after_moving"] = after if start is None else int(bool(at or made))
    return {**told, "moves": moves, "why": "" if at or made else rooms.why_never(room, profile.name, start)}
