"""
What a node of Kubernetes goes through, told once: the simulated kubectl and a real API server have to answer it alike. A story
takes a world: the simulated one is here, the real one in tests/parts/test_kube_real.py.
"""

from functools import partial

import pytest

from gpuslice import errors
from gpuslice.drivers import kubectl as control
from gpuslice.engine import Engine
from gpuslice.schedulers import kubernetes_node
from gpuslice.techniques.toolbox import Toolbox
from tests.support import hosts
from tests.support import pillars

GPU = "0000:1b:00.0"
GPUS = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": "0000:43:00.0"}]
LAYOUT = "gpu-slicing/layout"
PLUGIN = "app=plugin"
CONFIG = "/etc/kubernetes/gpu-slicing.kubeconfig"


class World:
    """A node ``n1`` with two GPUs, as all worlds have it."""

    host = None
    kubeconfig = CONFIG

    def engine(self):
        made = Engine(hosts.config(self.host))
        made.host, made.tools = self.host, Toolbox(self.host)
        return made

    def on(self, function, *args, **more):
        """A function of the scheduler's module."""
        with self.engine() as engine:
            return function(engine, self.kubeconfig, *args, **{"node": "n1", **more})

    def __getattr__(self, name):
        return partial(self.on, getattr(kubernetes_node, name))

    def found(self):
        return control.node(control.Api(self.host, self.kubeconfig), "n1")

    def cut(self, *profiles):
        assert hosts.apply(self.host, pillars.rules(pillars.mig_rule(GPU, list(profiles)))).ok

    @property
    def mark(self):
        return self.found().mark

    @property
    def cordoned(self):
        return self.found().cordoned

    @property
    def ours(self):
        return {key: value for key, value in self.found().labels.items() if key.startswith("gpu-slicing/")}


class Simulated(World):
    """The simulated kubectl; :param made: fixture that makes hosts."""

    def __init__(self, made):
        self.host = made("dgx-h100", gpus=GPUS, processes=[], patience=0.01, tools=["nvidia-smi", "kubectl"], files={CONFIG: "x"},
                         kubernetes={"node": "n1", "user": "slicer"})  # fmt: skip

    def change(self, **keys):
        with self.host.change() as state:
            if "kubernetes" not in state:
                from gpuslice.sim import kubectl

                state["kubernetes"] = kubectl._made(state["host"])
            cluster = state["kubernetes"]
            cluster["version"] += 1
            for key, value in keys.items():
                if isinstance(cluster[key], dict):
                    cluster[key] |= value
                elif isinstance(cluster[key], list):
                    cluster[key] += value
                else:
                    cluster[key] = value

    def label(self, key, value, who):
        self.change(labels={key: value}, owners={key: [[who, "Update"]]})

    def cordon(self, who):
        self.change(cordoned=who, by=who)

    def uncordon(self):
        self.change(cordoned="", by="")

    def pod(self, name, namespace="default", owner="ReplicaSet", emptydir=False, budget=False, labels=None):
        made = {"name": name, "namespace": namespace, "owner": owner, "emptydir": emptydir, "budget": budget, "crashes": False}
        self.change(pods=[{**made, "labels": labels or {}, "uid": f"{namespace}-{name}"}], next=100)

    def pods(self):
        return sorted(f"{pod['namespace']}/{pod['name']}" for pod in self.host.state()["kubernetes"]["pods"])

    def offers(self, now, then):
        self.change(allocatable=now, offers=then)

    def forbid(self):
        self.change(forbidden=["patch nodes"])

    def stranger(self):
        self.change(server="stranger")

    def away(self):
        self.change(server="away")


