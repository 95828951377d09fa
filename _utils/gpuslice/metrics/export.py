"""
Metrics are written every few seconds by a timer of systemd: whether that is so, setting it up, and taking it away.
"""

import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice import moments
from gpuslice.drivers import systemd
from gpuslice.metrics import unit
from gpuslice.metrics import writer
from gpuslice.metrics.record import Exported

_SECTION = "containers_gpu_state_management"
UNITS = (unit.SERVICE, unit.TIMER)
_LAST_RUN = re.compile(r"^gpuslice_last_run_timestamp_seconds ([0-9.e+]{1,32})$", re.MULTILINE)
#: So many intervals may pass before a file counts as old; and so many seconds at least, for a driver that has to be started.
_INTERVALS, _SECONDS = 3, 60
#: Of the year 9999, the last that can be shown.
_LATEST = 253402300799


class Wanted(NamedTuple):
    """What is wanted: the path of the file, and the whole seconds from one time to the next."""

    textfile: str
    interval: int


def wanted(engine, pillar, textfile=None, interval=None):
    """
    What is wanted, as :class:`Wanted`: as the pillar says, where nothing is given.

    :raises errors.PolicyError: the pillar or what is given is wrong.
    """
    given = {key: value for key, value in (("textfile", textfile), ("interval_seconds", interval)) if value is not None}
    if len(given) < 2:
        given = {**_of(engine, pillar), **given}
    try:
        checked = _of(engine, {_SECTION: {"metrics": given}})
    except errors.PolicyError as err:
        # What the pillar says was right by now: it is arguments that are wrong.
        raise errors.of_arguments(err, f"{_SECTION}:metrics") from err
    return Wanted(checked["textfile"], checked["interval_seconds"])


def _of(engine, pillar):
    return engine.policy(pillar).metrics


def status(engine):
    """
    Whether metrics are written; nothing is changed.

    :return: dict: ``units`` by name (``path``, ``present``), ``enabled``, ``active`` (the timer), ``textfile`` (None where none
        is written), ``written`` (when, in ISO 8601; None for never, or where that can't be told) and ``age_seconds``.
    """
    host, path = engine.host, Exported(engine.host).path()
    at = _written_at(host, path)
    return {
        "units": {name: {"path": unit.path_of(name), "present": host.exists(unit.path_of(name))} for name in UNITS},
        "enabled": host.exists(unit.WANTED),
        "active": systemd.active_state(host, unit.TIMER) == "active",
        "textfile": path or None,
        "written": None if at is None else moments.iso(at),
        "age_seconds": None if at is None else round(host.now() - at, 1),
    }


def enable(engine, goal, simulate="", test=False):
    """
    The units are there with the text of this installation, the timer runs and starts at each boot, and the file is fresh.

    :param goal: :class:`Wanted`; :param simulate: description of a simulated host, "" for a real one.
    :return: dict with ``changes``, ``comment``, ``result`` (absent when ``test`` found something to change).
    :raises errors.PolicyError: as :func:`gpuslice.metrics.unit.texts`; errors.Unsupported: a unit is masked;
        errors.ToolMissing: no systemd; errors.ToolFailed; errors.PermissionDenied; errors.StateDirUnusable: a file can't be
        written; errors.ValidationFailed: the timer runs, and the file is old.
    """
    host, record = engine.host, Exported(engine.host)
    texts = unit.texts(goal.textfile, goal.interval, host.state_dir, simulate)
    _refuse_masked(host)
    before, old = _timer(host, texts), record.path()
    if before == _RIGHT and old == goal.textfile:
        _refuse_old(host, goal)
        return {"result": True, "changes": {}, "comment": f"Metrics are written to {goal.textfile} every {goal.interval} s."}
    changes = {unit.TIMER: {"old": before, "new": _RIGHT}} if before != _RIGHT else {}
    changes |= {old: {"old": "written", "new": "absent"}} if old and old != goal.textfile else {}
    changes |= {goal.textfile: {"old": "absent", "new": "written"}} if old != goal.textfile else {}
    if test:
        return {"changes": changes, "comment": f"Metrics would be written to {goal.textfile} every {goal.interval} s."}
    # First by hand: what stands in the way is told here, and not in a journal that nobody reads.
    writer.write(engine, goal.textfile)
    record.note(goal.textfile)
    if old and old != goal.textfile:
        writer.remove(host, old)
    _set_up(host, texts)
    after = _timer(host, texts)
    if after != _RIGHT:
        raise errors.ValidationFailed(f"{unit.TIMER} was set up, but it is {after}.", todo="See 'systemctl status' of it.")
    comment = f"Metrics are written to {goal.textfile} every {goal.interval} s from now on."
    return {"result": True, "changes": changes, "comment": comment}


