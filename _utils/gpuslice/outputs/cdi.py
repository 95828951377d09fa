"""
CDI: the files by which container runtimes find a slice, or all that a consumer has, under a name that stays.

Rules of names, folders and versions: the specification of the Container Device Interface 1.1.0, tried on Podman 4.3.1 and 5.4.2.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from gpuslice.outputs.device import Device
from gpuslice.outputs.file import File

#: The kinds: vendor and class. None of a GPU's vendor: Intel's generator deletes every file of its own kind before it writes.
SLICE = "gpu-slicing/slice"
CONSUMER = "gpu-slicing/consumer"
#: Where what is generated lies; in memory, so that it is made anew at each boot.
FOLDER = "/var/run/cdi"
#: Kind -> its only file.
PLACES = {SLICE: f"{FOLDER}/gpu-slicing-slice.json", CONSUMER: f"{FOLDER}/gpu-slicing-consumer.json"}

#: What a device of NVIDIA has in any case: the vendor's older runtime hook leaves a container alone that says so.
PLAIN: Mapping[str, Any] = {"env": ["NVIDIA_VISIBLE_DEVICES=void"]}

Edits = dict[str, Any]
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_BASE = "0.3.0"
#: Fields of container edits -> the version that has them.
_EDITS = {
    "env": _BASE, "deviceNodes": _BASE, "mounts": _BASE, "hooks": _BASE, "intelRdt": "0.7.0", "additionalGids": "0.7.0",
    "netDevices": "1.1.0",
}  # fmt: skip
#: The same for what is younger than the list that it stands in.
_INSIDE = {
    "mounts": {"type": "0.4.0"},
    "deviceNodes": {"hostPath": "0.5.0"},
    "intelRdt": {"schemata": "1.1.0", "enableMonitoring": "1.1.0"},
}


class Common(NamedTuple):
    """
    What each device of NVIDIA needs beside its nodes: the driver's libraries, and hooks that make them usable.

    :ivar edits: container edits as a spec file has them: env, deviceNodes, mounts, hooks, additionalGids.
    :ivar version: cdiVersion that their generator declared. It counts only where they have a field that is not known here.
    """

    edits: Mapping[str, Any] = PLAIN
    version: str = _BASE


#: Where nothing tells the driver's part.
NONE = Common()


def files(slices: Iterable[Device], consumers: Iterable[Device], common: Common = NONE) -> list[File]:
    """
    The spec files: one for each kind, none for a kind without a device.

    A device that opens nothing is left out, since a runtime takes a file with such a one for broken as a whole.

    :param slices: what opens each slice, by the slice's name; :param consumers: what opens all slices of each consumer.
    :param common: goes to the devices with nodes of NVIDIA's driver, and to no others.
    """
    found = ((kind, _devices(devices)) for kind, devices in ((SLICE, slices), (CONSUMER, consumers)))
    return [File(PLACES[kind], _text(kind, devices, common)) for kind, devices in found if devices]


def name_of(name: str) -> str:
    """
    A name as CDI can have it: letters and digits at the ends, these and ``_ - . :`` between.

    Names of slices and consumers are such already and stay as they are. Another one has a digest of it at its end, so that no two
    names become one.
    """
    if _NAME.fullmatch(name):
        return name
    cleaned = re.sub(r"[^A-Za-z0-9_.:-]", ".", name).strip("_.:-")
    return "-".join([*([cleaned] if cleaned else []), hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]])


def opens(device: Device) -> bool:
    """Whether a device has anything, so that it can stand in a file."""
    return bool(device.nodes or device.environment or device.mounts)


def needs_common(devices: Iterable[Device]) -> bool:
    """Whether any of these takes what NVIDIA's driver has for all: where none does, nobody needs to ask for it."""
    return any(map(_of_nvidia, devices))


def qualified(kind: str, name: str) -> str:
    """What ``podman run --device`` and the ``AddDevice=`` of a unit are given: ``gpu-slicing/consumer=trainer``."""
    return f"{kind}={name_of(name)}"


def lowest_version(spec: Mapping[str, Any], declared: str = _BASE) -> str:
    """
    The lowest cdiVersion that has all that a spec uses: older runtimes read no newer one.

    :param declared: the version for fields that are not known here.
    """
    needed = [_BASE, *_edits_need(spec.get("containerEdits", {}), declared)]
    if "annotations" in spec or "." in spec["kind"].partition("/")[2]:
        needed.append("0.6.0")
    for device in spec["devices"]:
        needed += _edits_need(device["containerEdits"], declared)
        needed += ["0.5.0"] if device["name"][0].isdigit() else []
        needed += ["0.6.0"] if "annotations" in device else []
    return max(needed, key=numbers)


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers, which compare as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _edits_need(edits: Mapping[str, Any], declared: str) -> Iterator[str]:
    for field, value in edits.items():
        yield _EDITS.get(field, declared)
        younger = _INSIDE.get(field, {})
        for entry in [value] if isinstance(value, Mapping) else value:
            if isinstance(entry, Mapping):
                yield from (version for key, version in younger.items() if key in entry)


def _devices(devices: Iterable[Device]) -> dict[str, tuple[Edits, bool]]:
    """Name -> container edits and whether NVIDIA's driver is behind them, in the order of the names."""
    found = {name_of(device.name): (_edits(device), _of_nvidia(device)) for device in devices if opens(device)}
    return {name: found[name] for name in sorted(found)}


def _edits(device: Device) -> Edits:
    """
    Container edits of one device, without what would be empty.

    Of a node only the path: rootless runtimes read no other field, and the others look its number up.
    """
    edits: Edits = {
        "deviceNodes": [{"path": node.path, "permissions": node.permissions} for node in device.nodes],
        "env": [f"{name}={value}" for name, value in device.environment],
        "mounts": [
            {"hostPath": mount.source, "containerPath": mount.target, "options": list(mount.options)} for mount in device.mounts
        ],
    }
    return {field: entries for field, entries in edits.items() if entries}


def _of_nvidia(device: Device) -> bool:
    """Whether it opens a GPU through NVIDIA's driver; one that is handed to a virtual machine has nodes of VFIO instead."""
    return any(node.path.startswith("/dev/nvidia") for node in device.nodes)


def _text(kind: str, devices: dict[str, tuple[Edits, bool]], common: Common) -> str:
    shared = all(theirs for _, theirs in devices.values()) and bool(common.edits)
    listed = [
        {"name": name, "containerEdits": _merged(common.edits, edits) if theirs and not shared else edits}
        for name, (edits, theirs) in devices.items()
    ]
    spec: dict[str, Any] = {"kind": kind, "devices": listed}
    if shared:
        # Once for the file: a runtime puts it in when any of its devices is asked for, before what is the device's own.
        spec["containerEdits"] = dict(common.edits)
    spec["cdiVersion"] = lowest_version(spec, common.version)
    return json.dumps(spec, indent=2, sort_keys=True) + "\n"


def _merged(common: Mapping[str, Any], own: Edits) -> Edits:
    """Both edits, the common ones first: what comes later counts. A node that is the device's own keeps its permissions."""
    mine = {node["path"] for node in own.get("deviceNodes", ())}
    found: Edits = {field: list(entries) if isinstance(entries, list | tuple) else entries for field, entries in common.items()}
    found["deviceNodes"] = [node for node in found.get("deviceNodes", ()) if node["path"] not in mine]
    for field, entries in own.items():
        found[field] = [*found.get(field, ()), *entries]
    return {field: entries for field, entries in found.items() if entries}
