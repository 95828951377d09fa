"""
MPS as a user has it: from the pillar, by hand and as a state, on whole GPUs and beside MIG, and with a failure on the way.
"""

import pytest
import yaml
from salt.exceptions import CommandExecutionError

ONE, OTHER = "0000:41:00.0", "0000:a1:00.0"


@pytest.fixture
def example(repo):
    """The example pillar."""
    return yaml.safe_load((repo / "examples" / "pillar" / "mps.sls").read_text(encoding="utf-8"))


def failures(states):
    return [state.comment for state in states if state.result is False]


def daemons(bench):
    """Folder -> what the daemon there has, of those that run."""
    return bench.host.state().get("mps", {})


def names(bench):
    return [part["name"] for part in bench.call("gpu.slices")]


def test_a_pillar_is_tested_applied_and_then_met(minion, example):
    bench = minion("l40s-pair", example)
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and daemons(bench) == {} and names(bench) == []
    applied = bench.apply("gpu_slicing")
    assert not failures(applied)
    assert [state.changes for state in tested] == [state.changes for state in applied]
    assert {(one["threads"], one["pinned"]) for one in daemons(bench).values()} == {(25.0, 12288)} and len(daemons(bench)) == 2
    assert names(bench) == [f"{gpu}-mps-{number}" for gpu in (ONE, OTHER) for number in range(1, 5)]
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
    assert "not uid 0 of the host" in bench.call("gpu_slicing.plan")
    bench.set_pillar(bench.call("gpu_slicing.export"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_value_that_a_daemon_refuses_is_undone_and_told(minion, example):
    bench = minion("l40s-pair", {**example, "containers_gpu_state_management": {"on_failure": "host"}})
    bench.host.add_fault({"call": "mps-set", "times": 0, "lie": True})
    applied = bench.apply("gpu_slicing")
    assert any("could not be started" in told for told in failures(applied)) and daemons(bench) == {} and names(bench) == []
    bench.host.clear_faults()
    assert not failures(bench.apply("gpu_slicing")) and len(names(bench)) == 8


def test_by_hand_and_as_a_state(minion):
    bench = minion("l40s-pair")
    assert bench.call("gpu_mps.status", ONE) == {"mps": {}, "daemons": {}}
    planned = bench.call("gpu_mps.configure", ONE, max_instance_count=2, test=True)
    assert planned["changes"] and "result" not in planned and names(bench) == []
    made = bench.call("gpu_mps.configure", ONE, max_instance_count=2, active_thread_percentage=60, pinned_memory_mib=512)
    assert made["result"] is True
    limits = {"clients": 2, "active_thread_percentage": 60.0, "pinned_memory_mib": 512, "protocol": "v2", "daemon": "running"}
    assert bench.call("gpu_mps.status", ONE) == {
        "mps": {ONE: limits},
        "compute_mode": "exclusive process",
        "daemons": {ONE: {"active_thread_percentage": "60.0", "pinned_memory": "512M", "clients": []}},
    }
    removed = bench.call("gpu_mps.remove", ONE)
    assert removed["result"] is True and daemons(bench) == {} and names(bench) == []
    again = bench.call("gpu_mps.remove", ONE)
    assert again["result"] is True and again["changes"] == {}


def test_states_are_met_once(minion):
    bench = minion("l40s-pair")
    for function, given in (("configured", {"max_instance_count": 2}), ("removed", {})):
        state = f"gpu_mps.{function}"
        first, again = bench.state(state, ONE, **given), bench.state(state, ONE, **given)
        assert first.result is True and first.changes and again.result is True and not again.changes
    refused = bench.state("gpu_mps.configured", ONE, slices=2)
    assert refused.result is False and "Unknown argument slices" in refused.comment


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_instance_count": 61}, "it goes from 1 to 60"),
        ({"max_instance_count": "many"}, "a whole number from 1 to 60 is wanted"),
        ({"active_thread_percentage": 101}, "it goes from 0 to 100"),
        ({"pinned_memory_mib": -1}, "it goes from 0 to"),
        ({"exclusive": "yes"}, "true or false"),
        ({"profiles": "1g.10gb"}, "a list is wanted"),
        ({"weights": [2, 1], "max_instance_count": 3}, "max_instance_count is 3, and weights has 2 numbers"),
        ({"weights": ["a lot"]}, "a whole number from 1 to 100 is wanted"),
        ({"protocol": "v3"}, "protocol v3, which came with driver 615, and the driver here is 590"),
        ({"profiles": ["1g.10gb"]}, "MIG devices of 1g.10gb are to be shared, and the GPU has none"),
        ({"test": "yes"}, "True or False is wanted"),
    ],
)
def test_a_wrong_argument_is_a_sentence(minion, given, told):
    with pytest.raises(CommandExecutionError, match=told):
        minion("l40s-pair").call("gpu_mps.configure", ONE, **given)


def test_an_older_driver_allows_fewer_clients(minion):
    with pytest.raises(CommandExecutionError, match="60 consumers are to share .* this driver allows 48 clients. .* at most 48"):
        minion("l4-pair").call("gpu_mps.configure", ONE, max_instance_count=60)
    assert minion("l40s-pair").call("gpu_mps.configure", ONE, max_instance_count=60)["result"] is True


