"""
States for Intel GPUs through Level Zero, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:3a:00.0":
      gpu_level_zero.configured:
        - partitions: ["0.0", "0.1"]
        - ccs_mode: 2
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_level_zero"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_level_zero needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def configured(
    name,
    partitions=None,
    hierarchy=None,
    ccs_mode=None,
    engines=None,
    vram_max_mib=None,
    vram_slice=None,
    force=False,
    gpu=None,
    **kwargs,
):
    """
    A GPU has these settings; what is not given stays as it is. Partitions are environment files: a convention among programs, not
    isolation.

    name
        PCI address (quoted) of the GPU.

    partitions, hierarchy, ccs_mode, engines, vram_max_mib, vram_slice
        As in ``gpu_level_zero.configure`` and in the pillar.

    force
        End the programs that stand in the way.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_level_zero.configured '0000:3a:00.0' ccs_mode=2
    """
    wanted = {
        "partitions": partitions,
        "hierarchy": hierarchy,
        "ccs_mode": ccs_mode,
        "engines": engines,
        "vram_max_mib": vram_max_mib,
        "vram_slice": vram_slice,
    }
    return front.state(
        name,
        kwargs,
        CommandExecutionError,
        __salt__["gpu_level_zero.configure"],
        name if gpu is None else gpu,
        force=force,
        **wanted,
        test=front.testing(__opts__),
    )
