"""
The files of consumers: what each kind needs, made by :mod:`gpuslice.outputs`, and which units go with it.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.host.base import Host
from gpuslice.host.base import of_user
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.device import Device
from gpuslice.outputs.file import File
from gpuslice.techniques.consumers.people import PASSWD
from gpuslice.techniques.consumers.people import People
from gpuslice.techniques.consumers.programs import Programs

#: Folders whose files are read by systemd or its generators.
_UNIT_FOLDERS = ("/etc/systemd/system/", "/etc/containers/systemd/")
#: Those of them that a user's manager reads, and not the system's.
_OF_USER = re.compile(r"/etc/containers/systemd/users/([0-9]+)/")
#: Where Quadlet looks for root's units: podman-systemd.unit(5).
QUADLET_FOLDERS = ("/run/containers/systemd", "/etc/containers/systemd", "/usr/share/containers/systemd")
#: Keys by which a container is not the host's root, or may not be; and who it is else.
_OTHER_USER = {"User", "UserNS", "UIDMap", "SubUIDMap", "RemapUsers"}
_NOBODY = "65534"


class Served(NamedTuple):
    """
    A consumer with what it is to have.

    :ivar device: what opens all its slices.
    """

    consumer: Consumer
    device: Device


def consumer_of(name: str, spec: Mapping, quadlets: Mapping[str, Mapping] = MappingProxyType({})) -> Consumer:
    """
    A consumer from its settings; keys that are not his own (``slices``) are left out.

    :param quadlets: what stands for the digests in ``quadlet``, where that matters.
    """
    own = {key: value for key, value in spec.items() if key in Consumer._fields}
    return Consumer(name, **{**own, "quadlet": quadlets.get(spec.get("quadlet", ""), {})})


def is_unit(path: str) -> bool:
    """Whether systemd has to read its units anew for this file."""
    return path.startswith(_UNIT_FOLDERS)


def reader_of(path: str) -> int | None:
    """The user whose manager reads a unit file, by number; None for the system's own."""
    found = _OF_USER.match(path)
    return int(found[1]) if found else None


def runs_as(people: People, consumer: Consumer) -> str:
    """
    The systemd unit that runs with the slices and that we may restart, that of a rootless container among them; "" where there is
    none. :mod:`gpuslice.drivers.systemd` says how units of users are named.
    """
    if consumer.kind != "container" or not consumer.user:
        return unit_of(consumer)
    from gpuslice.outputs import quadlet

    uid = people.uid(consumer.user)
    return "" if uid is None else of_user(quadlet.service_name(consumer), uid)


def unit_of(consumer: Consumer) -> str:
    """The same of the system's own manager alone."""
    if consumer.kind == "service":
        return consumer.unit
    if consumer.kind != "container" or consumer.user:
        return ""
    from gpuslice.outputs import quadlet

    return quadlet.service_name(consumer)


def _beside_daemon(consumer: Consumer, device: Device) -> Consumer:
    """
    A container that shares a slice by a daemon: it starts anew with it, and is not the host's root, who could end the daemon of
    all. A daemon serves one uid at a time, so that all of root's containers there are the same user.
    """
    if not device.units:
        return consumer
    own, container = dict(consumer.quadlet.get("Unit", {})), dict(consumer.quadlet.get("Container", {}))
    for key in ("PartOf", "After"):
        given = own.get(key, [])
        own[key] = [*(given if isinstance(given, list) else [given]), *device.units]
    if not consumer.user and not container.keys() & (_OTHER_USER - {"User"}) and _is_root(container.get("User", "")):
        raise errors.PolicyError(
            f"Consumer {consumer.name} is to run as root, and its slice is shared by MPS: root could end the daemon of all who "
            "share it.",
            todo="Write another User below quadlet: Container, the same for all who share the slice, or leave it out.",
        )
    if not consumer.user and not container.keys() & _OTHER_USER:
        container["User"] = container["Group"] = _NOBODY
    return consumer._replace(quadlet={**consumer.quadlet, "Unit": own, "Container": container})


def _is_root(user: Any) -> bool:
    """Whether a value of ``User=`` is root's; where there is none it is not asked for."""
    return str(user).partition(":")[0].strip() in ("root", "0")


