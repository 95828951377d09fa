"""
States for sharing GPUs in time, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:1b:00.0":
      gpu_time_slicing.configured:
        - max_instance_count: 4
        - slice_duration: 10ms
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_time_slicing"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_time_slicing needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def configured(name, max_instance_count=None, slice_duration=None, profiles=None, gpu=None, share_policy=None, **kwargs):
    """
    Several consumers take turns on a GPU, or on each of its MIG devices. No memory is isolated; turns are equal and advisory.

    name
        PCI address (quoted) or UUID of the GPU.

    max_instance_count, slice_duration, profiles, share_policy
        As in ``gpu_time_slicing.configure`` and in the pillar.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_time_slicing.configured '0000:1b:00.0' max_instance_count=4
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_time_slicing.configure"],
        name if gpu is None else gpu,
        max_instance_count=max_instance_count,
        slice_duration=slice_duration,
        profiles=profiles,
        share_policy=share_policy,
        test=front.testing(__opts__),
    )


def removed(name, gpu=None, **kwargs):
    """
    Nothing of a GPU is shared in time.

    name
        PCI address (quoted) or UUID of the GPU.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_time_slicing.removed '0000:1b:00.0'
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_time_slicing.remove"],
        name if gpu is None else gpu,
        test=front.testing(__opts__),
    )
