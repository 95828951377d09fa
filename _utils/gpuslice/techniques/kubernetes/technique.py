"""
The file of a vendor's device plugin, by what a host has.
"""

from typing import final

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.outputs import kubernetes
from gpuslice.policy.as_text import as_yaml
from gpuslice.records.store import Record
from gpuslice.techniques.telling import NUMBER
from gpuslice.techniques.telling import Telling

FILE = "kubernetes.json"


@final
class Kubernetes(Telling):
    """What the device plugin of one host is told."""

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
