"""
Who gets which slice: a pure function of what there is, of who wants what, and of who had what.

A consumer stays on its slice while that is there and still fits. Somebody moves only where another one could not be served
otherwise, and then as few as can be. Among what is free, the smallest slice that has all that is wanted is taken.
"""

import fnmatch
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.outputs.consumer import Consumer

#: Kinds of slices that are for virtual machines, whose processes open them by themselves.
_FOR_MACHINES = ("vgpu", "vf-passthrough")
#: More than any sum of sizes: to move somebody is worse than any waste.
_MOVE = 10**15


class Seat(NamedTuple):
    """One slice that a consumer is to get; ``number`` tells those of one consumer apart."""

    consumer: str
    number: int


def offers(slices: Iterable[Slice]) -> list[Slice]:
    """What can be given, by size and name: nothing on which others stand, and nothing of virtual machines."""
    found = [each for each in slices if not each.taken and each.kind not in _FOR_MACHINES]
    return sorted(found, key=lambda each: (each.memory_mib or 0, each.compute or 0, each.name))


def fits(offer: Slice, wants: Mapping) -> bool:
    """Whether a slice has all that is wanted."""
    for key, wanted in wants.items():
        if key == "memory_mib":
            if offer.memory_mib is None or offer.memory_mib < wanted:
                return False
        elif key == "weight":
            if offer.weight is not None and offer.weight < wanted:
                return False
        elif not _is(offer, key, wanted):
            return False
    return True


def _is(offer: Slice, key: str, wanted: str) -> bool:
    wanted = wanted.lower()
    if key == "gpu":
        # Without a domain too, as people write addresses.
        return offer.gpu == wanted or offer.gpu == f"0000:{wanted}"
    if key == "profile":
        return offer.profile.lower() == wanted or fnmatch.fnmatchcase(offer.profile.lower(), wanted)
    return getattr(offer, key).lower() == wanted


def bound(
    there: Sequence[Slice], consumers: Sequence[Consumer], earlier: Mapping[str, Sequence[str]], strict: bool = True
) -> dict[str, list[str]]:
    """
    Name of a consumer -> names of its slices.

    :param there: :func:`offers`; :param consumers: who is to get some; :param earlier: who had what.
    :param strict: False serves as many as can be, and leaves the others without.
    :raises errors.PolicyError: not all can be served; it names who, and what there is.
    """
    by_name = {each.name: each for each in there}
    kept = _kept(by_name, consumers, earlier)
    seats = [Seat(each.name, number) for each in consumers for number in range(each.instances)]
    wants = {each.name: each.sought for each in consumers}
    if len(kept) < len(seats):
        if strict:
            _refuse_unfit(there, consumers)
        kept = _assigned(there, seats, wants, kept)
        if strict and len(kept) < len(seats):
            _refuse_too_many(there, consumers, kept)
    made: dict[str, list[str]] = {each.name: [] for each in consumers}
    for seat in seats:
        if seat in kept:
            made[seat.consumer].append(kept[seat])
    return made


def _kept(by_name: Mapping[str, Slice], consumers: Sequence[Consumer], earlier: Mapping) -> dict[Seat, str]:
    """Who can stay where he is; of two that were noted on one slice, the first."""
    kept: dict[Seat, str] = {}
    given: set[str] = set()
    for each in consumers:
        had = [name for name in earlier.get(each.name, ()) if name in by_name and fits(by_name[name], each.sought)]
        stays = [name for name in dict.fromkeys(had) if name not in given][: each.instances]
        given.update(stays)
        kept.update({Seat(each.name, number): name for number, name in enumerate(stays)})
    return kept


def _assigned(there: Sequence[Slice], seats: Sequence[Seat], wants: Mapping, kept: Mapping[Seat, str]) -> dict[Seat, str]:
    """As many seats as can be get an offer; of all ways to do so one that moves the fewest, and then wastes the least."""
    free = [place for place, each in enumerate(there) if each.name not in kept.values()]
    owners = {place: next(seat for seat, name in kept.items() if name == each.name)
              for place, each in enumerate(there) if place not in free}  # fmt: skip
    holds = {seat: place for place, seat in owners.items()}
    possible = {name: [place for place, each in enumerate(there) if fits(each, asked)] for name, asked in wants.items()}
    own = {seat: place for place, seat in owners.items()}
    for seat in seats:
        if seat not in holds:
            _augment(seat, possible, holds, own)
    return {seat: there[place].name for seat, place in holds.items()}


