"""
Which Salt job this process works for: read from the file that Salt keeps for each running job.
"""

import os
from typing import NamedTuple

from gpuslice.printable import printable


class Doing(NamedTuple):
    """Who asks: function and user, or the process; and Salt's job id, "" for none."""

    who: str
    jid: str


def doing(cachedir):
    """Who asks for what this process does, as :class:`Doing`; ``cachedir`` as of :func:`of_process`."""
    found = of_process(cachedir)
    who = " by ".join(part for part in (found["fun"], found["user"]) if part) or f"process {os.getpid()}"
    return Doing(who, found["jid"])


def of_process(cachedir, pid=None):
    """
    The job of a process.

    :param cachedir: the minion's cache directory; :param pid: process id, this process when None.
    :return: dict with ``jid``, ``fun`` and ``user``, each "" when not known. Never raises: a job without a name is still a job.
    """
    if not cachedir:
        return {"jid": "", "fun": "", "user": ""}
    pid = pid or os.getpid()
    folder = os.path.join(cachedir, "proc")
    try:
        names = sorted(os.listdir(folder), reverse=True)
    except OSError:
        names = []
    for name in names:
        data = _load(os.path.join(folder, name))
        if data.get("pid") == pid:
            return {key: printable(str(data.get(key) or "")) for key in ("jid", "fun", "user")}
    return {"jid": "", "fun": "", "user": ""}


def _load(path):
    # Here, so that a process that works for no job does not load it.
    import msgpack

    try:
        with open(path, "rb") as handle:
            data = msgpack.unpackb(handle.read(), raw=False, strict_map_key=False)
    except (OSError, ValueError, msgpack.UnpackException):
        return {}
    return data if isinstance(data, dict) else {}
