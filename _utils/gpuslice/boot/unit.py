"""
The systemd unit that calls :func:`gpuslice.boot.replay.replay` at each boot: its text, and whether it is there and enabled.
"""

import os
import sys

from gpuslice import errors
from gpuslice.drivers import systemd
from gpuslice.inventory import owners
from gpuslice.records.verified import Verified

UNIT = "gpu-slicing.service"
_UNITS = "/etc/systemd/system"
UNIT_PATH = f"{_UNITS}/{UNIT}"
_WANTED = f"{_UNITS}/multi-user.target.wants/{UNIT}"

#: Seconds that systemd gives the whole unit: the wait, and resets of many GPUs one after the other.
_UNIT_TIMEOUT = 900

#: What has to be there before: drivers, and services that make the GPUs ready or speak to them for all others.
AFTER = (
    "systemd-modules-load.service",
    "systemd-udev-trigger.service",
    "systemd-udev-settle.service",
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "nvidia-vgpud.service",
    "nvidia-vgpu-mgr.service",
    "nvidia-gridd.service",
    "nvidia-mig-manager.service",
)
#: Who uses slices, or describes them to users: containers, virtual machines, batch systems, monitors, desktops, which would keep
#: their GPU busy, and the minion, whose first highstate should find the host as it was. Services only: sockets and targets of
#: the early boot would make a cycle.
BEFORE = (
    "docker.service",
    "containerd.service",
    "podman.service",
    "podman-restart.service",
    "crio.service",
    "kubelet.service",
    "k3s.service",
    "k3s-agent.service",
    "rke2-server.service",
    "rke2-agent.service",
    "libvirtd.service",
    "virtqemud.service",
    "libvirt-guests.service",
    "nvidia-cdi-refresh.service",
    "nvidia-dcgm.service",
    "dcgm-exporter.service",
    "slurmd.service",
    "nomad.service",
    "k0scontroller.service",
    "k0sworker.service",
    "incus.service",
    "lxd.service",
    "pve-guests.service",
    "display-manager.service",
    "gdm.service",
    "gdm3.service",
    "lightdm.service",
    "sddm.service",
    "salt-minion.service",
)


def salt_call():
    """
    The ``salt-call`` of the installation that this process runs from, as an absolute path.

    :raises errors.ToolMissing: there is none beside the program or the interpreter.
    """
    # About this very process and its files, not about the host that is managed: so it does not go through Host.
    places = [os.path.dirname(os.path.abspath(sys.argv[0] or ".")), os.path.dirname(sys.executable)]
    # The interpreter of a onedir package lies in bin/ below its programs.
    places += [os.path.dirname(os.path.dirname(sys.executable)), "/usr/bin", "/usr/local/bin"]
    for place in places:
        path = os.path.join(place, "salt-call")
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise errors.ToolMissing(
        f"There is no salt-call beside {sys.argv[0]} or {sys.executable}, so no unit can call it.",
        todo="Install Salt's minion programs for this Python.",
    )


def unit_text(config_dir, state_dir, program=""):
    """
    The text of the unit.

    :param config_dir: the minion's configuration directory; :param state_dir: the engine's.
    :param program: path of ``salt-call``; "" finds it by :func:`salt_call`.
    """
    argv = [program or salt_call(), "--local", "--config-dir", config_dir, "--retcode-passthrough", "gpu_boot.replay"]
    after = "".join(f"After={name}\n" for name in AFTER)
    before = "".join(f"Before={name}\n" for name in BEFORE)
    return f"""\
# Written by Salt (gpu_boot.enabled); changes to this file are overwritten. Add your own in
# {UNIT_PATH}.d/*.conf, for example Before= for another consumer of slices.
[Unit]
Description=Bring back the GPU slices of the last verified layout
# Nothing was verified yet: nothing to do.
ConditionPathExists={_escaped(os.path.join(state_dir, "verified.json"))}
RequiresMountsFor={_quoted(state_dir)} {_quoted(config_dir)}
# Default dependencies stay: they bring the unit after the file systems and stop it at shutdown. Only services are named in
# Before=, since sockets belong to the early boot that this unit comes after.
{after}{before}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={" ".join(_quoted(word) for word in argv)}
TimeoutStartSec={_UNIT_TIMEOUT}
SyslogIdentifier=gpu-slicing

[Install]
WantedBy=multi-user.target
"""


def _escaped(word):
    """A word in which systemd sees no specifier."""
    return word.replace("%", "%%")


def _quoted(word):
    """A word of a command line or a list of paths of a unit."""
    word = _escaped(word)
    if word.replace("/", "").replace("-", "").replace("_", "").replace(".", "").isalnum():
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{inner}"'


