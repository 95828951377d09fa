"""
Nomad on a node whose GPUs are sliced: what its device plugin for NVIDIA must not give, and draining the node around a change.
With ``containers_gpu_container_integration:nomad`` of the pillar all of it is a part of each change, see docs/nomad.md.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice.schedulers import nomad

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_nomad"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_nomad needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def plugin_config(plugin="nomad-device-nvidia", period="1m", text=False):
    """
    What Nomad's device plugin for NVIDIA is told of this node, by what it has now: which GPUs and MIG devices it must not give to
    jobs, since they are quarantined, a consumer's, shared, or for virtual machines.

    plugin
        Name of its block: that of its file in ``plugin_dir``.

    period
        How often it looks for devices (``fingerprint_period``).

    text
        Give the file, in HCL, in the place of data.

    Returns a dict: ``plugin``, ``ignored_gpu_ids``, ``fingerprint_period``, ``given`` (UUID -> slice), ``ignored`` (UUID -> slice
    and why) and ``notes``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_nomad.plugin_config
        salt-call --local gpu_nomad.plugin_config text=True
    """
    with _engine() as engine:
        return (nomad.text if text else nomad.plugin_config)(engine, plugin, period)


@_checked
def write(path, plugin="nomad-device-nvidia", period="1m", test=False):
    """
    Write that as a file of the agent. A file of somebody else is refused. Nomad reads it when its agent starts.

    path
        Absolute, and ends in ``.hcl``; in the agent's folder it must be the only one with the block of the plugin.

    plugin
        As of :func:`plugin_config`.

    period
        As of :func:`plugin_config`.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_nomad.write /etc/nomad.d/gpu.hcl test=True
    """
    with _engine() as engine:
        return nomad.write(engine, path, plugin, period, test)


@_checked
def is_drained(node=None):
    """
    Whether this node is given no jobs and has none.

    node
        Id of the node; this host's own where it is not given.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_nomad.is_drained
    """
    with _engine() as engine:
        return nomad.is_drained(engine, node)


@_checked
def drain(why="", node=None, within=0, deadline=None, system=True, test=False):
    """
    Have this node given no more jobs, its jobs moved away, and wait until it has none. One that is being drained or was, by
    whomever, is left so. One that is only ineligible may have jobs: it is drained, and :func:`resume` leaves it ineligible.

    why
        A sentence. The drain's message in Nomad is ``gpu-slicing: <why> (job <jid>)``.

    node
        As of :func:`is_drained`.

    within
        Seconds in which its jobs have to end, up to 3600. As a hook's, give it a longer ``timeout``.

    deadline
        Seconds after which Nomad ends what is left by force. Not given: never.

    system
        Whether system jobs are ended too, such as a storage plugin's.

    test
        Change nothing.

    Returns a dict with ``result`` (whether it has no jobs any more), ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_nomad.drain 'MIG layout' within=600 system=False
    """
    with _engine() as engine:
        return nomad.drain(engine, why, node, within, deadline, system, test)


@_checked
def resume(node=None, path=None, plugin="nomad-device-nvidia", period="1m", unit=None, within=0, reread=False, test=False):
    """
    Have this node given jobs again, if its drain is ours: it has ``gpu-slicing`` among its metadata, and nobody has made the node
    eligible or ineligible since. A node stays drained while its plugin tells devices that are gone or not to be given, and after
    a change that left something half done.

    node
        As of :func:`is_drained`.

    path
        Write this file first.

    plugin
        As of :func:`plugin_config`.

    period
        As of :func:`plugin_config`.

    unit
        The agent's service, such as ``nomad.service``, which is started anew where the file changed. Its tasks go on.

    reread
        The agent's service is started anew in any case: whoever calls has written its file.

    within
        Seconds in which the node has to be ready and its plugin to tell what is there now, up to 3600; longer than ``period``.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_nomad.resume path=/etc/nomad.d/gpu.hcl unit=nomad.service within=90
    """
    with _engine() as engine:
        return nomad.resume(engine, node, path, plugin, period, unit, within, reread, test)