# -- labels ----------------------------------------------------------------------------------------------------------------
def labels_are_applied_and_read_back_and_go_with_their_layout(world):
    world.cut("3g.40gb", "1g.10gb")
    made = world.apply_labels(config="mig-mixed", dcm_profile="cpx")
    assert made["result"] and made["comment"] == f"Node n1 has our {len(made['changes'])} labels."
    assert made["changes"]["gpu-slicing/mig-3g.40gb"] == {"old": None, "new": "1"}
    assert world.found().labels["nvidia.com/device-plugin.config"] == "mig-mixed"
    assert world.node()["labels"] == {key: each["new"] for key, each in sorted(made["changes"].items())}
    version = world.found().version
    assert world.apply_labels(config="mig-mixed", dcm_profile="cpx")["changes"] == {} and world.found().version == version

    world.cut("1g.10gb", "1g.10gb")
    tested = world.apply_labels(test=True)
    assert "result" not in tested and tested["changes"]["gpu-slicing/mig-3g.40gb"] == {"old": "1", "new": None}
    assert world.found().version == version
    assert world.apply_labels()["changes"] == tested["changes"]
    assert "gpu-slicing/mig-3g.40gb" not in world.found().labels and "nvidia.com/device-plugin.config" not in world.found().labels
    assert world.ours["gpu-slicing/mig-1g.10gb"] == "2"


def a_label_of_another_manager_is_refused_named_and_taken_only_by_force(world):
    world.label(LAYOUT, "abc", "somebody")
    world.label("gpu-slicing/health", "odd", "somebody")
    with pytest.raises(errors.ForeignChange) as refused:
        world.apply_labels()
    assert "has labels of another field manager with other values: " in refused.value.what
    assert LAYOUT in refused.value.what and "gpu-slicing/health" in refused.value.what and "'somebody'" in refused.value.what
    assert world.ours == {LAYOUT: "abc", "gpu-slicing/health": "odd"} and world.node()["others"][LAYOUT] == "somebody"
    with pytest.raises(errors.ForeignChange):
        world.apply_labels(test=True)
    assert world.apply_labels(force=True)["changes"][LAYOUT]["old"] == "abc"
    assert world.node()["others"] == {} and world.apply_labels()["changes"] == {}


def one_label_of_another_manager_is_named_too(world):
    world.label(LAYOUT, "abc", "some body")
    with pytest.raises(errors.ForeignChange, match=f"other values: {LAYOUT} of 'some body'. Have it give them up"):
        world.apply_labels()


def our_labels_are_removed_and_those_of_others_stay(world):
    world.apply_labels()
    world.label("site/pool", "a", "somebody")
    tested = world.remove_labels(test=True)
    assert "result" not in tested and len(world.ours) == len(tested["changes"])
    assert world.remove_labels()["result"] and world.ours == {}
    assert world.found().labels["site/pool"] == "a" and world.remove_labels()["changes"] == {}


def what_is_no_label_is_refused_by_the_server(world):
    before = world.found()
    for labels in ({"gpu-slicing/x": "a b"}, {"gpu-slicing/x": "a" * 64}):
        with pytest.raises(errors.PolicyError, match="takes that for invalid: The Node \"n1\" is invalid: metadata.labels"):
            control.apply(control.Api(world.host, world.kubeconfig), before, labels, False, False)
    assert world.found().labels == before.labels


# -- who is asked ----------------------------------------------------------------------------------------------------------
def who_may_not_is_told_what(world):
    world.forbid()
    why = "user (slicer|reader) may not patch nodes. Grant that .examples/kubernetes/rbac.yaml"
    for function in (world.apply_labels, world.drain):
        with pytest.raises(errors.PermissionDenied, match=why):
            function()
    assert world.ours == {} and not world.cordoned


def who_is_not_known_is_told_so(world):
    world.stranger()
    why = "how node n1 is, and the API server does not know who asks. Renew the credentials in /"
    for function in (world.apply_labels, world.drain, world.resume, world.node):
        with pytest.raises(errors.PermissionDenied, match=why):
            function()


def a_node_and_a_context_that_are_none_are_told(world):
    for function in (world.apply_labels, world.drain, world.resume, world.node):
        with pytest.raises(errors.DeviceNotFound, match="how node n2 is, and the cluster has no node of that name. Give its"):
            function(node="n2")
        with pytest.raises(errors.PolicyError, match=r"the kubeconfig /\S+ has no context other. Give one of it"):
            function(context="other")


def a_node_that_was_changed_meanwhile_is_not_cordoned(world):
    before = world.found()
    world.label("site/pool", "b", "somebody")
    with pytest.raises(control.Stale):
        control.cordon(control.Api(world.host, world.kubeconfig), before, "why")
    assert not world.cordoned


