"""The MIG planner against an independent brute force, the reference numbers, and the failures that users meet."""

import functools
import itertools
import pickle
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.catalog import nvidia
from gpuslice.catalog.mig import CiProfile
from gpuslice.catalog.mig import GiProfile
from gpuslice.catalog.mig import MigTable
from gpuslice.techniques.mig import drawing
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig.placement import Instance
from gpuslice.techniques.mig.placement import Placed
from gpuslice.techniques.mig.placement import Wish
from gpuslice.techniques.mig.placement import solve

KEYS = [key for key in nvidia.MODELS if nvidia.mig_table(key)]
A100 = nvidia.mig_table("a100-40gb")
A30 = nvidia.mig_table("a30-24gb")
H100 = nvidia.mig_table("h100-80gb")
PRO = nvidia.mig_table("rtx-pro-6000-96gb")


# -- an independent model of what is legal and what is best ------------------------------------------------------------
def is_legal(table, layout):
    """Whether (profile, start) pairs are a legal layout, by the rules in the words of the vendor, slice by slice."""
    profiles = [(table.profile(name), start) for name, start in layout]
    if any(start not in profile.starts for profile, start in profiles):
        return False
    slices = Counter(slot for profile, start in profiles for slot in range(start, start + profile.size))
    if any(number > 1 for number in slices.values()) or sum(profile.slices for profile, _ in profiles) > table.compute:
        return False
    if any(number > table.profile(name).count for name, number in Counter(name for name, _ in layout).items()):
        return False
    flow = max(profile.engines[4] for profile in table.profiles if profile.size == table.slots)
    if flow and sum(profile.engines[4] for profile, _ in profiles) > flow:
        return False
    owners = [name for name, _ in layout if name.endswith("+me.all")]
    return not owners or all(name.endswith("-me") for name, _ in layout if [name] != owners)


@functools.cache
def layouts_of(table):
    """Every legal layout of the table, as sorted tuples of (profile, start)."""
    options = [(profile.name, start) for profile in table.profiles for start in profile.starts]
    found = []

    def extend(index, chosen):
        found.append(chosen)
        for position in range(index, len(options)):
            if is_legal(table, (*chosen, options[position])):
                extend(position + 1, (*chosen, options[position]))

    extend(0, ())
    return [tuple(sorted(layout)) for layout in found]


@functools.cache
def ci_layouts_of(profile):
    """Every legal set of compute instances in a GPU instance of the profile, as sorted tuples of (name, start)."""
    options = [(ci, start) for ci in profile.cis for start in ci.starts]
    found = []
    for number in range(profile.slices + 1):
        for chosen in itertools.combinations(options, number):
            slices = [slot for ci, start in chosen for slot in range(start, start + ci.slices)]
            names = Counter(ci.name for ci, _ in chosen)
            if len(slices) == len(set(slices)) and all(names[ci.name] <= ci.count for ci, _ in chosen):
                found.append(tuple(sorted((ci.name, start) for ci, start in chosen)))
    return found


@functools.cache
def by_shape(table):
    shapes = {}
    for layout in layouts_of(table):
        shapes.setdefault(shape(layout), []).append(layout)
    return shapes


def shape(layout):
    return tuple(sorted(name for name, _ in layout))


def plain(table, double=False):
    """The table without attributes, and without the 1g of double memory unless it is asked for."""
    names = [p.name for p in table.profiles if not p.attributes and (double or (p.slices, p.size) != (1, 2))]
    return replace(table, profiles=tuple(p for p in table.profiles if p.name in names))


def maximal(table):
    layouts = set(layouts_of(table))
    options = [(profile.name, start) for profile in table.profiles for start in profile.starts]
    return [one for one in layouts if not any(tuple(sorted((*one, more))) in layouts for more in options)]


def filling(table, name):
    """The name of the CI that fills the GPU instance: the GPU instance's own."""
    assert any(ci.name == name for ci in table.profile(name).cis)
    return name


def wanted_cis(table, wish):
    return wish.cis or ((filling(table, wish.profile), None),)


def cost(existing, final):
    """What a final layout {(profile, start): cis} costs: busy CIs lost, GIs lost, CIs lost in kept GIs, instances created."""
    busy = gis = cis = 0
    created = sum(1 + len(new) for new in final.values())
    for old in existing:
        new = final.get((old.profile, old.start))
        if new is None:
            gis += 1
            busy += len(old.busy)
            continue
        busy += len(set(old.busy) - set(new))
        cis += len(set(old.cis) - set(new))
        created -= 1 + len(set(old.cis) & set(new))
    return busy, gis, cis, created


