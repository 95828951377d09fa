"""
A node of Kubernetes whose GPUs are sliced, as its API server has it: our labels on it, cordoned and drained before a change and
taken back after it.
"""

import re

from gpuslice import errors
from gpuslice.drivers import kubectl as control
from gpuslice.drivers.host_name import host_name
from gpuslice.outputs import kubernetes_labels
from gpuslice.printable import printable
from gpuslice.records import labelled
from gpuslice.schedulers import around
from gpuslice.schedulers import kubernetes
from gpuslice.schedulers import told as by_pillar

_NODE = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
#: What a selector has to say at least: one without it would mean others' pods too.
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._/-]*==?[A-Za-z0-9][A-Za-z0-9._-]*"
_PLUGIN = re.compile(f"{_LABEL}(,{_LABEL})*")
#: How the resources that plugins give out for slices and GPUs are called; others of these vendors are not ours to judge.
_RESOURCE = re.compile(r"nvidia\.com/(gpu|mig-).*|amd\.com/(gpu|[a-z]+_nps[0-9]).*|gpu\.intel\.com/(i915|xe)")
#: How often what somebody else changed meanwhile is read again.
_TRIES = 5


def node_name(engine, node=None):
    """The node's name: as given, or the host's own as kubelet has it. Raises errors.PolicyError: it can be none."""
    name = node if node is not None else host_name(engine.host).lower()
    if not _NODE.fullmatch(name):
        raise errors.PolicyError(
            f"node is {printable(name)[:80]!r}, which can be no name of a node of Kubernetes.",
            todo="Give its name there; see 'kubectl get nodes'.",
        )
    return name


def _api(engine, kubeconfig, context):
    return control.Api(engine.host, kubeconfig, context or "")


def node(engine, kubeconfig, node=None, context=None):
    """
    What the API server has of this node.

    :return: dict ``node``, ``labels`` (ours), ``others`` (label of our prefix -> who else set it), ``cordoned`` (by whom and why,
        "" where it is not), ``ours`` (whether that is us), ``allocatable`` (what it has of GPUs for pods).
    :raises: as :func:`gpuslice.drivers.kubectl.node`; errors.PolicyError: the node's name.
    """
    found = control.node(_api(engine, kubeconfig, context), node_name(engine, node))
    return {
        "node": found.name,
        "labels": {key: value for key, value in sorted(found.labels.items()) if key in found.owned},
        "others": {key: who for key, who in sorted(found.holders.items()) if key.startswith(f"{kubernetes_labels.PREFIX}/")},
        "cordoned": _whose(found) if found.cordoned else "",
        "ours": found.is_ours,
        "allocatable": _gpus(found),
    }


def _gpus(found):
    return {name: count for name, count in sorted(found.allocatable.items()) if _RESOURCE.fullmatch(name)}


def _whose(found):
    return f"{control.MANAGER}: {found.mark}" if found.is_ours else found.by or "it is not told who"


# -- labels ----------------------------------------------------------------------------------------------------------------
def apply_labels(engine, kubeconfig, node=None, context=None, config=None, dcm_profile=None, force=False, test=False):
    """
    This node has the labels of :func:`gpuslice.schedulers.kubernetes.labels`, and no others that we applied before.

    :param force: take labels that somebody else set.
    :param test: change nothing, and have the API server say what would come of it.
    :return: dict with ``changes`` (label -> old and new), ``comment``, ``result`` but where ``test`` found something to change.
    :raises: as :func:`gpuslice.drivers.kubectl.apply`; errors.PolicyError: the node's name, or what labels raise.
    """
    return _by_hand(engine, kubeconfig, node, context, kubernetes.labels(engine, config, dcm_profile), force, test)


def remove_labels(engine, kubeconfig, node=None, context=None, test=False):
    """This node has no label that we applied. Returns and raises as :func:`apply_labels`."""
    return _by_hand(engine, kubeconfig, node, context, {}, False, test)


def _by_hand(engine, kubeconfig, node, context, wanted, force, test):
    """Other labels than the pillar had applied: its next run has them applied again, of which it would know nothing else."""
    name = node_name(engine, node)
    if not test and engine.host.has_record(labelled.FILE):
        where, there = labelled.read(engine.host)
        if node_name(engine, where.get("node") or None) == name and there != kubernetes_labels.lasting(wanted):
            labelled.forget(engine.host)
    return _labelled(engine, kubeconfig, node, context, wanted, force, test)


