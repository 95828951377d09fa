"""
Kubernetes in the pillar: a change is surrounded by a drain, labels follow the slices, and a run that finds all as wanted asks no
API server.
"""

import functools
import signal

import pytest
import yaml

from gpuslice import errors
from gpuslice import policy
from gpuslice import quarantine
from gpuslice.engine import Engine
from gpuslice.schedulers import kubernetes_node
from tests.support import consumers
from tests.support import hosts
from tests.support import kube_story
from tests.support import pages
from tests.support import telling
from tests.support.cleaned import cleaned
from tests.support.cleaned import records
from tests.support.consumers import planned
from tests.support.crash import in_child

FIRST, CONFIG, FILE = telling.FIRST, kube_story.CONFIG, telling.FILE
THREE, TWO = {FIRST: ["1g.10gb"] * 3}, {FIRST: ["2g.20gb"] * 2}
ON = {"kubeconfig": CONFIG, "node": "n1", "within": 2, "plugin": "app=plugin"}
AROUND = ["patch node", "drain n1", "apply --server-side", "delete pod", "patch node"]
RECORD = "node-labels.json"


@pytest.fixture
def world(simulated):
    """A node with a pod of somebody and a device plugin, which gives out three MIG devices once it was started anew."""
    made = kube_story.Simulated(simulated)
    made.pod("job")
    made.pod("plugin-1", "kube-system", "DaemonSet", labels={"app": "plugin"})
    gives(made, THREE)
    return made


def gives(world, profiles):
    """What the plugin gives out once it was started anew."""
    [own] = profiles.values()
    world.offers({}, {"nvidia.com/gpu": "1", f"nvidia.com/mig-{own[0]}": str(len(own))})


def wanted(profiles=THREE, on=ON, **more):
    return telling.pillar(profiles, slurm=None, kubernetes={**on}, **more)


def asked(world):
    """What was asked of the API server, without looks, as words."""
    lines = [line.split() for line in world.host.state().get("kubernetes", {}).get("asked", ())]
    return [" ".join(line[:2]) for line in lines if line[0] != "get"]


def every(world):
    """How often the API server was asked at all."""
    return len(world.host.state().get("kubernetes", {}).get("asked", ()))


def test_drain_cut_file_labels_plugin_and_uncordon_come_in_this_order_once(world):
    plan = planned(world.host, wanted())
    lines = plan.text().splitlines()
    assert lines[0] == "Before it: run gpu_kubernetes.drain (within 182 s)" and every(world) == 0
    assert lines.count("After it, whatever comes: run gpu_kubernetes.resume (within 420 s)") == 1
    assert any("have the node labelled when this is over: " in line and "gpu-slicing/mig-1g.10gb (none) -> 3" in line
               for line in lines)  # fmt: skip
    result = telling.converge(world.host, wanted())
    assert result.ok, result.errors
    assert asked(world) == AROUND and telling.text_of(world.host, FILE) and not world.cordoned
    assert world.ours["gpu-slicing/mig-1g.10gb"] == "3" and result.warnings == []


def test_the_page_s_pillar_does_it_too(world):
    handing, _ = map(yaml.safe_load, pages.blocks(pages.section("kubernetes", "Around a change")))
    on = {**handing["containers_gpu_container_integration"]["kubernetes"], "node": "n1"}
    world.pod("nvidia-1", on["namespace"], "DaemonSet", labels=dict([on["plugin"].split("=")]))
    assert telling.converge(world.host, wanted(on=on)).ok and asked(world) == AROUND and not world.cordoned


def test_a_run_that_finds_all_as_wanted_asks_nobody(world):
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    so_far = every(world)
    result = telling.converge(world.host, wanted())
    assert result.ok and result.plan.empty and result.generation is None and every(world) == so_far


def test_a_power_cap_asks_nobody(world, simulated):
    node = {"node": "n1", "pods": [{"name": "plugin-1", "namespace": "kube-system", "owner": "DaemonSet",
                                    "labels": {"app": "plugin"}}]}  # fmt: skip
    world.host = telling.machine(simulated, tools=[*consumers.TOOLS, "kubectl"], files={CONFIG: "x"}, kubernetes=node)
    gives(world, THREE)
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    so_far = every(world)
    result = telling.converge(world.host, wanted(slicing={"power": {"percent": 80}}))
    assert result.ok and result.generation and every(world) == so_far


