"""
Compute and memory partitions of AMD Instinct GPUs by hand. Every change goes through plan, journal and verification like a
highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import errors
from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_partition"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_partition needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def modes(gpu=None):
    """
    The partition modes of GPUs.

    gpu
        PCI address (quoted) or UUID; every GPU that has partition modes when not given.

    Returns a dict: PCI address -> ``compute``, ``memory``, ``requested_memory`` (waits for a reload of the driver), ``available``
    (modes and their combinations) and ``hive`` (the GPUs whose memory mode changes with this one's). A GPU that can't be read has
    a sentence instead when no GPU was named.

    CLI Example:

    .. code-block:: bash

        salt gpu9 gpu_partition.modes
        salt gpu9 gpu_partition.modes '0000:05:00.0'
    """
    with _engine() as engine:
        if gpu is not None:
            return {one.address: tool.modes(one) for one, tool in engine.techniques("partition", gpu)[0]}
        tool, found = engine.tools.get("partition"), {}
        for one in filter(tool.supports, engine.gpus):
            try:
                found[one.address] = tool.modes(one)
            except errors.GpuSliceError as err:
                found[one.address] = str(err)
        return found


@_checked
def partitions(gpu):
    """
    The partitions of a GPU.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a list of dicts as in ``gpu.slices``.

    CLI Example:

    .. code-block:: bash

        salt gpu9 gpu_partition.partitions '0000:05:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "partition", gpu, lambda one, _: engine.slices(one.address))


@_checked
def set_mode(gpu, compute=None, memory=None, reload=False, force=False, test=False):
    """
    Set the compute mode, the memory mode, or both.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``. The memory mode is one for a whole
        XGMI hive: name all its GPUs.

    compute
        SPX, DPX, TPX, QPX or CPX. Not given: as it is, or what the driver chooses with a new memory mode.

    memory
        NPS1, NPS2 or NPS4. Not given: as it is.

    reload
        The driver amdgpu may be loaded anew, which a new memory mode needs. The pillar allows the same with ``amdgpu`` in
        ``containers_gpu_state_management:unload_modules``.

    force
        End processes that use the GPUs.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu9 gpu_partition.set_mode '0000:05:00.0' CPX
        salt gpu9 gpu_partition.set_mode all compute=CPX memory=NPS4 reload=True
    """
    if compute is None and memory is None:
        raise CommandExecutionError("Give compute, memory or both; 'gpu_partition.modes' lists what a GPU has.")
    with _engine() as engine:
        settings = {"compute": compute, "memory": memory, "reload": reload}
        return front.run(engine, engine.wanted("partition", gpu, settings), test, __pillar__, force)


@_checked
def reset(gpu, reload=False, force=False, test=False):
    """
    Remove the partitions: compute mode SPX and memory mode NPS1, one GPU in one piece.

    gpu
        As in ``set_mode``.

    reload
        As in ``set_mode``; needed only where the memory mode is not NPS1.

    force
        End processes that use the GPUs.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu9 gpu_partition.reset '0000:05:00.0'
    """
    return set_mode(gpu, "SPX", "NPS1", reload, force, test)
