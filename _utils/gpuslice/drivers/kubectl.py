"""
The API server of Kubernetes as ``kubectl`` asks it: what it has of a node, labels by server-side apply, cordon and drain.

Source: the documentation of Kubernetes ("Server-Side Apply", "Safely Drain a Node", "API-initiated Eviction"); the answers were
seen of kubectl 1.20 and 1.32 with a kube-apiserver 1.20.
"""

import json
import os
import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import programs
from gpuslice.host.base import Host
from gpuslice.printable import printable

PROGRAM = "kubectl"
_KUBECTL = programs.Program(
    PROGRAM, "Install it (Debian: kubernetes-client), or run this where it is.", "See whether the API server answers"
)  # fmt: skip
#: As whom the API server knows us: what it has of this manager is ours.
MANAGER = "gpu-slicing"
#: The annotation that says that a cordon is ours, and why.
MARK = "gpu-slicing/cordoned"
#: Seconds for one answer of the API server, and for all that kubectl does beside draining.
_ANSWER, _SECONDS = 20, 90
#: Whom servers before 1.22 name for what was set before anybody applied anything to the object.
_UNTOLD = ("", "before-first-apply")
#: Permissions of a file by which others than its owner write it.
_WRITABLE = 0o022

_CONFIG = (
    "error loading config file", "invalid configuration", "json parse error", "illegal base64", "no configuration has been",
    "cannot unmarshal", "unable to read client-", "unable to load root certificates", "no Auth Provider found",
)  # fmt: skip
_NO_CONTEXT = re.compile(r"context was not found|context \S+ does not exist|context \"[^\"]*\" does not exist")
_AWAY = (
    "was refused", "Unable to connect", "i/o timeout", "deadline exceeded", "Client.Timeout", "handshake timeout", "no such host",
    "no route to host", "connection reset", "(ServiceUnavailable)", "(Timeout)", "(InternalError)", "x509:", "unexpected EOF",
    "connection lost", "request canceled",
)  # fmt: skip
_STRANGER = ("(Unauthorized)", "must be logged in", "provide credentials", "getting credentials", ": Unauthorized")
_FORBIDDEN = re.compile(r'User "([^"]*)" cannot (\S+) resource "([^"]*)"')
_HELD = re.compile(r'conflicts? with "([^"]*)"[^:"]*:((?:\s*(?:- )?\.\S+)+)')
#: Lines of kubectl's own log: they say five times what the last line says once.
_LOG = re.compile(r"^[EWI]\d{4} .*\n?", re.MULTILINE)
_LABEL = re.compile(r"\.metadata\.labels\.(\S+)")
#: Pods as they are listed. What comes after them differs: the next reason begins behind a comma, or on a line of its own (1.20).
_POD = r"[^\s,:/\]]+/[^\s,:/\]]+"
_NAMED = rf"[^:\]]*: ({_POD}(?:, {_POD})*)"
_LOCAL = re.compile(f"local storage{_NAMED}")
_UNMANAGED = re.compile(f"(?:no controller|not managed by){_NAMED}")
_BUDGET = re.compile(r'evicting pods?/"([^"]*)" -n "([^"]*)" \(will retry')
_EVICTED = re.compile(r"^evicting pod (\S+)", re.MULTILINE)


class Api(NamedTuple):
    """
    How the API server is reached.

    :ivar kubeconfig: path of the file that says where it is and who asks; :ivar context: one of those in it, "" for its own.
    """

    host: Host
    kubeconfig: str
    context: str = ""


class Node(NamedTuple):
    """
    A node as the API server has it.

    :ivar version: changes with every change of it. :ivar owned: keys of the labels that we applied.
    :ivar holders: label -> who else set it. :ivar cordoned: whether it is given no more pods; :ivar by: who cordoned it, "" where
        that is not told. :ivar mark: our annotation, "" for none. :ivar allocatable: what it has for pods.
    """

    name: str
    uid: str
    version: str
    labels: dict[str, str]
    owned: frozenset[str]
    holders: dict[str, str]
    cordoned: bool
    by: str
    mark: str
    allocatable: dict[str, str]

    @property
    def is_ours(self) -> bool:
        """Whether it is cordoned, and by us: a mark may be left of an earlier cordon, which somebody else ended."""
        return self.cordoned and bool(self.mark) and self.by in (*_UNTOLD, MANAGER)


