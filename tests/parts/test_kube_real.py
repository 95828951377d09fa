"""
A real kube-apiserver 1.20 with etcd on the loopback, and kubectl: the stories of a node that the simulated kubectl is told too,
with the rights of examples/kubernetes/rbac.yaml and no more. No controller and no kubelet runs: where a DaemonSet would make a
pod anew, and a device plugin would give out slices, the test does.
"""

import json
import subprocess

import pytest

from gpuslice import errors
from gpuslice.drivers import kubectl as control
from gpuslice.host.base import Completed
from gpuslice.sim.host import SimulatedHost
from tests.support import kube
from tests.support import kube_story
from tests.support import needs

pytestmark = pytest.mark.slow

READER = {
    "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "reader"},
    "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}],
}  # fmt: skip
UID = "00000000-0000-4000-8000-000000000001"


class Host(SimulatedHost):
    """A simulated machine whose kubectl is the real one, which asks the server of the test."""

    world = None

    def run(self, argv, *args, given="", **rest):
        if argv[0] != control.PROGRAM:
            return super().run(argv, *args, given=given, **rest)
        command = [needs.path("kubectl"), *argv[1:]]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=kube.SECONDS, check=False)
        if "delete" in argv and not done.returncode:
            self.world.made_anew()
        return Completed(done.returncode, done.stdout, done.stderr)

    def owner(self, path):
        return (0, 0, 0o600) if path.startswith("/tmp") else super().owner(path)


class Real(kube_story.World):
    """:param cluster: a running one, of which all is taken that an earlier story left."""

    def __init__(self, cluster, simulated):
        self.cluster, self.kubeconfig = cluster, str(cluster.kubeconfig("slicer"))
        made = simulated("dgx-h100", gpus=kube_story.GPUS, processes=[])
        self.host = Host(made.description_path, made.state_dir)
        self.host.world = self
        self.then, self.plugins = {}, {}
        # Applied, with a label: before that, servers of 1.20 note nobody's fields.
        self.set_labels("kubelet", {"site/made": "yes"})

    def label(self, key, value, who):
        found = self.found()
        self.set_labels(who, {**{each: found.labels[each] for each, by in found.holders.items() if by == who}, key: value})

    def set_labels(self, who, labels):
        wish = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "labels": labels}}
        command = ["apply", "--server-side", "--force-conflicts", f"--field-manager={who}", "-f", "-"]
        self.cluster.kubectl(*command, given=json.dumps(wish))

    def cordon(self, who):
        self._schedulable(True, who)

    def uncordon(self):
        self._schedulable(None, "another")

    def _schedulable(self, value, who):
        patch = json.dumps({"spec": {"unschedulable": value}})
        self.cluster.kubectl("patch", "node", "n1", "--type=merge", f"--field-manager={who}", f"--patch={patch}")

    def pod(self, name, namespace="default", owner="ReplicaSet", emptydir=False, budget=False, labels=None):
        about = {"name": name, "namespace": namespace, "labels": {"name": name, **(labels or {})}}
        if owner != "none":
            uid = self._daemon_set(name, namespace, about["labels"]) if owner == "DaemonSet" else UID
            group = {"apiVersion": "apps/v1", "kind": owner, "name": name, "uid": uid, "controller": True}
            about["ownerReferences"] = [group]
        spec = {"nodeName": "n1", "terminationGracePeriodSeconds": 0, "containers": [{"name": "x", "image": "x"}]}
        if emptydir:
            spec["volumes"] = [{"name": "x", "emptyDir": {}}]
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        made = self.cluster.create(apiVersion="v1", kind="Pod", metadata=about, spec=spec, status=ready)
        if owner == "DaemonSet":
            self.plugins[f"{namespace}/{name}"] = made
        if budget:
            # No controller counts: what a new budget allows stays 0.
            spec = {"minAvailable": 1, "selector": {"matchLabels": {"name": name}}}
            where = {"name": name, "namespace": namespace}
            self.cluster.create(apiVersion="policy/v1beta1", kind="PodDisruptionBudget", metadata=where, spec=spec)

    def _daemon_set(self, name, namespace, labels):
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "x", "image": "x"}]}}
        made = self.cluster.create(apiVersion="apps/v1", kind="DaemonSet", metadata={"name": name, "namespace": namespace},
                                   spec={"selector": {"matchLabels": labels}, "template": template})  # fmt: skip
        return made["metadata"]["uid"]

    def made_anew(self):
        """As the controller of DaemonSets does it, and the plugin in the new pod."""
        for name, made in list(self.plugins.items()):
            if name in self.pods():
                continue
            about = {key: made["metadata"][key] for key in ("namespace", "labels", "ownerReferences")}
            about["name"] = f"{made['metadata']['name']}-b"
            ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
            self.cluster.create(apiVersion="v1", kind="Pod", metadata=about, spec=made["spec"], status=ready)
            del self.plugins[name]
            self._offered(self.then)

    def pods(self):
        listed = json.loads(self.cluster.kubectl("get", "pods", "-A", "-o", "json").stdout)["items"]
        return sorted(f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in listed)

    def offers(self, now, then):
        self.then = then
        self._offered(now)

    def _offered(self, counts):
        made = json.loads(self.cluster.kubectl("get", "node", "n1", "-o", "json").stdout)
        self.cluster.put_status({**made, "status": {"allocatable": counts, "capacity": counts}})

    def forbid(self):
        self.kubeconfig = str(self.cluster.kubeconfig("reader"))

    def stranger(self):
        self.kubeconfig = str(self.cluster.kubeconfig("stranger"))

    def away(self):
        self.cluster.end("kube-apiserver")

    def clear(self):
        """As it was before the story."""
        if "kube-apiserver" not in self.cluster.running:
            self.cluster.start()
        for namespace in ("default", "kube-system"):
            of = ["pods,daemonsets,poddisruptionbudgets", "--all", "-n", namespace, "--wait=false"]
            self.cluster.kubectl("delete", *of)
        self.cluster.kubectl("delete", "node", "n1")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    needs.require(kube.lacking())
    with kube.cluster(tmp_path_factory.mktemp("kube")) as made:
        made.kubectl("apply", "-f", str(kube.ROOT / "examples/kubernetes/rbac.yaml"))
        made.kubectl("create", "clusterrolebinding", "slicer", "--clusterrole=gpu-slicing", "--user=slicer")
        made.kubectl("create", "rolebinding", "slicer", "-n", "kube-system", "--role=gpu-slicing", "--user=slicer")
        made.create(**READER)
        made.kubectl("create", "clusterrolebinding", "reader", "--clusterrole=reader", "--user=reader")
        yield made


