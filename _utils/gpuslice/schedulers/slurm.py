"""
Slurm on a node whose GPUs are sliced: what it is told of them, drained before a change and taken back after it.
"""

import os
import re

from gpuslice import errors
from gpuslice.drivers import slurm as control
from gpuslice.outputs import slurm as files
from gpuslice.printable import printable
from gpuslice.schedulers import files as sheets
from gpuslice.schedulers import offer

#: What each reason of ours begins with: only a drain with it is ended here.
PREFIX = "gpu-slicing:"
_HOSTNAME = "/proc/sys/kernel/hostname"
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,253}")
#: Seconds between two looks at a node.
_PAUSE = 2
#: What a change that is over tells those who run after it, and the outcome of it with which nobody is to get the node back.
_RESULT, _FAILED = "GPU_SLICING_RESULT", "failed"
_UNUSABLE = "it has no slices, and nobody can use it as a whole"
#: What to do where somebody else's gres.conf is.
_INSTEAD = "Name another path and include it there ('include <path>'), or move that file away."


# -- what it is told -------------------------------------------------------------------------------------------------------
def node_name(engine, node=None):
    """The node's name: as given, or the host's own up to the first dot. Raises errors.PolicyError: it can be none."""
    name = node if node is not None else _host_name(engine.host)
    if not _NODE.fullmatch(name):
        raise errors.PolicyError(
            f"node is {printable(name)[:80]!r}, which can be no NodeName of Slurm.",
            todo="Give the one of slurm.conf; see 'sinfo -N'.",
        )
    return name


def _host_name(host):
    try:
        return host.read(_HOSTNAME).strip().partition(".")[0]
    except OSError as err:
        raise errors.ToolFailed(f"The name of this host can't be read: {err.strerror}.", todo="Give 'node'.") from err


def offered(engine, node, autodetect=False):
    """
    What this node has for Slurm, as :class:`gpuslice.outputs.slurm.Sheet`.

    :raises errors.Unsupported: ``autodetect`` would give Slurm what nobody is to have, or end slurmd; errors.Unhealthy: a GPU
        can't be read, so that nobody knows what it has; what reading the records raises.
    """
    has = offer.read(engine, f"What node {node} has for Slurm")
    held = dict(has.held)
    if autodetect:
        _refuse_detection(node, held, has.every, has.bare, {part.gpu for part in has.whole})
    usable = {part.gpu for part in has.whole}
    held |= {gpu.address: _UNUSABLE for gpu in has.bare if gpu.address not in usable}
    return files.sheet(has.given, {gpu.address: gpu.name or gpu.model for gpu in engine.gpus}, held, autodetect)


def _refuse_detection(node, held, every, bare, whole):
    """Slurm finds all that NVML tells, and its daemon ends where a GPU in MIG mode has no MIG device (gpu_nvml.c)."""
    kinds = {part.name: part.kind for part in every}
    if theirs := [f"{name} ({why})" for name, why in held.items() if kinds.get(name, "gpu") in ("mig", "gpu")]:
        raise errors.Unsupported(
            f"With autodetect Slurm finds every GPU and MIG device of node {node}, and it must not have {'; '.join(theirs)}.",
            todo="Write the lines without autodetect.",
        )
    if empty := [gpu.address for gpu in bare if gpu.vendor == "nvidia" and gpu.address not in whole]:
        raise errors.Unsupported(
            f"With autodetect slurmd ends on node {node}, or gives out what can't be used: {', '.join(empty)} has neither MIG "
            "devices nor can it be used as a whole.",
            todo="Make MIG devices there or switch MIG mode off, or write the lines without autodetect.",
        )


def conf(engine, node=None, autodetect=False):
    """The text of ``gres.conf`` of this node. Raises as :func:`offered`."""
    name = node_name(engine, node)
    return files.text(offered(engine, name, autodetect), name, autodetect)


def gres(engine, node=None, autodetect=False):
    """The same as data: ``node``, ``gres`` (for ``slurm.conf``), ``types``, ``lines`` and ``left_out``. Raises likewise."""
    name = node_name(engine, node)
    found = offered(engine, name, autodetect)
    return {
        "node": name, "gres": files.value(found), "types": files.types(found),
        "lines": files.lines(found, name, autodetect), "left_out": dict(found.left),
    }  # fmt: skip


def write(engine, path, node=None, autodetect=False, test=False):
    """
    ``gres.conf`` says what this node has.

    :return: dict with ``changes``, ``comment``, and ``result`` but where ``test`` found something to change.
    :raises errors.PolicyError: the path is none; errors.ForeignChange: a file of somebody else is there; errors.PermissionDenied:
        it can't be written; and as :func:`offered`.
    """
    name = node_name(engine, node)
    kind = sheets.Kind("a gres.conf", ".conf", files.MARK, f"what node {name} has", f"node {name}", _INSTEAD)
    sheets.refuse_path(engine.host, path, kind)
    return sheets.write(engine.host, path, files.text(offered(engine, name, autodetect), name, autodetect), kind, test)


# -- around a change -------------------------------------------------------------------------------------------------------
def is_drained(engine, node=None):
    """Whether this node is given no jobs and has none. Raises as :func:`gpuslice.drivers.slurm.node`."""
    return control.node(engine.host, node_name(engine, node)).is_drained


