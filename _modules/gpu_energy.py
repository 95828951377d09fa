"""
Energy by slice. What is measured is the counter of each board; what each slice is charged with is apportioned from that, by a
method that is told with each figure. See docs/energy.md.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import arguments
from gpuslice import front
from gpuslice.energy import meter
from gpuslice.energy import report as reports

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_energy"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_energy needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def measure(every=None):
    """
    Take a look now: read the counter of each board, and apportion what it took since the last look. The first look begins the
    record; from then on each change of slices takes a look before and after it, too.

    every
        Seconds from one look to the next, for who takes them regularly. After a gap of more than three times that an interval is
        left out. What was said last holds, and 300 where nobody said.

    Returns a dict by PCI address, each a dict: ``sentence`` (what became of the energy that the board took since the last look),
    and as ``gpu_energy.report`` has them ``last`` (by which method, and what to know of it) and ``unreadable`` (why the counter
    can't be read now, "" otherwise).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_energy.measure
        salt gpu7 gpu_energy.measure every=60
    """
    with _engine() as engine:
        return reports.looked(meter.look(engine, every))


@_checked
def report(gpu=None, since=None, table=False):
    """
    What each slice is charged with, and what its board took. The figures of a board's slices and what is not allocated are the
    board's, to the millijoule.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``. Without it all that are on record,
        those included that are gone.

    since
        A time in ISO 8601, or how long ago: ``24h``, ``7d``. It is told back as exactly as it is still known: by the hour for
        two days, by the day for ninety. Without it all since the record began.

    table
        Give a table for people in the place of data.

    Returns a dict: ``since`` and ``until``; ``boards``, by PCI address, with ``model``, ``joules`` (what the board took in the
    intervals that count), ``unallocated_joules`` (of the part of it of which there is no slice, and while it was cut),
    ``earlier_joules`` (of slices that are gone for longer than ninety days), ``seconds`` (how long these intervals were),
    ``dropped`` (reason -> ``intervals`` that are left out, and the ``joules`` that are known of them), ``idle_watts`` (what it
    draws when nobody works, None while that is not known), ``last`` (the method of the last interval, and what to know of it),
    ``unreadable`` (why it can't be read now, "" otherwise); and ``slices``, a list of dicts with ``gpu``, ``slice``, ``uuid``,
    ``kind``, ``profile``, ``method`` (``activity`` or ``capacity``), ``active_joules``, ``idle_joules``, ``there`` and
    ``consumer`` (who has it now, "" for nobody): a row for each slice and method.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_energy.report
        salt gpu7 gpu_energy.report '0000:1b:00.0' since=24h table=True
    """
    with _engine() as engine:
        begin = None if since is None else arguments.moment_of(since, engine.host.now())
        found = reports.made(engine, gpu, begin)
        return reports.table(found) if table else found
