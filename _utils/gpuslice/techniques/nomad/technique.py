"""
What Nomad's device plugin for NVIDIA must not give of a host, by what it has and who has it.
"""

from typing import final

from gpuslice import errors
from gpuslice.inventory import discovery
from gpuslice.outputs import nomad
from gpuslice.records.store import Record
from gpuslice.techniques.telling import NUMBER
from gpuslice.techniques.telling import Telling

FILE = "nomad.json"


@final
class Nomad(Telling):
    """What Nomad is told of one host."""

    name = "nomad"
    whom = "Nomad"
    reread = "when its agent starts"

    def kind(self, settings):
        """A file of the agent."""
        return nomad.FILE

    def record(self, check):
        """What it is told by."""
        return Record(self._host, FILE, "the record of what Nomad is told", NUMBER, check)

    def about(self, settings):
        """What the node has for Nomad."""
        return nomad.ABOUT

    def text(self, has, gpus, settings, forecast):
        """The block of the plugin. Raises errors.PolicyError: the host has no GPU of NVIDIA."""
        if not any(gpu.vendor == nomad.VENDOR for gpu in gpus.values()):
            raise errors.PolicyError(
                f"{settings['path']} is to be for Nomad's device plugin of {nomad.VENDOR}, and this host has no such GPU.",
                todo="Take nomad out of containers_gpu_container_integration here.",
            )
        known = [self._known(gpu) for gpu in gpus.values()]
        return nomad.text(nomad.of(has, known, forecast), settings["plugin"], settings["period"])

    def _known(self, gpu):
        """A GPU with its UUID, as far as its driver tells it."""
        try:
            return discovery.with_uuids([gpu], self._sessions)[0]
        except errors.GpuSliceError:
            return gpu
