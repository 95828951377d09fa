"""
Kubernetes on a simulated machine, as far as anything here asks it: the machine's node and the pods on it, of which ``kubectl``
asks an API server. The answers are those of kubectl 1.32 and a kube-apiserver 1.20, which tests/parts/test_kube_real.py has do
the same.
"""

import json
import re

from gpuslice.host.base import Completed
from gpuslice.sim.mistakes import Mistakes

SERVERS = ("up", "away", "stranger")
_KEYS = ("node", "server", "contexts", "user", "forbidden", "labels", "managers", "cordoned", "pods", "allocatable", "offers")
_POD_KEYS = ("name", "namespace", "labels", "owner", "emptydir", "budget", "crashes")
_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_VALID = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with "
    "an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
#: Arguments that are the same in all requests.
_HOW = ("--kubeconfig", "--request-timeout", "--cache-dir")
_UID = "00000000-0000-4000-8000-{:012d}"
_CHANGED = 'Error from server (Conflict): Operation cannot be fulfilled on nodes "{}": {}'
_MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
_KEPT = "Cannot evict pod as it would violate the pod's disruption budget."
_APPLY, _UPDATE = "Apply", "Update"


# -- how it is described ---------------------------------------------------------------------------------------------------
def parse(raw, mistakes):
    """The key ``kubernetes`` of a description: see :mod:`gpuslice.sim.description`."""
    raw = mistakes.mapping(raw, "kubernetes", _KEYS)
    texts = (("node", ""), ("user", "gpu7"), ("cordoned", ""))
    found = {key: mistakes.take(raw, "kubernetes", key, str, default) for key, default in texts}
    found["server"] = mistakes.take(raw, "kubernetes", "server", str, "up", SERVERS)
    for key in ("contexts", "forbidden"):
        found[key] = _texts(mistakes.listing(raw.get(key), f"kubernetes.{key}"), f"kubernetes.{key}", mistakes)
    for key in ("labels", "managers", "allocatable", "offers"):
        found[key] = _words(raw.get(key), f"kubernetes.{key}", mistakes)
    listed = mistakes.listing(raw.get("pods"), "kubernetes.pods")
    found["pods"] = [_described(each, f"kubernetes.pods[{n}]", mistakes) for n, each in enumerate(listed)]
    return found


def _texts(listed, path, mistakes):
    for each in listed:
        if not isinstance(each, str):
            mistakes.note(path, f"{each!r} is not a text")
    return [each for each in listed if isinstance(each, str)]


def _words(raw, path, mistakes):
    """A mapping of texts to texts."""
    if not isinstance(raw or {}, dict):
        mistakes.note(path, "must be a mapping")
        return {}
    for key, value in (raw or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            mistakes.note(f"{path}.{key}", f"{value!r} is not a text (write it in quotes)")
    return {str(key): str(value) for key, value in (raw or {}).items()}


def _described(raw, path, mistakes):
    raw = mistakes.mapping(raw, path, _POD_KEYS)
    found = {key: mistakes.take(raw, path, key, str, default) for key, default in (("name", ""), ("namespace", "default"))}
    found["owner"] = mistakes.take(raw, path, "owner", str, "ReplicaSet", ("ReplicaSet", "DaemonSet", "none"))
    found |= {key: mistakes.take(raw, path, key, bool, False) for key in ("emptydir", "budget", "crashes")}
    return {**found, "labels": _words(raw.get("labels"), f"{path}.labels", mistakes)}


# -- what it does ----------------------------------------------------------------------------------------------------------
def kubectl(host, arguments, given):
    """``kubectl`` with the verbs that are asked here; each request of it is in the state, as ``asked``."""
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    words = [word for word in arguments if not word.startswith("-")]
    if not host.exists(options.get("kubeconfig", "")):
        return _error(f"error: stat {options.get('kubeconfig', '')}: no such file or directory")
    with host.change() as state:
        cluster = state.setdefault("kubernetes", _made(state["host"]))
        cluster["asked"].append(" ".join(word for word in arguments if not word.startswith(_HOW)))
        if (context := options.get("context")) and context not in cluster["contexts"]:
            return _error(f'error: context "{context}" does not exist')
        if cluster["server"] == "away":
            return _error("The connection to the server 127.0.0.1:6443 was refused - did you specify the right host or port?")
        if cluster["server"] == "stranger":
            return _error("error: You must be logged in to the server (Unauthorized)")
        try:
            return _verbs(cluster, words, options, given)
        except _Refused as err:
            return _error(str(err))


class _Refused(Exception):
    """What the server says no with."""


def _error(said):
    return Completed(1, "", f"{said}\n")


def _verbs(cluster, words, options, given):
    verb = words[0]
    if verb == "get" and "raw" in options:
        _may(cluster, "get", "nodes")
        return _printed(_node(cluster, words[-1].rpartition("/")[2]))
    if verb == "get":
        _may(cluster, "list", "pods")
        return _printed({"kind": "List", "items": [_shown(pod) for pod in _meant(cluster, options)]})
    if verb == "apply":
        return _printed(_apply(cluster, json.loads(given), options))
    if verb == "patch":
        return _printed(_patch(cluster, words[2], json.loads(options["patch"]), options["field-manager"]))
    if verb == "drain":
        return _drain(cluster, words[1], options)
    if verb == "delete":
        return _delete(cluster, words[2], options)
    raise _Refused(f'error: unknown command "{verb}" for "kubectl"')


def _printed(answer):
    return Completed(0, json.dumps(answer))


def _made(host):
    told = host.get("kubernetes") or {**parse({}, Mistakes()), "server": "away"}
    owners = {label: [[told["managers"].get(label, "kubelet"), _UPDATE]] for label in told["labels"]}
    pods = [{**pod, "uid": _UID.format(number)} for number, pod in enumerate(told["pods"], 1)]
    return {
        **told, "node": told["node"] or host["name"], "uid": _UID.format(0), "version": 1, "owners": owners, "annotations": {},
        "by": told["cordoned"], "pods": pods, "next": len(pods) + 1, "asked": [],
    }  # fmt: skip


def _may(cluster, verb, resource, namespace=""):
    if f"{verb} {resource}" not in cluster["forbidden"]:
        return
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    raise _Refused(
        f'Error from server (Forbidden): {resource} "{cluster["node"]}" is forbidden: User "{cluster["user"]}" cannot {verb} '
        f'resource "{resource}" in API group "" {where}'
    )


def _node(cluster, name):
    if name != cluster["node"]:
        raise _Refused(f'Error from server (NotFound): nodes "{name}" not found')
    fields = {}
    for label, owners in cluster["owners"].items():
        for who, how in owners:
            fields.setdefault((who, how), {}).setdefault("f:metadata", {}).setdefault("f:labels", {})[f"f:{label}"] = {}
    if cluster["cordoned"]:
        fields.setdefault((cluster["by"], _UPDATE), {})["f:spec"] = {"f:unschedulable": {}}
    return {
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": name, "uid": cluster["uid"], "resourceVersion": str(cluster["version"]), "labels": dict(cluster["labels"]),
            "annotations": dict(cluster["annotations"]),
            "managedFields": [{"manager": who, "operation": how, "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": each}
                              for (who, how), each in fields.items()],
        },
        "spec": {"unschedulable": True} if cluster["cordoned"] else {}, "status": {"allocatable": dict(cluster["allocatable"])},
    }  # fmt: skip


