"""
MPS by hand: how many consumers run side by side on a GPU or on each of its MIG devices, and what each gets at most. Every change
goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_mps"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_mps needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def status(gpu):
    """
    What of a GPU is shared by MPS, and what its daemons tell.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: ``mps`` (name of the slice, which is the PCI address for a whole GPU -> number of clients, their limits and
    whether the daemon runs), ``compute_mode`` of a whole GPU, and ``daemons`` (name of the slice -> limits and client processes
    as its daemon tells them at this moment).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mps.status '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "mps", gpu, lambda one, tool: tool.status(one, engine.seen(tool, one)))


@_checked
def configure(
    gpu, max_instance_count=None, active_thread_percentage=None, pinned_memory_mib=None, exclusive=None, profiles=None,
    weights=None, protocol=None, test=False, share_policy=None,
):  # fmt: skip
    """
    Share a GPU among several consumers by MPS, or each of its MIG devices where it has some: a daemon each, as a systemd unit,
    which gives each client a limit of compute and memory. What is not given has the default of the pillar.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    max_instance_count
        How many consumers may share the GPU, or each MIG device (8).

    active_thread_percentage
        Share of the multiprocessors that each client gets at most, in percent; 0: 100 by the number of consumers (0).

    pinned_memory_mib
        Memory of the device that each client gets at most, in MiB; 0: its memory by the number of consumers (0).

    exclusive
        Whether a whole GPU is kept for its daemon, so that no program computes beside it (True).

    profiles
        Only MIG devices of these profiles; none given: all.

    weights
        A weight for each consumer, such as ``[2, 1, 1]``, by which compute and memory are divided; none: all get the same. In the
        place of max_instance_count, active_thread_percentage and pinned_memory_mib.

    protocol
        ``v2``, ``v3`` (from driver 615 on; it enforces weights), or ``auto``: v3 for weights where the driver has it, else v2
        (auto).

    test
        Plan only, change nothing.

    share_policy
        ``equal``, or ``weighted`` together with weights.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mps.configure '0000:1b:00.0' max_instance_count=4 pinned_memory_mib=8192 test=True
        salt gpu7 gpu_mps.configure '0000:1b:00.0' weights='[2, 1, 1]'
    """
    with _engine() as engine:
        written = {
            "max_instance_count": max_instance_count,
            "active_thread_percentage": active_thread_percentage,
            "pinned_memory_mib": pinned_memory_mib,
            "exclusive": exclusive,
            "profiles": profiles,
            "weights": weights,
            "protocol": protocol,
            "share_policy": share_policy,
        }
        return front.run(engine, engine.wanted_as("mps", gpu, written), test, __pillar__)


@_checked
def remove(gpu, test=False):
    """
    Share nothing of a GPU by MPS any more: its daemons end, which is refused while they have clients.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mps.remove '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mps", gpu, {"clear": True}), test, __pillar__)
