"""
Slurm on a node whose GPUs are sliced: what it is told of them, drained before a change and taken back after it.
"""

import re

from gpuslice import errors
from gpuslice.drivers import slurm as control
from gpuslice.drivers.scheduler_files import refuse_path
from gpuslice.outputs import slurm as files
from gpuslice.schedulers import around
from gpuslice.schedulers import offer
from gpuslice.schedulers import told

NAME = "slurm"
#: What each reason of ours begins with: only a drain with it is ended here.
PREFIX = "gpu-slicing:"
#: What is on record of a node that was down before it was drained: Slurm has one reason for both.
_DOWN = re.compile(r"; it was down(?:: (.*))?$")
#: The gres that files of ours have. A node's others (``nic``, ``tmpdisk``, ...) stand elsewhere.
_OURS = (files.GPU, files.SHARD, files.MPS)


# -- what it is told -------------------------------------------------------------------------------------------------------
def _asked(engine, node, autodetect):
    """(name of the node, autodetect): as given, else as the pillar has it on this host. Raises errors.PolicyError: no name."""
    noted = told.noted(engine, NAME)
    settings = noted.settings if noted else {}
    name = control.node_name(engine.host, (settings.get("node") if node is None else node) or None)
    return name, settings.get("autodetect", False) if autodetect is None else autodetect


def offered(engine, node, autodetect=False):
    """
    What this node has for Slurm, as :class:`gpuslice.outputs.slurm.Sheet`.

    :raises errors.Unsupported: as :func:`gpuslice.outputs.slurm.of`; errors.Unhealthy: a GPU can't be read, so that nobody knows
        what it has; what reading the records raises.
    """
    has = offer.read(engine, files.about(node))
    return files.of(has, {gpu.address: gpu for gpu in engine.gpus}, node, autodetect)


def conf(engine, node=None, autodetect=None):
    """The text of ``gres.conf`` of this node. Raises as :func:`offered`."""
    name, autodetect = _asked(engine, node, autodetect)
    return files.text(offered(engine, name, autodetect), name, autodetect)


def gres(engine, node=None, autodetect=None):
    """The same as data: ``node``, ``gres`` (for ``slurm.conf``), ``types``, ``lines`` and ``left_out``. Raises likewise."""
    name, autodetect = _asked(engine, node, autodetect)
    found = offered(engine, name, autodetect)
    return {
        "node": name, "gres": files.value(found), "types": files.types(found),
        "lines": files.lines(found, name, autodetect), "left_out": dict(found.left),
    }  # fmt: skip


def write(engine, path, node=None, autodetect=None, test=False):
    """
    ``gres.conf`` says what this node has.

    :return: dict with ``changes``, ``comment``, and ``result`` but where ``test`` found something to change.
    :raises errors.PolicyError: the path is none, or the pillar keeps that file and says otherwise; errors.ForeignChange: a file
        of somebody else is there; errors.PermissionDenied: it can't be written; and as :func:`offered`.
    """
    name, autodetect = _asked(engine, node, autodetect)
    kind = files.kind(name)
    refuse_path(engine.host, path, kind)
    return told.write(engine, NAME, path, files.text(offered(engine, name, autodetect), name, autodetect), kind, test)


# -- around a change -------------------------------------------------------------------------------------------------------
def is_drained(engine, node=None):
    """Whether this node is given no jobs and has none. Raises as :func:`gpuslice.drivers.slurm.node`."""
    return control.node(engine.host, _asked(engine, node, None)[0]).is_drained


def drain(engine, why="", node=None, within=0, test=False):
    """
    Have this node given no more jobs, and wait until it has none. One that is drained already, by whomever, is left so.

    :param why: a sentence; :param within: seconds to wait; :param test: change nothing.
    :return: dict with ``changes``, ``comment``, ``result``: whether it has no jobs any more.
    :raises: as :func:`gpuslice.drivers.slurm.node`; errors.PolicyError: the node's name.
    """
    host, name = engine.host, _asked(engine, node, None)[0]
    before = control.node(host, name)
    changes = {}
    if not before.takes_none:
        if test:
            return {"changes": around.changed(name, before.state, "drained"), "comment": f"Node {name} would be drained."}
        control.drain(host, name, _reason(engine.doing(), why, before))
    now = before if test else around.awaited(host, within, lambda: control.node(host, name), lambda found: found.is_drained)
    if not before.takes_none:
        changes = around.changed(name, before.state, now.state)
    if not now.is_drained:
        return {
            "result": False, "changes": changes,
            "comment": f"Node {name} was to have no jobs within {within:g} s, and is {now.state}: jobs still run there. "
            f"Wait longer ('within'), or end them.{around.until_resumed('gpu_slurm.resume')}",
        }  # fmt: skip
    by = "" if changes else f" already ({now.signed or 'no reason is told'})"
    return {"result": True, "changes": changes, "comment": f"Node {name} is drained{by}."}


