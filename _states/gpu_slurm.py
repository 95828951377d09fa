"""
States for Slurm on a node whose GPUs are sliced.

.. code-block:: yaml

    /etc/slurm/gres.conf:
      gpu_slurm.gres_conf:
        - require:
          - gpu_slicing: gpu slices
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_slurm"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_slurm needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def gres_conf(name, node=None, autodetect=None, **kwargs):
    """
    A ``gres.conf`` says what this node has now; see ``gpu_slurm.gres_conf``. What is to follow each change stands in the pillar
    (``containers_gpu_container_integration:slurm``); a file that it keeps is refused where this would say otherwise.

    name
        Path of the file: absolute, and ends in ``.conf``.

    node
        Its NodeName in Slurm; where it is not given, that of the pillar or the host's name.

    autodetect
        Have Slurm find NVIDIA's GPUs and MIG devices itself (``AutoDetect=nvml``).

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_slurm.gres_conf /etc/slurm/gres.conf test=True
    """
    given = {"path": name, "node": node, "autodetect": autodetect, "test": front.testing(__opts__)}
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_slurm.write"], **given)
