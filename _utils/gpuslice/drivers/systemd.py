"""
Units of systemd, by ``systemctl``.
"""

from gpuslice import errors
from gpuslice.host.base import Completed

#: Is there where systemd runs: in an image that is being built it is installed, and nothing can be started.
_RUNS = "/run/systemd/system"
#: What systemctl ends with for a unit that there is not (systemctl(1), by the init script's exit codes of the LSB).
NOT_LOADED = 5


def start(host, unit, waits=True):
    """
    Start a unit.

    :param waits: until it has started; False only queues the job, for a unit that may itself wait for what calls this.
    :return: :class:`gpuslice.host.base.Completed`. Raises errors.ToolMissing, errors.ToolHangs, errors.ToolFailed.
    """
    return host.run(["systemctl", "start", *([] if waits else ["--no-block"]), unit])


def stop(host, unit, timeout=60):
    """Stop a unit; :param timeout: in seconds. Returns and raises as :func:`start`."""
    return host.run(["systemctl", "stop", unit], timeout=timeout)


def end(host, unit, timeout=60):
    """Stop a unit that may be there no more: what is not there does not run either. Otherwise as :func:`stop`."""
    done = stop(host, unit, timeout)
    return Completed(0) if done.returncode == NOT_LOADED else done


def restart(host, unit, timeout=60, waits=True):
    """Restart a unit, or start it; :param timeout: in seconds; :param waits: as of :func:`start`. Returns and raises as that."""
    return host.run(["systemctl", "restart", *([] if waits else ["--no-block"]), unit], timeout=timeout)


def restart_if_active(host, unit, timeout=60, waits=True):
    """Restart a unit that runs, and no other; parameters, result and errors as of :func:`restart`."""
    return host.run(["systemctl", "try-restart", *([] if waits else ["--no-block"]), unit], timeout=timeout)


def files(host, unit):
    """The text of all files of a unit, in the order in which they are applied. Returns and raises as :func:`start`."""
    return host.run(["systemctl", "cat", unit])


def active_state(host, unit):
    """The unit's ActiveState: "active", "inactive", "failed" ..., "" on a host without systemctl. Raises as :func:`start`."""
    try:
        return host.run(["systemctl", "is-active", unit]).stdout.strip()
    except errors.ToolMissing:
        return ""


def enable(host, unit):
    """Have a unit started at each boot. Raises errors.ToolMissing, errors.ToolHangs, errors.ToolFailed."""
    _succeed(host, "enable", unit)


def disable(host, unit):
    """Have it started at no boot any more. Raises as :func:`enable`."""
    _succeed(host, "disable", unit)


def reload_units(host):
    """Have systemd read the files of its units anew, where it runs. Raises as :func:`enable`."""
    if host.exists(_RUNS):
        _succeed(host, "daemon-reload")


def _succeed(host, *arguments):
    if why := host.run(["systemctl", *arguments]).failure:
        raise errors.ToolFailed(f"'systemctl {' '.join(arguments)}' failed: {why}.", todo="Mend that and run again.")
