"""
States for NVIDIA MIG on a single GPU, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:1b:00.0":
      gpu_mig.layout:
        - profiles: {"3g.40gb": 1, "1g.10gb": 4}
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_mig"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_mig needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def layout(name, profiles, force=False, compute_instances=1, gpu=None, gpu_instances=1, **kwargs):
    """
    A GPU has exactly this MIG layout; instances that it needs already are kept. MIG mode is enabled if it is not.

    name
        PCI address (quoted) or UUID of the GPU.

    profiles
        As in the pillar: a list, a dict of counts, or a list with placements (``3g.40gb@4``).

    force
        Also destroy what is in use.

    compute_instances
        Compute instances in each GPU instance that is not named by its compute instances.

    gpu
        The GPU, when ``name`` is another text.

    gpu_instances
        How many of each profile of the list form.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_mig.layout '0000:1b:00.0' profiles='["3g.40gb", "3g.40gb"]'
    """
    target = name if gpu is None else gpu
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_mig.apply_layout"],
        target,
        profiles,
        force=force,
        compute_instances=compute_instances,
        gpu_instances=gpu_instances,
        test=front.testing(__opts__),
    )


def mode(name, enabled=True, force=False, gpu=None, **kwargs):
    """
    MIG mode of a GPU is enabled or disabled. Disabling destroys the instances.

    name
        PCI address (quoted) or UUID of the GPU.

    enabled
        True (default) or False.

    force
        Also when the GPU is in use.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_mig.mode '0000:1b:00.0' enabled=False
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_mig.set_mode"],
        name if gpu is None else gpu,
        enabled,
        force=force,
        test=front.testing(__opts__),
    )
