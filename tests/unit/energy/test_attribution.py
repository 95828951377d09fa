"""The energy of a board is apportioned to the millijoule, and to those who took it."""

from fractions import Fraction

import pytest
from hypothesis import example
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.energy.attribution import ACTIVITY
from gpuslice.energy.attribution import CAPACITY
from gpuslice.energy.attribution import NO_IDLE_POWER
from gpuslice.energy.attribution import NO_UTILIZATION
from gpuslice.energy.attribution import NOBODY_WORKED
from gpuslice.energy.attribution import Load
from gpuslice.energy.attribution import attribute
from gpuslice.energy.attribution import divided
from gpuslice.energy.attribution import simplest

MINUTE = Fraction(60)
SEVENTH = Fraction(1, 7)

energies = st.integers(0, 10**12)
utilizations = st.none() | st.floats(0, 1)
sizes = st.builds(Fraction, st.integers(1, 8), st.sampled_from([7, 8, 56]))
boards = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.builds(Load, sizes, utilizations), max_size=8)
idles = st.none() | st.integers(0, 10**6)
times = st.fractions(0, 1000)


def total(found):
    return sum(found.active.values()) + sum(found.idle.values()) + found.unallocated


def brute(energy, seconds, idle_mw, slices):
    """The formula as it is written down, in exact fractions: name -> (active, idle), and what is unallocated."""
    board = max(Fraction(1), sum(each.size for each in slices.values()))
    idle = 0 if idle_mw is None else min(energy, int(idle_mw * seconds))
    used = [each.utilization for each in slices.values()]
    by_size = None in used or not any(used)
    weight = {name: each.size * Fraction(1 if by_size else each.utilization) for name, each in slices.items()}
    whole = board if by_size else sum(weight.values())
    parts = {name: ((energy - idle) * weight[name] / whole, idle * each.size / board) for name, each in slices.items()}
    return parts, energy - sum(a + i for a, i in parts.values())


@given(energies, times, idles, boards)
@example(10, MINUTE, None, {})
@example(1, MINUTE, 0, {"a": Load(Fraction(1), 5e-324)})
def test_it_is_the_formula_to_the_millijoule_and_sums_to_the_board(energy, seconds, idle_mw, slices):
    found = attribute(energy, seconds, idle_mw, slices)
    parts, rest = brute(energy, seconds, idle_mw, slices)
    assert total(found) == energy
    assert all(each >= 0 for each in (*found.active.values(), *found.idle.values(), found.unallocated))
    assert all(abs(found.active[name] - parts[name][0]) < 1 and abs(found.idle[name] - parts[name][1]) < 1 for name in slices)
    assert abs(found.unallocated - rest) < 2


@given(energies, times, idles, boards)
def test_who_did_not_work_has_no_active_energy_while_another_worked(energy, seconds, idle_mw, slices):
    found = attribute(energy, seconds, idle_mw, slices)
    used = [each.utilization for each in slices.values()]
    assert (found.method == ACTIVITY) == (None not in used and any(used))
    if found.method == ACTIVITY:
        assert all(found.active[name] == 0 for name, each in slices.items() if not each.utilization)


@given(energies, times, idles, boards, sizes, utilizations)
def test_equal_slices_with_equal_load_have_the_same(energy, seconds, idle_mw, slices, size, utilization):
    found = attribute(energy, seconds, idle_mw, {**slices, "one": Load(size, utilization), "two": Load(size, utilization)})
    # What can't be halved is one of them's.
    assert abs(found.active["one"] - found.active["two"]) <= 1 and abs(found.idle["one"] - found.idle["two"]) <= 1


@given(energies, st.lists(sizes, min_size=1, max_size=9))
def test_a_division_leaves_nothing_and_is_off_by_less_than_one(amount, weights):
    parts = divided(amount, weights)
    assert sum(parts) == amount
    assert all(abs(part - amount * weight / sum(weights)) < 1 for part, weight in zip(parts, weights, strict=True))


def test_the_vectors():
    sliced = {"big": Load(4 * SEVENTH, 0.5), "small": Load(SEVENTH, 0.5), "idle": Load(SEVENTH, 0.0)}
    found = attribute(21_000_000, MINUTE, 70_000, sliced)
    # 4.2 MJ anyway, of which a seventh each; 16.8 MJ of work, as 4 to 1.
    assert found.active == {"big": 13_440_000, "small": 3_360_000, "idle": 0}
    assert found.idle == {"big": 2_400_000, "small": 600_000, "idle": 600_000} and found.unallocated == 600_000
    assert (found.method, found.why) == (ACTIVITY, ())


@pytest.mark.parametrize(
    ("slices", "idle_mw", "method", "why"),
    [
        ({"a": Load(SEVENTH, None), "b": Load(SEVENTH, 1.0)}, 0, CAPACITY, (NO_UTILIZATION,)),
        ({"a": Load(SEVENTH, float("nan"))}, 0, CAPACITY, (NO_UTILIZATION,)),
        ({"a": Load(SEVENTH, 0.0)}, 0, CAPACITY, (NOBODY_WORKED,)),
        ({"a": Load(SEVENTH, 0.0)}, None, CAPACITY, (NOBODY_WORKED, NO_IDLE_POWER)),
        ({"a": Load(SEVENTH, 2.0), "b": Load(SEVENTH, 1.0)}, None, ACTIVITY, (NO_IDLE_POWER,)),
    ],
)
def test_the_method_is_told_with_its_reason(slices, idle_mw, method, why):
    found = attribute(7_000, MINUTE, idle_mw, slices)
    assert (found.method, found.why) == (method, why) and total(found) == 7_000
    # More than all is all.
    assert len(set(found.active.values())) == 1


def test_by_size_the_part_without_slices_keeps_its_own():
    found = attribute(7_000, MINUTE, None, {"a": Load(SEVENTH, None), "b": Load(2 * SEVENTH, None)})
    assert found.active == {"a": 1000, "b": 2000} and found.unallocated == 4000


def test_one_that_works_alone_has_all_of_the_work():
    found = attribute(7_000, MINUTE, 0, {"a": Load(SEVENTH, 1.0), "b": Load(6 * SEVENTH, 0.0)})
    assert found.active == {"a": 7000, "b": 0}


def test_without_slices_all_of_it_is_nobodys():
    assert attribute(7_000, MINUTE, 1, {}).unallocated == 7_000


@pytest.mark.parametrize(
    ("told", "meant"),
    [(0.143, (1, 7)), (0.429, (3, 7)), (0.571, (4, 7)), (0.25, (1, 4)), (1.0, (1, 1)), (0.125, (1, 8)), (0.036, (1, 28))],
)
def test_a_share_that_was_rounded_is_what_the_hardware_divides(told, meant):
    assert simplest(told) == Fraction(*meant)
