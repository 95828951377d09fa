"""Kubernetes as Salt has it: what plugins are told, labels, files, and a node that is drained around a change."""

import json

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from tests.support import pillars

GPU = "0000:1b:00.0"
FILE = "/etc/kubernetes/nvidia-device-plugin.yaml"
CUT = {"gpus": [{"model": "h100-80gb", "address": GPU}], "processes": []}


def told(on, vendor="nvidia"):
    [made] = on.call("gpu_kubernetes.plugin_config").values()
    assert json.loads(json.dumps(made)) == made == on.call("gpu_kubernetes.plugin_config", vendor=vendor)[vendor]
    return made


def test_mig_alike_and_mixed_and_what_is_quarantined(minion):
    on = minion("dgx-h100", changes=CUT, pillar=pillars.mig(["1g.10gb"] * 7))
    assert all(state.result for state in on.apply("gpu_slicing"))
    assert told(on)["file"]["flags"]["migStrategy"] == "single" and told(on)["resources"] == {"nvidia.com/gpu": 7}
    on.set_pillar(pillars.mig(["3g.40gb", "1g.10gb"]))
    assert all(state.result for state in on.apply("gpu_slicing"))
    on.call("gpu_health.quarantine", f"{GPU}-3g.40gb-4", why="odd results")
    made = told(on)
    assert made["resources"] == {"nvidia.com/mig-1g.10gb": 1, "nvidia.com/mig-3g.40gb": 1}
    assert f"{GPU}-3g.40gb-4 (quarantined: odd results)" in made["notes"][0]
    assert on.call("gpu_kubernetes.labels")["gpu-slicing/quarantined"] == "1"
    with pytest.raises(CommandExecutionError, match="can be no value of a label"):
        on.call("gpu_kubernetes.labels", config="a b")


@pytest.mark.parametrize(
    ("host", "pillar", "vendor", "resources"),
    [
        ("l4-pair", pillars.for_all("time-slicing", {"max_instance_count": 4}), "nvidia", {"nvidia.com/gpu.shared": 8}),
        ("l40s-pair", pillars.for_all("mps", {"max_instance_count": 4}), "nvidia", {"nvidia.com/gpu.shared": 8}),
        ("mi300x-8", pillars.partition("CPX", "NPS1"), "amd", {"amd.com/gpu": 64}),
        ("flex170", {"containers_gpu_slicing": {"enabled": True}}, "intel", {"gpu.intel.com/i915": 1}),
    ],
)
def test_each_vendor(minion, host, pillar, vendor, resources):
    on = minion(host, pillar=pillar)
    assert all(state.result for state in on.apply("gpu_slicing"))
    assert told(on, vendor)["resources"] == resources


def test_a_host_without_a_gpu(minion):
    on = minion("no-gpu")
    assert on.call("gpu_kubernetes.plugin_config") == {} and on.call("gpu_kubernetes.labels")["gpu-slicing/strategy"] == "none"


def test_the_file_is_a_state_and_stands_the_check(minion):
    on = minion("dgx-h100", changes=CUT)
    tested = on.state("gpu_kubernetes.plugin_config", name=FILE, test=True)
    assert tested.result is None and tested.changes and not on.host.state()["written"]
    made = on.state("gpu_kubernetes.plugin_config", name=FILE, vendor="nvidia")
    assert made.result is True and made.comment == f"{FILE} is written for the device plugin."
    text = on.call("gpu_kubernetes.plugin_config", text=True)
    assert text == on.host.state()["written"][FILE]
    assert on.state("gpu_kubernetes.plugin_config", name=FILE).changes == {}
    assert on.call("gpu_kubernetes.check_config", text) == {"result": True, "mistakes": [], "warnings": []}
    for wrong in ({"name": "x.yaml"}, {"vendor": "amdd"}, {"vender": "amd"}, {"rename": 1}):
        assert on.state("gpu_kubernetes.plugin_config", **{"name": FILE, **wrong}).result is False


def test_a_file_of_a_site_is_judged(minion, tmp_path):
    on = minion("no-gpu")
    wrong = {"version": "v1", "flags": {"migstrategy": "mixed"}, "sharing": {"mps": {"resources": []}}}
    path = tmp_path / "dp.yaml"
    path.write_text(yaml.safe_dump(wrong), encoding="utf-8")
    found = on.call("gpu_kubernetes.check_config", str(path))
    assert found == on.call("gpu_kubernetes.check_config", wrong) and found["result"] is False
    assert [line.partition(": ")[0] for line in found["mistakes"]] == ["flags:migstrategy", "sharing:mps:resources"]
    packed = {"kind": "ConfigMap", "data": {"config.yaml": yaml.safe_dump(wrong)}}
    assert on.call("gpu_kubernetes.check_config", packed) == found
    for source in (7, "/no/such/file", "a: [", "- 1"):
        try:
            assert on.call("gpu_kubernetes.check_config", source)["result"] is False
        except CommandExecutionError as err:
            assert "source" in str(err) or "no file" in str(err) or "YAML" in str(err)