def _labelled(engine, kubeconfig, node, context, wanted, force, test):
    api, name = _api(engine, kubeconfig, context), node_name(engine, node)
    found = control.node(api, name)
    if found.owned == set(wanted) and _has(found, wanted):
        return {"result": True, "changes": {}, "comment": f"Node {name} has {_counted(wanted)}."}
    after = control.apply(api, found, wanted, force, test)
    if not test:
        after = control.node(api, name)
    touched = sorted({*wanted, *found.owned})
    changes = {key: _change(found, after, key) for key in touched if found.labels.get(key) != after.labels.get(key)}
    if test and changes:
        return {"changes": changes, "comment": f"Node {name} would have {_counted(wanted)}."}
    if not test and not (after.owned == set(wanted) and _has(after, wanted)):
        return {
            "result": False, "changes": changes,
            "comment": f"Node {name} was to have {_counted(wanted)}, and was changed again by somebody else before it was read. "
            "See gpu_kubernetes.node, then run again.",
        }  # fmt: skip
    kept = [f"{key} stays, which '{after.holders.get(key, 'somebody')}' set too." for key in touched
            if key not in wanted and key in after.labels]  # fmt: skip
    return {"result": True, "changes": changes, "comment": " ".join([f"Node {name} has {_counted(wanted)}.", *kept])}


def _has(found, wanted):
    return all(found.labels.get(key) == value for key, value in wanted.items())


def _counted(wanted):
    return f"our {len(wanted)} labels" if wanted else "no label of ours"


def _change(before, after, key):
    return {"old": before.labels.get(key), "new": after.labels.get(key)}


# -- around a change -------------------------------------------------------------------------------------------------------
def drain(
    engine, kubeconfig, why="", node=None, context=None, within=50, delete_emptydir_data=False, force=False, pod_selector=None,
    test=False,
):  # fmt: skip
    """
    Cordon this node, and have its pods evicted. One that is cordoned already, by whomever, stays so. Where pods stay, what this
    call cordoned is uncordoned again.

    :param why: a sentence; :param within: seconds in which pods have to be gone; the others as of
        :func:`gpuslice.drivers.kubectl.drain`. :param test: change nothing.
    :return: dict with ``changes``, ``comment``, ``result``: whether pods are gone.
    :raises: as :func:`gpuslice.drivers.kubectl.node`; errors.PolicyError: the node's name.
    """
    api, name = _api(engine, kubeconfig, context), node_name(engine, node)
    how = (within, delete_emptydir_data, force, pod_selector or "", test)
    if test:
        return _drain_tested(api, name, how)
    found, did = _cordoned(api, name, around.reason(engine.doing(), why))
    try:
        stays, evicted = control.drain(api, name, *how)
        if not stays and not control.node(api, name).cordoned:
            stays = "somebody else uncordoned it meanwhile"
    except errors.GpuSliceError as err:
        raise type(err)(err.what, todo=" ".join([err.todo, *_given_back(api, name, did)])) from err
    if stays:
        kept = [] if did else [f"It stays cordoned, as it was before ({_whose(found)})."]
        told = [f"Node {name} was to have no pods within {within:g} s: {stays}.", *_given_back(api, name, did), *kept]
        return {"result": False, "changes": {}, "comment": " ".join(told)}
    changes = {name: {"old": "schedulable", "new": f"cordoned by {control.MANAGER}"}} if did else {}
    already = "" if did else f" It was cordoned already ({_whose(found)})."
    return {"result": True, "changes": changes, "comment": f"Node {name} is drained; evicted: {_listed(evicted)}.{already}"}


def _drain_tested(api, name, how):
    found = control.node(api, name)
    stays, evicted = control.drain(api, name, *how)
    if stays:
        return {"result": False, "changes": {}, "comment": f"Node {name} could not be drained: {stays}."}
    told = f"Node {name} would be drained; evicted would be: {_listed(evicted)}."
    if not found.cordoned:
        return {"changes": {name: {"old": "schedulable", "new": f"cordoned by {control.MANAGER}"}}, "comment": told}
    return {"result": True, "changes": {}, "comment": f"{told} It is cordoned already ({_whose(found)})."}


def _listed(names):
    return ", ".join(names) or "none"


