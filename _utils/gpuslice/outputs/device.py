"""
What opens a slice: device nodes, environment and mounts, whoever is given it.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

#: Names of lists in the environment: a consumer of several slices has one that names them all.
_LISTS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ZE_AFFINITY_MASK")


class Node(NamedTuple):
    """
    A device node.

    :ivar path: on the host, below /dev, and the same inside: rootless runtimes know no other.
    :ivar permissions: of ``rw``; never ``m``, since a node is never made by who uses it.
    """

    path: str
    permissions: str = "rw"


class Mount(NamedTuple):
    """
    A folder of the host that a consumer needs.

    :ivar source: path on the host; :ivar target: path inside; :ivar options: of the mount.
    """

    source: str
    target: str
    options: tuple[str, ...] = ("bind", "rw", "nosuid", "nodev", "noexec")


class Device(NamedTuple):
    """
    What opens one slice, or all those of a consumer.

    :ivar name: of the slice or the consumer. :ivar nodes: of :class:`Node`. :ivar environment: (name, value) pairs.
    :ivar mounts: of :class:`Mount`. :ivar units: of systemd, without which it does not work: who uses it starts anew with them.
    """

    name: str
    nodes: tuple[Node, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    units: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex digits that change when what is opened does: whoever runs with another one has to start anew."""
        return hashlib.sha256(json.dumps(self[1:]).encode()).hexdigest()[:16]


def merged(name: str, devices: Iterable[Device]) -> Device:
    """
    One device that opens all of these.

    :param name: its name. A variable that lists devices lists those of all; of any other one the first word counts.
    """
    devices = list(devices)
    nodes: dict[str, Node] = {}
    environment: dict[str, str] = {}
    for each in devices:
        for node in each.nodes:
            known = nodes.get(node.path)
            wider = known is not None and len(known.permissions) >= len(node.permissions)
            nodes[node.path] = known if known is not None and wider else node
        for variable, value in each.environment:
            listed = variable in _LISTS and variable in environment and value not in environment[variable].split(",")
            environment[variable] = f"{environment[variable]},{value}" if listed else environment.get(variable, value)
    mounts = tuple(dict.fromkeys(mount for each in devices for mount in each.mounts))
    units = tuple(dict.fromkeys(unit for each in devices for unit in each.units))
    return Device(name, tuple(nodes.values()), tuple(environment.items()), mounts, units)
