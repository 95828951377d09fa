"""
A file that tells a scheduler of a node: written where it differs, and never over a file of somebody else.
"""

import os

from gpuslice import errors
from gpuslice.printable import printable

#: Of a simulated machine, what is its own; nothing of it is written on the machine that this runs on.
_SIMULATED = ("/etc/", "/run/")
#: Where files are the kernel's.
_KERNELS = ("/proc/", "/sys/", "/dev/")
#: Bytes of the longest name that a file has, and of the longest path, with what a file is called while it is written.
_NAME, _PATH, _MORE = 255, 4095, len(".123456789.new")


def refuse_path(host, path, kind):
    """Raises errors.PolicyError: a path can't be that of such a file."""
    if not os.path.isabs(path) or os.path.normpath(path) != path or not path.endswith(kind.ending):
        raise errors.PolicyError(
            f"{printable(path)[:200]!r} is no path for {kind.name}.",
            todo=f"Give an absolute one that ends in {kind.ending}; nothing was written.",
        )
    sizes = [len(name.encode()) for name in path.split("/")]
    kernels = path.startswith(_KERNELS)
    if kernels or max(sizes) > _NAME - _MORE or sum(sizes) + len(sizes) > _PATH - _MORE:
        why = "it is the kernel that makes files there" if kernels else "it is too long"
        raise errors.PolicyError(
            f"{printable(path)[:200]} can't be made: {why}.",
            todo="Name another path; nothing was written.",
        )
    if host.simulated and not path.startswith(_SIMULATED):
        raise errors.PolicyError(
            f"{path} is a file of the machine that this runs on, and the host is a simulated one.",
            todo="Name one below /etc or /run.",
        )


def read(host, path, kind):
    """
    Text of such a file, None where there is none.

    :raises errors.PermissionDenied: it can't be read; errors.ForeignChange: it is a link, or another user's.
    """
    # One that leads nowhere is somebody's too.
    if not host.exists(path) and not host.readlink(path):
        return None
    try:
        return host.store_read(path, "replace") if not host.simulated else host.read(path) + "\n"
    except errors.StateDirUnusable as err:
        why = err.what.removeprefix(path).partition(". ")[0].strip()
        raise errors.ForeignChange(
            f"{path} was to say {kind.says}, and {why}.",
            todo="Look at what is in it. Put a file in the place of a link, have it belong to root and be written by nobody else "
            "('chown root', 'chmod go-w'), or name another path; then run again.",
        ) from err
    except (OSError, ValueError) as err:
        why = getattr(err, "strerror", None) or err
        raise errors.PermissionDenied(
            f"{path} was to say {kind.says}, and can't be read: {why}.", todo="Mend that, or name another path; then run again."
        ) from err


def refuse_foreign(path, there, kind):
    """Raises errors.ForeignChange: what is there, a text or None, has not our mark."""
    if there is not None and not is_ours(there, kind):
        raise errors.ForeignChange(f"{path} was to say {kind.says}, and is a file of somebody else.", todo=kind.instead)


def is_ours(there, kind):
    """Whether a text, None where there is no file, has our mark."""
    return there is not None and there.startswith(kind.mark)


def put(host, path, wanted, kind):
    """Write such a file. Raises errors.PermissionDenied."""
    try:
        host.store_write(path, wanted)
    except OSError as err:
        raise errors.PermissionDenied(
            f"{path} was to be written for {kind.whom}: {err.strerror}.", todo="Mend that and run again."
        ) from err


def remove(host, path, kind):
    """Remove such a file; it need not be there. Raises errors.PermissionDenied."""
    try:
        host.store_remove(path)
    except OSError as err:
        raise errors.PermissionDenied(
            f"{path} was to be removed, since {kind.whom} is told nothing any more: {err.strerror}.",
            todo="Mend that and run again.",
        ) from err


def write(host, path, wanted, kind, test=False):
    """
    A file has this text.

    :param wanted: its text, the first line of which is the mark of its kind.
    :return: dict with ``changes``, ``comment``, and ``result`` but where ``test`` found something to change.
    :raises errors.ForeignChange: a file of somebody else is there; errors.PermissionDenied: it can't be read or written.
    """
    there = read(host, path, kind)
    if there == wanted:
        return {"result": True, "changes": {}, "comment": f"{path} says {kind.says}."}
    refuse_foreign(path, there, kind)
    change = {path: {"old": _said(there, kind), "new": _said(wanted, kind)}}
    if test:
        return {"changes": change, "comment": f"{path} would be written for {kind.whom}."}
    put(host, path, wanted, kind)
    return {"result": True, "changes": change, "comment": f"{path} is written for {kind.whom}."}


def _said(text, kind):
    return "absent" if text is None else [line for line in text.splitlines() if line != kind.mark]