def test_labels_alone_drain_nobody_and_leave_the_plugin(world):
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    part, so_far = hosts.listed(world.host)[0]["name"], len(asked(world))
    with Engine(hosts.config(world.host)) as engine:
        assert quarantine.quarantined(engine, [part], "odd results")["result"]
    assert len(asked(world)) == so_far and world.ours["gpu-slicing/quarantined"] == "0"
    plan = planned(world.host, wanted())
    assert plan.before == () and len(plan.after) == 1
    assert [step.words for step in plan.steps] == [
        "have the node labelled when this is over: gpu-slicing/quarantined 0 -> 1"
    ]
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    assert asked(world)[so_far:] == ["apply --server-side"] and world.ours["gpu-slicing/quarantined"] == "1"
    assert planned(world.host, wanted()).empty


def test_a_server_that_is_away_before_it_stops_the_change(world):
    world.away()
    result = telling.converge(world.host, wanted())
    assert not result.ok and hosts.shapes(world.host)[FIRST] == [] and not telling.text_of(world.host, FILE)
    assert "gpu_kubernetes.drain, which is to run before the change, failed: " in result.errors[0]
    assert "set drain of containers_gpu_container_integration:kubernetes to false" in result.errors[0]


@pytest.mark.parametrize(
    ("then", "why"),
    [(lambda world: world.change(server="away"), "the API server can't be reached"),
     (lambda world: world.change(forbidden=["delete pods"]), "user slicer may not delete pods"),
     (lambda world: world.label(kube_story.LAYOUT, "abc", "somebody"), "has labels of another field manager with other values"),
     (lambda world: world.change(offers={"nvidia.com/gpu": "7"}), "nvidia.com/gpu is 7 and not 1")],
    ids=("away", "forbidden", "conflict", "other"),
)  # fmt: skip
def test_what_fails_after_it_keeps_slices_and_cordon_and_is_tried_again(world, then, why):
    result = telling.converge(world.host, wanted(), after_drain=lambda: then(world))
    assert not result.ok and hosts.shapes(world.host)[FIRST] == ["1g.10gb"] * 3 and telling.text_of(world.host, FILE)
    assert why in " ".join(result.errors) and "It is called again by the next run." in " ".join(result.errors), result.errors
    world.change(server="up")
    assert world.cordoned and not telling.on_record_of(world.host, "node-labels")
    with world.host.change() as state:
        told = state["kubernetes"]
        told["forbidden"], told["labels"], told["owners"] = [], {}, {}
        told["offers"] = {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "3"}
    again = telling.converge(world.host, wanted())
    assert again.ok, again.errors
    assert not world.cordoned and world.ours["gpu-slicing/mig-1g.10gb"] == "3" and planned(world.host, wanted()).empty


def test_a_cut_that_fails_takes_the_node_back_on_the_old_layout(world):
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    before, so_far = telling.text_of(world.host, FILE), len(asked(world))
    world.host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "error": "NVML_ERROR_UNKNOWN", "nth": 2})
    result = telling.converge(world.host, wanted(TWO))
    assert not result.ok and hosts.shapes(world.host)[FIRST] == ["1g.10gb"] * 3
    assert telling.text_of(world.host, FILE) == before and not world.cordoned
    assert asked(world)[so_far:] == AROUND
    assert world.ours["gpu-slicing/mig-1g.10gb"] == "3" and planned(world.host, wanted()).empty


def test_without_a_file_labels_and_drain_go_on(world):
    on = {**ON, "path": "", "plugin": ""}
    assert telling.converge(world.host, wanted(on=on)).ok
    assert asked(world) == ["patch node", "drain n1", "apply --server-side", "patch node"]
    assert not telling.text_of(world.host, FILE)
    assert planned(world.host, wanted(on=on)).empty
    assert telling.converge(world.host, wanted(TWO, on)).ok and world.ours["gpu-slicing/mig-2g.20gb"] == "2"
    assert cleaned(world.host)["result"] and records(world.host) == []


def test_without_a_drain_the_plugin_is_started_anew_all_the_same(world):
    on = {**ON, "drain": False}
    assert telling.converge(world.host, wanted(on=on)).ok
    assert asked(world) == ["apply --server-side", "delete pod"] and "default/job" in world.pods()
    assert planned(world.host, wanted(on=on)).empty


def test_without_labels_none_is_applied(world):
    on = {**ON, "labels": False}
    assert telling.converge(world.host, wanted(on=on)).ok
    assert asked(world) == ["patch node", "drain n1", "delete pod", "patch node"] and world.ours == {}
    assert planned(world.host, wanted(on=on)).empty


def test_without_a_kubeconfig_no_cluster_is_asked(world):
    assert telling.converge(world.host, wanted(on={})).ok and every(world) == 0
    path = "containers_gpu_container_integration:kubernetes"
    warned = policy.parse(wanted(on={"plugin": "app=x", "drain": True})).warnings
    assert warned == [f"{path}:{key}: has no effect without kubeconfig: no cluster is asked." for key in ("drain", "plugin")]
    with pytest.raises(errors.PolicyError, match=f"{path}:path: is empty, and there is no kubeconfig"):
        policy.parse(wanted(on={"path": ""}))


