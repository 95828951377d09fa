"""What each technology has to try, and what it finds when driver and catalog differ."""

from dataclasses import replace

import pytest

from gpuslice.engine import Engine
from gpuslice.techniques.sriov import trying
from tests.support.hosts import config


def told(host, technique, number=0):
    """(trials, facts) of a technique of a GPU."""
    with Engine(config(host)) as engine:
        gpu, tool = engine.gpus[number], engine.tools.get(technique)
        state = tool.observe(gpu)
        return tool.trials(gpu, state), tool.facts(gpu, state)


def test_a_driver_that_differs_from_the_catalog_is_told(simulated):
    """It has another name for a profile: the id tells which is meant."""
    gpu = {"model": "h100-80gb", "address": "0000:07:00.0", "mig": "enabled"}
    trials, facts = told(simulated("dgx-h100", gpus=[gpu], driver={"renames": {"1g.10gb": "1g.11gb"}}), "mig")
    unlike = {fact.what: (fact.catalog, fact.found) for fact in facts if fact.catalog != fact.found}
    assert unlike == {"1g.10gb: name": ("1g.10gb", "1g.11gb")}
    assert "1g.11gb at 6" in [trial.words for trial in trials.each]


def test_there_are_no_facts_of_a_model_that_the_catalog_does_not_know(simulated):
    with Engine(config(simulated("dgx-h100"))) as engine:
        gpu, tool = engine.gpus[0], engine.tools.get("mig")
        assert tool.facts(gpu, tool.observe(gpu)) and tool.facts(replace(gpu, catalog_key=""), tool.observe(gpu)) == []


def test_the_long_change_is_contested_in_its_second_place(simulated):
    trials, _ = told(simulated("dgx-h100"), "mig")
    assert trials.long.settings["entries"] == [["1g.10gb", 0, 1], ["1g.10gb", 1, 1]]
    assert trials.rival["entries"] == [["1g.10gb", 1, 1]]


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (7, [1, 2, 4, 7]), (31, [1, 2, 4, 8, 16, 31]), (62, [1, 2, 4, 8, 16, 32, 62])]
)
def test_numbers_of_functions_are_doubled_up_to_the_most(most, counts):
    assert trying.counts(most) == counts


def test_who_makes_functions_for_all_gpus_at_once_is_not_tried(simulated):
    trials, _ = told(simulated("mi210-gim"), "sriov")
    assert trials.each == () and "for all GPUs of the host" in trials.why_not


def test_firmware_that_lacks_a_mode_is_told(simulated):
    host = simulated("mixed-vendors")
    with Engine(config(host)) as engine:
        [number] = [number for number, gpu in enumerate(engine.gpus) if gpu.catalog_key == "mi300x"]
    _, facts = told(host, "partition", number)
    assert ("memory modes", ["NPS1", "NPS2", "NPS4"], ["NPS1", "NPS4"]) in facts
