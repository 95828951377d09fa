"""
What a line of the kernel's log tells of a GPU.

Forms: NVIDIA's open kernel modules (``kernel_rc.c``, ``common_nvswitch.h``), the kernel's ``amdgpu_ras.c``, ``amdgpu_device.c``,
``drm_drv.c`` and ``xe_hw_error.c``. Words of a program stand in these lines too, so that only their beginnings count.
"""

import re
from typing import NamedTuple

from gpuslice.health import recovery
from gpuslice.numbers import whole

_ADDRESS = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
#: The address of NVIDIA's lines has no function. Instances are told in decimal, a GPU instance with or without a compute one.
_XID = re.compile(
    r"^NVRM: Xid \((?:PCI:)?([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2})(?:\.[0-7])?"
    r"(?: GPU-I:(\d{1,4}))?(?: GPU-CI:(\d{1,4}))?\): (\d{1,6}), ?(.*)$"
)
_PID = re.compile(r"^pid='?(\d{1,10})'?[, ]")
_ACTION = re.compile(r"to 0x([0-9a-fA-F]{1,4})\b")
_SXID = re.compile(
    r"^nvidia-nvswitch\d{1,3}: SXid \(PCI:([0-9a-fA-F:.]{7,16})\): (\d{5}), (Fatal|Non-fatal)\b(.*)$", re.IGNORECASE
)
_OFF_BUS = re.compile(rf"^NVRM: GPU ({_ADDRESS}): GPU has fallen off the bus", re.IGNORECASE)
#: Of several lines, in one record or in one each: who it is, and what became of it.
_THE_GPU = re.compile(rf"^NVRM: The NVIDIA GPU ({_ADDRESS})")
_NO_ANSWER = re.compile(r"fallen off the bus and is not responding")
_RAS = re.compile(
    rf"^amdgpu ({_ADDRESS}): .*?\b(\d{{1,20}}) (?:new )?uncorrectable hardware errors detected in (?!total)(\w+) block"
)
_AMD_RESET = re.compile(rf"^amdgpu ({_ADDRESS}): .*GPU reset\(\d+\) succeeded")
_WEDGED = re.compile(rf"^\w+ ({_ADDRESS}): \[drm\] (?:\*ERROR\* )?device wedged, (.*)$")
_XE_WEDGED = re.compile(rf"^xe ({_ADDRESS}): \[drm\] (?:\*ERROR\* )?CRITICAL: Xe has declared device")
_XE_FIRMWARE = re.compile(rf"^xe ({_ADDRESS}): .*\[Hardware Error\].*HEC FW\b")
_XE_HARDWARE = re.compile(
    rf"^xe ({_ADDRESS}): .*\[Hardware Error\].*reported .*\b(FATAL|NONFATAL|UNCORRECTABLE)\b", re.IGNORECASE
)

#: Code of the line by which the NVIDIA driver tells that it asks for nothing any more, and of an AMD GPU that was reset: the
#: evidence that something was done.
ALL_CLEAR, RESET = "all-clear", "reset"


class Event(NamedTuple):
    """
    Something that the kernel said of a GPU.

    :ivar gpu: PCI address; :ivar code: ``xid-94``, or one of :data:`gpuslice.watch.meanings.BY_CODE`, or what clears.
    :ivar seconds: since the boot; :ivar words: of the driver. :ivar xid: its number, None for another line.
    :ivar gi: :ivar ci: GPU instance and compute instance, None where it is not told; :ivar pid: of the program, likewise.
    """

    gpu: str
    code: str
    seconds: float
    words: str
    xid: int | None = None
    gi: int | None = None
    ci: int | None = None
    pid: int | None = None


def events(lines):
    """The events of lines (:class:`gpuslice.host.kernel_log.Line`), in their order."""
    found, named = [], ""
    for line in lines:
        if the_gpu := _THE_GPU.match(line.text):
            named = _full(the_gpu[1])
        event = _event(line, named)
        if event:
            found.append(event)
    return found


def _event(line, named):
    for form, made in _FORMS:
        match = form.search(line.text)
        if match:
            return made(match, line, named)
    return None


def _xid(match, line, _named):
    address, gi, ci, number, rest = match.groups()
    pid, number = _PID.match(rest), int(number)
    code = f"xid-{number}"
    if number == 154 and (action := _ACTION.search(rest)):
        # It only announces: what is asked for is the event, or that nothing is asked for any more.
        asked = int(action[1], 16)
        code = recovery.code_of(asked) if asked else ALL_CLEAR
    return Event(
        _full(f"{address}.0"), code, line.seconds, rest.strip(), number, whole(gi or ""), whole(ci or ""),
        whole(pid[1]) if pid else None,
    )  # fmt: skip


def _sxid(match, line, _named):
    # The address is a switch's, which no GPU has: the words go to all GPUs of the host.
    fatal = match[3].lower() == "fatal"
    words = f"SXid {int(match[2])} of {match[1]}: {match[3]}{match[4]}"
    return Event("", "nvswitch-fatal" if fatal else "nvswitch", line.seconds, words)


def _plain(code):
    return lambda match, line, _named: Event(_full(match[1]), code, line.seconds, line.text)


def _no_answer(_match, line, named):
    return Event(named, "xid-79", line.seconds, "fallen off the bus and is not responding", 79) if named else None


def _off_bus(match, line, _named):
    return Event(_full(match[1]), "xid-79", line.seconds, "GPU has fallen off the bus", 79)


def _ras(match, line, _named):
    if not int(match[2]):
        return None
    return Event(_full(match[1]), "amd-uncorrectable-ras", line.seconds, f"{match[2]} uncorrected errors in {match[3]}")


def _wedged(match, line, _named):
    code = "drm-wedged" if match[2].startswith("needs") else "drm-hung"
    return Event(_full(match[1]), code, line.seconds, f"device wedged, {match[2]}")


def _full(address):
    """An address in the kernel's form."""
    domain, colon, rest = address.lower().partition(":")
    return f"{int(domain, 16):04x}{colon}{rest}"


_FORMS = (
    (_XID, _xid),
    (_OFF_BUS, _off_bus),
    (_NO_ANSWER, _no_answer),
    (_SXID, _sxid),
    (_RAS, _ras),
    (_AMD_RESET, _plain(RESET)),
    (_WEDGED, _wedged),
    (_XE_WEDGED, _plain("drm-wedged")),
    (_XE_FIRMWARE, _plain("intel-firmware")),
    (_XE_HARDWARE, _plain("intel-hardware")),
)
