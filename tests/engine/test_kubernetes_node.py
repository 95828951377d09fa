"""A node of Kubernetes around a change, on a simulated host: the stories that a real API server is told too, and hooks."""

import pytest

from gpuslice import errors
from gpuslice.drivers import kubectl as control
from gpuslice.engine import Engine
from gpuslice.schedulers import kubernetes_node
from tests.support import hosts
from tests.support import kube_story
from tests.support import pillars

GPU, CONFIG, PLUGIN = kube_story.GPU, kube_story.CONFIG, kube_story.PLUGIN
FUNCTIONS = ("node", "apply_labels", "remove_labels", "drain", "resume")
HOOKS = {
    "before": [{"function": "gpu_kubernetes.drain", "args": [CONFIG, "MIG layout"], "kwargs": {"node": "n1"}}],
    "after": [{"function": "gpu_kubernetes.resume", "args": [CONFIG],
               "kwargs": {"node": "n1", "labels": True, "plugin": PLUGIN, "within": 30}}],
}  # fmt: skip


@pytest.fixture
def world(simulated):
    return kube_story.Simulated(simulated)


@pytest.mark.parametrize("story", kube_story.STORIES, ids=kube_story.NAMES)
def test_the_story_is_the_same_on_a_simulated_host(world, story):
    story(world)


# -- around a change -------------------------------------------------------------------------------------------------------
def served(world):
    """Pods on the node, and a device plugin that gives out three MIG devices once it was started anew."""
    world.pod("job")
    world.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    world.offers({"nvidia.com/gpu": "2"}, {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "3"})


def apply(world, profiles=("1g.10gb",) * 3, **more):
    """Bring the host to a pillar whose hooks are functions of the module for Kubernetes."""

    def call(name, args, kwargs):
        with Engine(hosts.config(world.host)) as engine:
            return getattr(kubernetes_node, name.removeprefix("gpu_kubernetes."))(engine, *args, **kwargs)

    with Engine(hosts.config(world.host)) as engine:
        engine.call = call
        return engine.apply(pillars.rules(pillars.mig_rule(GPU, list(profiles)), **{**HOOKS, **more}))


def asked(world):
    """What was asked of the API server, without looks, as words."""
    lines = [line.split() for line in world.host.state().get("kubernetes", {}).get("asked", ())]
    return [" ".join(line[:2]) for line in lines if line[0] != "get"]


def test_drain_cut_labels_plugin_and_uncordon_come_in_this_order_once(world):
    served(world)
    result = apply(world)
    assert result.ok, result.errors
    assert asked(world) == ["patch node", "drain n1", "apply --server-side", "delete pod", "patch node"]
    assert hosts.shapes(world.host)[GPU] == ["1g.10gb"] * 3 and not world.cordoned
    assert world.ours["gpu-slicing/mig-1g.10gb"] == "3" and world.ours["gpu-slicing/generation"] == str(result.generation)
    assert apply(world).ok and len(asked(world)) == 5
    assert world.apply_labels()["changes"] == {}


