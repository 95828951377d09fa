"""
How the kernel of a simulated machine names the files of its devices, and how it answers a write that it does not like.
"""

import errno
import os
import re

DEVICES = "/sys/bus/pci/devices"


def device_file(path):
    """(PCI address, file) of a path below the directory of a PCI function, ("", "") for any other path."""
    if not path.startswith(f"{DEVICES}/"):
        return "", ""
    address, _, name = path[len(DEVICES) + 1 :].partition("/")
    # What is written here may be any path.
    return ("", "") if not name or address.strip("0123456789abcdef:.") else (address, name)


def error(number, path):
    """The OSError of this errno for a file, to be raised."""
    return OSError(number, os.strerror(number), path)


def number_of(text, path):
    """The number that was written to a file. Raises OSError, EINVAL, for anything else."""
    if not re.fullmatch(r"\d+", text):
        raise error(errno.EINVAL, path)
    return int(text)
