"""
Time-slicing as a user has it: from the pillar, by hand and as a state, on whole GPUs and beside MIG, and with a failure on the
way.
"""

import pytest
import yaml
from salt.exceptions import CommandExecutionError

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"


@pytest.fixture
def example(repo):
    """The example pillar."""
    return yaml.safe_load((repo / "examples" / "pillar" / "time_slicing.sls").read_text(encoding="utf-8"))


def failures(states):
    return [state.comment for state in states if state.result is False]


def turns(bench, address=ONE):
    """The time-slice step of a GPU by number."""
    return bench.host.state()["gpus"][address].get("compute", {"step": 0})["step"]


def names(bench):
    return [part["name"] for part in bench.call("gpu.slices")]


def test_a_pillar_is_tested_applied_and_then_met(minion, example):
    bench = minion("l4-pair", example)
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and turns(bench) == 0 and names(bench) == []
    applied = bench.apply("gpu_slicing")
    assert not failures(applied) and turns(bench) == turns(bench, OTHER) == 2
    assert [state.changes for state in tested] == [state.changes for state in applied]
    assert names(bench) == [f"{gpu}-replica-{number}" for gpu in (ONE, OTHER) for number in range(1, 5)]
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
    assert "advisory" in bench.call("gpu_slicing.plan") and "medium" in bench.call("gpu_slicing.plan")
    bench.set_pillar(bench.call("gpu_slicing.export"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_failure_is_undone_and_told(minion, example):
    bench = minion("l4-pair", {**example, "containers_gpu_state_management": {"on_failure": "host"}})
    # Each of the first two runs of nvidia-smi is the list, of the plan and under the lock.
    bench.host.add_fault({"call": "run", "nth": 4, "error": "EIO"})
    applied = bench.apply("gpu_slicing")
    assert failures(applied) and (turns(bench), turns(bench, OTHER)) == (0, 0) and names(bench) == []
    bench.host.clear_faults()
    assert not failures(bench.apply("gpu_slicing")) and len(names(bench)) == 8


def test_by_hand_and_as_a_state(minion):
    bench = minion("l4-pair")
    assert bench.call("gpu_time_slicing.status", ONE) == {"replicas": {}}
    planned = bench.call("gpu_time_slicing.configure", ONE, max_instance_count=2, slice_duration="5ms", test=True)
    assert planned["changes"] and "result" not in planned and names(bench) == []
    made = bench.call("gpu_time_slicing.configure", ONE, max_instance_count=2, slice_duration="500us")
    assert made["result"] is True and turns(bench) == 1
    assert bench.call("gpu_time_slicing.status", ONE) == {
        "replicas": {ONE: 2}, "turns": "compute mode default, time slice short",
    }  # fmt: skip
    removed = bench.call("gpu_time_slicing.remove", ONE)
    assert removed["result"] is True and turns(bench) == 0 and names(bench) == []
    again = bench.call("gpu_time_slicing.remove", ONE)
    assert again["result"] is True and again["changes"] == {}


def test_states_are_met_once(minion):
    bench = minion("l4-pair")
    for function, given in (("configured", {"max_instance_count": 2}), ("removed", {})):
        state = f"gpu_time_slicing.{function}"
        first, again = bench.state(state, ONE, **given), bench.state(state, ONE, **given)
        assert first.result is True and first.changes and again.result is True and not again.changes
    refused = bench.state("gpu_time_slicing.configured", ONE, slices=2)
    assert refused.result is False and "Unknown argument slices" in refused.comment


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_instance_count": 65}, "it goes from 1 to 64"),
        ({"max_instance_count": "many"}, "a whole number from 1 to 64 is wanted"),
        ({"slice_duration": "long"}, "a duration like 100ms or 1s is wanted"),
        ({"slice_duration": "0ms"}, "slice_duration is no time at all. Give a duration above 0, such as 100ms."),
        ({"profiles": "1g.10gb"}, "a list is wanted"),
        ({"test": "yes"}, "True or False is wanted"),
    ],
)
def test_a_wrong_argument_is_a_sentence(minion, given, told):
    with pytest.raises(CommandExecutionError, match=told):
        minion("l4-pair").call("gpu_time_slicing.configure", ONE, **given)


def test_devices_of_mig_are_shared_beside_it(minion):
    sharing = {"enabled": True, "max_instance_count": 2, "profiles": ["1g.6gb"]}
    rule = {"match": {"pci": OTHER}, "strategy": "mig", "mig": {"profiles": ["2g.12gb", "1g.6gb"]}, "time_slicing": sharing}
    bench = minion("a30-pair", {"containers_gpu_slicing": {"enabled": True, "devices": [rule]}})
    tested, applied = bench.apply("gpu_slicing", test=True), bench.apply("gpu_slicing")
    assert not failures(tested) and not failures(applied)
    assert [state.changes for state in tested] == [state.changes for state in applied]
    mine = [name for name in names(bench) if name.startswith(OTHER)]
    assert len(mine) == 3 and sum("replica" in name for name in mine) == 2
    assert bench.call("gpu_slicing.check")["result"] is True
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_pillar_that_drops_it_tells_so_until_it_is_ended(minion, example):
    bench = minion("l4-pair", example)
    assert not failures(bench.apply("gpu_slicing"))
    bench.set_pillar({"containers_gpu_slicing": {"enabled": True, "strategy": "none"}})
    applied = bench.apply("gpu_slicing")
    assert not failures(applied) and not any(state.changes for state in applied)
    told = "'salt-call gpu_time_slicing.remove <GPU>' ends it"
    assert any(told in state.comment for state in applied) and told in bench.call("gpu_slicing.plan")
    assert len(names(bench)) == 8 and set(bench.call("gpu.map")) == {ONE, OTHER}
    for address in (ONE, OTHER):
        assert bench.call("gpu_time_slicing.remove", address)["result"] is True
    assert told not in bench.call("gpu_slicing.plan") and names(bench) == [] and bench.call("gpu.map") == {}


def test_no_view_shows_what_is_shared_of_devices_that_are_gone(minion):
    bench = minion("a30-pair")
    assert bench.call("gpu_mig.apply_layout", OTHER, ["1g.6gb", "1g.6gb"])["result"] is True
    assert bench.call("gpu_time_slicing.configure", OTHER, max_instance_count=2)["result"] is True
    assert len(bench.call("gpu_time_slicing.status", OTHER)["replicas"]) == 2
    assert bench.call("gpu_mig.apply_layout", OTHER, ["4g.24gb"])["result"] is True
    assert bench.call("gpu_time_slicing.status", OTHER) == {"replicas": {}}
    assert "among" not in bench.call("gpu.map")[OTHER] and not any("replica" in name for name in names(bench))
    bench.set_pillar(bench.call("gpu_slicing.export"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))
