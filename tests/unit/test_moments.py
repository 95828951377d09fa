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
