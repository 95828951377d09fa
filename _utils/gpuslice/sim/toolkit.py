"""
NVIDIA's container toolkit and nvidia-modprobe on a simulated machine: what nvidia-ctk says of driver and devices, the service
that has it write the vendor's CDI file, and capability nodes.

Facts: toolkit 1.20 with a stand-in for NVML; nvidia-modprobe 570 under a /proc of its own; the service as it is shipped.
"""

import json
import re

from gpuslice.host.base import Completed
from gpuslice.sim import hardware
from gpuslice.sim import nvidia_files

REFRESH = "nvidia-cdi-refresh.service"
#: Where the service writes; it asks for YAML, of which JSON is a part.
SPEC = "/run/cdi/nvidia.yaml"
_NEWEST = "1.20.0"
_LIBRARIES = "/usr/lib/x86_64-linux-gnu"


def version(state):
    """Version of the toolkit as text."""
    return state["host"].get("toolkit", _NEWEST)


def _since(state, *wanted):
    return tuple(int(part) for part in version(state).split(".")) >= wanted


# -- files -----------------------------------------------------------------------------------------------------------
def show(tree, state):
    """The programs, a library of the driver, and that the service is enabled."""
    if "nvidia-ctk" in state["host"]["tools"]:
        tree.file("/usr/bin/nvidia-ctk", f"nvidia-ctk {version(state)}")
        tree.file("/usr/bin/nvidia-cdi-hook", f"nvidia-cdi-hook {version(state)}")
        driver = state["host"]["driver"]
        if driver["library"] == "present":
            tree.file(_library(driver["library_version"]), "")
    if REFRESH in state["host"].get("units", ()):
        tree.file(f"/etc/systemd/system/multi-user.target.wants/{REFRESH}", "")


def write(state, path, text, look):
    """No file of the kernel is the toolkit's."""
    return False


def modprobe(state, module, loading):
    """No module is the toolkit's."""


def reboot(state):
    """Nodes are gone; the vendor's file too, which is written after all else has started."""
    state.pop("made_caps", None)


# -- nvidia-ctk ------------------------------------------------------------------------------------------------------
def nvidia_ctk(host, arguments):
    """``nvidia-ctk [--quiet] --version|cdi generate``."""
    state = host.state()
    words = [word for word in arguments if word != "--quiet"]
    if words == ["--version"]:
        return Completed(0, f"NVIDIA Container Toolkit CLI version {version(state)}\ncommit: 0000000000000000\n")
    if words[:2] != ["cdi", "generate"]:
        return Completed(1, "", f"nvidia-ctk: the simulated host does not know the arguments {' '.join(arguments)}\n")
    return _generate(state, words[2:])


#: Options of "cdi generate", and the toolkit that has them first.
_OPTIONS = {"--mode": (1, 11), "--format": (1, 11), "--device-id": (1, 19), "--feature-flag": (1, 18)}


def _generate(state, words):
    options = dict(zip(words[::2], words[1::2], strict=False))
    for option in options:
        if option not in _OPTIONS or not _since(state, *_OPTIONS[option]):
            unknown = f"flag provided but not defined: {option[1:]}"
            return Completed(1, f"Incorrect Usage: {unknown}\n", f'time="2026-11-28T10:00:00Z" level=error msg="{unknown}"\n')
    spec, why = generated(state, options.get("--device-id", ""))
    if why:
        return Completed(1, "", f'time="2026-11-28T10:00:00Z" level=error msg="failed to generate CDI spec: {why}"\n')
    # JSON is YAML too, so that both forms are the same here.
    return Completed(0, json.dumps(spec) + "\n")


