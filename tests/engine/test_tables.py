"""
The slices of a host as a table for people: by name, and without losing which GPU they are of.
"""

import pytest

from gpuslice import front
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import listed


@pytest.fixture
def table(simulated):
    """``table(example, pillar)``: (the slices of a host that was brought to a pillar, the words of each line of its table)."""

    def make(example, pillar):
        host = simulated(example)
        assert apply(host, pillar).ok
        slices = listed(host)
        return slices, [line.split() for line in front.table(slices).splitlines()]

    return make


def test_a_name_that_begins_with_the_gpu_tells_it(table):
    slices, [head, rule, *lines] = table("dgx-h100", pillars.mig({"1g.10gb+me": 1, "3g.40gb": 1}))
    assert head == ["name", "profile", "placement", "memory", "compute", "UUID", "in", "use", "by"] and len(rule) == 7
    assert [line[0] for line in lines] == [part["name"] for part in slices] and len(lines) == 16
    first = {tuple(line[:2]) for line, part in zip(lines, slices, strict=True) if part["gpu"] == "0000:1b:00.0"}
    assert first == {("0000:1b:00.0-1g.10gb.me-0", "1g.10gb+me"), ("0000:1b:00.0-3g.40gb-4", "3g.40gb")}


def test_the_gpu_of_a_virtual_function_stands_beside_its_name(table):
    slices, [head, rule, *lines] = table("arc-pro-b60", pillars.for_all("sriov", {"vf_count": 2}))
    assert head[:3] == ["name", "GPU", "profile"] and len(rule) == 8
    assert [line[:3] for line in lines] == [["0000:03:00.1", "0000:03:00.0", "vf1"], ["0000:03:00.2", "0000:03:00.0", "vf2"]]
    assert [part["name"] for part in slices] == ["0000:03:00.1", "0000:03:00.2"]


def test_without_slices_there_is_no_table():
    assert front.table([]) == "No slices."