class Files:
    """
    The files for consumers of one host.

    :param programs: :class:`gpuslice.techniques.consumers.programs.Programs`: what is known of Podman and of units.
    :param templates: those of the site, see :func:`gpuslice.outputs.templates.render`.
    """

    def __init__(self, host: Host, programs: Programs, templates: Mapping[str, str]) -> None:
        self._host, self._programs, self._templates = host, programs, templates

    def of(self, served: Served) -> list[File]:
        """The files of one consumer, beside CDI. Raises errors.PolicyError: he can't be served so; it says why."""
        consumer, device = served
        self._refuse_several_daemons(consumer, device)
        # A service or a user without a slice has a filter all the same: without it he could open those of others.
        if consumer.kind == "device" or (consumer.kind == "container" and not device.nodes):
            return []
        # Only those who have such a consumer load what writes its files.
        if consumer.kind == "container":
            return self._of_container(_beside_daemon(consumer, device))
        from gpuslice.outputs import service

        if consumer.kind == "user":
            return list(service.user(consumer, self.uid(consumer), device, self._templates))
        unit = service.checked_unit(consumer)
        found = service.drop_in(consumer, device, self._templates, private=self._programs.has_private_devices(unit))
        self._refuse_defeat(unit, found)
        self._refuse_root(unit, device)
        return [found]

    @staticmethod
    def _refuse_several_daemons(consumer: Consumer, device: Device) -> None:
        """Raise errors.PolicyError for shares of several daemons: a program finds one by its environment."""
        if len(device.units) > 1:
            raise errors.PolicyError(
                f"Consumer {consumer.name} would have shares of {len(device.units)} MPS daemons ({', '.join(device.units)}), and "
                "a program is a client of one.",
                todo="Let it have one share (resource_limits: gpu_instances: 1), or slices that are not shared by MPS.",
            )

    def _refuse_defeat(self, unit: str, ours: File) -> None:
        """Raise errors.PolicyError where something of the unit would defeat our drop-in."""
        if unit not in self._programs.effective:
            return
        from gpuslice.outputs import conflicts

        if found := conflicts.conflicts(self._programs.effective[unit], ours):
            raise errors.PolicyError(f"The unit {unit} can't be handed a slice: {' '.join(found)}", todo="Mend that unit first.")

    def _refuse_root(self, unit: str, device: Device) -> None:
        """Raise errors.PolicyError for a client of an MPS daemon that is root: it could end the daemon of all."""
        if device.units and self._programs.runs_as_root(unit):
            raise errors.PolicyError(
                f"The unit {unit} runs as root, and its slice is shared by MPS: root could end the daemon of all who share it.",
                todo="Set User= in the unit, the same for all who share the slice, or choose another slice.",
            )

    def _of_container(self, consumer: Consumer) -> list[File]:
        from gpuslice.outputs import quadlet

        podman, uid = self._programs.podman(), self.uid(consumer) if consumer.user else None
        write = quadlet.adopted if consumer.unit else quadlet.unit
        found = write(consumer, podman, self._templates, uid=uid, runtime=consumer.runtime)
        if consumer.unit:
            self._refuse_absent(consumer, uid)
        return [found] if uid is None else [found, quadlet.ordered(uid)]

    def _refuse_absent(self, consumer: Consumer, uid: int | None) -> None:
        """Raise errors.PolicyError where there is no Quadlet unit of root to adopt; a user may have his in his own folder."""
        if uid is None and not any(self._host.exists(f"{folder}/{consumer.unit}") for folder in QUADLET_FOLDERS):
            raise errors.PolicyError(
                f"Consumer {consumer.name} adopts the Quadlet unit {consumer.unit}, and there is none in "
                f"{', '.join(QUADLET_FOLDERS)}.",
                todo="Put it there first, correct its name, or give 'image' in the place of 'unit': then one is written.",
            )

    def uid(self, consumer: Consumer) -> int:
        """The uid of a consumer's user. Raises errors.PolicyError: there is none of that name."""
        uid = People(self._host).uid(consumer.user)
        if uid is not None:
            return uid
        raise errors.PolicyError(
            f"Consumer {consumer.name} is of the user {consumer.user}, and this host has no such user.",
            todo=f"Make that user first, or correct the name; {PASSWD} has those that there are.",
        )
