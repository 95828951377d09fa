"""
A file that is to be there.
"""

from typing import NamedTuple


class File(NamedTuple):
    """
    One file as it is to be.

    :ivar path: where; :ivar text: all of it. :ivar mode: permissions. It belongs to root.
    """

    path: str
    text: str
    mode: int = 0o644


class Kind(NamedTuple):
    """
    What kind of file a scheduler of jobs or pods is told by.

    :ivar name: as in "no path for <name>"; :ivar ending: how its path ends; :ivar mark: its first line, by which ours is known.
    :ivar says: what it says; :ivar whom: whom it is for. :ivar instead: what to do where a file of somebody else is there.
    """

    name: str
    ending: str
    mark: str
    says: str
    whom: str
    instead: str
