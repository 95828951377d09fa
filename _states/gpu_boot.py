"""
States for what a boot brings back.

.. code-block:: yaml

    gpu slices survive a reboot:
      gpu_boot.enabled
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_boot"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_boot needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def enabled(name, **kwargs):
    """
    ``gpu-slicing.service`` is there, its content is current, and it is enabled: each boot brings the last verified layout of
    every GPU back before the consumers of slices start.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_boot.enabled slices test=True
    """
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_boot.enable"], test=front.testing(__opts__))


def disabled(name, **kwargs):
    """
    There is no ``gpu-slicing.service``: a boot brings no slices back.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_boot.disabled slices
    """
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_boot.disable"], test=front.testing(__opts__))
