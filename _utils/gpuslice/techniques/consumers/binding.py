"""
Who gets which slice: a pure function of what there is, of who wants what, and of who had what.

A consumer stays on its slice while that is there and still fits. Somebody moves only where another one could not be served
otherwise, and then as few as can be. Among what is free, the smallest slice that has all that is wanted is taken. Who has a slice
that is barred, since it is quarantined, goes to another one that is free, and nobody moves for that.
"""

import fnmatch
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.outputs.consumer import Consumer

#: Kinds of slices that are for virtual machines, whose processes open them by themselves.
_FOR_MACHINES = ("vgpu", "vf-passthrough")
#: More than any sum of sizes: to be left on what is barred is worse than any waste, and to move somebody is worse than that.
_LEFT, _MOVE = 10**12, 10**24
#: What a barred slice means for whoever has it; nobody else gets it. STAY: as any other; KEEP: he goes where another one fits,
#: and else stays; STOP: he does not have it any more.
STAY, KEEP, STOP = "stay", "keep", "stop"


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
    there: Sequence[Slice],
    consumers: Sequence[Consumer],
    earlier: Mapping[str, Sequence[str]],
    strict: bool = True,
    barred: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """
    Name of a consumer -> names of its slices.

    :param there: :func:`offers`; :param consumers: who is to get some; :param earlier: who had what.
    :param strict: False serves as many as can be, and leaves the others without.
    :param barred: name of a slice -> STAY, KEEP or STOP. Who is known already, and whom nothing else fits than what is barred, is
        left without: that is no mistake of who asks.
    :raises errors.PolicyError: not all can be served; it names who, and what there is.
    """
    barred = barred or {}
    kept, leaving = _kept({each.name: each for each in there}, consumers, earlier, barred)
    seats = [Seat(each.name, number) for each in consumers for number in range(each.instances)]
    wants = {each.name: each.sought for each in consumers}
    if len(kept) < len(seats):
        kept = _assigned(there, seats, wants, kept, leaving, barred)
        if strict and len(kept) < len(seats):
            _refuse(there, consumers, kept, earlier, barred)
    made: dict[str, list[str]] = {each.name: [] for each in consumers}
    for seat in seats:
        if seat in kept:
            made[seat.consumer].append(kept[seat])
    return made


def _kept(
    by_name: Mapping[str, Slice], consumers: Sequence[Consumer], earlier: Mapping, barred: Mapping[str, str]
) -> tuple[dict[Seat, str], dict[Seat, str]]:
    """
    Who can stay where he is, and who can where he had better not; of two that were noted on one slice, the first.
    """
    kept: dict[Seat, str] = {}
    leaving: dict[Seat, str] = {}
    given: set[str] = set()
    for each in consumers:
        had = [name for name in earlier.get(each.name, ()) if name in by_name and fits(by_name[name], each.sought)]
        had = [name for name in dict.fromkeys(had) if name not in given and barred.get(name) != STOP]
        stays = [name for name in had if barred.get(name) != KEEP][: each.instances]
        leaves = [name for name in had if barred.get(name) == KEEP][: each.instances - len(stays)]
        given.update(stays, leaves)
        kept.update({Seat(each.name, number): name for number, name in enumerate(stays)})
        leaving.update({Seat(each.name, number): name for number, name in enumerate(leaves, len(stays))})
    return kept, leaving


def _assigned(
    there: Sequence[Slice], seats: Sequence[Seat], wants: Mapping, kept: Mapping[Seat, str], leaving: Mapping[Seat, str],
    barred: Mapping[str, str],
) -> dict[Seat, str]:  # fmt: skip
    """
    As many seats as can be get an offer; of all ways to do so one that moves the fewest, then leaves the fewest on what is
    barred, and then wastes the least.
    """
    places = {each.name: place for place, each in enumerate(there)}
    own = {seat: places[name] for seat, name in {**kept, **leaving}.items()}
    holds = {seat: own[seat] for seat in kept}
    open_to_all = [(place, each) for place, each in enumerate(there) if each.name not in barred]
    fitting = {name: [place for place, each in open_to_all if fits(each, asked)] for name, asked in wants.items()}
    possible = {
        seat: [*fitting[seat.consumer], *(place for place in (own[seat],) if there[place].name in barred)]
        if seat in own else fitting[seat.consumer] for seat in seats
    }  # fmt: skip

    def price(seat: Seat, place: int) -> int:
        """What it takes to have a seat at a place."""
        if seat in leaving:
            return place + (_LEFT if own[seat] == place else 0)
        return place + (_MOVE if own.get(seat, place) != place else 0)

    for seat in seats:
        if seat not in holds:
            _augment(seat, possible, holds, price)
    return {seat: there[place].name for seat, place in holds.items()}


def _augment(
    seat: Seat, possible: Mapping[Seat, Sequence[int]], holds: dict[Seat, int], price: Callable[[Seat, int], int]
) -> None:
    """
    Give a seat an offer, where need be by moving others: the cheapest chain of moves is taken, found as Bellman and Ford do. What
    each chain adds is the least possible, so that the sum is too (successive shortest paths).

    :param possible: seat -> places of the offers that it can have; :param holds: seat -> place, which is filled up.
    """
    cost: dict[int, int] = {}
    came: dict[int, Seat] = {}

    def reach(one: Seat, base: int) -> bool:
        grown = False
        for place in possible[one]:
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


def _refuse(
    there: Sequence[Slice], consumers: Sequence[Consumer], kept: Mapping[Seat, str], earlier: Mapping, barred: Mapping[str, str]
) -> None:  # fmt: skip
    """Raise errors.PolicyError where somebody is left without who does not merely wait for what is barred."""
    served = Counter(seat.consumer for seat in kept)
    waiting = [each for each in there if each.name in barred]
    without = [
        each for each in consumers if served[each.name] < each.instances
        and not (each.name in earlier and any(fits(offer, each.sought) for offer in waiting))
    ]  # fmt: skip
    if not without:
        return
    given = [each for each in there if each.name not in barred]
    _refuse_unfit(given, without)
    _refuse_too_many(given, consumers, without)


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


def _refuse_too_many(there: Sequence[Slice], consumers: Sequence[Consumer], without: Sequence[Consumer]) -> None:
    """Raise errors.PolicyError: each would fit, and not all of them at once."""
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
