"""
NVIDIA MIG by hand: profiles, mode, instances. Every change goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import arguments
from gpuslice import front
from gpuslice.techniques.mig import asks

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_mig"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_mig needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__))


@_checked
def profiles(gpu, table=False):
    """
    The MIG profiles of a GPU.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    table
        Give a table for people, as ``nvidia-smi mig -lgip`` has it, in the place of data.

    Returns a dict: profile name -> memory_mib, compute_slices, memory_slices, placements, max, free (how many more fit now),
    compute_instances, multiprocessors, engines (copy, decoder, encoder, jpeg, optical_flow).

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.profiles '0000:1b:00.0'
        salt gpu7 gpu_mig.profiles '0000:1b:00.0' table=True
    """
    with _engine() as engine:
        told = front.table_of_profiles if table else dict
        return front.each(engine, "mig", gpu, lambda one, tool: told(tool.profiles(one)))


def _modes(state):
    return {"current": state.current, "pending": state.pending}


@_checked
def mode(gpu):
    """
    The MIG mode of a GPU.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: ``current`` and ``pending``; they differ while a reset or reboot is owed.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.mode '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "mig", gpu, lambda one, tool: _modes(tool.observe(one)))


@_checked
def set_mode(gpu, enabled, force=False, test=False):
    """
    Enable or disable MIG mode. Disabling destroys the instances first. On GPUs that need it, only this GPU is reset.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    enabled
        True or False, or as in the pillar ``enabled`` or ``disabled``.

    force
        Also when the GPU or its instances are in use.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.set_mode '0000:1b:00.0' True
        salt gpu7 gpu_mig.set_mode '0000:1b:00.0' enabled
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.mode(arguments.is_on(enabled))), test, __pillar__, force)


@_checked
def instances(gpu):
    """
    The instances of a GPU.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a list of dicts as in ``gpu.slices``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.instances '0000:1b:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "mig", gpu, lambda one, _: engine.slices(one.address))


@_checked
def create(gpu, profile, start=None, force=False, test=False):
    """
    Create one more GPU instance; the others stay as they are. Two calls make two, also when they come at once; one that was
    killed and is asked for again is finished. A compute instance in a GPU instance that is there takes ``gpu_mig.apply_layout``.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profile
        Profile name, such as ``3g.40gb``, ``1c.3g.40gb`` or ``1g.10gb+me``; ``3g.40gb@4`` says where.

    start
        Memory slice where it begins; the place that leaves the most useful room when not given.

    force
        Accepted for symmetry with ``destroy``: creating never ends anything that is in use.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.create '0000:1b:00.0' 3g.40gb
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.one_more(profile, start)), test, __pillar__, force)


@_checked
def destroy(gpu, instance, force=False, test=False):
    """
    Destroy one instance. One that is not there any more when its turn comes is refused.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    instance
        MIG UUID: that compute instance, and its GPU instance when it was the last one in it. ``profile@start`` as
        ``gpu_slicing.plan`` prints it: that GPU instance with all in it. Or ``all``.

    force
        Also when it is in use.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.destroy '0000:1b:00.0' 3g.40gb@4
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.one_less(instance)), test, __pillar__, force)


@_checked
def apply_layout(gpu, profiles, force=False, test=False, compute_instances=1):
    """
    Give a GPU exactly this layout, keeping every instance that it needs already.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profiles
        As in the pillar: ``["3g.40gb", "1g.10gb"]``, ``{"1g.10gb": 4}`` or ``["3g.40gb@4"]``.

    force
        Also destroy what is in use.

    test
        Plan only, change nothing.

    compute_instances
        Compute instances in each GPU instance that is not named by its compute instances (``1c.3g.40gb``).

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.apply_layout '0000:1b:00.0' '{"3g.40gb": 1, "1g.10gb": 4}' test=True
    """
    with _engine() as engine:
        wanted = asks.layout(profiles, compute_instances)
        return front.run(engine, engine.wanted("mig", gpu, *wanted), test, __pillar__, force)
