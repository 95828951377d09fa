"""
Slices for Podman containers that systemd starts: Quadlet units of our own, and drop-ins for units that are there.

A unit names its consumer (``gpu-slicing/consumer=NAME``) and never a slice: when GPUs are cut anew, the CDI spec behind the name
changes, and the container is made anew. Podman keeps the nodes of a container that runs.

Limits are those of the service. Quadlet runs Podman with ``--cgroups=split``: the container has a control group below that of
its service, so ``MemoryMax=`` and ``CPUQuota=`` hold for it, with crun as with runc, and with a Podman that has no key for them.
In a user manager they hold as far as controllers are delegated to it: memory and cpu by systemd's own ``user@.service``.

Rootless Podman has no device filter of its own: nodes are bound into the container, and their owner, group and mode decide. So a
user can bind a node that everybody may open, whichever slice it is of, unless his slice unit filters devices too
(:func:`gpuslice.outputs.service.user`). With crun his groups are kept; runc can't do that, and opens only what is open to all.
"""

import re
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

from gpuslice import errors
from gpuslice.outputs import cdi
from gpuslice.outputs import gpu_names
from gpuslice.outputs import quadlet_keys
from gpuslice.outputs import templates
from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.file import File
from gpuslice.outputs.quadlet_keys import KEYS
from gpuslice.outputs.service import BOOT_UNIT
from gpuslice.outputs.service import DROP_IN
from gpuslice.outputs.service import UNITS
from gpuslice.outputs.service import limits
from gpuslice.outputs.unit_text import Setting

FOLDER = "/etc/containers/systemd"

#: What CDI, Podman and systemd all take as a name.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,126}[A-Za-z0-9])?")
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]{1,240}\.container")
#: A reference of an image, or the name of a .image or .build unit.
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*")
#: Keys of [Container] that are ours: by the pillar's own words, or what limits and names hang on.
_OURS = {
    "Image": "the consumer's 'image' says it",
    "ContainerName": "others find the container by it",
    "ServiceName": "others find the unit by it",
    "Rootfs": "the consumer's 'image' says what is run",
    "Pod": "in a pod the limits of the unit would not hold for the container",
    "CgroupsMode": "with another one the limits of the unit would not hold for the container",
}
#: Keys of [Service] that Quadlet itself needs, and refuses or writes over.
_QUADLETS = {
    "User": "a unit of Quadlet is root's, or of the consumer's 'user'",
    "Group": "a unit of Quadlet is root's, or of the consumer's 'user'",
    "DynamicUser": "a unit of Quadlet is root's, or of the consumer's 'user'",
    "ExecStart": "Quadlet makes it",
    "ExecStop": "Quadlet makes it",
    "ExecStopPost": "Quadlet makes it",
    "Delegate": "Quadlet makes it",
}
_ALLOWED = {"Type": ("notify", "oneshot"), "KillMode": ("mixed", "control-group")}
#: Keys of [Container] that can give it a device.
_OPENERS = ("AddDevice", "Volume", "Mount", "PodmanArgs", "GlobalArgs")
_LEAST = (("DropCapability", "all"), ("NoNewPrivileges", "true"), ("ReadOnly", "true"))


