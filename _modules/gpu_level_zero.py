"""
Intel GPUs by hand: which devices and tiles programs see through Level Zero, CCS mode, scheduling properties, and limits of device
memory. Every change goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_level_zero"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_level_zero needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


def _told(tool, state):
    return {**tool.shown(tool.layout(state)), "environment": tool.environment(state)}


@_checked
def status(gpu):
    """
    What is set on a GPU.

    gpu
        PCI address (quoted).

    Returns a dict: ``partitions`` (environment file -> mask), ``ccs_mode`` where the GPU has one, ``engines`` (scheduling
    properties that differ from those at boot), ``vram`` (limits by slice unit), and ``environment`` (file -> variables).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_level_zero.status '0000:3a:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "level-zero", gpu, lambda one, tool: _told(tool, tool.observe(one)))


@_checked
def configure(
    gpu,
    partitions=None,
    hierarchy=None,
    ccs_mode=None,
    engines=None,
    vram_max_mib=None,
    vram_slice=None,
    force=False,
    test=False,
):
    """
    Set what is given; everything else stays as it is.

    gpu
        PCI address.

    partitions
        List of devices (``"0"``) and tiles (``"0.1"``), counted in the order of PCI addresses; those of this GPU become
        environment files, and its other files go. This is a convention among programs, not isolation.

    hierarchy
        COMPOSITE, FLAT or COMBINED; goes with ``partitions``.

    ccs_mode
        Compute engines that the compute slices are divided among. The GPU must be idle.

    engines
        Scheduling properties by engine class: ``{"ccs": {"timeslice_duration_us": 2000}}``; 0 is the value at boot.

    vram_max_mib
        The most memory of the GPU that ``vram_slice`` may have; 0 lifts the limit.

    vram_slice
        Systemd slice unit.

    force
        End the programs that stand in the way.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_level_zero.configure '0000:3a:00.0' ccs_mode=2 test=True
    """
    with _engine() as engine:
        written = {
            "partitions": partitions,
            "hierarchy": hierarchy,
            "ccs_mode": ccs_mode,
            "engines": engines,
            "vram_max_mib": vram_max_mib,
            "vram_slice": vram_slice,
        }
        return front.run(engine, engine.wanted_as("level-zero", gpu, written, partitions=None), test, __pillar__, force)


@_checked
def clear(gpu, force=False, test=False):
    """
    Take back everything that was set: environment files, CCS mode, scheduling properties, limits of memory.

    gpu
        PCI address.

    force
        End the programs that stand in the way.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_level_zero.clear '0000:3a:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("level-zero", gpu, {"clear": True}), test, __pillar__, force)
