"""
Services of systemd that are installed on a simulated machine without using a GPU, and those of them that do something:
nvidia-gridd, the licence daemon of a guest with vGPUs, and Nomad's agent. They read their files when they start, and only then.
"""

import re

from gpuslice.host.base import parted
from gpuslice.sim import cgroups
from gpuslice.sim import containers
from gpuslice.sim import nomad

LICENCE_DAEMON = "nvidia-gridd.service"
_PLACE = "/usr/lib/systemd/system"
_WRITTEN = "/etc/systemd/system"
#: What a description has is enabled, and what runs has a control group.
_STARTED, _GROUPS = f"{_WRITTEN}/multi-user.target.wants", "/sys/fs/cgroup/system.slice"
_TIMERS = f"{_WRITTEN}/timers.target.wants/"
_CONFIGURATION = "/etc/nvidia/gridd.conf"
_TOKENS = "/etc/nvidia/ClientConfigToken/"
_SERVER = re.compile(r"^\s*ServerAddress\s*=\s*\S", re.MULTILINE)
#: Series of a vGPU type -> the product that a licence is for.
_PRODUCTS = {
    "A": "NVIDIA Virtual Applications",
    "B": "NVIDIA Virtual PC",
    "C": "NVIDIA Virtual Compute Server",
    "Q": "NVIDIA RTX Virtual Workstation",
}


def full_name(unit):
    """Name of a unit with its kind, as systemctl completes it."""
    return unit if "." in unit else f"{unit}.service"


def _place(unit):
    """Where the file of an installed unit lies: that of its template, for an instance."""
    name, at, _ = unit.rpartition("@")
    return f"{_PLACE}/{name}@.service" if at else f"{_PLACE}/{unit}"


def installed(state, unit):
    """Whether the description names this unit, a generator made it, or it is a timer whose file was written."""
    return unit in state["host"].get("units", ()) or unit in containers.generated(state) or _is_written_timer(state, unit)


def _is_written_timer(state, unit):
    return unit.endswith(".timer") and f"{_WRITTEN}/{unit}" in state["written"]


def text(state, unit):
    """What ``systemctl cat`` says of a unit: its file and its drop-ins, each after its path. None for one that is not there."""
    if not installed(state, unit):
        return None
    files = {**state["host"]["files"], **state["written"]}
    dropped = [path for path in sorted(files) if path.startswith(f"/etc/systemd/system/{unit}.d/") and path.endswith(".conf")]
    own = _place(unit)
    found = [(own, files.get(own, f"[Unit]\nDescription={unit}\n")), *((path, files[path]) for path in dropped)]
    return "\n".join(f"# {path}\n{each}" for path, each in found)


def show(tree, state):
    """The files of the units, and Podman's program; systemd runs where there is its own."""
    containers.show(tree, state)
    if "systemctl" in state["host"]["tools"]:
        tree.dir("/run/systemd/system")
    for unit in state["host"].get("units", ()):
        text = f"[Unit]\nDescription={unit}\n[Install]\nWantedBy=multi-user.target\n"
        tree.file(_place(unit), text)
        if parted(unit)[1] is None and "@" not in unit:
            tree.file(f"{_STARTED}/{unit}", text)
    for unit in (unit for unit in _running(state) if parted(unit)[1] is None):
        tree.dir(f"{_GROUPS}/{unit}")


def write(state, path, text, look):
    """No file of the kernel is a unit's."""
    return False


def modprobe(state, module, loading):
    """No module is a unit's."""


def reboot(state):
    """Every unit is enabled and starts, where it can."""
    state["running"] = {}
    containers.reload_units(state)
    for unit in (*state["host"].get("units", ()), *containers.generated(state)):
        # Those of users are for their managers to start.
        if parted(unit)[1] is None and not containers.unresolvable(state, unit):
            start(state, unit)
    for unit in [path.removeprefix(_TIMERS) for path in state["written"] if path.startswith(_TIMERS)]:
        start(state, unit)


def running(state):
    """Unit -> the files with which it was started, by path, of those that run; a CDI name with what it led to."""
    return _running(state)


def active(state, unit):
    """Whether an installed unit runs. All do on a machine that was just made."""
    return unit in _running(state)


def start(state, unit):
    """Start a unit, or restart it; inside a change."""
    cgroups.started(state, unit)
    running = _running(state)
    running[unit] = _files(state, unit, state["written"])
    state["running"] = running
    starts = state.setdefault("starts", {})
    starts[unit] = starts.get(unit, 0) + 1


def stop(state, unit):
    """Stop a unit; inside a change."""
    running = _running(state)
    running.pop(unit, None)
    state["running"] = running


def _running(state):
    """Unit -> the files that it read when it started. What was there from the beginning read what is described."""
    if "running" in state:
        return dict(state["running"])
    return {unit: _files(state, unit, {}) for unit in state["host"].get("units", ())}


def _files(state, unit, written):
    """The files that a unit reads, with their texts."""
    if unit == nomad.UNIT:
        return nomad.files(state, written)
    if unit != LICENCE_DAEMON:
        return containers.loaded(state, unit)
    files = {**state["host"]["files"], **written}
    return {path: text for path, text in files.items() if path == _CONFIGURATION or _is_token(path)}


def _is_token(path):
    return path.startswith(_TOKENS) and path.endswith(".tok")


def licence(state, gpu):
    """(product, status) of a vGPU in a guest, as nvidia-smi words them; None for another GPU."""
    series = re.search(r"-\d+([ABCQ])", gpu["about"]["name"])
    if not gpu["about"]["vgpu_guest"] or not series:
        return None
    read = _running(state).get(LICENCE_DAEMON, {})
    licensed = any(map(_is_token, read)) or _SERVER.search(read.get(_CONFIGURATION, ""))
    return _PRODUCTS[series[1]], "Licensed (Expiry: 2030-1-31 11:32:22 GMT)" if licensed else "Unlicensed (Restricted)"