def _augment(seat: Seat, possible: Mapping[str, Sequence[int]], holds: dict[Seat, int], own: Mapping[Seat, int]) -> None:
    """
    Give a seat an offer, where need be by moving others: the cheapest chain of moves is taken, found as Bellman and Ford do. What
    each chain adds is the least possible, so that the sum is too (successive shortest paths).

    :param possible: consumer -> places of the offers that fit him; :param holds: seat -> place, which is filled up.
    :param own: seat -> place that it had before.
    """
    cost: dict[int, int] = {}
    came: dict[int, Seat] = {}

    def price(one: Seat, place: int) -> int:
        return place + (_MOVE if own.get(one, place) != place else 0)

    def reach(one: Seat, base: int) -> bool:
        grown = False
        for place in possible[one.consumer]:
            if holds.get(one) == place:
                continue
            total = base + price(one, place)
            if place not in cost or total < cost[place]:
                cost[place], came[place], grown = total, one, True
        return grown

    reach(seat, 0)
    owners = {place: one for one, place in holds.items()}
    for _ in range(len(owners) + 1):
        grown = False
        for place, one in owners.items():
            if place in cost:
                grown = reach(one, cost[place] - price(one, place)) or grown
        if not grown:
            break
    ends = [place for place in cost if place not in owners]
    if not ends:
        return
    place = min(ends, key=lambda each: cost[each])
    while True:
        one = came[place]
        before = holds.get(one)
        holds[one] = place
        if one == seat or before is None:
            return
        place = before


def _refuse_unfit(there: Sequence[Slice], consumers: Sequence[Consumer]) -> None:
    """Raise errors.PolicyError where a consumer fits nowhere, whoever else there is."""
    for each in consumers:
        matching = [offer for offer in there if fits(offer, each.sought)]
        if len(matching) >= each.instances:
            continue
        wanted = words_of(each.sought)
        if matching:
            these = f" of {wanted}" if each.sought else ""
            raise errors.PolicyError(
                f"Consumer {each.name} wants {each.instances} slices{these}, and there are {len(matching)}: {listed(matching)}.",
                todo="Ask for fewer, or cut more.",
            )
        nearest = _nearest(there, each.sought)
        hint = f" The nearest is {nearest.name} ({described(nearest)})." if nearest else ""
        raise errors.PolicyError(
            f"Consumer {each.name} wants {wanted}, and there is no such slice.{hint} There are: {listed(there)}.",
            todo=f"Correct its slice{' or weight' if 'weight' in each.sought else ''}, or cut the GPU so that there is one.",
        )


def _nearest(there: Sequence[Slice], wants: Mapping) -> Slice | None:
    """The offer that has most of what is wanted; of these the one nearest in name, and then in size."""
    # Only who is refused needs it.
    from difflib import SequenceMatcher

    def distance(offer: Slice) -> tuple[int, float, int]:
        missing = sum(not fits(offer, {key: value}) for key, value in wants.items())
        alike = SequenceMatcher(None, offer.profile.lower(), str(wants.get("profile", "")).lower()).ratio()
        return missing, -alike, abs((offer.memory_mib or 0) - wants.get("memory_mib", 0))

    return min(there, key=distance, default=None)


def _refuse_too_many(there: Sequence[Slice], consumers: Sequence[Consumer], kept: Mapping[Seat, str]) -> None:
    """Raise errors.PolicyError: each would fit, and not all of them at once."""
    count: dict[str, int] = {}
    for seat in kept:
        count[seat.consumer] = count.get(seat.consumer, 0) + 1
    without = [each for each in consumers if count.get(each.name, 0) < each.instances]
    names = ", ".join(each.name for each in without)
    rivals = [offer for offer in there if any(fits(offer, each.sought) for each in without)]
    seats = sum(each.instances for each in consumers if any(fits(offer, each.sought) for offer in rivals))
    raise errors.PolicyError(
        f"There are more consumers than slices: {names} {'gets' if len(without) == 1 else 'get'} none. {seats} slices are wanted "
        f"of these {len(rivals)}: {listed(rivals)}.",
        todo="Cut more slices, or remove a consumer.",
    )


def words_of(wants: Mapping) -> str:
    """What is wanted, in words."""
    if not wants:
        return "any slice"
    return ", ".join(f"{key} {value}" for key, value in wants.items())


def described(offer: Slice) -> str:
    """An offer in words."""
    memory = f", {offer.memory_mib} MiB" if offer.memory_mib else ""
    return f"{offer.kind} {offer.profile}{memory}".replace("  ", " ")


def listed(there: Sequence[Slice], most: int = 4) -> str:
    """Offers as a list in words; many of them by what they are."""
    if not there:
        return "none"
    if len(there) <= most:
        return ", ".join(f"{each.name} ({each.profile})" if each.profile else each.name for each in there)
    counts = Counter(each.profile if each.kind in ("mig", "gpu") else f"{each.kind} {each.profile}".strip() for each in there)
    return ", ".join(f"{count} x {what}" for what, count in counts.items())
