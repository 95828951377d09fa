"""
After a boot: bring the last verified layout of each GPU back, without a master and without a pillar.

``gpu-slicing.service`` calls :func:`replay` at each boot, before the consumers of slices start; ``gpu_boot.enabled`` (a state)
or :func:`enable` sets it up.
"""

import os

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice.boot import replay as boot
from gpuslice.boot import unit
from gpuslice.inventory import command_line

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_boot"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_boot needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


def _unit(engine):
    return unit.unit_text(os.path.dirname(os.path.abspath(__opts__["conf_file"])), engine.host.state_dir)


@_checked
def replay(test=False, wait=60, force=False):
    """
    Bring every GPU back to its last verified layout. What is right already is kept, what is in use is never ended, and the host
    is never rebooted. A layout that failed three times within a day is not tried again.

    test
        Plan only, change nothing, and wait for nothing.

    wait
        Seconds to wait for GPUs whose driver is not ready yet.

    force
        Try also a layout that failed too often.

    Returns a dict with ``result``, ``changes`` by PCI address and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt-call --local gpu_boot.replay
        salt 'gpu*' gpu_boot.replay test=True
    """
    if not test:
        front.changes()
    with _engine() as engine:
        return boot.replay(engine, test, wait, force)


@_checked
def status():
    """
    What a boot would bring back, how the last replay ended, and whether the unit is enabled. Nothing is changed.

    Returns a dict: ``unit`` (path, present, current, enabled), ``gpus`` by PCI address (technique, layout, time, generation,
    state, failures), ``last`` and ``warnings``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_boot.status
    """
    with _engine() as engine:
        return boot.status(engine, _unit(engine))


@_checked
def forget(gpu, test=False):
    """
    Bring a GPU back no more at a boot, until a layout of it is verified again. What it has now stays.

    gpu
        PCI address (quoted) or UUID; also the address of a GPU that was taken out.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_boot.forget '0000:1b:00.0'
    """
    with _engine() as engine:
        return boot.forget(engine, gpu, test)


@_checked
def enable(test=False):
    """
    Write ``gpu-slicing.service`` and enable it, so that every boot brings the slices back.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_boot.enable
    """
    with _engine() as engine:
        return unit.enable(engine, _unit(engine), test)


@_checked
def disable(test=False):
    """
    Remove ``gpu-slicing.service``: a boot brings no slices back.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_boot.disable
    """
    with _engine() as engine:
        return unit.disable(engine, test)


@_checked
def cmdline():
    """
    Which parameters the running kernel lacks for IOMMU and SR-IOV. Nothing is changed.

    Returns a dict: ``cmdline``, ``cpu``, ``iommu`` (whether one is in use), ``missing``, ``against`` (switch it off), ``advised``
    and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_boot.cmdline
    """
    with _engine() as engine:
        return command_line.command_line(engine.host)
