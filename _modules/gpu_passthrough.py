"""
Passthrough by hand: give a whole GPU to virtual machines (driver vfio-pci), and take it back. Every change goes through plan,
journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_passthrough"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_passthrough needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__))


def _told(one, tool):
    return {**tool.shown(tool.layout(tool.observe(one))), "group": tool.group(one)}


@_checked
def status(gpu):
    """
    What driver has a GPU, and with what it shares its IOMMU group.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: ``driver``, ``driver_override`` where one is set, and ``group`` with ``number`` and ``members`` (PCI address
    -> driver).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.status '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "passthrough", gpu, _told)


@_checked
def bind(gpu, force=False, test=False):
    """
    Give a GPU to virtual machines: bind it to vfio-pci. Refused while the GPU is in use or sliced, or its IOMMU group is shared
    with functions that drivers of the host have.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    force
        End the programs that use the GPU.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.bind '0000:1b:00.0' test=True
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("passthrough", gpu, {"bound": True}), test, __pillar__, force)


@_checked
def release(gpu, force=False, test=False):
    """
    Take a GPU back from virtual machines: bind it to the driver that it had before. Refused while a virtual machine has it.

    gpu
        PCI address; the UUID is not known while vfio-pci has the GPU.

    force
        End the virtual machine that uses the GPU.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.release '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("passthrough", gpu, {"bound": False}), test, __pillar__, force)
