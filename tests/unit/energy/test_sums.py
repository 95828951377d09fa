"""Sums by hour, by day and of all are of the same intervals, and what is let go of is still in the sum of its board."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.energy import sums
from gpuslice.energy.attribution import Load
from gpuslice.energy.attribution import attribute
from gpuslice.energy.interval import GAP
from gpuslice.energy.interval import Interval
from gpuslice.energy.record import fresh_board

SLICES = {"a": Load(Fraction(1, 7), 0.5), "b": Load(Fraction(2, 7), 1.0)}
NUMBERS = {"a": "1", "b": "2"}
NOON = 1_800_000_000.0 // sums.DAY * sums.DAY + 12 * sums.HOUR


def booked(board, now, energy=700, dropped="", slices=SLICES):
    found = None if dropped else attribute(energy, Fraction(60), 5, slices)
    board["rows"].update({number: {} for number in NUMBERS.values()})
    sums.book(board, now, Interval(energy, 60_000, dropped), found, NUMBERS)


def total(counted):
    return counted["unallocated"] + sum(map(sum, counted["rows"].values()))


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**9)), min_size=1, max_size=40))
def test_each_sum_is_the_boards(looks):
    board, now = fresh_board("x"), NOON
    for passed, energy in looks:
        now += passed
        booked(board, now, energy)
    for counted in (board["total"], *board["hours"].values(), *board["days"].values()):
        assert total(counted) == counted["mj"]
    assert board["total"]["mj"] == sum(energy for _, energy in looks)
    assert len(board["hours"]) <= sums.HOURS and len(board["days"]) <= sums.DAYS


def test_since_an_hour_and_since_a_day():
    board = fresh_board("x")
    for hours in range(72):
        booked(board, NOON + hours * sums.HOUR, 1)
    now = NOON + 71 * sums.HOUR
    assert sums.since(board, now - 3 * sums.HOUR + 59, now)[0] == now - 3 * sums.HOUR
    assert sums.since(board, now - 3 * sums.HOUR, now)[1]["mj"] == 4
    # Further back it is told from the beginning of a day.
    start, counted = sums.since(board, now - 60 * sums.HOUR, now)
    assert start % sums.DAY == 0 and start <= now - 60 * sums.HOUR and counted["mj"] == 72 - 12 * (start > NOON)
    assert sums.since(board, 0, now)[0] == (now // sums.DAY - sums.DAYS + 1) * sums.DAY


def test_what_a_wrong_clock_put_into_the_future_does_not_count():
    board = fresh_board("x")
    booked(board, NOON + 10**9, 5)
    booked(board, NOON, 7)
    assert sums.since(board, NOON, NOON)[1]["mj"] == 7 and board["total"]["mj"] == 12


@pytest.mark.parametrize("wrong", [0, NOON - 10**9, NOON + 10**8, NOON + 10**9, 10.0**15])
def test_after_two_days_and_more_of_a_wrong_clock_what_follows_is_told_again(wrong):
    board = fresh_board("x")
    booked(board, NOON, 3)
    for day in range(sums.DAYS + 1):
        booked(board, wrong + day * sums.DAY, 5)
        booked(board, wrong + day * sums.DAY + sums.HOUR, 5)
    for hour in range(3):
        booked(board, NOON + (hour + 1) * sums.HOUR, 7)
        assert sums.since(board, NOON + sums.HOUR, NOON + (hour + 1) * sums.HOUR)[1]["mj"] == 7 * (hour + 1)
    assert len(board["hours"]) <= sums.HOURS and len(board["days"]) <= sums.DAYS


@given(st.floats(-1e18, 1e18))
def test_no_clock_makes_a_record_that_is_not_believed(now):
    board = fresh_board("x")
    booked(board, now)
    assert all(len(number) < 10 and number.isdecimal() for number in (*board["hours"], *board["days"]))


def test_dropped_intervals_are_summed_by_reason():
    board = fresh_board("x")
    booked(board, NOON, 5, GAP)
    booked(board, NOON + sums.HOUR, 6, GAP)
    assert sums.since(board, NOON, NOON + sums.HOUR)[1]["dropped"] == {GAP: [2, 11]}
    assert board["total"]["mj"] == 0


def test_a_slice_that_is_gone_is_told_of_as_long_as_its_days_are_and_then_in_the_sum_of_earlier_ones():
    board = fresh_board("x")
    booked(board, NOON, 700)
    sums.forget(board, ["2"])
    assert "1" in board["rows"]
    for day in range(1, sums.DAYS + 1):
        booked(board, NOON + day * sums.DAY, 100, slices={"b": SLICES["b"]})
        sums.forget(board, ["2"])
    assert "1" not in board["rows"] and "1" not in board["total"]["rows"]
    assert total(board["total"]) + board["earlier"] == board["total"]["mj"] and board["earlier"] > 0


def test_a_board_that_is_cut_anew_for_each_job_has_a_record_that_ends_somewhere():
    board = fresh_board("x")
    for cut in range(2000):
        numbers = {name: str(2 * cut + place + 1) for place, name in enumerate(SLICES)}
        board["rows"].update({number: {} for number in numbers.values()})
        sums.book(board, NOON + cut * 600, Interval(700, 60_000), attribute(700, Fraction(60), 5, SLICES), numbers)
        sums.forget(board, numbers.values())
    assert len(board["rows"]) == sums.GONE + 2 and set(numbers.values()) <= board["rows"].keys()
    assert total(board["total"]) + board["earlier"] == board["total"]["mj"] == 2000 * 700
    for counted in (*board["hours"].values(), *board["days"].values()):
        assert total(counted) + counted["earlier"] == counted["mj"] and counted["rows"].keys() <= board["rows"].keys()
    now = NOON + 2000 * 600
    counted = sums.since(board, now - 5 * sums.DAY, now)[1]
    assert total(counted) + counted["earlier"] == counted["mj"] > 0 and counted["earlier"]
