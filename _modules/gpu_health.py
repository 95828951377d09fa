"""
The health of GPUs and their slices over time, as a status in four words: ``ok``, ``degraded``, ``failed`` or ``lost``. It
worsens at once and improves on evidence only; ``docs/health.md`` says how it is judged. ``gpu.health`` tells what is found at
this moment. What is quarantined is handed to nobody: a change by hand like any other.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import quarantine as keeping
from gpuslice import statuses

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_health"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_health needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, front.announcer(__opts__, __salt__), salt=__salt__)


@_checked
def status(gpu=None, table=False):
    """
    Look at the GPUs, and tell the status of each and of its slices.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``. Without it all GPUs.

    table
        A table for people instead of data.

    Returns a dict by PCI address: ``status`` (ok, degraded, failed, lost), ``action`` (none, restart_program, reset, reboot,
    drain, replace), ``scope`` (slice, board, host), ``codes``, ``sentence``, and ``slices``: by name the same without ``slices``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.status
        salt '*' gpu_health.status table=True
    """
    with _engine() as engine:
        found = statuses.of(engine, __pillar__, gpu)
        return statuses.table(found) if table else found


@_checked
def why(gpu=None):
    """
    What the status of GPUs comes of: everything that was found and not dealt with yet, and what it takes to be over.

    gpu
        PCI address (quoted), UUID or name of a slice; a pattern, a list of these, or ``all``. Without it all GPUs.

    Returns a dict by PCI address: ``status``, ``action``, ``scope``, ``codes`` and ``sentence`` of the board; ``reasons``, a list
    of dicts with ``code``, ``status``, ``action``, ``slice``, ``words``, ``todo``, ``since``, ``last``, ``count`` and ``clears``;
    ``readings``, what is compared from look to look, as sentences; ``notes``, what could not be read.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.why '0000:1b:00.0'
    """
    with _engine() as engine:
        return statuses.why(engine, __pillar__, gpu)


@_checked
def forget(gpu, test=False):
    """
    Forget what was found wrong with a GPU: it was dealt with in a way that nobody sees, or the GPU was taken out for good. What
    is still there is found again by the next look. What is quarantined stays so, see ``gpu_health.release``.

    gpu
        PCI address (quoted), also of a GPU that has gone, UUID or name of a slice; a pattern, a list of these, or ``all``.

    test
        Only tell what would be forgotten.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.forget '0000:1b:00.0'
    """
    with _engine() as engine:
        return statuses.forgotten(engine, gpu, test)


@_checked
def healthy(test=False):
    """
    Whether all GPUs and slices of this host are as well as the pillar asks
    (``containers_gpu_state_management:health:fail_on``). With ``on_failed: quarantine`` there what failed is quarantined, and
    what was so quarantined and is well again is released; see the state ``gpu_health.healthy``.

    test
        Plan only: what would be quarantined or released is told.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.healthy
    """
    with _engine() as engine:
        return statuses.judged(engine, __pillar__, test)


@_checked
def news():
    """
    What changed since this was last asked, for the beacon ``gpu_health``: files of the kernel are read, and no device is opened.

    Returns a list of dicts: ``tag``, ``gpu``, ``slice`` (empty for the board), ``was``, ``status``, ``action``, ``scope``,
    ``codes``, ``sentence``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.news
    """
    with _engine() as engine:
        return statuses.news(engine)


@_checked
def quarantine(gpu, why="", test=False):
    """
    Hand a slice, or all slices of a board, to nobody. Whoever has one moves where another one fits; where none does, it goes on
    with what it has, or is stopped where ``containers_gpu_state_management:health:consumers`` is ``stop``.

    gpu
        Name or UUID of a slice; PCI address (quoted) or UUID of a GPU, for all of it; a pattern of GPUs, a list of these, or
        ``all``.

    why
        A sentence for those who find it.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.quarantine 0000:1b:00.0-1g.10gb-0 why='wrong results'
        salt gpu7 gpu_health.quarantine '0000:1b:00.0' why='fan' test=True
    """
    with _engine() as engine:
        return keeping.quarantined(engine, gpu, why, test, __pillar__)


@_checked
def release(gpu, test=False):
    """
    Hand it out again. Whoever moved stays where it is; who was left without a slice gets one.

    gpu
        As in ``gpu_health.quarantine``; also the name of something quarantined that is gone from this host.

    test
        Plan only, change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt gpu7 gpu_health.release 0000:1b:00.0-1g.10gb-0
    """
    with _engine() as engine:
        return keeping.released(engine, gpu, test, __pillar__)


@_checked
def quarantined():
    """
    What is quarantined.

    Returns a dict: name of a slice or PCI address of a board -> ``gpu``, ``scope`` (``board`` or ``slice``), ``since``, ``by``
    (``hand`` or ``policy``), ``who``, ``jid``, ``why``, ``codes`` (of the findings that led to it), ``consumers`` (``keep`` or
    ``stop``), ``released_by`` (who may release it: ``hand``, or ``hand or evidence``).

    CLI Example:

    .. code-block:: bash

        salt '*' gpu_health.quarantined
    """
    with _engine() as engine:
        return keeping.listed(engine)