def test_by_the_pillar_the_file_is_a_part_of_the_highstate(minion):
    telling = {"containers_gpu_container_integration": {"kubernetes": {"enabled": True}}}
    on = minion("dgx-h100", changes=CUT, pillar={**pillars.mig(["1g.10gb"] * 2), **telling})
    tested = on.apply("gpu_slicing", test=True)
    assert tested[1].result is None and not on.host.state()["written"]
    assert '+ flags: {"migStrategy": single}' in tested[1].changes["kubernetes"][FILE]
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 3, [state.comment for state in applied]
    assert on.state("gpu_kubernetes.plugin_config", name=FILE).changes == {}
    assert on.state("gpu_kubernetes.plugin_config", name=FILE, rename=False).changes == {}
    assert on.call("gpu_slicing.check")["result"] is True
    with on.host.change() as state:
        state["written"][FILE] += "sharing: {}\n"
    found = on.call("gpu_slicing.check")
    assert found["result"] is False and "- sharing: {}" in json.dumps(found["changes"]) + found["comment"]
    refused = on.state("gpu_kubernetes.plugin_config", name=FILE)
    assert refused.result is False and f"{FILE} is kept by the pillar" in refused.comment
    on.set_pillar({**pillars.mig(["1g.10gb"] * 2), "containers_gpu_container_integration": {"kubernetes": {"enabled": False}}})
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3 and FILE not in on.host.state()["written"]


# -- the cluster -----------------------------------------------------------------------------------------------------------
CONFIG = "/etc/kubernetes/gpu-slicing.kubeconfig"
NODE = {
    "gpus": [{"model": "h100-80gb", "address": "0000:1b:00.0"}], "processes": [], "patience": 0.01,
    "tools": ["nvidia-smi", "kubectl"], "files": {CONFIG: "x"},
    "kubernetes": {
        "allocatable": {"nvidia.com/gpu": "1"}, "offers": {"nvidia.com/gpu": "2"},
        "pods": [{"name": "job"}, {"name": "plugin-1", "namespace": "gpu", "owner": "DaemonSet", "labels": {"app": "plugin"}}],
    },
}  # fmt: skip
HOOKS = {
    "before": [{"function": "gpu_kubernetes.drain", "args": [CONFIG, "MIG layout"]}],
    "after": [{"function": "gpu_kubernetes.resume",
               "kwargs": {"kubeconfig": CONFIG, "labels": True, "plugin": "app=plugin", "namespace": "gpu", "within": 30}}],
}  # fmt: skip


def asked(on):
    lines = [line.split() for line in on.host.state().get("kubernetes", {}).get("asked", ())]
    return [line[0] for line in lines if line[0] != "get"]


def test_a_highstate_drains_cuts_labels_and_takes_back(minion):
    on = minion("dgx-h100", changes=NODE, pillar=pillars.mig(["1g.10gb"] * 2, **HOOKS))
    tested = on.apply("gpu_slicing", test=True)
    assert [state.result for state in tested][1] is None and not asked(on)
    assert "Before it: run gpu_kubernetes.drain (within 60 s)" in tested[1].comment
    applied = on.apply("gpu_slicing")
    assert [state.result for state in applied] == [True] * 3, [state.comment for state in applied]
    assert asked(on) == ["patch", "drain", "apply", "delete", "patch"]
    found = on.call("gpu_kubernetes.node", CONFIG)
    assert found["cordoned"] == "" and found["allocatable"] == {"nvidia.com/gpu": "2"}
    assert found["labels"] == on.call("gpu_kubernetes.labels") and found["labels"]["gpu-slicing/generation"] == "1"
    assert [state.result for state in on.apply("gpu_slicing")] == [True] * 3 and len(asked(on)) == 5


def test_labels_are_a_state_of_their_own(minion):
    on = minion("dgx-h100", changes=NODE)
    tested = on.state("gpu_kubernetes.labelled", name="x", kubeconfig=CONFIG, test=True)
    assert tested.result is None and tested.changes["gpu-slicing/gpu"] == {"old": None, "new": "1"}
    assert on.call("gpu_kubernetes.node", CONFIG)["labels"] == {}
    made = on.state("gpu_kubernetes.labelled", name="x", kubeconfig=CONFIG, config="whole")
    assert made.result is True and made.changes["nvidia.com/device-plugin.config"] == {"old": None, "new": "whole"}
    again = on.state("gpu_kubernetes.labelled", name="x", kubeconfig=CONFIG, config="whole")
    assert again.result is True and again.changes == {} and again.comment == "Node dgx-h100 has our 7 labels."
    for wrong in ({"kubeconfig": "x"}, {"kubeconfig": CONFIG, "node": "N 1"}, {"kubeconfig": CONFIG, "nod": "x"}):
        assert on.state("gpu_kubernetes.labelled", name="x", **wrong).result is False
    assert on.call("gpu_kubernetes.remove_labels", CONFIG)["changes"]["gpu-slicing/gpu"] == {"old": "1", "new": None}
