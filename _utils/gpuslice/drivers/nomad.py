"""
A node of Nomad as its program ``nomad`` asks the agent of this host: how it is, draining it, and taking it back.

Source: hashicorp/nomad ``command/node_drain.go``, ``node_eligibility.go`` and ``node_status.go`` (options, messages),
``api/nodes.go`` (what ``-json`` prints), ``nomad/node_endpoint.go`` (events), ``nomad/state/state_store.go`` (what becomes of
``LastDrain``: it stays as it was when somebody makes the node eligible again).
"""

import json
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import programs
from gpuslice.host.base import Completed
from gpuslice.host.base import Host

PROGRAM = "nomad"
_NOMAD = programs.Program(PROGRAM, "Install Nomad's program, then run again.", "See 'nomad node status -self'")
#: The key of a drain's metadata by which ours is known, and that which says that the node was ineligible before it.
OURS, BEFORE = "gpu-slicing", "gpu-slicing-before"
INELIGIBLE = "ineligible"
_SECONDS = 60
_COMPLETE, _CANCELED = "complete", "canceled"
_MARKED = ("Node marked as eligible for scheduling", "Node marked as ineligible for scheduling")
_DRAINING = "Drain"
_TOKEN = "NOMAD_TOKEN"


class Node(NamedTuple):
    """
    A node as its servers have it.

    :ivar status: ``ready``, ``down``, ...; :ivar eligible: whether it is given jobs; :ivar draining: whether it is being drained.
    :ivar drained: whether its last drain came to its end, and nobody has made it eligible or ineligible since.
    :ivar meta: what whoever drained it last has said, {} where the node is not out of use by that.
    :ivar devices: UUIDs of NVIDIA's GPUs and MIG devices that it gives to jobs.
    """

    id: str
    name: str
    status: str
    eligible: bool
    draining: bool
    drained: bool
    meta: Mapping[str, str]
    devices: tuple[str, ...]

    @property
    def state(self) -> str:
        """How it is, in a word, and its status where that is not the usual one."""
        word = "draining" if self.draining else "eligible" if self.eligible else "drained" if self.drained else INELIGIBLE
        return word if self.status == "ready" else f"{word}, {self.status}"

    @property
    def is_drained(self) -> bool:
        """Whether it is given no jobs and has none."""
        return not self.eligible and not self.draining and self.drained

    @property
    def is_ours(self) -> bool:
        """Whether it is out of use since we drained it."""
        return not self.eligible and OURS in self.meta

    @property
    def by(self) -> str:
        """Who or what took it out of use, in the words that were said then."""
        return self.meta.get("message") or "no message is told"


def node(host: Host, which: str = "") -> Node:
    """
    How a node is.

    :param which: its id; that of this host where it is "". :raises errors.DeviceNotFound: there is none; errors.ToolFailed,
        errors.ToolMissing, errors.ToolHangs.
    """
    done = _nomad(host, ["status", "-json", *_named(which)], "to know how this node is")
    try:
        found = json.loads(done.stdout)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("ID"), str) or "SchedulingEligibility" not in found:
        raise errors.ToolFailed(
            "nomad was asked to know how this node is, and its answer describes no node.",
            todo="See 'nomad node status -self -json'.",
        )
    return _read(found)


def _read(found: dict) -> Node:
    last = found.get("LastDrain") if isinstance(found.get("LastDrain"), dict) else {}
    draining = found.get("DrainStrategy") is not None or found.get("Drain") is True
    by_drain = draining or (last.get("Status") != _CANCELED and _is_by_drain(found.get("Events")))
    meta = last.get("Meta") if by_drain and isinstance(last.get("Meta"), dict) else {}
    return Node(
        found["ID"], str(found.get("Name") or found["ID"]), str(found.get("Status") or "unknown"),
        found["SchedulingEligibility"] == "eligible", draining, by_drain and last.get("Status") == _COMPLETE,
        {str(key): str(value) for key, value in meta.items()}, tuple(_devices(found.get("NodeResources"))),
    )  # fmt: skip


