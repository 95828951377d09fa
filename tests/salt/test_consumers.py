"""
Consumers through Salt's own loaders: the example pillar, functions by hand, states.
"""

import json

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.support import stages

FIRST, SECOND = "0000:1b:00.0", "0000:43:00.0"
HAS = {
    "ada": f"{FIRST}-2g.20gb-0",
    "assistant": f"{FIRST}-3g.40gb-4",
    "builds": f"{FIRST}-1g.10gb-2",
    "trainer": f"{SECOND}-3g.40gb-4",
}
SLICES, CONSUMERS = "/run/cdi/gpu-slicing-slice.json", "/run/cdi/gpu-slicing-consumer.json"
DROP_IN = "/etc/systemd/system/trainer.service.d/50-gpu-slicing.conf"
FILES = {
    SLICES, CONSUMERS, DROP_IN, "/etc/containers/systemd/gpu-slicing-assistant.container",
    "/etc/systemd/system/user-1000.slice.d/50-gpu-slicing.conf", "/etc/systemd/system/user@1000.service.d/50-gpu-slicing.conf",
    "/etc/profile.d/gpu-slicing-1000.sh",
}  # fmt: skip
#: One GPU of the host, cut, so that calls by hand are quick.
CUT = {"gpus": [{"model": "h100-80gb", "address": FIRST, "mig": "enabled", "instances": ["3g.40gb@4", "1g.10gb@0", "1g.10gb@1"]}]}
INTEGRATION = "containers_gpu_container_integration"


@pytest.fixture
def example(repo):
    """The example pillar."""
    return yaml.safe_load((repo / "examples" / "pillar" / "consumers.sls").read_text(encoding="utf-8"))


@pytest.fixture
def hand(minion):
    """A minion without a pillar on a host with three slices."""
    return minion("dgx-h100", changes=CUT)


def failures(states):
    return [state.comment for state in states if state.result is False]


def written(bench):
    """The files of consumers that the host has: all that were written but for the unit of the boot."""
    return {path for path in bench.host.state()["written"] if not path.endswith("/gpu-slicing.service")}


def uuids(bench):
    return {part["name"]: part["uuid"] for part in bench.call("gpu.slices")}


def names(bench, path=CONSUMERS):
    """CDI name without its kind -> variables of the file."""
    return {each["name"]: each["containerEdits"].get("env", []) for each in json.loads(bench.host.read(path))["devices"]}


# -- the pillar ----------------------------------------------------------------------------------------------------------
def test_a_pillar_is_tested_handed_out_and_then_met_without_a_program(minion, example):
    bench = minion("dgx-h100", example)
    untouched = stages.machine(bench.host)
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and stages.machine(bench.host) == untouched and not (bench.state_dir / "consumers.json").exists()
    assert [(state.result, state.comment) for state in tested][3] == (None, "Will be looked at after the change.")

    applied = bench.apply("gpu_slicing")
    assert not failures(applied) and [state.changes for state in tested] == [state.changes for state in applied]
    assert applied[1].changes["consumers"] == {name: f"none -> {part}" for name, part in HAS.items()}
    assert written(bench) == FILES and len(names(bench, SLICES)) == 32 and set(names(bench)) == set(HAS)
    assert bench.host.state()["starts"] == {"gpu-slicing-assistant.service": 1, "trainer.service": 1}

    settled = stages.machine(bench.host)
    for fault in stages.counters():
        bench.host.add_fault(fault)
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
        assert "Consumers: already as wanted; 4 consumers" in again[1].comment
    assert stages.counted(bench.host) == {}
    bench.host.clear_faults()
    assert stages.machine(bench.host) == settled


def test_each_of_them_is_given_exactly_its_slice(minion, example):
    bench = minion("dgx-h100", example)
    assert not failures(bench.apply("gpu_slicing"))
    made = uuids(bench)
    for consumer, name in HAS.items():
        assert names(bench)[consumer] == names(bench, SLICES)[name] == [f"CUDA_VISIBLE_DEVICES={made[name]}"]
    assert f"Environment=CUDA_VISIBLE_DEVICES={made[HAS['trainer']]}" in bench.host.read(DROP_IN).splitlines()
    quadlet = bench.host.read("/etc/containers/systemd/gpu-slicing-assistant.container").splitlines()
    assert "AddDevice=gpu-slicing/consumer=assistant" in quadlet and "Secret=assistant-token" in quadlet
    # What the pillar says of this consumer goes before what it says of all containers.
    assert "MemoryMax=64G" in quadlet and "CPUQuota=1600%" in quadlet


