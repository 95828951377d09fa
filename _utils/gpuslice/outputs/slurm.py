"""
What Slurm is told of a node: the lines of its ``gres.conf``, and its ``Gres=`` of ``slurm.conf``.

Source: gres.conf(5), slurm.conf(5) and "Generic Resource (GRES) Scheduling" of Slurm's documentation. Types are named as Slurm's
NVML plugin names them (``src/plugins/gpu/nvml/gpu_nvml.c``), so that they are the same with and without ``AutoDetect``: the
name of the GPU in lower case with ``_`` for blanks; of a MIG device up to the first ``-``, then ``_`` and the profile.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs.file import Kind
from gpuslice.outputs.offer import CLOSED
from gpuslice.outputs.offer import Offer

GPU, SHARD, MPS = "gpu", "shard", "mps"
#: Kind of a slice by which several share a GPU -> the gres that Slurm has for it.
_SHARES = {"replica": SHARD, "mps": MPS}
#: Kinds that a virtual machine is given, of which no program on the host opens anything.
_FOR_MACHINES = ("vf", "vf-passthrough", "passthrough")
#: The first line of each file, by which ours is known.
MARK = "# Slices of this node for Slurm, written by gpu_slurm: what is changed by hand is lost."
#: How the line begins that says what ``slurm.conf`` has to say.
WANTED = "# slurm.conf: NodeName="
NVML = "AutoDetect=nvml"
#: In the place of the device nodes of a slice that is going to be made.
SOON = "(known-when-it-is-made)"
_COMPUTE = re.compile(r"^[0-9]+c\.")
_SPLIT = "Slurm counts each file of a MIG device as a GPU where a node has shards or MPS too, so that it gets MIG devices alone"
_BEGUN = "somebody else has a share of its GPU, which Slurm would give to a job as a whole too"


class Gres(NamedTuple):
    """
    One line of ``gres.conf``.

    :ivar name: ``gpu``, ``shard`` or ``mps``; :ivar type: "" for what has none.
    :ivar files: device nodes; of several, all belong to one; :ivar number: how many of it there are.
    :ivar detected: whether Slurm finds it by itself with :data:`NVML`.
    """

    name: str
    type: str
    files: tuple[str, ...]
    number: int = 1
    detected: bool = False


class Sheet(NamedTuple):
    """
    What a node has for Slurm.

    :ivar gres: the lines; :ivar left: name of a slice -> why Slurm is not given it.
    """

    gres: tuple[Gres, ...]
    left: Mapping[str, str]


def kind(node: str) -> Kind:
    """What kind of file the ``gres.conf`` of a node is."""
    instead = "Name another path and include it there ('include <path>'), or move that file away."
    return Kind("a gres.conf", ".conf", MARK, f"what node {node} has", f"node {node}", instead)


def about(node: str) -> str:
    """What is to be told of a node, for messages."""
    return f"What node {node} has for Slurm"


def of(has: Offer, gpus: Mapping[str, Gpu], node: str, autodetect: bool = False, forecast: bool = False) -> Sheet:
    """
    What a node has for Slurm.

    :param gpus: PCI address -> GPU; :param node: its name, for messages; the others as of :func:`sheet`.
    :raises errors.Unsupported: ``autodetect`` would give Slurm what nobody is to have, or end slurmd.
    """
    if autodetect:
        _refuse_detection(has, gpus, node)
    held = {**has.held, **dict.fromkeys(has.closed, CLOSED)}
    return sheet(has.offered, {address: gpu.name or gpu.model for address, gpu in gpus.items()}, held, autodetect, forecast)


def _refuse_detection(has: Offer, gpus: Mapping[str, Gpu], node: str) -> None:
    """Slurm finds all that NVML tells, and its daemon ends where a GPU in MIG mode has no MIG device (gpu_nvml.c)."""
    kinds = {part.name: part.kind for part in has.every}
    if theirs := [f"{name} ({why})" for name, why in has.held.items() if kinds.get(name, "gpu") in ("mig", "gpu")]:
        raise errors.Unsupported(
            f"With autodetect Slurm finds every GPU and MIG device of node {node}, and it must not have {'; '.join(theirs)}.",
            todo="Write the lines without autodetect.",
        )
    if empty := [address for address in has.closed if gpus[address].vendor == "nvidia"]:
        raise errors.Unsupported(
            f"With autodetect slurmd ends on node {node}, or gives out what can't be used: {', '.join(empty)} has neither MIG "
            "devices nor can it be used as a whole.",
            todo="Make MIG devices there or switch MIG mode off, or write the lines without autodetect.",
        )


def sheet(
    slices: Iterable[Slice], models: Mapping[str, str], held: Mapping[str, str], autodetect: bool = False, forecast: bool = False
) -> Sheet:  # fmt: skip
    """
    What of these slices Slurm can give to jobs.

    :param slices: what can be given, whole GPUs (kind ``gpu``) among them; :param models: PCI address -> name of the GPU, as its
        driver tells it. :param held: name of a slice -> why nobody is to be given it.
    :param autodetect: name types of MIG devices as Slurm finds them: those of one GPU instance have no other name.
    :param forecast: some of these are going to be made, and have no device nodes yet.
    """
    slices = [_expected(part) for part in slices] if forecast else list(slices)
    left, found = dict(held), []
    shares: dict[tuple[str, str], list[Slice]] = {}
    begun = {part.gpu for part in slices if part.kind in _SHARES and part.name in left}
    divided = any(len(_own(part)) > 1 or SOON in _own(part) for part in slices if part.kind == "mig" and part.name not in left)
    for part in slices:
        if part.name in left:
            continue
        if part.kind in _FOR_MACHINES:
            left[part.name] = "it is for virtual machines"
        elif not _own(part):
            left[part.name] = "it has no device node of its own"
        elif part.kind not in _SHARES:
            found.append(_gpu(part, models.get(part.gpu, ""), autodetect))
        elif part.of != part.gpu or divided:
            left[part.name] = _SPLIT
        elif part.gpu in begun:
            left[part.name] = _BEGUN
        else:
            shares.setdefault((part.gpu, _SHARES[part.kind]), []).append(part)
    for (gpu, name), parts in shares.items():
        files = _own(parts[0])
        found.append(Gres(GPU, _named(models.get(gpu, "")), files, detected=_is_nvidia(files)))
        found.append(Gres(name, "", files, len(parts)))
    return Sheet(tuple(found), left)


def lines(sheet: Sheet, node: str, autodetect: bool = False) -> list[str]:
    """The lines of ``gres.conf`` of one node; with ``autodetect`` Slurm finds GPUs and MIG devices of NVIDIA by itself."""
    told = [f"NodeName={node} {NVML}"] if autodetect else []
    return [*told, *(_line(node, each) for each in sheet.gres if not (autodetect and each.detected))]


def value(sheet: Sheet) -> str:
    """The ``Gres=`` of a node in ``slurm.conf``, "" for one that has nothing."""
    counts: dict[str, int] = {}
    for each in sheet.gres:
        key = f"{each.name}:{each.type}" if each.type else each.name
        counts[key] = counts.get(key, 0) + each.number
    return ",".join(f"{key}:{count}" for key, count in counts.items())


def counts(value: str) -> dict[str, int]:
    """How many of each gres a ``Gres=`` has, whatever their type: ``gpu:a:1,gpu:b:2(S:0),shard:4`` is 3 and 4."""
    found: dict[str, int] = {}
    for each in re.sub(r"\([^()]*\)", "", value).split(","):
        name, *_, number = each.split(":") if ":" in each else (each, "1")
        if name and re.fullmatch(r"[0-9]{1,9}", number):
            found[name] = found.get(name, 0) + int(number)
    return found


def types(sheet: Sheet) -> list[str]:
    """What ``GresTypes=`` of ``slurm.conf`` has to name."""
    return list(dict.fromkeys(each.name for each in sheet.gres))


def text(sheet: Sheet, node: str, autodetect: bool = False) -> str:
    """The whole ``gres.conf``, with what is left out as comments."""
    # Slurm takes a line that ends in a backslash on into the next one.
    out = [f"# Left out: {name}: {why}".replace("\\", "/") for name, why in sheet.left.items()]
    wanted = [f"{WANTED}{node} Gres={found}"] if (found := value(sheet)) else [f"# {node} has nothing for Slurm."]
    return "\n".join([MARK, *wanted, *out, *lines(sheet, node, autodetect)]) + "\n"


def _gpu(part: Slice, model: str, autodetect: bool) -> Gres:
    files = _own(part)
    if part.kind == "mig":
        return Gres(GPU, _named(model.partition("-")[0], _profile(part, autodetect)), files, detected=True)
    if part.kind == "partition" and part.compute != 1.0:
        return Gres(GPU, _named(model, part.profile), files)
    return Gres(GPU, _named(model), files, detected=_is_nvidia(files))


def _profile(part: Slice, autodetect: bool) -> str:
    """The profile as Slurm finds it: of the GPU instance alone, its memory rounded to whole GiB."""
    if not autodetect:
        return part.profile
    of_gpu = _COMPUTE.sub("", part.profile).partition("+")[0]
    compute = of_gpu.partition(".")[0]
    return of_gpu if part.memory_mib is None else f"{compute}.{int(part.memory_mib / 1024 + 0.5)}gb"


def _named(*words: str) -> str:
    """A type: Slurm parts what it reads by ``:``, ``,``, ``(`` and blanks."""
    return "_".join(filter(None, (re.sub(r"[^a-z0-9._-]+", "_", word.lower()).strip("_") for word in words)))


def _expected(part: Slice) -> Slice:
    """A slice of a forecast, with a word for device nodes that only its creation gives."""
    return part if _own(part) or part.kind in _FOR_MACHINES else part._replace(device_nodes=(SOON,))


def _own(part: Slice) -> tuple[str, ...]:
    """The nodes by which Slurm tells this slice from others; what all GPUs have in common it leaves open."""
    if SOON in part.device_nodes:
        return (SOON,)
    caps = [node for node in part.device_nodes if re.fullmatch(r"/dev/nvidia[0-9]+|/dev/nvidia-caps/nvidia-cap[0-9]+", node)]
    return tuple(caps or [node for node in part.device_nodes if re.fullmatch(r"/dev/dri/renderD[0-9]+", node)])


def _is_nvidia(files: tuple[str, ...]) -> bool:
    return files[0].startswith("/dev/nvidia")


def _line(node: str, each: Gres) -> str:
    kind = f" Type={each.type}" if each.type else ""
    count = f" Count={each.number}" if each.name != GPU else ""
    key = "MultipleFiles" if len(each.files) > 1 else "File"
    return f"NodeName={node} Name={each.name}{kind}{count} {key}={','.join(each.files)}"
