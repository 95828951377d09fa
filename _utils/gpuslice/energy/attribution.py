"""
How the energy of a board is apportioned to its slices, for one interval between two readings of its counter. Pure: whole
millijoules in, whole millijoules out, and they are the same in sum.

What the board draws when nobody works on it is the idle part, and goes by size. What it draws beyond that is the active part, and
goes by size times mean utilisation. Where it is not known who worked, or nobody did, all of it goes by size: that is the method
``capacity``, and the other one ``activity``. What goes by size goes by the share of the whole board, so that the part of which
there is no slice keeps its own; what goes by activity is of the slices alone, since nothing else can have worked.
"""

import math
from collections.abc import Mapping
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

ACTIVITY, CAPACITY = "activity", "capacity"
#: Why a method is what it is, or what its figures lack.
NO_IDLE_POWER = "the idle power is not known yet, so that nothing of it is told apart"
NO_UTILIZATION = "the utilisation of a slice is not known"
NOBODY_WORKED = "no slice was seen at work"


class Load(NamedTuple):
    """
    A slice in the interval.

    :ivar size: its share of the board, above 0; :ivar utilization: the mean of its own part that it used, 0 to 1; None where
        that is not known.
    """

    size: Fraction
    utilization: float | None


class Attribution(NamedTuple):
    """
    What came of an interval, in millijoules.

    :ivar active: name of a slice -> what its work took; :ivar idle: -> its share of what the board takes anyway.
    :ivar unallocated: of the part of the board of which there is no slice.
    :ivar method: ``activity`` or ``capacity``; :ivar why: what is to be known of that, "" for nothing.
    """

    active: dict[str, int]
    idle: dict[str, int]
    unallocated: int
    method: str
    why: tuple[str, ...]


def attribute(energy: int, seconds: Fraction, idle_mw: int | None, slices: Mapping[str, Load]) -> Attribution:
    """
    Apportion the energy of one board.

    :param energy: what it took, in millijoules, not negative; :param seconds: how long the interval was.
    :param idle_mw: what it draws when nobody works, in milliwatts; None for unknown, and then all of it counts as active.
    :param slices: by name. Where their sizes come to more than the board, as those of what is shared may, they are shares of
        their sum.
    """
    board = max(Fraction(1), sum((each.size for each in slices.values()), Fraction(0)))
    sizes = [each.size / board for each in slices.values()]
    rest = 1 - sum(sizes, Fraction(0))
    idle = 0 if idle_mw is None else min(energy, int(idle_mw * seconds))
    idle_of, idle_rest = _with_rest(idle, sizes, rest)
    method, doubt, weights = _weights(slices, sizes)
    if method == ACTIVITY:
        active_of, active_rest = divided(energy - idle, weights), 0
    else:
        active_of, active_rest = _with_rest(energy - idle, sizes, rest)
    why = tuple(filter(None, (doubt, NO_IDLE_POWER if idle_mw is None else "")))
    active, of_idle = dict(zip(slices, active_of, strict=True)), dict(zip(slices, idle_of, strict=True))
    return Attribution(active, of_idle, idle_rest + active_rest, method, why)


def _weights(slices: Mapping[str, Load], sizes: Sequence[Fraction]) -> tuple[str, str, list[Fraction]]:
    """(method, why it is no better one, size times utilisation of each slice)."""
    known = [_usable(each.utilization) for each in slices.values()]
    weights = [size * used for size, used in zip(sizes, known, strict=True) if used is not None]
    if len(weights) < len(known):
        return CAPACITY, NO_UTILIZATION, []
    return (ACTIVITY, "", weights) if any(weights) else (CAPACITY, NOBODY_WORKED, [])


def _usable(utilization: float | None) -> Fraction | None:
    """As an exact number from 0 to 1; None for what is none. A driver may tell a little more than all."""
    if utilization is None or not math.isfinite(utilization):
        return None
    return min(max(Fraction(utilization), Fraction(0)), Fraction(1))


def _with_rest(amount: int, sizes: Sequence[Fraction], rest: Fraction) -> tuple[list[int], int]:
    """An amount by size: what each has, and what the part of the board has of which there is no slice."""
    *each, of_rest = divided(amount, [*sizes, rest])
    return each, of_rest


def divided(amount: int, weights: Sequence[Fraction]) -> list[int]:
    """
    A whole amount in whole parts by weight, the same in sum. What rounding leaves goes to those that lost most by it, one each;
    among equals to the first. What has no weight gets nothing.

    :param weights: not negative, and not all 0 where there is an amount.
    """
    whole = sum(weights, Fraction(0))
    if not whole:
        return [0] * len(weights)
    exact = [amount * weight / whole for weight in weights]
    parts = [int(each) for each in exact]
    lost = sorted(range(len(parts)), key=lambda place: parts[place] - exact[place])
    for place in lost[: amount - sum(parts)]:
        parts[place] += 1
    return parts


def simplest(share: float) -> Fraction:
    """The plainest fraction that is told as this share with three digits: 0.143 is a seventh, as the hardware divides."""
    for below in range(1, 1000):
        found = Fraction(round(share * below), below)
        if found and abs(found - Fraction(share)) <= Fraction(1, 2000):
            return found
    return Fraction(share)