def _cordoned(api, name, why):
    """(the node as it is cordoned, whether this call did it)."""

    def once():
        found = control.node(api, name)
        return (found, False) if found.cordoned else (control.cordon(api, found, why), True)

    return _tried(once)


def _tried(once):
    """What a function returns that reads a node and changes it, once nobody changes it in between: kubelet does so too."""
    for _ in range(_TRIES - 1):
        try:
            return once()
        except control.Stale:
            pass
    return once()


def _given_back(api, name, did):
    """Uncordon a node that is not to be changed after all. Returns what is to be told of that."""
    if not did:
        return []
    try:
        _uncordoned(api, name)
    except errors.GpuSliceError as err:
        return [f"It is still cordoned, since to uncordon it failed: {err.what} Call gpu_kubernetes.resume."]
    return ["It was uncordoned again."]


def _uncordoned(api, name):
    """(the node as it was, and as it is now): uncordoned if its cordon is ours. What is left of our mark goes."""

    def once():
        found = control.node(api, name)
        if _may_end(found):
            return found, control.uncordon(api, found)
        if found.is_ours:
            return found, found
        # Somebody ended our cordon: a later one of somebody else must not be taken for ours.
        return found, control.unmark(api, found) if found.mark else found

    return _tried(once)


def resume(
    engine, kubeconfig, node=None, context=None, labels=False, config=None, dcm_profile=None, plugin=None,
    namespace="kube-system", rename=True, within=0, anew=True, test=False,
):  # fmt: skip
    """
    This node is given pods again, where we cordoned it; before that it gets its labels, and its device plugin is restarted.

    :param labels: whether to apply labels, with :param config: and :param dcm_profile: as of :func:`apply_labels`.
    :param plugin: label selector of the device plugin's pod, None to leave that alone; :param namespace: where it is.
    :param rename: as of :func:`gpuslice.schedulers.kubernetes.plugin_config`.
    :param within: seconds to wait until the node has for pods what the plugin should give out, 0 for not to look.
    :param anew: restart the plugin after any change; False: only where the cordon is ours, or it gives out something else.
    :param test: change nothing.
    :return: dict with ``changes``, ``comment``, ``result``. :raises: as :func:`apply_labels` and
        :func:`gpuslice.schedulers.kubernetes.plugin_config`.
    """
    api, name = _api(engine, kubeconfig, context), node_name(engine, node)
    _refuse_plugin(plugin, namespace)
    if around.is_refused():
        # Nothing is to be made known: there may be other jobs, which a plugin that starts anew would concern.
        labels, plugin, within = False, None, 0
    kept = labels and not test and _is_by_pillar(engine)
    if kept:
        labelled.forget(engine.host)
    if left := around.half_done(engine, f"Node {name}", "Kubernetes", "gpu_kubernetes.resume"):
        return left
    found = control.node(api, name)
    changes, told, had = {}, [], {}
    try:
        if labels:
            had = kubernetes.labels(engine, config, dcm_profile)
            answer = _labelled(engine, kubeconfig, name, context, had, False, test)
            changes |= answer["changes"]
            told += [answer["comment"]] if answer["changes"] or answer.get("result") is False else []
            if answer.get("result") is False:
                return _stays(found, changes, told)
        wanted = _expected(engine, rename) if plugin or within else {}
        due = plugin and (found.is_ours or (anew and around.is_after_change()) or _differs(found, wanted))
        gone = _restarted(api, found, plugin, namespace, test, changes, told) if due else frozenset()
        if not test and within and not _is_offered(engine.host, api, name, wanted, plugin, namespace, gone, within, told):
            return _stays(found, changes, told)
    except errors.GpuSliceError as err:
        return _stays(found, changes, [*told, str(err)])
    answer = _taken_back(api, name, found, changes, told, test)
    if kept and answer["result"]:
        where = {"kubeconfig": kubeconfig, "context": context, "node": node}
        labelled.note(engine.host, labelled.place(where), kubernetes_labels.lasting(had))
    return answer


def _is_by_pillar(engine):
    """Whether the pillar has this node labelled, so that it is noted that it was."""
    noted = by_pillar.noted(engine, kubernetes.NAME)
    return bool(noted and noted.settings.get("cluster"))


def _stays(found, changes, told):
    end = [f"Node {found.name} stays cordoned until gpu_kubernetes.resume is called again."] if found.is_ours else []
    return {"result": False, "changes": changes, "comment": " ".join([*told, *end])}


