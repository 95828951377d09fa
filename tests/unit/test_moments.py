"""Moments as people and programs read them, by the clock of the host."""

import time

import pytest

from gpuslice import moments


@pytest.fixture
def at(monkeypatch):
    """``at("Europe/Berlin")`` sets the clock of the host to another place."""

    def put(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield put
    monkeypatch.undo()
    time.tzset()


def test_a_moment_is_told_by_the_clock_of_the_host(at):
    at("CET-1")
    assert moments.iso(1_750_000_000.9) == "2025-06-15T16:06:40+01:00"
    assert moments.told(1_750_000_000.9) == "2025-06-15 16:06:40"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("30m", 1_750_000_000 - 1800),
        (" 24h", 1_750_000_000 - 86400),
        ("7d", 1_750_000_000 - 7 * 86400),
        ("2025-06-15T16:06:40", 1_750_000_000),
        ("2025-06-15T15:06:40Z", 1_750_000_000),
        ("2025-06-15T17:06:40+02:00", 1_750_000_000),
        ("2025-06-15", 1_749_942_000),
    ],
)
def test_a_moment_is_meant_by_how_long_ago_it_is_or_as_a_time(at, text, wanted):
    at("CET-1")
    assert moments.meant(text, 1_750_000_000) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "", "h", "24", "-1h", "1w", "yesterday", "9999999d", "0001-01-01", "12:00", "\u0663h", "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
    ],
)  # fmt: skip
def test_what_is_no_moment_is_refused(text):
    with pytest.raises(ValueError, match="it is no time"):
        moments.meant(text, 1_750_000_000)