def a_server_that_is_away_is_told(world):
    world.apply_labels()
    world.drain()
    world.away()
    for function in (world.apply_labels, world.remove_labels, world.drain, world.resume, world.node):
        with pytest.raises(errors.ToolFailed, match="how node n1 is, and the API server can't be reached: .*Mend the way to it"):
            function()


# -- around a change -------------------------------------------------------------------------------------------------------
def a_drain_evicts_and_marks_and_a_resume_takes_back(world):
    world.pod("job")
    world.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    tested = world.drain("MIG layout", test=True)
    assert "result" not in tested and tested["comment"] == "Node n1 would be drained; evicted would be: default/job."
    assert not world.cordoned and world.pods() == ["default/job", "kube-system/plugin-1"]
    made = world.drain("MIG layout")
    assert made["result"] and made["changes"] == {"n1": {"old": "schedulable", "new": "cordoned by gpu-slicing"}}
    assert made["comment"] == "Node n1 is drained; evicted: default/job." and world.pods() == ["kube-system/plugin-1"]
    assert world.cordoned and world.mark.startswith("MIG layout (") and world.node()["ours"]
    again = world.drain("another")
    assert again["result"] and not again["changes"] and "cordoned already (gpu-slicing: MIG layout (" in again["comment"]
    assert "result" not in world.resume(test=True) and world.cordoned
    assert world.resume()["changes"] == {"n1": {"old": "cordoned by gpu-slicing", "new": "schedulable"}}
    assert not world.cordoned and world.mark == ""
    assert world.resume() == {"result": True, "changes": {}, "comment": "Node n1 takes pods already."}


def a_cordon_of_somebody_else_stays(world):
    world.cordon("admin-tool")
    made = world.drain()
    assert made["result"] and made["changes"] == {} and world.mark == "", made
    assert "cordoned already (admin-tool)" in made["comment"]
    back = world.resume()
    assert back["result"] and world.cordoned
    assert back["comment"] == "Node n1 stays cordoned, which somebody else wants: admin-tool."


def a_cordon_that_was_made_anew_by_somebody_else_is_no_longer_ours(world):
    world.drain()
    world.uncordon()
    world.cordon("admin-tool")
    assert world.mark and not world.node()["ours"] and world.node()["cordoned"] == "admin-tool"
    assert "somebody else wants" in world.resume()["comment"] and world.cordoned and world.mark == ""
    world.uncordon()
    world.drain()
    world.uncordon()
    assert world.resume()["comment"] == "Node n1 takes pods already." and world.mark == ""


def a_budget_keeps_a_pod_and_the_node_is_uncordoned(world):
    world.pod("served", budget=True)
    made = world.drain(within=2)
    assert made == {
        "result": False, "changes": {},
        "comment": "Node n1 was to have no pods within 2 s: a disruption budget keeps default/served. It was uncordoned again.",
    }  # fmt: skip
    assert not world.cordoned and world.mark == "" and world.pods() == ["default/served"]
    world.cordon("admin-tool")
    assert world.drain(within=2)["comment"].endswith("served. It stays cordoned, as it was before (admin-tool).")
    assert world.cordoned


def what_needs_consent_is_named_and_nothing_is_evicted(world):
    world.pod("lone", owner="none")
    world.pod("data", emptydir=True)
    world.pod("plain")
    for test in (True, False):
        made = world.drain(test=test)
        assert made["result"] is False and not world.cordoned and len(world.pods()) == 3
        assert "nothing would make default/lone anew (force=True ends it all the same)" in made["comment"]
        assert "default/data would lose what is in an emptyDir (delete_emptydir_data=True allows that)" in made["comment"]
    assert "data" not in world.drain(delete_emptydir_data=True)["comment"] and len(world.pods()) == 3
    assert world.drain(delete_emptydir_data=True, force=True)["result"] and world.pods() == []


def only_chosen_pods_go(world):
    world.pod("gpu", labels={"gpu": "yes"})
    world.pod("other")
    assert world.drain(pod_selector="gpu=yes")["result"] and world.pods() == ["default/other"]


