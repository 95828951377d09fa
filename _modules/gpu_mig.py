"""
NVIDIA MIG by hand: profiles, mode, instances. Every change goes through plan, journal and verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import arguments
from gpuslice import front
from gpuslice import tables
from gpuslice.techniques.mig import asks
from gpuslice.techniques.mig import views

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_mig"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_mig needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


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
        told = tables.table_of_profiles if table else dict
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
    killed and is asked for again is finished. Where there is no place for it, it says what is free, and what ``gpu_mig.defrag``
    would have to move. A compute instance in a GPU instance that is there is made by ``gpu_mig.create_ci``.

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
        wanted = engine.wanted("mig", gpu, *asks.one_more(profile, start, engine.stood_on(gpu)))
        return front.run(engine, wanted, test, __pillar__, force)


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
def apply_layout(gpu, profiles, force=False, test=False, compute_instances=1, gpu_instances=1):
    """
    Give a GPU exactly this layout, keeping every instance that it needs already.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profiles
        As in the pillar: ``3g.40gb``, ``["3g.40gb", "1g.10gb"]``, ``{"1g.10gb": 4}`` or ``["3g.40gb@4"]``.

    force
        Also destroy what is in use.

    test
        Plan only, change nothing.

    compute_instances
        Compute instances in each GPU instance that is not named by its compute instances (``1c.3g.40gb``).

    gpu_instances
        How many of each profile of the list form.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.apply_layout '0000:1b:00.0' '{"3g.40gb": 1, "1g.10gb": 4}' test=True
    """
    with _engine() as engine:
        wanted = asks.layout(profiles, compute_instances, gpu_instances)
        return front.run(engine, engine.wanted("mig", gpu, *wanted), test, __pillar__, force)


@_checked
def fits(gpu, profile=None, data=False):
    """
    What still fits on a GPU: how many more of each profile now and where, and after moving instances that nobody uses, with the
    fewest moves. Where MIG is off, what fits once it is on. Nothing is changed.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profile
        The only profile that is looked at; ``3g.40gb@4`` says where.

    data
        Give a dict in the place of text: ``enabled``, ``drawing``, ``free_memory_slices``, ``free_compute_slices``,
        ``fragmentation`` (0: no other place of the instances would take more; 1: something would fit elsewhere, and nothing fits
        now), ``stays`` (instance -> why it never moves), ``note``, and ``profiles``: name -> ``now`` and ``after_moving`` (how
        many), ``at`` (memory slices where one can begin), ``moves`` (``from``, ``to``, ``consumers``) where it fits after these,
        ``why`` where it does not.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.fits '0000:1b:00.0'
        salt gpu7 gpu_mig.fits '0000:1b:00.0' 3g.40gb
    """
    with _engine() as engine:
        stood_on, given = engine.stood_on(gpu), engine.given()
        return front.each(engine, "mig", gpu, lambda one, tool: views.fits(tool, one, profile, stood_on, given, data))


@_checked
def headroom(gpu=None):
    """
    What still fits, as plain numbers for whoever chooses a host or GPU: made for Salt's mine. A GPU that can't do MIG, or can't
    be read, is not in it; while MIG is off nothing fits.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these; all GPUs when not given.

    Returns a dict: PCI address -> ``enabled`` (whether MIG is on), ``free_memory_slices``, ``free_compute_slices``,
    ``fragmentation`` (0 to 1), ``now`` and ``after_moving``: profile -> how many more of it fit, each profile taken alone.

    .. code-block:: yaml

        # in the pillar or the configuration of the minion
        mine_functions:
          gpu_mig.headroom: []

    CLI Example:

    .. code-block:: bash

        salt '*' gpu_mig.headroom
        salt-run mine.get '*' gpu_mig.headroom
    """
    with _engine() as engine:
        return engine.headroom("mig", gpu)


@_checked
def defrag(gpu, profile=None, test=False):
    """
    Move instances that nobody uses, so that more fits. To move one is to destroy it and to make it anew elsewhere: it has a new
    UUID, and consumers that have it are bound to what is there then. What is in use, carries vGPUs or is shared never moves.
    Where nothing is to be gained nothing is done.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profile
        What is to fit, with the fewest moves; ``3g.40gb@4`` says where. When not given, room is made for the largest profile that
        can be made room for, and then for as much as can be.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.defrag '0000:1b:00.0' 3g.40gb test=True
        salt gpu7 gpu_mig.defrag '0000:1b:00.0'
    """
    with _engine() as engine:
        wanted = engine.wanted("mig", gpu, *asks.defragmented(profile, engine.stood_on(gpu)))
        # Nobody is stopped for it, whatever the pillar permits.
        return front.run(engine, wanted, test, None, force=False)


@_checked
def create_ci(gpu, instance, profile, count=1, test=False):
    """
    Create compute instances in a GPU instance that is there; what is in it stays. Two calls make two, also when they come at
    once.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    instance
        The GPU instance: ``profile@start``, the name of its slice or of one in it, or the MIG UUID of one in it.

    profile
        Such as ``1c.3g.40gb``, or ``1c`` for short.

    count
        How many of them.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.create_ci '0000:1b:00.0' 3g.40gb@4 1c
        salt gpu7 gpu_mig.create_ci '0000:1b:00.0' 3g.40gb@4 1c.3g.40gb count=2 test=True
    """
    with _engine() as engine:
        wanted = engine.wanted("mig", gpu, *asks.one_more_inside(instance, profile, count))
        return front.run(engine, wanted, test, __pillar__, force=False)


@_checked
def destroy_ci(gpu, instance, force=False, test=False):
    """
    Destroy one compute instance; the GPU instance stays, and so do the others in it. The last one in it goes with it, by
    ``gpu_mig.destroy``.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    instance
        The compute instance: its MIG UUID or the name of its slice, such as ``0000:1b:00.0-3g.40gb-4-1c-0``.

    force
        Also when it is in use.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_mig.destroy_ci '0000:1b:00.0' 0000:1b:00.0-3g.40gb-4-1c-0
    """
    with _engine() as engine:
        return front.run(engine, engine.wanted("mig", gpu, *asks.one_less_inside(instance)), test, __pillar__, force)
