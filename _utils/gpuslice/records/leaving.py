"""
The records of a host that is given up: which there are, and how they go, so that a crash leaves what the next attempt goes by.
Files of ours in folders of the system are found by their names where no record tells of them any more.
"""

import os
import re

from gpuslice import errors
from gpuslice.host.base import TRYING
from gpuslice.records.first import NUMBER
from gpuslice.records.history import FOLDER
from gpuslice.records.history import GENERATION_FILE
from gpuslice.records.store import FORMAT
from gpuslice.records.store import saying

_RECORD = re.compile(r"[a-z][a-z-]*\.json")
#: How everything was first found goes last of all that says something.
_FIRST = f"{FOLDER}/{NUMBER:06d}.json"
#: Without a format: what an ended change may leave, a lock of those who are at work for a moment, and who holds the lock.
_PLAIN = ("journal.steps", "energy.lock")
_LOCK = "lock"
#: Of GPUs that were tried: reports, and who holds that lock.
_TRIED = re.compile(r"[a-z0-9][a-z0-9-]*-[0-9]{8}-[0-9]{6}(-[0-9]+)?\.(json|txt)|lock")
#: Where files of ours lie that outlast a boot or start something, or in folders of these whose name ends in ``.d``.
_FOLDERS = (
    "/etc/systemd/system", "/run/systemd/system", "/etc/containers/systemd", "/run/cdi", "/etc/profile.d", "/etc/modprobe.d",
    "/etc/gpu-slicing/environment",
)  # fmt: skip
_USERS = "/etc/containers/systemd/users"
_OURS = re.compile(r"(?:5[01]-)?gpu-slicing\b|gpuslicing-")


def files(host):
    """
    Names of our files below the state directory, in the order in which they go.

    A directory of somebody's choice may have other files: ours are known by their names and by the format in them.
    """
    names = host.store_names(host.state_dir)
    ours = [name for name in names if name in _PLAIN or (_RECORD.fullmatch(name) and _has_format(host, name))]
    past = [f"{FOLDER}/{name}" for name in host.store_names(_at(host, FOLDER)) if GENERATION_FILE.fullmatch(name)]
    first = [name for name in past if name == _FIRST]
    ours += [f"{TRYING}/{name}" for name in host.store_names(_at(host, TRYING)) if _TRIED.fullmatch(name)]
    return [*ours, *(name for name in past if name not in first), *first, *(name for name in names if name == _LOCK)]


def others(host):
    """Names in the state directory that are not ours, and are left."""
    mine = {name.partition("/")[0] for name in files(host)}
    return [name for name in host.store_names(host.state_dir) if name not in mine and name not in (FOLDER, "simulated")]


def remove(host):
    """
    Remove our files, the lock last, which its caller holds, and the directories where nothing is left in them.

    :raises errors.StateDirUnusable: it can't be done; the next attempt goes on.
    """
    with saying(host.state_dir, "remove the records"):
        for name in files(host):
            if name == _LOCK:
                host.store_remove_directory(_at(host, FOLDER))
                host.store_remove_directory(_at(host, TRYING))
            host.store_remove(_at(host, name))
        # Where it lies is the system's, or whoever's who configured it.
        host.store_remove_directory(host.state_dir)


def strays(host):
    """Paths of files in folders of the system that are ours by their names."""
    found = []
    users = [f"{_USERS}/{name}" for name in host.listdir(_USERS)]
    for folder in (*_FOLDERS, *users):
        names = host.listdir(folder)
        found += [f"{folder}/{name}" for name in names if _is_ours(folder, name)]
        # Drop-ins of units that others made.
        inner = [f"{folder}/{name}" for name in names if name.endswith(".d")]
        found += [f"{each}/{name}" for each in inner for name in host.listdir(each) if _is_ours(each, name)]
    return sorted(found)


def _is_ours(folder, name):
    return not name.endswith(".d") and bool(_OURS.match(name) or "/gpu-slicing/" in folder)


def _has_format(host, name):
    try:
        found = host.store_load(_at(host, name))
    except (OSError, ValueError, errors.StateDirUnusable):
        return False
    # A file of format 0 has no number, and nobody has written any since the second version.
    return isinstance(found, dict) and type(found.get(FORMAT)) is int


def _at(host, name):
    return os.path.join(host.state_dir, name)
