"""
The time between two looks at a board: what it took in it, or why that counts for nothing. Lengths are by the clock that nobody
sets, and by it only within one boot.
"""

from fractions import Fraction
from typing import NamedTuple

#: Why an interval is left out; each is a word of the record.
REBOOTED, CLOCK, RESET, ABSURD, GAP, LAYOUT = "rebooted", "clock", "counter-reset", "counter-jumped", "gap", "layout-changed"
REASONS = (REBOOTED, CLOCK, RESET, ABSURD, GAP, LAYOUT)
#: Milliwatts that no board draws, and millijoules that a counter may be behind with.
_ABSURD_MW, _BEHIND_MJ = 5_000_000, 1_000_000
#: So many times as long as it should be is too long.
_TOO_LONG = 3


class Reading(NamedTuple):
    """
    A look at a board.

    :ivar counter_mj: its counter; :ivar boot_id: of which boot; :ivar seconds: of its monotonic clock.
    :ivar layout: what tells one layout from another.
    """

    counter_mj: int
    boot_id: str
    seconds: float
    layout: str


class Interval(NamedTuple):
    """
    :ivar energy_mj: what the board took, 0 where that is not known. :ivar milliseconds: how long it was, likewise.
    :ivar dropped: why nothing of it is apportioned, "" for one that is. :ivar changed: whether the layout became another one.
    """

    energy_mj: int
    milliseconds: int
    dropped: str = ""
    changed: bool = False

    @property
    def seconds(self) -> Fraction:
        """How long it was."""
        return Fraction(self.milliseconds, 1000)


def between(old: Reading, new: Reading, every: float, by_us: bool) -> Interval:
    """
    The interval between two looks.

    :param every: seconds from one look to the next as it should be.
    :param by_us: whether a change of ours is going on, so that another layout is no surprise.
    """
    if old.boot_id != new.boot_id:
        return Interval(0, 0, REBOOTED)
    length = new.seconds - old.seconds
    if length < 0:
        return Interval(0, 0, CLOCK)
    energy, milliseconds = new.counter_mj - old.counter_mj, round(length * 1000)
    if energy < 0:
        # A driver that is loaded anew begins at 0.
        return Interval(0, milliseconds, RESET)
    if energy > _BEHIND_MJ + _ABSURD_MW * length:
        return Interval(0, milliseconds, ABSURD)
    changed = old.layout != new.layout
    if length > _TOO_LONG * every:
        return Interval(energy, milliseconds, GAP, changed)
    return Interval(energy, milliseconds, LAYOUT if changed and not by_us else "", changed)
