"""
What the kernel said since the last look: a cursor over its log.
"""

from typing import NamedTuple


class Cursor(NamedTuple):
    """How far the log was read. :ivar boot: identifier of the boot; :ivar number: of the newest line that was seen."""

    boot: str
    number: int


class News(NamedTuple):
    """
    :ivar lines: tuple of :class:`gpuslice.host.kernel_log.Line` that were not seen before.
    :ivar cursor: where the next look goes on. :ivar lost: whether lines were overwritten before anybody saw them.
    :ivar unread: why the log can't be read, "" for one that can.
    """

    lines: tuple
    cursor: Cursor | None
    lost: bool = False
    unread: str = ""


def since(host, cursor):
    """What is new in the log of a host since ``cursor``, None for a first look, which sees all that is left."""
    try:
        log = host.kernel_log()
    except OSError as err:
        return News((), cursor, unread=err.strerror or str(err))
    boot = host.boot_id()
    # In one boot numbers only grow; where they do not, the boot can't be told, and everything is new.
    seen = cursor.number if cursor and cursor.boot == boot and cursor.number <= log.last else -1
    lines = tuple(line for line in log.lines if line.number > seen)
    return News(lines, Cursor(boot, log.last), lost=cursor is not None and log.first > seen + 1)