def generated(state, device=""):
    """(CDI specification, "") as the toolkit makes it, or (None, why it fails). ``device``: "none", or "" for all."""
    driver = state["host"]["driver"]
    if driver["library"] == "missing":
        return None, "failed to create device CDI specs: failed to initialize NVML: ERROR_LIBRARY_NOT_FOUND"
    if not driver["loaded"]:
        return None, "failed to create device CDI specs: failed to initialize NVML: ERROR_DRIVER_NOT_LOADED"
    if driver["library_version"] != driver["version"]:
        return None, "failed to create device CDI specs: failed to initialize NVML: ERROR_LIB_RM_VERSION_MISMATCH"
    devices = [{"name": "none", "containerEdits": {"env": ["NVIDIA_VISIBLE_DEVICES=none"]}}] if device else _devices(state)
    if not devices:
        return None, r"invalid device \"all\": invalid device, empty device edits"
    return {
        "cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": devices, "containerEdits": _common(driver["version"]),
    }, ""  # fmt: skip


def _library(driver):
    return f"{_LIBRARIES}/libcuda.so.{driver}"


def _common(driver):
    library = _library(driver)
    control = ("nvidia-uvm", "nvidia-uvm-tools", "nvidiactl")
    update = ["nvidia-cdi-hook", "update-ldcache", "--folder", _LIBRARIES]
    return {
        "env": [f"NVIDIA_CTK_LIBCUDA_DIR={_LIBRARIES}", "NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [{"path": f"/dev/{name}"} for name in control],
        "hooks": [{"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook", "args": update}],
        "mounts": [
            {"hostPath": library, "containerPath": library, "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"]},
        ],
    }


def _devices(state):
    """Each GPU without MIG, and each MIG device, by index and by UUID, and all of them."""
    found = {}
    gpus = [gpu for gpu in state["gpus"].values() if gpu["about"]["driver"] == "nvidia"]
    for index, gpu in enumerate(gpus):
        minor = gpu["about"]["minor"]
        if not gpu["mode"]:
            found[str(index)] = found[gpu["about"]["uuid"]] = [f"/dev/nvidia{minor}"]
        for number, gi_id, ci_id in hardware.mig_devices(gpu):
            caps = (hardware.cap_minor(minor, gi_id), hardware.cap_minor(minor, gi_id, ci_id))
            # A node that is not there is left out without a word.
            there = [f"/dev/nvidia-caps/nvidia-cap{cap}" for cap in caps if nvidia_files.has_node(state, cap)]
            uuid = gpu["gis"][str(gi_id)]["cis"][str(ci_id)]["uuid"]
            found[f"{index}:{number}"] = found[uuid] = [f"/dev/nvidia{minor}", *there]
    everything = list(dict.fromkeys(node for nodes in found.values() for node in nodes))
    named = {**found, "all": everything} if found else {}
    edits = {name: {"deviceNodes": [{"path": node} for node in nodes]} for name, nodes in named.items()}
    return [{"name": name, "containerEdits": each} for name, each in edits.items()]


def refresh(state):
    """The service writes its file, inside a change. Returns whether it could; the file of the time before stays otherwise."""
    spec, why = generated(state)
    if not why and "nvidia-ctk" in state["host"]["tools"]:
        state["written"][SPEC] = json.dumps(spec)
        return True
    return False


# -- nvidia-modprobe -------------------------------------------------------------------------------------------------
def nvidia_modprobe(host, arguments):
    """
    ``nvidia-modprobe -f FILE...``: makes the node of each capability whose file is there, and says nothing. The nodes that
    ``-c MINOR`` and ``-u`` make are always there.
    """
    paths = arguments[1::2]
    if arguments[-2:-1] == ["-c"] and arguments[:-2] in ([], ["-u"]):
        return Completed(0)
    if not paths or set(arguments[::2]) != {"-f"} or len(arguments) % 2:
        return Completed(1, "", f"nvidia-modprobe: the simulated host does not know the arguments {' '.join(arguments)}\n")
    if not host.state()["host"]["privileged"]:
        return Completed(1)
    numbers = []
    for path in paths:
        if not path.startswith("/proc/driver/nvidia") or "./" in path or not host.exists(path):
            return Completed(1)
        found = re.search(r"DeviceFileMinor: (\d+)", host.read(path))
        numbers.append(int(found[1]))
    with host.change() as state:
        state["made_caps"] = sorted({*state.get("made_caps", ()), *numbers})
    return Completed(0)
