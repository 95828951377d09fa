"""
A GPU that nothing cuts, as a slice: the one that is all of it.
"""

from gpuslice.drivers import device_nodes
from gpuslice.host.base import Host
from gpuslice.model import Gpu
from gpuslice.model import Slice


def whole_gpu(host: Host, gpu: Gpu) -> Slice:
    """The whole GPU as a slice, with who uses it. Its name is its PCI address."""
    nodes = device_nodes.of_whole(host, gpu)
    users = tuple(process.as_dict() for process in device_nodes.holding(host, nodes))
    identity, memory = gpu.uuid or gpu.address, gpu.memory_mib
    return Slice(gpu.address, "gpu", gpu.model, identity, memory, 1.0, "", tuple(nodes), users, name=gpu.address)