@pytest.mark.parametrize(
    ("key", "value"),
    [("kubeconfig", "x"), ("context", "-x"), ("node", "N1"), ("plugin", "app"), ("namespace", "a b"), ("config", "a b"),
     ("pod_selector", "app in (a)"), ("within", 4000)],
)  # fmt: skip
def test_what_can_t_be_meant_is_refused(key, value):
    with pytest.raises(errors.PolicyError, match=f"containers_gpu_container_integration:kubernetes:{key}"):
        policy.parse(wanted(on={**ON, key: value}))


def test_consent_goes_along(world):
    world.pod("lone", owner="none")
    world.pod("data", emptydir=True)
    result = telling.converge(world.host, wanted())
    assert not result.ok and "force=True" in result.errors[0] and hosts.shapes(world.host)[FIRST] == []
    assert telling.converge(world.host, wanted(on={**ON, "force": True, "delete_emptydir_data": True})).ok


def test_another_place_has_the_labels_applied_there(world):
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    world.change(contexts=["other"])
    other = {**ON, "context": "other"}
    assert planned(world.host, wanted(on=other)).before == () and telling.converge(world.host, wanted(on=other)).ok
    assert telling.on_record_of(world.host, "node-labels")["where"]["context"] == "other"
    assert world.on(kubernetes_node.resume, labels=True)["result"]
    assert not planned(world.host, wanted(on=other)).empty


def test_a_damaged_record_is_told(world):
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    world.host.store_write(f"{world.host.state_dir}/{RECORD}", "{")
    with pytest.raises(errors.StateDirUnusable, match=r"record of this node's labels, /\S+ can't be used"):
        planned(world.host, wanted())


def test_a_kill_behind_the_drain_is_finished_by_the_next_run(world):
    world.host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 2, "kill": "after"})
    assert in_child(functools.partial(telling.converge, world.host, wanted())) == signal.SIGKILL
    world.host.clear_faults()
    assert world.cordoned and world.ours == {}
    made = telling.converge(world.host, wanted())
    assert made.ok, made.errors
    assert not world.cordoned and world.ours["gpu-slicing/mig-1g.10gb"] == "3" and planned(world.host, wanted()).empty


# -- what failed is called again, once a run -------------------------------------------------------------------------------
def owed(world):
    return telling.on_record_of(world.host, "owed").get("after_hooks", [])


def left_cordoned(world, on=ON, then=lambda world: world.change(server="away")):
    """A node that was cut by this pillar, and could not be taken back."""
    result = telling.converge(world.host, wanted(on=on), after_drain=lambda: then(world))
    assert not result.ok and len(owed(world)) == 1
    world.change(server="up")


def is_over(world, pillar):
    """Nothing is owed, and a run of this pillar asks nobody."""
    so_far = every(world)
    result = telling.converge(world.host, pillar)
    return result.ok and result.plan.empty and not owed(world) and every(world) == so_far


def conflict(world):
    world.label(kube_story.LAYOUT, "abc", "somebody")


@pytest.mark.parametrize(
    ("on", "then", "mended"),
    [({**ON, "plugin": "app=absent"}, lambda world: None, ON), (ON, conflict, {**ON, "labels": False})],
    ids=("plugin", "labels"),
)
def test_what_is_called_again_is_as_the_pillar_has_it_by_now(world, on, then, mended):
    left_cordoned(world, on, then)
    result = telling.converge(world.host, wanted(on=mended))
    assert result.ok and "was called again." in result.warnings[0], result.errors
    assert world.host.state()["kubernetes"]["cordoned"] == "" and is_over(world, wanted(on=mended))


def test_a_server_that_stays_away_is_asked_once_a_run_and_makes_no_history(world):
    left_cordoned(world)
    world.change(server="away")
    for _ in range(2):
        so_far = every(world)
        result = telling.converge(world.host, wanted())
        assert not result.ok and len(result.errors) == 1 and result.generation is None and every(world) == so_far + 1
    world.change(server="up")
    assert telling.converge(world.host, wanted()).ok and asked(world) == AROUND and is_over(world, wanted())


def test_what_is_light_is_not_run_beside_what_is_owed(world):
    left_cordoned(world, {**ON, "labels": False}, lambda world: world.change(offers={"nvidia.com/gpu": "7"}))
    so_far = len(asked(world))
    result = telling.converge(world.host, wanted())
    assert len(result.errors) == 1 and result.generation and asked(world)[so_far:] == ["apply --server-side", "delete pod"]
    assert [hook.get("light", False) for hook in owed(world)] == [False]


