"""
NVIDIA's Multi-Process Service on a simulated machine: the control daemon, its client program, and the units that run it. Measured
with nvidia-cuda-mps-control 550.163.01: every command ends with 0, whatever the daemon thinks of it.

Protocol v3 is as the manual of driver 615 has it, which brought it.

Two calls can have faults beside that of the program (``run``): ``mps-set`` with ``lie`` is a daemon that does not take a value,
``mps-start`` with ``lie`` one that ends right after its start.
"""

import re

from gpuslice.host.base import Completed
from gpuslice.sim import compute_policy
from gpuslice.sim import hardware

CONTROL = "nvidia-cuda-mps-control"
_PREFIX = "gpu-slicing-mps-"
_FOLDERS = ("/etc/systemd/system", "/run/systemd/system")
_SHOWN = (CONTROL, "nvidia-smi")
#: The driver that brought protocol v3; what its settings can have for a server and for a namespace of that.
_V3, _KEYS = 615, {"active_thread_percentage", "pinned_memory_limit", "client_priority"}
_SERVER_KEYS = {*_KEYS, "allowed_devices", "uid", "locality_domains"}
_UNITS = {"": 1, "M": 1, "MB": 1, "G": 1024, "GB": 1024}


# -- what the kernel shows -------------------------------------------------------------------------------------------
def show(tree, state):
    """The programs, and the folders of the daemons that run or ran since the boot."""
    if any(gpu["about"]["vendor"] == "10de" for gpu in state["gpus"].values()):
        for program in _SHOWN:
            if program in state["host"]["tools"]:
                tree.file(f"/usr/bin/{program}", "")
    tree.dir("/dev/shm")
    if "mps" in state:
        # It stays when the last unit in it goes.
        tree.dir(_FOLDERS[1])
    for folder, daemon in state.get("mps", {}).items():
        tree.file(f"{folder}/control", "")
        tree.file(f"{folder}/{CONTROL}.pid", f"{daemon['pid']}\n")
        for server, name in (place.split(".") for place in daemon.get("namespaces", {})):
            tree.file(f"{folder}/{server}/{name}/control", "")


def write(state, path, text, look):
    """No file of the kernel is a daemon's."""
    return False


def modprobe(state, module, loading):
    """No module is MPS's."""


def reboot(state):
    """No daemon starts by itself: its unit lay in /run."""
    state.pop("mps", None)


# -- units -----------------------------------------------------------------------------------------------------------
def installed(state, unit):
    """Whether it is a unit of an MPS daemon that was written to the machine."""
    return bool(unit.startswith(_PREFIX) and _text(state, unit))


def _text(state, unit):
    return next((text for place in _FOLDERS if (text := state["written"].get(f"{place}/{unit}"))), "")


def switch(host, verb, unit):
    """``systemctl start|stop|restart`` of such a unit, with what systemd does of its text."""
    state = host.state()
    if not state["host"]["privileged"]:
        return Completed(4, "", f"Failed to {verb} {unit}: Access denied\n")
    running = any(daemon["unit"] == unit and _alive(state, daemon) for daemon in state.get("mps", {}).values())
    if verb == "start" and running:
        return Completed(0)
    stop(host, unit)
    return Completed(0) if verb == "stop" or _start(host, unit) else _job_failed(unit)


def _job_failed(unit):
    return Completed(
        1, "", f"Job for {unit} failed because the control process exited with error code.\n"
        f"See \"systemctl status {unit}\" and \"journalctl -xeu {unit}\" for details.\n",
    )  # fmt: skip


def stop(host, unit):
    """The daemon quits, and its folder goes with it."""
    with host.change() as state:
        daemons = dict(state.get("mps", {}))
        for folder, daemon in list(daemons.items()):
            if daemon["unit"] == unit:
                del daemons[folder]
                _mode(state, _text(state, unit), "ExecStopPost")
        state["mps"] = daemons
        state["processes"] = [process for process in state["processes"] if process["unit"] != unit]


