"""
Configurations of NVIDIA's mig-parted, version v1, as a pillar.

What they mean was read from its source, release 0.15 (github.com/NVIDIA/mig-parted: ``api/spec/v1``, ``pkg/types/device.go``,
``cmd/nvidia-mig-parted/assert``): a file has named configurations, each a list of entries. An entry says of which GPUs it is:
``device-filter``, one or more of ``0x<device><vendor>[:0x<device><vendor> of the subsystem]``, and ``devices``, which is ``all``
or a list of indices. These count all NVIDIA GPUs that the driver has, in the order of their PCI addresses, whatever the filter.
Entries are carried out one after the other, so that of two for one GPU the last one counts; what no entry is about is left alone.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from gpuslice import catalog
from gpuslice import errors
from gpuslice.model import Gpu
from gpuslice.policy.fields import LAYOUT_NAME
from gpuslice.policy.fields import LAYOUT_NAMED
from gpuslice.policy.fields import SLICING
from gpuslice.policy.notes import Notes
from gpuslice.policy.notes import did_you_mean
from gpuslice.techniques.mig import section
from gpuslice.values import describe

CONFIGS = "mig-configs"
_ENTRY_KEYS = ("device-filter", "devices", "mig-enabled", "mig-devices")
_FILTER = re.compile(r"0x([0-9a-f]{4})([0-9a-f]{4})(?::0x([0-9a-f]{4})([0-9a-f]{4}))?", re.IGNORECASE)
_NVIDIA = "10de"
#: How long the ids of a board are without those of a subsystem.
_BOARD = len("10de:20b0")


class Entry(NamedTuple):
    """
    What a configuration says of some GPUs.

    :ivar path: where it is written. :ivar boards: PCI ids as ``match: {device_id: ...}`` has them, () for any board.
    :ivar indices: None for all GPUs. :ivar words: how these are sliced, in the words of a layout.
    """

    path: str
    boards: tuple[str, ...]
    indices: tuple[int, ...] | None
    words: dict


def pillar(written: Any, config: str, gpus: list[Gpu], index_of: Any) -> tuple[dict, list[str]]:
    """
    A pillar with a layout for each configuration.

    :param written: the file as data. :param config: the configuration that the pillar is to apply; "" for the layouts alone.
    :param gpus: of this host, for a configuration that has indices.
    :param index_of: function of a GPU that tells its index, None where its driver tells none.
    :return: the pillar, and sentences on what has to be known of it. Raises errors.PolicyError with every mistake.
    """
    notes = Notes()
    configs = _configs(written, notes)
    if config and configs and config not in configs:
        notes.wrong("config", f"is {describe(config)}, which is none of {CONFIGS}.{did_you_mean(config, configs)}")
    layouts = _layouts(configs, notes)
    made: dict = {}
    if config in configs and not notes.mistakes:
        made = {"enabled": True, **_applied(configs[config], layouts[config], _Here(gpus, index_of, notes), notes)}
    made["layouts"] = {name: words for each in layouts.values() for name, words in each.items()}
    if notes.mistakes:
        said = "\n- ".join(["The configuration can't be taken over:", *notes.mistakes])
        raise errors.PolicyError(said, mistakes=notes.mistakes)
    return {SLICING: made}, notes.warnings


# -- the file --------------------------------------------------------------------------------------------------------------
def _configs(written: Any, notes: Notes) -> dict[str, list[Entry]]:
    if not isinstance(written, Mapping):
        notes.wrong("The configuration", f"is {describe(written)}; a mapping with version and {CONFIGS} is wanted.")
        return {}
    for key in written:
        if key not in ("version", CONFIGS):
            notes.wrong(str(key), f"is not a known key.{did_you_mean(key, ('version', CONFIGS))}")
    if written.get("version") != "v1":
        notes.wrong("version", f"is {describe(written.get('version'))}; v1 is the only one that is known.")
    found = written.get(CONFIGS)
    if not isinstance(found, Mapping) or not found:
        notes.wrong(CONFIGS, f"is {describe(found)}; a mapping of at least one configuration by its name is wanted.")
        return {}
    return {str(name): _entries(entries, f"{CONFIGS}:{name}", notes) for name, entries in found.items()}


def _entries(written: Any, path: str, notes: Notes) -> list[Entry]:
    if not isinstance(written, list | tuple) or not written:
        notes.wrong(path, f"is {describe(written)}; a list of at least one entry is wanted.")
        return []
    found = [_entry(each, f"{path}:{place}", notes) for place, each in enumerate(written)]
    return [entry for entry in found if entry]


def _entry(written: Any, path: str, notes: Notes) -> Entry | None:
    if not isinstance(written, Mapping):
        notes.wrong(path, f"is {describe(written)}; a mapping with the keys {', '.join(_ENTRY_KEYS)} is wanted.")
        return None
    for key in written:
        if key not in _ENTRY_KEYS:
            notes.wrong(f"{path}:{key}", f"is not a known key.{did_you_mean(key, _ENTRY_KEYS)}")
    boards = _boards(written.get("device-filter"), f"{path}:device-filter", notes)
    indices = _indices(written.get("devices"), f"{path}:devices", notes)
    words = _words(written.get("mig-enabled"), written.get("mig-devices"), path, notes)
    return None if notes.mistaken(path) else Entry(path, boards, indices, words)


def _boards(written: Any, path: str, notes: Notes) -> tuple[str, ...]:
    listed = list(written) if isinstance(written, list | tuple) else [written]
    found = []
    for each in listed:
        if each in (None, ""):
            continue
        # Without quotes, YAML makes a number of it.
        text = f"0x{each:08x}" if type(each) is int and each >= 0 else each
        ids = _FILTER.fullmatch(text) if isinstance(text, str) else None
        if ids is None:
            notes.wrong(path, f"is {describe(each)}; the ids of a board such as '0x20B010DE' are wanted, device before vendor.")
            continue
        device, vendor, *sub = (part.lower() for part in ids.groups() if part)
        if vendor != _NVIDIA:
            notes.wrong(path, f"is {describe(each)}, which is no board of NVIDIA: those end in 10DE.")
            continue
        found.append(":".join([vendor, device, *reversed(sub)]))
    return tuple(dict.fromkeys(found))


def _indices(written: Any, path: str, notes: Notes) -> tuple[int, ...] | None:
    if written == "all":
        return None
    if not isinstance(written, list | tuple) or any(type(each) is not int or each < 0 for each in written):
        notes.wrong(path, f"is {describe(written)}; 'all' or a list of indices such as [0, 1] is wanted.")
        return ()
    return tuple(dict.fromkeys(written))


def _words(enabled: Any, devices: Any, path: str, notes: Notes) -> dict:
    if not isinstance(enabled, bool):
        notes.wrong(f"{path}:mig-enabled", f"is {describe(enabled)}; true or false is wanted.")
        return {}
    if not enabled:
        if devices:
            notes.wrong(f"{path}:mig-devices", "is given, but mig-enabled is false.")
        return {"strategy": "mig", "mig": {"mode": "disabled"}}
    if not isinstance(devices, Mapping):
        notes.wrong(f"{path}:mig-devices", f"is {describe(devices)}; a mapping of profile to count is wanted.")
        return {}
    # A count of 0 is one of its words for none.
    counts = {name: count for name, count in devices.items() if type(count) is not int or count}
    if devices and not counts:
        notes.wrong(f"{path}:mig-devices", "has no count but 0; write {} for MIG without instances.")
    section.check(counts, f"{path}:mig-devices", notes)
    return {"strategy": "mig", "mig": {"profiles": counts or []}}


# -- layouts ---------------------------------------------------------------------------------------------------------------
def _layouts(configs: dict[str, list[Entry]], notes: Notes) -> dict[str, dict[str, dict]]:
    """
    Configuration -> name of a layout -> its words, one for each layout in it.

    One that treats all its GPUs alike gives its name to the layout; the layouts of another one are numbered.
    """
    taken, found = set(configs), {}
    for config, entries in configs.items():
        different: list[dict] = []
        for entry in entries:
            if entry.words not in different:
                different.append(entry.words)
        names = [config] if len(different) == 1 else _numbered(config, len(different), taken)
        if not all(re.fullmatch(LAYOUT_NAME, name) for name in (config, *names)):
            notes.wrong(f"{CONFIGS}:{config}", f"is no name of a layout; {LAYOUT_NAMED} is wanted.")
        if len(different) > 1:
            told = f"treats GPUs differently and becomes {len(names)} layouts: {names[0]} to {names[-1]}."
            notes.warn(f"{CONFIGS}:{config}", told)
        found[config] = dict(zip(names, different, strict=True))
    return found


def _numbered(config: str, count: int, taken: set[str]) -> list[str]:
    """Names that no other layout has."""
    free = (name for number in itertools.count(1) if (name := f"{config}-{number}") not in taken)
    found = list(itertools.islice(free, count))
    taken.update(found)
    return found


# -- one configuration -----------------------------------------------------------------------------------------------------
class _Here:
    """The GPUs of this host by their indices, which are asked for when a configuration has any."""

    def __init__(self, gpus: list[Gpu], index_of: Any, notes: Notes) -> None:
        self._gpus, self._index_of, self._notes = gpus, index_of, notes
        self._found: dict[int, Gpu] | None = None

    def at(self, entry: Entry) -> list[Gpu]:
        """The GPUs that an entry is about by its indices and its filter. Notes what is not there, and which are meant."""
        if self._found is None:
            told = {self._index_of(gpu): gpu for gpu in self._gpus if gpu.vendor == "nvidia"}
            self._found = {index: gpu for index, gpu in told.items() if index is not None}
        path = f"{entry.path}:devices"
        if not self._found:
            self._notes.wrong(
                path,
                "names GPUs by their indices, and this host has no GPU whose driver tells one. Do this where the GPUs are, or "
                "write 'all' with a device-filter.",
            )
            return []
        there = [(index, self._found[index]) for index in entry.indices or () if index in self._found]
        if absent := [str(index) for index in entry.indices or () if index not in self._found]:
            self._notes.warn(path, f"has indices that no GPU of this host has, which are left out: {', '.join(absent)}.")
        others = [(index, gpu) for index, gpu in there if entry.boards and not _is_one_of(gpu, entry.boards)]
        if others:
            self._notes.warn(path, f"is not about these, which are no boards of its device-filter: {_listed(others)}.")
        meant = [pair for pair in there if pair not in others]
        if meant:
            self._notes.warn(path, f"counts GPUs as this host does now, and the pillar is for it alone: {_listed(meant)}.")
        return [gpu for _, gpu in meant]


def _listed(pairs: list[tuple[int, Gpu]]) -> str:
    return ", ".join(f"{index} is {gpu.address} ({gpu.model})" for index, gpu in pairs)


def _is_one_of(gpu: Gpu, boards: tuple[str, ...] | set[str]) -> bool:
    return any(each in boards for each in catalog.boards(gpu))


def _applied(entries: list[Entry], layouts: dict[str, dict], here: _Here, notes: Notes) -> dict:
    """
    What the pillar says to apply these entries. The first rule that matches wins there, so the last entry comes first.

    :param layouts: name -> words of those that the entries ask for.
    """
    rules: list[dict] = []
    boards: set[str] = set()
    addresses: set[str] = set()
    for place, entry in reversed(list(enumerate(entries))):
        name = next(each for each, words in layouts.items() if words == entry.words)
        if entry.indices is not None:
            gpus = [gpu for gpu in here.at(entry) if gpu.address not in addresses and not _is_one_of(gpu, boards)]
            addresses.update(gpu.address for gpu in gpus)
            made = [_rule_for(gpu, entry, name) for gpu in gpus]
        elif entry.boards:
            free = [each for each in entry.boards if each not in boards and each[:_BOARD] not in boards]
            boards.update(free)
            ids = free if len(free) > 1 else "".join(free)
            made = [{"match": {"device_id": ids}, "layout": name, "optional": True}] if free else []
        else:
            for earlier in entries[:place]:
                notes.warn(earlier.path, f"has no effect: {entry.path} comes after it and is about every GPU.")
            return {"layout": name, **({"devices": rules} if rules else {})}
        if not made:
            notes.warn(entry.path, "has no effect: no GPU is left that it is about.")
        rules += made
    return {"strategy": "none", "devices": rules}


def _rule_for(gpu: Gpu, entry: Entry, name: str) -> dict:
    match = {"pci": gpu.address}
    if "mig" not in gpu.capabilities and entry.words["mig"].get("mode") == "disabled":
        # Nothing has to be switched off, and a GPU that is named has to be able to do what is asked of it.
        return {"match": match, "strategy": "none"}
    return {"match": match, "layout": name}
