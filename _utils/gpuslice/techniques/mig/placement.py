"""
The MIG planner: which instances of a GPU to keep, destroy and create, and where. Pure functions, no hardware.

The space of legal layouts of one GPU is small (hundreds to a few thousand), so :func:`solve` looks at every layout that
satisfies the wishes and takes the best one. Nothing is guessed: the order of the criteria decides, and it is total.

A layout is legal when

* every GPU instance (GI) lies where its profile allows it, and no two share a memory slice;
* the compute slices of all GIs together are not more than the GPU has;
* no profile occurs more often than its ``count``;
* the GIs together hold no more optical flow engines than the full profile (where the table knows of any);
* beside a GI that owns all media engines (``+me.all``) there are only GIs without any (``-me``).

Inside a GI the same holds for its compute instances (CI), with the GI's compute slices as the room.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from gpuslice import errors

#: Base of the number that holds the criteria of a plan one above the other; far more than a GPU has instances.
_BASE = 1 << 12


@dataclass(frozen=True)
class Wish:
    """
    One GPU instance that is wanted.

    :ivar profile: profile name as the table has it.
    :ivar start: memory slice where it must begin, None for anywhere.
    :ivar cis: its compute instances, each ``(CI profile name, start in compute slices or None)``; ``()`` for the one CI
        that fills the GPU instance, None for no CI at all (what an interrupted change left, to be put back as it was).
    """

    profile: str
    start: int | None = None
    cis: tuple | None = ()


@dataclass(frozen=True)
class Instance:
    """
    One GPU instance that exists.

    :ivar profile: profile name; may be one that the table does not know.
    :ivar start: first memory slice; :ivar size: memory slices it takes.
    :ivar cis: its compute instances as ``(CI profile name, start)``; ``()`` for a GI that has none (yet).
    :ivar busy: those of ``cis`` that are in use.
    """

    profile: str
    start: int
    size: int
    cis: tuple = ()
    busy: tuple = ()


@dataclass(frozen=True)
class Placed:
    """One GPU instance as it will be, with ``cis`` as ``(CI profile name, start)`` in order of their start."""

    profile: str
    start: int
    size: int
    cis: tuple


@dataclass(frozen=True)
class Change:
    """
    What leads from the existing instances to the wanted ones.

    :ivar keep: pairs of an existing :class:`Instance` and the :class:`Placed` it becomes; only CIs may differ.
    :ivar destroy: instances that go, by start.
    :ivar create: instances that come, biggest first, so that a small one never takes the only place of a big one.
    """

    keep: tuple
    destroy: tuple
    create: tuple

    @property
    def destroy_cis(self):
        """CIs that go from GIs that stay: a list of ``(start of the GI, CI profile name, start of the CI)``."""
        return [(new.start, *ci) for old, new in self.keep for ci in old.cis if ci not in new.cis]

    @property
    def create_cis(self):
        """CIs that come in GIs that stay: a list of ``(start of the GI, CI profile name, start of the CI)``."""
        return [(new.start, *ci) for old, new in self.keep for ci in new.cis if ci not in old.cis]

    @property
    def kept_cis(self):
        """CIs that stay: a list of ``(profile of the GI, start of the GI, CI profile name, start of the CI)``."""
        return [(new.profile, new.start, *ci) for old, new in self.keep for ci in new.cis if ci in old.cis]

    @property
    def gone_cis(self):
        """All CIs that go, those of GIs that go with them too; as :attr:`kept_cis`."""
        staying = [(new.profile, new.start, *ci) for old, new in self.keep for ci in old.cis if ci not in new.cis]
        return [(old.profile, old.start, *ci) for old in self.destroy for ci in old.cis] + staying

    @property
    def new_cis(self):
        """All CIs that come, those of GIs that come too; as :attr:`kept_cis`."""
        staying = [(new.profile, new.start, *ci) for old, new in self.keep for ci in new.cis if ci not in old.cis]
        return [(new.profile, new.start, *ci) for new in self.create for ci in new.cis] + staying

    @property
    def empty(self):
        """Whether nothing is to do."""
        return not (self.destroy or self.create or self.destroy_cis or self.create_cis)

    @property
    def layout(self):
        """All GPU instances that exist afterwards, by start."""
        return tuple(sorted((*(new for _, new in self.keep), *self.create), key=lambda placed: placed.start))


class InUse(errors.ResourceConflict):
    """
    Every legal layout would destroy something that is in use.

    :ivar instances: the :class:`Instance` whose busy CIs the least disruptive layout would destroy.
    :ivar cis: these CIs, each ``(start of the GI, CI profile name, start of the CI)``: others in the same GI may well stay.
    """

    def __init__(self, what, gpu="", todo="", holders=(), instances=(), cis=()):
        self.instances = list(instances)
        self.cis = list(cis)
        super().__init__(what, gpu, todo, holders)

    def __reduce__(self):
        return (type(self), (self.what, self.gpu, self.todo, tuple(self.holders), tuple(self.instances), tuple(self.cis)))


def solve(table, existing, wishes, force=False):
    """
    Find the change that leads from ``existing`` to exactly ``wishes`` and disturbs least.

    Among all legal layouts that satisfy the wishes the one is taken that is first in this order:

    1. fewest busy CIs destroyed (must be none unless ``force``), then fewest existing GIs destroyed;
    2. fewest CIs destroyed in GIs that stay;
    3. fewest GIs and CIs created;
    4. most useful room left: the largest single profile that can still be added (compute slices, then memory slices),
       then the number of ``(profile, start)`` that can still be added, each counted by its compute slices;
    5. lowest starts, the instances taken biggest first.

    Wishes that describe exactly what exists change nothing, even where the table does not allow it: what the driver made is
    possible, whatever a table says.

    Inside a GI the criteria are the same, among the places that its CIs can have. A GI is kept when its profile, start and
    size are those of a wish, a CI when its profile and start are; a kept GI without CIs gets them.

    :param table: :class:`gpuslice.catalog.mig.MigTable` of the GPU.
    :param existing: iterable of :class:`Instance`, everything that is on the GPU now.
    :param wishes: iterable of :class:`Wish`, everything that shall be; their order has no meaning.
    :param force: allow to destroy what is in use.
    :return: :class:`Change`.
    :raises errors.ProfileMismatch: a wish that this GPU does not have, or more wishes than fit together.
    :raises InUse: something in use would have to go, and ``force`` is false.
    """
    board = _board(table)
    existing, wishes = tuple(existing), tuple(wishes)
    try:
        kinds = _kinds(board, wishes)
        if not _arrangements(board, kinds):
            raise _does_not_fit(board, wishes)
    except errors.ProfileMismatch:
        pairs = _as_it_is(board, existing, tuple(sorted(wishes, key=lambda wish: wish.start is None)))
        if pairs is None:
            raise
        return Change(tuple(sorted(pairs, key=lambda pair: pair[1].start)), (), ())
    change, lost = _best(board, existing, kinds)
    if lost and not force:
        raise _in_use(lost, change, wishes)
    return change


def free_room(table, instances):
    """
    How many more of each profile fit beside ``instances``, each profile taken alone.

    :param table: :class:`gpuslice.catalog.mig.MigTable`.
    :param instances: iterable of :class:`Instance` or :class:`Placed`; profiles unknown to the table take their memory
        slices and the compute slices that their name tells.
    :return: dict from profile name to a number, in the table's order.
    """
    board = _board(table)
    load = _occupied(board, instances)
    return {piece.name: _how_many(board, load, piece) for piece in board.pieces}


def free_places(table, instances):
    """
    Where one more of each profile can begin beside ``instances``, each profile taken alone.

    :param table: :class:`gpuslice.catalog.mig.MigTable`; :param instances: as of :func:`free_room`.
    :return: dict from profile name to a tuple of memory slices, in the table's order.
    """
    board = _board(table)
    load = _occupied(board, instances)
    return {piece.name: tuple(_free_starts(board, load, piece)) for piece in board.pieces}


def free_slices(table, instances):
    """(memory slices that are free, how many compute slices are), whatever can be made of them; parameters as of free_room."""
    board = _board(table)
    load = _occupied(board, instances)
    return tuple(slot for slot in range(board.slots) if not load.bits >> slot & 1), max(0, board.compute - load.compute)


def best_room(table, instances, staying=()):
    """
    :func:`free_room` if the instances lay elsewhere, where that is better: for each profile the number that fits when they lie
    as well as possible for it.

    :param instances: as of :func:`free_room`; those of :param staying: stay where they are, and so do those that the table does
        not know, or that lie where it does not allow.
    """
    board = _board(table)
    instances = tuple(instances)
    kinds, fixed, _ = _elsewhere(board, instances, staying)
    most = _most(board, _occupied(board, instances), kinds, fixed)
    return {piece.name: number for piece, number in zip(board.pieces, most, strict=True)}


def free_inside(table, instance):
    """
    How many more of each compute instance profile fit into a GPU instance, each taken alone.

    :param instance: :class:`Instance` of a profile that the table has. :return: dict from profile name to a number.
    """
    inner = _board(table).inner[instance.profile]
    sizes = {piece.name: piece.size for piece in inner.pieces}
    load = _occupied(inner, [Instance(name, start, sizes.get(name, 1)) for name, start in instance.cis])
    return {piece.name: _how_many(inner, load, piece) for piece in inner.pieces}


def fragmentation(table, instances):
    """
    How much of what the GPU could still take is lost because of where the instances lie.

    ``1 - now / best``, where ``now`` is the sum over all profiles of (how many more fit) x (its compute slices), and
    ``best`` is the same sum with, for each profile, the number that would fit if the same instances had been placed on an
    empty GPU as well as possible for that profile. 0: no other placement would take more. 1: something would fit if the
    instances lay elsewhere, and nothing fits as they lie. A GPU on which nothing could fit in any case has 0. Instances
    that the table does not know, or that lie where it does not allow, count as immovable.

    :param table: :class:`gpuslice.catalog.mig.MigTable`.
    :param instances: iterable of :class:`Instance` or :class:`Placed`.
    :return: float from 0 to 1.
    """
    instances = tuple(instances)
    now, best = free_room(table, instances), best_room(table, instances)
    total = sum(profile.slices * best[profile.name] for profile in table.profiles)
    return 1 - sum(profile.slices * now[profile.name] for profile in table.profiles) / total if total else 0.0


def room_made(table, existing, staying, name, start=None):
    """
    Where instances go so that one more of a profile fits: with the fewest of them moved, then the fewest memory slices, then by
    criteria 4 and 5 of :func:`solve`.

    :param table: :class:`gpuslice.catalog.mig.MigTable`; :param existing: :class:`Instance` that there are.
    :param staying: those of them that are not moved, whatever that costs; others that stay are as of :func:`best_room`.
    :param name: profile that is to fit; :param start: memory slice where it is to begin, None for anywhere.
    :return: ``(start, moves)``: where it fits then, and pairs of an :class:`Instance` and the memory slice to which it goes; ()
        where it fits now. None where no way makes room.
    """
    board = _board(table)
    kinds, fixed, moving = _elsewhere(board, existing, staying)
    piece, found = board.by_name[name], []
    for place, bits in piece.places:
        if start not in (None, place) or fixed.bits & bits or not _admits(board, fixed, piece):
            continue
        for starts, load in _arrangements(board, kinds, _with(fixed, piece, bits)):
            moves = _moves(moving, kinds, starts)
            found.append((*_effort(board, load, moves), place, starts, moves))
    if not found:
        return None
    best = min(found, key=lambda each: each[:-1])
    return best[3], best[-1]


def roomiest(table, existing, staying=()):
    """
    Where instances go so that more fits beside them: the largest profile that can be made room for, then the most of all
    profiles, each counted by its compute slices; with the fewest moved of all ways to have that.

    Parameters as of :func:`room_made`. :return: pairs of an :class:`Instance` and the memory slice to which it goes; () where
        nothing is gained.
    """
    board = _board(table)
    kinds, fixed, moving = _elsewhere(board, existing, staying)
    here = _worth(board, _occupied(board, existing))
    found = []
    for starts, load in _arrangements(board, kinds, fixed):
        worth = _worth(board, load)
        if worth > here:
            moves = _moves(moving, kinds, starts)
            found.append((_less(worth), *_effort(board, load, moves), starts, moves))
    return min(found, key=lambda each: each[:-1])[-1] if found else ()


def why_not(table, wanted):
    """
    Why GPU instances do not fit together, in slices and in the limits that they break.

    :param wanted: names of profiles that the table has.
    """
    return _needs(_board(table), [(name, None) for name in wanted])


# -- the board: a table in the form that the search needs ---------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class _Piece:
    """A profile: ``places`` are pairs of its start and the bits of the slices that it takes there."""

    index: int
    name: str
    size: int
    compute: int
    count: int
    places: tuple
    flow: int = 0
    all_media: bool = False
    no_media: bool = False

    @property
    def starts(self):
        return [start for start, _ in self.places]


@dataclass(frozen=True, eq=False)
class _Board:
    """
    Slices and the pieces that can lie on them: memory slices and GIs, or (with ``inner`` empty) compute slices and CIs.

    It is compared by identity, which keeps the caches that have it as a key fast.
    """

    slots: int
    compute: int
    flow: int
    pieces: tuple
    by_name: dict
    inner: dict
    filling: dict

    @property
    def empty(self):
        return _Load(0, 0, 0, 0, 0, (0,) * len(self.pieces))

    def order(self, kind):
        """Sort key of a kind: biggest first; the rest only makes the order total."""
        piece = self.by_name[kind[0]]
        return (-piece.size, -piece.compute, *kind)

    def holds(self, item):
        """Whether the instance is one that the table knows, at a place that the table allows."""
        piece = self.by_name.get(item.profile)
        return piece is not None and item.size == piece.size and item.start in piece.starts


@dataclass(frozen=True, slots=True)
class _Load:
    """What lies on a board: bits of the taken slices, sums, and how many of each piece."""

    bits: int
    compute: int
    flow: int
    all_media: int
    some_media: int
    counts: tuple


@lru_cache(maxsize=64)
def _board(table):
    pieces, inner, filling = [], {}, {}
    # A full GPU's engines are the GPU's engines: no other figure of the table says how many there are.
    flow = max((p.engines[4] or 0 for p in table.profiles if p.size == table.slots), default=0)
    for profile in table.profiles:
        pieces.append(
            _Piece(
                index=len(pieces),
                name=profile.name,
                size=profile.size,
                compute=profile.slices,
                count=profile.count,
                places=_places(profile.starts, profile.size),
                flow=(profile.engines[4] or 0) if flow else 0,
                all_media="me.all" in profile.attributes,
                no_media="-me" in profile.attributes,
            )
        )
        inner[profile.name] = _ci_board(profile)
        # Recent drivers have a second profile of the full size; creating that one conflicts, so the plain one is taken.
        full = [ci for ci in profile.cis if ci.slices == profile.slices]
        filling[profile.name] = min(full, key=lambda ci: ci.enum).name if full else None
    return _Board(table.slots, table.compute, flow, tuple(pieces), {p.name: p for p in pieces}, inner, filling)


def _ci_board(profile):
    pieces = tuple(
        _Piece(index, ci.name, ci.slices, ci.slices, ci.count, _places(ci.starts, ci.slices))
        for index, ci in enumerate(profile.cis)
    )
    return _Board(profile.slices, profile.slices, 0, pieces, {piece.name: piece for piece in pieces}, {}, {})


def _places(starts, size):
    return tuple((start, ((1 << size) - 1) << start) for start in sorted(starts))


# -- what may lie beside what --------------------------------------------------------------------------------------------
def _admits(board, load, piece):
    """Whether one more of the piece is allowed by every rule but that of the slices it would lie on."""
    if load.compute + piece.compute > board.compute or load.counts[piece.index] >= piece.count:
        return False
    if board.flow and load.flow + piece.flow > board.flow:
        return False
    if piece.all_media:
        return not load.all_media and not load.some_media
    return piece.no_media or not load.all_media


def _with(load, piece, bits):
    counts = load.counts
    return _Load(
        load.bits | bits,
        load.compute + piece.compute,
        load.flow + piece.flow,
        load.all_media + piece.all_media,
        load.some_media + (not piece.all_media and not piece.no_media),
        (*counts[: piece.index], counts[piece.index] + 1, *counts[piece.index + 1 :]),
    )


def _occupied(board, instances):
    """The load of instances that exist, legal or not."""
    load = board.empty
    for item in instances:
        bits = ((1 << max(item.size, 1)) - 1) << item.start
        piece = board.by_name.get(item.profile)
        if piece:
            load = _with(load, piece, bits)
        else:
            # Nothing is known of its media engines, so it counts as an instance that has some.
            compute = load.compute + named_slices(item)
            load = _Load(load.bits | bits, compute, load.flow, load.all_media, load.some_media + 1, load.counts)
    return load


def named_slices(item):
    """Compute slices of an instance whose profile the table does not know: the name has them, else as many as it has memory."""
    found = re.match(r"(?:\d+c\.)?(\d+)g", item.profile)
    return int(found.group(1)) if found else item.size


def _how_many(board, load, piece):
    """How many more of the piece fit. All have the same size, so taking the first free place each time is optimal."""
    found, bits = 0, load.bits
    for _, place in piece.places:
        if not _admits(board, load, piece):
            break
        if not bits & place:
            bits |= place
            load = _with(load, piece, place)
            found += 1
    return found


def _free_starts(board, load, piece):
    """Where one more of the piece can begin."""
    return [start for start, place in piece.places if not load.bits & place] if _admits(board, load, piece) else []


@lru_cache(maxsize=1 << 14)
def _room(board, load):
    """What can still be added, as criterion 4 of :func:`solve` wants it: a tuple, more is better."""
    largest, total = (0, 0), 0
    for piece in board.pieces:
        if not _admits(board, load, piece):
            continue
        free = sum(1 for _, place in piece.places if not load.bits & place)
        if free:
            largest = max(largest, (piece.compute, piece.size))
            total += free * piece.compute
    return (*largest, total)


def _worth(board, load):
    """What fits beside a load, as :func:`roomiest` counts it: a tuple, more is better."""
    fitting = [(piece, number) for piece in board.pieces if (number := _how_many(board, load, piece))]
    largest = max(((piece.compute, piece.size) for piece, _ in fitting), default=(0, 0))
    return (*largest, sum(piece.compute * number for piece, number in fitting))


def _less(values):
    """So that more comes first where the least is taken."""
    return tuple(-value for value in values)


# -- the search ----------------------------------------------------------------------------------------------------------
# A kind is what makes one wish different from another: (profile name, pinned start or -1, kinds of its CIs). Equal kinds
# are interchangeable, so the search does not tell them apart; an existing GI goes to the kind that its CIs match.
def _kind(board, wish):
    """The kind of a wish. Raises errors.ProfileMismatch when the wish alone is impossible."""
    piece = _piece(board, wish.profile, wish.start, "This GPU", "memory slice")
    inner = board.inner[piece.name]
    filling = board.filling[piece.name]
    if wish.cis is not None and not wish.cis and filling is None:
        raise errors.ProfileMismatch(
            f"{piece.name} has no compute instance profile that fills it.",
            todo=f"Name the compute instances that it shall have: {_names(inner)}.",
        )
    wanted = () if wish.cis is None else wish.cis or ((filling, None),)
    cis = []
    for name, start in wanted:
        ci = _piece(inner, name, start, f"A GPU instance {piece.name}", "compute slice")
        # A single legal start is as good as a pin: wishes that mean the same must be the same kind.
        pin = ci.starts[0] if len(ci.places) == 1 else start
        cis.append((name, -1 if pin is None else pin, ()))
    kind = (piece.name, -1 if wish.start is None else wish.start, tuple(sorted(cis, key=inner.order)))
    if not _arrangements(inner, kind[2]):
        raise errors.ProfileMismatch(
            f"The compute instances {_listed(wanted)} do not fit together in one {piece.name}: "
            f"{_needs(inner, wanted, 'compute')}.",
            todo="Ask for fewer or smaller compute instances.",
        )
    return kind


def _kinds(board, wishes):
    return tuple(sorted((_kind(board, wish) for wish in wishes), key=board.order))


def _piece(board, name, start, owner, unit):
    piece = board.by_name.get(name)
    if piece is None:
        raise errors.ProfileMismatch(f"{owner} has no profile {name}.", todo=f"Use one of: {_names(board)}.")
    if start is not None and start not in piece.starts:
        where = ", ".join(str(s) for s in piece.starts) or "none"
        raise errors.ProfileMismatch(f"{name} can't begin at {unit} {start}.", todo=f"Legal starts, in {unit}s: {where}.")
    return piece


@lru_cache(maxsize=1 << 12)
def _arrangements(board, kinds, fixed=None):
    """
    Every legal way to place the kinds beside ``fixed``, best first by criteria 4 and 5.

    :return: tuple of pairs: the starts, one for each kind in their order, and the :class:`_Load`. () when none is legal.
    """
    base = fixed or board.empty
    pieces = [board.by_name[kind[0]] for kind in kinds]
    # Sums tell most impossible wishes at once, and bound the depth of the search.
    if base.compute + sum(piece.compute for piece in pieces) > board.compute:
        return ()
    if base.bits.bit_count() + sum(piece.size for piece in pieces) > board.slots:
        return ()
    found = []
    _search(board, kinds, pieces, (), base, found)
    found.sort(key=lambda pair: (_less(_room(board, pair[1])), pair[0]))
    return tuple(found)


def _search(board, kinds, pieces, starts, load, found):
    depth = len(starts)
    if depth == len(kinds):
        found.append((starts, load))
        return
    piece, pin = pieces[depth], kinds[depth][1]
    if not _admits(board, load, piece):
        return
    # Equal kinds in rising order only: every layout is met once.
    after = starts[-1] if depth and kinds[depth] == kinds[depth - 1] else -1
    for start, bits in piece.places:
        if start > after and pin in (-1, start) and not load.bits & bits:
            _search(board, kinds, pieces, (*starts, start), _with(load, piece, bits), found)


# -- moving: instances of one profile are interchangeable, whatever is in them, as each takes that along --------------------
def _elsewhere(board, existing, staying):
    """(kinds of the instances that can move, the load of those that stay, those that can move)."""
    moving = [item for item in existing if board.holds(item) and item not in staying]
    fixed = _occupied(board, [item for item in existing if item not in moving])
    return tuple(sorted(((item.profile, -1, ()) for item in moving), key=board.order)), fixed, moving


def _moves(moving, kinds, starts):
    """Which of the instances leave their places for which, in the order of their starts."""
    free = {(name, start) for (name, _, _), start in zip(kinds, starts, strict=True)}
    leaving = sorted((item for item in moving if (item.profile, item.start) not in free), key=lambda item: item.start)
    free -= {(item.profile, item.start) for item in moving}
    moves = []
    for item in leaving:
        start = min(at for name, at in free if name == item.profile)
        free.remove((item.profile, start))
        moves.append((item, start))
    return tuple(moves)


def _effort(board, load, moves):
    """What moves cost, less is better: how many they are, how many memory slices move, and criterion 4 of what there is then."""
    return len(moves), sum(old.size for old, _ in moves), _less(_room(board, load))


@lru_cache(maxsize=64)
def _most(board, here, kinds, fixed):
    """How many more of each piece fit, in their order, when the kinds lie as well as can be for it; ``here`` is how they do."""
    # Where the instances lie counts also when the rules do not allow it: the driver did.
    loads = {here, *(load for _, load in _arrangements(board, kinds, fixed))}
    return tuple(max(_how_many(board, load, piece) for load in loads) for piece in board.pieces)


def _as_it_is(board, existing, wishes):
    """Pairs for :attr:`Change.keep` when the wishes are exactly what exists, else None."""
    if len(existing) != len(wishes):
        return None
    if not wishes:
        return ()
    for index, old in enumerate(existing):
        if _is(board, old, wishes[0]):
            rest = _as_it_is(board, existing[:index] + existing[index + 1 :], wishes[1:])
            if rest is not None:
                return ((old, Placed(old.profile, old.start, old.size, tuple(sorted(old.cis, key=lambda ci: ci[1])))), *rest)
    return None


def _is(board, old, wish):
    """Whether the instance is what the wish asks for, with every CI."""
    if old.profile != wish.profile or wish.start not in (None, old.start):
        return False
    if wish.cis is None:
        return not old.cis
    wanted = wish.cis or ((board.filling.get(old.profile) or old.profile, None),)
    same = sorted(name for name, _ in wanted) == sorted(name for name, _ in old.cis)
    return same and all(ci in old.cis for ci in wanted if ci[1] is not None)


def _cheapest(board, kinds, gains):
    """
    The arrangement with the least sum of ``gains``, and among equals the first.

    :param gains: for each kind a dict from start to what it costs (below 0: saves) when the kind lies there.
    """
    ways = _arrangements(board, kinds)
    useful = [(index, gain) for index, gain in enumerate(gains) if gain]
    if not useful:
        return ways[0][0]
    return min(ways, key=lambda way: sum(gain.get(way[0][index], 0) for index, gain in useful))[0]


def _best(board, existing, kinds):
    """The best change, and the instances whose busy CIs it destroys."""
    here = {(item.profile, item.start): item for item in existing if board.holds(item)}
    gains = []
    for name, pin, cis in kinds:
        gain = {}
        for start in board.by_name[name].starts:
            old = here.get((name, start))
            if old and pin in (-1, start):
                gain[start] = _keeping(board.inner[name], cis, old)
        gains.append(gain)
    starts = _cheapest(board, kinds, gains)
    keep, create = [], []
    for (name, _, cis), start in zip(kinds, starts, strict=True):
        old = here.pop((name, start), None)
        placed = Placed(name, start, board.by_name[name].size, _place_cis(board.inner[name], cis, old))
        if old:
            keep.append((old, placed))
        else:
            create.append(placed)
    kept = {id(old) for old, _ in keep}
    destroy = sorted((item for item in existing if id(item) not in kept), key=lambda item: (item.start, item.profile))
    lost = [old for old, new in keep if any(ci not in new.cis for ci in old.busy)]
    lost += [old for old in destroy if old.busy]
    keep.sort(key=lambda pair: pair[1].start)
    return Change(tuple(keep), tuple(destroy), tuple(create)), lost


def _keeping(inner, cis, old):
    """
    What it costs to keep ``old`` for a wish with these CIs, instead of destroying it and creating another: criteria 1 to 3.

    The number holds busy CIs destroyed, GIs destroyed, CIs destroyed in kept GIs, and instances created, one above the other.
    """
    placed = _place_cis(inner, cis, old)
    saved_busy = sum(1 for ci in old.busy if ci in placed)
    saved = sum(1 for ci in old.cis if ci in placed)
    return _number(-saved_busy, -1, len(old.cis) - saved, -1 - saved)


def _number(busy, gis, cis, created):
    return ((busy * _BASE + gis) * _BASE + cis) * _BASE + created


def _place_cis(inner, cis, old=None):
    """Where the CIs of a wish go in a new GI, or in the GI ``old`` that stays: ``(name, start)`` in order of their start."""
    return _place_cis_among(inner, cis, old.cis if old else (), old.busy if old else ())


@lru_cache(maxsize=1 << 12)
def _place_cis_among(inner, cis, there, busy):
    gains = []
    for name, _, _ in cis:
        gains.append({start: _number(-((name, start) in busy), 0, -1, -1) for ci, start in there if ci == name})
    starts = _cheapest(inner, cis, gains)
    return tuple(sorted(((kind[0], start) for kind, start in zip(cis, starts, strict=True)), key=lambda ci: ci[1]))


# -- words ---------------------------------------------------------------------------------------------------------------
def _names(board):
    return ", ".join(piece.name for piece in board.pieces) or "none"


def _listed(wanted):
    """``2 x 1g.10gb, 3g.40gb@4`` for (name, start or None) pairs, in the order of their first mention."""
    counts = Counter(name if start is None else f"{name}@{start}" for name, start in wanted)
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def _needs(board, wanted, unit="memory"):
    """Why the (name, start) pairs are too many, in slices and in the limits that they break."""
    pieces = [board.by_name[name] for name, _ in wanted]
    parts = [f"together they take {sum(piece.size for piece in pieces)} of {board.slots} {unit} slices"]
    if unit == "memory":
        parts[0] += f" and {sum(piece.compute for piece in pieces)} of {board.compute} compute slices"
    counts = Counter(piece.name for piece in pieces)
    limits = {name: board.by_name[name].count for name in counts}
    parts += [f"at most {limits[name]} x {name} can exist" for name, count in counts.items() if count > limits[name]]
    flow = sum(piece.flow for piece in pieces)
    if flow > board.flow:
        parts.append(f"they need {flow} optical flow engines and the GPU has {board.flow}")
    if any(piece.all_media for piece in pieces) and sum(not piece.no_media for piece in pieces) > 1:
        parts.append("beside an instance with all media engines (+me.all) only instances without any (-me) can exist")
    if len(parts) == 1 and sum(piece.size for piece in pieces) <= board.slots:
        parts.append("no legal placement has room for all of them")
    return "; ".join(parts)


def _does_not_fit(board, wishes):
    """The error for wishes that are possible one by one but not together."""
    fitting = 0
    while fitting < len(wishes) and _arrangements(board, _kinds(board, wishes[: fitting + 1])):
        fitting += 1
    wanted = [(wish.profile, wish.start) for wish in wishes]
    what = f"{_listed(wanted)} do not fit together on this GPU: {_needs(board, wanted)}."
    if fitting:
        return errors.ProfileMismatch(what, todo=f"Of this list the first {fitting} fit: {_listed(wanted[:fitting])}.")
    return errors.ProfileMismatch(what, todo="Ask for a smaller profile.")


def _in_use(lost, change, wishes):
    """The error for a change that destroys something in use."""
    staying = {id(old): new for old, new in change.keep}
    parts, cis = [], []
    for item in lost:
        place = f"{item.profile} at memory slice {item.start}"
        if id(item) not in staying:
            parts.append(place)
            cis += [(item.start, *ci) for ci in item.busy]
            continue
        gone = [ci for ci in item.busy if ci not in staying[id(item)].cis]
        cis += [(item.start, *ci) for ci in gone]
        parts += [f"compute instance {name} at compute slice {start} of {place}" for name, start in gone]
    wanted = _listed([(wish.profile, wish.start) for wish in wishes]) or "no instance at all"
    return InUse(
        f"Every legal layout for {wanted} destroys something that is in use; the one that destroys least would take away "
        f"{', '.join(parts)}.",
        todo="Stop what uses it, or change what is wanted so that it can stay, or allow to force the change.",
        instances=lost,
        cis=cis,
    )
