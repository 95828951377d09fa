"""
States for passing whole GPUs to virtual machines, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:1b:00.0":
      gpu_passthrough.bound: []
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_passthrough"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_passthrough needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def bound(name, force=False, gpu=None, **kwargs):
    """
    A GPU is bound to vfio-pci, so that a virtual machine can have it.

    name
        PCI address (quoted) or UUID of the GPU.

    force
        End the programs that use the GPU.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_passthrough.bound '0000:1b:00.0'
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_passthrough.bind"],
        name if gpu is None else gpu,
        force=force,
        test=front.testing(__opts__),
    )


def released(name, force=False, gpu=None, **kwargs):
    """
    A GPU is not bound to vfio-pci: it has the driver that it had before.

    name
        PCI address (quoted) of the GPU.

    force
        End the virtual machine that uses the GPU.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_passthrough.released '0000:1b:00.0'
    """
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_passthrough.release"],
        name if gpu is None else gpu,
        force=force,
        test=front.testing(__opts__),
    )
