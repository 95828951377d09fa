"""
Nomad on a simulated machine, as far as anything here asks it: a client, its servers, and NVIDIA's device plugin, which finds GPUs
and MIG devices and reads what it is to ignore when the agent (``nomad.service``) starts. Written from ``command/``, ``api/`` and
``nomad/state/`` of hashicorp/nomad, and from hashicorp/nomad-device-nvidia.
"""

import json
import re

from gpuslice.host.base import Completed
from gpuslice.sim import devices

UNIT = "nomad.service"
#: The agent's folder of files.
_PLACE = "/etc/nomad.d/"
AGENTS = ("up", "away", "refuses", "server", "garbled")
_KEYS = ("node", "eligible", "busy", "agent", "period", "status")
_AWAY = 'Get "http://127.0.0.1:4646/v1/agent/self": dial tcp 127.0.0.1:4646: connect: connection refused'
_TIME = "2026-11-29T22:48:46Z"
#: A node keeps as many events.
_EVENTS = 10


def parse(raw, mistakes):
    """The key ``nomad`` of a description: see :mod:`gpuslice.sim.description`."""
    raw = mistakes.mapping(raw, "nomad", _KEYS)
    found = {key: mistakes.take(raw, "nomad", key, str, default) for key, default in (("node", ""), ("status", "ready"))}
    found["eligible"] = mistakes.take(raw, "nomad", "eligible", bool, True)
    found |= {key: mistakes.take(raw, "nomad", key, int, 0) for key in ("busy", "period")}
    found["agent"] = mistakes.take(raw, "nomad", "agent", str, "up", AGENTS)
    return found


def files(state, written):
    """The files that the agent reads when it starts, with their texts."""
    found = {**state["host"]["files"], **written}
    return {path: text for path, text in found.items() if path.startswith(_PLACE) and path.endswith(".hcl")}


def nomad(host, arguments, running):
    """
    ``nomad node status|drain|eligibility ...``, of this node by ``-self`` or its id.

    :param running: function from a state to the units that run, with the files that each read when it started.
    """
    with host.change() as state:
        told = state.setdefault("nomad", _made(state["host"]))
        if arguments[:1] != ["node"] or len(arguments) < 2:
            return Completed(1, "", "Usage: nomad node <subcommand> [options] [args]\n")
        told["asked"].append(" ".join(arguments[1:]))
        if told["agent"] == "away":
            return Completed(1, "", f"Error querying agent info: failed querying self endpoint: {_AWAY}\n")
        if told["agent"] == "server":
            return Completed(1, "", "Nomad not running in client mode\n")
        options, rest = _options(arguments[2:])
        if "-self" not in options and (len(rest) != 1 or not told["id"].startswith(rest[0])):
            return Completed(1, "", f'No node(s) with prefix or id "{"".join(rest)}" found\n')
        if arguments[1] == "status":
            return Completed(0, "[" if told["agent"] == "garbled" else json.dumps(_status(state, told, running), indent=4))
        if told["agent"] == "refuses":
            return Completed(1, "", "Error updating drain specification: Unexpected response code: 403 (Permission denied)\n")
        if arguments[1] == "drain":
            return _drain(told, options)
        if arguments[1] == "eligibility":
            return mark(told, "-enable" in options)
    return Completed(1, "", f"Usage: nomad node <subcommand> [options] [args]: no {arguments[1]}\n")


def _made(host):
    told = host.get("nomad") or {"node": "", "eligible": True, "busy": 0, "agent": "away", "period": 0, "status": "ready"}
    name = told["node"] or host["name"]
    return {
        **told, "node": name, "id": devices.made_uuid("", name, "nomad"), "draining": None, "last": None, "asked": [],
        "events": [{"Message": "Node registered", "Subsystem": "Cluster", "Details": None, "Timestamp": _TIME}],
        "seen": None, "age": 0,
    }  # fmt: skip


def _options(arguments):
    """(option -> its values, what is none), of Go's options: a value stands behind those that have one."""
    valued, options, rest, words = ("-deadline", "-m", "-meta"), {}, [], list(arguments)
    while words:
        word = words.pop(0)
        if word in valued and words:
            options.setdefault(word, []).append(words.pop(0))
        elif word.startswith("-"):
            options[word] = []
        else:
            rest.append(word)
    return options, rest


