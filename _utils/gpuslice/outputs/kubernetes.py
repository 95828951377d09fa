"""
What device plugins of Kubernetes are told of a node: NVIDIA's by a configuration file, AMD's and Intel's by arguments.

Source: of NVIDIA's plugin ``api/config/v1``, ``internal/rm/device_map.go`` and ``internal/plugin/mps.go`` (0.20); of AMD's
``cmd/k8s-device-plugin/main.go``; of Intel's ``cmd/gpu_plugin/README.md``. Which resources a node has is told as they name them.
"""

import re
from collections import Counter
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs.file import Kind
from gpuslice.outputs.offer import CLOSED
from gpuslice.outputs.offer import Offer

#: The first line of each file, by which ours is known.
MARK = "# What a device plugin is told of this node, written by gpu_kubernetes: what is changed by hand is lost."
FILE = Kind(
    "a device plugin's configuration", ".yaml", MARK, "what the device plugin is told", "the device plugin",
    "Name another path, or move that file away.",
)  # fmt: skip
#: The technology in whose mode a GPU without slices can't be used.
_MIG = "mig"
NONE, SINGLE, MIXED = "none", "single", "mixed"
#: Kind of a slice by which several share a GPU -> key of ``sharing``.
SHARES = {"replica": "timeSlicing", "mps": "mps"}
_SAID = {"replica": "time-slicing", "mps": "MPS"}
_FOR_MACHINES = ("vf-passthrough", "passthrough", "vgpu")
#: AMD's virtual functions too: the host's driver of them serves no programs.
_FOR_MACHINES_OF_AMD = ("vf", *_FOR_MACHINES)
#: Where the vendor's chart has the folders of its MPS daemons.
MPS_ROOT = "/run/nvidia/mps"
_COMPUTE_INSTANCE = re.compile(r"[0-9]+c\.")


class Plugin(NamedTuple):
    """
    What one vendor's plugin is told.

    :ivar arguments: of its container; :ivar file: its configuration file as data, None where it needs none.
    :ivar resources: name of a resource -> how many of it the node is going to have. :ivar why: what the settings come of.
    :ivar notes: sentences on what they can't say.
    """

    arguments: tuple[str, ...]
    file: Mapping[str, Any] | None
    resources: Mapping[str, int]
    why: str
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict:
        """As users get it."""
        found = {"arguments": list(self.arguments), "file": self.file, "resources": dict(self.resources), "why": self.why}
        return {**found, "notes": list(self.notes)}


class Node(NamedTuple):
    """
    What a node has of one vendor.

    :ivar slices: everything, with slices on which others stand, and whole GPUs (kind ``gpu``). :ivar gpus: PCI address -> GPU.
    :ivar empty: addresses of GPUs in MIG mode that have no MIG device. :ivar held: name of a slice or address of a
        GPU -> why nobody is to be given it.
    """

    slices: tuple[Slice, ...]
    gpus: Mapping[str, Gpu]
    empty: tuple[str, ...] = ()
    held: Mapping[str, str] = {}


def node(has: Offer, gpus: Mapping[str, Gpu], vendor: str) -> Node:
    """
    What a node has of one vendor.

    :param gpus: PCI address -> GPU, of all vendors.
    """
    mine = {address: gpu for address, gpu in gpus.items() if gpu.vendor == vendor}
    parts = tuple(part for part in (*has.every, *has.whole) if part.gpu in mine)
    closed = {address: by for address, by in has.closed.items() if address in mine and mine[address].driver}
    empty = tuple(address for address, by in closed.items() if by == _MIG)
    held = {address: CLOSED for address in closed if address not in empty} | dict(has.held)
    names = {part.name for part in parts} | set(mine)
    return Node(parts, mine, empty, {name: why for name, why in held.items() if name in names})


def plugin(has: Offer, gpus: Mapping[str, Gpu], vendor: str, rename: bool = True) -> Plugin:
    """
    What the plugin of a vendor is told of a node.

    :param gpus: as of :func:`node`; :param rename: as of :func:`nvidia`. Raises as the functions of each vendor.
    """
    of_vendor = node(has, gpus, vendor)
    if vendor == "nvidia":
        return nvidia(of_vendor, rename)
    return amd(of_vendor) if vendor == "amd" else intel(of_vendor)


