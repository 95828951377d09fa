"""
The file of a vendor's device plugin, by what a host has, and labels of the node in its cluster.

The cluster is asked by nobody here: the step says that labels are to be applied, and who takes the node back after the change
applies them (:func:`gpuslice.schedulers.kubernetes_node.resume`). Until that has happened each run of the pillar tries it.
"""

from typing import final

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.host.base import OWED
from gpuslice.outputs import kubernetes
from gpuslice.outputs import kubernetes_labels
from gpuslice.plan import CARVE
from gpuslice.policy.as_text import as_yaml
from gpuslice.records import labelled
from gpuslice.records.store import Record
from gpuslice.techniques.telling import NUMBER
from gpuslice.techniques.telling import Telling

FILE = "kubernetes.json"


@final
class Kubernetes(Telling):
    """What the device plugin and the cluster of one host are told."""

    # Applying labels ends nobody's work.
    effects = {**Telling.effects, "label": "setting"}
    name = "kubernetes"
    whom = "the device plugin"
    reread = "at its start: delete its pod, or send it SIGHUP"

    def kind(self, settings):
        """A configuration of NVIDIA's plugin, or arguments of another."""
        return kubernetes.FILE

    def record(self, check):
        """What it is told by."""
        return Record(self._host, FILE, "the record of what the device plugin is told", NUMBER, check)

    def about(self, settings):
        """What the node has for Kubernetes."""
        return "What this node has for Kubernetes"

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._planned: dict[str, str] = {}
        # Labels that this run has applied at its end: read again before that, they are still to be applied.
        self._left: dict[str, str] | None = None

    def beside(self, work, settings, goal):
        """That labels are to be applied: by the pillar alone, since only then somebody does."""
        cluster = settings.get("cluster")
        if not cluster or goal.has is None or "told" not in work.settings or self._is_owed():
            return
        config, dcm_profile = (cluster[name] or None for name in ("config", "dcm_profile"))
        held = len(self.quarantined(work))
        wanted = kubernetes_labels.lasting(kubernetes_labels.labels(goal.has.offered, "", 0, held, config, dcm_profile))
        where, there = labelled.read(self._host)
        if (where, there) != (labelled.place(cluster), wanted) and wanted != self._left:
            self._planned = wanted
            words = f"have the node labelled when this is over{_words(there, wanted)}"
            yield self.step(work.gpu, "label", {}, words, "file_write", CARVE, "have it labelled by what is there then")

    def _is_owed(self):
        """Whether who applies labels failed before, and is called again by this run anyhow."""
        if not self._host.has_record(OWED):
            return False
        from gpuslice.records.owed import Owed

        return any(hook["around"] == self.name for hook in Owed(self._host).hooks())

    def _run_label(self, gpu):
        labelled.forget(self._host)
        self._left = self._planned

    def _run_note(self, gpu):
        if not self._goal.settings.get("cluster"):
            labelled.forget(self._host)
        super()._run_note(gpu)

    def text(self, has, gpus, settings, forecast):
        """The file. Raises errors.PolicyError: the host has no GPU of that vendor; errors.Unsupported."""
        vendor, here = settings["vendor"], sorted({gpu.vendor for gpu in gpus.values()})
        if vendor not in here:
            raise errors.PolicyError(
                f"{settings['path']} is to be for the device plugin of {vendor}, and this host has GPUs of {', '.join(here)}.",
                todo="Set containers_gpu_container_integration:device_plugin to one of these.",
            )
        has = has._replace(every=tuple(device_nodes.with_render(self._host, part) for part in has.every))
        return as_yaml(*kubernetes.contents(kubernetes.plugin(has, gpus, vendor, settings["rename"])))


def _words(there, wanted):
    """Which labels change, to follow what is done."""
    changed = [key for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    told = [f"{key} {there.get(key, '(none)')} -> {wanted.get(key, '(none)')}" for key in sorted(changed)]
    return f": {', '.join(told)}" if told else ", elsewhere than before"
