"""
Nomad on a node whose GPUs are sliced: what its device plugin must not give, drained before a change and taken back after it.
"""

import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import nomad as control
from gpuslice.drivers import systemd
from gpuslice.drivers.scheduler_files import refuse_path
from gpuslice.outputs import nomad as files
from gpuslice.printable import printable
from gpuslice.schedulers import around
from gpuslice.schedulers import offer
from gpuslice.schedulers import told as by_pillar

NAME = "nomad"
_PREFIX = "gpu-slicing:"
_ID = re.compile(r"[0-9a-f-]{2,36}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@-]{1,200}\.service")


# -- what it is told -------------------------------------------------------------------------------------------------------
class Plugin(NamedTuple):
    """Name of the plugin, and how often it looks, as texts that were checked."""

    name: str
    period: str


def _plugin(plugin, period):
    """Raises errors.PolicyError: one of them can't be."""
    if not files.is_plugin(plugin):
        raise errors.PolicyError(
            f"plugin is {printable(plugin)[:80]!r}, which can be no name of a plugin.",
            todo=f"Give its file's name in plugin_dir, such as {files.PLUGIN}.",
        )
    if not files.is_period(period):
        raise errors.PolicyError(
            f"period is {printable(period)[:80]!r}, which is no time.", todo="Give one as Nomad takes it, such as 30s or 1m."
        )
    return Plugin(plugin, period)


def told(engine):
    """
    What Nomad is to be told, as :class:`gpuslice.outputs.nomad.Config`.

    :raises errors.Unhealthy: a GPU can't be read, so that nobody knows what it has; what reading the records raises.
    """
    has = offer.read(engine, files.ABOUT)
    # With what tells their UUIDs, whatever they have.
    known = {gpu.address: gpu for gpu in engine.unsliced([])} if any(gpu.vendor == files.VENDOR for gpu in engine.gpus) else {}
    return files.of(has, [known.get(gpu.address, gpu) for gpu in engine.gpus])


def plugin_config(engine, plugin=files.PLUGIN, period=files.PERIOD):
    """The same as data: ``plugin``, ``ignored_gpu_ids``, ``fingerprint_period``, ``given``, ``ignored``, ``notes``."""
    asked, found = _plugin(plugin, period), told(engine)
    return {
        "plugin": asked.name, "ignored_gpu_ids": list(found.ignored), "fingerprint_period": asked.period,
        "given": dict(found.given), "ignored": dict(found.ignored), "notes": list(found.notes),
    }  # fmt: skip


def text(engine, plugin=files.PLUGIN, period=files.PERIOD):
    """The same as a file for the agent. Raises errors.PolicyError and as :func:`told`."""
    asked = _plugin(plugin, period)
    return files.text(told(engine), asked.name, asked.period)


def write(engine, path, plugin=files.PLUGIN, period=files.PERIOD, test=False):
    """
    A file has what :func:`text` tells.

    :return, :raises: as of :func:`gpuslice.schedulers.told.write`, and errors.PolicyError: it is no path for such a file.
    """
    refuse_path(engine.host, path, files.FILE)
    return by_pillar.write(engine, NAME, path, text(engine, plugin, period), files.FILE, test)


# -- around a change -------------------------------------------------------------------------------------------------------
def _which(node):
    """The id that a node is asked for by, "" for this host's own. Raises errors.PolicyError: it can be none."""
    if node is None:
        return ""
    if not _ID.fullmatch(node):
        raise errors.PolicyError(
            f"node is {printable(node)[:80]!r}, which is no id of a node of Nomad.", todo="Give its id; see 'nomad node status'."
        )
    return node


def is_drained(engine, node=None):
    """Whether this node is given no jobs and has none. Raises as :func:`gpuslice.drivers.nomad.node`."""
    return control.node(engine.host, _which(node)).is_drained


def drain(engine, why="", node=None, within=0, deadline=None, system=True, test=False):
    """
    Have this node given no more jobs, and wait until it has none. One that is drained already, or being drained, is left so; one
    that is only ineligible may have jobs, and stays ineligible when it is taken back.

    :param why: a sentence; :param within: seconds to wait; :param deadline: seconds after which Nomad ends what is left by force,
        None for never. :param system: whether system jobs end too. :param test: change nothing.
    :return: dict with ``changes``, ``comment``, ``result``: whether it has no jobs any more.
    :raises: as :func:`gpuslice.drivers.nomad.node`; errors.PolicyError: the node's id.
    """
    host, which = engine.host, _which(node)
    before = control.node(host, which)
    begins = not before.draining and not before.is_drained
    if begins:
        if test:
            changes = around.changed(before.name, before.state, "drained")
            return {"changes": changes, "comment": f"Node {before.name} would be drained."}
        doing = engine.doing()
        reason = f"{_PREFIX} {around.reason(doing, why)}"
        control.drain(host, which, reason, around.job(doing), deadline, "" if before.eligible else control.INELIGIBLE, system)
    now = before if test else around.awaited(host, within, lambda: control.node(host, which), lambda found: found.is_drained)
    changes = around.changed(before.name, before.state, now.state) if begins else {}
    if not now.is_drained:
        return {
            "result": False, "changes": changes,
            "comment": f"Node {now.name} was to have no jobs within {within:g} s, and is {now.state}: jobs still run there. Wait "
            f"longer ('within'), give a 'deadline', or end them.{around.until_resumed('gpu_nomad.resume')}",
        }  # fmt: skip
    already = "" if changes else f" already ({now.by})"
    return {"result": True, "changes": changes, "comment": f"Node {now.name} is drained{already}."}


