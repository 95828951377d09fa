"""
What opens a slice: its device nodes with exactly the permissions needed, and the environment that names it.
"""

from collections.abc import Container
from collections.abc import Iterable
from collections.abc import Mapping

from gpuslice.drivers import device_nodes
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.pci import VFIO_DRIVERS
from gpuslice.host.base import Host
from gpuslice.model import Slice
from gpuslice.outputs import mps
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Node
from gpuslice.outputs.device import merged

_CAPABILITIES = "/dev/nvidia-caps/"
#: What every program on a GPU of NVIDIA opens beside its GPU (containers and services alike); nvidia-uvm-tools is for profilers.
_CONTROL = (Node("/dev/nvidiactl"), Node("/dev/nvidia-uvm"))
#: AMD's compute driver has one node for all GPUs: which of them opens is decided by the render node.
_KFD = Node("/dev/kfd")
#: In the place of what only the creation of a slice gives.
UNKNOWN = "(when it is made)"


class Devices:
    """
    What opens the slices of one host.

    :param vendors: PCI address -> vendor.
    """

    def __init__(self, host: Host, vendors: Mapping[str, str]) -> None:
        self._host, self._vendors = host, vendors

    def of(self, each: Slice, place: int = 0) -> Device:
        """
        What opens one slice.

        :param place: of its GPU among those that the program sees, for Level Zero, which counts them.
        """
        if self._is_for_machines(each):
            nodes = device_nodes.vfio(self._host, each.identity)
            return Device(each.name, tuple(Node(node) for node in (*nodes, "/dev/vfio/vfio")))
        vendor = self._vendors.get(each.gpu, "")
        nodes = [node for node in each.device_nodes if not node.startswith("/dev/dri/card")]
        own = tuple(Node(node, "r" if node.startswith(_CAPABILITIES) else "rw") for node in nodes)
        if each.kind == "mps":
            return Device(each.name, (*_CONTROL, *own), each.environment, mps.mounts(each.environment), (mps.unit(each.of),))
        if vendor == "nvidia":
            return Device(each.name, (*_CONTROL, *own), _cuda(each))
        if vendor == "amd":
            return Device(each.name, (*([] if _KFD in own else [_KFD]), *own))
        return Device(each.name, own, _level_zero(each, place))

    def of_consumer(self, name: str, slices: Iterable[Slice]) -> Device:
        """What opens all slices of a consumer; of several shares of a daemon by the heaviest: a program is one client."""
        slices = list(slices)
        gpus = sorted({each.gpu for each in slices})
        shares = [each for each in slices if each.kind == "mps"]
        if shares:
            heaviest = max(shares, key=lambda each: each.weight or 0)
            slices = [each._replace(environment=heaviest.environment) if each in shares else each for each in slices]
        return merged(name, [self.of(each, gpus.index(each.gpu)) for each in slices])

    def closed(self, slices: Iterable[Slice], gpus: Container[str]) -> list[str]:
        """
        Names of slices that nobody can open, such as a virtual function without a driver: what all GPUs of a vendor have in
        common opens nothing by itself.

        :param gpus: those whose slices are there, and not only forecast.
        """
        there = [each for each in slices if each.gpu in gpus and not each.taken]
        return [each.name for each in there if not (each.device_nodes or self._is_for_machines(each))]

    def _is_for_machines(self, each: Slice) -> bool:
        """Whether a VFIO driver has it, so that only a virtual machine monitor can use it."""
        if each.kind not in ("passthrough", "vf"):
            return False
        return self._host.readlink(f"{DEVICES}/{each.identity}/driver") in VFIO_DRIVERS


def _cuda(each: Slice) -> tuple[tuple[str, str], ...]:
    # A replica is the slice on which it stands, as far as CUDA knows.
    identity = each.identity.partition("::")[0]
    if identity and not identity.startswith(("GPU-", "MIG-")):
        # Whose UUID nothing tells: no other GPU can be opened all the same.
        return ()
    return (("CUDA_VISIBLE_DEVICES", identity or UNKNOWN),)


def _level_zero(each: Slice, place: int) -> tuple[tuple[str, str], ...]:
    """The mask of a partition, which counts what the program sees: not the GPUs of the host, but those that it can open."""
    if each.kind != "environment":
        return ()
    _, dot, tile = each.profile.partition(".")
    mask = f"{place}.{tile}" if dot else str(place)
    return (
        ("ZE_FLAT_DEVICE_HIERARCHY", "COMPOSITE"), ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1"), ("ZE_AFFINITY_MASK", mask),
    )  # fmt: skip
