"""
The kernel's log, as ``/dev/kmsg`` has it (``Documentation/ABI/testing/dev-kmsg``): a record for each read, of priority, sequence
number, microseconds since the boot and flags, and the text after a semicolon. Numbers begin anew at each boot. Where another has
overwritten what was to be read next, a read fails with EPIPE and the next one goes on with the oldest that is left.
"""

import errno
import os
import re
from typing import NamedTuple

from gpuslice.printable import printable

_PATH = "/dev/kmsg"
#: More than the longest record that the kernel makes.
_RECORD = 16384
#: Lines of one look: more than a ring has, so that a log which is written faster than it is read ends too.
_MOST = 2_000_000
_NUMBER = re.compile(rb"[0-9]{1,18}")
_OF_THE_KERNEL = {str(priority).encode() for priority in range(8)}
#: Lines that may tell of a GPU; all others are only counted.
WORDS = re.compile(rb"NVRM|SXid|amdgpu|\[drm\]|Hardware Error|wedged")


class Line(NamedTuple):
    """
    One line of the log.

    :ivar number: its sequence number in this boot; :ivar seconds: since the boot; :ivar text: without what is not for printing.
    """

    number: int
    seconds: float
    text: str


class Log(NamedTuple):
    """
    :ivar first: :ivar last: number of the oldest line that is left and of the newest one, -1 for an empty log.
    :ivar lines: tuple of :class:`Line`: those that may tell of a GPU.
    """

    first: int
    last: int
    lines: tuple


#: Of a kernel that has said nothing.
NOTHING = Log(-1, -1, ())


def read(path=_PATH):
    """The log that there is now, without waiting for more. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return of_records(_records(handle))
    finally:
        os.close(handle)


def _records(handle):
    for _ in range(_MOST):
        try:
            record = os.read(handle, _RECORD)
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno != errno.EPIPE:
                raise
            continue
        if not record:
            return
        yield record


def of_records(records):
    """The :class:`Log` of records as the kernel gives them; one that has another form is left out."""
    first = last = -1
    lines = []
    for record in records:
        head, semicolon, text = record.partition(b";")
        fields = head.split(b",", 3)
        if not semicolon or len(fields) < 3 or not all(_NUMBER.fullmatch(each) for each in fields[1:3]):
            continue
        last = int(fields[1])
        first = last if first < 0 else first
        # A program can write into the log too; only what the kernel itself says has facility 0, and so less than 8.
        if WORDS.search(text) and fields[0] in _OF_THE_KERNEL:
            words = printable(text.partition(b"\n")[0].decode(errors="replace"))
            lines.append(Line(last, int(fields[2]) / 1e6, words))
    return Log(first, last, tuple(lines))
