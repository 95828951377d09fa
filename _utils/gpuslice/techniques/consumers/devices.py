"""
What opens a slice: its device nodes with exactly the permissions needed, and what names it to programs. All of it is told by the
slice (:class:`gpuslice.model.Slice`), and by the vendor what all programs on its GPUs need; no technology is known here.
"""

from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping

from gpuslice.drivers import device_nodes
from gpuslice.model import PLACE
from gpuslice.model import Slice
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from gpuslice.outputs.device import merged

_CAPABILITIES, _VFIO = "/dev/nvidia-caps/", "/dev/vfio/"
#: In the place of what only the creation of a slice gives.
UNKNOWN = "(when it is made)"


class Devices:
    """
    What opens the slices of one host.

    :param vendors: PCI address -> vendor.
    """

    def __init__(self, vendors: Mapping[str, str]) -> None:
        self._vendors = vendors

    def of(self, each: Slice, place: int = 0) -> Device:
        """
        What opens one slice.

        :param place: of its GPU among those that the program sees.
        """
        vendor = self._vendors.get(each.gpu, "")
        nodes = [node for node in each.device_nodes if not node.startswith("/dev/dri/card")]
        # What VFIO has is for a virtual machine, in which its driver runs.
        is_for_machine = any(node.startswith(_VFIO) for node in nodes)
        common = (device_nodes.VFIO_CONTAINER,) if is_for_machine else device_nodes.COMMON.get(vendor, ())
        missing = [node for node in common if node not in nodes]
        nodes = [*nodes, *missing] if is_for_machine else [*missing, *nodes]
        opened = [Node(node, "r" if node.startswith(_CAPABILITIES) else "rw") for node in nodes]
        environment = tuple((name, value.replace(PLACE, str(place))) for name, value in each.environment)
        if not environment and vendor == "nvidia" and not is_for_machine:
            environment = _cuda(each)
        return Device(each.name, tuple(opened), environment, tuple(Mount(folder, folder) for folder in each.folders), each.units)

    def of_consumer(self, name: str, slices: Iterable[Slice], vram_mib: int | None = None) -> Device:
        """
        What opens all slices of a consumer; of several that a unit serves by the heaviest: a program is one client.

        :param vram_mib: the limit of its memory of each GPU, which MPS keeps for each program by itself.
        """
        slices = list(slices)
        gpus = sorted({each.gpu for each in slices})
        served = [each for each in slices if each.units]
        if served:
            heaviest = max(served, key=lambda each: each.weight or 0)
            way = {"environment": heaviest.environment, "folders": heaviest.folders}
            slices = [each._replace(**way) if each.units else each for each in slices]
        found = merged(name, [self.of(each, gpus.index(each.gpu)) for each in slices])
        return _pinned(found, slices, vram_mib) if vram_mib else found


def _pinned(device: Device, slices: Iterable[Slice], vram_mib: int) -> Device:
    """With its limit of memory, where a daemon of MPS keeps it; few consumers have one, and no other loads what writes it."""
    from gpuslice.outputs import mps

    if any(mps.lowers(each, vram_mib) for each in slices):
        return device._replace(environment=mps.pinning(device.environment, vram_mib))
    return device


def closed(slices: Iterable[Slice], gpus: Container[str]) -> list[str]:
    """
    Names of slices that nobody can open, such as a virtual function without a driver: what all GPUs of a vendor have in common
    opens nothing by itself.

    :param gpus: those whose slices are there, and not only forecast.
    """
    return [each.name for each in slices if each.gpu in gpus and not each.taken and not each.device_nodes]


def _cuda(each: Slice) -> tuple[tuple[str, str], ...]:
    if each.device and not each.device.startswith(("GPU-", "MIG-")):
        # Whose UUID nothing tells: no other GPU can be opened all the same.
        return ()
    return (("CUDA_VISIBLE_DEVICES", each.device or UNKNOWN),)
