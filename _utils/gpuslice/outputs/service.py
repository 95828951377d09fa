"""
Slices for plain systemd services and login users: drop-ins that open exactly the nodes of a slice.

A device filter of systemd is a BPF program on the control group of the unit: it holds for root too and survives a daemon-reload.
What is behind it was tried on systemd 252 and 257 and stands in ``tests/parts/test_services_nspawn.py``:

- a node that is not there when the unit starts is passed over without a word, and opens after the next daemon-reload only. So
  nodes have to be there first, and units come after the unit of the boot;
- a unit is *not* made to want that unit: the target wants it. A restart within a change would start it there, and it would find
  the host locked, or put back what is just being replaced;
- both the list of a slice unit and that of a service in it are applied: a node opens that is in both.

Who is not in a user's slice unit is not held by it: services with ``User=``, containers of a daemon (docker), and jobs of cron
and at where these open no session.
"""

import re
import shlex
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from gpuslice import errors
from gpuslice.outputs import templates
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.device import Mount
from gpuslice.outputs.device import Node
from gpuslice.outputs.file import File
from gpuslice.outputs.unit_names import UNITS
from gpuslice.outputs.unit_text import Setting

#: The unit that brings slices back after a boot.
BOOT_UNIT = "gpu-slicing.service"
DROP_IN = "50-gpu-slicing.conf"
#: What a login needs beside the pseudo devices that are open in a closed unit (null, zero, full, random, urandom, tty, ptmx and
#: pts: bpf_devices_allow_list_static in systemd's src/core/bpf-devices.c): consoles, FUSE for mounts and rootless containers, and
#: the tunnel that these have their network by.
LOGIN = ("char-tty rw", "char-ttyS rw", "/dev/fuse rw", "/dev/net/tun rw")

_NAME = re.compile(r"[A-Za-z0-9:_.\\@-]+")
#: Longest name of a unit: UNIT_NAME_MAX of systemd.
_LONGEST = 255
_GROUP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
#: Highest uid that is anybody's.
_LAST_UID = 2**32 - 2


def drop_in(
    consumer: Consumer,
    device: Device,
    overrides: Mapping[str, str] | None = None,
    after: str = BOOT_UNIT,
    groups: Iterable[str] = (),
    private: bool = False,
) -> File:
    """
    The drop-in of a service that gets slices.

    No more than devices and limits is set on a unit of somebody else: without capabilities, with new root or no new privileges it
    might not run any more, and the device filter holds for what root runs as well.

    :param consumer: of kind service; :param device: what opens its slices.
    :param overrides: templates of the site, see :func:`gpuslice.outputs.templates.render`.
    :param after: the unit that brings slices back after a boot.
    :param groups: names or numbers of groups that own nodes, for a service that does not run as root. One that the host does
        not have keeps the service from starting.
    :param private: the unit has private devices, as :func:`gpuslice.outputs.conflicts.has_private_devices` tells. These have no
        GPU among them and go; what else they took from the service stays away.
    :raises errors.PolicyError: a unit that can't have one, values that no unit can hold, a template that is wrong.
    """
    unit = checked_unit(consumer, after)
    who = f"Consumer {consumer.name!r}"
    values: dict[str, Any] = {
        "consumer": unit_text.plain(consumer.name, who),
        "boot": after,
        "devices": _devices(device),
        "environment": _environment(device),
        "mounts": [_mount(mount) for mount in device.mounts],
        "units": device.units,
        "private": private,
        "groups": " ".join(_group(name) for name in groups),
        **limits(consumer),
    }
    path = f"{UNITS}/{unit}.d/{DROP_IN}"
    return File(path, _text("service", values, overrides))


def checked_unit(consumer: Consumer, after: str = BOOT_UNIT) -> str:
    """
    The unit of a consumer of kind service.

    :raises errors.PolicyError: a unit that can't have a drop-in of ours.
    """
    unit = consumer.unit
    whose = f"The unit {unit!r} of consumer {consumer.name!r}"
    kind = unit.rpartition(".")[2]
    if not _NAME.fullmatch(unit) or len(unit) > _LONGEST or "." not in unit:
        meant = f"{unit}.service" if _NAME.fullmatch(unit) and "." not in unit else "train.service"
        raise errors.PolicyError(f"{whose} is no name of a unit.", todo=f"Write it as 'systemctl' does: {meant}.")
    if kind != "service":
        more = {"slice": " A user's slice unit is for a consumer of kind user.", "container": " This is for kind container."}
        raise errors.PolicyError(
            f"{whose} is a .{kind}, and slices are for services.{more.get(kind, '')}", todo="Name the service that opens the GPU."
        )
    if unit.endswith("@.service"):
        raise errors.PolicyError(
            f"{whose} is a template, so that all its instances would share the slice.",
            todo=f"Name an instance, such as {unit.replace('@.', '@1.')}.",
        )
    if unit == after:
        raise errors.PolicyError(f"{whose} brings the slices back after a boot, and can't come after itself.")
    if unit.startswith("user@"):
        raise errors.PolicyError(
            f"{whose} is a part only of what its user runs.", todo="Use a consumer of kind user: it holds for all of that."
        )
    return unit


