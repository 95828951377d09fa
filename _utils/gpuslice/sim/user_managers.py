"""
The managers of users of a simulated machine, who run their units: those of all who linger, from the boot until somebody stops
``user@<uid>.service``. The socket of one that was stopped stays, as it does on a real machine.
"""

import re

from gpuslice.host.base import Completed
from gpuslice.host.base import parted
from gpuslice.sim import containers
from gpuslice.sim import units

_LINGER = "/var/lib/systemd/linger/"
_UNIT = re.compile(r"user@([0-9]+)\.service")
#: What comes before ``systemctl --user`` in a command that is for the manager of a user, who is the only one that it obeys.
_AS_USER = re.compile(r"--reuid=([0-9]+) --regid=[0-9]+ --clear-groups env -i XDG_RUNTIME_DIR=/run/user/\1 systemctl --user ")


def _lingering(state):
    """Numbers of the users who linger."""
    files = {**state["host"]["files"], **state["written"]}
    rows = [line.split(":") for line in files.get("/etc/passwd", "").splitlines()]
    return [int(row[2]) for row in rows if len(row) > 2 and f"{_LINGER}{row[0]}" in files]


def runs(state, uid):
    """Whether the manager of a user runs."""
    there = "systemctl" in state["host"]["tools"] and uid in _lingering(state)
    return there and uid not in state.get("ended_managers", ())


def uid_of(unit):
    """Whose manager a unit of the system is, None for another unit."""
    found = _UNIT.fullmatch(unit)
    return int(found[1]) if found else None


def switch(host, verb, uid):
    """``systemctl start|stop user@<uid>.service``: all that it runs ends with it, and what its files say starts with it."""
    with host.change() as state:
        if not state["host"]["privileged"]:
            return Completed(4, "", f"Failed to {verb} user@{uid}.service: Access denied\n")
        ended = set(state.get("ended_managers", ()))
        state["ended_managers"] = sorted(ended | {uid} if verb == "stop" else ended - {uid})
        if verb == "start":
            _start(state, uid)
        for unit in units.running(state) if verb == "stop" else ():
            if parted(unit)[1] == uid:
                units.stop(state, unit)
    return Completed(0)


def asked(arguments):
    """(uid, arguments of systemctl) of a ``setpriv`` that speaks to the manager of a user; None for any other one."""
    found = _AS_USER.match(" ".join(arguments))
    return (int(found[1]), arguments[found[0].count(" ") :]) if found else None


def _start(state, uid):
    containers.reload_units(state, uid)
    for unit in containers.generated(state):
        if parted(unit)[1] == uid and not containers.unresolvable(state, unit):
            units.start(state, unit)


# -- as a part of the machine ----------------------------------------------------------------------------------------
def show(tree, state):
    """Their sockets."""
    if "systemctl" in state["host"]["tools"]:
        for uid in _lingering(state):
            tree.file(f"/run/user/{uid}/systemd/private", "")


def write(state, path, text, look):
    """No file of the kernel is theirs."""
    return False


def modprobe(state, module, loading):
    """No module is theirs."""


def reboot(state):
    """They start with the machine."""
    state["ended_managers"] = []
    for uid in _lingering(state):
        if runs(state, uid):
            _start(state, uid)
