"""
What of the files of a unit would defeat our drop-in: those that systemd applies after it, and what else shuts devices out.
"""

import os
import re
from typing import NamedTuple

from gpuslice.outputs import gpu_names
from gpuslice.outputs import unit_text
from gpuslice.outputs.file import File
from gpuslice.outputs.unit_text import Setting

#: Folders whose files take the place of files of the same name in /etc/systemd/system, from systemd.unit(5).
_OVER = tuple(f"{folder}/" for folder in (
    "/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/run/systemd/generator.early",
))  # fmt: skip
#: Programs that have containers run by a daemon, outside of the unit that calls them.
_ELSEWHERE = {"docker", "nerdctl", "ctr", "lxc", "incus"}
_SECTIONS = ("Service", "Slice")


class Fragment(NamedTuple):
    """A file of a unit. :ivar path: "" where the text begins without one; :ivar settings: what it sets."""

    path: str
    settings: list[Setting]


def conflicts(effective: str, ours: File) -> tuple[str, ...]:
    """
    What would defeat a drop-in, as sentences; none where it holds.

    Files of a unit are applied by name, whatever folder they are in, and the last one wins. Another slice unit in which the
    service runs, and what it starts by a daemon that is not known here, are not seen.

    :param effective: what ``systemctl cat`` says of the unit, with or without our drop-in.
    :param ours: the drop-in as it is to be.
    """
    others = [part for part in fragments(effective) if part.path != ours.path]
    mine = unit_text.settings(ours.text)
    found = [sentence for part in others if _is_later(part.path, ours.path) for sentence in _against(part, mine)]
    found += [f"{part.path} has the name of our file and takes its place: remove or rename it."
              for part in others if _replaces(part.path, ours.path)]  # fmt: skip
    return tuple(dict.fromkeys([*found, *_shut_out(others, mine)]))


def has_private_devices(effective: str, ours: str = "") -> bool:
    """Whether a unit has private devices of its own. :param effective: see :func:`conflicts`; :param ours: our drop-in's path."""
    found = [setting for part in fragments(effective) if part.path != ours for setting in part.settings]
    return unit_text.is_true(_last(found, "PrivateDevices"))


def runs_as_root(effective: str) -> bool:
    """Whether a service runs as root; :param effective: see :func:`conflicts`."""
    found = [setting for part in fragments(effective) for setting in part.settings]
    return _last(found, "User") in ("", "root", "0") and not unit_text.is_true(_last(found, "DynamicUser"))


def fragments(effective: str) -> list[Fragment]:
    """
    The files of a unit, in the order in which systemd applies them. What is no setting is passed over, as systemd does.

    :param effective: what ``systemctl cat`` says: each file after an empty line and a line ``# PATH``.
    """
    found: list[tuple[str, list[str]]] = [("", [])]
    before = ""
    for line in effective.split("\n"):
        if not before.strip() and re.fullmatch(r"# /\S*/systemd/\S*/[^/\s]+", line):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
        before = line
    return [Fragment(path, _lenient(lines)) for path, lines in found if path or any(lines)]


def _lenient(lines: list[str]) -> list[Setting]:
    lines = list(lines)
    while True:
        try:
            return unit_text.settings("\n".join(lines))
        except unit_text.Malformed as err:
            lines[err.line - 1] = ""


def _is_drop_in(path: str) -> bool:
    return os.path.dirname(path).endswith(".d")


def _is_later(path: str, ours: str) -> bool:
    return _is_drop_in(path) and os.path.basename(path) > os.path.basename(ours)


def _replaces(path: str, ours: str) -> bool:
    return _is_drop_in(path) and os.path.basename(path) == os.path.basename(ours) and path.startswith(_OVER)


def _against(part: Fragment, mine: list[Setting]) -> list[str]:
    """What a file that comes after ours changes of it."""
    found = []
    for setting in part.settings:
        if setting.section in _SECTIONS and (why := _changes(setting, mine)):
            shown = f"{setting.key}={setting.value}"
            found.append(f"{part.path} comes after our file and has {shown}, {why}.")
    return found