# -- labels ----------------------------------------------------------------------------------------------------------------
def _apply(cluster, wish, options):
    """Server-side apply of labels: what this manager applied before and does not name any more goes, if nobody else set it."""
    _may(cluster, "patch", "nodes")
    about, me = wish["metadata"], [options["field-manager"], _APPLY]
    _node(cluster, about["name"])
    if about.get("uid", cluster["uid"]) != cluster["uid"]:
        told = f'The Node "{about["name"]}" is invalid: metadata.uid: Invalid value: "{about["uid"]}": field is immutable'
        raise _Refused(told)
    made = json.loads(json.dumps(cluster)) if options.get("dry-run") == "server" else cluster
    labels, owners = made["labels"], made["owners"]
    wanted = about.get("labels") or {}
    for value in wanted.values():
        if not _VALUE.fullmatch(value) or len(value) > 63:
            raise _Refused(f'The Node "{about["name"]}" is invalid: metadata.labels: Invalid value: "{value}": {_VALID}')
    held = {}
    for label, value in wanted.items():
        for who, how in owners.get(label, []):
            if [who, how] != me and labels[label] != value:
                held.setdefault(who, []).append(f".metadata.labels.{label}")
    if held and "force-conflicts" not in options:
        raise _Refused(_conflict(held))
    for label, value in wanted.items():
        kept = [owner for owner in owners.get(label, []) if labels[label] == value and owner != me]
        owners[label], labels[label] = [*kept, me], value
    for label in [label for label, who in owners.items() if me in who and label not in wanted]:
        owners[label].remove(me)
        if not owners[label]:
            del owners[label], labels[label]
    made["version"] += 1
    return _node(made, about["name"])


def _conflict(held):
    count = sum(map(len, held.values()))
    if count == 1:
        [(who, [field])] = held.items()
        told = f'Apply failed with 1 conflict: conflict with "{who}": {field}'
    else:
        parts = ["\n- ".join([f'conflicts with "{who}":', *fields]) for who, fields in held.items()]
        told = f"Apply failed with {count} conflicts: " + "\n".join(parts)
    return f"error: {told}\nPlease review the fields above--they currently have other managers."


