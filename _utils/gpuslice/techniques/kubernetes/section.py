"""
Kubernetes, in the pillar.
"""

from gpuslice.policy.fields import INTEGRATION
from gpuslice.policy.fields import VENDORS
from gpuslice.policy.fields import Field
from gpuslice.policy.fields import flag
from gpuslice.policy.fields import mapping
from gpuslice.policy.fields import number
from gpuslice.policy.section import Telling
from gpuslice.shape import either
from gpuslice.shape import record
from gpuslice.shape import text
from gpuslice.shape import truth

FILE = "/etc/kubernetes/nvidia-device-plugin.yaml"
_PATH = r"/([^/\x00-\x1f\x7f-\x9f]+/)+[^/\x00-\x1f\x7f-\x9f]*\.yaml"
_KUBECONFIG = r"/[^\x00-\x1f\x7f-\x9f]*[^/\x00-\x1f\x7f-\x9f]"
_CONTEXT = r"[^\x00-\x1f\x7f-\x9f-][^\x00-\x1f\x7f-\x9f]{0,252}"
_NODE = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_NAMESPACE = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_VALUE = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
_LABEL = r"[A-Za-z0-9][A-Za-z0-9._/-]*==?[A-Za-z0-9][A-Za-z0-9._-]*"
_LABELS = f"{_LABEL}(,{_LABEL})*"
#: Where the API server is, and what is asked for, of whoever is labelled.
_WHERE = {"kubeconfig": _KUBECONFIG, "context": f"({_CONTEXT})?", "node": f"({_NODE})?"}
_CHOICES = {"config": f"({_VALUE})?", "dcm_profile": f"({_VALUE})?"}
_CLUSTER = record({name: text(pattern) for name, pattern in {**_WHERE, **_CHOICES}.items()})
_TOLD = record({
    "path": text(f"({_PATH})?"), "vendor": text("|".join(VENDORS)), "rename": truth, "cluster": either(record({}), _CLUSTER),
})  # fmt: skip
#: Seconds that draining may take beside those in which pods go, all that labelling and uncordoning do, and in which a plugin that
#: was started anew has to give out what is there.
_MORE, _RESUMING, _STARTING = 180, 240, 180


def _named(words: str, pattern: str, example: str, default: str = "") -> Field:
    return Field("pattern", words, default, pattern=f"^({pattern})?$", example=example)


class Kubernetes(Telling):
    """Its words."""

    TOLD = staticmethod(either(record({}), _TOLD))
    DECISIVE = ("kubernetes",)
    FIELD = mapping(
        "",
        kubernetes=mapping(
            "What Kubernetes is told of this node: the device plugin of the vendor under device_plugin by a file, the cluster by "
            "labels.",
            enabled=flag("true: file and labels follow the slices; false: the file is removed, if it is ours."),
            path=_named("Where the file is written to: one of its own, whose name ends in .yaml; empty for none.", _PATH,
                        f"an absolute path such as {FILE}", FILE),
            rename=flag("NVIDIA: have shares called nvidia.com/gpu.shared, so that nobody gets one who asked for a GPU.", True),
            kubeconfig=_named("By which this node's API server is asked; without one no cluster is.", _KUBECONFIG,
                              "an absolute path such as /etc/kubernetes/gpu-slicing.kubeconfig"),
            context=_named("One of that file; its current one where it is empty.", _CONTEXT, "a context such as gpus"),
            node=_named("Name of this node in Kubernetes; the host's name where it is empty.", _NODE, "a node's name such as n1"),
            labels=flag("With a kubeconfig: our labels of the node follow the slices.", True),
            config=_named("Value of the label nvidia.com/device-plugin.config; empty: it is left to others.", _VALUE,
                          "a label's value such as mig-mixed"),
            dcm_profile=_named("Value of the label dcm.amd.com/gpu-config-profile; empty: it is left to others.", _VALUE,
                               "a label's value such as cpx"),
            drain=flag("With a kubeconfig: the node is cordoned and drained before a change that makes or ends slices.", True),
            within=number("Seconds in which its pods have to be gone, or the change is not begun.", 600, 0, 3600 - _MORE),
            delete_emptydir_data=flag("Evict also pods that lose what they have in an emptyDir."),
            force=flag("End also pods that nothing makes anew."),
            pod_selector=_named("Evict only pods with these labels; all where it is empty.", _LABELS, "labels such as gpu=yes"),
            plugin=_named("Labels of the device plugin's pods, which are made anew after a change; empty: none is.", _LABELS,
                          "labels such as app=nvidia-device-plugin-daemonset"),
            namespace=Field("pattern", "Where these pods are.", "kube-system", pattern=f"^{_NAMESPACE}$",
                            example="a namespace such as gpu-operator"),
        ),
    )  # fmt: skip

    def handed_out(self, filled, written, notes):
        """``told``: what is on record of it, {} for nothing; ``quiet``: whether the plugin is started anew after it."""
        said = filled["kubernetes"]
        if not said["enabled"]:
            return self.NOTHING
        _judge(said, written["kubernetes"], notes)
        told = {"path": said["path"], "vendor": filled["device_plugin"], "rename": said["rename"], "cluster": {}}
        if said["kubeconfig"] and said["labels"]:
            told["cluster"] = {name: said[name] for name in (*_WHERE, *_CHOICES)}
        return {"told": told, "quiet": bool(said["kubeconfig"] and said["plugin"])}

    def around(self, filled, written):
        """
        Draining and taking back. What only labels the node is run by itself: it starts no plugin anew that gives out what is
        there.
        """
        said = filled["kubernetes"]
        if not (said["enabled"] and said["kubeconfig"]):
            return [], []
        where = {name: said[name] for name in _WHERE if said[name]}
        drain = {name: said[name] for name in ("within", "delete_emptydir_data", "force")}
        drain |= {"pod_selector": said["pod_selector"]} if said["pod_selector"] else {}
        resume = {**where, "labels": said["labels"], **{name: said[name] for name in _CHOICES if said[name]}}
        seconds = _RESUMING
        if said["plugin"]:
            resume |= {**{name: said[name] for name in ("plugin", "namespace", "rename")}, "within": _STARTING}
            seconds += _STARTING
        before, after = [], []
        if said["drain"]:
            asked = {**where, "why": "GPUs are sliced anew", **drain}
            before.append(self.hook("gpu_kubernetes.drain", asked, said["within"] + _MORE))
        if said["drain"] or said["labels"] or said["plugin"]:
            after.append(self.hook("gpu_kubernetes.resume", resume, seconds))
        if said["labels"]:
            after.append({**self.hook("gpu_kubernetes.resume", {**resume, "anew": False}, seconds), "light": True})
        return before, after


def _judge(said, written, notes):
    path = f"{INTEGRATION}:kubernetes"
    if not said["path"] and not said["kubeconfig"]:
        notes.wrong(f"{path}:path", "is empty, and there is no kubeconfig: nobody would be told anything.")
    if not said["kubeconfig"]:
        for key in ("context", "node", "labels", "config", "dcm_profile", "drain", "plugin", "pod_selector"):
            if written.get(key):
                notes.warn(f"{path}:{key}", "has no effect without kubeconfig: no cluster is asked.")


SECTION = Kubernetes()
