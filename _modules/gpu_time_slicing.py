"""
Time-slicing by hand: how many consumers take turns on a GPU or on each of its MIG devices, and how long a turn lasts. Every
change goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_time_slicing"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_time_slicing needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def status(gpu):
    """
    What of a GPU is shared, and how long turns last.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: ``replicas`` (name of the slice, which is the PCI address for a whole GPU -> number of consumers), and
    ``turns`` where something is set for it.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_time_slicing.status '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "time-slicing", gpu, lambda one, tool: tool.shown(tool.layout(engine.seen(tool, one))))


@_checked
def configure(gpu, max_instance_count=None, slice_duration=None, profiles=None, test=False, share_policy=None):
    """
    Share a GPU among several consumers, or each of its MIG devices where it has some. No memory is isolated; turns are equal and
    advisory. What is not given has the default of the pillar.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    max_instance_count
        How many consumers may share the GPU, or each MIG device (8).

    slice_duration
        How long a turn lasts, such as ``10ms`` (100ms). NVIDIA's driver has four steps, of which the nearest is chosen and told;
        it takes none for MIG devices.

    profiles
        Only MIG devices of these profiles; none given: all.

    test
        Plan only, change nothing.

    share_policy
        ``equal``, the only one.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_time_slicing.configure '0000:1b:00.0' max_instance_count=4 slice_duration=10ms test=True
    """
    with _engine() as engine:
        written = {"max_instance_count": max_instance_count, "slice_duration": slice_duration, "profiles": profiles}
        written["share_policy"] = share_policy
        return front.run(engine, engine.wanted_as("time-slicing", gpu, written), test, __pillar__)


@_checked
def remove(gpu, test=False):
    """
    Share nothing of a GPU any more: what was set before it was shared is set again. Consumers that run go on.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_time_slicing.remove '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("time-slicing", gpu, {"clear": True}), test, __pillar__)