def unit(
    consumer: Consumer,
    podman: tuple[int, int, int],
    overrides: Mapping[str, str] | None = None,
    uid: int | None = None,
    runtime: str = "crun",
    groups: Iterable[int] = (),
    after: str = BOOT_UNIT,
) -> File:
    """
    The Quadlet unit of a consumer. It has no capabilities, gets no new privileges, and writes only to volumes and temporary
    folders, as long as ``quadlet`` of the consumer says no other; the default filter of system calls stays.

    :param consumer: of kind container, with an image. :param podman: the version that is installed.
    :param overrides: templates of the site, see :func:`gpuslice.outputs.templates.render`.
    :param uid: of the user whose rootless Podman runs it; None for root's.
    :param runtime: OCI runtime: with "crun" a rootless container keeps the groups of its user, which open nodes.
    :param groups: numbers of groups that own nodes, for a container of root's Podman that runs as another user inside. Names
        would be looked up in the image.
    :param after: the unit that brings slices back after a boot. Units of users can't name it: see :func:`ordered`.
    :raises errors.PolicyError: names, keys or values that can't be, keys that this Podman does not have, a template that is
        wrong; errors.Unsupported: a Podman without Quadlet, or without units of users.
    """
    name = _checked_name(consumer)
    image = _checked_image(consumer)
    _refuse_old(consumer, podman, uid, quadlet_keys.FIRST if uid is None else quadlet_keys.USERS)
    further = _further(consumer, ("Unit", "Container", "Service", "Install"), podman)
    values = {
        "consumer": name,
        "boot": after if uid is None else "",
        "image": image,
        "container": f"gpu-slicing-{name}",
        "device": cdi.qualified(cdi.CONSUMER, name),
        "least": [*_least(further, podman), *_groups(further, podman, uid, runtime, groups), *_profile(consumer, podman)],
        "wanted_by": "" if further["Install"] else "multi-user.target" if uid is None else "default.target",
        "further": _lines(further),
        **limits(consumer),
    }
    text = templates.render("quadlet", values, overrides)
    _check(consumer, unit_text.settings(text), podman, values)
    return File(f"{_folder(uid)}/gpu-slicing-{name}.container", text)


def adopted(
    consumer: Consumer,
    podman: tuple[int, int, int],
    overrides: Mapping[str, str] | None = None,
    uid: int | None = None,
    runtime: str = "crun",
    groups: Iterable[int] = (),
    after: str = BOOT_UNIT,
) -> File:
    """
    The drop-in that gives a consumer's slices to a Quadlet unit that is there, wherever its file lies. It takes the place of all
    devices that the unit names, and adds limits and groups; privileges stay as somebody else chose them.

    :param consumer: of kind container, with ``unit``. The others are those of :func:`unit`, which raises the same errors.
    """
    name = _checked_name(consumer)
    service_name(consumer)
    _refuse_old(consumer, podman, uid, quadlet_keys.DROP_INS)
    further = _further(consumer, ("Unit", "Container", "Service"), podman)
    values = {
        "consumer": name,
        "boot": after if uid is None else "",
        "device": cdi.qualified(cdi.CONSUMER, name),
        "groups": [*_groups(further, podman, uid, runtime, groups), *_profile(consumer, podman)],
        "further": _lines(further),
        **limits(consumer),
    }
    text = templates.render("quadlet_dropin", values, overrides)
    _check(consumer, unit_text.settings(text), podman, values)
    return File(f"{_folder(uid)}/{consumer.unit}.d/{DROP_IN}", text)


def service_name(consumer: Consumer) -> str:
    """
    The systemd unit that Quadlet makes for a consumer: of his own unit, or of the one that is adopted, as long as that has no
    ``ServiceName=``.

    :raises errors.PolicyError: the unit is none of Quadlet's containers.
    """
    if not consumer.unit:
        return f"gpu-slicing-{_checked_name(consumer)}.service"
    whose = f"The unit {consumer.unit!r} of consumer {consumer.name!r}"
    if not _UNIT.fullmatch(consumer.unit):
        raise errors.PolicyError(
            f"{whose} is no container of Quadlet.", todo="Name its file, such as train.container, or use kind: service."
        )
    if consumer.unit.endswith("@.container"):
        raise errors.PolicyError(
            f"{whose} is a template, so that all its instances would share the slice.",
            todo=f"Name an instance, such as {consumer.unit.replace('@.', '@1.')}.",
        )
    return f"{consumer.unit.removesuffix('.container')}.service"


def ordered(uid: int, after: str = BOOT_UNIT) -> File:
    """
    What has the units of a user start after the slices are back: his user manager does. Units of users can't be ordered after
    those of the system themselves.

    :param uid: of the user; :param after: the unit that brings slices back after a boot.
    """
    head = "# Written by Salt for GPU consumers of this user; changes to this file are overwritten.\n"
    return File(f"{UNITS}/user@{uid}.service.d/50-gpu-slicing-containers.conf", f"{head}[Unit]\nAfter={after}\n")