def the_plugin_is_started_anew_and_its_slices_are_waited_for(world):
    world.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    world.pod("other-1", "kube-system", "DaemonSet", labels={"app": "other"})
    world.offers({"nvidia.com/gpu": "2", "cpu": "4"}, {"nvidia.com/mig-1g.10gb": "3", "nvidia.com/gpu": "1"})
    world.drain()
    world.cut("1g.10gb", "1g.10gb", "1g.10gb")
    tested = world.resume(plugin=PLUGIN, within=10, test=True)
    assert "kube-system/plugin-1 would be ended, to be made anew." in tested["comment"] and "kube-system/plugin-1" in world.pods()
    made = world.resume(labels=True, plugin=PLUGIN, within=10)
    assert made["result"], made
    assert made["changes"]["kube-system/plugin-1"] == {"old": "running", "new": "restarted"}
    assert world.ours["gpu-slicing/mig-1g.10gb"] == "3" and not world.cordoned
    assert "kube-system/plugin-1" not in world.pods() and "kube-system/other-1" in world.pods() and len(world.pods()) == 2
    assert world.node()["allocatable"]["nvidia.com/mig-1g.10gb"] == "3"
    assert world.resume(labels=True, plugin=PLUGIN, within=10)["changes"] == {}


def a_plugin_that_gives_out_something_else_keeps_the_node_cordoned(world):
    world.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    world.offers({"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": "2"})
    world.drain()
    world.cut("1g.10gb")
    made = world.resume(plugin=PLUGIN, within=1)
    assert made["result"] is False and world.cordoned
    assert (
        "Node n1 was to have its slices for pods within 1 s: nvidia.com/gpu is 2 and not 1; nvidia.com/mig-1g.10gb is 0 and not "
        "1. See the device plugin's log. Node n1 stays cordoned until gpu_kubernetes.resume is called again."
    ) in made["comment"]


def a_plugin_that_is_not_there_or_no_daemon_set_is_told(world):
    world.drain()
    made = world.resume(plugin="app=absent")
    assert made["result"] is False and world.cordoned
    assert "no pod of app=absent is there in namespace kube-system" in made["comment"]
    world.pod("mine", "kube-system", "ReplicaSet", labels={"app": "absent"})
    made = world.resume(plugin="app=absent")
    assert made["result"] is False and "kube-system/mine" in world.pods()
    assert "kube-system/mine is of no DaemonSet" in made["comment"]


def labels_that_are_refused_keep_the_node_cordoned(world):
    world.drain()
    world.label(LAYOUT, "abc", "somebody")
    made = world.resume(labels=True)
    assert made["result"] is False and world.cordoned
    assert "of 'somebody'" in made["comment"] and "stays cordoned until" in made["comment"]


STORIES = [
    labels_are_applied_and_read_back_and_go_with_their_layout,
    a_label_of_another_manager_is_refused_named_and_taken_only_by_force,
    one_label_of_another_manager_is_named_too,
    our_labels_are_removed_and_those_of_others_stay,
    what_is_no_label_is_refused_by_the_server,
    who_may_not_is_told_what,
    who_is_not_known_is_told_so,
    a_node_and_a_context_that_are_none_are_told,
    a_node_that_was_changed_meanwhile_is_not_cordoned,
    a_drain_evicts_and_marks_and_a_resume_takes_back,
    a_cordon_of_somebody_else_stays,
    a_cordon_that_was_made_anew_by_somebody_else_is_no_longer_ours,
    a_budget_keeps_a_pod_and_the_node_is_uncordoned,
    what_needs_consent_is_named_and_nothing_is_evicted,
    only_chosen_pods_go,
    the_plugin_is_started_anew_and_its_slices_are_waited_for,
    a_plugin_that_gives_out_something_else_keeps_the_node_cordoned,
    a_plugin_that_is_not_there_or_no_daemon_set_is_told,
    labels_that_are_refused_keep_the_node_cordoned,
    a_server_that_is_away_is_told,
]
NAMES = [story.__name__ for story in STORIES]
