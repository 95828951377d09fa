"""
A limit of GPU memory that a real kernel enforces: dmem of a kernel built for it, with the systemd of this machine, in a virtual
machine. The engine writes the limit from a pillar, by the units that it writes; a module plays the driver amdgpu, whose memory is
only counted. See ``tests/parts/dmem``; one machine is booted for all tests of this file.
"""

import functools
import json

import pytest

from tests.parts import dmem
from tests.parts.machine import answer_of
from tests.support import needs

pytestmark = pytest.mark.slow

CARD, SLICE, OTHERS = "0000:00:05.0", "gpuslicing-trainer.slice", "other.slice"
REGION = f"drm/{CARD}/vram"
MIB = 2**20


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """(answers of ``tests/parts/dmem/inside.py`` by case, all that the machine said)."""
    needs.require(dmem.missing())
    return dmem.boot(tmp_path_factory.mktemp("dmem"))


@pytest.fixture
def answer(machine):
    """``answer("limited")``: what that case came to."""

    return functools.partial(answer_of, machine)


def limit(mebibytes):
    return {REGION: str(mebibytes * MIB)}


def test_the_card_has_memory_that_the_kernel_counts(answer):
    found = answer("there")
    assert found["capacity"] == [REGION, str(256 * MIB)] and "dmem" not in found["switched on"]
    assert found["grain"] == [["dmem"], {"by": "dmem", "why": ""}]


def test_a_process_of_the_consumer_is_refused_what_is_above_its_limit_and_another_slice_is_not_touched(answer):
    found = answer("limited")
    assert found["applied"]["ok"], found["applied"]
    assert f"limit trainer ({SLICE}) to 64 MiB of {CARD}" in found["applied"]["steps"]
    assert "is enforced by the cgroup controller dmem" in found["applied"]["plan"]
    assert found["before"] == limit(64)
    # Both ask for 160 of the 256 MiB.
    assert found["trainer"] == {"mib": 64, "refused": "EAGAIN"}
    assert found["other"] == {"mib": 160, "refused": ""}
    assert found["figures"] == {
        SLICE: {"max": limit(64), "current": limit(64)}, OTHERS: {"max": {REGION: "max"}, "current": limit(160)},
    }  # fmt: skip
    assert found["again"]["ok"] and found["again"]["steps"] == []


def test_it_outlasts_what_systemd_does_to_its_units(answer):
    assert answer("survives") == {"max": limit(64), "again": []}


def test_another_limit_holds_at_once_and_starts_nobody_anew(answer):
    found = answer("another")
    assert found["applied"]["ok"] and found["same"] and found["max"] == limit(96)
    assert found["trainer"] == {"mib": 96, "refused": "EAGAIN"}


def test_it_goes_with_the_slice_and_comes_with_the_next_start(answer):
    found = answer("slice_stopped")
    assert not found["group"] and found["setter"] == "inactive"
    assert found["trainer"] == {"mib": 96, "refused": "EAGAIN"} and found["max"] == limit(96)


def test_a_driver_that_is_loaded_anew_forgets_it_which_is_told_and_mended(answer):
    found = answer("driver_reloaded")
    assert found["said"] == ["", ""] and found["max"] == {REGION: "max"}
    # Nothing of systemd's tells.
    assert found["setter"] == "active"
    told = json.loads(found["check"]["out"])["local"]
    [missing] = [each for each in told["missing"] if "96 MiB" in each]
    assert not told["result"] and f"{SLICE} is to be limited to 96 MiB of {CARD}, and what is in force is no limit" in missing
    assert found["applied"]["steps"] == [f"limit trainer ({SLICE}) to 96 MiB of {CARD}"] and found["again"] == limit(96)
    assert found["trainer"] == {"mib": 96, "refused": "EAGAIN"}


def test_without_it_the_slice_goes_and_the_service_gets_all_that_it_asks_for(answer):
    found = answer("lifted")
    assert found["applied"]["ok"] and not found["group"] and found["again"] == []
    assert found["trainer"] == {"mib": 160, "refused": ""}