def cheapest(table, existing, wishes):
    """The least cost over every layout, every way to give its places to the wishes, and every place of their CIs."""
    best = None
    for layout in by_shape(table).get(tuple(sorted(wish.profile for wish in wishes)), ()):
        for order in set(itertools.permutations(layout)):
            if any(name != w.profile or w.start not in (None, at) for (name, at), w in zip(order, wishes, strict=True)):
                continue
            old = {(item.profile, item.start): item for item in existing}
            final = {}
            for place, wish in zip(order, wishes, strict=True):
                names = sorted(name for name, _ in wanted_cis(table, wish))
                pins = {ci for ci in wanted_cis(table, wish) if ci[1] is not None}
                ways = [w for w in ci_layouts_of(table.profile(place[0])) if sorted(n for n, _ in w) == names and pins <= set(w)]
                # GIs do not influence each other's CIs, so the best CIs of each are best for all.
                final[place] = min(ways, key=lambda way: cost([old[place]] if place in old else [], {place: way}))  # noqa: B023
            price = cost(existing, final)
            best = price if best is None or price < best else best
    return best


def assert_right(table, existing, wishes, change):
    """The change is legal, starts from what exists, and ends in exactly what is wished."""
    layout = [(placed.profile, placed.start) for placed in change.layout]
    assert is_legal(table, layout)
    assert sorted([*(old for old, _ in change.keep), *change.destroy], key=repr) == sorted(existing, key=repr)
    assert all((old.profile, old.start, old.size) == (new.profile, new.start, new.size) for old, new in change.keep)
    for placed in change.layout:
        assert placed.size == table.profile(placed.profile).size
        assert tuple(sorted(placed.cis)) in ci_layouts_of(table.profile(placed.profile))
        assert list(placed.cis) == sorted(placed.cis, key=lambda ci: ci[1])
    # Give each wish a place of its own: the hardest wishes (pinned ones) choose first.
    left = list(change.layout)
    for wish in sorted(wishes, key=lambda w: (w.start is None, sum(start is None for _, start in wanted_cis(table, w)))):
        wanted = wanted_cis(table, wish)
        for placed in left:
            same = sorted(name for name, _ in wanted) == sorted(name for name, _ in placed.cis)
            pinned = all(ci in placed.cis for ci in wanted if ci[1] is not None)
            if placed.profile == wish.profile and wish.start in (None, placed.start) and same and pinned:
                left.remove(placed)
                break
        else:
            raise AssertionError(f"{wish} is not in {change.layout}")
    assert not left
    sizes = [placed.size for placed in change.create]
    assert sizes == sorted(sizes, reverse=True)


def exists(table, layout, cis=None, busy=()):
    """Instances of (profile, start) pairs, each with the CI that fills it; ``busy``: those of the pairs that are in use."""
    found = []
    for name, start in layout:
        own = cis or ((filling(table, name), 0),)
        found.append(Instance(name, start, table.profile(name).size, own, own if (name, start) in busy else ()))
    return found


def standing(change):
    """The instances there are when the change is done."""
    return [Instance(placed.profile, placed.start, placed.size, placed.cis) for placed in change.layout]


@st.composite
def situations(draw, most=7):
    """A table, what exists on it (CIs partial, some busy) and wishes that fit, some pinned and with CIs, in any order."""
    table = draw(st.sampled_from([A100, A30, PRO]))
    existing = []
    for name, start in draw(st.sampled_from(layouts_of(table))):
        profile = table.profile(name)
        cis = draw(st.sampled_from(ci_layouts_of(profile)))
        busy = draw(st.sets(st.sampled_from(cis), max_size=1)) if cis and draw(st.integers(0, 3)) == 0 else ()
        existing.append(Instance(name, start, profile.size, cis, tuple(busy)))
    wishes = []
    for name, start in draw(st.sampled_from(layouts_of(table)).filter(lambda layout: len(layout) <= most)):
        cis = draw(st.sampled_from(ci_layouts_of(table.profile(name))))
        cis = tuple((ci, at if draw(st.integers(0, 4)) == 0 else None) for ci, at in cis)
        wishes.append(Wish(name, start if draw(st.integers(0, 4)) == 0 else None, cis))
    return table, existing, draw(st.permutations(wishes))


# -- properties ---------------------------------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None)
@given(situations())
def test_a_plan_is_legal_and_ends_in_what_is_wished(situation):
    table, existing, wishes = situation
    assert_right(table, existing, wishes, solve(table, existing, wishes, force=True))


@settings(max_examples=200, deadline=None)
@given(situations())
def test_nothing_in_use_goes_without_force(situation):
    table, existing, wishes = situation
    forced = solve(table, existing, wishes, force=True)
    gone = {item for item in forced.destroy if item.busy}
    gone |= {old for old, new in forced.keep if set(old.busy) - set(new.cis)}
    if not gone:
        assert solve(table, existing, wishes) == forced
        return
    with pytest.raises(placement.InUse) as caught:
        solve(table, existing, wishes)
    assert set(caught.value.instances) == gone


@settings(max_examples=150, deadline=None)
@given(situations())
def test_a_second_run_has_nothing_to_do(situation):
    table, existing, wishes = situation
    first = solve(table, existing, wishes, force=True)
    second = solve(table, standing(first), wishes)
    assert second.empty
    assert second.layout == first.layout


