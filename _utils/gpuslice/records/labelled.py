"""
Which labels the cluster has of this node by what the pillar says, and where they were applied: so that a run knows without asking
whether they are to be applied anew. It is noted when the node was taken back with them, and forgotten before that.
"""

from collections.abc import Mapping

from gpuslice import errors
from gpuslice.host.base import Host
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text

FILE = "node-labels.json"
NUMBER = 1
_TEXT = text(r"[^\x00-\x1f\x7f]{0,4096}")
_CHECKED = record({"where": table(_TEXT, _TEXT), "labels": table(_TEXT, _TEXT)})


def _record(host: Host) -> Record:
    return Record(host, FILE, "the record of the node's labels", NUMBER, lambda data: _CHECKED(data, "it"))


def place(where: Mapping[str, str | None]) -> dict[str, str]:
    """What tells where labels are applied: kubeconfig, context and node, of more keys; "" for what is not given."""
    return {name: where.get(name) or "" for name in ("kubeconfig", "context", "node")}


def read(host: Host) -> tuple[dict[str, str], dict[str, str]]:
    """
    (where they were applied, labels); ({}, {}) where that is to be done.

    :raises errors.StateDirUnusable: the record can't be used.
    """
    made = _record(host)
    found = made.read_if_there(
        lambda err: errors.StateDirUnusable(
            f"The record of this node's labels, {made.path}, can't be used ({reason(err)}).",
            todo="Remove that file, then run again: the labels are applied anew.",
        )
    )
    return (found["where"], found["labels"]) if found else ({}, {})


def note(host: Host, where: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """The cluster has these. Raises errors.StateDirUnusable."""
    _record(host).keep({"where": dict(where), "labels": dict(labels)}, lambda err: _unwritable(host, err))


def forget(host: Host) -> None:
    """They are to be applied. Raises errors.StateDirUnusable."""
    _record(host).keep(None, lambda err: _unwritable(host, err))


def _unwritable(host: Host, err: OSError) -> errors.StateDirUnusable:
    return errors.StateDirUnusable(
        f"The record of this node's labels, {_record(host).path}, can't be written: {err.strerror}.",
        todo="Free space or mend its permissions, then run again.",
    )