def _is_by_drain(events: object) -> bool:
    """
    Whether the last that was said of jobs for the node was a drain. The node keeps its last ten events: where none of these is of
    that kind it is older, and so was the drain.
    """
    told = [each for each in events if isinstance(each, dict)] if isinstance(events, list) else []
    of_jobs = [each for each in told if each.get("Subsystem") == _DRAINING or each.get("Message") in _MARKED]
    return not of_jobs or of_jobs[-1].get("Subsystem") == _DRAINING


def _devices(resources: object) -> list[str]:
    groups = resources.get("Devices") if isinstance(resources, dict) else None
    found = []
    for group in groups if isinstance(groups, list) else []:
        if isinstance(group, dict) and group.get("Vendor") == "nvidia" and isinstance(group.get("Instances"), list):
            found += [each["ID"] for each in group["Instances"] if isinstance(each, dict) and isinstance(each.get("ID"), str)]
    return found


def drain(host: Host, which: str, reason: str, who: str, deadline: int | None, before: str = "", system: bool = True) -> None:
    """
    Have a node given no more jobs, and those that it has moved away.

    :param reason: for people; :param who: who asks, by which the drain is known as ours.
    :param deadline: seconds after which Nomad ends what is left by force, None for never. :param before: :data:`INELIGIBLE` for a
        node that was so already. :param system: whether system jobs end too. Raises as :func:`node`.
    """
    told = ["-m", reason, "-meta", f"{OURS}={who}", *(["-meta", f"{BEFORE}={before}"] if before else [])]
    ends = ["-no-deadline"] if deadline is None else ["-deadline", f"{deadline}s"]
    kept = [] if system else ["-ignore-system"]
    _nomad(host, ["drain", "-enable", "-yes", "-detach", *ends, *kept, *told, *_named(which)], "to drain this node")


def stop_draining(host: Host, which: str, stays: bool, reason: str) -> None:
    """End a drain that goes on; :param stays: whether the node is to stay ineligible. Raises as :func:`node`."""
    kept = ["-keep-ineligible"] if stays else []
    _nomad(host, ["drain", "-disable", "-yes", *kept, "-m", reason, *_named(which)], "to end the drain of this node")


def make_eligible(host: Host, which: str) -> None:
    """Have a node given jobs again. Raises as :func:`node`."""
    _nomad(host, ["eligibility", "-enable", *_named(which)], "to give jobs to this node again")


def _named(which: str) -> list[str]:
    return [which] if which else ["-self"]


def _nomad(host: Host, arguments: list[str], wanted: str) -> Completed:
    done = programs.ask(host, _NOMAD, ["node", *arguments], wanted, _SECONDS)
    if not done.returncode:
        return done
    said = without_token(done.said or done.failure)
    if re.search(r"No node\(s\) with|not running in client mode|Identifier must contain", said):
        raise errors.DeviceNotFound(
            f"nomad was asked {wanted}, and knows no such node: {said.rstrip('.')}.",
            todo="Give the node's id as 'node' (see 'nomad node status'), or call it where Nomad's client runs.",
        )
    raise errors.ToolFailed(f"nomad was asked {wanted}, and refused: {said.rstrip('.')}.", todo=_todo(said))


def _todo(said: str) -> str:
    if re.search(r"connection refused|no such host|i/o timeout|No cluster leader|context deadline exceeded", said):
        return "Start Nomad's agent or mend the way to it (NOMAD_ADDR, 'nomad server members'), then run again."
    if re.search(r"Permission denied|ACL token not found|\b403\b", said):
        return "Give the minion a NOMAD_TOKEN whose policy has node:write and agent:read, then run again."
    return "See 'nomad node status -self', then run again."


def without_token(text: str) -> str:
    """A text without the token that this process has for Nomad, which its program may repeat: it looks like any other UUID."""
    token = os.environ.get(_TOKEN, "")
    return text.replace(token, "(the token)") if len(token) > 3 else text