# -- cordon and drain ------------------------------------------------------------------------------------------------------
def _patch(cluster, name, wish, manager):
    """A merge patch of what is asked here: an annotation, and whether the node is given pods."""
    _may(cluster, "patch", "nodes")
    _node(cluster, name)
    about = wish["metadata"]
    if about.get("resourceVersion", str(cluster["version"])) != str(cluster["version"]):
        raise _Refused(_CHANGED.format(name, _MODIFIED))
    for key, value in (about.get("annotations") or {}).items():
        cluster["annotations"].pop(key, None)
        if value is not None:
            cluster["annotations"][key] = value
    if "unschedulable" in wish.get("spec", {}):
        cluster["cordoned"] = cluster["by"] = manager if wish["spec"]["unschedulable"] else ""
    cluster["version"] += 1
    return _node(cluster, name)


def _drain(cluster, name, options):
    """``kubectl drain``: cordons first, refuses before anything is evicted, and evicts until time is over."""
    _may(cluster, "get", "nodes")
    _node(cluster, name)
    tests = options.get("dry-run") == "client"
    said = [f"node/{name} {'already cordoned' if cluster['cordoned'] else 'cordoned'}{' (dry run)' if tests else ''}"]
    if not cluster["cordoned"] and not tests:
        _patch(cluster, name, {"metadata": {}, "spec": {"unschedulable": True}}, "kubectl-drain")
    _may(cluster, "list", "pods")
    leaving = [pod for pod in cluster["pods"] if pod["owner"] != "DaemonSet" and _selects(options.get("pod-selector", ""), pod)]
    if why := _undrainable(leaving, options):
        listed = "[" + ", ".join(why) + "]" if len(why) > 1 else why[0]
        told = f'error: unable to drain node "{name}" due to error: {listed}, continuing command...'
        return _undrained(name, said[0], [told], why)
    if tests:
        return Completed(0, "\n".join([*said, *(f"evicting pod {_place(pod)} (dry run)" for pod in leaving)]) + "\n")
    for pod in leaving:
        _may(cluster, "create", "pods/eviction", pod["namespace"])
    cluster["pods"] = [pod for pod in cluster["pods"] if pod not in leaving or pod["budget"]]
    if kept := [pod for pod in leaving if pod["budget"]]:
        lines = [f'error when evicting pods/"{pod["name"]}" -n "{pod["namespace"]}" (will retry after 5s): {_KEPT}'
                 for pod in kept]  # fmt: skip
        return _undrained(name, said[0], lines, ["error: global timeout reached"])
    said += [line for pod in leaving for line in (f"evicting pod {_place(pod)}", f"pod/{pod['name']} evicted")]
    return Completed(0, "\n".join([*said, f"node/{name} drained"]) + "\n")


def _undrained(name, first, told, last):
    lines = [*told, "There are pending nodes to be drained:", f" {name}", *last]
    return Completed(1, f"{first}\n", "\n".join(lines) + "\n")


def _undrainable(pods, options):
    local = [_place(pod) for pod in pods if pod["emptydir"] and "delete-emptydir-data" not in options]
    lone = [_place(pod) for pod in pods if pod["owner"] == "none" and "force" not in options]
    why = []
    if lone:
        why.append(f"cannot delete cannot delete Pods that declare no controller (use --force to override): {', '.join(lone)}")
    if local:
        why.append(f"cannot delete Pods with local storage (use --delete-emptydir-data to override): {', '.join(local)}")
    return why


def _place(pod):
    return f"{pod['namespace']}/{pod['name']}"


# -- pods ------------------------------------------------------------------------------------------------------------------
def _meant(cluster, options):
    if options["field-selector"] != f"spec.nodeName={cluster['node']}":
        return []
    return [pod for pod in cluster["pods"] if pod["namespace"] == options["namespace"] and _selects(options["selector"], pod)]


def _selects(selector, pod):
    wanted = dict(re.split("==?", each, maxsplit=1) for each in selector.split(",") if each)
    return wanted.items() <= pod["labels"].items()


def _shown(pod):
    owners = [] if pod["owner"] == "none" else [{"kind": pod["owner"], "name": "x", "controller": True}]
    ready = "False" if pod.get("restarted") and pod["crashes"] else "True"
    return {
        "metadata": {**{key: pod[key] for key in ("name", "namespace", "uid", "labels")}, "ownerReferences": owners},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


def _delete(cluster, name, options):
    """A pod ends, and its DaemonSet makes it anew: a device plugin gives out what there is then."""
    _may(cluster, "delete", "pods", options["namespace"])
    for pod in [pod for pod in cluster["pods"] if (pod["namespace"], pod["name"]) == (options["namespace"], name)]:
        cluster["pods"].remove(pod)
        if pod["owner"] == "DaemonSet":
            number = cluster["next"]
            anew = {"name": f"{name.rpartition('-')[0] or name}-{number}", "uid": _UID.format(number), "restarted": True}
            cluster["pods"].append({**pod, **anew})
            cluster["next"] += 1
            if not pod["crashes"] and cluster["offers"]:
                cluster["allocatable"] = {
                    **{key: "0" if "/" in key else count for key, count in cluster["allocatable"].items()}, **cluster["offers"],
                }  # fmt: skip
        return Completed(0, f'pod "{name}" deleted\n')
    return Completed(0)