def _folder(uid: int | None) -> str:
    return FOLDER if uid is None else f"{FOLDER}/users/{uid}"


def _checked_name(consumer: Consumer) -> str:
    if not _NAME.fullmatch(consumer.name):
        raise errors.PolicyError(
            f"A container can't have the consumer's name {consumer.name!r}.",
            todo="Use letters, digits, '_', '.' and '-', with a letter or digit at both ends, and no more than 128 of them.",
        )
    return consumer.name


def _checked_image(consumer: Consumer) -> str:
    if not consumer.image:
        raise errors.PolicyError(f"Consumer {consumer.name!r} has no image.", todo="Give 'image', or a 'unit' that is there.")
    if not IMAGE.fullmatch(consumer.image):
        raise errors.PolicyError(f"Consumer {consumer.name!r} has the image {consumer.image!r}, which is no reference of one.")
    return consumer.image


def _refuse_old(consumer: Consumer, podman: tuple[int, int, int], uid: int | None, needed: tuple[int, int]) -> None:
    who, have = f"Consumer {consumer.name!r}", f"Podman {quadlet_keys.words(podman)}"
    if consumer.user and uid is None:
        raise errors.PolicyError(f"{who} is of user {consumer.user!r}, whom this host does not have.", todo="Name a user of it.")
    if uid == 0:
        raise errors.PolicyError(f"{who} is of root, whose Podman is not rootless.", todo="Leave 'user' out.")
    if podman[:2] >= needed:
        return
    if podman[:2] < quadlet_keys.FIRST:
        why, todo = "has no Quadlet, which came with 4.4", "Use a consumer of kind device, and name its CDI device yourself."
    elif needed == quadlet_keys.DROP_INS:
        why, todo = "reads no drop-ins of Quadlet units, which came with 5.0", "Give 'image' and no 'unit': then one is written."
    else:
        why, todo = f"reads no units below {FOLDER}/users, which came with 4.6", "Leave 'user' out, or use a newer Podman."
    raise errors.Unsupported(f"{who} can't be served: {have} {why}.", todo=todo)


_Further = dict[str, list[tuple[str, str]]]


def _further(consumer: Consumer, sections: tuple[str, ...], podman: tuple[int, int, int]) -> _Further:
    """What ``quadlet`` of a consumer says, as (key, value) of each section."""
    found: _Further = {section: [] for section in sections}
    for section, keys in consumer.quadlet.items():
        if section not in sections:
            raise _wrong(consumer, f"[{section}]", "is no section that can be set", f"Use {', '.join(sections)}.")
        for key, value in keys.items():
            if section == "Container":
                _refuse_key(consumer, key, podman)
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", key):
                raise _wrong(consumer, f"[{section}] {key!r}", "is no key", "Use letters, digits and '-'.")
            found[section] += [(key, _value(consumer, f"[{section}] {key}", each))
                               for each in (value if isinstance(value, list | tuple) else [value])]  # fmt: skip
    return found


