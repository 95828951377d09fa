"""
Whether NVIDIA's device plugin will do what a configuration file for it says. The plugin itself passes over keys that it does not
know, takes values of flags unseen until it starts, and lets some of what is written go without effect.

Source: ``api/config/v1`` and ``cmd/nvidia-device-plugin/main.go`` of the plugin (0.20).
"""

import difflib
import re
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from functools import partial
from typing import Any

from gpuslice.outputs.kubernetes import SHARES
from gpuslice.printable import printable
from gpuslice.secret import redacted
from gpuslice.values import describe

_LONGEST = 63
_PREFIX = "nvidia.com/"
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
#: Of Go's time.ParseDuration, or "infinite".
_DURATION = re.compile(r"infinite|0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h))+")
_UUID = re.compile(r"(GPU|MIG)-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|MIG-GPU-[0-9a-fA-F-]{36}/[0-9]+/[0-9]+")
_INDEX = re.compile(r"[0-9]+(:[0-9]+)?")
_LISTS = ("envvar", "volume-mounts", "cdi-annotations", "cdi-cri")

Check = Callable[["_Notes", str, Any], None]


class _Notes:
    """Mistakes and warnings, as sentences that begin with the path of what they are about."""

    def __init__(self) -> None:
        self.mistakes: list[str] = []
        self.warnings: list[str] = []

    def wrong(self, path: str, what: str) -> None:
        self.mistakes.append(printable(f"{path}: {what}"))

    def warn(self, path: str, what: str) -> None:
        self.warnings.append(printable(f"{path}: {what}"))


def check(config: Any) -> tuple[list[str], list[str]]:
    """
    What is wrong with a configuration, and what of it has no effect.

    :param config: as YAML has it. :return: mistakes and warnings, each a sentence that begins with the path it is about.
    """
    notes = _Notes()
    if not isinstance(config, Mapping):
        notes.wrong("config", f"is {describe(config)}; a mapping is wanted.")
        return notes.mistakes, notes.warnings
    _keys(notes, "", config, _TOP)
    _together(notes, config)
    return notes.mistakes, notes.warnings


# -- kinds of values -------------------------------------------------------------------------------------------------------
def _keys(notes: _Notes, path: str, found: Any, known: Mapping[str, Check], needed: Iterable[str] = ()) -> None:
    """A mapping of these keys alone."""
    if not isinstance(found, Mapping):
        notes.wrong(path, f"is {describe(found)}; a mapping is wanted.")
        return
    for key, value in found.items():
        # A key is shown, and may be what must not be.
        word = redacted(str(key))
        where = f"{path}:{word}" if path else word
        if not isinstance(key, str) or key not in known:
            notes.wrong(where[:200], f"is not a known key, and the plugin passes over it in silence.{_hint(key, known)}")
        else:
            known[key](notes, where, value)
    for key in needed:
        if key not in found:
            notes.wrong(path, f"has no '{key}', without which the plugin ends.")


def _hint(key: Any, known: Mapping[str, Check]) -> str:
    plain = {each.lower(): each for each in known}
    near = difflib.get_close_matches(str(key)[:100].lower(), plain, 1)
    return f" Did you mean '{plain[near[0]]}'?" if near else f" Valid: {', '.join(known)}."


def _is_bool(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, bool):
        notes.wrong(path, f"is {describe(value)}; true or false is wanted.")


def _is_text(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, str):
        notes.wrong(path, f"is {describe(value)}; a text is wanted.")


def _one_of(words: tuple[str, ...], notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, str) or value not in words:
        notes.wrong(path, f"is {describe(value)}; one of these is wanted: {', '.join(words)}.")


def _is_duration(notes: _Notes, path: str, value: Any) -> None:
    """Go's plain number is of nanoseconds, which nobody means."""
    if isinstance(value, str) and _DURATION.fullmatch(value):
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        notes.warn(path, f"is {describe(value)}, which counts nanoseconds; write it with its unit, such as 60s.")
        return
    notes.wrong(path, f"is {describe(value)}; a time such as 60s or 1h30m is wanted.")


def _device_lists(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, list):
        _one_of(_LISTS, notes, path, value)
        return
    for number, each in enumerate(value):
        _one_of(_LISTS, notes, f"{path}:{number}", each)


# -- sharing ---------------------------------------------------------------------------------------------------------------
def _replicated(notes: _Notes, path: str, value: Any) -> None:
    """``sharing:timeSlicing`` or ``sharing:mps``."""
    known = {"renameByDefault": _is_bool, "failRequestsGreaterThanOne": _is_bool, "resources": _resources}
    _keys(notes, path, value, known, needed=("resources",))


def _resources(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, list):
        notes.wrong(path, f"is {describe(value)}; a list is wanted.")
        return
    if not value:
        notes.wrong(path, "is empty, and the plugin ends with 'no resources specified'. Leave the key above it out.")
    known = {"name": _resource_name, "replicas": _replicas, "devices": _devices, "rename": _rename}
    for number, each in enumerate(value):
        _keys(notes, f"{path}:{number}", each, known, needed=("name", "replicas"))
    _refuse_twins(notes, path, value)


def _refuse_twins(notes: _Notes, path: str, value: list) -> None:
    seen: dict[str, int] = {}
    for number, each in enumerate(value):
        if not isinstance(each, Mapping) or not isinstance(each.get("name"), str):
            continue
        name = _full(each["name"])
        if name in seen:
            notes.wrong(f"{path}:{number}:name", f"is {name}, as that of {path}:{seen[name]} is; a resource has one number.")
        seen.setdefault(name, number)


