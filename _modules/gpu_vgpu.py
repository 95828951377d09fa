"""
NVIDIA vGPU by hand: the virtual GPUs of a host, and the licence of one in a guest. Every change goes through plan, journal and
verification like a highstate's.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import errors
from gpuslice import front

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_vgpu"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_vgpu needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


def _set(gpu, test, force=False, **written):
    """What was given is checked as the pillar's section ``vgpu`` and carried out."""
    with _engine() as engine:
        return front.run(engine, engine.wanted_as("vgpu", gpu, written), test, __pillar__, force)


def _vgpus(one, tool):
    return [part.as_dict() for part in tool.slices(one, tool.observe(one))]


def _license(gpu, settings, test):
    """All vGPUs of a guest share one licence, so it is set for all."""
    with _engine() as engine:
        [(one, tool), *_], _ = engine.techniques("vgpu", gpu)
        if tool.name != "licence":
            raise errors.Unsupported(
                f"{one.model} is no vGPU of a guest; licences are set in guests.",
                one.address,
                "On a host, choose types with gpu_vgpu.set_vgpus.",
            )
        ask = engine.wanted if "clear" in settings else engine.wanted_as
        sharing = [each.address for each in engine.gpus if tool.supports(each)]
        return front.run(engine, ask("vgpu", sharing, settings), test, __pillar__)


@_checked
def types(gpu):
    """
    The vGPU types of a GPU of a host.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict: name -> ``memory_mib``, ``max`` (how many the GPU can have), ``mig_profile`` where the type has a MIG instance
    to itself, ``creatable``: whether one can be made now, and ``set_vgpus``: how many ``gpu_vgpu.set_vgpus`` gives the GPU where
    only this type is named, 0 where it refuses that. On a fresh host nothing is creatable, since virtual functions or MIG mode
    are still to be enabled, which ``set_vgpus`` and the pillar do. The driver tells all of it before as well.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.types '0000:41:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "vgpu", gpu, lambda one, tool: tool.creatable(one))


@_checked
def status(gpu):
    """
    The vGPUs of a GPU of a host, or in a guest the licence of its vGPU.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a dict. On a host: ``interface`` (mdev or vfio), ``vgpus``, ``vfs`` (enabled virtual functions), ``scheduler``,
    ``mig_mode`` and ``instances`` as far as the GPU has them. In a guest: what the licence service is told, and what it says.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.status '0000:41:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "vgpu", gpu, lambda one, tool: tool.status(one))


@_checked
def vgpus(gpu):
    """
    The vGPUs of a GPU, with who uses them.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    Returns a list of dicts as in ``gpu.slices``: ``uuid`` of a mediated device, or ``address`` of the virtual function that a
    virtual machine is given.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.vgpus '0000:41:00.0'
    """
    with _engine() as engine:
        return front.each(engine, "vgpu", gpu, _vgpus)


@_checked
def set_vgpus(gpu, profile=None, count=None, profiles=None, scheduler=None, force=False, test=False):
    """
    Give a GPU these vGPUs and no others; those of a wanted type stay.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    profile
        Name of the type, such as ``H100XM-10C``.

    count
        How many; as many as fit when not given.

    profiles
        Several types: ``{"H100XM-20C": 2, "H100XM-40C": 1}``, instead of ``profile``.

    scheduler
        ``best-effort``, ``equal-share`` or ``fixed-share``; as it is when not given. A change makes all vGPUs anew.

    force
        Also when vGPUs that must go are in use: their holders are ended.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.set_vgpus '0000:41:00.0' H100XM-10C test=True
    """
    return _set(gpu, test, force, profile=profile, count=count, profiles=profiles, scheduler=scheduler)


@_checked
def set_type(gpu, function, profile, force=False, test=False):
    """
    Make a vGPU of this type on one virtual function; the others stay as they are.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    function
        PCI address of the virtual function; the GPU's own where vGPUs are made on the GPU itself (Turing), which adds one.

    profile
        Name of the type.

    force
        Also when the function's present vGPU is in use.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.set_type '0000:41:00.0' '0000:41:00.4' H100XM-10C
    """
    with _engine() as engine:
        difference = {"set_type": [function, profile]}
        return front.run(engine, engine.wanted("vgpu", gpu, {}, wish=difference), test, __pillar__, force)


@_checked
def remove(gpu, vgpu="all", force=False, test=False):
    """
    Remove one vGPU, or all of a GPU together with its virtual functions.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``.

    vgpu
        UUID of a mediated device, PCI address of a virtual function, or ``all``.

    force
        Also when it is in use: its holders are ended.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt kvm3 gpu_vgpu.remove '0000:41:00.0' '0000:41:00.4'
    """
    with _engine() as engine:
        wanted = ({"remove": True}, None) if vgpu == "all" else ({}, {"remove": vgpu})
        return front.run(engine, engine.wanted("vgpu", gpu, *wanted), test, __pillar__, force)


@_checked
def set_license(gpu, license_server=None, license_port=None, feature=None, client_token=None, test=False):
    """
    In a guest: tell the licence service its server, or give it a client configuration token. All vGPUs of a guest share it.

    gpu
        PCI address (quoted) or UUID of a vGPU of this guest.

    license_server
        Host name or address of the server (legacy licence server).

    license_port
        Its port, 7070 when not given.

    feature
        ``auto``, ``vgpu``, ``workstation`` or ``compute``.

    client_token
        Text of a client configuration token. What stands on a command line can be read by others: prefer the pillar.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``. The token appears in none of them.

    CLI Example:

    .. code-block:: bash

        salt guest5 gpu_vgpu.set_license '0000:06:00.0' license_server=licence.example.com
    """
    wanted = {"license_server": license_server, "license_port": license_port, "feature": feature, "client_token": client_token}
    return _license(gpu, {key: value for key, value in wanted.items() if value is not None}, test)


@_checked
def clear_license(gpu, test=False):
    """
    In a guest: take back what was set of the licence.

    gpu
        PCI address (quoted) or UUID of a vGPU of this guest.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt guest5 gpu_vgpu.clear_license '0000:06:00.0'
    """
    return _license(gpu, {"clear": True}, test)