def test_a_change_that_concerns_no_scheduler_calls_it_again_too(world, simulated):
    node = {"node": "n1", "pods": [{"name": "plugin-1", "namespace": "kube-system", "owner": "DaemonSet",
                                    "labels": {"app": "plugin"}}]}  # fmt: skip
    world.host = telling.machine(simulated, tools=[*consumers.TOOLS, "kubectl"], files={CONFIG: "x"}, kubernetes=node)
    gives(world, THREE)
    left_cordoned(world)
    capped = wanted(slicing={"power": {"percent": 80}})
    result = telling.converge(world.host, capped)
    assert result.ok and result.generation and not world.cordoned and is_over(world, capped)


def test_what_was_for_another_place_is_called_there_once_more(world):
    on = {**ON, "drain": False, "context": "other"}
    result = telling.converge(world.host, wanted(on=on))
    assert not result.ok and "has no context other" in result.errors[0] and owed(world)
    result = telling.converge(world.host, wanted())
    assert "The pillar names another place by now, and it is not called again: is the node given back there?" in result.errors[0]
    assert len(result.errors) == 1 and world.ours["gpu-slicing/mig-1g.10gb"] == "3" and is_over(world, wanted())


def test_a_plan_says_when_the_pillar_has_no_more_of_what_is_owed(world):
    left_cordoned(world)
    off = telling.pillar(THREE, slurm=None, kubernetes={"enabled": False})
    assert "this run calls it again." in planned(world.host, wanted()).text()
    assert "this pillar has it no more." in planned(world.host, off).text()
    result = telling.converge(world.host, off)
    assert result.ok and "is the node given back?" in result.warnings[0] and world.cordoned and is_over(world, off)


def test_after_a_refused_drain_the_node_is_as_it_was(world):
    world.pod("lone", owner="none")
    for _ in range(2):
        result = telling.converge(world.host, wanted())
        assert len(result.errors) == 2 and "force=True" in result.errors[0] and "Nothing was changed." in result.errors[1]
    assert not {"apply --server-side", "delete pod"} & {*asked(world)}
    assert world.ours == {} and not world.cordoned and not owed(world)


def test_the_generation_is_the_newest_one_also_where_labels_are_applied_later(world):
    left_cordoned(world)
    assert telling.converge(world.host, wanted()).ok and world.ours["gpu-slicing/generation"] == "1"
    assert telling.converge(world.host, wanted(TWO, {**ON, "plugin": ""})).generation == 2
    assert world.ours["gpu-slicing/generation"] == "2"


def test_who_gives_up_a_host_is_told_what_is_left_in_its_cluster(world):
    assert telling.converge(world.host, wanted()).ok
    result = telling.converge(world.host, wanted(TWO), after_drain=lambda: world.change(server="away"))
    assert not result.ok
    told = cleaned(world.host)["warnings"]
    assert told == [
        "owed.json told of a node that could not be given back to its scheduler, and nobody does so any more: call "
        "gpu_kubernetes.resume."
    ]
    world.change(server="up")
    assert telling.converge(world.host, wanted(THREE)).ok
    assert cleaned(world.host)["warnings"] == [
        "Our labels of the node stay in its cluster; gpu_kubernetes.remove_labels takes them."
    ]
    assert "warnings" not in cleaned(world.host)


def test_of_two_schedulers_the_first_is_given_back_when_the_second_refuses(world, simulated):
    node = {"node": "n1", "forbidden": ["create pods/eviction"], "pods": [{"name": "job", "namespace": "default"}]}
    world.host = telling.machine(simulated, tools=[*consumers.TOOLS, "kubectl", "scontrol"], files={CONFIG: "x"}, kubernetes=node)
    result = telling.converge(world.host, telling.pillar(THREE, kubernetes={**ON}))
    assert "may not create pods/eviction" in result.errors[0] and len(result.errors) == 2 and not owed(world)
    asked_slurm = telling.asked_of_slurm(world.host)
    assert asked_slurm[0] == "State=DRAIN" and asked_slurm[-1] == "State=RESUME" and not world.cordoned
    assert hosts.shapes(world.host)[FIRST] == []


def test_labels_that_were_removed_by_hand_are_applied_by_the_next_run(world):
    assert telling.converge(world.host, wanted()).ok
    assert world.apply_labels()["result"] and planned(world.host, wanted()).empty
    assert "result" not in world.remove_labels(test=True) and planned(world.host, wanted()).empty
    assert world.remove_labels()["result"] and world.ours == {} and not planned(world.host, wanted()).empty
    assert telling.converge(world.host, wanted()).ok and world.ours["gpu-slicing/mig-1g.10gb"] == "3"
    assert is_over(world, wanted())