def test_a_host_that_cant_serve_all_of_them_is_not_begun_with(minion, example):
    example[INTEGRATION]["consumers"]["builds"]["slice"] = "4g.40gb"
    bench = minion("dgx-h100", example)
    stages.refused(bench, {}, "Consumer builds wants profile 4g.40gb, and there is no such slice.", "The nearest is")


def test_a_consumer_that_goes_from_the_pillar_goes_from_the_host(minion, example):
    bench = minion("dgx-h100", example)
    assert not failures(bench.apply("gpu_slicing"))
    for gone in ("assistant", "ada"):
        del example[INTEGRATION]["consumers"][gone]
    bench.set_pillar(example)
    applied = bench.apply("gpu_slicing")
    assert not failures(applied)
    assert "ada is no consumer any more, so that no filter keeps it from any GPU." in applied[1].comment
    assert applied[1].changes == {"consumers": {name: f"{HAS[name]} -> none" for name in ("ada", "assistant")}}
    assert written(bench) == {SLICES, CONSUMERS, DROP_IN} and set(names(bench)) == {"builds", "trainer"}
    assert bench.host.state()["starts"] == {"gpu-slicing-assistant.service": 1, "trainer.service": 1}


def test_a_rollback_brings_back_who_had_what(minion, example):
    bench = minion("dgx-h100", example)
    assert not failures(bench.apply("gpu_slicing"))
    bench.set_pillar({**example, INTEGRATION: {"cdi": {"enabled": False}}})
    assert not failures(bench.apply("gpu_slicing")) and written(bench) == set()
    assert bench.call("gpu_slicing.rollback")["result"] is True
    assert {name: each["slices"] for name, each in bench.call("gpu_consumer.list").items()} == {
        name: [part] for name, part in HAS.items()
    }
    assert written(bench) == FILES


def test_the_stage_of_consumers_finds_a_name_that_leads_nowhere(minion, example):
    bench = minion("dgx-h100", example)
    applied = bench.apply("gpu_slicing")
    assert [state.comment for state in applied][3] == "32 slices have names; 4 consumers have theirs."
    with bench.host.change() as state:
        del state["written"][CONSUMERS]
    told = bench.state("gpu_consumer.reached")
    assert told.result is False and "gpu-slicing/consumer=trainer has no entry in" in told.comment
    tested = bench.state("gpu_consumer.reached", test=True)
    assert tested.result is None and tested.comment == "Will be looked at after the change."
    mended = bench.apply("gpu_slicing")
    assert not failures(mended) and set(names(bench)) == set(HAS)


def test_a_boot_brings_names_back_to_the_same_consumers(minion, example):
    bench = minion("dgx-h100", example)
    assert not failures(bench.apply("gpu_slicing"))
    bench.host.reboot()
    assert written(bench) == FILES - {SLICES, CONSUMERS} and bench.call("gpu.slices") == []
    replayed = bench.call("gpu_boot.replay", wait=0)
    assert replayed["result"] is True and "Consumers: 4 consumers: brought back." in replayed["comment"]
    assert written(bench) == FILES and bench.call("gpu_cdi.audit") == {"result": True, "problems": []}
    assert {name: each["slices"] for name, each in bench.call("gpu_consumer.list").items()} == {
        name: [part] for name, part in HAS.items()
    }
    again = bench.call("gpu_boot.replay", wait=0)
    assert again["result"] is True and "Consumers: 4 consumers: there already." in again["comment"]
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


