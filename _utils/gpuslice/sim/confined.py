"""
What units and containers of a simulated machine can open: from the properties of a transient unit, the files of its slice unit,
the CDI files as they are written, and who owns a node.

The program that they run is always one that opens nodes: its last arguments, after the word ``look``, are these, and it prints
``NODE r WORDS`` and ``NODE rw WORDS`` of each, with the kernel's words for the error and none where it was opened.
"""

import json
import re
from typing import NamedTuple

from gpuslice.host.base import Completed

_GONE, _DENIED, _FORBIDDEN = "No such file or directory", "Operation not permitted", "Permission denied"
_RENDER, _VIDEO = 993, 44
#: Names of nodes -> (uid, gid, mode) that udev and the drivers give them.
_OWNERS = (
    (re.compile(r"/dev/nvidia-caps/.*"), (0, 0, 0o444)),
    (re.compile(r"/dev/nvidia.*"), (0, 0, 0o666)),
    (re.compile(r"/dev/dri/card.*"), (0, _VIDEO, 0o660)),
    (re.compile(r"/dev/dri/render.*|/dev/kfd"), (0, _RENDER, 0o660)),
    (re.compile(r"/dev/vfio/vfio"), (0, 0, 0o666)),
    (re.compile(r"/dev/.*"), (0, 0, 0o600)),
)
_PROFILES = "/sys/kernel/security/apparmor/profiles"


class Walls(NamedTuple):
    """
    What is between a program and nodes.

    :ivar filter: node -> permissions of the device filter, None without one; :ivar shown: the nodes that its /dev has, None for
        all of the host. :ivar user: as whom it runs, "" for root; :ivar groups: further groups of him, by number.
    :ivar kept: whether he has the groups of the host.
    """

    filter: dict | None = None
    shown: set | None = None
    user: str = ""
    groups: tuple = ()
    kept: bool = True


def owner(state, path):
    """(uid, gid, mode) of a file that is there."""
    if described := state["host"].get("owners", {}).get(path):
        uid, gid, mode = described.split(":")
        return int(uid), int(gid), int(mode, 8)
    return next((known for pattern, known in _OWNERS if pattern.fullmatch(path)), (0, 0, state.get("modes", {}).get(path, 0o644)))


def user(host, name):
    """(uid, primary group) of a user by name or number, None where there is none."""
    for line in _lines(host, "/etc/passwd"):
        if name in (line[0], line[2]):
            return int(line[2]), int(line[3])
    return (0, 0) if name in ("", "root", "0") else None


def _lines(host, path):
    try:
        return [[*line.split(":"), "", "", ""] for line in host.read(path).splitlines() if line]
    except OSError:
        return []


def _groups(host, walls):
    uid, primary = user(host, walls.user)
    listed = [int(line[2]) for line in _lines(host, "/etc/group") if walls.user in line[3].split(",")] if walls.kept else []
    return uid, {primary, *listed, *walls.groups}


# -- opening ---------------------------------------------------------------------------------------------------------
def opening(host, command, walls):
    """What the program prints."""
    nodes = command[command.index("look") + 1 :] if "look" in command else []
    return Completed(0, "".join(f"{node} {how} {_said(host, node, how, walls)}\n" for node in nodes for how in ("r", "rw")))


def _said(host, node, how, walls):
    if not host.exists(node) or (walls.shown is not None and node not in walls.shown):
        return _GONE
    uid, groups = _groups(host, walls)
    owned_by, group, mode = owner(host.state(), node)
    bits = mode >> 6 if uid == owned_by else mode >> 3 if group in groups else mode
    needed = {"r": 4, "rw": 6}[how]
    if uid and bits & needed != needed:
        return _FORBIDDEN
    if walls.filter is not None and not set(how) <= set(walls.filter.get(node, "")):
        return _DENIED
    return ""