@pytest.fixture
def world(cluster, simulated):
    made = Real(cluster, simulated)
    yield made
    made.clear()


@pytest.mark.parametrize("story", kube_story.STORIES, ids=kube_story.NAMES)
def test_the_story_is_the_same_on_a_real_server(world, story):
    story(world)


def test_a_node_of_which_the_server_noted_nobody_s_fields_is_taken_back(world):
    world.cluster.kubectl("delete", "node", "n1")
    world.cluster.create(apiVersion="v1", kind="Node", metadata={"name": "n1"})
    assert world.drain()["result"] and world.found().by == ""
    assert world.resume(labels=True)["result"] and not world.cordoned and world.ours


ODD = ["token: [secret-word", "users: secret-word", "{kind: Config, users: [{name: secret-word, user: 1}]}"]


@pytest.mark.parametrize("text", ODD)
def test_of_a_kubeconfig_that_is_none_nothing_is_shown(world, text):
    path = world.cluster.place / "wrong.kubeconfig"
    path.write_text(text)
    world.kubeconfig = str(path)
    with pytest.raises(errors.PolicyError, match=f"how node n1 is, and can't use the kubeconfig {path}") as refused:
        world.apply_labels()
    assert "secret-word" not in str(refused.value)


def test_kubelet_s_own_credentials_may_label_and_cordon_their_node_and_no_other(world):
    """NodeRestriction: our prefix is free to a kubelet; what it may not is to ask for DaemonSets, which a drain does."""
    world.kubeconfig = str(world.cluster.kubeconfig("kubelet"))
    assert world.apply_labels()["result"] and world.ours
    theirs, api = {"node-restriction.kubernetes.io/x": "1"}, control.Api(world.host, world.kubeconfig)
    with pytest.raises(errors.PermissionDenied, match=r"it is forbidden: .*node-restriction.kubernetes.io/x"):
        control.apply(api, world.found(), theirs, False, False)
    world.cluster.create(apiVersion="v1", kind="Node", metadata={"name": "n2"})
    try:
        with pytest.raises(errors.PermissionDenied):
            world.apply_labels(node="n2")
    finally:
        world.cluster.kubectl("delete", "node", "n2")
    world.pod("job")
    assert world.drain()["result"] and world.cordoned and world.pods() == []
    assert world.resume()["result"] and not world.cordoned
    world.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    with pytest.raises(errors.PermissionDenied, match="may not get daemonsets"):
        world.drain()
    assert not world.cordoned