# -- by hand -------------------------------------------------------------------------------------------------------------
def test_offers_are_told_before_and_after_one_is_given(hand):
    offers = hand.call("gpu_consumer.offers")
    assert [each["name"] for each in offers] == [f"{FIRST}-1g.10gb-0", f"{FIRST}-1g.10gb-1", f"{FIRST}-3g.40gb-4"]
    assert {(each["consumer"], each["cdi"], each["isolation"]) for each in offers} == {("", "", "enforced")}
    assert hand.call("gpu_consumer.list") == {}

    given = hand.call("gpu_consumer.serve", "web", slice="1g.10gb")
    assert given["result"] is True and given["changes"] == {"consumers": {"old": {}, "new": {"web": f"{FIRST}-1g.10gb-0"}}}
    first = hand.call("gpu_consumer.offers")[0]
    assert (first["consumer"], first["cdi"]) == ("web", f"gpu-slicing/slice={FIRST}-1g.10gb-0")


def test_what_limits_a_consumer_is_enforced_or_advisory(hand):
    asked = {"kind": "service", "unit": "trainer.service", "resource_limits": {"memory_gb": 32}, "weight": 2}
    assert hand.call("gpu_consumer.serve", "trainer", **asked)["result"] is True
    assert hand.call("gpu_consumer.list") == {
        "trainer": {
            "kind": "service",
            "slices": [f"{FIRST}-1g.10gb-0"],
            "cdi": "gpu-slicing/consumer=trainer",
            "unit": "trainer.service",
            "user": "",
            "limits": {
                "slice": "enforced by the hardware",
                "devices": "enforced by the control group",
                "memory_gb": "32, enforced by the control group",
                "weight": "2, advisory: nothing here is divided by weight",
            },
        }
    }


def test_the_environment_of_a_consumer_names_its_slice(hand):
    hand.call("gpu_consumer.serve", "web", slice="3g.40gb")
    assert hand.call("gpu_consumer.environment", "web") == {"CUDA_VISIBLE_DEVICES": uuids(hand)[f"{FIRST}-3g.40gb-4"]}
    with pytest.raises(CommandExecutionError, match="There is no consumer batch on this host. It has web."):
        hand.call("gpu_consumer.environment", "batch")


def test_a_test_by_hand_writes_nothing(hand):
    untouched = stages.machine(hand.host)
    planned = hand.call("gpu_consumer.serve", "web", test=True)
    assert planned["changes"] and "result" not in planned and "web: nothing ->" in planned["comment"]
    assert stages.machine(hand.host) == untouched and hand.call("gpu_consumer.list") == {}


def test_who_is_served_by_hand_is_dismissed_by_hand(hand):
    for name in ("web", "batch"):
        assert hand.call("gpu_consumer.serve", name)["result"] is True
    assert hand.call("gpu_consumer.dismiss", "web")["changes"]["consumers"]["old"] == {"web": f"{FIRST}-1g.10gb-0"}
    assert set(hand.call("gpu_consumer.list")) == {"batch"} == set(names(hand))
    with pytest.raises(CommandExecutionError, match="There is no consumer web on this host. It has batch."):
        hand.call("gpu_consumer.dismiss", "web")
    again = hand.call("gpu_consumer.dismiss", "web", missing=True)
    assert again["result"] is True and again["changes"] == {}


def test_a_pillar_without_a_word_of_consumers_leaves_those_of_hand(hand):
    hand.call("gpu_consumer.serve", "web", slice="1g.10gb")
    hand.set_pillar({"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": {"1g.10gb": 7}}}})
    assert not failures(hand.apply("gpu_slicing"))
    assert hand.call("gpu_consumer.list")["web"]["slices"] == [f"{FIRST}-1g.10gb-0"] and len(names(hand, SLICES)) == 7
    hand.set_pillar({"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": ["7g.80gb"]}}})
    refused = failures(hand.apply("gpu_slicing"))
    assert "Consumer web wants profile 1g.10gb" in refused[0] and "gpu_consumer.dismiss" in refused[0]
    assert len(uuids(hand)) == 7