def unit_state(host, text=""):
    """Dict of the unit: ``path``, ``present``, ``current`` (its content is ``text``; None for no text) and ``enabled``."""
    present = host.exists(UNIT_PATH)
    current = (present and host.read(UNIT_PATH).strip() == text.strip()) if text else None
    return {"path": UNIT_PATH, "present": present, "current": current, "enabled": host.exists(_WANTED)}


def enable(engine, text, test=False):
    """
    The unit is there with this text, and systemd starts it at each boot.

    :return: dict with ``changes``, ``comment``, ``result`` (absent when ``test`` found something to change), ``warnings``.
    :raises errors.Unsupported: the unit is masked; errors.ToolMissing: no systemd; errors.ToolFailed; errors.StateDirUnusable.
    """
    host, before = engine.host, unit_state(engine.host, text)
    if host.readlink(UNIT_PATH) == "null":
        raise errors.Unsupported(f"{UNIT} is masked on this host.", todo=f"Run 'systemctl unmask {UNIT}' to allow it.")
    wanted = {"present": True, "current": True, "enabled": True}
    warnings = {"warnings": told} if (told := others(engine)) else {}
    if {key: before[key] for key in wanted} == wanted:
        return {"result": True, "changes": {}, "comment": f"{UNIT} is enabled and current.", **warnings}
    changes = {UNIT: {"old": _unit_words(before), "new": "enabled, current"}}
    if test:
        return {"changes": changes, "comment": f"{UNIT} would be written and enabled.", **warnings}
    if not (before["present"] and before["current"]):
        _file_of(host, lambda: host.store_write(UNIT_PATH, text))
        _by_systemd(systemd.reload_units, host)
    _by_systemd(systemd.enable, host, UNIT)
    after = unit_state(host, text)
    if {key: after[key] for key in wanted} != wanted:
        words = _unit_words(after)
        raise errors.ValidationFailed(f"{UNIT} was written and enabled, but it is {words}.", todo="See 'systemctl status'.")
    return {"result": True, "changes": changes, "comment": f"{UNIT} is enabled; it runs at the next boot.", **warnings}


def others(engine):
    """A sentence for each owner who sets at a boot what is on record too, and of whom nobody has said that they agree."""
    try:
        entries = Verified(engine.host).entries()
    except errors.GpuSliceError:
        # Who brings it back says what is wrong with it.
        return []
    gpus = {gpu.address: gpu for gpu in engine.gpus}
    covered = [(key, address) for key, entry in entries.items() for address in entry["addresses"] if address in gpus]
    wanted = [(key.technique, gpus[address]) for key, address in covered]
    return owners.beside(owners.found(engine.host, engine.gpus), wanted, agreed(entries)) if wanted else []


def agreed(entries):
    """PCI address -> names of those who may set the same GPU, as it was when these entries of the record were made."""
    found = {}
    for entry in entries.values():
        for address in entry["addresses"]:
            found[address] = tuple(dict.fromkeys((*found.get(address, ()), *entry["rules"]["share_with"])))
    return found


def disable(engine, test=False):
    """The unit is gone; what was verified stays on record. Returns as :func:`enable`, and raises the same errors."""
    host, before = engine.host, unit_state(engine.host)
    if not before["present"] and not before["enabled"]:
        return {"result": True, "changes": {}, "comment": f"There is no {UNIT}."}
    changes = {UNIT: {"old": _unit_words(before), "new": "absent"}}
    if test:
        return {"changes": changes, "comment": f"{UNIT} would be disabled and removed."}
    if before["enabled"]:
        _by_systemd(systemd.disable, host, UNIT)
    _file_of(host, lambda: host.store_remove(UNIT_PATH))
    _by_systemd(systemd.reload_units, host)
    return {"result": True, "changes": changes, "comment": f"{UNIT} was removed: a boot brings no slices back."}


def _unit_words(found):
    if not found["present"]:
        return "absent"
    content = {True: "current", False: "outdated", None: "present"}[found["current"]]
    return f"{'enabled' if found['enabled'] else 'disabled'}, {content}"


def _file_of(host, work):
    try:
        work()
    except OSError as err:
        raise errors.PermissionDenied(f"{UNIT_PATH} could not be changed: {err.strerror}.", todo="Run as root.") from err


def _by_systemd(ask, *arguments):
    try:
        ask(*arguments)
    except errors.ToolMissing as err:
        raise errors.ToolMissing(
            "This host has no systemctl, so no unit can bring the slices back at a boot.",
            todo="Call 'salt-call --local gpu_boot.replay' from its own init system, before the consumers of slices.",
        ) from err