def contents(plugin: Plugin) -> tuple[Mapping[str, Any], list[str]]:
    """Data of the file of a plugin, or of a mapping ``args`` for one that has none; sentences for comments above it."""
    data = plugin.file if plugin.file is not None else {"args": list(plugin.arguments)}
    told = ", ".join(f"{name}: {number}" for name, number in plugin.resources.items()) or "nothing"
    return data, [MARK.removeprefix("# "), f"Resources: {told}.", f"Why so: {plugin.why}.", *plugin.notes]


# -- NVIDIA ----------------------------------------------------------------------------------------------------------------
class _Devices(NamedTuple):
    """
    What NVIDIA's plugin counts.

    :ivar whole: addresses of GPUs that are not in MIG mode; :ivar mig: MIG devices by name. :ivar shares: name of either -> its
        shares.
    """

    whole: tuple[str, ...]
    mig: Mapping[str, Slice]
    shares: Mapping[str, tuple[Slice, ...]]

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.whole, *self.mig]


def nvidia(node: Node, rename: bool = True) -> Plugin:
    """
    The configuration of NVIDIA's plugin.

    :param rename: have shares called ``nvidia.com/gpu.shared``, so that nobody gets one who asked for a GPU.
    :raises errors.Unsupported: one file can't say what the node has.
    """
    devices = _counted(node.slices)
    strategy, why = _strategy(node, devices)
    _refuse_compute_instances(strategy, devices)
    sharing = _sharing(strategy, devices)
    counts: Counter[str] = Counter()
    for name in devices.names:
        resource, number = _resource(devices, name, strategy), len(devices.shares.get(name, ())) or 1
        counts[f"{resource}.shared" if rename and number > 1 else resource] += number
    flags: dict[str, Any] = {"migStrategy": strategy}
    if "mps" in sharing:
        flags["mpsRoot"] = MPS_ROOT
    file: dict[str, Any] = {"version": "v1", "flags": flags}
    if sharing:
        [(key, resources)] = sharing.items()
        named = [{"name": name, "replicas": number} for name, number in resources.items()]
        file["sharing"] = {key: {"renameByDefault": rename, "failRequestsGreaterThanOne": True, "resources": named}}
    return Plugin((), file, dict(counts), why, (*_nvidia_notes(node, devices, sharing), *_held(node)))


def _counted(slices: Iterable[Slice]) -> _Devices:
    whole: dict[str, None] = {}
    mig: dict[str, Slice] = {}
    shares: dict[str, tuple[Slice, ...]] = {}
    for part in slices:
        if part.kind == "mig":
            mig[part.name] = part
        elif part.kind in SHARES:
            shares[part.of] = (*shares.get(part.of, ()), part)
        if _is_whole(part) or (part.kind in SHARES and part.of == part.gpu):
            whole[part.gpu] = None
    return _Devices(tuple(whole), mig, {name: parts for name, parts in shares.items() if name in mig or name in whole})


def _is_whole(part: Slice) -> bool:
    """Whether a slice is all of a GPU; in a virtual machine a vGPU is."""
    return part.kind == "gpu" or (part.kind == "vgpu" and part.name == part.gpu)


def _strategy(node: Node, devices: _Devices) -> tuple[str, str]:
    if not devices.mig and not node.empty:
        return NONE, "no GPU is in MIG mode"
    if node.empty:
        return MIXED, f"MIG mode is on without a MIG device, at which '{SINGLE}' ends the plugin: {', '.join(node.empty)}"
    if devices.whole:
        return MIXED, f"MIG mode is off here, and on elsewhere: {', '.join(devices.whole)}"
    profiles = sorted({part.profile for part in devices.mig.values()})
    models = sorted({node.gpus[part.gpu].model for part in devices.mig.values()})
    if len(profiles) > 1:
        return MIXED, f"MIG devices differ: {', '.join(profiles)}"
    if len(models) > 1:
        return MIXED, f"MIG devices {profiles[0]} are of different models: {', '.join(models)}"
    return SINGLE, f"every GPU is cut into MIG devices {profiles[0]} and nothing else"


def _refuse_compute_instances(strategy: str, devices: _Devices) -> None:
    """With ``mixed`` the plugin knows the profiles of whole GPU instances alone, and ends at any other."""
    found = [name for name, part in devices.mig.items() if _COMPUTE_INSTANCE.match(part.profile)]
    if strategy == MIXED and found:
        raise errors.Unsupported(
            "NVIDIA's device plugin has no resource for compute instances that are a part of a GPU instance, and ends where they "
            f"stand beside others: {', '.join(found)}.",
            todo="Make MIG devices of whole GPU instances, or cut every GPU of the node alike.",
        )


