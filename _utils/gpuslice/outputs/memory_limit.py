"""
Files by which a limit of GPU memory holds for all that runs in a slice of systemd, that of a consumer or any other: a unit that
sets it whenever that slice is there, and what has that unit started.

A slice that is stopped takes its limit with it. So the unit that sets it is bound to the slice, and what runs in the slice of a
consumer needs that unit: its next start sets the limit again. How much is in the limiting unit alone: who only gets another limit
is not restarted. What is behind this was tried on systemd 252 and 257, and with a kernel that enforces it
(``tests/parts/test_quotas_nspawn.py``, ``tests/parts/test_dmem_vm.py``).
"""

import re
from collections.abc import Iterable

from gpuslice.outputs import unit_text
from gpuslice.outputs.consumer import Consumer
from gpuslice.outputs.file import File
from gpuslice.outputs.service import BOOT_UNIT
from gpuslice.outputs.unit_names import CONSUMERS
from gpuslice.outputs.unit_names import MEMORY_DROP_IN
from gpuslice.outputs.unit_names import UNITS

#: Seconds that it may take: a driver that has to be started.
_LONGEST = 90
#: What sets limits, run by Python.
MODULE = "gpuslice.boot.limiting"
#: How the units begin that limit other slices than those of consumers, in whose names no ``-`` is left.
_SLICES = f"{CONSUMERS}vram-"


def escaped(name: str) -> str:
    """The name of a consumer within that of a slice, where a ``-`` would lead to another slice (systemd-escape(1))."""
    return name.replace("-", "\\x2d")


def slice_of(consumer: Consumer, uid: int | None) -> str:
    """The slice whose group is limited: a user's own, or one that is the consumer's alone."""
    return f"{CONSUMERS}{escaped(consumer.name)}.slice" if uid is None else f"user-{uid}.slice"


def limiting_unit(consumer: Consumer) -> str:
    """The unit that sets the limit."""
    return f"{CONSUMERS}{escaped(consumer.name)}.service"


def path_of(consumer: Consumer) -> str:
    """Where the file of :func:`limiting_unit` lies."""
    return f"{UNITS}/{limiting_unit(consumer)}"


def drop_in(consumer: Consumer, unit: str, uid: int | None) -> File:
    """
    What has the unit of a consumer run with its limit; that of a user's manager wants it, so that he can log in all the same.

    :param unit: of the consumer, "" for a user; :param uid: of a user, None for others.
    """
    head = _head(_who(consumer))
    limiting = limiting_unit(consumer)
    if uid is not None:
        return File(f"{UNITS}/user@{uid}.service.d/{MEMORY_DROP_IN}", f"{head}[Unit]\nWants={limiting}\nAfter={limiting}\n")
    text = f"{head}[Unit]\nRequires={limiting}\nAfter={limiting}\n\n[Service]\nSlice={slice_of(consumer, uid)}\n"
    return File(f"{UNITS}/{unit}.d/{MEMORY_DROP_IN}", text)


def setter(
    consumer: Consumer, uid: int | None, limits: Iterable[tuple[str, int]], program: Iterable[str], place: str,
    after: str = BOOT_UNIT,
) -> File:  # fmt: skip
    """
    The unit that sets the limit of a consumer.

    :param limits: (PCI address, MiB) of each GPU; :param program: words that run :data:`MODULE`; :param place: the folder of the
        package.
    :raises errors.PolicyError: a path that no unit file can hold.
    """
    what = f"The limit of consumer {consumer.name!r}"
    who = f"the GPU consumer {unit_text.plain(consumer.name, what)}"
    text = _text(_who(consumer), who, what, slice_of(consumer, uid), limits, program, place, after)
    return File(path_of(consumer), text)


def limited_slice(name: str, address: str) -> str:
    """The slice that a file of :func:`of_slice` is about, by its name; "" for any other file, or another GPU's."""
    begin = f"{_SLICES}{address}-"
    return f"{name.removeprefix(begin).removesuffix('.service')}.slice" if name.startswith(begin) else ""


def of_slice(slice_unit: str, address: str, mebibytes: int, program: Iterable[str], place: str) -> tuple[File, File]:
    """
    What limits a slice that is nobody's in particular, for one GPU: the unit that sets it, and what has the slice want that unit.

    :param program, place: as of :func:`setter`.

    Who starts in the slice does not wait for it: the memory that he has then counts all the same where the controller was
    switched on before, as it is from the first limit to the next boot.
    """
    who = f"the slice {slice_unit}"
    unit = f"{_SLICES}{address}-{slice_unit.removesuffix('.slice')}.service"
    text = _text(who, who.replace("%", "%%"), f"The limit of {slice_unit}", slice_unit, [(address, mebibytes)], program, place)
    wants = f"{_head(who)}[Unit]\nWants={unit}\n"
    return File(f"{UNITS}/{unit}", text), File(f"{UNITS}/{slice_unit}.d/{address}-{MEMORY_DROP_IN}", wants)


def mebibytes_of(text: str, address: str) -> int | None:
    """To how much the text of a unit that limits says that a GPU is limited, in MiB; None where it says nothing."""
    command = rf"^ExecStart=.* -m {re.escape(MODULE)} .*\b{re.escape(address)}=([1-9][0-9]{{0,8}})(?: |$)"
    found = re.search(command, text, re.MULTILINE)
    return int(found[1]) if found else None


def slice_in(text: str) -> str:
    """The slice that the text of a unit that limits is about; "" where it says nothing."""
    found = re.search(rf"^ExecStart=.* -m {re.escape(MODULE)} \"?([^ \"]+\.slice)\"?(?: |$)", text, re.MULTILINE)
    return found[1] if found else ""


def _who(consumer: Consumer) -> str:
    return f"the GPU consumer {consumer.name}"


def _head(who: str) -> str:
    return f"# Written by Salt for {who}; changes to this file are overwritten.\n"


def _text(
    who: str, told: str, what: str, slice_unit: str, limits: Iterable[tuple[str, int]], program: Iterable[str], place: str,
    after: str = BOOT_UNIT,
) -> str:  # fmt: skip
    argv = [*program, slice_unit, *(f"{address}={mebibytes}" for address, mebibytes in limits)]
    return f"""\
{_head(who)}[Unit]
Description=Limit of GPU memory of {told}
BindsTo={slice_unit}
After={slice_unit}
After={after}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={" ".join(unit_text.quoted(word, what).replace("$", "$$") for word in argv)}
Environment={unit_text.assignment("PYTHONPATH", place, what)}
TimeoutStartSec={_LONGEST}
"""