def resume(engine, node=None, path=None, plugin=files.PLUGIN, period=files.PERIOD, unit=None, within=0, reread=False,
           test=False):  # fmt: skip
    """
    Have this node given jobs again, where we drained it; with ``path`` its file is written first.

    :param unit: of the agent, which is started anew where the file changed: it reads that only then.
    :param reread: the agent is started anew in any case: whoever calls has written its file.
    :param within: seconds in which the node has to be ready and its plugin to tell no device that is not to be given.
    :return: dict with ``changes``, ``comment``, ``result``. :raises: as :func:`drain` and :func:`write`; errors.ToolFailed: the
        agent did not start anew.
    """
    host, which = engine.host, _which(node)
    _refuse_unit(unit)
    if left := around.half_done(engine, "This node", "Nomad", "gpu_nomad.resume"):
        return left
    before = control.node(host, which)
    written = write(engine, path, plugin, period, test) if path else {"changes": {}, "comment": ""}
    changes, said = dict(written["changes"]), [written["comment"]] if written["changes"] else []
    if (written["changes"] or (reread and unit and not around.is_refused())) and not test:
        said.append(_read_anew(host, unit))
    if before.eligible:
        return around.answer(changes, [*said, f"Node {before.name} takes jobs already."], test)
    if not (before.is_ours and around.may_end(before.by)):
        said.append(f"Node {before.name} stays {before.state}, which somebody else wants: {before.by}.")
        return around.answer(changes, said, test)
    if test:
        changes |= around.changed(before.name, before.state, "eligible")
        return around.answer(changes, [*said, f"Node {before.name} would be given jobs again."], test)
    given = told(engine).given
    now = around.awaited(host, within, lambda: control.node(host, which), lambda found: _is_right(found, given))
    if not _is_right(now, given):
        return {"result": False, "changes": changes, "comment": " ".join([*said, _why_not(now, given, within)])}
    after = _taken_back(host, which, now)
    changes |= around.changed(before.name, before.state, after.state)
    if control.BEFORE in now.meta:
        said.append(f"Node {now.name} stays {after.state}, as it was before it was drained here.")
        return around.answer(changes, said, test)
    if not after.eligible:
        said.append(f"Node {now.name} was to be given jobs again, and is {after.state}. See 'nomad node status -self'.")
        return {"result": False, "changes": changes, "comment": " ".join(said)}
    missing = sorted(set(given) - set(after.devices))
    said.append(f"Node {now.name} is given jobs again.")
    said += [f"Its plugin does not tell these yet: {', '.join(missing)}."] if missing else []
    return around.answer(changes, said, test)


def _taken_back(host, which, node):
    """The node after it was taken back, or left ineligible where it was so before."""
    stays = control.BEFORE in node.meta
    if node.draining:
        control.stop_draining(host, which, stays, f"{_PREFIX} taken back")
    if not stays and not control.node(host, which).eligible:
        control.make_eligible(host, which)
    return control.node(host, which)


def _refuse_unit(unit):
    if unit is not None and not (isinstance(unit, str) and _UNIT.fullmatch(unit)):
        raise errors.PolicyError(
            f"unit is {printable(str(unit))[:80]!r}, which is no service of systemd.",
            todo="Give that of the agent: nomad.service.",
        )


def _read_anew(host, unit):
    """Have the agent read its file. Returns what became of it; raises errors.ToolFailed."""
    if unit is None:
        return "Nomad's agent reads it when it starts."
    done = systemd.restart(host, unit)
    if done.returncode:
        raise errors.ToolFailed(
            f"{unit} was to start anew, so that it reads its file, and did not: {done.failure}.",
            todo=f"See 'systemctl status {unit}', then call gpu_nomad.resume.",
        )
    return f"{unit} was started anew to read it."


def _is_right(node, given):
    return node.status == "ready" and not _wrong(node, given)


def _wrong(node, given):
    """What the node gives to jobs and is not to."""
    return sorted(set(node.devices) - set(given))


def _why_not(node, given, within):
    if node.status != "ready":
        return (
            f"Node {node.name} was to be given jobs again, and is {node.state}. See 'nomad node status -self', then call "
            "gpu_nomad.resume."
        )
    listed = ", ".join(_wrong(node, given))
    return (
        f"Node {node.name} was to be given jobs again, and after {within:g} s its plugin still tells what is gone or not to be "
        f"given: {listed}. It looks every fingerprint_period, so wait longer ('within'); what it is to ignore it reads when the "
        "agent starts, so start that anew ('unit'). Then call gpu_nomad.resume."
    )
