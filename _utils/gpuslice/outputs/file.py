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
