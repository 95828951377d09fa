"""
Quarantine through Salt's own loaders: what is quarantined by hand is handed to nobody until it is released.
"""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import stages

FIRST = "0000:1b:00.0"
INSTANCES = ["3g.40gb@4", "1g.10gb@0", "1g.10gb@1"]
CUT = {"gpus": [{"model": "h100-80gb", "address": FIRST, "mig": "enabled", "instances": INSTANCES}]}
SMALL, SMALLER = f"{FIRST}-1g.10gb-0", f"{FIRST}-1g.10gb-1"
PILLAR = {
    "containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": INSTANCES}},
    "containers_gpu_container_integration": {
        "consumers": {"trainer": {"kind": "service", "unit": "trainer.service", "slice": "1g.10gb"}}
    },
}


@pytest.fixture
def bench(minion):
    """A minion whose trainer has the first of two equal slices."""
    made = minion("dgx-h100", PILLAR, changes={**CUT, "units": ["trainer.service"]})
    assert all(state.result for state in made.apply("gpu_slicing"))
    assert has(made) == [SMALL]
    return made


def has(bench):
    return bench.call("gpu_consumer.list")["trainer"]["slices"]


def test_a_consumer_moves_off_what_is_quarantined_until_it_is_released(bench):
    before = stages.machine(bench.host)
    tested = bench.call("gpu_health.quarantine", SMALL, why="wrong results", test=True)
    assert "result" not in tested and stages.machine(bench.host) == before and bench.call("gpu_health.quarantined") == {}

    made = bench.call("gpu_health.quarantine", SMALL, why="wrong results")
    assert made["result"] is True and made["changes"] == tested["changes"] and has(bench) == [SMALLER]
    told = bench.call("gpu_health.quarantined")[SMALL]
    assert (told["by"], told["scope"], told["why"], told["released_by"]) == ("hand", "slice", "wrong results", "hand")
    assert {each["name"] for each in bench.call("gpu_consumer.offers")} == {SMALLER, f"{FIRST}-3g.40gb-4"}
    assert [each["name"] for each in bench.call("gpu.slices") if each.get("quarantined")] == [SMALL]
    lines = bench.call("gpu.table").splitlines()
    assert [line.split()[0] for line in lines if "quarantined" in line] == [SMALL]

    settled = stages.machine(bench.host)
    assert bench.call("gpu_health.quarantine", SMALL)["changes"] == {}
    again = bench.apply("gpu_slicing")
    assert all(state.result and not state.changes for state in again) and stages.machine(bench.host) == settled

    tested = bench.call("gpu_health.release", SMALL, test=True)
    assert set(tested["changes"]) == {SMALL} and stages.machine(bench.host) == settled
    released = bench.call("gpu_health.release", SMALL)
    assert released["result"] is True and has(bench) == [SMALLER] and bench.call("gpu_health.quarantined") == {}


def test_who_stays_on_what_is_quarantined_is_told(bench):
    made = bench.call("gpu_health.quarantine", FIRST)
    assert made["result"] is True and f"Consumer trainer stays on {SMALL}, which is quarantined" in made["comment"]
    assert bench.call("gpu_consumer.list")["trainer"]["quarantined"] == [SMALL]
    missing = bench.call("gpu_consumer.check", "trainer")["missing"]
    assert any(f"{SMALL} is quarantined, and trainer stays on it" in each for each in missing)
    assert bench.call("gpu_consumer.offers") == []


def test_what_is_not_here_is_refused_in_a_sentence(bench):
    for function in ("gpu_health.quarantine", "gpu_health.release"):
        with pytest.raises(CommandExecutionError, match="No slice of this host is called"):
            bench.call(function, f"{FIRST}-7g.80gb-0")
    with pytest.raises(CommandExecutionError, match="why is"):
        bench.call("gpu_health.quarantine", FIRST, why="two\nlines")


OTHER = "0000:43:00.0"


@pytest.fixture
def pair(minion):
    """Two boards of which the trainer has a slice of the first, and what fails is quarantined."""
    gpus = [{**CUT["gpus"][0], "address": address} for address in (FIRST, OTHER)]
    management = {"containers_gpu_state_management": {"health": {"on_failed": "quarantine"}}}
    made = minion("dgx-h100", {**PILLAR, **management}, changes={"gpus": gpus, "units": ["trainer.service"]})
    assert all(state.result for state in made.apply("gpu_slicing"))
    assert has(made) == [SMALL]
    return made


def stage(bench, test=False):
    bench.host.let_pass(60)
    [state] = bench.apply("gpu_slicing.health", test=test)
    return state


def test_what_failed_is_quarantined_by_the_stage_and_released_when_it_is_well_again(pair):
    assert stage(pair).result is True and pair.call("gpu_health.quarantined") == {}
    pair.host.set_recovery_action(FIRST, "gpu_reset")
    tested = stage(pair, test=True)
    assert tested.result is False and FIRST in tested.changes and has(pair) == [SMALL]
    done = stage(pair)
    assert done.result is False and "the driver asks for a GPU reset" in done.comment and FIRST in done.changes
    assert done.comment.count("asks for a GPU reset") == 1 and f"GPU {FIRST} is quarantined." in done.comment
    assert has(pair) == [f"{OTHER}-1g.10gb-0"] and pair.call("gpu_health.quarantined")[FIRST]["by"] == "policy"
    assert stage(pair).changes == {}
    pair.host.set_recovery_action(FIRST, "none")
    for _ in range(2):
        again = stage(pair)
        assert again.changes == {} and FIRST in pair.call("gpu_health.quarantined")
    released = stage(pair)
    assert released.result is True and FIRST in released.changes and pair.call("gpu_health.quarantined") == {}
    # Whoever moved stays.
    assert has(pair) == [f"{OTHER}-1g.10gb-0"] and stage(pair).changes == {}