class Pod(NamedTuple):
    """:ivar owner: kind of what makes it anew, "" for nothing; :ivar is_ready: whether it serves and is not about to go."""

    namespace: str
    name: str
    uid: str
    owner: str
    is_ready: bool


class Stale(errors.ToolFailed):
    """The node was changed by somebody else since it was read: to be read again."""


def node(api: Api, name: str) -> Node:
    """
    What the API server has of a node.

    :raises errors.PolicyError: the kubeconfig's path; errors.ToolMissing, errors.ToolHangs: kubectl; errors.DeviceNotFound: there
        is no such node; errors.PermissionDenied: we may not; errors.ToolFailed: it can't be reached, or refuses for another
        reason.
    """
    # As it is sent: who has which field is left out of other forms, by an option that older kubectls don't know.
    said = _kubectl(api, ["get", "--raw", f"/api/v1/nodes/{name}"], f"how node {name} is", name)
    return _node(said, name)


def apply(api: Api, found: Node, labels: dict[str, str], force: bool, test: bool) -> Node:
    """
    A node has these labels of ours and no others of ours: what we applied before and is not among them goes.

    :param force: take what another manager has; :param test: only ask what would come of it. :return: the node then.
    :raises errors.ForeignChange: another manager has one with another value; errors.PolicyError: one is no label; and as
        :func:`node`.
    """
    wish = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": found.name, "uid": found.uid, "labels": labels}}
    options = ["--force-conflicts"] * force + ["--dry-run=server"] * test
    command = ["apply", "--server-side", f"--field-manager={MANAGER}", "--validate=false", *options, "-o", "json", "-f", "-"]
    return _node(_kubectl(api, command, f"to label node {found.name}", found.name, json.dumps(wish)), found.name)


def cordon(api: Api, found: Node, why: str) -> Node:
    """A node is given no more pods, and marked as ours. Raises :class:`Stale`: it was changed since; and as :func:`node`."""
    return _patched(api, found, {"unschedulable": True}, why, f"to cordon node {found.name}")


def uncordon(api: Api, found: Node) -> Node:
    """A node that we marked is given pods again, and has no mark. Raises as :func:`cordon`."""
    return _patched(api, found, {"unschedulable": None}, None, f"to uncordon node {found.name}")


def unmark(api: Api, found: Node) -> Node:
    """A node has no mark of ours; whether it is cordoned stays. Raises as :func:`cordon`."""
    return _patched(api, found, {}, None, f"to take our mark from node {found.name}")


def drain(
    api: Api, name: str, within: float, delete_emptydir_data: bool, force: bool, pods: str, test: bool
) -> tuple[str, list[str]]:
    """
    Have the pods of a node evicted, but for those of DaemonSets, and wait until they are gone.

    :param within: seconds, at least 1; :param delete_emptydir_data, force: as kubectl has them: also pods with such data, or that
        nothing makes anew. :param pods: label selector of those who go, "" for all. :param test: only say which.
    :return: why pods stay, "" where all went; and those who were evicted. :raises: as :func:`node`.
    """
    # kubectl takes 0 for no limit.
    options = [f"--timeout={max(1, round(within))}s", *["--delete-emptydir-data"] * delete_emptydir_data, *["--force"] * force,
               *([f"--pod-selector={pods}"] if pods else []), *["--dry-run=client"] * test]  # fmt: skip
    try:
        command = ["drain", name, "--ignore-daemonsets", *options]
        said = _kubectl(api, command, f"to drain node {name}", name, seconds=within + _SECONDS)
    except _Stays as err:
        return err.what, []
    return "", list(dict.fromkeys(_EVICTED.findall(said)))


def pods(api: Api, name: str, namespace: str, selector: str) -> list[Pod]:
    """The pods of a selector that are on a node. Raises as :func:`node`."""
    wanted = f"which pods of {selector} are on node {name}"
    which = [f"--namespace={namespace}", f"--selector={selector}", f"--field-selector=spec.nodeName={name}"]
    listed = _json(_kubectl(api, ["get", "pods", *which, "-o", "json"], wanted, name), wanted)
    try:
        return [_pod(each) for each in listed["items"]]
    except _ODD as err:
        raise _odd(wanted) from err


