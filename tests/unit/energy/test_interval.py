"""What lies between two looks counts, or is left out with its reason."""

import pytest

from gpuslice.energy.interval import ABSURD
from gpuslice.energy.interval import CLOCK
from gpuslice.energy.interval import GAP
from gpuslice.energy.interval import LAYOUT
from gpuslice.energy.interval import REBOOTED
from gpuslice.energy.interval import RESET
from gpuslice.energy.interval import Reading
from gpuslice.energy.interval import between

OLD = Reading(1_000_000, "one", 100.0, "a")
LATER = Reading(1_600_000, "one", 160.0, "a")


@pytest.mark.parametrize(
    ("new", "dropped", "energy"),
    [
        (LATER, "", 600_000),
        (LATER._replace(boot_id="two"), REBOOTED, 0),
        (LATER._replace(boot_id="two", seconds=5.0, counter_mj=0), REBOOTED, 0),
        (LATER._replace(seconds=99.0), CLOCK, 0),
        (LATER._replace(counter_mj=999_999), RESET, 0),
        (LATER._replace(counter_mj=2**62), ABSURD, 0),
        (LATER._replace(seconds=100 + 181.0), GAP, 600_000),
        (LATER._replace(seconds=100 + 180.0), "", 600_000),
        (LATER._replace(layout="b"), LAYOUT, 600_000),
        # A gap says less than a layout of which only the two ends are known.
        (LATER._replace(layout="b", seconds=900.0), GAP, 600_000),
    ],
)
def test_each_reason(new, dropped, energy):
    found = between(OLD, new, 60, by_us=False)
    assert (found.dropped, found.energy_mj) == (dropped, energy)


def test_a_layout_that_we_change_ourselves_is_no_surprise():
    found = between(OLD, LATER._replace(layout="b"), 60, by_us=True)
    assert (found.dropped, found.changed, found.seconds) == ("", True, 60)


def test_two_looks_at_one_moment_are_an_interval_of_nothing():
    assert between(OLD, OLD, 60, by_us=False) == (0, 0, "", False)
