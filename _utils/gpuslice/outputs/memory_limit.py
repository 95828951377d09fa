"""
Files by which a limit of GPU memory holds for a consumer: his unit in a slice of its own, and a unit that sets the limit
whenever that slice is there.

A slice that is stopped takes its limit with it. So the unit that sets it is bound to the slice, and what runs in it needs that
unit: its next start sets the limit again. How much is in the limiting unit alone: who only gets another limit is not restarted.
What is behind this was tried on systemd
252 and 257 and stands in ``tests/parts/test_quotas_nspawn.py``.
"""

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
    head = f"# Written by Salt for the GPU consumer {consumer.name}; changes to this file are overwritten.\n"
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
    The unit that sets the limit.

    :param limits: (PCI address, MiB) of each GPU; :param program: words that run what sets them, :param place: the folder of
        the package. :raises errors.PolicyError: a path that no unit file can hold.
    """
    slice_unit, what = slice_of(consumer, uid), f"The limit of consumer {consumer.name!r}"
    argv = [*program, slice_unit, *(f"{address}={mebibytes}" for address, mebibytes in limits)]
    text = f"""\
# Written by Salt for the GPU consumer {consumer.name}; changes to this file are overwritten.
[Unit]
Description=Limit of GPU memory of the GPU consumer {unit_text.plain(consumer.name, what)}
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
    return File(path_of(consumer), text)