@pytest.mark.parametrize("version", ["590.44.01", "615.71.05"])
def test_parts_by_weight_from_a_pillar(minion, repo, version):
    example = yaml.safe_load((repo / "examples" / "pillar" / "mps_weights.sls").read_text(encoding="utf-8"))
    bench = minion("l40s-pair", example, {"driver": {"version": version}})
    tested, applied = bench.apply("gpu_slicing", test=True), bench.apply("gpu_slicing")
    assert not failures(tested) and not failures(applied)
    assert [state.changes for state in tested] == [state.changes for state in applied]
    assert not any(state.changes for state in bench.apply("gpu_slicing"))
    has = {name: each["slices"] for name, each in bench.call("gpu_consumer.list").items()}
    assert has == {"batch": [f"{ONE}-mps-2"], "trainer": [f"{ONE}-mps-1"]}
    told = bench.call("gpu_consumer.environment", "batch")
    by_daemon = version.startswith("615")
    assert told["CUDA_MPS_PIPE_DIRECTORY"].endswith("/shares/client_2") is by_daemon
    assert ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" in told) is not by_daemon
    bench.host.reboot()
    assert bench.call("gpu_boot.replay", wait=0)["result"] is True
    assert bench.call("gpu_slicing.check")["result"] is True and len(daemons(bench)) == 2


def test_devices_of_mig_are_shared_beside_it_and_cut_anew(minion):
    sharing = {"enabled": True, "max_instance_count": 2}
    rule = {"match": {"pci": OTHER}, "strategy": "mig", "mig": {"profiles": ["2g.12gb", "1g.6gb"]}, "mps": sharing}
    bench = minion("a30-pair", {"containers_gpu_slicing": {"enabled": True, "devices": [rule]}})
    tested, applied = bench.apply("gpu_slicing", test=True), bench.apply("gpu_slicing")
    assert not failures(tested) and not failures(applied)
    assert [state.changes for state in tested] == [state.changes for state in applied]
    assert sum("-mps-" in name for name in names(bench)) == 4
    assert bench.call("gpu_slicing.check")["result"] is True
    before = daemons(bench)
    rule["mig"] = {"profiles": ["2g.12gb@0", "2g.12gb@2"]}
    bench.set_pillar({"containers_gpu_slicing": {"enabled": True, "devices": [rule]}})
    assert not failures(bench.apply("gpu_slicing"))
    after = daemons(bench)
    # The daemon of the device that stayed was not touched.
    assert len(after) == 2 and [one for one in after.values() if one in before.values()] == [
        one for folder, one in before.items() if "2g.12gb-0" in folder
    ]
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_boot_brings_daemons_back_on_the_devices_of_then(minion):
    sharing = {"enabled": True, "max_instance_count": 2}
    rule = {"match": {"pci": OTHER}, "strategy": "mig", "mig": {"profiles": ["1g.6gb"]}, "mps": sharing}
    bench = minion("a30-pair", {"containers_gpu_slicing": {"enabled": True, "devices": [rule]}})
    assert not failures(bench.apply("gpu_slicing"))
    [old] = daemons(bench).values()
    bench.host.reboot()
    assert daemons(bench) == {}
    replayed = bench.call("gpu_boot.replay", wait=0)
    assert replayed["result"] is True, replayed
    [new] = daemons(bench).values()
    [device] = {part["uuid"].split("::")[0] for part in bench.call("gpu.slices") if "-mps-" in part["name"]}
    assert new["device"] == device != old["device"] and (new["threads"], new["pinned"]) == (old["threads"], old["pinned"])
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_pillar_that_drops_it_tells_so_until_it_is_ended(minion, example):
    bench = minion("l40s-pair", example)
    assert not failures(bench.apply("gpu_slicing"))
    bench.set_pillar({"containers_gpu_slicing": {"enabled": True, "strategy": "none"}})
    applied = bench.apply("gpu_slicing")
    told = "'salt-call gpu_mps.remove <GPU>' ends it"
    assert not failures(applied) and not any(state.changes for state in applied)
    assert any(told in state.comment for state in applied) and len(names(bench)) == 8
    for address in (ONE, OTHER):
        assert bench.call("gpu_mps.remove", address)["result"] is True
    assert told not in bench.call("gpu_slicing.plan") and names(bench) == []


@pytest.mark.parametrize(("first", "second"), [("gpu_mps", "gpu_time_slicing"), ("gpu_time_slicing", "gpu_mps")])
def test_what_is_shared_in_one_way_is_not_shared_in_another(minion, first, second):
    bench = minion("l40s-pair")
    assert bench.call(f"{first}.configure", ONE)["result"] is True
    refused = bench.call(f"{second}.configure", ONE)
    assert refused["result"] is False and f"End that first: 'salt-call {first}.remove {ONE}'" in str(refused)
    assert bench.call(f"{first}.remove", ONE)["result"] is True
    assert bench.call(f"{second}.configure", ONE)["result"] is True
