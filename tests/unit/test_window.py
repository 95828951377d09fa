"""Windows of maintenance: when they open and close, also over midnight and where a clock is set forward or back."""

from datetime import datetime
from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import window

BERLIN = "Europe/Berlin"
#: Of 2026: a Saturday; the clock goes from 02:00 to 03:00, and from 03:00 back to 02:00.
SATURDAY, SPRING, AUTUMN = "2026-12-05", "2026-03-29", "2026-10-25"


def at(day, clock, zone=BERLIN, fold=0):
    """A moment."""
    return datetime.fromisoformat(f"{day}T{clock}").replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


NIGHTS = window.of({"days": ["sat", "sun"], "hours": "22:00-04:00", "zone": BERLIN})


@pytest.mark.parametrize(
    ("day", "clock", "is_open"),
    [
        (SATURDAY, "21:59", False),
        (SATURDAY, "22:00", True),
        ("2026-12-06", "03:59", True),
        ("2026-12-06", "04:00", False),
        ("2026-12-06", "22:00", True),
        # What goes on after midnight belongs to the day before it.
        ("2026-12-07", "03:00", True),
        ("2026-12-07", "22:00", False),
        (SATURDAY, "03:00", False),
    ],
)
def test_hours_may_go_on_after_midnight(day, clock, is_open):
    assert NIGHTS.is_open(at(day, clock)) is is_open


def test_it_is_known_when_it_opens_and_closes():
    friday = at("2026-12-04", "12:00")
    assert NIGHTS.next_opening(friday) == at(SATURDAY, "22:00") and NIGHTS.closes_at(friday) == friday
    inside = at(SATURDAY, "23:30")
    assert NIGHTS.next_opening(inside) == inside and NIGHTS.closes_at(inside) == at("2026-12-06", "04:00")
    assert NIGHTS.words(NIGHTS.next_opening(friday)) == "Sat 2026-12-05 22:00 (Europe/Berlin)"


def test_windows_that_meet_are_one():
    whole = window.of({"days": ["sat", "sun"], "zone": BERLIN})
    assert whole.closes_at(at(SATURDAY, "12:00")) == at("2026-12-07", "00:00")
    assert window.of({"zone": BERLIN}).closes_at(at(SATURDAY, "12:00")) is None


def test_a_time_that_is_skipped_counts_as_that_much_later():
    opens = window.of({"hours": "02:30-05:00", "zone": BERLIN})
    assert opens.next_opening(at(SPRING, "00:00")) == at(SPRING, "03:30")
    assert not opens.is_open(at(SPRING, "03:15")) and opens.closes_at(at(SPRING, "03:30")) == at(SPRING, "05:00")


def test_a_window_that_comes_to_no_time_does_not_open_that_day():
    gone = window.of({"days": ["sun"], "hours": "02:30-03:10", "zone": BERLIN})
    assert gone.next_opening(at(SPRING, "00:00")) == at("2026-04-05", "02:30")


def test_of_a_time_that_comes_twice_the_first_counts():
    opens = window.of({"hours": "01:00-02:30", "zone": BERLIN})
    assert opens.closes_at(at(AUTUMN, "01:30")) == at(AUTUMN, "02:30", fold=0)
    assert not opens.is_open(at(AUTUMN, "02:15", fold=1))


def test_the_host_s_own_zone_and_utc_need_no_data():
    now = datetime(2026, 12, 5, 12, 0).timestamp()
    assert window.of({"hours": "11:00-13:00"}).is_open(now) and not window.of({"hours": "13:00-14:00"}).is_open(now)
    assert window.of({"hours": "11:00-13:00", "zone": "UTC"}).words(0) == "Thu 1970-01-01 00:00 (UTC)"


@pytest.mark.parametrize("name", ["", "UTC", BERLIN, "America/New_York"])
def test_a_zone_is_known(name):
    assert window.is_known(name)


@pytest.mark.parametrize("name", ["Europe", "Europe/Berlinn", "../../etc/passwd", "/etc/localtime", "x" * 60, "a\0b"])
def test_a_zone_is_not_known(name):
    assert not window.is_known(name)


CLOCKS = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.integers(0, 59))
WINDOWS = st.builds(
    lambda days, begins, ends, zone: window.of({"days": days, "hours": f"{begins}-{ends}", "zone": zone}),
    st.lists(st.sampled_from(window.DAYS), min_size=1, unique=True),
    CLOCKS,
    st.one_of(CLOCKS, st.just("24:00")),
    st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia"]),
).filter(lambda made: made.ends - made.begins < window.DAY)
# Some years with their changes of the clock, the day that Apia left out among them.
MOMENTS = st.integers(int(at("2011-12-01", "00:00", "UTC")), int(at("2032-01-01", "00:00", "UTC")))


@given(WINDOWS, MOMENTS)
def test_an_opening_is_open_and_nothing_before_it_is(made, now):
    opens = made.next_opening(now)
    assert opens is not None and opens >= now and made.is_open(opens)
    assert made.is_open(now) is (opens == now)
    assert opens - now <= 15 * window.DAY * 60
    if opens > now:
        assert not made.is_open(opens - 1) and not made.is_open(now + (opens - now) // 2)


@given(WINDOWS, MOMENTS)
def test_it_is_open_until_it_closes_and_closed_then(made, now):
    closes = made.closes_at(now)
    if closes is None:
        assert all(made.is_open(now + hours * 3600) for hours in range(0, 240, 5))
        return
    assert closes >= now and not made.is_open(closes)
    assert made.is_open(now) is (closes > now)
    if closes > now:
        assert made.is_open(closes - 1) and made.is_open(now + (closes - now) // 2)


@given(WINDOWS, MOMENTS)
def test_it_opens_on_its_days_by_the_clock_of_its_zone(made, now):
    opens = made.next_opening(made.closes_at(now) or now)
    told = datetime.fromtimestamp(opens, ZoneInfo(made.zone))
    # The hour of the clock is the wanted one, or what a clock that was set forward made of it.
    wanted = datetime.combine(told.date(), datetime.min.time()) + timedelta(minutes=made.begins)
    late = told.replace(tzinfo=None, second=0) - wanted
    assert timedelta(0) <= late <= timedelta(hours=24)
    assert made.closes_at(now) is None or late or told.weekday() in made.days
