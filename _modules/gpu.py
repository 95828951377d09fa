"""
What GPUs this host has, their slices, health and users. Everything here but ``gpu.reset`` only reads.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import tables
from gpuslice.inventory import naming
from gpuslice.techniques.mig import asks

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def devices():
    """
    The GPUs of this host, as in the grain ``gpu``, each with its UUID and live state.

    Returns a list of dicts; ``live`` holds the state by technology, or a sentence that says why it can't be read.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.devices
    """
    with _engine() as engine:
        return engine.devices()


@_checked
def device(gpu):
    """
    One GPU of this host.

    gpu
        PCI address (quoted: YAML takes ``0000:07:00.0`` for a number), UUID or name of a slice; a pattern, a list of
        these, or ``all``, which make it a dict by address.

    Returns a dict as in ``gpu.devices``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu.device '0000:1b:00.0'
    """
    with _engine() as engine:
        meant = engine.chosen(gpu)
        return front.by_address({each["address"]: each for each in engine.devices(meant.gpus)}, meant.is_one)


@_checked
def ids(data=False):
    """
    The GPUs of this host by all that they are called: NVML's index, which moves when a card is added, removed or lost; the number
    in ``/dev/nvidia<minor>``; PCI address; UUID.

    data
        Give a list of dicts in the place of a table for people.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu.ids
    """
    with _engine() as engine:
        found = engine.ids()
        return found if data else naming.ids_told(found)


@_checked
def slices(gpu=None, taken=False):
    """
    The slices that consumers can be given.

    gpu
        As in ``gpu.device``; all GPUs when not given.

    taken
        Also those on which others stand, such as the MIG instance behind a vGPU, which nobody can be given.

    Returns a list of dicts: gpu, name (what and where it is, the same as long as it stands), of (name of the slice that it stands
    on, or empty), taken, kind, profile, uuid or address, memory_mib, compute (share of the GPU), placement,
    device_nodes, in_use_by; and ``quarantined``, True, for what must not be handed out (``gpu_health.quarantined``).

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.slices
    """
    with _engine() as engine:
        return engine.slices(gpu, taken)


@_checked
def capabilities():
    """
    Which slicing technologies each GPU can do, and what could still be made of it.

    Returns a dict: PCI address -> ``technologies``, and where one counts it ``headroom``: technology -> numbers as in
    ``gpu_mig.headroom``, or a sentence that says why they can't be read.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.capabilities
    """
    with _engine() as engine:
        return engine.abilities()


@_checked
def holders(gpu):
    """
    The processes that hold a GPU open, with systemd unit and container.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a list of dicts: pid, command, unit, container; a virtual machine also has its domain.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu.holders '0000:1b:00.0'
    """
    with _engine() as engine:
        meant = engine.chosen(gpu)
        return front.by_address({one.address: engine.holders(one.address) for one in meant.gpus}, meant.is_one)


@_checked
def health(gpu=None, pending=True):
    """
    What is wrong with the GPUs, sliced or not: off the bus, owed reset, uncorrected memory errors, failed row remapping.

    gpu
        As in ``gpu.device``; all GPUs when not given.

    pending
        Also tell what waits for a reset or a reboot to come into force, such as a MIG mode. That is no fault.

    Returns a dict: PCI address -> list of sentences, empty for a GPU of which nothing wrong is known. What can't be read in its
    present mode is told by ``gpu.findings``.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.health
    """
    with _engine() as engine:
        return engine.health(gpu, pending)


@_checked
def findings(gpu=None):
    """
    What was found on the GPUs, for programs: faults, and what can't be read at the moment.

    gpu
        As in ``gpu.device``; all GPUs when not given.

    Returns a list of dicts: gpu (PCI address), code (it keeps its meaning, see docs/health.md), severity (info, warning, or
    critical: the GPU is not changed before that is mended), words, todo.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.findings
    """
    with _engine() as engine:
        return engine.findings(gpu)


@_checked
def map_(gpu=None):
    """
    The memory slices of each GPU, drawn as a line of text. A GPU instance that is not filled by one compute instance has its
    compute slices behind its name: ``3g.40gb(1c - 1c)``.

    gpu
        As in ``gpu.device``; all GPUs when not given.

    Returns a dict: PCI address -> drawing.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.map
    """
    with _engine() as engine:
        return engine.maps(gpu)


@_checked
def table(gpu=None):
    """
    The slices as a table for people, and the GPUs that have none.

    gpu
        As in ``gpu.device``; all GPUs when not given.

    Returns text.

    CLI Example:

    .. code-block:: bash

        salt '*' gpu.table
    """
    with _engine() as engine:
        return tables.tabulated(engine, gpu)


@_checked
def reset(gpu, test=False):
    """
    Reset a GPU that owes one because its mode change is pending. Any other GPU is refused: a reset ends everything on it.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    test
        Say what would be done, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu.reset '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.pending_mode()), test, __pillar__)


__func_alias__ = {"map_": "map"}
