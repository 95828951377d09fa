"""
What the pillar's table is made of: fields, and what several technologies have in common. The words are those that users type.
"""

from collections.abc import Callable
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from gpuslice import shape

DISCOVERY = "containers_gpu_discovery"
SLICING = "containers_gpu_slicing"
INTEGRATION = "containers_gpu_container_integration"
MANAGEMENT = "containers_gpu_state_management"
#: Key of the section on containers: templates of a site, by URL of Salt's file server.
TEMPLATES = "templates"
TOP = (DISCOVERY, SLICING, INTEGRATION, MANAGEMENT)

#: What a mode that is on or off is called; true and false are the same.
ON, OFF = "enabled", "disabled"
ENVIRONMENTS = ("bare_metal", "virtual_host", "virtual_guest", "container")
VENDORS = ("nvidia", "amd", "intel")

#: A PCI address as users may write it; the address functions accept more, and correct it.
ADDRESS = r"^([0-9a-fA-F]{4,8}:)?[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]$"
#: Roughly a GPU's UUID: for editors, the validator knows better.
UUID = r"^(?!MIG-)(GPU-)?[0-9a-fA-F]{8}(-[0-9a-fA-F]+)+$"
#: Ids of a board, as lspci -nn shows them: vendor and device, and those of its subsystem after them where boards share these.
BOARD = r"^[0-9a-fA-F]{4}:[0-9a-fA-F]{4}(:[0-9a-fA-F]{4}:[0-9a-fA-F]{4})?$"
#: Name of a layout.
LAYOUT_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
LAYOUT_NAMED = "up to 63 letters, digits, '_', '.' and '-', with a letter or digit at both ends"
#: Roughly a host name or an address: for editors, the validator knows better.
SERVER = r"^[0-9A-Za-z.:-]*$"
#: An absolute path of a file that node_exporter reads, which reads no other, in a folder.
PROM_FILE = r"^/([^/\x00-\x1f\x7f-\x9f]+/)+[^/\x00-\x1f\x7f-\x9f]+\.prom$"
#: Where Debian's node_exporter reads such files.
TEXTFILE = "/var/lib/prometheus/node-exporter/gpuslice.prom"
#: The characters that a token may have.
TOKEN = r"^[\x21-\x7e]*\s*$"


class Field(NamedTuple):
    """
    One key of the pillar.

    :ivar kind: map, options (a map of which only what is written counts), match, list, numbered (a mapping by numbers from 1),
        named (a mapping by names that fit ``pattern``), rules, boards (PCI ids, one or a list), own (a grammar of a technology),
        counts (a mapping of names to counts), bool, int, text, secret (a text that no message shows), server (a host name or
        address), glob, choice, mode (a choice in any case, or on and off), pattern, uuid, address, device.
    :ivar doc: one sentence for users. :ivar default: value when the key is not written.
    :ivar choices: the allowed words of a choice or a mode. :ivar low: :ivar high: range of an int or of counts, both inclusive.
    :ivar pattern: regular expression of a text. :ivar example: shown when the text does not match it.
    :ivar item: what the elements of a list or numbered mapping are. :ivar fields: the keys of a map.
    :ivar check: of kind own: function of (value, path, notes) that returns the value in its normal form.
    :ivar schema: of kind own: function that returns it in JSON Schema's terms.
    """

    kind: str
    doc: str = ""
    default: object = None
    choices: tuple = ()
    low: int = 0
    high: int = 0
    pattern: str = ""
    example: str = ""
    item: "Field | None" = None
    fields: Mapping = MappingProxyType({})
    check: Callable | None = None
    schema: Callable | None = None


def mapping(doc, **fields):
    """A map with these keys."""
    return Field("map", doc, {name: each.default for name, each in fields.items()}, fields=fields)


def flag(doc, default=False):
    """True or false."""
    return Field("bool", doc, default)


def number(doc, default, low, high):
    """A whole number, both ends included."""
    return Field("int", doc, default, low=low, high=high)


def choice(doc, default, *choices):
    """One of these words."""
    return Field("choice", doc, default, choices=choices)


def mode(doc, default, *choices):
    """One of these words, in any case."""
    return Field("mode", doc, default, choices=choices)


def section(doc, **fields):
    """The settings of a technology."""
    return mapping(doc, enabled=flag("Switches the technology on where strategy is none."), **fields)


PCI_ADDRESS = Field("address", "PCI address of a GPU, in quotes: YAML takes some unquoted ones for numbers.")
DEVICE = Field("device", "PCI address in quotes, or UUID of a GPU.")
UNIT = Field("pattern", "Systemd unit.", pattern=f"^{shape.UNIT_NAME}$", example="a unit like dcgm.service")
MODULE = Field("pattern", "Kernel module.", pattern=f"^{shape.MODULE_NAME}$", example="a module name like vfio_pci")