def resume(engine, node=None, within=0, reread=False, test=False):
    """
    Have this node given jobs again, where we drained it; Slurm reads its ``gres.conf`` anew before.

    :param within: seconds to wait until the controller finds the node valid. :param reread: Slurm reads its files also where the
        drain is not ours.
    :return: dict with ``changes``, ``comment``, ``result``. :raises: as :func:`drain` and :func:`offered`.
    """
    host, (name, autodetect) = engine.host, _asked(engine, node, None)
    if left := around.half_done(engine, f"Node {name}", "Slurm", "gpu_slurm.resume"):
        return left
    before = control.node(host, name)
    ours, said = before.takes_none and before.reason.startswith(PREFIX) and around.may_end(before.reason), []
    if (ours or reread) and not test:
        control.reconfigure(host, name)
        said.append("Slurm was told to read its files.")
    if not before.takes_none:
        return around.answer({}, [*said, f"Node {name} takes jobs already."], test)
    if not ours:
        why = before.signed or "no reason is told"
        return around.answer({}, [*said, f"Node {name} stays drained, which somebody else wants: {why}."], test)
    if test:
        return around.answer(around.changed(name, before.state, "resumed"), [f"Node {name} would be given jobs again."], test)
    has = files.value(offered(engine, name, autodetect))
    now = around.awaited(host, within, lambda: control.node(host, name), lambda found: not _is_short(found, has))
    if _is_short(now, has):
        return {"result": False, "changes": {}, "comment": " ".join([*said, _invalid(name, now, has)])}
    after = _resumed(host, name, now)
    changes = around.changed(name, before.state, after.state)
    if after.takes_none:
        said.append(f"Node {name} was to be given jobs again, and is {after.state}. See 'scontrol show node {name}'.")
        return {"result": False, "changes": changes, "comment": " ".join(said)}
    if after.is_down:
        why = after.signed or "no reason is told"
        said.append(f"Node {name} is no longer drained, and {after.state}, which somebody else wants: {why}.")
        return around.answer(changes, said, test)
    return around.answer(changes, [*said, f"Node {name} is given jobs again."], test)


def _resumed(host, name, now):
    """The node after it was asked to be resumed. Slurm refuses that for one which somebody resumed meanwhile."""
    if now.is_down and (was := _DOWN.search(now.reason)):
        control.undrain(host, name, was[1] or "")
        return control.node(host, name)
    try:
        control.resume(host, name)
    except errors.ToolFailed:
        if (found := control.node(host, name)).takes_none:
            raise
        return found
    return control.node(host, name)


def _is_short(node, has):
    """
    Whether a node has less than slurm.conf says. Once it has told the controller so it is invalid; until then the counts tell
    that it is going to be.
    """
    there, wanted = files.counts(has), files.counts(node.gres)
    return node.is_invalid or any(there.get(name, 0) < wanted.get(name, 0) for name in _OURS)


def _invalid(name, now, has):
    counts = f" ({now.reason})" if not now.reason.startswith(PREFIX) else ""
    return (
        f"Node {name} was to be given jobs again, and is {now.state}: slurm.conf gives it more than it has{counts}. "
        f"Slurm counts Gres={now.gres or '(nothing)'}, and it has Gres={has or '(nothing)'}: write that into slurm.conf on all "
        "nodes, restart slurmctld, and call gpu_slurm.resume."
    )


def reconfigure(engine, node=None):
    """Have Slurm's daemons read their files anew. Raises as :func:`gpuslice.drivers.slurm.node`."""
    control.reconfigure(engine.host, _asked(engine, node, None)[0])
    return True


def _reason(doing, why, before):
    """Our reason: what it is for, the job that wanted it, and why the node was down where it was."""
    was = f"; it was down: {before.reason}".rstrip(": ") if before.is_down and not before.reason.startswith(PREFIX) else ""
    return f"{PREFIX} {around.reason(doing, why)}{was}"
