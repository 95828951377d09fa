"""
SR-IOV by hand: virtual functions (VFs) of a GPU. Every change goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_sriov"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_sriov needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def vfs(gpu):
    """
    The virtual functions of a GPU.

    gpu
        PCI address (quoted) or UUID of the GPU, which is their physical function.

    Returns a dict: ``driver`` of the GPU, ``total`` (the most VFs), ``autoprobe``, ``files`` (which of the driver's files say
    what each gets, "" for none), ``provisioning``, and ``vfs``, a list of dicts with number (from 1), address, driver,
    iommu_group, what each may use, device_nodes and in_use_by.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_sriov.vfs '0000:3c:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "sriov", gpu, lambda one, tool: tool.report(one, tool.observe(one)))


@_checked
def set_vfs(gpu, count, profile="auto", autoprobe=False, scheduling=None, vfs=None, reload_driver=False, force=False, test=False):
    """
    Give a GPU this number of virtual functions. Where their number or memory changes, all are made anew, for which none may be in
    use.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    count
        How many; 0 removes them. AMD's gim always makes one: there, see ``remove_vfs``.

    profile
        ``auto`` (the vendor's preset where there is one, else fair), ``fair`` (the driver's equal shares), or a scheduling
        policy: ``Flexible_30fps``, ``Fixed_30fps``, ``BurstableQoS``.

    autoprobe
        True: the host's driver takes the new functions, as containers need it; False: they stay free for virtual machines.

    scheduling
        Turns of all: ``{"exec_quantum_ms": 20, "preempt_timeout_us": 20000, "priority": "low"}``.

    vfs
        What single functions get, by number: ``{"1": {"vram_mib": 8192}}``; also ggtt_mib, contexts, doorbells,
        exec_quantum_ms, preempt_timeout_us.

    reload_driver
        Also reload a driver that makes its functions only then (AMD's gim); without it such a change waits for a reboot. The
        pillar allows the same with ``gim`` in ``containers_gpu_state_management:unload_modules``.

    force
        Also when functions are in use: their holders are ended.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_sriov.set_vfs '0000:3c:00.0' 5 profile=Flexible_30fps test=True
    """
    written = {"vf_count": count, "profile": profile, "autoprobe": autoprobe}
    written.update({key: value for key, value in (("scheduling", scheduling), ("vfs", vfs)) if value is not None})
    with _engine() as engine:
        more = {"reload": True} if reload_driver else {}
        return front.run(engine, engine.wanted_as("sriov", gpu, written, **more), test, __pillar__, force)


@_checked
def remove_vfs(gpu, reload_driver=False, force=False, test=False):
    """
    Remove all virtual functions of a GPU, and give its division back to the driver.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    reload_driver
        Also reload a driver that makes its functions only then (AMD's gim, which always leaves one).

    force
        Also when functions are in use: their holders are ended.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_sriov.remove_vfs '0000:3c:00.0'
    """
    with _engine() as engine:
        reload = {"reload": True} if reload_driver else {}
        settings = {"vf_count": 0, "remove": True, **reload}
        return front.run(engine, engine.wanted("sriov", gpu, settings), test, __pillar__, force)
