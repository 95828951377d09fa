"""
Metrics of GPUs and slices: on demand, and every few seconds in a file for Prometheus, which a timer of systemd writes without
Salt. ``gpu_metrics.exported`` (a state) or :func:`enable` sets that up.
"""

import gpuslice

gpuslice = gpuslice.current()
from salt.exceptions import CommandExecutionError

from gpuslice import front
from gpuslice import metrics

_checked = front.checked(CommandExecutionError)
__virtualname__ = "gpu_metrics"


def __virtual__():
    if gpuslice.API != 1:
        return False, f"gpu_metrics needs the gpuslice library with interface 1, found {gpuslice.API} in {gpuslice.__file__}"
    return __virtualname__


def _engine():
    return front.engine(__opts__, CommandExecutionError, salt=__salt__)


@_checked
def read():
    """
    What there is of GPUs and slices now. Energy is told as it was counted last; nothing is counted or written.

    Returns a dict: name of a metric -> list of dicts with ``labels`` and ``value``. What can't be read is not there, and counted
    in ``gpuslice_unreadable``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_metrics.read
    """
    with _engine() as engine:
        return metrics.data(engine)


@_checked
def text():
    """
    The same as :func:`read`, as the text that Prometheus reads.

    CLI Example:

    .. code-block:: bash

        salt-call --local gpu_metrics.text
    """
    with _engine() as engine:
        return metrics.text(engine)


@_checked
def enable(textfile=None, interval_seconds=None, test=False):
    """
    Write the metrics now, and every few seconds from now on: ``gpu-slicing-metrics.timer`` is written, enabled and started.

    textfile
        Absolute path of the file; its name ends in ``.prom``. As the pillar says, where it is not given.

    interval_seconds
        Seconds from one time to the next, 5 to 3600. As the pillar says, where it is not given.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_metrics.enable
        salt 'gpu*' gpu_metrics.enable /var/lib/node_exporter/gpuslice.prom 30 test=True
    """
    with _engine() as engine:
        return metrics.enable(engine, __opts__.get("gpu_slicing"), __pillar__, textfile, interval_seconds, test)


@_checked
def disable(test=False):
    """
    Write no metrics any more: the timer, its service and the file are removed.

    test
        Change nothing.

    Returns a dict with ``result``, ``changes`` and ``comment``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_metrics.disable
    """
    with _engine() as engine:
        return metrics.disable(engine, test)


@_checked
def status():
    """
    Whether metrics are written, and when they last were. Nothing is changed.

    Returns a dict: ``units`` by name (path, present), ``enabled``, ``active``, ``textfile``, ``written`` and ``age_seconds``.

    CLI Example:

    .. code-block:: bash

        salt 'gpu*' gpu_metrics.status
    """
    with _engine() as engine:
        return metrics.status(engine)