def user(
    consumer: Consumer,
    uid: int,
    device: Device,
    overrides: Mapping[str, str] | None = None,
    after: str = BOOT_UNIT,
    more: Iterable[Node] = (),
) -> tuple[File, ...]:
    """
    The drop-in of the slice unit of a login user, and what tells his programs of his slices.

    The variables are set where sessions begin, and one place does not reach all: the user manager has them from a drop-in (for
    user units, rootless containers, desktops), shells of a login from a file of ``/etc/profile.d``. Files of ``environment.d``
    are of all users, or the user's own. A command that ssh runs without a login shell has none of them; the filter holds there
    too.

    A login waits until the slices are back after a boot. Other GPUs are closed to the user's desktop as well, and to what he runs
    by ``sudo``.

    :param consumer: of kind user; :param uid: of its user. :param device: what opens the slices.
    :param overrides: templates of the site. :param after: the unit that brings slices back after a boot.
    :param more: further nodes that the user needs, such as ``/dev/kvm``.
    :raises errors.PolicyError: root, or no uid; values that no unit can hold; a template that is wrong.
        errors.Unsupported: a folder would have to be elsewhere for one user.
    """
    whose = f"Consumer {consumer.name!r}"
    if uid == 0:
        raise errors.PolicyError(
            f"{whose} is root: its slice unit holds all that administrators run, and these tools with it.",
            todo="Name a login user, or use a consumer of kind service.",
        )
    if not 0 < uid <= _LAST_UID:
        raise errors.PolicyError(f"{whose} has the uid {uid}, which is nobody's.", todo="Name a login user of this host.")
    for mount in device.mounts:
        if mount.source != mount.target:
            raise errors.Unsupported(
                f"{whose} needs {mount.source} at {mount.target}, which can't be for one user alone.", todo="Use a service."
            )
    values: dict[str, Any] = {
        "consumer": unit_text.plain(consumer.name, whose),
        "boot": after,
        "devices": _devices(device),
        "standard": [*LOGIN, *(_allowed(node) for node in more)],
        **limits(consumer),
    }
    path = f"{UNITS}/user-{uid}.slice.d/{DROP_IN}"
    listed = File(path, _text("user", values, overrides))
    return (listed, *_told(consumer, uid, device)) if device.environment else (listed,)


def _told(consumer: Consumer, uid: int, device: Device) -> tuple[File, File]:
    """What sets the variables in sessions of a user."""
    head = f"# Written by Salt for the GPU consumer {consumer.name}; changes to this file are overwritten.\n"
    manager = "".join(f"Environment={variable}\n" for variable in _environment(device))
    exports = "".join(f"    export {name}={shlex.quote(value)}\n" for name, value in device.environment)
    return (
        File(f"{UNITS}/user@{uid}.service.d/{DROP_IN}", f"{head}[Service]\n{manager}"),
        File(f"/etc/profile.d/gpu-slicing-{uid}.sh", f'{head}if [ "$(id -u)" = {uid} ]; then\n{exports}fi\n'),
    )


def limits(consumer: Consumer) -> dict[str, str]:
    """``memory`` and ``cpu`` for templates: values of ``MemoryMax=`` (GiB) and ``CPUQuota=`` (100% for a core), "" for none."""
    cores = consumer.compute_units
    memory = consumer.memory_gb
    return {"memory": "" if memory is None else f"{memory}G", "cpu": "" if cores is None else f"{cores * 100}%"}


def _devices(device: Device) -> list[str]:
    """Values of ``DeviceAllow=``; none for who has no slice now, and is to open none of others."""
    return [_allowed(node) for node in device.nodes]


def _allowed(node: Node) -> str:
    parts = node.path.split("/")
    if not node.path.startswith("/dev/") or {"", ".", ".."} & set(parts[1:]):
        raise errors.PolicyError(f"{node.path!r} is no path of a device node.", todo="Give one below /dev, without '..'.")
    if not node.permissions or set(node.permissions) - set("rw"):
        raise errors.PolicyError(f"Permissions {node.permissions!r} of {node.path} are not of 'r' and 'w'.", todo="Use rw.")
    return f"{unit_text.quoted(node.path, 'A device node')} {node.permissions}"


def _environment(device: Device) -> list[str]:
    return [unit_text.assignment(name, value, f"Device {device.name!r}") for name, value in device.environment]


def _mount(mount: Mount) -> str:
    """A folder of the host, which a unit with a file system of its own (ProtectSystem=, PrivateTmp=) might not see."""
    for path in (mount.source, mount.target):
        # Its list has a syntax of its own, with escapes that no other has.
        if not path.startswith("/") or ":" in path or unit_text.quoted(path, "A mount") != path:
            raise errors.PolicyError(f"{path!r} can't be bound into a unit.", todo="Use absolute paths of letters and digits.")
    key = "BindReadOnlyPaths" if "ro" in mount.options else "BindPaths"
    return f"{key}={mount.source}:{mount.target}"


def _group(name: str) -> str:
    if not _GROUP.fullmatch(name):
        raise errors.PolicyError(f"{name!r} is no name of a group.", todo="Name a group of this host, or its number.")
    return name


def _text(name: str, values: dict[str, Any], overrides: Mapping[str, str] | None) -> str:
    """What a template makes of these values. A site's own one may say more, and opens neither less nor more."""
    text = templates.render(name, values, overrides)
    if name in (overrides or {}):
        _compare(name, unit_text.settings(text), unit_text.settings(templates.render(name, values)))
    return text


def _compare(name: str, found: list[Setting], shipped: list[Setting]) -> None:
    section = {"service": "Service", "user": "Slice"}[name]
    given = [each for each in found if (each.section, each.key) == (section, "DeviceAllow")]
    if given and given[0].value:
        what = f"gives DeviceAllow={given[0].value} before an empty DeviceAllow=, so that other files of the unit open more"
        raise templates.weaker(name, what, "Begin the list with 'DeviceAllow='")
    templates.refuse_weaker(name, section, ("DeviceAllow", "MemoryMax", "CPUQuota"), found, shipped)