def _may_end(found):
    return found.is_ours and around.may_end(found.mark)


def _taken_back(api, name, found, changes, told, test):
    if test and _may_end(found):
        changes[name] = {"old": f"cordoned by {control.MANAGER}", "new": "schedulable"}
        return {"changes": changes, "comment": " ".join([*told, f"Node {name} would be uncordoned."])}
    before, now = (found, found) if test else _uncordoned(api, name)
    if _may_end(before):
        now = control.node(api, name)
        if now.cordoned:
            told.append(f"Node {name} was uncordoned, and somebody else cordoned it at once: {_whose(now)}.")
            return {"result": False, "changes": changes, "comment": " ".join(told)}
        changes[name] = {"old": f"cordoned by {control.MANAGER}", "new": "schedulable"}
        told.append(f"Node {name} is given pods again.")
    elif now.cordoned:
        told.append(f"Node {name} stays cordoned, which somebody else wants: {_whose(now)}.")
    else:
        told.append(f"Node {name} takes pods already.")
    return around.answer(changes, told, test)


# -- the device plugin -----------------------------------------------------------------------------------------------------
def _refuse_plugin(plugin, namespace):
    if plugin is not None and not _PLUGIN.fullmatch(plugin):
        raise errors.PolicyError(
            f"plugin is {printable(plugin)[:80]!r}, and labels of the device plugin's pods are wanted, with a ',' between.",
            todo="Give such as app=nvidia-device-plugin-daemonset; nothing was done.",
        )
    if not _NAMESPACE.fullmatch(namespace):
        raise errors.PolicyError(f"namespace is {printable(namespace)[:80]!r}, which can be none.", todo="Nothing was done.")


def _expected(engine, rename):
    """What plugins should give out, by the name of the resource."""
    plugins = kubernetes.plugin_config(engine, rename=rename)
    return {name: number for each in plugins.values() for name, number in each["resources"].items()}


def _differs(found, wanted):
    """Sentence parts on what a node has otherwise for pods; of a resource that is no more kubelet keeps a 0."""
    there = _gpus(found)
    return [f"{name} is {there.get(name, '0')} and not {wanted.get(name, 0)}" for name in sorted({*there, *wanted})
            if there.get(name, "0") != str(wanted.get(name, 0))]  # fmt: skip


def _restarted(api, found, plugin, namespace, test, changes, told):
    """The plugin reads its file and looks at GPUs at its start: its pods on this node are ended. Returns their UIDs."""
    pods = control.pods(api, found.name, namespace, plugin)
    if not pods:
        raise errors.DeviceNotFound(
            f"The device plugin on node {found.name} was to be restarted, and no pod of {plugin} is there in namespace "
            f"{namespace}.",
            todo="Give its labels as 'plugin' and its 'namespace'; see 'kubectl get pods -A --show-labels'.",
        )
    if strays := [f"{pod.namespace}/{pod.name}" for pod in pods if pod.owner != "DaemonSet"]:
        raise errors.Unsupported(
            f"The device plugin on node {found.name} was to be restarted, and {', '.join(strays)} is of no DaemonSet that would "
            "make it anew.",
            todo="Give a 'plugin' that is the plugin's alone.",
        )
    names = [f"{pod.namespace}/{pod.name}" for pod in pods]
    for pod in pods:
        changes[f"{pod.namespace}/{pod.name}"] = {"old": "running", "new": "restarted"}
        if not test:
            control.delete_pod(api, pod, found.name)
    told.append(f"{', '.join(names)} {'would be' if test else 'was'} ended, to be made anew.")
    return frozenset(pod.uid for pod in pods)


def _is_offered(host, api, name, wanted, plugin, namespace, gone, within, told):
    """Whether the node has for pods what it should, from a plugin that was started since; waits for it."""

    def why_not():
        odd = _differs(control.node(api, name), wanted)
        fresh = not gone or any(pod.is_ready and pod.uid not in gone for pod in control.pods(api, name, namespace, plugin))
        return "; ".join(odd) if fresh else f"no new pod of {plugin} is ready"

    why = around.awaited(host, within, why_not, lambda found: not found)
    if why:
        told.append(f"Node {name} was to have its slices for pods within {within:g} s: {why}. See the device plugin's log.")
    return not why
