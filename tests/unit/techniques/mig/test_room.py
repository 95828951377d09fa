"""
Moving idle instances: the asked profile really fits then, no way moves fewer, and what stays stays. Against every legal layout of
small boards, looked at one by one.
"""

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice.model import Gpu
from gpuslice.techniques.mig import placement
from gpuslice.techniques.mig import room
from gpuslice.techniques.mig.placement import Instance
from tests.unit.techniques.mig.test_placement import A30
from tests.unit.techniques.mig.test_placement import A100
from tests.unit.techniques.mig.test_placement import H100
from tests.unit.techniques.mig.test_placement import by_shape
from tests.unit.techniques.mig.test_placement import exists
from tests.unit.techniques.mig.test_placement import is_legal
from tests.unit.techniques.mig.test_placement import layouts_of
from tests.unit.techniques.mig.test_placement import plain
from tests.unit.techniques.mig.test_placement import shape

SMALL = [A30, plain(A100), plain(H100, double=True)]


@st.composite
def boards(draw):
    """A table, the instances on it, and those of them that are in use."""
    table = draw(st.sampled_from(SMALL))
    layout = draw(st.sampled_from(layouts_of(table)))
    staying = draw(st.sets(st.sampled_from(layout), max_size=2)) if layout else set()
    existing = exists(table, layout)
    return table, existing, [each for each in existing if (each.profile, each.start) in staying]


def places(instances):
    return {(each.profile, each.start) for each in instances}


def after(existing, moves):
    """(profile, start) of each instance when the moves are made."""
    to = dict(moves)
    assert len(to) == len(moves) and set(to) <= set(existing)
    return sorted((each.profile, to.get(each, each.start)) for each in existing)


def fewest(table, existing, staying, name, start):
    """The least number of moves that makes room, None where none does: over every legal layout of the same and one more."""
    here, best = places(existing), None
    for layout in by_shape(table).get(shape([*here, (name, 0)]), ()):
        for new in {place for place in layout if place[0] == name and start in (None, place[1])}:
            others = set(layout) - {new}
            if places(staying) <= others:
                moves = len(here - others)
                best = moves if best is None else min(best, moves)
    return best


@settings(max_examples=150, deadline=None)
@given(boards(), st.data())
def test_what_is_asked_fits_after_the_fewest_moves_and_nothing_in_use_moves(board, data):
    table, existing, staying = board
    profile = data.draw(st.sampled_from(table.profiles))
    start = data.draw(st.sampled_from((None, *profile.starts)))
    made = placement.room_made(table, existing, staying, profile.name, start)
    best = fewest(table, existing, staying, profile.name, start)
    if best is None:
        assert made is None
        return
    place, moves = made
    assert len(moves) == best and start in (None, place)
    assert not {old for old, _ in moves} & set(staying)
    assert is_legal(table, [*after(existing, moves), (profile.name, place)])
    # What fits already moves nothing.
    free = placement.free_places(table, existing)[profile.name]
    assert (best == 0) == (start in free if start is not None else bool(free))


def worth(table, layout):
    """What fits beside a layout: the largest profile, then all of them by their compute slices."""
    free = placement.free_room(table, exists(table, layout))
    largest = max(((p.slices, p.size) for p in table.profiles if free[p.name]), default=(0, 0))
    return (*largest, sum(p.slices * free[p.name] for p in table.profiles))


@settings(max_examples=100, deadline=None)
@given(boards())
def test_without_a_profile_no_way_leaves_more_and_of_those_that_leave_as_much_none_moves_fewer(board):
    table, existing, staying = board
    moves = placement.roomiest(table, existing, staying)
    here = sorted(places(existing))
    others = [layout for layout in by_shape(table)[shape(here)] if places(staying) <= set(layout)]
    most = max(worth(table, layout) for layout in others)
    assert not {old for old, _ in moves} & set(staying)
    assert worth(table, after(existing, moves)) == most
    assert len(moves) == min(len(set(here) - set(layout)) for layout in others if worth(table, layout) == most)
    # Once it is done nothing is gained any more.
    done = exists(table, after(existing, moves))
    assert placement.roomiest(table, done, [each for each in done if each in staying]) == ()


@settings(max_examples=100, deadline=None)
@given(boards())
def test_the_best_room_is_that_of_the_best_layout_for_each_profile(board):
    table, existing, staying = board
    others = [layout for layout in by_shape(table)[shape(places(existing))] if places(staying) <= set(layout)]
    each = [placement.free_room(table, exists(table, layout)) for layout in others]
    assert placement.best_room(table, existing, staying) == {p.name: max(one[p.name] for one in each) for p in table.profiles}


@settings(max_examples=100, deadline=None)
@given(boards())
def test_a_place_is_free_where_one_more_is_legal(board):
    table, existing, _ = board
    for name, starts in placement.free_places(table, existing).items():
        legal = [start for start in table.profile(name).starts if is_legal(table, [*places(existing), (name, start)])]
        assert list(starts) == legal


def test_more_room_never_means_more_lost_for_where_things_lie():
    for table in SMALL:
        for layout in layouts_of(table):
            existing = exists(table, layout)
            moved = exists(table, after(existing, placement.roomiest(table, existing)))
            assert placement.fragmentation(table, moved) <= placement.fragmentation(table, existing), layout


def test_what_moves_takes_its_compute_instances_along_and_those_of_one_profile_are_told_apart():
    split = Instance("1g.10gb", 5, 1, (("1g.10gb", 0),))
    bare = Instance("1g.10gb", 0, 1, ())
    place, [(moved, start)] = placement.room_made(H100, [bare, split], [bare], "3g.40gb", 4)
    assert place == 4 and moved is split and start not in (0, 4, 5, 6, 7)


def test_what_the_driver_does_not_tell_stays_where_it_is():
    odd = Instance("1g.7gb", 4, 1)
    assert placement.room_made(H100, [odd], (), "3g.40gb", 4) is None
    assert placement.room_made(H100, [odd], (), "3g.40gb")[0] == 0
    assert placement.roomiest(H100, [odd]) == ()


@pytest.mark.parametrize("odd", [Instance("7g.79gb", 0, 8), Instance("7g.80gb", 0, 8, (("ci-profile-8", 0),))])
def test_beside_what_the_driver_does_not_tell_nothing_is_planned(odd):
    found = room.Room(H100, (odd,), {})
    assert found.odd == [odd] and not any((*room.numbers(found)["now"].values(), *room.numbers(found)["after_moving"].values()))
    said = str(room.no_room(Gpu("0000:07:00.0", "nvidia", "2330"), found, "1g.10gb", by_moving=True))
    assert f"The driver does not tell the profile of {odd.profile}@0, so that nothing is planned beside it" in said


def test_what_is_free_is_counted_in_both_kinds_of_slices():
    assert placement.free_slices(H100, exists(H100, [("4g.40gb", 0), ("1g.20gb", 6)])) == ((4, 5), 2)
    assert placement.free_slices(H100, exists(H100, [("3g.40gb", 0), ("3g.40gb", 4)])) == ((), 1)


def test_what_fits_inside_an_instance():
    two = Instance("3g.40gb", 4, 4, (("1c.3g.40gb", 0), ("1c.3g.40gb", 1)))
    assert placement.free_inside(H100, two) == {"1c.3g.40gb": 1, "2c.3g.40gb": 0, "3g.40gb": 0}
    assert placement.free_inside(H100, Instance("3g.40gb", 4, 4, (("ci-profile-8", 2),)))["2c.3g.40gb"] == 1
