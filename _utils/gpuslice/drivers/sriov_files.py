"""
The provisioning files of a physical function, whichever driver and kernel made them: which there are and what they say. The
drivers' own layouts are in :mod:`.xe_sriov` and :mod:`.i915_sriov`; everything here works on any of them.

A value is an int, or a word for a priority. Memory is in bytes.
"""

import errno
import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.numbers import whole

#: What is divided among virtual functions, and what only says when each has its turn.
QUOTAS = ("vram", "ggtt", "contexts", "doorbells")
SCHEDULING = ("exec_quantum_ms", "preempt_timeout_us", "priority", "sched_if_idle")

MEANINGS = {
    errno.ENOSPC: (
        errors.ProfileMismatch,
        "the GPU has not so much left",
        "Give less, or use 'profile: fair', which lets the driver divide what there is.",
    ),
    errno.EDQUOT: (errors.ProfileMismatch, "it is more than one virtual function may have", "Give less."),
    errno.EPERM: (errors.Unsupported, "this GPU or its firmware does not allow it", "Leave the setting out of the pillar."),
    errno.EOPNOTSUPP: (errors.Unsupported, "the driver can't change it", "Leave the setting out of the pillar."),
    errno.EIO: (errors.DriverError, "the GPU's firmware refused it", "See 'dmesg' for the driver's own words."),
    errno.ESTALE: (errors.ResourceConflict, "something is still provisioned", "Remove the virtual functions first."),
}


class Attribute(NamedTuple):
    """
    One file that can be written.

    :ivar path: below the root of the layout. :ivar owner: 0 for the PF, else the VF's number from 1.
    :ivar field: of :data:`QUOTAS` or :data:`SCHEDULING`. :ivar tile: which tile it is about.
    :ivar source: path to read it from where that is another one.
    """

    path: str
    owner: int
    field: str
    tile: int = 0
    source: str = ""

    @property
    def default(self):
        """What it is when nobody wrote it."""
        return "low" if self.field == "priority" else 0


class Files(NamedTuple):
    """
    The files of one GPU.

    :ivar layout: name of the layout; :ivar root: directory of it.
    :ivar switch: path of a file that says 1 while the driver divides by itself, "" where there is none.
    :ivar restore: absolute path of a file that takes a 1 to go back to that, "" where there is none.
    :ivar complete: whether all quotas of each VF must be given when one is.
    :ivar telling: whether the numbers tell a driver's own division from one that was written.
    """

    layout: str
    root: str
    attributes: tuple
    switch: str = ""
    restore: str = ""
    complete: bool = True
    telling: bool = True

    def fields(self, owner=None):
        """The fields that there are, of one owner (0 the PF) or of all VFs."""
        return {a.field for a in self.attributes if (a.owner == owner if owner is not None else a.owner)}

    @property
    def tiles(self):
        """Number of tiles that have quotas of their own."""
        return len({a.tile for a in self.attributes if a.field in QUOTAS}) or 1

    def by_path(self):
        """path -> attribute."""
        return {a.path: a for a in self.attributes}


def existing(host, root, attributes):
    """Those of the attributes whose file is there, as a tuple."""
    return tuple(a for a in attributes if host.exists(f"{root}/{a.path}"))


def read(host, files):
    """
    path -> value of every attribute that is not at its default; the switch's value is in it in any case.

    :raises errors.DriverError: a file says what can't be true.
    """
    found = {}
    for attribute in files.attributes:
        path = f"{files.root}/{attribute.source or attribute.path}"
        value = _value(text := kernel.text(host, path))
        if value is not None and attribute.field != "priority" and (isinstance(value, str) or value < 0):
            raise kernel.untrue(path, text, "a number of 0 or more")
        if value is not None and value != attribute.default:
            found[attribute.path] = value
    if files.switch:
        found[files.switch] = kernel.number(host, f"{files.root}/{files.switch}") or 0
    return found


def _value(text):
    """A number, or the word in brackets of a choice; None for what can't be read."""
    if text is None or text == "":
        return None
    if "[" in text:
        return text.partition("[")[2].partition("]")[0]
    if re.fullmatch("0x[0-9a-fA-F]{1,16}", text):
        return int(text, 16)
    number = whole(text)
    return text if number is None else number