def _resource(devices: _Devices, name: str, strategy: str) -> str:
    part = devices.mig.get(name)
    return "nvidia.com/gpu" if part is None or strategy != MIXED else f"nvidia.com/mig-{part.profile.replace('+', '.')}"


def _sharing(strategy: str, devices: _Devices) -> dict[str, dict[str, int]]:
    """Key of ``sharing`` -> resource -> replicas, {} where nothing is shared; there is one key at most."""
    kinds: dict[str, list[str]] = {}
    for name, parts in devices.shares.items():
        if len(parts) > 1:
            kinds.setdefault(parts[0].kind, []).append(name)
    if len(kinds) > 1:
        told = " and ".join(f"{_SAID[kind]} ({', '.join(names)})" for kind, names in sorted(kinds.items()))
        raise errors.Unsupported(
            f"NVIDIA's device plugin has one kind of sharing for a node, and this one has two: {told}.",
            todo="Share all GPUs of the node in one way.",
        )
    if not kinds:
        return {}
    [kind] = kinds
    if kind == "mps":
        _refuse_mps(strategy, devices, kinds[kind])
    return {SHARES[kind]: _replicas(strategy, devices)}


def _refuse_mps(strategy: str, devices: _Devices, shared: list[str]) -> None:
    if strategy == MIXED or any(name in devices.mig for name in shared):
        beside = ", ".join(sorted({part.gpu for part in devices.mig.values()})) or "a GPU in MIG mode"
        raise errors.Unsupported(
            "NVIDIA's device plugin does not share by MPS on a node that has MIG devices: "
            f"MPS is on {', '.join(shared)}, and MIG on {beside}.",
            todo="Use time-slicing, or a node without MIG, for what is shared by Kubernetes.",
        )


def _replicas(strategy: str, devices: _Devices) -> dict[str, int]:
    counts: dict[str, dict[int, list[str]]] = {}
    for name in devices.names:
        number = len(devices.shares.get(name, ())) or 1
        counts.setdefault(_resource(devices, name, strategy), {}).setdefault(number, []).append(name)
    for resource, numbers in counts.items():
        if len(numbers) > 1:
            told = "; ".join(f"{number} on {', '.join(names)}" for number, names in sorted(numbers.items()))
            raise errors.Unsupported(
                f"NVIDIA's device plugin has one number of shares for all of {resource}, and they differ: {told}.",
                todo="Give all of them the same number of shares.",
            )
    return {resource: number for resource, [number] in counts.items() if number > 1}


def _nvidia_notes(node: Node, devices: _Devices, sharing: Mapping) -> list[str]:
    told = []
    if "mps" in sharing:
        told.append(
            "Pods are served by MPS daemons of the plugin, with equal parts of memory and threads, not by those of this host: in "
            "EXCLUSIVE_PROCESS mode a GPU serves one of them, and limits set here do not reach pods."
        )
    if weighted := sorted({part.of for parts in devices.shares.values() for part in parts if part.weight is not None}):
        told.append(f"Shares of {', '.join(weighted)} have weights, which the file can't say.")
    if theirs := sorted({part.gpu for part in node.slices if part.kind == "vgpu" and not _is_whole(part)}):
        told.append(f"The plugin does not know vGPUs, and takes their GPUs for free: {', '.join(theirs)}. Keep it away.")
    return told


# -- AMD, Intel ------------------------------------------------------------------------------------------------------------
def amd(node: Node) -> Plugin:
    """Arguments of AMD's plugin: it names resources by partition modes where GPUs of the node differ."""
    parts = [part for part in node.slices if part.kind == "partition"]
    whole = [part for part in node.slices if part.kind == "gpu"]
    modes = Counter(_modes(part) for part in parts)
    strategy = MIXED if len(modes) > 1 else SINGLE
    named = {f"amd.com/{mode}": number for mode, number in sorted(modes.items())}
    single = {"amd.com/gpu": len(parts) + len(whole)} if parts or whole else {}
    differ = f"partition modes differ: {', '.join(sorted(modes))}, with which '{SINGLE}' ends the plugin"
    alike = f"all GPUs have the modes {next(iter(modes))}" if modes else "no GPU has partitions"
    notes = list(_held(node))
    if strategy == MIXED and whole:
        told = ", ".join(part.gpu for part in whole)
        notes.append(f"GPUs without partition modes get no resource beside such as have them: {told}.")
    notes += filter(None, [_for_machines(node, _FOR_MACHINES_OF_AMD)])
    arguments = (f"-resource_naming_strategy={strategy}",)
    if strategy == MIXED:
        return Plugin(arguments, None, named, differ, tuple(notes))
    return Plugin(arguments, None, single, alike, tuple(notes))


