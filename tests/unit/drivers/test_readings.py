"""Readings: whatever a driver says is a number that can be true, or a word that says why there is none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.drivers import readings
from gpuslice.drivers.nvml import translate
from gpuslice.drivers.readings import Asked
from gpuslice.drivers.telemetry_intel import busy_between

ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)


@given(ANYTHING)
def test_a_reading_is_a_number_in_its_bounds_or_none_with_a_reason(told):
    asked = Asked()
    found = asked.number("power", lambda: told, most=1000)
    if found is None:
        assert asked.unreadable == (("power", "unsupported" if told is None else "untrue"),)
    else:
        assert 0 <= found <= 1000 and math.isfinite(found) and asked.unreadable == ()


@given(st.integers(-10, 2**60), st.integers(-10, 2**60))
def test_of_memory_no_more_is_used_than_there_is(total, used):
    asked = Asked()
    found = asked.memory(total, used)
    assert found == (None, None) or (0 <= found[1] <= found[0] and found[0])
    assert bool(asked.unreadable) == (found == (None, None))


def test_the_first_reason_counts():
    asked = Asked()
    asked.lacks("memory", "asleep")
    asked.lacks("memory", "untrue")
    assert asked.unreadable == (("memory", "asleep"),)


@pytest.mark.parametrize(
    ("err", "word"),
    [
        (errors.Unsupported("x"), "unsupported"),
        (errors.PermissionDenied("x"), "no-permission"),
        (errors.DriverMissing("x"), "no-driver"),
        (errors.DriverMismatch("x"), "driver-mismatch"),
        (errors.DeviceNotFound("x"), "gone"),
        (errors.Unhealthy("x"), "not-answering"),
        (errors.DriverError("x"), "failed"),
        (errors.ToolFailed("x"), "failed"),
        (readings.Untold("asleep"), "asleep"),
    ],
)
def test_each_class_of_error_has_a_word(err, word):
    assert readings.reason_of(err) == word


def test_a_gpu_that_fell_off_the_bus_is_told_from_one_that_does_not_answer():
    class Lost(Exception):
        value = 15

    try:
        try:
            raise Lost
        except Lost as err:
            raise translate(err, "0000:07:00.0", "read") from err
    except errors.Unhealthy as err:
        assert readings.reason_of(err) == "lost"


NUMBERS = st.dictionaries(
    st.sampled_from(["cycles-ccs", "total-cycles-ccs", "cycles-rcs", "total-cycles-rcs", "engine-render", "engine-capacity-ccs"]),
    st.integers(0, 2**64),
)
LOOKS = st.fixed_dictionaries(
    {
        "at": st.floats(0, 1e9),
        "clients": st.dictionaries(st.just("f"), st.dictionaries(st.sampled_from(["1", "2"]), NUMBERS)),
    }
)


@given(st.none() | LOOKS, LOOKS)
def test_whatever_clients_tell_a_card_is_busy_between_nothing_and_all(before, now):
    asked = Asked()
    found = busy_between(asked, "f", before, now)
    assert (found is None) == bool(asked.unreadable) and (found is None or 0 <= found <= 1)


def test_the_busiest_class_of_engines_counts_by_its_number_of_engines():
    def look(at, ccs, rcs, total):
        told = {"cycles-ccs": ccs, "cycles-rcs": rcs, "engine-capacity-ccs": 4}
        return {"at": at, "clients": {"f": {"1": {**told, "total-cycles-ccs": total, "total-cycles-rcs": total}}}}

    assert busy_between(Asked(), "f", look(1, 0, 0, 1000), look(2, 1600, 300, 2000)) == 0.4
    # A number that stepped back is no work, and a new client has done all of its own since.
    assert busy_between(Asked(), "f", look(1, 500, 0, 1000), look(2, 400, 0, 2000)) == 0.0
    newcomer = look(2, 0, 0, 2000)
    newcomer["clients"]["f"]["2"] = {"cycles-rcs": 500, "total-cycles-rcs": 2000}
    assert busy_between(Asked(), "f", look(1, 0, 0, 1000), newcomer) == 0.5