@settings(max_examples=100, deadline=None)
@given(situations(), st.randoms(use_true_random=False))
def test_order_does_not_matter(situation, random):
    table, existing, wishes = situation
    shuffled = [replace(wish, cis=tuple(random.sample(wish.cis, len(wish.cis)))) for wish in random.sample(wishes, len(wishes))]
    change = solve(table, random.sample(existing, len(existing)), shuffled, force=True)
    assert change == solve(table, existing, wishes, force=True)


@settings(max_examples=120, deadline=None)
@given(situations(most=5))
def test_no_layout_is_cheaper(situation):
    table, existing, wishes = situation
    change = solve(table, existing, wishes, force=True)
    final = {(placed.profile, placed.start): placed.cis for placed in change.layout}
    assert cost(existing, final) == cheapest(table, existing, wishes)
    assert len(change.destroy) == cost(existing, final)[1]
    assert len(change.destroy_cis) == cost(existing, final)[2]
    assert len(change.create) + sum(len(p.cis) for p in change.create) + len(change.create_cis) == cost(existing, final)[3]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([A100, A30, PRO]), st.data())
def test_a_set_of_profiles_is_accepted_exactly_when_a_layout_has_it(table, data):
    names = data.draw(st.lists(st.sampled_from([profile.name for profile in table.profiles]), max_size=8))
    if tuple(sorted(names)) in by_shape(table):
        assert_right(table, [], [Wish(name) for name in names], solve(table, [], [Wish(name) for name in names]))
        return
    with pytest.raises(errors.ProfileMismatch):
        solve(table, [], [Wish(name) for name in names])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([A100, A30, PRO]), st.data())
def test_free_room_is_what_the_planner_accepts(table, data):
    layout = data.draw(st.sampled_from(layouts_of(table)))
    room = placement.free_room(table, exists(table, layout))
    pins = [Wish(name, start) for name, start in layout]
    assert list(room) == [profile.name for profile in table.profiles]
    for name, number in room.items():
        assert_right(table, [], [*pins, *[Wish(name)] * number], solve(table, [], [*pins, *[Wish(name)] * number]))
        with pytest.raises(errors.ProfileMismatch):
            solve(table, [], [*pins, *[Wish(name)] * (number + 1)])


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([A100, A30, PRO]), st.data())
def test_fragmentation_is_a_share_and_a_better_layout_of_the_same_has_less(table, data):
    layout = data.draw(st.sampled_from(layouts_of(table)))
    here = placement.fragmentation(table, exists(table, layout))
    assert 0 <= here <= 1

    def room(one):
        return sum(table.profile(name).slices * n for name, n in placement.free_room(table, exists(table, one)).items())

    others = by_shape(table)[shape(layout)]
    if here == 0:
        assert room(layout) == max(room(other) for other in others)
    if room(layout) < max(room(other) for other in others):
        assert here > 0


@settings(max_examples=150, deadline=None)
@given(situations())
def test_a_drawing_has_one_width_and_every_instance(situation):
    table, existing, wishes = situation
    change = solve(table, existing, wishes, force=True)
    before, after = drawing.draw_change(table, change)
    assert before.isascii() and after.isascii()
    assert len(before) == len(after)
    assert sorted(cell[0] for cell in before[1:-1].split("|") if cell.strip() != "-") == ["="] * len(change.keep) + ["x"] * len(
        change.destroy
    )
    assert sorted(cell[0] for cell in after[1:-1].split("|") if cell.strip() != "-") == ["+"] * len(change.create) + ["="] * len(
        change.keep
    )


# -- reference numbers ----------------------------------------------------------------------------------------------------
def test_numbers_of_layouts():
    small = plain(A100)
    assert len(layouts_of(small)) == 298
    assert len(maximal(small)) == 19
    assert len([one for one in by_shape(small) if one]) == 37
    double = maximal(plain(A100, double=True))
    assert (len(double), len({shape(one) for one in double})) == (78, 38)
    for table in (A30, PRO):
        four = maximal(plain(table))
        assert (len(four), len({shape(one) for one in four})) == (5, 4)


def test_all_changes_between_a100_layouts():
    """From each non-empty layout to each other non-empty set of profiles: 297 x 36."""
    table = plain(A100)
    existed = destroyed = undisturbed = number = 0
    for layout in layouts_of(table):
        for wanted in by_shape(table):
            if not layout or not wanted or wanted == shape(layout):
                continue
            change = solve(table, exists(table, layout), [Wish(name) for name in wanted])
            least = min(len(set(layout) - set(other)) for other in by_shape(table)[wanted])
            assert len(change.destroy) == least
            number += 1
            existed += len(layout)
            destroyed += least
            undisturbed += least == 0
    assert number == 10692
    assert (round(existed / number, 2), round(destroyed / number, 2)) == (3.38, 2.07)
    assert round(100 * undisturbed / number, 1) == 12.3