def test_a_pillar_of_names_alone_leaves_those_of_hand_and_names_all_slices(hand):
    hand.call("gpu_consumer.serve", "web", slice="1g.10gb")
    hand.set_pillar({"containers_gpu_slicing": {"enabled": True}, INTEGRATION: {"cdi": {}}})
    applied = hand.apply("gpu_slicing")
    assert not failures(applied) and not any(state.changes for state in applied)
    assert set(hand.call("gpu_consumer.list")) == {"web"} and len(names(hand, SLICES)) == 3
    hand.set_pillar({"containers_gpu_slicing": {"enabled": True}, INTEGRATION: {"consumers": {}}})
    assert hand.apply("gpu_slicing")[1].changes["consumers"] == {"web": f"{FIRST}-1g.10gb-0 -> none"}
    assert hand.call("gpu_consumer.list") == {} and len(names(hand, SLICES)) == 3


def test_templates_alone_hand_nothing_out_and_are_told(hand):
    hand.set_pillar({"containers_gpu_slicing": {"enabled": True}, INTEGRATION: {"templates": {"service": "[Service]"}}})
    assert not failures(hand.apply("gpu_slicing")) and written(hand) == set()
    told = hand.call("gpu_slicing.validate")
    assert told["result"] is True and told["warnings"] == [
        f"{INTEGRATION}:templates: has no effect: nothing is handed out without cdi or consumers."
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"kind": "pod"}, "Valid: container, service, user, device."),
        ({"kind": "service"}, "consumers:web:unit: is missing: it says which service gets the slice, such as trainer.service."),
        ({"kind": "service", "unit": "none.service"}, "handed a slice, and systemd knows no such unit"),
        ({"kind": "user", "user": "eve"}, "Consumer web is of the user eve, and this host has no such user."),
        ({"kind": "user", "user": "root"}, "is root: its slice unit holds all that administrators run"),
        ({"kind": "container"}, "image: is missing: it says what to run, unless unit names a Quadlet unit that exists."),
        ({"slice": {"size": 3}}, "is not a known key. Valid: profile, kind, gpu, memory_mib, name."),
        ({"slice": "2g.20gb"}, "Consumer web wants profile 2g.20gb, and there is no such slice."),
        ({"resource_limits": {"gpu_instances": 4}}, "Consumer web wants 4 slices, and there are 3: "),
        ({"image": "a:1"}, "consumers:web:image: has no meaning for kind device, only for container."),
    ],
)
def test_what_cant_be_meant_is_a_sentence(hand, given, told):
    with pytest.raises(CommandExecutionError) as caught:
        hand.call("gpu_consumer.serve", "web", **given)
    assert told in str(caught.value)
    assert hand.call("gpu_consumer.list") == {} and written(hand) == set()


def test_a_unit_is_one_consumer_only(hand):
    assert hand.call("gpu_consumer.serve", "trainer", kind="service", unit="trainer.service")["result"] is True
    with pytest.raises(CommandExecutionError) as caught:
        hand.call("gpu_consumer.serve", "web", kind="service", unit="trainer.service")
    assert f"Consumers trainer and web both come to {DROP_IN}: a unit or user can be one consumer only." in str(caught.value)
    assert set(hand.call("gpu_consumer.list")) == {"trainer"} and "consumer trainer" in hand.host.read(DROP_IN)


def test_containers_of_one_user_are_several(hand):
    for name in ("web", "batch"):
        served = hand.call("gpu_consumer.serve", name, kind="container", image="localhost/a:1", user="ada")
        assert served["result"] is True
    folder = "/etc/containers/systemd/users/1000"
    assert {f"{folder}/gpu-slicing-web.container", f"{folder}/gpu-slicing-batch.container"} < written(hand)


# -- states --------------------------------------------------------------------------------------------------------------
def test_states_are_met_once(hand):
    for function, given in (("served", {"slice": "3g.40gb"}), ("absent", {})):
        state = f"gpu_consumer.{function}"
        first, again = hand.state(state, "web", **given), hand.state(state, "web", **given)
        assert first.result is True and first.changes and again.result is True and not again.changes
    refused = hand.state("gpu_consumer.served", "web", profile="1g.10gb")
    assert refused.result is False and "Unknown argument profile" in refused.comment


def test_a_state_that_is_tested_serves_nobody(hand):
    tested = hand.state("gpu_consumer.served", "web", test=True)
    assert tested.result is None and tested.changes and hand.call("gpu_consumer.list") == {}