def _value(consumer: Consumer, where: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise _wrong(consumer, where, f"has {value!r}, which is no text, number or yes and no", "Write it as in a unit file.")
    return unit_text.raw(str(value), f"Consumer {consumer.name!r}: quadlet: {where}")


def _refuse_key(consumer: Consumer, key: str, podman: tuple[int, int, int]) -> None:
    """What the section [Container] of any unit of ours must not have."""
    where = f"[Container] {key}"
    if key in _OURS:
        raise _wrong(consumer, where, f"can't be set: {_OURS[key]}", "Leave it out.")
    _refuse_unknown(consumer, key, podman)


def _refuse_unknown(consumer: Consumer, key: str, podman: tuple[int, int, int]) -> None:
    where = f"[Container] {key}"
    if key not in KEYS:
        near = [f"Write {name}." for name in KEYS if name.lower() == key.lower()]
        raise _wrong(consumer, where, "is a key that no Podman has", *(near or ["See podman-systemd.unit(5)."]))
    known = KEYS[key]
    if known.since > podman[:2]:
        have, since = quadlet_keys.words(podman), quadlet_keys.words(known.since)
        todo = f"Write 'PodmanArgs: {known.option}...' in its place." if known.option else "Leave it out, or use a newer Podman."
        raise _wrong(consumer, where, f"is a key that came with Podman {since}, and {have} is installed", todo)


def _wrong(consumer: Consumer, where: str, why: str, todo: str) -> errors.PolicyError:
    return errors.PolicyError(f"Consumer {consumer.name!r}: quadlet: {where} {why}.", todo=todo)


def _least(further: _Further, podman: tuple[int, int, int]) -> list[str]:
    """Lines of least privilege, but for what the pillar sets itself."""
    given = {key for key, _ in further["Container"]}
    lines = [f"{key}={value}" for key, value in _LEAST if key not in given]
    # Before 4.8 Quadlet takes away the temporary folders that Podman gives to a container whose root is read-only.
    if podman[:2] < KEYS["ReadOnlyTmpfs"].since and not given & {"ReadOnly", "VolatileTmp"}:
        lines.append("VolatileTmp=true")
    return lines


def _groups(further: _Further, podman: tuple[int, int, int], uid: int | None, runtime: str, groups: Iterable[int]) -> list[str]:
    """Lines for groups. Podman takes no others beside those that are kept, so the pillar's own go before ours."""
    theirs = any(key == "GroupAdd" or "--group-add" in value for key, value in further["Container"])
    if uid is None:
        return [quadlet_keys.line("GroupAdd", str(int(number)), podman) for number in groups]
    return [quadlet_keys.line("GroupAdd", "keep-groups", podman)] if runtime == "crun" and not theirs else []


def _profile(consumer: Consumer, podman: tuple[int, int, int]) -> list[str]:
    return [quadlet_keys.line("AppArmor", consumer.security_profile, podman)] if consumer.security_profile else []


def _lines(further: _Further) -> dict[str, list[str]]:
    return {section: [f"{key}={value}" for key, value in pairs] for section, pairs in further.items()}


def _check(consumer: Consumer, found: list[Setting], podman: tuple[int, int, int], values: Mapping[str, Any]) -> None:
    """What is rendered gives this consumer's slices and nothing beside, to a unit that this Podman takes."""
    for setting in found:
        if setting.section == "Container":
            _refuse_unknown(consumer, setting.key, podman)
            _refuse_opener(consumer, setting, values["device"])
        elif setting.section == "Service":
            _refuse_service(consumer, setting, values)
    for section, key, value in _wanted(values):
        have = unit_text.values(found, section, key)
        if value not in (have if key == "AddDevice" else have[-1:]):
            where = f"[{section}] {key}={value}"
            raise _wrong(consumer, where, "is not left in the end", "Mend the template, or an empty value that takes it back.")


def _wanted(values: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    listed = [
        ("Container", "AddDevice", values["device"]),
        ("Container", "Image", values.get("image", "")),
        ("Service", "MemoryMax", values["memory"]),
        ("Service", "CPUQuota", values["cpu"]),
    ]
    return [each for each in listed if each[2]]


def _refuse_opener(consumer: Consumer, setting: Setting, device: str) -> None:
    ours = (setting.key, setting.value) == ("AddDevice", device)
    if setting.key in _OPENERS and not ours and gpu_names.opens_gpu(setting.value):
        where = f"[Container] {setting.key}={setting.value}"
        raise _wrong(consumer, where, "would open more than the consumer's slices", "Leave it out: he gets them by name.")


def _refuse_service(consumer: Consumer, setting: Setting, values: Mapping[str, Any]) -> None:
    key, value = setting.key, setting.value
    where = f"[Service] {key}={value}"
    if key in _QUADLETS:
        raise _wrong(consumer, where, f"can't be set: {_QUADLETS[key]}", "Leave it out.")
    if key in _ALLOWED and value not in _ALLOWED[key]:
        raise _wrong(consumer, where, "is not taken by Quadlet", f"Use {' or '.join(_ALLOWED[key])}.")
    limit = {"MemoryMax": values["memory"], "CPUQuota": values["cpu"]}.get(key, "")
    if limit and value != limit:
        raise _wrong(consumer, where, f"is not the {limit} of 'resource_limits'", "Set it in one place only.")