@pytest.mark.parametrize("key", KEYS)
def test_every_feasible_set_of_profiles_on_every_model(key):
    table = nvidia.mig_table(key)
    # Models of a family differ in names and memory only, so the brute force of one serves all.
    model = next(one for one in (A100, A30, PRO) if (one.slots, len(one.profiles)) == (table.slots, len(table.profiles)))
    assert [(p.slices, p.size, p.starts, p.count, p.attributes) for p in model.profiles] == [
        (p.slices, p.size, p.starts, p.count, p.attributes) for p in table.profiles
    ]
    places = sorted(by_shape(model).values())
    names = dict(zip([p.name for p in model.profiles], [p.name for p in table.profiles], strict=True))
    starts = [exists(table, [(names[name], start) for name, start in one[-1]]) for one in places[::9]]
    for ways in places:
        wishes = [Wish(names[name]) for name, _ in ways[0]]
        for existing in starts:
            change = solve(table, existing, wishes)
            assert is_legal(table, [(placed.profile, placed.start) for placed in change.layout])
            assert Counter(placed.profile for placed in change.layout) == Counter(wish.profile for wish in wishes)


# -- where things go --------------------------------------------------------------------------------------------------------
def test_the_order_that_fails_in_the_driver_is_planned_big_first():
    change = solve(A100, [], [Wish("1g.5gb"), Wish("1g.5gb"), Wish("2g.10gb"), Wish("3g.20gb")])
    assert [placed.profile for placed in change.create] == ["3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"]
    assert is_legal(A100, [(placed.profile, placed.start) for placed in change.create])


def test_a_small_instance_leaves_the_big_places_free():
    assert solve(A100, [], [Wish("1g.5gb")]).create[0].start == 6
    assert solve(A100, [], [Wish("2g.10gb")]).create[0].start == 4
    assert solve(A100, [], [Wish("3g.20gb")]).create[0].start == 4


def test_of_two_places_that_leave_the_same_big_place_the_one_with_more_small_ones_is_taken():
    """A 1g.10gb at 4 or at 6 leaves the 4g.20gb free; at 4 it would cut one more 1g.10gb and 2g.10gb off."""
    assert solve(A100, [], [Wish("1g.10gb")]).create[0].start == 6
    assert solve(A100, exists(A100, [("7g.40gb", 0)]), [Wish("1g.5gb")]).create[0].start == 6


def test_equal_room_takes_the_lowest_slots():
    assert [placed.start for placed in solve(A30, [], [Wish("1g.6gb")]).create] == [0]
    assert [placed.start for placed in solve(A30, [], [Wish("1g.6gb")] * 3).create] == [0, 1, 2]


def test_one_big_place_is_worth_more_than_many_small_ones():
    """At 0 the wish would leave four small places free, at 3 one of three slices: no table of the catalog has this choice."""
    full = (CiProfile("ci", 0, 0, 1, 1, (0,)),)
    small = tuple(GiProfile(f"1g.{n}gb", n, n, 1, 1, (3,), 1, cis=full) for n in (2, 3, 4, 5))
    table = MigTable(
        4, 4, (GiProfile("1g.1gb", 0, 0, 1, 1, (0, 3), 1, cis=full), GiProfile("3g.3gb", 1, 1, 3, 3, (0,), 1), *small)
    )
    assert solve(table, [], [Wish("1g.1gb")]).create[0].start == 3


def test_compute_slices_and_counts_limit_also_where_memory_slices_are_left():
    full = (CiProfile("ci", 0, 0, 1, 1, (0,)),)
    table = MigTable(
        4, 3, (GiProfile("1g.1gb", 0, 0, 1, 1, (0, 1, 2, 3), 4, cis=full), GiProfile("1g.2gb", 1, 1, 1, 1, (0, 1), 1))
    )
    assert placement.free_room(table, []) == {"1g.1gb": 3, "1g.2gb": 1}
    assert placement.free_room(table, [Instance("2g.9gb", 0, 1)]) == {"1g.1gb": 1, "1g.2gb": 1}
    assert placement.free_room(table, [Instance("odd", 0, 1)]) == {"1g.1gb": 2, "1g.2gb": 1}
    with pytest.raises(errors.ProfileMismatch, match="4 of 4 memory slices and 4 of 3 compute slices"):
        solve(table, [], [Wish("1g.1gb")] * 4)


def test_a_kept_instance_keeps_its_place_though_another_would_leave_more_room():
    existing = exists(A100, [("1g.5gb", 0)])
    assert solve(A100, existing, [Wish("1g.5gb")]).empty
    assert solve(A100, existing, [Wish("1g.5gb", 6)]).destroy == tuple(existing)


