"""
Maintenance windows: hours of some days of the week, by the clock of a place.

What the clock of a place does is settled as calendars do it (RFC 5545, 3.3.5): a time that is skipped in spring counts as that
much later (02:30 is 03:30), of one that comes twice in autumn the first counts. A window that comes to no time at all that way
does not open on that day.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from datetime import date
from datetime import datetime
from datetime import time
from datetime import timedelta
from datetime import timezone
from datetime import tzinfo
from functools import cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

#: As the pillar has them, Monday first.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: Minutes of a day by the clock.
DAY = 24 * 60
#: Days within which each window opens once more: one of them may fall into what a clock skips.
_SOON = 16
_UTC = "UTC"


class Window(NamedTuple):
    """
    When disruption is allowed. A moment is in seconds since the epoch.

    :ivar days: days of the week on which it opens, Monday is 0. :ivar begins: in minutes after midnight.
    :ivar ends: likewise, after ``begins``; more than a day for one that goes on after midnight.
    :ivar zone: time zone, "" for the host's own.
    """

    days: tuple[int, ...] = tuple(range(7))
    begins: int = 0
    ends: int = DAY
    zone: str = ""

    def is_open(self, now: float) -> bool:
        """Whether it is open. It is at the moment when it opens, and is not at that when it closes."""
        return any(opens <= now < closes for opens, closes in self._spans(now, 1))

    def next_opening(self, now: float) -> float | None:
        """The moment when it opens next, ``now`` where it is open. None where it never does."""
        if self.is_open(now):
            return now
        return min((opens for opens, _ in self._spans(now, _SOON) if opens > now), default=None)

    def closes_at(self, now: float) -> float | None:
        """The moment when it closes, ``now`` where it is closed. None where it never does: one day's window meets the next."""
        closes = now
        for opening, closing in sorted(self._spans(now, _SOON)):
            if opening <= closes < closing:
                closes = closing
        return None if closes > now + (_SOON - 3) * DAY * 60 else closes

    def words(self, moment: float) -> str:
        """A moment by the clock of its zone, for people."""
        told = datetime.fromtimestamp(moment, _zone(self.zone)).astimezone(_zone(self.zone))
        return f"{DAYS[told.weekday()].capitalize()} {told:%Y-%m-%d %H:%M} ({self.zone or told.tzname()})"

    def _spans(self, now: float, days: int) -> Iterator[tuple[float, float]]:
        """(opens, closes) of each window that begins from two days before ``now`` to ``days`` after it."""
        today = datetime.fromtimestamp(now, _zone(self.zone)).date()
        for after in range(-2, days + 1):
            day = today + timedelta(days=after)
            if day.weekday() in self.days:
                opens, closes = self._moment(day, self.begins), self._moment(day, self.ends)
                if opens < closes:
                    yield opens, closes

    def _moment(self, day: date, minutes: int) -> float:
        # fold=0, the default, is what calendars do; without a zone Python asks the host's clock.
        return (datetime.combine(day, time(), _zone(self.zone)) + timedelta(minutes=minutes)).timestamp()


def of(written: Mapping) -> Window:
    """The window that the pillar describes, in the form in which its check left it."""
    days = tuple(sorted(DAYS.index(day) for day in written.get("days", DAYS)))
    begins, ends = (_minutes(each) for each in written.get("hours", "00:00-24:00").split("-"))
    return Window(days, begins, ends if ends > begins else ends + DAY, written.get("zone", ""))


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def is_known(zone: str) -> bool:
    """Whether this machine knows a time zone of that name."""
    try:
        _zone(zone)
    except (OSError, LookupError, ValueError):
        # A name that is none, a folder of them (Europe), one that leads out of theirs.
        return False
    return True


@cache
def _zone(name: str) -> tzinfo | None:
    """None is the host's own. UTC is known also where no data of time zones is installed."""
    if not name:
        return None
    return timezone.utc if name == _UTC else ZoneInfo(name)
