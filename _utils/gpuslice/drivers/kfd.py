"""
What KFD, the kernel's compute driver of AMD GPUs, tells: its topology (one node for each partition) and its clients.
"""

import re
from typing import NamedTuple

from gpuslice.drivers import device_nodes
from gpuslice.drivers.kernel import text
from gpuslice.model import Process
from gpuslice.numbers import whole

NODE = "/dev/kfd"
_TOPOLOGY = "/sys/class/kfd/kfd/topology/nodes"
_PROCESSES = "/sys/class/kfd/kfd/proc"


class Part(NamedTuple):
    """
    One node of the topology that has compute units: a partition, or a GPU that has only one.

    :ivar slot: ``0000:05:00``, the PCI address of its GPU without the function; :ivar index: which partition of the GPU it is.
    :ivar minor: number of its render node, None when it has none; :ivar compute_units: how many it has.
    :ivar memory_mib: its share of the memory, None when it is not told; :ivar hive: the XGMI group, "" for none.
    """

    slot: str
    index: int
    minor: int | None
    compute_units: int
    memory_mib: int | None
    hive: str

    @property
    def render_node(self):
        """``/dev/dri/renderD<minor>``, "" when it has none."""
        return "" if self.minor is None else f"/dev/dri/renderD{self.minor}"


def parts(host):
    """All parts of all GPUs, in the order of GPU and partition."""
    found = (_part(host, f"{_TOPOLOGY}/{name}") for name in host.listdir(_TOPOLOGY))
    return sorted((part for part in found if part), key=lambda part: (part.slot, part.index))


def parts_of(host, address):
    """The parts of the GPU at this PCI address."""
    return [part for part in parts(host) if part.slot == slot_of(address)]


def slot_of(address):
    """A PCI address without its function: partitions may be told as functions that are not on the bus."""
    return address.rpartition(".")[0]


def _part(host, base):
    told = text(host, f"{base}/properties") or ""
    known = {key: int(value) for key, value in re.findall(r"^(\w+)[ \t]+([0-9]{1,20})$", told, re.MULTILINE)}
    if not known.get("simd_count") or "location_id" not in known:
        return None
    location = known["location_id"]
    slot = f"{known.get('domain', 0):04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}"
    minor = known.get("drm_render_minor", 0)
    return Part(
        slot,
        location >> 28 or location & 7,
        minor if minor >= 128 else None,
        known["simd_count"] // max(known.get("simd_per_cu", 1), 1),
        _memory(host, base),
        str(known["hive_id"]) if known.get("hive_id") else "",
    )


def _memory(host, base):
    """Sum of the memory banks in MiB, None when there is none to read."""
    banks = [text(host, f"{base}/mem_banks/{name}/properties") or "" for name in host.listdir(f"{base}/mem_banks")]
    sizes = [int(size) for bank in banks for size in re.findall(r"^size_in_bytes[ \t]+([0-9]{1,20})$", bank, re.MULTILINE)]
    return sum(sizes) // 2**20 if sizes else None


def clients(host):
    """Process numbers of KFD's clients, those included whose open files can't be seen from here."""
    return [pid for name in host.listdir(_PROCESSES) if (pid := whole(name)) is not None]


def holding(host, nodes):
    """The processes that hold any of these device nodes open, and KFD's clients whose open files can't be seen from here."""
    seen = device_nodes.holding(host, nodes)
    hidden = [pid for pid in clients(host) if all(process.pid != pid for process in seen)]
    return [*seen, *(host.process(pid) or Process(pid, "a client of the compute driver") for pid in hidden)]