def _say(told, message, subsystem="Drain"):
    event = {"Message": message, "Subsystem": subsystem, "Details": None, "Timestamp": _TIME}
    told["events"] = [*told["events"], event][-_EVENTS:]


def _status(state, told, running):
    if told["draining"] and not told["busy"]:
        _complete(told)
    elif told["draining"]:
        # What runs there ends by itself, after as many looks.
        told["busy"] -= 1
    return {
        "ID": told["id"], "Name": told["node"], "Datacenter": "dc1", "Status": told["status"],
        "Drain": told["draining"] is not None, "DrainStrategy": told["draining"],
        "SchedulingEligibility": "eligible" if told["eligible"] else "ineligible",
        "LastDrain": told["last"], "Events": told["events"], "Attributes": {"driver.docker": "1"},
        "NodeResources": {"Devices": _devices(state, told, running)},
    }  # fmt: skip


def _devices(state, told, running):
    """What the plugin told last: it looks every so often, and when its agent starts."""
    starts = state.get("starts", {}).get(UNIT, 0)
    told["age"] += 1
    if told["seen"] is None or told["age"] > told["period"] or told.get("starts", 0) != starts:
        told["seen"], told["age"], told["starts"] = _found(state, running(state).get(UNIT)), 0, starts
    instances = [{"ID": uuid, "Healthy": True, "HealthDescription": "", "Locality": None} for uuid in told["seen"]]
    return [{"Vendor": "nvidia", "Type": "gpu", "Name": "NVIDIA GPU", "Instances": instances}] if instances else None


def _found(state, read):
    """UUIDs of GPUs without MIG mode, and of MIG devices, but for those that it is to ignore."""
    listed = re.findall(r"ignored_gpu_ids\s*=\s*\[([^\]]*)\]", "\n".join((read or {}).values()))
    ignored = set(re.findall(r'"([^"]+)"', ",".join(listed)))
    found = []
    for gpu in state["gpus"].values():
        if gpu["about"]["vendor"] != "10de" or gpu["about"]["driver"] != "nvidia":
            continue
        if not gpu["mode"]:
            found.append(gpu["about"]["uuid"])
            continue
        found += [ci["uuid"] for gi in gpu["gis"].values() for ci in gi["cis"].values()]
    return sorted(uuid for uuid in found if uuid not in ignored)


def _drain(told, options):
    meta = dict(word.split("=", 1) for word in options.get("-meta", ()))
    if "-enable" in options:
        if "-m" in options:
            meta["message"] = options["-m"][0]
        _say(told, "Node drain strategy set" if told["draining"] is None else "Node drain strategy updated")
        told["draining"] = {"Deadline": (options.get("-deadline") or ["0"])[0], "IgnoreSystemJobs": "-ignore-system" in options}
        told["eligible"] = False
        told["last"] = {"StartedAt": _TIME, "UpdatedAt": _TIME, "Status": "draining", "AccessorID": "", "Meta": meta or None}
        if "-deadline" in options or "-force" in options:
            told["busy"] = min(told["busy"], 1)
        return Completed(0, f'Node "{told["id"]}" drain strategy set\n')
    if told["draining"] is not None:
        told["last"] = {**told["last"], "Status": "canceled"}
        _say(told, "Node drain disabled")
    told["draining"] = None
    told["eligible"] = told["eligible"] or "-keep-ineligible" not in options
    return Completed(0, f'Node "{told["id"]}" drain strategy unset\n')


def _complete(told):
    told["draining"], told["last"] = None, {**told["last"], "Status": "complete"}
    _say(told, "Node drain complete")


def mark(told, eligible):
    """The node is made eligible or not: what its last drain was stays as it is."""
    if eligible and told["draining"]:
        why = "can not set node's scheduling eligibility to eligible while it is draining"
        return Completed(1, "", f"Error updating scheduling eligibility: {why}\n")
    told["eligible"] = eligible
    _say(told, f"Node marked as {'' if eligible else 'in'}eligible for scheduling", "Cluster")
    return Completed(0, f'Node "{told["id"]}" scheduling eligibility set\n')
