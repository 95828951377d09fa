"""
Units of systemd, by ``systemctl``. Those of a user's own manager are named as who holds a GPU is: ``x.service of uid 1000``.
"""

from gpuslice import errors
from gpuslice.host.base import Completed
from gpuslice.host.base import parted

#: Is there where systemd runs: in an image that is being built it is installed, and nothing can be started.
_RUNS = "/run/systemd/system"
#: What systemctl ends with for a unit that there is not (systemctl(1), by the init script's exit codes of the LSB).
NOT_LOADED = 5
#: The socket of a user's manager, which it makes when it starts (systemd(1) with --user). It may outlast the manager.
_SOCKET = "/run/user/{uid}/systemd/private"
#: A group that owns nothing.
_NOBODY = 65534
#: States in which a manager takes no orders.
_ENDED = ("inactive", "failed", "deactivating")


def has_manager(host, uid):
    """
    Whether a user's manager runs: he is logged in, or lingers. Where it has no socket no program asks for it.

    :raises errors.ToolFailed: systemd does not say. errors.ToolMissing, errors.ToolHangs.
    """
    if not host.exists(_SOCKET.format(uid=uid)):
        return False
    unit = f"user@{uid}.service"
    done = host.run(["systemctl", "is-active", unit])
    # Who does not know it must not go on as if nothing ran.
    if not done.stdout.strip():
        raise errors.ToolFailed(f"systemd does not say whether {unit} runs: {done.failure}.", todo="Mend that and run again.")
    return done.stdout.strip() not in _ENDED


def start(host, unit, waits=True):
    """
    Start a unit.

    :param waits: until it has started; False only queues the job, for a unit that may itself wait for what calls this.
    :return: :class:`gpuslice.host.base.Completed`. Raises errors.ToolMissing, errors.ToolHangs, errors.ToolFailed.
    """
    return _run(host, "start", unit, waits=waits)


def stop(host, unit, timeout=60):
    """Stop a unit; :param timeout: in seconds. Returns and raises as :func:`start`."""
    return _run(host, "stop", unit, timeout)


def end(host, unit, timeout=60):
    """Stop a unit that may be there no more: what is not there does not run either. Otherwise as :func:`stop`."""
    done = stop(host, unit, timeout)
    return Completed(0) if done.returncode == NOT_LOADED else done


def restart(host, unit, timeout=60, waits=True):
    """Restart a unit, or start it; :param timeout: in seconds; :param waits: as of :func:`start`. Returns and raises as that."""
    return _run(host, "restart", unit, timeout, waits)


def restart_if_active(host, unit, timeout=60, waits=True):
    """Restart a unit that runs, and no other; parameters, result and errors as of :func:`restart`."""
    return _run(host, "try-restart", unit, timeout, waits)


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


def runs(host):
    """Whether systemd runs: in an image that is being built it is installed, and nothing can be started."""
    return host.exists(_RUNS)


def reload_units(host, uid=None):
    """Have systemd, or the manager of a user, read the files of its units anew, where it runs. Raises as :func:`enable`."""
    if runs(host) if uid is None else has_manager(host, uid):
        _succeed(host, "daemon-reload", uid=uid)


def _succeed(host, *arguments, uid=None):
    if why := host.run([*_systemctl(uid), *arguments]).failure:
        whose = "" if uid is None else f" in the manager of uid {uid}"
        raise errors.ToolFailed(f"'systemctl {' '.join(arguments)}'{whose} failed: {why}.", todo="Mend that and run again.")


def _run(host, verb, unit, timeout=60, waits=True):
    name, uid = parted(unit)
    return host.run([*_systemctl(uid), verb, *([] if waits else ["--no-block"]), name], timeout=timeout)


def _systemctl(uid):
    """
    systemctl for the system's manager, or for that of a user.

    A manager takes orders of its own user alone, by a socket that needs neither a bus nor a session. ``--machine``, which root
    could use, logs the user in, and so starts a manager where none runs. Nothing of root's environment goes with it.
    """
    if uid is None:
        return ["systemctl"]
    as_user = ["setpriv", f"--reuid={uid}", f"--regid={_NOBODY}", "--clear-groups"]
    return [*as_user, "env", "-i", f"XDG_RUNTIME_DIR=/run/user/{uid}", "systemctl", "--user"]