def _start(host, unit):
    """Whether the unit becomes active."""
    dies = any(fault["lie"] for fault in host.hit("mps-start"))
    with host.change() as state:
        text = _text(state, unit)
        folder = re.search(r"^Environment=CUDA_MPS_PIPE_DIRECTORY=(.+)$", text, re.MULTILINE)[1]
        _mode(state, text, "ExecStartPre")
        pid = max([30000, *(process["pid"] for process in state["processes"])]) + 1
        device = re.search(r"^Environment=CUDA_VISIBLE_DEVICES=(.+)$", text, re.MULTILINE)[1]
        daemon = {"unit": unit, "pid": pid, "device": device, "threads": 100.0, "pinned": None}
        file = re.search(r"^ExecStart=.* -p 3 -a (\S+)$", text, re.MULTILINE)
        if file:
            namespaces = _namespaces(state, state["written"].get(file[1], ""))
            if namespaces is None:
                return False
            daemon["namespaces"] = namespaces
        state["mps"] = {**state.get("mps", {}), folder: daemon}
        state["processes"].append(_process(pid, unit))
    if file and _lies(host):
        with host.change() as state:
            state["mps"] = {**state["mps"], folder: {**daemon, "namespaces": dict.fromkeys(daemon["namespaces"], ["100", ""])}}
    wanted = [_wanted(host, folder, line) for line in re.findall(r'ask "(set_[^"]+)"', text)]
    told = re.findall(r'" = (\S+?)(?:;|\'$)', text, re.MULTILINE)
    if dies:
        with host.change() as state:
            state["processes"] = [process for process in state["processes"] if process["pid"] != pid]
        return True
    if wanted == told and _are_told(host, folder, text):
        return True
    stop(host, unit)
    return False


def _namespaces(state, text):
    """``server.namespace`` -> [percentage, memory] of settings in TOML; None where the daemon does not start with them."""
    if int(str(state["host"]["driver"]["version"]).split(".")[0]) < _V3 or 'schema_version = "1.0"' not in text:
        # An older one takes the arguments for words to a daemon.
        return None
    found, own = {}, None
    for line in filter(None, (line.strip() for line in text.splitlines())):
        if line.startswith("#") or line.startswith("schema_version"):
            continue
        if table := re.fullmatch(r"\[servers\.([a-z0-9_]{1,64})(?:\.namespaces\.([a-z0-9_]{1,64}))?\]", line):
            keys, own = (
                (_KEYS if table[2] else _SERVER_KEYS),
                found.setdefault(f"{table[1]}.{table[2] or 'default'}", ["100", ""]),
            )
            continue
        pair = re.fullmatch(r'([a-z_]+) = "([^"]*)"', line)
        if not pair or own is None or pair[1] not in keys:
            return None
        if pair[1] in ("active_thread_percentage", "pinned_memory_limit"):
            own[pair[1] != "active_thread_percentage"] = pair[2]
    return found


def _are_told(host, folder, text):
    """Whether the daemon tells what the unit looks for in its namespaces."""
    lines = re.findall(r'case "\$\$\(got (\S+) (\S+)\)" in (\S+?)\) ;;', text)
    return all(_field(host.state()["mps"][folder], f"shares.{name}", what) in told.split("|") for name, what, told in lines)


def _field(daemon, namespace, what):
    """One field of a namespace, as the daemon tells it."""
    found = daemon.get("namespaces", {}).get(namespace, ["", ""])
    return found[what == "pinned-memory-limit"]


def _wanted(host, folder, line):
    """What the daemon tells after a command that sets something."""
    _answer(host, folder, line)
    get = {"set_default_active_thread_percentage": "get_default_active_thread_percentage"}.get(
        line.split()[0], "get_default_device_pinned_mem_limit 0"
    )
    return _answer(host, folder, get)


def _mode(state, text, line):
    """``nvidia-smi -i UUID -c MODE`` of a line of the unit."""
    found = re.search(rf"^{line}=\S*nvidia-smi -i (\S+) -c (\w+)$", text, re.MULTILINE)
    gpu = next((gpu for gpu in state["gpus"].values() if found and gpu["about"]["uuid"] == found[1]), None)
    if gpu is not None and not gpu["mode"]:
        compute_policy.set_mode(gpu, {"DEFAULT": 0, "EXCLUSIVE_PROCESS": 3}[found[2]])


def _process(pid, unit):
    return {
        "pid": pid, "command": f"/usr/bin/{CONTROL} -f", "unit": unit, "container": "", "type": "compute", "memory_mib": 0,
        "stubborn": False,
        "nodes": [], "uses": [], "ancestor": False, "shown_as": {},
    }  # fmt: skip