def test_growing_touches_nothing_that_exists():
    existing = exists(H100, [("3g.40gb", 4), ("1g.10gb", 2)], busy=[("3g.40gb", 4)])
    change = solve(H100, existing, [Wish("1g.10gb"), Wish("3g.40gb"), Wish("1g.10gb"), Wish("2g.20gb")])
    assert not change.destroy and not change.destroy_cis and not change.create_cis
    assert [(placed.profile, placed.start) for placed in change.create] == [("2g.20gb", 0), ("1g.10gb", 3)]
    assert [old for old, _ in change.keep] == [existing[1], existing[0]]


def test_nothing_wished_clears_the_gpu():
    existing = exists(A100, [("3g.20gb", 0), ("3g.20gb", 4)])
    change = solve(A100, existing, [])
    assert (change.keep, change.destroy, change.create, change.layout) == ((), tuple(existing), (), ())
    assert solve(A100, [], []).empty


def test_an_instance_of_an_unknown_profile_goes_and_is_in_the_way_of_nothing_wished():
    odd = Instance("6g.60gb", 0, 6)
    change = solve(H100, [odd, *exists(H100, [("1g.10gb", 6)])], [Wish("4g.40gb"), Wish("1g.10gb")])
    assert change.destroy == (odd,)
    assert [(old.profile, old.start) for old, _ in change.keep] == [("1g.10gb", 6)]


def test_an_instance_of_another_size_than_the_table_has_is_not_taken_for_the_wished_one():
    odd = Instance("3g.40gb", 0, 3, (("3g.40gb", 0),))
    change = solve(H100, [odd], [Wish("3g.40gb", 0)])
    assert change.destroy == (odd,)
    assert change.create == (Placed("3g.40gb", 0, 4, (("3g.40gb", 0),)),)


def test_what_the_driver_made_is_never_refused():
    """A layout that the rules forbid (two +me), a profile that the table lacks, a start that it does not allow."""
    twice = exists(A30, [("1g.6gb+me", 0), ("1g.6gb+me", 1)])
    strange = Instance("2g.13gb", 2, 2, (("2g.13gb", 0),))
    shifted = Instance("2g.12gb", 1, 2, (("1c.2g.12gb", 1), ("1c.2g.12gb", 0)))
    same = [Wish(old.profile, old.start, old.cis) for old in (*twice, strange)]
    change = solve(A30, [strange, *twice], same)
    assert change.empty
    assert [old for old, _ in change.keep] == [*twice, strange]
    assert solve(A30, twice, [Wish("1g.6gb+me"), Wish("1g.6gb+me", 1)]).empty
    bare = [replace(old, cis=()) for old in twice]
    assert solve(A30, bare, [Wish("1g.6gb+me", None, None)] * 2).empty
    assert solve(A30, [strange], [Wish("2g.13gb")]).empty
    kept = solve(A30, [shifted], [Wish("2g.12gb", 1, (("1c.2g.12gb", None), ("1c.2g.12gb", 0)))])
    assert kept.empty and kept.layout[0].cis == (("1c.2g.12gb", 0), ("1c.2g.12gb", 1))
    for other in (
        [*same, Wish("1g.6gb")],
        same[:-1],
        [*same[:-1], Wish("2g.13gb", 0)],
        [*same[:-1], Wish("2g.13gb", None, None)],
    ):
        with pytest.raises(errors.ProfileMismatch):
            solve(A30, [*twice, strange], other)


def test_media_engines_are_not_given_twice():
    assert len(solve(PRO, [], [Wish("1g.24gb+me.all"), *[Wish("1g.24gb-me")] * 3]).create) == 4
    for more in ("1g.24gb", "1g.24gb+me", "1g.24gb+gfx", "2g.48gb+me.all"):
        with pytest.raises(errors.ProfileMismatch, match="optical flow|media engines"):
            solve(PRO, [], [Wish("1g.24gb+me.all"), Wish(more)])
    with pytest.raises(errors.ProfileMismatch, match="need 2 optical flow engines and the GPU has 1"):
        solve(A30, [], [Wish("1g.6gb+me"), Wish("2g.12gb+me")])


# -- pins -------------------------------------------------------------------------------------------------------------------
def test_a_pin_is_kept_and_the_others_go_around_it():
    change = solve(A100, [], [Wish("1g.5gb", 1), Wish("3g.20gb"), Wish("2g.10gb")])
    assert {(placed.profile, placed.start) for placed in change.layout} == {("1g.5gb", 1), ("3g.20gb", 4), ("2g.10gb", 2)}


def test_an_existing_instance_goes_to_the_pin_and_not_to_the_free_wish():
    change = solve(A100, exists(A100, [("1g.5gb", 2)]), [Wish("1g.5gb"), Wish("1g.5gb", 2)])
    assert [new.start for _, new in change.keep] == [2]
    assert [placed.start for placed in change.create] != [2]


