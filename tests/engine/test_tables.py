"""
The slices of a host as a table for people: by name, and without losing which GPU they are of.
"""

import json

import pytest

from gpuslice import reports
from gpuslice import tables
from gpuslice.engine import Engine
from gpuslice.inventory import naming
from tests.conftest import ROOT
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.hosts import listed


@pytest.fixture
def table(simulated):
    """``table(example, pillar)``: (the slices of a host that was brought to a pillar, the words of each line of its table)."""

    def make(example, pillar):
        host = simulated(example)
        assert apply(host, pillar).ok
        slices = listed(host)
        return slices, [line.split() for line in tables.table(slices).splitlines()]

    return make


def test_a_name_that_begins_with_the_gpu_tells_it(table):
    slices, [head, rule, *lines] = table("dgx-h100", pillars.mig({"1g.10gb+me": 1, "3g.40gb": 1}))
    assert head == ["name", "profile", "placement", "memory", "compute", "UUID", "in", "use", "by"] and len(rule) == 7
    assert [line[0] for line in lines] == [part["name"] for part in slices] and len(lines) == 16
    first = {tuple(line[:2]) for line, part in zip(lines, slices, strict=True) if part["gpu"] == "0000:1b:00.0"}
    assert first == {("0000:1b:00.0-1g.10gb.me-0", "1g.10gb+me"), ("0000:1b:00.0-3g.40gb-4", "3g.40gb")}


def test_the_gpu_of_a_virtual_function_stands_beside_its_name(table):
    slices, [head, rule, *lines] = table("arc-pro-b60", pillars.for_all("sriov", {"vf_count": 2}))
    # An Intel GPU tells no placement of its functions, and these have no UUID.
    assert head == ["name", "GPU", "profile", "memory", "compute", "address", "in", "use", "by"] and len(rule) == 7
    assert [line[:3] for line in lines] == [["0000:03:00.1", "0000:03:00.0", "vf1"], ["0000:03:00.2", "0000:03:00.0", "vf2"]]
    assert [part["name"] for part in slices] == ["0000:03:00.1", "0000:03:00.2"]


def test_without_a_gpu_there_is_no_table():
    assert tables.table([]) == "No GPU and no slices."


def test_a_gpu_without_slices_has_a_row_of_its_own(simulated):
    host = simulated("dgx-h100")
    rule = pillars.rule("0000:43:00.0", strategy="mig", mig={"profiles": ["7g.80gb"]})
    assert apply(host, pillars.for_all("none", devices=[rule])).ok
    with Engine(config(host)) as engine:
        lines = [line.split() for line in tables.tabulated(engine).splitlines()[2:]]
        [alone] = tables.tabulated(engine, "0000:1b:00.0").splitlines()[2:]
    assert [line[0] for line in lines[:3]] == ["0000:1b:00.0", "0000:43:00.0-7g.80gb-0", "0000:52:00.0"] and len(lines) == 8
    assert alone.split()[:6] == ["0000:1b:00.0", "not", "sliced", "79.6", "GiB", "100.0%"] and "GPU-" in alone


@pytest.mark.parametrize("example", sorted(path.stem for path in (ROOT / "examples" / "hosts").glob("*.yaml")))
@pytest.mark.parametrize("driver", [{}, {"driver": {"loaded": False}}])
def test_every_host_is_told_in_tables_lines_and_data_also_without_a_driver(simulated, example, driver):
    host = simulated(example, **driver)
    with Engine(config(host)) as engine:
        gpus = len(engine.gpus)
        assert tables.tabulated(engine) and len(naming.ids_told(engine.ids()).splitlines()) == gpus + 2
        for pillar in ({}, pillars.for_all("none")):
            line, data = reports.summary(engine, pillar), reports.as_data(engine.plan(pillar))
            assert line.startswith("Nothing is managed here: ") and "\n" not in line and json.loads(json.dumps(data)) == data
        assert all(engine.chosen(each.address).is_one for each in engine.gpus)
        assert not gpus or len(engine.chosen("*").gpus) == gpus