def _modes(part: Slice) -> str:
    """As the plugin calls them: ``CPX/NPS4`` is ``cpx_nps4``."""
    return part.profile.lower().replace("/", "_")


def intel(node: Node) -> Plugin:
    """
    Arguments of Intel's plugin: it gives out GPUs, or their virtual functions where they have any, each to so many containers.

    :raises errors.Unsupported: one argument can't say how many share each of them.
    """
    cut = {part.gpu for part in node.slices if part.kind in ("vf", "vf-passthrough")}
    tiles = {part.gpu: None for part in node.slices if part.kind == "environment"}
    shares = Counter(part.of for part in node.slices if part.kind == "replica")
    # Names of what is given out -> its GPU.
    whole = [part for part in node.slices if part.kind in ("gpu", "environment", "replica") and part.gpu not in cut]
    devices = {part.gpu: part.gpu for part in whole}
    devices |= {part.name: part.gpu for part in node.slices if part.kind == "vf" and part.device_nodes}
    denied, others = _denied(node)
    devices = {name: address for name, address in devices.items() if node.gpus[address].device_id not in denied}
    number = _shared_alike({name: shares.get(name, 1) for name in devices})
    counts: Counter[str] = Counter()
    for address in devices.values():
        counts[f"gpu.intel.com/{node.gpus[address].driver}"] += number
    ids = ",".join(f"0x{each}" for each in denied)
    notes = [f"-deny-ids goes by model, on each node that has these arguments: {ids}."] if denied else []
    if tiles:
        notes.append(f"The plugin does not know of parts that programs are shown, and gives out the whole of {', '.join(tiles)}.")
    if bare := [part.name for part in node.slices if part.kind == "vf" and not part.device_nodes]:
        notes.append(f"No driver of this host serves these virtual functions, so that pods get none of them: {', '.join(bare)}.")
    notes += filter(None, [_for_machines(node)])
    arguments = [f"-shared-dev-num={number}", *([f"-deny-ids={ids}"] if denied else [])]
    why = "each container gets a GPU or a virtual function of its own" if number == 1 else f"{number} share each GPU"
    return Plugin(tuple(arguments), None, dict(sorted(counts.items())), why, (*notes, *_held(node, others)))


def _shared_alike(numbers: Mapping[str, int]) -> int:
    """How many share each device; 1 for none. The plugin has one number for all."""
    if len(set(numbers.values())) > 1:
        told = ", ".join(f"{number} on {name}" for name, number in sorted(numbers.items()))
        raise errors.Unsupported(
            f"Intel's device plugin has one number of shares for all GPUs, and they differ: {told}.",
            todo="Give all of them the same number of shares.",
        )
    return next(iter(numbers.values()), 1)


def _denied(node: Node) -> tuple[list[str], list[str]]:
    """PCI device ids of models of which nothing may be given out, and the names of all else that is held."""
    of = {part.name: part.gpu for part in node.slices} | {address: address for address in node.gpus}
    free = {part.gpu for part in node.slices if not part.taken and part.name not in node.held and part.gpu not in node.held}
    full = {gpu.device_id for gpu in node.gpus.values()} - {node.gpus[address].device_id for address in free}
    held = [name for name in node.held if name in of]
    denied = sorted({node.gpus[of[name]].device_id for name in held} & full)
    return denied, [name for name in held if node.gpus[of[name]].device_id not in denied]


def _for_machines(node: Node, kinds: tuple[str, ...] = _FOR_MACHINES) -> str:
    """A sentence on slices for virtual machines, "" where there are none."""
    theirs = sorted({part.gpu for part in node.slices if part.kind in kinds})
    return f"Pods do not get what is for virtual machines, on {', '.join(theirs)}." if theirs else ""


def _held(node: Node, names: Iterable[str] | None = None) -> list[str]:
    told = "; ".join(f"{name} ({node.held[name]})" for name in (node.held if names is None else names))
    if not told:
        return []
    return [f"No setting of the plugin keeps these from pods: {told}. Cordon the node, or free them."]