def systemd_run(host, arguments):
    """``systemd-run --wait --pipe ... -p PROPERTY=VALUE... PROGRAM``."""
    if not host.state()["host"]["privileged"]:
        return Completed(1, "", "Failed to start transient service unit: Interactive authentication required.\n")
    properties, command, pending = [], [], iter(arguments)
    for word in pending:
        if word == "-p":
            properties.append(next(pending, "").partition("=")[::2])
        elif not word.startswith("--"):
            command = [word, *pending]
    last = dict(properties)
    who = last.get("User", "")
    if user(host, who) is None:
        return Completed(217, "", f"Failed to determine user credentials for {who}: No such process\n")
    if last.get("PrivateDevices", "no") in ("yes", "true", "1", "on"):
        return opening(host, command, Walls(shown=set()))
    lists = [_filter(properties), _filter(_of_slice(host, last.get("Slice", "")))]
    given = [each for each in lists if each is not None]
    both = {node: "".join(sign for sign in "rw" if all(sign in each.get(node, "") for each in given))
            for each in given for node in each} if given else None  # fmt: skip
    numbers = _numbers(host, [value for key, value in properties if key == "SupplementaryGroups"])
    return opening(host, command, Walls(filter=both, user=who, groups=numbers))


def _filter(properties):
    """Node -> permissions by DeviceAllow=, None where all are open."""
    allowed = {}
    for key, value in properties:
        if key == "DeviceAllow":
            node, _, how = value.partition(" ")
            allowed = {**allowed, node: how or "rwm"} if value else {}
    policy = dict(properties).get("DevicePolicy", "auto")
    return allowed if allowed or policy in ("closed", "strict") else None


def _of_slice(host, unit):
    """(key, value) of the drop-ins of a slice unit."""
    folder = f"/etc/systemd/system/{unit}.d"
    texts = [host.read(f"{folder}/{name}") for name in host.listdir(folder) if name.endswith(".conf")] if unit else []
    return [line.partition("=")[::2] for text in texts for line in text.splitlines() if re.match(r"[A-Z]\w+=", line)]


def _numbers(host, values):
    known = {line[0]: line[2] for line in _lines(host, "/etc/group")}
    words = [known.get(word, word) for value in values for word in value.split()]
    return tuple(int(word) for word in words if word.isdigit())


# -- CDI -------------------------------------------------------------------------------------------------------------
def resolved(host, names):
    """(node -> permissions of the CDI names, names that no file has)."""
    found = {}
    for folder in ("/etc/cdi", "/run/cdi"):
        for name in host.listdir(folder):
            if name.endswith(".json"):
                found.update(_devices(host.read(f"{folder}/{name}")))
    nodes = {node: how for name in names for node, how in found.get(name, {}).items()}
    return nodes, [name for name in names if name not in found]


def _devices(text):
    try:
        spec = json.loads(text)
        common = _nodes(spec.get("containerEdits", {}))
        return {f"{spec['kind']}={each['name']}": {**common, **_nodes(each["containerEdits"])} for each in spec["devices"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _nodes(edits):
    return {node["path"]: node.get("permissions", "rwm") for node in edits.get("deviceNodes", ())}


# -- AppArmor --------------------------------------------------------------------------------------------------------
def apparmor_parser(host, arguments):
    """``apparmor_parser --version``, and ``apparmor_parser -r FILE``, which loads the profiles of a file."""
    if arguments == ["--version"]:
        return Completed(0, "AppArmor parser version 3.0.8\n")
    if arguments[:1] != ["-r"] or len(arguments) != 2 or not host.exists(arguments[1]):
        return Completed(1, "", f"File {arguments[-1]} not found, skipping...\n")
    names = re.findall(r"^profile (\S+)", host.read(arguments[1]), re.MULTILINE)
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(1, "", "apparmor_parser: Sorry. You need root privileges to run this program.\n")
        loaded = host.read(_PROFILES).splitlines() if host.exists(_PROFILES) else []
        state["written"][_PROFILES] = "\n".join(dict.fromkeys([*loaded, *(f"{name} (enforce)" for name in names)]))
    return Completed(0)
