"""
States for metrics of GPUs and slices.

.. code-block:: yaml

    gpu slices are measured:
      gpu_metrics.exported:
        - textfile: /var/lib/prometheus/node-exporter/gpuslice.prom
        - interval_seconds: 15
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_metrics"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_metrics needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def exported(name, textfile=None, interval_seconds=None, **kwargs):
    """
    A timer writes the metrics of this host every few seconds, and the file is fresh.

    name
        Any text.

    textfile
        Absolute path of the file; its name ends in ``.prom``. As the pillar says, where it is not given.

    interval_seconds
        Seconds from one time to the next, 5 to 3600. As the pillar says, where it is not given.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_metrics.exported metrics test=True
    """
    given = {"textfile": textfile, "interval_seconds": interval_seconds, "test": front.testing(__opts__)}
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_metrics.enable"], **given)


def disabled(name, **kwargs):
    """
    No metrics are written: there is no timer of ours, and no file of it.

    name
        Any text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_metrics.disabled metrics
    """
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_metrics.disable"], test=front.testing(__opts__))
