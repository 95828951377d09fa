"""
Slurm on a simulated machine, as far as anything here asks it: one node, whose controller ``scontrol`` asks. The answers and
what a count that shrinks leads to are those of Slurm 22.05 on loopback.
"""

import re

from gpuslice.host.base import Completed

NOTHING = Completed(0)
CONTROLLERS = ("up", "away", "refuses")
_CONF = "/etc/slurm/gres.conf"
_GRES = ("gpu", "shard", "mps")
_AWAY = "Unable to contact slurm controller (connect failure)\n"
_KEYS = ("node", "gres", "state", "reason", "busy", "controller")


def parse(raw, mistakes):
    """The key ``slurm`` of a description: see :mod:`gpuslice.sim.description`."""
    raw = mistakes.mapping(raw, "slurm", _KEYS)
    found = {key: mistakes.take(raw, "slurm", key, str, default) for key, default in
             (("node", ""), ("gres", ""), ("state", "IDLE"), ("reason", ""))}  # fmt: skip
    found["busy"] = mistakes.take(raw, "slurm", "busy", int, 0)
    found["controller"] = mistakes.take(raw, "slurm", "controller", str, "up", CONTROLLERS)
    return found


def scontrol(host, arguments):
    """``scontrol show node NODE``, ``update NodeName=NODE State=... [Reason=...]``, and ``reconfigure``."""
    with host.change() as state:
        slurm = state.setdefault("slurm", _made(state["host"]))
        slurm["asked"].append(" ".join(arguments))
        doing = {"show": "slurm_load_node", "update": "slurm_update", "reconfigure": "slurm_reconfigure"}.get(arguments[0], "")
        if slurm["controller"] == "away":
            return Completed(1, "", f"{doing} error: {_AWAY}")
        if arguments[:2] == ["show", "node"] and len(arguments) == 3:
            return _show(slurm, arguments[2])
        if slurm["controller"] == "refuses":
            return Completed(1, "", f"{doing} error: Invalid user id\n")
        if arguments == ["reconfigure"]:
            return _register(state, slurm)
        if arguments[0] == "update":
            return _update(slurm, dict(word.split("=", 1) for word in arguments[1:]))
    return Completed(1, "", f"invalid keyword: {arguments[0]}\n")


def _made(host):
    told = host.get("slurm") or {"node": "", "gres": "", "state": "IDLE", "reason": "", "busy": 0, "controller": "away"}
    return {**told, "node": told["node"] or host["name"], "state": told["state"].split("+"), "asked": []}


def _show(slurm, name):
    if name != slurm["node"]:
        return Completed(1, f"Node {name} not found\n")
    states = list(slurm["state"])
    if slurm["busy"]:
        # Jobs that run when it is drained end by themselves, after as many looks.
        states[0] = "ALLOCATED"
        slurm["busy"] -= "DRAIN" in states
    reason = f"   Reason={slurm['reason']} [root@2026-11-29T22:48:46]\n" if slurm["reason"] else ""
    return Completed(
        0,
        f"NodeName={name} Arch=x86_64 CoresPerSocket=1 \n   Gres={slurm['gres'] or '(null)'}\n"
        f"   State={'+'.join(states)} ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A\n   Partitions=p \n{reason}\n",
    )


def _update(slurm, given):
    if given.get("NodeName") != slurm["node"]:
        return Completed(1, "", "slurm_update error: Invalid node name specified\n")
    if given.get("State") == "DRAIN":
        if not given.get("Reason"):
            return Completed(1, "", "You must specify a reason when DOWNING or DRAINING a node. Request denied\n")
        _drain(slurm, given["Reason"])
        return NOTHING
    if given.get("State") == "UNDRAIN":
        slurm["state"] = [word for word in slurm["state"] if word != "DRAIN"]
        slurm["reason"] = given.get("Reason", slurm["reason"])
        return NOTHING
    if given.get("State") == "RESUME":
        if "INVALID_REG" in slurm["state"] or "DRAIN" not in slurm["state"]:
            return Completed(1, "", "slurm_update error: Invalid node state specified\n")
        # A node that is down comes up by it.
        slurm["state"] = ["IDLE" if word == "DOWN" else word for word in slurm["state"] if word != "DRAIN"]
        slurm["reason"] = ""
        return NOTHING
    return Completed(1, "", "slurm_update error: Invalid node state specified\n")


def _drain(slurm, reason):
    if "DRAIN" not in slurm["state"]:
        slurm["state"].append("DRAIN")
    slurm["reason"] = reason


def _register(state, slurm):
    """The node tells what its file has; fewer than configured is invalid, and drained where nobody has drained it."""
    text = {**state["host"]["files"], **state["written"]}.get(_CONF, "")
    has = _counts(re.findall(r"^NodeName=\S+ Name=(\w+)(?: Type=\S+)?(?: Count=(\d+))?", text, re.MULTILINE))
    wanted = _configured(slurm)
    # What else a node has stands in another file of its.
    short = [(name, has.get(name, 0), wanted[name]) for name in _GRES if has.get(name, 0) < wanted.get(name, 0)]
    slurm["state"] = [word for word in slurm["state"] if word != "INVALID_REG"]
    if short:
        name, there, count = short[0]
        if "DRAIN" not in slurm["state"]:
            _drain(slurm, f"gres/{name} count reported lower than configured ({there} < {count})")
        slurm["state"].append("INVALID_REG")
    return NOTHING


def _configured(slurm):
    return _counts(re.findall(r"(\w+)(?::[^:,]+)?:(\d+)(?:,|$)", slurm["gres"]))


def _counts(found):
    counts = {}
    for name, count in found:
        counts[name] = counts.get(name, 0) + int(count or 1)
    return counts