def test_an_illegal_pin_names_the_legal_starts():
    with pytest.raises(errors.ProfileMismatch, match=r"3g\.20gb can't begin at memory slice 2\. .*: 0, 4\."):
        solve(A100, [], [Wish("3g.20gb", 2)])
    with pytest.raises(errors.ProfileMismatch, match=r"2c\.4g\.20gb can't begin at compute slice 1\. .*: 0, 2\."):
        solve(A100, [], [Wish("4g.20gb", None, (("2c.4g.20gb", 1),))])


def test_pins_that_exclude_each_other_do_not_fit():
    with pytest.raises(errors.ProfileMismatch, match="no legal placement has room"):
        solve(A100, [], [Wish("1g.5gb", 4), Wish("3g.20gb", 4)])


# -- compute instances ------------------------------------------------------------------------------------------------------
def test_compute_instances_are_packed():
    cis = (("1c.7g.40gb", None), ("2c.7g.40gb", None), ("4c.7g.40gb", None))
    placed = solve(A100, [], [Wish("7g.40gb", None, cis)]).create[0]
    assert placed.cis == (("4c.7g.40gb", 0), ("2c.7g.40gb", 4), ("1c.7g.40gb", 6))
    assert solve(A100, [], [Wish("7g.40gb")]).create[0].cis == (("7g.40gb", 0),)


def test_compute_instances_that_stay_and_go_in_a_kept_instance():
    one = "1c.3g.20gb"
    old = Instance("3g.20gb", 4, 4, ((one, 0), (one, 1), (one, 2)), busy=((one, 2),))
    change = solve(A100, [old], [Wish("3g.20gb", None, ((one, None), ("2c.3g.20gb", None)))])
    assert change.keep == ((old, Placed("3g.20gb", 4, 4, (("2c.3g.20gb", 0), (one, 2)))),)
    assert change.destroy_cis == [(4, one, 0), (4, one, 1)]
    assert change.create_cis == [(4, "2c.3g.20gb", 0)]
    assert not change.empty and not change.create and not change.destroy


def test_instances_go_to_the_wishes_that_their_compute_instances_match():
    halves = (("1c.2g.10gb", 0), ("1c.2g.10gb", 1))
    existing = [Instance("2g.10gb", 0, 2, halves), Instance("2g.10gb", 4, 2, (("2g.10gb", 0),))]
    wishes = [Wish("2g.10gb"), Wish("2g.10gb", None, (("1c.2g.10gb", None), ("1c.2g.10gb", None)))]
    assert solve(A100, existing, wishes).empty
    assert solve(A100, existing, wishes[::-1]).empty


def test_compute_instances_that_do_not_fit():
    with pytest.raises(errors.ProfileMismatch, match=r"4 of 3 compute slices; at most 1 x 2c\.3g\.20gb"):
        solve(A100, [], [Wish("3g.20gb", None, (("2c.3g.20gb", None), ("2c.3g.20gb", None)))])
    with pytest.raises(errors.ProfileMismatch, match=r"no profile 3c\.4g\.20gb\. Use one of: 1c\.4g\.20gb, 2c"):
        solve(A100, [], [Wish("4g.20gb", None, (("3c.4g.20gb", None),))])


def test_an_orphan_is_kept_and_gets_its_compute_instance():
    orphan = Instance("2g.10gb", 2, 2)
    change = solve(A100, [orphan], [Wish("2g.10gb")])
    assert change.keep == ((orphan, Placed("2g.10gb", 2, 2, (("2g.10gb", 0),))),)
    assert change.create_cis == [(2, "2g.10gb", 0)]
    assert not change.destroy and not change.create and not change.empty


def test_a_gpu_instance_without_compute_instances_can_be_wished():
    assert solve(A100, [], [Wish("2g.10gb", 2, None)]).create == (Placed("2g.10gb", 2, 2, ()),)
    assert solve(A100, [Instance("2g.10gb", 2, 2)], [Wish("2g.10gb", None, None)]).empty
    change = solve(A100, exists(A100, [("2g.10gb", 2)]), [Wish("2g.10gb", None, None)])
    assert (change.destroy, change.destroy_cis, change.create_cis) == ((), [(2, "2g.10gb", 0)], [])
    existing = [*exists(A100, [("2g.10gb", 0)]), Instance("2g.10gb", 4, 2)]
    assert solve(A100, existing, [Wish("2g.10gb", None, None), Wish("2g.10gb")]).empty


def test_of_an_orphan_and_a_whole_instance_the_whole_one_is_kept():
    existing = [Instance("3g.20gb", 0, 4), Instance("3g.20gb", 4, 4, (("3g.20gb", 0),))]
    change = solve(A100, existing, [Wish("3g.20gb")])
    assert (change.destroy, change.create_cis) == ((existing[0],), [])


def test_a_profile_without_a_filling_compute_instance_wants_them_named():
    table = MigTable(4, 4, (GiProfile("4g.9gb", 3, 0, 4, 4, (0,), 1),))
    with pytest.raises(errors.ProfileMismatch, match=r"4g\.9gb has no compute instance profile that fills it"):
        solve(table, [], [Wish("4g.9gb")])


