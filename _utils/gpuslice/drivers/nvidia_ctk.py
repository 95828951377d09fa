"""
What a container needs of NVIDIA's driver beside device nodes: libraries, and hooks that make them usable, as ``nvidia-ctk`` of
NVIDIA's container toolkit finds them.

Asked is for a device by the name "none" (toolkit 1.19 and newer): no GPU is looked at, so it also answers while all GPUs are in
MIG mode and nothing is cut. An older toolkit generates everything, of which the driver's part is taken, and fails on such a host
(AgentBaker issues 8736 and 9150).
"""

import json
import re
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import kernel

PROGRAM = "nvidia-ctk"
#: Where packages, the GPU operator and NixOS put it.
FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/nvidia/toolkit", "/run/current-system/sw/bin", "/opt/bin")
#: The toolkit that knows a device by the name "none".
NONE_SINCE = (1, 19)
#: Seconds: it opens NVML, which takes a few where no daemon keeps the GPUs awake.
PATIENCE = 60

#: Sockets of daemons that it mounts where they are there.
_SOCKETS = ("/run/nvidia-persistenced/socket", "/run/nvidia-fabricmanager/socket")
_VERSIONS = ("/sys/module/nvidia/version", "/proc/driver/nvidia/version")
#: Keeps the vendor's older hook off a container, and is all that is written where nothing tells more.
VOID = "NVIDIA_VISIBLE_DEVICES=void"
#: Nodes that the driver's part names and a slice has no use for: profiling across processes, and displays.
_LEFT_OUT = ("/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
#: Nodes of one GPU or one MIG device: never those of all.
_OF_ONE = re.compile(r"/dev/(nvidia\d+|nvidia-caps/.*|dri/.*)")
_LISTS = ("env", "deviceNodes", "mounts", "hooks", "additionalGids")


class Part(NamedTuple):
    """
    The driver's part of a CDI file.

    :ivar key: of :func:`key` when it was generated, "" for one that is only what is there without the tool.
    :ivar edits: container edits, as CDI has them; :ivar version: the cdiVersion that the tool declared.
    :ivar said: why it is not what the tool says now, as a sentence; "" for one that is.
    """

    key: str
    edits: dict
    version: str
    said: str = ""


def find(host):
    """Path of the program, "" where it is not installed."""
    return next((f"{folder}/{PROGRAM}" for folder in FOLDERS if host.stamp(f"{folder}/{PROGRAM}")), "")


def key(host):
    """
    What the driver's part hangs on, from files only: as long as it is the same, no program has to be run.

    :return: version of the driver, what tells this program from another one, and which sockets are there, parted by spaces; ""
        without a program.
    """
    program = find(host)
    sockets = ",".join(path.split("/")[2] for path in _SOCKETS if host.exists(path))
    return f"{_driver(host)} {host.stamp(program)} {sockets}" if program else ""


def _driver(host):
    for path in _VERSIONS:
        if found := re.search(r"\b\d{3}\.[\d.]+\b", kernel.text(host, path) or ""):
            return found[0]
    return "none"


def part(host, kept=None):
    """
    The driver's part as it is to be written.

    :param kept: the :class:`Part` of an earlier run, None for none. It is taken without running a program while its key is the
        same, and where the tool fails while driver and tool are still those that it was made with.
    :return: :class:`Part`; it never fails: what went wrong stands in ``said``.
    """
    now = key(host)
    if kept and kept.key and kept.key == now:
        return kept._replace(said="")
    try:
        edits, version = generate(host)
    except (errors.ToolMissing, errors.ToolFailed) as err:
        if kept and kept.key and kept.key.split(" ")[:2] == now.split(" ")[:2]:
            return kept._replace(said=f"{err} What it said before, for the same driver, stays.")
        return Part("", {"env": [VOID]}, "0.3.0", f"{err} Until then an image has to bring the libraries of the driver itself.")
    return Part(now, edits, version)


def generate(host):
    """
    Ask the program.

    :return: (container edits, cdiVersion). Each node has ``rw`` and no more, and those that a slice has no use for are left out.
    :raises errors.ToolMissing: it is not installed. :raises errors.ToolHangs: it does not end.
    :raises errors.ToolFailed: it failed, or printed what is no CDI file; the sentence quotes it.
    """
    program = find(host)
    if not program:
        raise errors.ToolMissing(
            f"{PROGRAM} is not installed, so nobody tells which libraries of NVIDIA's driver a container needs.",
            todo="Install the package nvidia-container-toolkit-base.",
        )
    narrow = version(host, program) >= NONE_SINCE
    asked = ["--device-id", "none", "--feature-flag", "no-additional-gids-for-device-nodes"] if narrow else []
    argv = [program, "--quiet", "cdi", "generate", "--mode", "nvml", *asked, "--format", "json"]
    done = host.run(argv, timeout=PATIENCE)
    if done.returncode:
        raise errors.ToolFailed(f"'{PROGRAM} cdi generate' failed: {_reason(done)}.", todo=_remedy(done, narrow))
    return _understood(done.stdout)


def version(host, program):
    """
    Version of the program as (major, minor).

    :raises errors.ToolMissing, errors.ToolHangs, errors.ToolFailed: it can't be run, or tells none.
    """
    done = host.run([program, "--version"], timeout=PATIENCE)
    found = re.search(r"version v?(\d{1,3})\.(\d{1,3})", done.stdout)
    if done.returncode or not found:
        raise errors.ToolFailed(
            f"'{PROGRAM} --version' tells no version: {done.said or 'it says nothing'}.",
            todo="Install the package nvidia-container-toolkit-base anew.",
        )
    return int(found[1]), int(found[2])


def _reason(done):
    """Its last line, without the time and level that its log puts before it."""
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    said = lines[-1] if lines else f"exit status {done.returncode}"
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', said)
    return (message[1].replace('\\"', '"') if message else said).rstrip(".")


def _remedy(done, narrow):
    if not narrow and re.search(r"empty device edits|no devices", done.stderr + done.stdout):
        return "It finds no device while GPUs are in MIG mode and nothing is cut: install toolkit 1.19 or newer, that needs none."
    if re.search(r"DRIVER_NOT_LOADED|LIBRARY_NOT_FOUND|driver version", done.stderr + done.stdout):
        return "See whether 'nvidia-smi' works: the driver has to be loaded, and its libraries installed."
    return f"Run '{PROGRAM} --debug cdi generate' to see more."


def _understood(text):
    try:
        spec = json.loads(text)
        return _narrowed(spec["containerEdits"]), _declared(spec["cdiVersion"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise errors.ToolFailed(
            f"'{PROGRAM} cdi generate' printed what is no CDI file.", todo=f"Run '{PROGRAM} --debug cdi generate' to see more."
        ) from err


def _declared(found):
    if not re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", found):
        raise ValueError(found)
    return found


def _narrowed(edits):
    """The same edits with the nodes that all slices need, and nothing of one GPU."""
    edits = {field: entries for field, entries in edits.items() if entries}
    if not all(isinstance(edits.get(field, []), list) for field in _LISTS):
        raise ValueError("no lists")
    nodes = [_narrow(node) for node in edits.pop("deviceNodes", ()) if not _needless(node["path"])]
    variables = [word for word in edits.pop("env", ()) if not word.startswith(VOID.partition("=")[0] + "=")]
    return {**edits, "env": [VOID, *variables], **({"deviceNodes": nodes} if nodes else {})}


def _needless(path):
    return path in _LEFT_OUT or bool(_OF_ONE.fullmatch(path))


def _narrow(node):
    """Path and permissions; the runtime looks the number up, and rootless ones know the host's path only where it differs."""
    elsewhere = {"hostPath": node["hostPath"]} if node.get("hostPath", node["path"]) != node["path"] else {}
    return {"path": node["path"], **elsewhere, "permissions": "rw"}