def _alive(state, daemon):
    return any(process["pid"] == daemon["pid"] for process in state["processes"])


# -- the client program ----------------------------------------------------------------------------------------------
def control(host, arguments, given, environment):
    """``nvidia-cuda-mps-control``: the words on its input go to the daemon of the folder in its environment."""
    state, folder = host.state(), environment.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps")  # noqa: S108 - the vendor's place
    daemon = state.get("mps", {}).get(folder)
    if daemon is None or not _alive(state, daemon) or bool(arguments) != ("namespaces" in daemon):
        return Completed(1, "Cannot find MPS control daemon process\n")
    if arguments:
        return _asked(state, daemon, list(arguments))
    said = [_answer(host, folder, line) for line in given.splitlines() if line.strip()]
    return Completed(0, "".join(f"{line}\n" for line in said if line))


def _asked(state, daemon, arguments):
    """``nvidia-cuda-mps-control MODULE VERB ...`` of protocol v3."""
    if arguments[:2] == ["namespace", "list"]:
        lines = [
            ",".join([*reversed(place.split(".")), "Ready", memory or "-", percent, "0", f"/{place.replace('.', '/')}"])
            for place, (percent, memory) in sorted(daemon["namespaces"].items())
        ]
        return Completed(0, "".join(f"{line}\n" for line in lines))
    if arguments[:2] == ["namespace", "get"] and len(arguments) == 5:
        return Completed(0, f"{_field(daemon, f'{arguments[3]}.{arguments[2]}', arguments[4])}\n")
    if arguments[:2] == ["client", "list"]:
        return Completed(0, "".join(f"{pid},shares,0,default,python\n" for pid in _clients(state, daemon)))
    return Completed(1, "", f"Unknown command {' '.join(arguments)}\n")


def _lies(host):
    return any(fault["lie"] for fault in host.hit("mps-set"))


def _answer(host, folder, line):
    """What the daemon answers to a line; lines of an answer are parted by line breaks."""
    word, *rest = line.split()
    daemon = host.state()["mps"][folder]
    if word == "get_default_active_thread_percentage":
        return f"{daemon['threads']:.1f}"
    if word == "set_default_active_thread_percentage":
        number = float(rest[0]) if re.fullmatch(r"\d+(\.\d+)?", rest[0]) else 0
        _keep(host, folder, "threads", number if 0 < number <= 100 else daemon["threads"])
        return f"{host.state()['mps'][folder]['threads']:.1f}"
    if word == "set_default_device_pinned_mem_limit":
        _keep(host, folder, "pinned", _mib(rest[1]) if rest[0] == "0" else daemon["pinned"])
        return ""
    if word == "get_default_device_pinned_mem_limit":
        mib = daemon["pinned"] if rest[0] == "0" else None
        return "" if not mib else f"{mib // 1024}G" if mib >= 1024 else f"{mib}M"
    clients = _clients(host.state(), daemon)
    if word == "get_server_list":
        return str(daemon["pid"] + 100000) if clients else ""
    if word == "get_client_list":
        return "\n".join(map(str, clients)) or f"Server {rest[0]} not found"
    return f'Unknown command "{line}"'


def _keep(host, folder, key, value):
    if _lies(host):
        return
    with host.change() as state:
        state["mps"] = {**state["mps"], folder: {**state["mps"][folder], key: value}}


def _mib(word):
    """MiB of a value as the daemon takes it: what it can't read means 1."""
    found = re.fullmatch(r"(\d+)([A-Z]*)", word)
    return int(found[1]) * _UNITS[found[2]] if found and found[2] in _UNITS else 1


def _clients(state, daemon):
    """Numbers of the processes that use its device and came by it: all that compute there are its clients."""
    found = []
    for process in state["processes"]:
        uses = hardware.uses(state, process) if process["type"] == "compute" else ()
        if any(daemon["device"] == _uuid(state["gpus"][address], gi, ci) for address, gi, ci in uses):
            found.append(process["pid"])
    return sorted(found)


def _uuid(gpu, gi, ci):
    if gi is None or ci is None:
        return gpu["about"]["uuid"]
    return gpu["gis"].get(str(gi), {"cis": {}})["cis"].get(str(ci), {"uuid": ""})["uuid"]
