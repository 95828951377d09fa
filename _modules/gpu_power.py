"""
Power caps by hand: what a board may draw, for all its slices together. Every change goes through plan, journal and verification
like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_power"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_power needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def status(gpu):
    """
    What limit a board has, and what it can have.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict of watts, None for what the driver does not tell: ``asked_watts`` (the limit that was asked of the board; 0 for
    none), ``enforced_watts`` (in force, which other limiters may make less), ``default_watts`` (what its vendor gave it),
    ``least_watts`` and ``most_watts``, ``set_here_watts`` (what is on record, and comes back after a boot).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_power.status '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "power", gpu, lambda one, tool: tool.status(one, tool.observe(one)))


@_checked
def configure(gpu, limit_watts=None, percent=None, test=False):
    """
    Cap what a board may draw. It goes on working, slower where the cap is met; nothing that runs is ended.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``. A cap is always the whole board's.

    limit_watts
        Whole watts, or ``default`` for the limit that its vendor gave it.

    percent
        The same in percent of the vendor's limit, rounded down to whole watts.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_power.configure '0000:1b:00.0' 400
        salt gpu7 gpu_power.configure all percent=70 test=True
    """
    with _engine() as engine:
        written = {"limit_watts": limit_watts, "percent": percent}
        return front.run(engine, engine.wanted_as("power", gpu, written), test, __pillar__)


@_checked
def remove(gpu, test=False):
    """
    Give a board the limit of its vendor again, and forget that it was capped.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_power.remove '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("power", gpu, {"limit_watts": "default"}), test, __pillar__)
