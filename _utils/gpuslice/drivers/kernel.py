"""
The kernel's files: reading and writing them, with errors that say what to do.
"""

import errno
import re

from gpuslice import errors
from gpuslice import numbers
from gpuslice.host import limits
from gpuslice.printable import printable
from gpuslice.printable import printable_lines

_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")

#: What an errno means where a technique knows nothing better: (class, why, what to do).
MEANINGS = {
    errno.EACCES: (errors.PermissionDenied, "it needs root", "Run the minion (or salt-call) as root."),
    errno.EPERM: (
        errors.PermissionDenied,
        "the kernel does not allow it",
        "Run as root; in a container or with Secure Boot it may be forbidden.",
    ),
    errno.EROFS: (
        errors.PermissionDenied,
        "/sys can only be read here",
        "In a container, run the minion on its host instead, or give the container /sys for writing.",
    ),
    errno.ENOENT: (
        errors.Unsupported,
        "the kernel has no such file or no driver that answers it",
        "Check the driver and the kernel version.",
    ),
    errno.EBUSY: (errors.InUse, errors.IN_USE, "Stop its users and run again."),
    errno.EINVAL: (errors.DriverError, "the driver refuses this value", "See 'dmesg' for the driver's own words."),
    errno.ENODEV: (errors.DeviceNotFound, "the device is gone", "See 'dmesg' for what happened to it."),
}


def text(host, path):
    """Printable text of a file without white space at its ends, None where it is not there or can't be read."""
    try:
        return printable_lines(host.read(path)).strip()
    except OSError:
        return None


def number(host, path, most=2**64 - 1):
    """
    Text of a file as an int, None where it is not there, can't be read or is empty.

    :param most: what it can be at most. :raises errors.DriverError: there is something else, which can't be true.
    """
    found = text(host, path)
    if not found:
        return None
    told_number = numbers.whole(found, most)
    if told_number is None:
        raise untrue(path, found, f"a whole number of at most {most}")
    return told_number


def untrue(path, found, wanted):
    """The error for a file that says what can't be true; ``wanted`` is what it should be, in words."""
    return errors.DriverError(
        f"{path} says '{printable(found[:40])}', which can't be true: it is {wanted}.",
        "".join(_ADDRESS.findall(path)[:1]),
        "See 'dmesg' for what the driver says.",
    )


def write(host, gpu, path, value, doing, meanings=None):
    """
    Write a file of the kernel, whose driver answers in a moment; for what may take longer there is :mod:`.bounded`.

    It is written in a thread that can be left behind (some hundredths of a millisecond) and not in a process (some ten
    milliseconds): there are hundreds of such files on some GPUs.

    :param gpu: PCI address for the message; :param doing: what it is for, completing "could not ...".
    :param meanings: errno -> (class, why, what to do), before :data:`MEANINGS`.
    :raises errors.Unhealthy: it is not answered. :raises errors.GpuSliceError: of the class that the errno stands for.
    """
    try:
        host.limits.call(limits.CHANGE, gpu, doing, host.write, path, f"{value}")
    except OSError as err:
        raise failure(err, gpu, doing, meanings) from err


def failure(err, gpu, doing, meanings=None):
    """The error of gpuslice.errors for an OSError; parameters as of :func:`write`."""
    known = {**MEANINGS, **(meanings or {})}.get(err.errno)
    unknown = (errors.DriverError, f"{err.strerror} ({errno.errorcode.get(err.errno, err.errno)})", "See 'dmesg'.")
    kind, why, todo = known or unknown
    return errors.could_not(kind, doing, why, gpu, todo)