def delete_pod(api: Api, pod: Pod, name: str) -> None:
    """Have a pod of a node end. Raises as :func:`node`."""
    command = ["delete", "pod", pod.name, f"--namespace={pod.namespace}", "--wait=false", "--ignore-not-found"]
    _kubectl(api, command, f"to restart pod {pod.namespace}/{pod.name} on node {name}", name)


# -- what it is asked with -------------------------------------------------------------------------------------------------
class _Stays(errors.ToolFailed):
    """Pods stay on the node."""


def _patched(api, found, spec, mark, wanted):
    """The version makes it fail where the node is no longer the one that was read."""
    wish = {"metadata": {"resourceVersion": found.version, "annotations": {MARK: mark}}, "spec": spec}
    how = ["--type=merge", f"--field-manager={MANAGER}", "-o", "json", f"--patch={json.dumps(wish)}"]
    return _node(_kubectl(api, ["patch", "node", found.name, *how], wanted, found.name), found.name)


def _kubectl(api, arguments, wanted, name, given="", seconds=_SECONDS):
    """What kubectl answers."""
    refuse_config(api)
    reached = [f"--kubeconfig={api.kubeconfig}", *([f"--context={api.context}"] if api.context else [])]
    # It would keep what it knows of the server in the home directory of root.
    limits = [f"--request-timeout={_ANSWER}s", "--cache-dir=/dev/null"]
    done = programs.ask(api.host, _KUBECTL, [*reached, *limits, *arguments], wanted, seconds, given)
    if done.returncode:
        said = " ".join(_LOG.sub("", done.stderr).split())
        raise _refusal(api, said or done.said or done.failure, wanted, name)
    return done.stdout


def refuse_config(api: Api) -> None:
    """Raises errors.PolicyError: no kubeconfig is there; errors.PermissionDenied: others than root may say what is in it."""
    path = api.kubeconfig
    if not path.startswith("/"):
        raise errors.PolicyError(
            f"kubeconfig is {printable(path)[:200]!r}, and has to be an absolute path.", todo="Nothing was done."
        )
    try:
        uid, _, mode = api.host.owner(path)
    except OSError as err:
        raise errors.PolicyError(
            f"The kubeconfig {path} can't be read: {err.strerror}.",
            todo="Give the path of one on this host; see docs/kubernetes.md.",
        ) from err
    if mode & _WRITABLE or uid not in ({0} if api.host.simulated else {0, os.geteuid()}):
        raise errors.PermissionDenied(
            f"The kubeconfig {path} can be written by others than root, and may name programs that are run as root.",
            todo=f"Run 'chown root {path}' and 'chmod 600 {path}', having looked what is in it.",
        )


# -- what it refuses -------------------------------------------------------------------------------------------------------
def _refusal(api, said, wanted, name):
    """The error for what kubectl said when it failed. Of a kubeconfig nothing is repeated: it has tokens."""
    asked = f"kubectl was asked {wanted}"
    if _NO_CONTEXT.search(said):
        return errors.PolicyError(
            f"{asked}, and the kubeconfig {api.kubeconfig} has no context {api.context or 'to go by'}.",
            todo="Give one of it as 'context'.",
        )
    if any(words in said for words in _CONFIG):
        return errors.PolicyError(
            f"{asked}, and can't use the kubeconfig {api.kubeconfig}: it is none, or something that it names is missing.",
            todo=f"See 'kubectl --kubeconfig={api.kubeconfig} config view'.",
        )
    if found := _FORBIDDEN.search(said):
        user, verb, resource = found.groups()
        return errors.PermissionDenied(
            f"{asked}, and user {user} may not {verb} {resource}.",
            todo="Grant that (examples/kubernetes/rbac.yaml), or give another kubeconfig.",
        )
    if stays := _why_pods_stay(said):
        return _Stays(stays)
    if any(words in said for words in _STRANGER):
        return errors.PermissionDenied(
            f"{asked}, and the API server does not know who asks.", todo=f"Renew the credentials in {api.kubeconfig}."
        )
    if any(words in said for words in _AWAY):
        return errors.ToolFailed(
            f"{asked}, and the API server can't be reached: {said.rstrip('.')}.", todo="Mend the way to it, then run again."
        )
    if "(NotFound)" in said and "nodes" in said:
        return errors.DeviceNotFound(
            f"{asked}, and the cluster has no node of that name.", todo="Give its name there as 'node'; see 'kubectl get nodes'."
        )
    if "Apply failed with" in said:
        return _conflict(said, name)
    # The last is what 1.20 says to another uid.
    if "(Conflict)" in said or "Precondition failed" in said or "metadata.uid: Invalid value" in said:
        return Stale(f"{asked}, and somebody else changed it at the same time.", todo="Run again.")
    if "is invalid:" in said or "(Invalid)" in said:
        return errors.PolicyError(
            f"{asked}, and the API server takes that for invalid: {said.rstrip('.')}.", todo="Mend that and run again."
        )
    if "(Forbidden)" in said or "is forbidden" in said:
        return errors.PermissionDenied(
            f"{asked}, and it is forbidden: {said.rstrip('.')}.", todo="Use credentials that may do it."
        )
    return errors.ToolFailed(
        f"{asked}, and refused: {said.rstrip('.')}.", todo=f"See 'kubectl describe node {name}', then run again."
    )