def test_the_plain_compute_instance_fills_where_the_driver_has_two_of_the_full_size():
    full = A100.profile("7g.40gb")
    second = replace(full.cis[-1], name="7g.40gb (NVL)", enum=8, id=8)
    table = replace(A100, profiles=(replace(full, cis=(second, *full.cis)),))
    assert solve(table, [], [Wish("7g.40gb")]).create[0].cis == (("7g.40gb", 0),)


# -- in use -----------------------------------------------------------------------------------------------------------------
def test_a_busy_instance_is_worth_more_than_idle_ones():
    existing = exists(A100, [("1g.5gb", 0), ("1g.5gb", 1), ("1g.5gb", 2), ("2g.10gb", 4)], busy=[("2g.10gb", 4)])
    change = solve(A100, existing, [Wish("4g.20gb"), Wish("2g.10gb")])
    assert change.destroy == tuple(existing[:3])
    change = solve(A100, existing, [Wish("3g.20gb"), Wish("2g.10gb")])
    assert change.destroy == tuple(existing[:3])
    assert [placed.start for placed in change.create] == [0]


def test_what_is_in_use_and_would_have_to_go_is_named():
    existing = exists(A100, [("1g.5gb", 0), ("3g.20gb", 4)], busy=[("1g.5gb", 0)])
    with pytest.raises(placement.InUse) as caught:
        solve(A100, existing, [Wish("4g.20gb"), Wish("3g.20gb")])
    assert isinstance(caught.value, errors.ResourceConflict)
    assert caught.value.instances == [existing[0]]
    assert "4g.20gb, 3g.20gb" in str(caught.value) and "take away 1g.5gb at memory slice 0." in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.instances) == (str(caught.value), caught.value.instances)
    assert solve(A100, existing, [Wish("4g.20gb"), Wish("3g.20gb")], force=True).destroy == (existing[0],)


def test_the_last_memory_slice_holds_no_single_instance_so_a_busy_half_can_be_in_the_way():
    """3g, 2g, 1g, 1g take all eight memory slices: only the left half can hold 2g, 1g, 1g."""
    existing = exists(A100, [("3g.20gb", 0)], busy=[("3g.20gb", 0)])
    with pytest.raises(placement.InUse):
        solve(A100, existing, [Wish("3g.20gb"), Wish("2g.10gb"), Wish("1g.5gb"), Wish("1g.5gb")])


def test_a_busy_compute_instance_of_a_kept_instance_is_named():
    old = Instance("3g.20gb", 0, 4, (("1c.3g.20gb", 0), ("1c.3g.20gb", 1)), busy=(("1c.3g.20gb", 1),))
    with pytest.raises(placement.InUse, match=r"1c\.3g\.20gb at compute slice 1 of 3g\.20gb at memory slice 0"):
        solve(A100, [old], [Wish("3g.20gb")])
    change = solve(A100, [old], [Wish("3g.20gb")], force=True)
    assert (change.destroy, len(change.destroy_cis), len(change.create_cis)) == ((), 2, 1)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(("busy", "idle"), [(0, 4), (4, 0)])
def test_of_two_that_could_stay_the_busy_one_does(busy, idle, force):
    existing = exists(A100, [("3g.20gb", busy), ("3g.20gb", idle)], busy=[("3g.20gb", busy)])
    assert solve(A100, existing, [Wish("3g.20gb")], force=force).destroy == (existing[1],)


@pytest.mark.parametrize("busy", [0, 1, 2])
def test_of_equal_compute_instances_the_busy_one_stays(busy):
    one = "1c.3g.20gb"
    old = Instance("3g.20gb", 0, 4, ((one, 0), (one, 1), (one, 2)), ((one, busy),))
    change = solve(A100, [old], [Wish("3g.20gb", None, ((one, None),))])
    assert change.layout[0].cis == ((one, busy),)


@pytest.mark.parametrize(("fuller", "emptier"), [(0, 4), (4, 0)])
def test_of_two_instances_the_one_that_loses_fewer_compute_instances_stays(fuller, emptier):
    one = "1c.3g.20gb"
    existing = [Instance("3g.20gb", fuller, 4, ((one, 0), (one, 1), (one, 2))), Instance("3g.20gb", emptier, 4, ((one, 2),))]
    change = solve(A100, existing, [Wish("3g.20gb", None, ((one, None), ("2c.3g.20gb", None)))])
    assert (change.destroy, change.destroy_cis) == ((existing[0],), [])


# -- wishes that can't be ----------------------------------------------------------------------------------------------------
def test_more_than_fits_says_what_it_takes_and_what_fits():
    with pytest.raises(errors.ProfileMismatch) as caught:
        solve(A100, [], [Wish("3g.20gb"), Wish("3g.20gb"), Wish("2g.10gb")])
    assert "2 x 3g.20gb, 2g.10gb do not fit together" in str(caught.value)
    assert "10 of 8 memory slices and 8 of 7 compute slices" in str(caught.value)
    assert caught.value.todo == "Of this list the first 2 fit: 2 x 3g.20gb."


