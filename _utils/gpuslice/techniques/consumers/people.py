"""
Users of a host and what they may open: by ``/etc/passwd``, ``/etc/group`` and the owners of nodes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from gpuslice.host.base import Host
from gpuslice.numbers import whole
from gpuslice.outputs.device import Node

PASSWD = "/etc/passwd"
#: Highest uid that is anybody's.
_LAST_UID = 2**32 - 2
#: Ids that rootless Podman needs to have beside the user's own: what images usually go up to.
RANGE = 65536
_FIRST = 100000
_BITS = {"r": 4, "w": 2}


class Person(NamedTuple):
    """
    A user of the host.

    :ivar groups: numbers of all his groups; :ivar own: of his primary one.
    """

    name: str
    uid: int
    own: int
    groups: frozenset[int]
    home: str


class People:
    """The users of one host, each file as it was when it was read first."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._lines: dict[str, list[str]] = {}

    def named(self, name: str, more: Iterable[str] = ()) -> Person | None:
        """A user by name or number, None where there is none. :param more: further groups, by name or number."""
        for row in self._rows(PASSWD, 7):
            uid, own = whole(row[2]), whole(row[3])
            if name in (row[0], row[2]) and uid is not None and own is not None:
                known = {group[0]: group[2] for group in self._rows("/etc/group", 4)}
                listed = [group[2] for group in self._rows("/etc/group", 4) if row[0] in group[3].split(",")]
                numbers = [row[3], *listed, *(known.get(word, word) for word in more)]
                groups = frozenset(number for each in numbers if (number := whole(each)) is not None)
                return Person(row[0], uid, own, groups, row[5])
        return None

    def uid(self, name: str) -> int | None:
        """The uid of a user by his name alone, None where there is none."""
        found = (whole(row[2], _LAST_UID) for row in self._rows(PASSWD, 7) if row[0] == name)
        return next((number for number in found if number is not None and number >= 0), None)

    def group(self, number: int) -> str:
        """Name of a group, its number where it has none."""
        return next((row[0] for row in self._rows("/etc/group", 4) if row[2] == str(number)), str(number))

    def owner(self, uid: int) -> str:
        """Name of a user, his number where he has none."""
        return next((row[0] for row in self._rows(PASSWD, 7) if row[2] == str(uid)), str(uid))

    def subordinate(self, person: Person, path: str) -> int:
        """How many ids a user has in ``/etc/subuid`` or ``/etc/subgid``."""
        rows = [row for row in self._rows(path, 3) if row[0] in (person.name, str(person.uid))]
        return sum(whole(row[2]) or 0 for row in rows)

    def free(self, path: str) -> str:
        """A range of such ids that nobody has, as ``usermod`` takes it."""
        ends = [(whole(row[1]) or 0) + (whole(row[2]) or 0) for row in self._rows(path, 3)]
        first = max([_FIRST, *ends])
        return f"{first}-{first + RANGE - 1}"

    def shut(self, person: Person, nodes: Iterable[Node], kept: bool = True) -> list[tuple[str, tuple[int, int, int]]]:
        """
        (path, (uid, gid, mode)) of the nodes that a user may not open, of those that are there.

        :param kept: whether he has all his groups; False: his primary one alone.
        """
        found = []
        for node in nodes:
            try:
                uid, gid, mode = self._host.owner(node.path)
            except OSError:
                continue
            groups = person.groups if kept else frozenset([person.own])
            bits = mode >> 6 if person.uid == uid else mode >> 3 if gid in groups else mode
            if person.uid and any(not bits & _BITS[sign] for sign in node.permissions):
                found.append((node.path, (uid, gid, mode)))
        return found

    def _rows(self, path: str, count: int) -> list[list[str]]:
        if path not in self._lines:
            try:
                self._lines[path] = self._host.read(path).splitlines()
            except OSError:
                self._lines[path] = []
        return [[*line.split(":"), *[""] * count][:count] for line in self._lines[path] if line and not line.startswith("#")]