def _conflict(said, name):
    held = [(", ".join(_LABEL.findall(fields)), manager) for manager, fields in _HELD.findall(said)]
    told = "; ".join(f"{labels} of '{manager}'" for labels, manager in held) or said
    return errors.ForeignChange(
        f"Node {name} was to be labelled, and has labels of another field manager with other values: {told}.",
        todo="Have it give them up, or take them with force=True. Nothing was labelled.",
    )


def _why_pods_stay(said):
    """Why a drain did not end, "" where it is something else that failed."""
    why = []
    if found := _LOCAL.search(said):
        why.append(f"{found[1]} would lose what is in an emptyDir (delete_emptydir_data=True allows that)")
    if found := _UNMANAGED.search(said):
        why.append(f"nothing would make {found[1]} anew (force=True ends it all the same)")
    if why:
        return "; ".join(why)
    if found := list(dict.fromkeys(_BUDGET.findall(said))):
        names = ", ".join(f"{namespace}/{pod}" for pod, namespace in found)
        return f"a disruption budget keeps {names}"
    return "pods did not end" if "global timeout reached" in said or "timed out waiting for the condition" in said else ""


#: What comes of an answer of another form than the API server's.
_ODD = (KeyError, TypeError, AttributeError, ValueError)


# -- what it answers -------------------------------------------------------------------------------------------------------
def _odd(wanted):
    return errors.ToolFailed(f"kubectl was asked {wanted}, and its answer can't be understood.", todo="See 'kubectl version'.")


def _json(text, wanted):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        raise _odd(wanted) from err


def _node(text, name):
    wanted = f"how node {name} is"
    told = _json(text, wanted)
    try:
        about, spec = told["metadata"], told.get("spec") or {}
        fields = [(each.get("manager", ""), each.get("operation", ""), each.get("fieldsV1") or {})
                  for each in about.get("managedFields") or ()]  # fmt: skip
        labels = [(who, how, key[2:]) for who, how, each in fields
                  for key in _below(each, "f:metadata", "f:labels") if key.startswith("f:")]  # fmt: skip
        cordoned = bool(spec.get("unschedulable"))
        return Node(
            about["name"], about["uid"], about["resourceVersion"], dict(about.get("labels") or {}),
            frozenset(key for who, how, key in labels if (who, how) == (MANAGER, "Apply")),
            {key: who for who, how, key in labels if (who, how) != (MANAGER, "Apply")},
            cordoned, next((who for who, _, each in fields if "f:unschedulable" in _below(each, "f:spec")), ""),
            (about.get("annotations") or {}).get(MARK, ""), dict((told.get("status") or {}).get("allocatable") or {}),
        )  # fmt: skip
    except _ODD as err:
        raise _odd(wanted) from err


def _below(fields, *keys):
    for key in keys:
        fields = fields.get(key) or {}
    return fields


def _pod(told):
    about, status = told["metadata"], told.get("status") or {}
    owner = next((each["kind"] for each in about.get("ownerReferences") or () if each.get("controller")), "")
    ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or ())
    return Pod(about["namespace"], about["name"], about["uid"], owner, ready and not about.get("deletionTimestamp"))
