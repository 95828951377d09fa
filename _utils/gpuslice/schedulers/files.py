"""
A file that tells a scheduler of a node: written where it differs, and never over a file of somebody else.
"""

import os
from typing import NamedTuple

from gpuslice import errors
from gpuslice.printable import printable

#: Of a simulated machine, what is its own; nothing of it is written on the machine that this runs on.
_SIMULATED = ("/etc/", "/run/")


class Kind(NamedTuple):
    """
    What kind of file it is.

    :ivar name: as in "no path for <name>"; :ivar ending: how its path ends; :ivar mark: its first line, by which ours is known.
    :ivar says: what it says; :ivar whom: whom it is for. :ivar instead: what to do where a file of somebody else is there.
    """

    name: str
    ending: str
    mark: str
    says: str
    whom: str
    instead: str


def refuse_path(host, path, kind):
    """Raises errors.PolicyError: a path can't be that of such a file."""
    if not os.path.isabs(path) or os.path.normpath(path) != path or not path.endswith(kind.ending):
        raise errors.PolicyError(
            f"{printable(path)[:200]!r} is no path for {kind.name}.",
            todo=f"Give an absolute one that ends in {kind.ending}; nothing was written.",
        )
    if host.simulated and not path.startswith(_SIMULATED):
        raise errors.PolicyError(
            f"{path} is a file of the machine that this runs on, and the host is a simulated one.",
            todo="Name one below /etc or /run.",
        )


def write(host, path, wanted, kind, test=False):
    """
    A file has this text.

    :param wanted: its text, the first line of which is the mark of its kind.
    :return: dict with ``changes``, ``comment``, and ``result`` but where ``test`` found something to change.
    :raises errors.ForeignChange: a file of somebody else is there; errors.PermissionDenied: it can't be read or written.
    """
    there = _read(host, path)
    if there == wanted:
        return {"result": True, "changes": {}, "comment": f"{path} says {kind.says}."}
    if there is not None and not there.startswith(kind.mark):
        raise errors.ForeignChange(f"{path} was to say {kind.says}, and is a file of somebody else.", todo=kind.instead)
    change = {path: {"old": _said(there, kind), "new": _said(wanted, kind)}}
    if test:
        return {"changes": change, "comment": f"{path} would be written for {kind.whom}."}
    try:
        host.store_write(path, wanted)
    except OSError as err:
        raise errors.PermissionDenied(
            f"{path} was to be written for {kind.whom}: {err.strerror}.", todo="Mend that and run again."
        ) from err
    return {"result": True, "changes": change, "comment": f"{path} is written for {kind.whom}."}


def _read(host, path):
    if not host.exists(path):
        return None
    try:
        return host.store_read(path, "replace") if not host.simulated else host.read(path) + "\n"
    except (OSError, ValueError) as err:
        raise errors.PermissionDenied(f"{path} can't be read: {err}.", todo="Mend that and run again.") from err


def _said(text, kind):
    return "absent" if text is None else [line for line in text.splitlines() if line != kind.mark]
