"""
Clients of DRM devices: what each open file of a graphics driver tells of its own use, in /proc/<pid>/fdinfo.

Facts: ``Documentation/gpu/drm-usage-stats.rst`` of Linux. Several files, of several processes, may be of one client, which
``drm-client-id`` tells. The driver xe wakes its card to answer, so that only files of the functions asked for are read.
"""

import os
import re
from typing import NamedTuple

from gpuslice.addresses import is_pci
from gpuslice.numbers import whole

#: More than a driver tells of a client.
_MOST_BYTES, _MOST_KEYS = 65536, 256
_NODE = re.compile(r"/dev/dri/((?:card|renderD)[0-9]+)\Z")
_UNITS = {"": 1, "ns": 1, "Hz": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Client(NamedTuple):
    """
    One client of a driver.

    :ivar function: PCI address of the function that it uses; :ivar id: what no other client of it has.
    :ivar pids: the processes that have its files open.
    :ivar numbers: what the driver tells of it, by the key without ``drm-``: bytes, nanoseconds or cycles.
    """

    function: str
    id: int
    pids: tuple[int, ...]
    numbers: dict


def parse(text: str, pid: int) -> Client | None:
    """The client that one file of fdinfo tells of, None where it is of none."""
    function, identity, numbers = "", None, {}
    for line in text.splitlines()[:_MOST_KEYS]:
        key, colon, value = line.partition(":")
        if not colon or not key.startswith("drm-"):
            continue
        key, value = key.removeprefix("drm-"), value.strip()
        if key == "pdev":
            function = value.lower()
        elif key == "client-id":
            identity = whole(value)
        elif (number := _number(value)) is not None:
            numbers[key] = number
    known = identity is not None and identity >= 0 and is_pci(function)
    return Client(function, identity or 0, (pid,), numbers) if known else None


def _number(value: str) -> int | None:
    text, _, unit = value.partition(" ")
    found, factor = whole(text), _UNITS.get(unit.strip())
    return None if found is None or factor is None or found < 0 else found * factor


def merged(clients: list[Client]) -> list[Client]:
    """One for each client. Its numbers may step back from one look to the next: the larger one is kept."""
    found: dict[tuple[str, int], Client] = {}
    for client in clients:
        key = (client.function, client.id)
        known = found.get(key, client)
        numbers = {name: max(known.numbers.get(name, 0), number) for name, number in client.numbers.items()}
        pids = tuple(sorted({*known.pids, *client.pids}))
        found[key] = client._replace(pids=pids, numbers={**known.numbers, **numbers})
    return list(found.values())


def scan(functions: dict[str, str], root: str = "/proc") -> list[Client]:
    """
    The clients of some functions.

    :param functions: name of a node in /dev/dri -> PCI address of its function, of those that may be asked.
    :raises PermissionError: not all processes can be seen.
    """
    found = []
    for pid in sorted(number for name in os.listdir(root) if (number := whole(name)) is not None):
        for descriptor in _descriptors(f"{root}/{pid}/fd", functions):
            client = parse(_text(f"{root}/{pid}/fdinfo/{descriptor}"), pid)
            if client and client.function in functions.values():
                found.append(client)
    return merged(found)


def _descriptors(place: str, functions: dict[str, str]) -> list[str]:
    """Numbers of the files of a process that are nodes of these functions. Raises PermissionError."""
    try:
        names = os.listdir(place)
    except PermissionError:
        raise
    except OSError:
        # It has ended.
        return []
    return [name for name in names if _node(f"{place}/{name}") in functions]


def _node(link: str) -> str:
    try:
        found = _NODE.match(os.readlink(link))
    except OSError:
        return ""
    return found[1] if found else ""


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read(_MOST_BYTES)
    except OSError:
        return ""