def drain(engine, why="", node=None, within=0, test=False):
    """
    Have this node given no more jobs, and wait until it has none. One that is drained already, by whomever, is left so.

    :param why: a sentence; :param within: seconds to wait; :param test: change nothing.
    :return: dict with ``changes``, ``comment``, ``result``: whether it has no jobs any more.
    :raises: as :func:`gpuslice.drivers.slurm.node`; errors.PolicyError: the node's name.
    """
    host, name = engine.host, node_name(engine, node)
    before = control.node(host, name)
    changes = {}
    if not before.takes_none:
        if test:
            return {"changes": _changed(name, before.state, "drained"), "comment": f"Node {name} would be drained."}
        control.drain(host, name, _reason(engine.doing(), why))
    now = before if test else _awaited(host, name, within, lambda found: found.is_drained)
    if not before.takes_none:
        changes = _changed(name, before.state, now.state)
    if not now.is_drained:
        return {
            "result": False, "changes": changes,
            "comment": f"Node {name} was to have no jobs within {within:g} s, and is {now.state}: jobs still run there. "
            "Wait longer ('within'), or end them.",
        }  # fmt: skip
    by = "" if changes else f" already ({now.signed or 'no reason is told'})"
    return {"result": True, "changes": changes, "comment": f"Node {name} is drained{by}."}


def resume(engine, node=None, path=None, autodetect=False, within=0, test=False):
    """
    Have this node given jobs again, where we drained it; with ``path`` its ``gres.conf`` is written first, and Slurm reads it.

    :param within: seconds to wait until the controller finds the node valid; the others as of :func:`write`.
    :return: dict with ``changes``, ``comment``, ``result``. :raises: as :func:`drain` and :func:`write`.
    """
    host, name = engine.host, node_name(engine, node)
    if os.environ.get(_RESULT) == _FAILED:
        return {
            "result": False, "changes": {},
            "comment": f"Node {name} stays as it is in Slurm: the change before it left something half done. Mend that (see "
            "gpu.health and gpu_slicing.history), then call gpu_slurm.resume.",
        }  # fmt: skip
    before = control.node(host, name)
    written = write(engine, path, name, autodetect, test) if path else {"changes": {}, "comment": ""}
    changes, told = dict(written["changes"]), [written["comment"]] if written["changes"] else []
    ours = before.takes_none and before.reason.startswith(PREFIX)
    # Also where only the file is right: whoever wrote it may have found no controller.
    if path and not test and (written["changes"] or ours):
        control.reconfigure(host, name)
        told.append("Slurm was told to read it.")
    if not before.takes_none:
        told.append(f"Node {name} takes jobs already.")
        return _answer(changes, told, test)
    if not ours:
        told.append(f"Node {name} stays drained, which somebody else wants: {before.signed or 'no reason is told'}.")
        return _answer(changes, told, test)
    if test:
        changes |= _changed(name, before.state, "resumed")
        return _answer(changes, [*told, f"Node {name} would be given jobs again."], test)
    has = files.value(offered(engine, name, autodetect))
    now = _awaited(host, name, within, lambda found: not _is_short(found, has))
    if _is_short(now, has):
        told.append(_invalid(name, now, has))
        return {"result": False, "changes": changes, "comment": " ".join(told)}
    after = _resumed(host, name)
    changes |= _changed(name, before.state, after.state)
    if after.takes_none:
        told.append(f"Node {name} was to be given jobs again, and is {after.state}. See 'scontrol show node {name}'.")
        return {"result": False, "changes": changes, "comment": " ".join(told)}
    return _answer(changes, [*told, f"Node {name} is given jobs again."], test)


def _resumed(host, name):
    """The node after it was asked to be resumed. Slurm refuses that for one which somebody resumed meanwhile."""
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
    return node.is_invalid or any(there.get(name, 0) < count for name, count in wanted.items())


def _invalid(name, now, has):
    counts = f" ({now.reason})" if not now.reason.startswith(PREFIX) else ""
    return (
        f"Node {name} was to be given jobs again, and is {now.state}: slurm.conf gives it more than it has{counts}. "
        f"Slurm counts Gres={now.gres or '(nothing)'}, and it has Gres={has or '(nothing)'}: write that into slurm.conf on all "
        "nodes, restart slurmctld, and call gpu_slurm.resume."
    )


def reconfigure(engine, node=None):
    """Have Slurm's daemons read their files anew. Raises as :func:`gpuslice.drivers.slurm.node`."""
    control.reconfigure(engine.host, node_name(engine, node))
    return True


def _answer(changes, told, test):
    answer = {"changes": changes, "comment": " ".join(told)}
    return answer if test and changes else {"result": True, **answer}


def _changed(name, old, new):
    return {name: {"old": old, "new": new}}


def _reason(doing, why):
    """Our reason: what it is for, and the job that wanted it."""
    job = f"job {doing.jid}" if doing.jid else doing.who
    return f"{PREFIX} {' '.join(why.split()) or 'GPUs are sliced anew'} ({job})"


def _awaited(host, name, within, is_so):
    """The node once it is as wanted, or as it is when time is over."""
    last = host.monotonic() + within * host.patience()
    while True:
        found = control.node(host, name)
        if is_so(found) or host.monotonic() >= last:
            return found
        host.sleep(min(_PAUSE * host.patience(), max(0.0, last - host.monotonic())))
