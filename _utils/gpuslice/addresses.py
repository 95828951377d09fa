"""
PCI addresses and UUIDs as users write them.

YAML 1.1 reads an unquoted ``0000:07:00.0`` as a number of base 60 (420.0), and does so only where bus and device have no hex
letter: a policy that works on one server breaks on the next. The misreading is reversible, so it is undone here, with a
warning, in the one function through which every address goes that a user can write.
"""

import math
import re

from gpuslice import errors

_ADDRESS = re.compile(r"(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])\Z")
_UUID = re.compile(r"(?:GPU-|MIG-)?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z", re.IGNORECASE)


def is_uuid(value):
    """Whether ``value`` is the UUID of a GPU or a MIG device: ``GPU-`` or ``MIG-`` and 8-4-4-4-12 hex digits, or these alone."""
    return isinstance(value, str) and _UUID.match(value.strip()) is not None


def is_pci(value):
    """Whether ``value`` is a text that spells a PCI address."""
    return isinstance(value, str) and _ADDRESS.match(value.strip().lower()) is not None


def is_pattern(value):
    """Whether a text has a character that stands for others, as no address, UUID or name of a slice has."""
    return isinstance(value, str) and not set(value).isdisjoint("*?[")


def is_place(value):
    """Whether a text is made as names of slices are: a PCI address, and what says where on that GPU."""
    whole, dash, _ = value.strip().partition("-") if isinstance(value, str) else ("", "", "")
    return bool(dash) and is_pci(whole)


def is_index(value):
    """Whether it is a small number: no PCI address is read as one, as 0000:00:00.x is never a GPU."""
    if isinstance(value, str):
        return value.isdigit() and len(value) < 4
    return type(value) is int and abs(value) < 60


def normalize(value):
    """
    A PCI address in the kernel's form.

    :param value: ``0000:07:00.0``, ``07:00.0``, ``00000000:07:00.0``, in upper or lower case, or the number that YAML made of it.
    :return: (address, warning): the address as ``0000:07:00.0``, and None or a sentence on what to correct. The number that
        YAML makes of a short address of bus 60 to 99 is the same as that of a full address of domain 1; it is taken as the
        full one.
    :raises errors.PolicyError: for anything else.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        address = _from_number(value)
        return address, f"PCI address {address} was written without quotes, so YAML read it as the number {value!r}: quote it."
    match = _ADDRESS.match(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise _not_an_address(value)
    domain, bus, device, function = match.groups()
    if int(device, 16) > 0x1F:
        raise _not_an_address(value)
    return f"{int(domain or '0', 16):04x}:{bus}:{device}.{function}", None


def _from_number(value):
    """Undo YAML's reading of an address as a number of base 60. What were hex digits are its decimal ones."""
    if not math.isfinite(value) or value < 0:
        raise _not_an_address(value)
    minutes = int(value)
    function = round((value - minutes) * 10)
    domain, bus, device = minutes // 3600, minutes // 60 % 60, minutes % 60
    exact = math.isclose(minutes + function / 10, value, rel_tol=0, abs_tol=1e-4)
    if not exact or function > 7 or int(str(device), 16) > 0x1F or len(str(domain)) > 8:
        raise _not_an_address(value)
    return f"{int(str(domain), 16):04x}:{bus:02d}:{device:02d}.{function}"


def _not_an_address(value):
    return errors.PolicyError(
        f"{value!r} is not a PCI address.", todo="Write it in quotes, as in \"0000:07:00.0\"; 'lspci -D' lists the addresses."
    )