def test_a_cut_that_fails_takes_the_node_back_on_the_old_layout(world):
    served(world)
    world.offers({}, {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": "0"})
    world.host.add_fault({"call": "nvmlGpuInstanceCreateComputeInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "times": 0})
    result = apply(world)
    assert not result.ok and hosts.shapes(world.host)[GPU] == [] and not world.cordoned
    assert world.ours["gpu-slicing/gpu"] == "2"


def test_pods_that_stay_stop_the_change(world):
    world.pod("served", budget=True)
    result = apply(world)
    assert not result.ok and hosts.shapes(world.host)[GPU] == [] and not world.cordoned and world.pods() == ["default/served"]
    assert result.errors[0].startswith(
        "gpu_kubernetes.drain, which is to run before the change, answered that it failed: Node n1 was to have no pods within "
        "50 s: a disruption budget keeps default/served. It was uncordoned again."
    )


@pytest.mark.parametrize(
    ("keys", "why"),
    [({"server": "away"}, "can't be reached"), ({"server": "stranger"}, "does not know who asks"),
     ({"forbidden": ["patch nodes"]}, "user slicer may not patch nodes"),
     ({"forbidden": ["create pods/eviction"]}, "user slicer may not create pods/eviction")],
)  # fmt: skip
def test_a_server_that_refuses_stops_the_change(world, keys, why):
    world.pod("job")
    world.change(**keys)
    result = apply(world)
    assert not result.ok and hosts.shapes(world.host)[GPU] == [] and why in result.errors[0]
    assert "Nothing was changed." in result.errors
    world.change(server="up")
    assert not world.cordoned and world.mark == "" and world.pods() == ["default/job"]


def test_a_change_that_left_something_half_done_leaves_the_node_cordoned(world, monkeypatch):
    world.drain()
    monkeypatch.setenv("GPU_SLICING_RESULT", "failed")
    answer = world.resume(labels=True)
    assert answer["result"] is False and "left something half done" in answer["comment"] and world.cordoned and not world.ours


def test_what_can_t_be_uncordoned_after_a_drain_that_failed_is_told(world):
    world.pod("served", budget=True)
    world.host.add_fault({"call": "run", "nth": 4, "error": "EIO", "times": 0})
    answer = world.drain()
    assert answer["result"] is False and world.host.state()["kubernetes"]["cordoned"] == "gpu-slicing"
    assert "It is still cordoned, since to uncordon it failed: " in answer["comment"]
    assert answer["comment"].endswith("Call gpu_kubernetes.resume.")


def test_a_plugin_that_does_not_come_up_keeps_the_node_cordoned(world):
    served(world)
    world.drain()
    with world.host.change() as state:
        state["kubernetes"]["pods"][-1]["crashes"] = True
    answer = world.resume(plugin=PLUGIN, within=1)
    assert answer["result"] is False and "no new pod of app=plugin is ready" in answer["comment"] and world.cordoned


# -- odd input -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", FUNCTIONS)
def test_without_kubectl_and_with_one_that_hangs_it_is_said_what_to_do(world, name):
    with world.host.change() as state:
        state["host"]["tools"].remove("kubectl")
    with pytest.raises(errors.ToolMissing, match=r"kubectl was to be asked how node n1 is, and is not installed. Install it"):
        getattr(world, name)()
    with world.host.change() as state:
        state["host"]["tools"].append("kubectl")
    world.host.add_fault({"call": "run", "hang": 9, "times": 0})
    with pytest.raises(errors.ToolHangs, match="how node n1 is, and did not end within 90 s"):
        getattr(world, name)()
    world.host.clear_faults()
    world.host.add_fault({"call": "run", "error": "EACCES"})
    with pytest.raises(errors.ToolFailed, match=r"^kubectl was asked how node n1 is, and could not be started: Permission"):
        getattr(world, name)()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("path", "owner", "why"),
    [("kubeconfig", None, "has to be an absolute path"), ("/etc/kubernetes/none", None, "can't be read: No such file"),
     (CONFIG, "0:0:0666", "can be written by others than root"), (CONFIG, "0:0:0620", "can be written by others than root"),
     (CONFIG, "1000:0:0600", "can be written by others than root")],
)  # fmt: skip
def test_a_kubeconfig_that_is_none_or_somebody_else_s_reaches_no_program(world, name, path, owner, why):
    with world.host.change() as state:
        state["host"]["owners"] = {CONFIG: owner} if owner else {}
    world.kubeconfig = path
    with pytest.raises(errors.GpuSliceError, match=why):
        getattr(world, name)()
    assert "kubernetes" not in world.host.state()


@pytest.mark.parametrize("node", ["", "N1", "n 1", "-n1", "n1\n", "--all", "n1/status", "x" * 254])
def test_a_name_that_is_no_node_reaches_no_program(world, node):
    for name in FUNCTIONS:
        with pytest.raises(errors.PolicyError, match="can be no name of a node"):
            getattr(world, name)(node=node)
    assert "kubernetes" not in world.host.state()


@pytest.mark.parametrize(
    ("given", "why"),
    [({"plugin": "app"}, "labels of the device plugin"), ({"plugin": "app!=x"}, "labels of the device plugin"),
     ({"plugin": "a=b,--all"}, "labels of the device plugin"), ({"plugin": "a=b", "namespace": "a b"}, "namespace is 'a b'"),
     ({"plugin": "a=b", "namespace": "--all"}, "namespace is '--all'")],
)  # fmt: skip
def test_what_is_no_plugin_reaches_no_program(world, given, why):
    with pytest.raises(errors.PolicyError, match=why):
        world.resume(**given)
    assert "kubernetes" not in world.host.state()


def test_labels_that_can_be_none_reach_no_program(world):
    for name in ("config", "dcm_profile"):
        with pytest.raises(errors.PolicyError, match=f"{name} is 'a b', which can be no value of a label"):
            world.apply_labels(**{name: "a b"})
    assert "kubernetes" not in world.host.state()


SAID = [
    ("Unable to connect to the server: dial tcp: lookup k.example: no such host", errors.ToolFailed, "can't be reached"),
    ("Unable to connect to the server: x509: certificate signed by unknown authority", errors.ToolFailed, "can't be reached"),
    ("Error from server (Timeout): the server was unable to return a response in time", errors.ToolFailed, "reached"),
    ('error: error loading config file "/k": token: eyJhbGciOiJSUzI1NiJ9.e30.x', errors.PolicyError, "can't use the kubeconfig"),
    ("error: context \"x\" does not exist", errors.PolicyError, "has no context"),
    ('error: Apply failed with 1 conflict: conflict with "kubectl-label" using v1: .metadata.labels.gpu-slicing/layout',
     errors.ForeignChange, "gpu-slicing/layout of 'kubectl-label'"),
    ('error: Apply failed with 2 conflicts: conflicts with "a" using v1:\n- .metadata.labels.x/y\nconflicts with "b c":\n'
     "- .metadata.labels.z\nPlease review", errors.ForeignChange, "x/y of 'a'; z of 'b c'"),
    ('nodes "n1" is forbidden: node "n2" is not allowed to modify node "n1"', errors.PermissionDenied, "it is forbidden"),
    ("something else", errors.ToolFailed, "and refused: something else. See 'kubectl describe node n1'"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "kind", "why"), SAID)
def test_what_kubectl_says_becomes_a_sentence(world, said, kind, why):
    refused = control._refusal(control.Api(world.host, CONFIG), " ".join(said.split()), "how node n1 is", "n1")
    assert type(refused) is kind and why in str(refused) and "eyJ" not in str(refused)


@pytest.mark.parametrize("answer", [
    "", "{", "[]", "{}", '{"metadata": []}', '{"metadata": {"name": "n1"}}', "[" * 99999,
    '{"metadata": {"name": "n1", "uid": "u", "resourceVersion": "1", "labels": "abc"}}',
])  # fmt: skip
def test_an_answer_that_is_none_is_told(world, answer):
    with pytest.raises(errors.ToolFailed, match="its answer can't be understood"):
        control._node(answer, "n1")
