"""
Passthrough by hand: give whole GPUs or single virtual functions (VFs) to virtual machines (driver vfio-pci), and take them back.
Every change goes through plan, journal and verification like a highstate's.
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
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


def _told(one, tool):
    return {**tool.shown(tool.layout(tool.observe(one))), "group": tool.group(one)}


def _told_function(engine, of, address):
    [(_, tool)], _ = engine.techniques("vf-passthrough", of)
    return {"gpu": of, **tool.told(address)}


def _set(gpu, difference, force, test):
    """Whole GPUs are bound or not; of the virtual functions of a GPU some more, or some less."""
    with _engine() as engine:
        whole, functions = engine.functions_among(gpu)
        targets = engine.wanted("passthrough", whole, {"bound": difference == "bind"}) if whole else []
        for of, each in functions.items():
            targets += engine.wanted("vf-passthrough", of, {}, {difference: each})
        return front.run(engine, targets, test, __pillar__, force)


@_checked
def status(gpu):
    """
    What driver has a GPU or a virtual function, and with what it shares its IOMMU group.

    gpu
        PCI address (quoted) of a GPU or a virtual function, UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: ``driver``, ``driver_override`` where one is set, and ``group`` with ``number`` and ``members`` (PCI address
    -> driver); of a virtual function also its ``gpu``. Of several the same by PCI address.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.status '0000:1b:00.0'
    """
    with _engine() as engine:
        whole, functions = engine.functions_among(gpu)
        found = {address: _told_function(engine, of, address) for of, each in functions.items() for address in each}
        if not found:
            return front.each(engine, "passthrough", gpu, _told)
        gpus = front.each(engine, "passthrough", whole, _told) if whole else {}
        return front.by_address({**gpus, **found}, not isinstance(gpu, list | tuple))


@_checked
def bind(gpu, force=False, test=False):
    """
    Give a GPU to virtual machines, or single virtual functions of it: bind them to vfio-pci. Refused while they are in use, the
    GPU is sliced, or the IOMMU group is shared with functions that drivers of the host have.

    gpu
        PCI address (quoted) of a GPU or a virtual function, UUID or name of a slice; a pattern, a list of these, or ``all``
        (GPUs). Other virtual functions stay as they are.

    force
        End the programs that use it.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.bind '0000:1b:00.0' test=True
        salt gpu7 gpu_passthrough.bind '0000:3a:00.1'
    """
    return _set(gpu, "bind", force, test)


@_checked
def release(gpu, force=False, test=False):
    """
    Take a GPU or a virtual function back from virtual machines: bind it to the driver that it had before. Refused while a virtual
    machine has it.

    gpu
        PCI address, or a list of these; the UUID is not known while vfio-pci has the GPU.

    force
        End the virtual machine that uses it.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_passthrough.release '0000:1b:00.0'
    """
    return _set(gpu, "release", force, test)
