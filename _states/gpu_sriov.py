"""
States for virtual functions of a single GPU, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:3c:00.0":
      gpu_sriov.vfs:
        - count: 5
        - profile: Flexible_30fps
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_sriov"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_sriov needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def vfs(
    name,
    count,
    profile="auto",
    autoprobe=False,
    scheduling=None,
    vfs=None,
    reload_driver=False,
    force=False,
    gpu=None,
    **kwargs,
):
    """
    A GPU has this number of virtual functions, and each of them what the profile or ``vfs`` say.

    name
        PCI address (quoted) or UUID of the GPU.

    count
        How many; 0 removes them.

    profile
        ``auto``, ``fair``, ``Flexible_30fps``, ``Fixed_30fps`` or ``BurstableQoS``, as in the pillar.

    autoprobe
        True: the host's driver takes new functions; False (default): they stay free for virtual machines.

    scheduling
        Turns of all functions, as in the pillar.

    vfs
        What single functions get, by number, as in the pillar.

    reload_driver
        Also reload a driver that makes its functions only then (AMD's gim).

    force
        Also when functions are in use.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_sriov.vfs '0000:3c:00.0' count=5 profile=Flexible_30fps
    """
    wanted = {"profile": profile, "autoprobe": autoprobe, "scheduling": scheduling, "vfs": vfs, "reload_driver": reload_driver}
    target = name if gpu is None else gpu
    given = {**wanted, "force": force, "test": front.testing(__opts__)}
    return front.state(name, kwargs, CommandExecutionError, __salt__["gpu_sriov.set_vfs"], target, count, **given)
