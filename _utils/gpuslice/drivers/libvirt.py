"""
The domains of libvirt on this host, as its files have them: what is defined, and which devices of the host each is to be given.

Source: libvirt's QEMU driver (``qemu_conf.c``) keeps a persistent domain as ``/etc/libvirt/qemu/<name>.xml``, and a link to it in
``autostart`` for one that starts with the host; the modular daemon ``virtqemud`` has the same folder. No program is asked: a
plan starts none.
"""

import xml.etree.ElementTree as etree
from typing import NamedTuple

from gpuslice import addresses
from gpuslice.host.base import MOST_BYTES
from gpuslice.host.base import Host
from gpuslice.numbers import whole
from gpuslice.printable import printable

PLACE = "/etc/libvirt/qemu"
_AUTOSTART = f"{PLACE}/autostart"
_ENDING = ".xml"


class Device(NamedTuple):
    """
    A device of the host in a domain.

    :ivar identity: PCI address, or UUID of a mediated device, in the kernel's form.
    :ivar managed: whether libvirt itself takes it from its driver when the domain starts.
    """

    identity: str
    managed: bool


class Domain(NamedTuple):
    """
    A domain that is defined.

    :ivar devices: what it is to be given of the host; :ivar autostart: whether it starts with the host.
    """

    name: str
    path: str
    devices: tuple[Device, ...]
    autostart: bool


class Domains(NamedTuple):
    """
    What the files tell.

    :ivar domains: those that are to be given a device of the host; :ivar unread: path -> why it can't be read.
    """

    domains: tuple[Domain, ...]
    unread: dict[str, str]


def defined(host: Host) -> Domains:
    """The domains that are defined on this host. What can't be read is named, and keeps nothing else from being told."""
    names = [name for name in host.listdir(PLACE) if name.endswith(_ENDING)]
    if not names:
        return Domains((), _closed(host))
    autostart, found, unread = set(host.listdir(_AUTOSTART)), [], {}
    for name in names:
        path = f"{PLACE}/{name}"
        try:
            devices, called = _read(host, path)
        except (OSError, ValueError) as err:
            unread[path] = getattr(err, "strerror", None) or str(err)
            continue
        if devices:
            found.append(Domain(called or name.removesuffix(_ENDING), path, devices, name in autostart))
    return Domains(tuple(found), unread)


def _closed(host: Host) -> dict[str, str]:
    """Why nothing is listed, where the folder is there: it always has others in it (``networks``, ``autostart``)."""
    if not host.exists(PLACE) or host.listdir(PLACE):
        return {}
    return {PLACE: "nothing can be listed in it"}


def _read(host: Host, path: str) -> tuple[tuple[Device, ...], str]:
    """(devices of the host, name) of a domain. Raises OSError; ValueError for a file that is no domain of libvirt's."""
    if host.exists(path) and not host.stamp(path):
        # A pipe would keep its reader for ever.
        raise ValueError("it is no file")
    found = host.read_bytes(path)
    if len(found) >= MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES // 2**20} MiB")
    # Most domains have none, and a host may have thousands of domains.
    if b"<hostdev" not in found:
        return (), ""
    # Libvirt writes no such declaration, and entities are how a small file becomes a large one.
    if b"<!DOCTYPE" in found or b"<!ENTITY" in found:
        raise ValueError("it declares a document type, as no file of libvirt's does")
    try:
        root = etree.fromstring(found)
    except (etree.ParseError, ValueError, LookupError) as err:
        raise ValueError(f"it is no XML ({err})") from err
    # Libvirt keeps a domain with hooks of its own in a wrapper.
    domain = root if root.tag == "domain" else root.find("domain")
    if domain is None:
        raise ValueError("it describes no domain")
    devices = [device for each in domain.findall("devices/hostdev") if (device := _device(each))]
    return tuple(devices), printable((domain.findtext("name") or "").strip())[:255]


def _device(element: etree.Element) -> Device | None:
    """A PCI function or a mediated device, None for others (USB, SCSI) and for what is no address."""
    address, kind = element.find("source/address"), element.get("type")
    if address is None:
        return None
    if kind == "mdev" and addresses.is_uuid(address.get("uuid")):
        return Device(address.get("uuid", "").strip().lower(), False)
    parts = [_number(address.get(key)) for key in ("domain", "bus", "slot", "function")]
    if kind != "pci" or None in parts[1:]:
        return None
    domain, bus, slot, function = (part or 0 for part in parts)
    return Device(f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}", element.get("managed") == "yes")


def _number(text: str | None) -> int | None:
    """A number as libvirt writes it, ``0x1b``, or as it also takes it, ``27``."""
    if text is None:
        return None
    digits = text.strip().lower()
    if not digits.startswith("0x"):
        return whole(digits)
    try:
        return int(digits, 16)
    except ValueError:
        return None