def test_more_than_the_count_says_the_count():
    with pytest.raises(errors.ProfileMismatch, match=r"at most 1 x 1g\.5gb\+me can exist"):
        solve(A100, [], [Wish("1g.5gb+me"), Wish("1g.5gb+me")])


def test_an_unknown_profile_names_those_that_exist():
    with pytest.raises(errors.ProfileMismatch, match=r"no profile 1g\.10gb\+gfx\. Use one of: 1g\.5gb, .*7g\.40gb\."):
        solve(A100, [], [Wish("1g.10gb+gfx")])


def test_a_very_long_list_is_refused():
    with pytest.raises(errors.ProfileMismatch, match="the first 7 fit"):
        solve(A100, [], [Wish("1g.5gb")] * 1000)


# -- room and fragmentation ----------------------------------------------------------------------------------------------------
def test_room_beside_instances_known_and_unknown():
    assert placement.free_room(plain(A100), []) == {"1g.5gb": 7, "2g.10gb": 3, "3g.20gb": 2, "4g.20gb": 1, "7g.40gb": 1}
    half = placement.free_room(plain(A100), exists(A100, [("4g.20gb", 0)]))
    assert half == {"1g.5gb": 3, "2g.10gb": 1, "3g.20gb": 1, "4g.20gb": 0, "7g.40gb": 0}
    assert placement.free_room(plain(A100), [Instance("4g.99gb", 0, 4)]) == half
    assert placement.free_room(plain(A100), [Instance("odd", 0, 8)])["1g.5gb"] == 0


def test_an_instance_that_is_not_known_may_have_media_engines_as_one_beside_it_has():
    for known in ("1g.24gb", "1g.24gb-me"):
        room = placement.free_room(PRO, [Instance("odd", 0, 1), *exists(PRO, [(known, 1)])])
        assert room["1g.24gb+me.all"] == room["2g.48gb+me.all"] == 0 and room["1g.24gb-me"] == 2


def test_fragmentation_of_known_cases():
    assert placement.fragmentation(A100, []) == 0
    assert placement.fragmentation(A100, exists(A100, [("7g.40gb", 0)])) == 0
    edge, inside = (placement.fragmentation(A100, exists(A100, [("1g.5gb", start)])) for start in (6, 1))
    assert edge < inside
    # Six memory slices are free, and no half is.
    assert placement.fragmentation(A100, exists(A100, [("1g.5gb", 1), ("1g.5gb", 4)])) > 0.3
    # Both halves of a 4-slice GPU are spoilt for 2g though two slices are free.
    two = replace(A30, profiles=(A30.profile("1g.6gb"), A30.profile("2g.12gb")))
    spoilt = exists(A30, [("1g.6gb", 0), ("1g.6gb", 2)])
    assert placement.free_room(two, spoilt) == {"1g.6gb": 2, "2g.12gb": 0}
    assert placement.fragmentation(two, spoilt) == 0.5
    # What the rules do not allow, but the driver has, is taken as it is.
    assert placement.fragmentation(A30, exists(A30, [("1g.6gb+me", 0), ("1g.6gb+me", 1)])) == 0
    # What the table does not know can't be moved.
    assert placement.fragmentation(two, [Instance("1g.7gb", 0, 1), Instance("1g.7gb", 2, 1)]) == 0


# -- drawings -------------------------------------------------------------------------------------------------------------------
def test_drawings():
    layout = exists(H100, [("3g.40gb", 0), ("1g.10gb", 4), ("1g.10gb", 5)])
    assert drawing.draw(H100, layout) == "[3g.40gb                        |1g.10gb|1g.10gb|   -   |   -   ]"
    assert drawing.draw(A30, []) == "[  -  |  -  |  -  |  -  ]"
    assert drawing.draw(A30, layout[:1], {("3g.40gb", 0): "x"}) == "[x3g.40gb               ]"


def test_a_drawing_of_a_change():
    existing = exists(A30, [("1g.6gb", 0), ("1g.6gb", 2)])
    change = solve(A30, existing, [Wish("1g.6gb"), Wish("2g.12gb")])
    assert drawing.draw_change(A30, change) == (
        "[x1g.6gb|   -   |=1g.6gb|   -   ]",
        "[+2g.12gb       |=1g.6gb|   -   ]",
    )


def test_instances_that_can_not_be_are_drawn_too():
    strange = [Instance("9g.99gb", 2, 9), Instance("odd", 0, 0), Instance("1g.6gb", 0, 1), Instance("a-very-long-profile", 1, 1)]
    line = drawing.draw(A30, strange)
    assert all(item.profile in line for item in strange)
    assert line.endswith("] odd@0, 9g.99gb@2")
