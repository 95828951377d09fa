"""
What Nomad's device plugin for NVIDIA is told of a node: which GPUs and MIG devices it must not give to jobs.

Source: of hashicorp/nomad-device-nvidia ``device.go`` (the keys), ``fingerprint.go`` (what is ignored, by UUID) and
``nvml/driver_linux.go``: it finds a GPU by its UUID while MIG mode is off, and each MIG device by its own otherwise, so that the
UUID of a MIG device is taken as well. It shares nothing.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.outputs.file import Kind
from gpuslice.outputs.offer import Offer
from gpuslice.printable import printable

#: The plugin's block is called by its file in ``plugin_dir``, and this is what it is called there as it is delivered.
PLUGIN = "nomad-device-nvidia"
#: How often it looks for devices where nothing else is said.
PERIOD = "1m"
#: The first line of each file, by which ours is known.
MARK = "# What Nomad must not give of this node, written by gpu_nomad: what is changed by hand is lost."
VENDOR = "nvidia"
#: What is told, for messages.
ABOUT = "What this node has for Nomad"
FILE = Kind(
    "Nomad's agent", ".hcl", MARK, "what Nomad must not give", "Nomad's device plugin",
    "Name another path and take the plugin's block out of that file: of two blocks of a plugin Nomad takes the last.",
)  # fmt: skip
#: In the place of a UUID that only the creation of a MIG device gives; its name follows it, which is not told.
SOON, _OF = "(known-when-it-is-made)", "|"
_DURATION = re.compile(r"(?:[0-9]{1,6}(?:\.[0-9]{1,3})?(?:ms|s|m|h))+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
_SHARES = {"replica": "time-slicing", "mps": "MPS"}
_UNUSABLE = "it has no slices, and nobody can use it as a whole"
_STOOD_ON = "others stand on it"


class Config(NamedTuple):
    """
    What the plugin is told.

    :ivar given: UUID -> name of the slice, of what Nomad gives to jobs. :ivar ignored: UUID -> why it must not.
    :ivar notes: sentences on what that does not reach.
    """

    given: Mapping[str, str]
    ignored: Mapping[str, str]
    notes: tuple[str, ...] = ()


def is_period(text: str) -> bool:
    """Whether a text is a time as Go writes it, such as ``30s`` or ``1m30s``, and longer than none."""
    return _DURATION.fullmatch(text) is not None and any(digit in "123456789" for digit in text)


def is_plugin(text: str) -> bool:
    """Whether a text can be the name of a plugin."""
    return _NAME.fullmatch(text) is not None


def of(has: Offer, gpus: Iterable[Gpu], forecast: bool = False) -> Config:
    """
    What of a node Nomad is to give.

    :param gpus: all of it, with their UUIDs as far as these are known. :param forecast: some of it is going to be made.
    """
    gpus = list(gpus)
    every = [_expected(part) for part in has.every] if forecast else has.every
    found = config([gpu for gpu in gpus if gpu.vendor == VENDOR == gpu.driver], (*every, *has.whole), has.held)
    others = sorted({gpu.vendor for gpu in gpus} - {VENDOR})
    notes = (f"GPUs of {' and '.join(others)} are none of this plugin's.",) if others else ()
    return found._replace(notes=(*found.notes, *notes))


def _expected(part: Slice) -> Slice:
    return part if part.identity or part.kind != "mig" else part._replace(identity=f"{SOON}{_OF}{part.name}")


def config(gpus: Iterable[Gpu], slices: Iterable[Slice], held: Mapping[str, str]) -> Config:
    """
    What of these GPUs Nomad is to give.

    :param gpus: those that NVIDIA's driver has, with their UUIDs. :param slices: everything, with those on which others stand,
        and whole GPUs (kind ``gpu``). :param held: name of a slice or address of a GPU -> why nobody is to be given it.
    """
    given: dict[str, str] = {}
    ignored: dict[str, str] = {}
    notes: list[str] = []
    slices = list(slices)
    for gpu in gpus:
        own = [part for part in slices if part.gpu == gpu.address]
        migs = [part for part in own if part.kind == "mig"]
        for part in migs:
            why = _shared(part.name, own) or held.get(part.name, "") or (_STOOD_ON if part.taken else "")
            _put(part.device, part.name, why, given, ignored)
        if migs:
            # The plugin finds the MIG devices in its place.
            continue
        whole = next((part for part in own if part.name == gpu.address and _is_for_programs(part)), None)
        why = held.get(gpu.address, "") or _shared(gpu.address, own) or ("" if whole else _lost(own))
        if gpu.uuid:
            _put(gpu.uuid, gpu.address, why, given, ignored)
        elif why:
            notes.append(f"{gpu.address} must not be given ({why}), and its UUID can't be told: keep the node out of use.")
    return Config(given, ignored, tuple(notes))


def _put(uuid: str, name: str, why: str, given: dict[str, str], ignored: dict[str, str]) -> None:
    if why:
        ignored[uuid] = f"{name}: {why}"
    else:
        given[uuid] = name


def _shared(name: str, own: list[Slice]) -> str:
    """Why what has shares is not given: each job would have it as a whole."""
    shares = [part for part in own if part.kind in _SHARES and part.of == name]
    return f"{len(shares)} have shares of it by {_SHARES[shares[0].kind]}, and Nomad gives it whole" if shares else ""


def _is_for_programs(part: Slice) -> bool:
    """A whole GPU, or the vGPU that a guest was given."""
    return part.kind in ("gpu", "vgpu") and not part.taken and not any(node.startswith("/dev/vfio") for node in part.device_nodes)


def _lost(own: list[Slice]) -> str:
    return "its slices are for virtual machines" if own else _UNUSABLE


def text(found: Config, plugin: str = PLUGIN, period: str = PERIOD) -> str:
    """The file, in HCL: the block of the plugin, with reasons as comments before it."""
    lines = [MARK]
    lines += [f"# Given: {_shown(uuid)}: {name}" for uuid, name in found.given.items()]
    lines += [f"# Ignored: {_shown(uuid)}: {printable(why)}" for uuid, why in found.ignored.items()]
    lines += [f"# {printable(note)}" for note in found.notes]
    listed = ", ".join(f'"{_shown(uuid)}"' for uuid in found.ignored)
    lines += [f'plugin "{plugin}" {{', "  config {", f"    ignored_gpu_ids    = [{listed}]"]
    return "\n".join([*lines, f'    fingerprint_period = "{period}"', "  }", "}"]) + "\n"


def _shown(uuid: str) -> str:
    return uuid.partition(_OF)[0]
