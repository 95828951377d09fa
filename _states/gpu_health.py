"""
The health of GPUs as a state.

.. code-block:: yaml

    gpu health:
      gpu_health.healthy
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_health"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_health needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def healthy(name, **kwargs):
    """
    No GPU or slice of this host is ``failed`` or ``lost``, or, with ``containers_gpu_state_management:health:fail_on: degraded``,
    not even degraded; with ``never`` it only tells. Nothing of the GPUs is changed; what was found is kept for later looks. With
    ``on_failed: quarantine`` what failed is handed out no more.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_health.healthy gpus
    """
    testing = front.testing(__opts__)
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_health.healthy"], test=testing)
