"""
What a GPU has room for beside what is there: now, and after idle instances moved; and the sentences that say so.

To move an instance means to destroy it and to make it anew elsewhere. What is in use, what something else stands on, and what a
consumer has asked for by its name is never moved.
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import slice_name
from gpuslice.numbers import many
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig.devices import instance_of

#: Why an instance on which others stand does not move.
_STOOD_ON = "shared, under a vGPU, or given to a consumer by its name"


class Room(NamedTuple):
    """
    A GPU as those see it who look for room on it.

    :ivar table: its profiles; :ivar instances: :class:`.placement.Instance` of each GPU instance.
    :ivar staying: those of them that never move -> why, as words that follow the instance.
    """

    table: object
    instances: tuple
    staying: dict

    @property
    def odd(self):
        """Those of which the driver does not tell the profile, or that of a compute instance: nothing is planned beside them."""
        return [each for each in self.instances if _is_odd(self.table, each)]


def room_of(mig, gpu, state, stood_on=()):
    """
    The room of a GPU.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`; :param state: :class:`gpuslice.techniques.mig.technique.MigState`.
    :param stood_on: names of slices that stay for reasons of which MIG does not know.
    """
    users = mig.users.of_instances(gpu) if state.instances else {}
    vgpus = mig.vgpus(gpu) if state.instances else []
    staying = {}
    for gi in state.instances:
        held = [process for ci in gi.cis for process in users.get((gi.id, ci.id), ())]
        name = slice_name(gpu.address, gi.profile, gi.start)
        if held:
            staying[instance_of(gi)] = f"in use by {'; '.join(dict.fromkeys(map(str, held)))}"
        elif any(vgpu.gi in (None, gi.id) for vgpu in vgpus) or any(f"{each}-".startswith(f"{name}-") for each in stood_on):
            staying[instance_of(gi)] = _STOOD_ON
    return Room(mig.table(gpu), tuple(instance_of(gi) for gi in state.instances), staying)


def _is_odd(table, instance):
    profile = table.profile(instance.profile)
    return profile is None or not {name for name, _ in instance.cis} <= {ci.name for ci in profile.cis}


def named(instance):
    """An instance as users name it."""
    return f"{instance.profile}@{instance.start}"


def moves_told(moves):
    """Moves as words: ``1g.10gb@4 to 1g.10gb@1``."""
    return ", ".join(f"{named(old)} to {old.profile}@{start}" for old, start in moves)


def numbers(room, enabled=True):
    """
    The room of a GPU as plain numbers, for those who choose a GPU for something.

    :param enabled: whether MIG is on; else nothing can be made before it is.
    """
    usable = enabled and not room.odd
    memory, compute = placement.free_slices(room.table, room.instances)
    nothing = dict.fromkeys((profile.name for profile in room.table.profiles), 0)
    return {
        "fragmentation": round(placement.fragmentation(room.table, room.instances), 3),
        "free_memory_slices": len(memory) if enabled else 0,
        "free_compute_slices": compute if enabled else 0,
        "now": placement.free_room(room.table, room.instances) if usable else nothing,
        "after_moving": placement.best_room(room.table, room.instances, room.staying) if usable else dict(nothing),
    }


def as_it_lies(table, instances):
    """As :meth:`gpuslice.techniques.base.Technique.free`; {} beside what is odd, see :attr:`Room.odd`."""
    if any(_is_odd(table, each) for each in instances):
        return {}
    return {
        "placements": placement.free_room(table, instances),
        "fragmentation": round(placement.fragmentation(table, instances), 3),
    }


def refuse_start(gpu, profile, start):
    """Raise errors.ProfileMismatch where a profile can't begin at a memory slice; None is anywhere."""
    if start is not None and start not in profile.starts:
        raise errors.ProfileMismatch(
            f"{profile.name} can't begin at memory slice {start}.",
            gpu.address,
            f"Legal starts, in memory slices: {', '.join(map(str, profile.starts)) or 'none'}.",
        )


def refuse_if_full(mig, gpu, state, profile, start, stood_on=()):
    """
    Raise errors.ProfileMismatch where a GPU has no free place for one more of a profile, with what is free, and what would have
    to move. A place that the profile can't have at all is left to the planner, which names the legal ones.

    :param profile: :class:`gpuslice.catalog.mig.GiProfile`; :param start: memory slice where it is to begin, None for anywhere.
    """
    if start is not None and start not in profile.starts:
        return
    places = placement.free_places(mig.table(gpu), [instance_of(gi) for gi in state.instances])[profile.name]
    if start in places or (start is None and places):
        return
    raise no_room(gpu, room_of(mig, gpu, state, stood_on), profile.name, start, by_moving=True)


def no_room(gpu, room, name, start=None, by_moving=False):
    """
    The error for a profile that has no free place.

    :param by_moving: whether moving what is idle is a way out that is to be told; else there is none.
    """
    wanted = name if start is None else f"{name}@{start}"
    what = f"There is no free place for {wanted}: {free_told(room)}."
    made = placement.room_made(room.table, room.instances, room.staying, name, start) if by_moving and not room.odd else None
    if made:
        return errors.ProfileMismatch(
            what, gpu.address,
            f"It fits after moving {many(len(made[1]), 'idle instance')}: {moves_told(made[1])}. "
            f"'salt-call gpu_mig.defrag {gpu.address} {wanted} test=True' shows that; without test=True it is done.",
        )  # fmt: skip
    return errors.ProfileMismatch(what, gpu.address, why_never(room, name, start))


def why_never(room, name, start=None):
    """Why moving what is idle makes no room for a profile, and what would, as sentences."""
    if room.odd:
        odd = ", ".join(map(named, room.odd))
        return f"The driver does not tell the profile of {odd}, so that nothing is planned beside it: destroy it first."
    if room.staying and (made := placement.room_made(room.table, room.instances, (), name, start)):
        held = "; ".join(f"{named(old)} is {room.staying[old]}" for old, _ in made[1] if old in room.staying)
        return f"What is in use or shared never moves, and {held}. Once it is free, gpu_mig.defrag makes room."
    limits = placement.why_not(room.table, [*(each.profile for each in room.instances), name])
    return f"No other place of what is there makes room: {limits}. Destroy what is not needed, or ask for a smaller profile."


def free_told(room):
    """What is free, and what can be made of it, as words."""
    memory, compute = placement.free_slices(room.table, room.instances)
    fitting = {name: number for name, number in placement.free_room(room.table, room.instances).items() if number}
    slices = f"memory slices {_ranges(memory)} of {room.table.slots}" if memory else "no memory slices"
    told = ", ".join(f"{number} x {name}" for name, number in fitting.items()) or "nothing"
    return f"free are {slices} and {compute} of {room.table.compute} compute slices, which take {told}"


def _ranges(numbers):
    """``0-2, 5`` for 0, 1, 2 and 5."""
    runs = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
