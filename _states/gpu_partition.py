"""
States for the partition modes of AMD Instinct GPUs, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    every GPU in eight partitions:
      gpu_partition.mode:
        - gpu: all
        - compute: CPX
        - memory: NPS4
        - reload: true
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_partition"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_partition needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def mode(name, compute=None, memory=None, reload=False, force=False, gpu=None, **kwargs):
    """
    A GPU has this compute mode, this memory mode, or both.

    name
        PCI address (quoted) or UUID of the GPU.

    compute
        SPX, DPX, TPX, QPX or CPX. Not given: as it is, or what the driver chooses with a new memory mode.

    memory
        NPS1, NPS2 or NPS4. Not given: as it is. It is one for a whole XGMI hive: name all its GPUs with ``gpu``.

    reload
        The driver amdgpu may be loaded anew, which a new memory mode needs.

    force
        End processes that use the GPUs.

    gpu
        The GPU, a list of GPUs, or ``all``, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_partition.mode "'0000:05:00.0'" compute=CPX
    """
    wanted = {"compute": compute, "memory": memory, "reload": reload, "force": force}
    target, test = name if gpu is None else gpu, front.testing(__opts__)
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_partition.set_mode"], target, **wanted, test=test)
