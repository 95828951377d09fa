"""
States for NVIDIA vGPU, beside the pillar-driven ``gpu_slicing.converged``.

.. code-block:: yaml

    "0000:41:00.0":
      gpu_vgpu.present:
        - profile: H100XM-10C
        - count: 4

    "0000:06:00.0":
      gpu_vgpu.licensed:
        - license_server: licence.example.com
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

__virtualname__ = "gpu_vgpu"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_vgpu needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _run(name, kwargs, function, gpu, **given):
    target = name if gpu is None else gpu
    return front.state(name, kwargs, CommandExecutionError, __salt__[function], target, **given, test=front.testing(__opts__))


def present(name, profile=None, count=None, profiles=None, scheduler=None, force=False, gpu=None, **kwargs):
    """
    A GPU of a host has these vGPUs and no others.

    name
        PCI address (quoted) or UUID of the GPU.

    profile
        Name of the type.

    count
        How many; as many as fit when not given.

    profiles
        Several types with their counts, instead of ``profile``.

    scheduler
        ``best-effort``, ``equal-share`` or ``fixed-share``; as it is when not given.

    force
        Also when vGPUs that must go are in use.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_vgpu.present "'0000:41:00.0'" profile=H100XM-10C count=4
    """
    wanted = {"profile": profile, "count": count, "profiles": profiles, "scheduler": scheduler, "force": force}
    return _run(name, kwargs, "gpu_vgpu.set_vgpus", gpu, **wanted)


def absent(name, force=False, gpu=None, **kwargs):
    """
    A GPU of a host has no vGPUs and no virtual functions.

    name
        PCI address (quoted) or UUID of the GPU.

    force
        Also when they are in use.

    gpu
        The GPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_vgpu.absent "'0000:41:00.0'"
    """
    return _run(name, kwargs, "gpu_vgpu.remove", gpu, force=force)


def licensed(name, license_server=None, license_port=None, feature=None, client_token=None, gpu=None, **kwargs):
    """
    The licence service of a guest has this server or this client configuration token.

    name
        PCI address (quoted) or UUID of a vGPU of the guest.

    license_server
        Host name or address of the server (legacy licence server).

    license_port
        Its port, 7070 when not given.

    feature
        ``auto``, ``vgpu``, ``workstation`` or ``compute``.

    client_token
        Text of the token; take it from the pillar. It appears in no output of this state.

    gpu
        The vGPU, when ``name`` is another text.

    CLI Example:

    .. code-block:: bash

        salt-call state.single gpu_vgpu.licensed "'0000:06:00.0'" license_server=licence.example.com
    """
    wanted = {"license_server": license_server, "license_port": license_port, "feature": feature, "client_token": client_token}
    return _run(name, kwargs, "gpu_vgpu.set_license", gpu, **wanted)