def _full(name: str) -> str:
    return name if name.startswith(_PREFIX) else f"{_PREFIX}{name}"


def _resource_name(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, str):
        notes.wrong(path, f"is {describe(value)}; a text is wanted.")
        return
    if len(_full(value)) > _LONGEST:
        notes.wrong(path, f"is {len(_full(value))} characters long with '{_PREFIX}', and may have {_LONGEST}.")
    elif not _NAME.fullmatch(_full(value)[len(_PREFIX) :]):
        notes.wrong(path, f"is {describe(value)}; letters in lower case, digits, '-' and '.' are wanted, such as mig-1g.10gb.me.")


def _replicas(notes: _Notes, path: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        notes.wrong(path, f"is {describe(value)}; a whole number from 2 is wanted.")
    elif value < 2:
        notes.wrong(path, f"is {describe(value)}, and the plugin ends below 2. Leave a resource out that is not shared.")


def _devices(notes: _Notes, path: str, value: Any) -> None:
    if value == "all":
        return
    counts = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if not counts and not (isinstance(value, list) and all(map(_is_device, value))):
        notes.wrong(path, f"is {describe(value)}; 'all', a number from 1, or a list of indices and UUIDs is wanted.")
        return
    notes.warn(path, "has no effect: the plugin shares all devices of a resource.")


def _is_device(value: Any) -> bool:
    if isinstance(value, str):
        return bool(_UUID.fullmatch(value) or _INDEX.fullmatch(value))
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _rename(notes: _Notes, path: str, value: Any) -> None:
    _resource_name(notes, path, value)
    notes.warn(path, "has no effect: renameByDefault alone changes the name of what is shared, to '<name>.shared'.")


# -- the rest --------------------------------------------------------------------------------------------------------------
def _renamed_resources(notes: _Notes, path: str, value: Any) -> None:
    """Names for GPUs and MIG devices, which released plugins read and then leave alone."""
    _keys(notes, path, value, {"gpus": _patterns, "mig": _patterns})
    notes.warn(path, "has no effect: the plugin names resources itself.")


def _patterns(notes: _Notes, path: str, value: Any) -> None:
    if not isinstance(value, list):
        notes.wrong(path, f"is {describe(value)}; a list is wanted.")
        return
    for number, each in enumerate(value):
        _keys(notes, f"{path}:{number}", each, {"pattern": _is_text, "name": _resource_name}, needed=("pattern", "name"))


def _channels(notes: _Notes, path: str, value: Any) -> None:
    # True equals 1 to Python, and false 0.
    if value not in ([], [0]) or any(isinstance(each, bool) for each in value):
        notes.wrong(path, f"is {describe(value)}; [] or [0] is wanted.")


def _together(notes: _Notes, config: Mapping) -> None:
    """What each key may be alone, and not beside another."""
    sharing, flags = config.get("sharing"), config.get("flags")
    shared = {key for key in SHARES.values() if isinstance(sharing, Mapping) and sharing.get(key) is not None}
    flags = flags if isinstance(flags, Mapping) else {}
    if "version" not in config:
        notes.warn("version", "is not given; the plugin takes it for v1.")
    if len(shared) == 2:
        notes.wrong("sharing", "has both timeSlicing and mps; the plugin takes mps and passes over the other.")
    if "mps" not in shared:
        return
    if flags.get("migStrategy") == "mixed":
        notes.wrong("sharing:mps", "can't stand beside flags:migStrategy 'mixed': the plugin ends.")
    if not flags.get("mpsRoot"):
        notes.warn("flags:mpsRoot", "is not given, without which the plugin ends, unless MPS_ROOT or --mps-root gives it.")


_PLUGIN: dict[str, Check] = {
    "passDeviceSpecs": _is_bool, "deviceListStrategy": _device_lists, "deviceIDStrategy": partial(_one_of, ("uuid", "index")),
    "cdiAnnotationPrefix": _is_text, "nvidiaCTKPath": _is_text, "containerDriverRoot": _is_text,
    "sharedDevicesAllocationPolicy": partial(_one_of, ("distributed", "packed")),
}  # fmt: skip
_GFD: dict[str, Check] = {
    "oneshot": _is_bool, "noTimestamp": _is_bool, "sleepInterval": _is_duration,
    "outputFile": _is_text, "machineTypeFile": _is_text,
}  # fmt: skip
_FLAGS: dict[str, Check] = {
    "migStrategy": partial(_one_of, ("none", "single", "mixed")),
    **dict.fromkeys(("failOnInitError", "gdrcopyEnabled", "gdsEnabled", "mofedEnabled", "useNodeFeatureAPI"), _is_bool),
    **dict.fromkeys(("mpsRoot", "nvidiaDriverRoot", "nvidiaDevRoot"), _is_text),
    "deviceDiscoveryStrategy": partial(_one_of, ("auto", "nvml", "tegra")),
    "plugin": lambda notes, path, value: _keys(notes, path, value, _PLUGIN),
    "gfd": lambda notes, path, value: _keys(notes, path, value, _GFD),
}
_TOP: dict[str, Check] = {
    "version": partial(_one_of, ("v1",)),
    "flags": lambda notes, path, value: _keys(notes, path, value, _FLAGS),
    "resources": _renamed_resources,
    "sharing": lambda notes, path, value: _keys(notes, path, value, dict.fromkeys(SHARES.values(), _replicated)),
    "imex": lambda notes, path, value: _keys(notes, path, value, {"channelIDs": _channels, "required": _is_bool}),
}
