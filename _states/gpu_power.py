"""
States for power caps, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:1b:00.0":
      gpu_power.configured:
        - limit_watts: 400
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_power"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_power needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def configured(name, limit_watts=None, percent=None, gpu=None, **kwargs):
    """
    A board draws no more than this, all its slices together.

    name
        PCI address (quoted) or UUID of the GPU.

    limit_watts, percent
        As in ``gpu_power.configure`` and in the pillar.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_power.configured '0000:1b:00.0' limit_watts=400
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_power.configure"],
        name if gpu is None else gpu,
        limit_watts=limit_watts,
        percent=percent,
        test=front.testing(__opts__),
    )


def removed(name, gpu=None, **kwargs):
    """
    A board has the limit of its vendor.

    name
        PCI address (quoted) or UUID of the GPU.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_power.removed '0000:1b:00.0'
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_power.remove"],
        name if gpu is None else gpu,
        test=front.testing(__opts__),
    )