def disable(engine, test=False):
    """The units and the file are gone. Returns as :func:`enable`, and raises errors of the same kinds."""
    host, record = engine.host, Exported(engine.host)
    changes = going(host)
    if not changes:
        return {"result": True, "changes": {}, "comment": "No metrics are written on this host."}
    if test:
        return {"changes": changes, "comment": "Metrics would be written no more."}
    for name in reversed(UNITS):
        _take_down(host, name)
    _by_systemd(systemd.reload_units, host)
    if path := record.path():
        writer.remove(host, path)
        record.note("")
    return {"result": True, "changes": changes, "comment": "Metrics are written no more, and their file is removed."}


def going(host):
    """What :func:`disable` would remove, in the shape of a state's ``changes``."""
    path, there = Exported(host).path(), [name for name in UNITS if host.exists(unit.path_of(name))]
    return {name: {"old": "present", "new": "absent"} for name in [*there, *([path] if path else [])]}


_RIGHT, _ABSENT = "enabled, current, active", "absent"


def _timer(host, texts):
    """How the units are, in words."""
    found = {name: _text(host, name) for name in texts}
    if not found[unit.TIMER]:
        return _ABSENT
    current = all(found[name].strip() == text.strip() for name, text in texts.items())
    # In an image that is being built it starts with the first boot.
    active = not systemd.runs(host) or systemd.active_state(host, unit.TIMER) == "active"
    enabled = "enabled" if host.exists(unit.WANTED) else "disabled"
    return ", ".join([enabled, "current" if current else "outdated", "active" if active else "stopped"])


def _text(host, name):
    path = unit.path_of(name)
    return host.read(path) if host.exists(path) else ""


def _refuse_masked(host):
    for name in UNITS:
        if host.readlink(unit.path_of(name)) == "null":
            raise errors.Unsupported(f"{name} is masked on this host.", todo=f"Run 'systemctl unmask {name}' to allow it.")


def _refuse_old(host, goal):
    """Raise errors.ValidationFailed for a file that the timer should have written anew."""
    if not systemd.runs(host):
        return
    at, most = _written_at(host, goal.textfile), max(_INTERVALS * goal.interval, _SECONDS)
    # After a boot the first run may still be under way, and before it the file is as old as the host was off.
    if host.monotonic() > most and (at is None or abs(host.now() - at) > most):
        since = "is not there, or can't be read"
        if at is not None:
            ago = host.now() - at
            since = f"was written {ago:.0f} s ago" if ago > 0 else f"is of a time to come, {moments.iso(at)}"
        raise errors.ValidationFailed(
            f"{goal.textfile} {since}, though {unit.TIMER} runs every {goal.interval} s.",
            todo=f"See 'systemctl status {unit.SERVICE}' and 'journalctl -u {unit.SERVICE}'.",
        )


def _written_at(host, path):
    """When the file was written, in seconds since the epoch; None where that can't be told."""
    try:
        found = _LAST_RUN.search(host.store_read(path)) if path else None
        at = float(found[1]) if found else -1.0
        return at if 0 <= at <= _LATEST else None
    except (OSError, ValueError, errors.StateDirUnusable):
        return None


def _set_up(host, texts):
    outdated = [name for name, text in texts.items() if _text(host, name).strip() != text.strip()]
    for name in outdated:
        _file_of(name, host.store_write, unit.path_of(name), texts[name])
    if outdated:
        _by_systemd(systemd.reload_units, host)
    _by_systemd(systemd.enable, host, unit.TIMER)
    if systemd.runs(host):
        # Also where it runs: another interval counts from its start on.
        _refuse_failed("restart", unit.TIMER, _by_systemd(systemd.restart, host, unit.TIMER))


def _take_down(host, name):
    if not host.exists(unit.path_of(name)):
        return
    if systemd.runs(host):
        _refuse_failed("stop", name, _by_systemd(systemd.end, host, name))
    if name == unit.TIMER and host.exists(unit.WANTED):
        _disable(host, name)
    _file_of(name, host.store_remove, unit.path_of(name))


def _disable(host, name):
    try:
        _by_systemd(systemd.disable, host, name)
    except errors.ToolFailed:
        # Somebody else may have been faster, so that there is none any more.
        if host.exists(unit.path_of(name)):
            raise


def _refuse_failed(verb, name, done):
    if done.failure:
        raise errors.ToolFailed(f"'systemctl {verb} {name}' failed: {done.failure}.", todo="Mend that and run again.")


def _file_of(name, work, *arguments):
    try:
        work(*arguments)
    except OSError as err:
        raise errors.PermissionDenied(f"{unit.path_of(name)} could not be changed: {err.strerror}.", todo="Run as root.") from err


def _by_systemd(ask, *arguments):
    try:
        return ask(*arguments)
    except errors.ToolMissing as err:
        raise errors.ToolMissing(
            "This host has no systemctl, so no timer can write metrics.",
            todo="Run 'python -m gpuslice.metrics --textfile ...' from its own scheduler; docs/metrics.md has the whole line.",
        ) from err