def _changes(setting: Setting, mine: list[Setting]) -> str:
    key, value = setting.key, setting.value
    have = unit_text.values(mine, setting.section, key)
    if key == "DeviceAllow":
        return _list_changes(value, have)
    if key == "PrivateDevices" and unit_text.is_true(value):
        return "which takes the nodes of all GPUs away"
    if key == "Environment":
        return _variables_change(value, have)
    if key == "UnsetEnvironment":
        ours = _variables(unit_text.values(mine, setting.section, "Environment"))
        gone = {word.partition("=")[0] for word in unit_text.words(value)} & ours.keys()
        return f"which takes {', '.join(sorted(gone))} away" if gone else ""
    if not have:
        return ""
    if key in ("MemoryMax", "CPUQuota") and value != have[-1]:
        return f"where {have[-1]} is wanted"
    if key in ("SupplementaryGroups", "BindPaths", "BindReadOnlyPaths") and not value:
        return "which takes ours away"
    return ""


def _list_changes(value: str, have: list[str]) -> str:
    if not value:
        return "which closes the nodes of the slice"
    node, _, permissions = value.partition(" ")
    listed = dict((each.split() + ["rwm"])[:2] for each in have)
    if node in listed and not set(permissions.strip() or "rwm") - set(listed[node]):
        return ""
    return "which opens more than the slice" if node in listed or gpu_names.is_gpu_device(node) else ""


def _variables(have: list[str]) -> dict[str, str]:
    pairs = (word.partition("=") for line in have for word in unit_text.words(line))
    return {name: value for name, _, value in pairs}


def _variables_change(value: str, have: list[str]) -> str:
    ours = _variables(have)
    if not value:
        return f"which takes {', '.join(sorted(ours))} away" if ours else ""
    theirs = _variables([value])
    wrong = sorted(name for name, now in theirs.items() if ours.get(name, now) != now)
    return f"where {', '.join(f'{name}={ours[name]}' for name in wrong)} is wanted" if wrong else ""


def _shut_out(others: list[Fragment], mine: list[Setting]) -> list[str]:
    """What keeps the unit from its nodes without being a part of the filter, wherever it stands."""
    found = [setting for part in others for setting in part.settings]
    nodes = [line.split()[0] for section in _SECTIONS for line in unit_text.values(mine, section, "DeviceAllow")]
    sentences = [*_other_root(found), *_covered(found, nodes), *_elsewhere(found)]
    early = _last(found, "DefaultDependencies", "Unit")
    if early and not unit_text.is_true(early):
        sentences.append("DefaultDependencies=no: the unit starts early in the boot, and can't come after the slices are back.")
    if any(setting.section == "X-Container" for setting in found):
        sentences.append("It is made by Quadlet from a .container file: use a consumer of kind container that adopts this one.")
    return sentences


def _other_root(found: list[Setting]) -> list[str]:
    for key in ("RootDirectory", "RootImage"):
        root = _last(found, key)
        if root in ("", "/"):
            continue
        api = _last(found, "MountAPIVFS")
        if api and not unit_text.is_true(api):
            return [f"{key}={root} with MountAPIVFS={api}: there are no nodes of this host in that root."]
        return [f"{key}={root}: libraries of the driver have to be in that root, with the version that this host runs."]
    return []


def _covered(found: list[Setting], nodes: list[str]) -> list[str]:
    sentences = []
    for key in ("InaccessiblePaths", "TemporaryFileSystem"):
        for word in [word for line in unit_text.values(found, "Service", key) for word in unit_text.words(line)]:
            place = word.lstrip("-+").partition(":")[0].rstrip("/")
            if any(node == place or node.startswith(f"{place}/") for node in nodes):
                sentences.append(f"{key}={word} hides nodes of the slice from the unit.")
    return sentences


def _elsewhere(found: list[Setting]) -> list[str]:
    for line in unit_text.values(found, "Service", "ExecStart"):
        argv = unit_text.words(line.lstrip("@-:+!|")) or [""]
        program = os.path.basename(argv[0])
        own = program == "podman" and {"run", "start"} & set(argv) and "--cgroups=split" not in argv
        if program in _ELSEWHERE or own:
            return [f"It starts containers by {program}, which run outside of the unit and of its device filter."]
    return []


def _last(found: list[Setting], key: str, section: str = "Service") -> str:
    listed = [setting.value for setting in found if (setting.section, setting.key) == (section, key)]
    return listed[-1] if listed else ""
