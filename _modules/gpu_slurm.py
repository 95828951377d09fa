"""
Slurm on a node whose GPUs are sliced: its ``gres.conf`` and its ``Gres=`` by slice, and draining it around a change. With
``containers_gpu_container_integration:slurm`` of the pillar all of it is a part of each change, see docs/slurm.md.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice.schedulers import slurm

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_slurm"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_slurm needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def gres_conf(node=None, autodetect=None):
    """
    The ``gres.conf`` of this node, by what it has now. What is quarantined, what a consumer has and what Slurm can't give are
    comments in it.

    node
        Its NodeName in Slurm; where it is not given, that of the pillar or the host's name; ``''`` is the host's name whatever
        the pillar says.

    autodetect
        Have Slurm find NVIDIA's GPUs and MIG devices itself (``AutoDetect=nvml``); where it is not given, as the pillar has it.

    Returns a text.

    CLI Example:

    .. code-block:: bash

        salt-call --local gpu_slurm.gres_conf
    """
    with _engine() as engine:
        return slurm.conf(engine, node, autodetect)


@_checked
def gres(node=None, autodetect=None):
    """
    The same as data, for the mine: a master renders ``slurm.conf`` of all nodes with it.

    node
        As of :func:`gres_conf`.

    autodetect
        As of :func:`gres_conf`; types are then named as Slurm finds them.

    Returns a dict: ``node``, ``gres`` (the value of ``Gres=``), ``types`` (for ``GresTypes=``), ``lines`` (of ``gres.conf``) and
    ``left_out`` (slice -> why).

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slurm.gres
        salt 'gpu*' mine.send gpu_slurm.gres
    """
    with _engine() as engine:
        return slurm.gres(engine, node, autodetect)


@_checked
def write(path, node=None, autodetect=None, test=False):
    """
    Write the ``gres.conf`` of this node, once. A file of somebody else is refused, and one that the pillar keeps and that says
    otherwise.

    path
        Absolute, and ends in ``.conf``.

    node
        As of :func:`gres_conf`.

    autodetect
        As of :func:`gres_conf`.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_slurm.write /etc/slurm/gres.conf test=True
    """
    with _engine() as engine:
        return slurm.write(engine, path, node, autodetect, test)


@_checked
def is_drained(node=None):
    """
    Whether this node is given no jobs and has none.

    node
        As of :func:`gres_conf`.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slurm.is_drained
    """
    with _engine() as engine:
        return slurm.is_drained(engine, node)


@_checked
def drain(why="", node=None, within=0, test=False):
    """
    Have this node given no more jobs, and wait until it has none. One that is drained already, by whomever, is left so.

    why
        A sentence. The reason in Slurm is ``gpu-slicing: <why> (job <jid>)``.

    node
        As of :func:`gres_conf`.

    within
        Seconds in which its jobs have to end, up to 3600. As a hook's, give it a longer ``timeout``.

    test
        Change nothing.

    Returns a dict with ``result`` (whether it has no jobs any more), ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slurm.drain 'MIG layout' within=600
    """
    with _engine() as engine:
        return slurm.drain(engine, why, node, within, test)


@_checked
def reconfigure(node=None):
    """
    Have Slurm read its files anew (``scontrol reconfigure``).

    node
        As of :func:`gres_conf`, for messages.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slurm.reconfigure
    """
    with _engine() as engine:
        return slurm.reconfigure(engine, node)


@_checked
def resume(node=None, within=0, reread=False, test=False):
    """
    Have this node given jobs again, if its drain is ours: its reason begins with ``gpu-slicing:``. Slurm reads its files before
    (``scontrol reconfigure``). A node that Slurm holds for invalid, as it has less than ``slurm.conf`` says, stays drained; so
    does one whose change left something half done.

    node
        As of :func:`gres_conf`.

    within
        Seconds in which Slurm has to find the node valid, up to 3600.

    reread
        Have Slurm read its files also where the drain is somebody else's, or there is none.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_slurm.resume
    """
    with _engine() as engine:
        return slurm.resume(engine, node, within, reread, test)
