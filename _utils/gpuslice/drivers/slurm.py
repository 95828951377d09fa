"""
Slurm's controller as ``scontrol`` asks it: how a node is, draining it, and taking it back.

Source: scontrol(1); its answers were seen of Slurm 22.05.
"""

import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import programs
from gpuslice.drivers.host_name import host_name
from gpuslice.host.base import Completed
from gpuslice.host.base import Host
from gpuslice.printable import printable

PROGRAM = "scontrol"
_SCONTROL = programs.Program(PROGRAM, "Install Slurm's client (Debian: slurm-client), then run again.", "See 'scontrol ping'")
#: ALL is every node of the cluster.
_NAME = re.compile(r"(?!(?i:all)$)[A-Za-z0-9][A-Za-z0-9_.-]{0,253}")
#: Seconds in which it answers; with a controller that is away it gives up after 9.
_SECONDS = 30
#: What it adds to a reason: who gave it, and when.
_SIGNED = re.compile(r" \[[^\[\]]*@[^\[\]]*\]$")
_DRAINED = {"DRAIN", "DRAINED", "DRAINING", "FAIL", "FAILING"}
_DOWN = "DOWN"
_BUSY = {"ALLOCATED", "MIXED", "COMPLETING", "DRAINING", "FAILING"}
_INVALID = {"INVALID_REG", "INVAL"}


class Node(NamedTuple):
    """
    A node as the controller has it.

    :ivar states: ``IDLE``, ``DRAIN``, ...; :ivar reason: why it is drained, without who said so; "" for none.
    :ivar signed: the same with who said so, and when. :ivar gres: what it is given out with.
    """

    name: str
    states: tuple[str, ...]
    reason: str
    signed: str
    gres: str

    @property
    def is_drained(self) -> bool:
        """Whether it is given no more jobs, and has none."""
        return self.takes_none and not _BUSY & set(self.states)

    @property
    def takes_none(self) -> bool:
        """Whether it is given no more jobs."""
        return bool(_DRAINED & set(self.states))

    @property
    def is_down(self) -> bool:
        """Whether it is out of use beside any drain, which Slurm's ``RESUME`` would end too."""
        return _DOWN in self.states

    @property
    def is_invalid(self) -> bool:
        """Whether it has fewer gres than the controller's ``slurm.conf`` says."""
        return bool(_INVALID & set(self.states))

    @property
    def state(self) -> str:
        """As Slurm writes it."""
        return "+".join(self.states)


def node_name(host: Host, name: str | None = None) -> str:
    """
    Name of this node: as given, or the host's own up to the first dot.

    :raises errors.PolicyError: it can be none; errors.ToolFailed: the host's own can't be read.
    """
    found = name if name is not None else host_name(host).partition(".")[0]
    if not _NAME.fullmatch(found):
        raise errors.PolicyError(
            f"node is {printable(found)[:80]!r}, which can be no NodeName of Slurm.",
            todo="Give the one of slurm.conf; see 'sinfo -N'.",
        )
    return found


def node(host: Host, name: str) -> Node:
    """How a node is. Raises errors.DeviceNotFound: Slurm does not know it; errors.ToolFailed, errors.ToolMissing."""
    done = _scontrol(host, ["show", "node", name], f"to know how node {name} is", name)
    states = re.search(r"^\s*State=(\S+)", done.stdout, re.MULTILINE)
    if states is None or _value(done.stdout, "NodeName").partition(" ")[0] != name:
        raise errors.ToolFailed(
            f"How node {name} is was asked of Slurm, and its answer has no State= of it.",
            todo=f"See 'scontrol show node {name}'.",
        )
    signed = _value(done.stdout, "Reason")
    found = tuple(re.sub(r"[^A-Z_]+$", "", word) for word in states[1].upper().split("+"))
    return Node(name, found, _SIGNED.sub("", signed), signed, _value(done.stdout, "Gres").replace("(null)", ""))


def drain(host: Host, name: str, reason: str) -> None:
    """Have a node given no more jobs. Raises as :func:`node`."""
    _scontrol(host, ["update", f"NodeName={name}", "State=DRAIN", f"Reason={reason}"], f"to drain node {name}", name)


def resume(host: Host, name: str) -> None:
    """Have a node given jobs again. Raises as :func:`node`."""
    _scontrol(host, ["update", f"NodeName={name}", "State=RESUME"], f"to resume node {name}", name)


def undrain(host: Host, name: str, reason: str) -> None:
    """
    End the drain of a node that is down, which it stays.

    :param reason: why it is, which the drain's took the place of; "" for none. Raises as :func:`node`.
    """
    why = [f"Reason={reason}"] if reason else []
    _scontrol(host, ["update", f"NodeName={name}", "State=UNDRAIN", *why], f"to end the drain of node {name}", name)


def reconfigure(host: Host, name: str) -> None:
    """Have all daemons read their files anew; :param name: of this node, for messages. Raises as :func:`node`."""
    _scontrol(host, ["reconfigure"], f"to have Slurm read the gres.conf of node {name}", name)


def _value(text: str, key: str) -> str:
    found = re.search(rf"^\s*{key}=(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else ""


def _scontrol(host: Host, arguments: list[str], wanted: str, name: str) -> Completed:
    done = programs.ask(host, _SCONTROL, arguments, wanted, _SECONDS)
    if not done.returncode:
        return done
    said = done.said or done.failure
    if "not found" in said or "Invalid node name" in said:
        raise errors.DeviceNotFound(
            f"scontrol was asked {wanted}, and Slurm knows no node of that name.",
            todo="Give its NodeName of slurm.conf as 'node'; see 'sinfo -N'.",
        )
    away = "Unable to contact" in said or "connect failure" in said
    todo = "Start slurmctld, or mend the way to it ('scontrol ping'), then run again." if away else (
        f"See 'scontrol show node {name}', then run again."
    )  # fmt: skip
    raise errors.ToolFailed(f"scontrol was asked {wanted}, and refused: {said.rstrip('.')}.", todo=todo)
