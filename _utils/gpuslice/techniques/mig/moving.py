"""
Moving idle MIG instances so that more fits beside them: what that makes of a layout.
"""

from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import room as rooms


def settings_for(mig, gpu, state, name, start, stood_on):
    """
    Settings for a layout in which idle instances lie elsewhere; the same as now where nothing is to be gained.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param name: profile that is to fit, None for as much as can be.
    :param start: memory slice where it is to begin, None for anywhere; :param stood_on: as of :func:`.room.room_of`.
    :raises errors.ProfileMismatch: no move makes room for it, or there is no such profile.
    """
    room = rooms.room_of(mig, gpu, state, stood_on)
    if name is None:
        moves = () if room.odd else placement.roomiest(room.table, room.instances, room.staying)
        note = "nothing is gained by moving what is idle"
    else:
        profile = mig.resolve(gpu, name)[0]
        place, moves = _made(gpu, room, profile, start)
        note = f"{profile.name} fits already, at {place}: nothing has to move"
    layout = mig.layout(state)
    to = {old.start: new for old, new in moves}
    layout["instances"] = [[of, to.get(at, at), cis] for of, at, cis in layout["instances"]]
    if moves:
        fits = f"; {profile.name} fits at {place} then" if name is not None else ""
        note = f"moves {rooms.moves_told(moves)}: what moves is made anew, and has a new UUID{fits}"
    return {"layout": layout, "note": note}


def _made(gpu, room, profile, start):
    """Where the profile fits, and what moves for it."""
    rooms.refuse_start(gpu, profile, start)
    made = None if room.odd else placement.room_made(room.table, room.instances, room.staying, profile.name, start)
    if made is None:
        raise rooms.no_room(gpu, room, profile.name, start)
    return made
