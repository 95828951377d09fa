"""
States for sharing GPUs by MPS, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:1b:00.0":
      gpu_mps.configured:
        - max_instance_count: 4
        - pinned_memory_mib: 8192
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_mps"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_mps needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def configured(
    name,
    max_instance_count=None,
    active_thread_percentage=None,
    pinned_memory_mib=None,
    exclusive=None,
    profiles=None,
    weights=None,
    protocol=None,
    gpu=None,
    share_policy=None,
    **kwargs,
):
    """
    Several consumers run side by side on a GPU, or on each of its MIG devices, each with a limit of compute and memory.

    name
        PCI address (quoted) or UUID of the GPU.

    max_instance_count, active_thread_percentage, pinned_memory_mib, exclusive, profiles, weights, protocol, share_policy
        As in ``gpu_mps.configure`` and in the pillar.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_mps.configured '0000:1b:00.0' max_instance_count=4
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_mps.configure"],
        name if gpu is None else gpu,
        max_instance_count=max_instance_count,
        active_thread_percentage=active_thread_percentage,
        pinned_memory_mib=pinned_memory_mib,
        exclusive=exclusive,
        profiles=profiles,
        weights=weights,
        protocol=protocol,
        share_policy=share_policy,
        test=front.testing(__opts__),
    )


def removed(name, gpu=None, **kwargs):
    """
    Nothing of a GPU is shared by MPS.

    name
        PCI address (quoted) or UUID of the GPU.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_mps.removed '0000:1b:00.0'
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_mps.remove"],
        name if gpu is None else gpu,
        test=front.testing(__opts__),
    )
