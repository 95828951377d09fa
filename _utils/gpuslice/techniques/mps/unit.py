"""
The systemd unit of an MPS daemon: its text as a pure function of what it is to do, and back.

It lies in /run: a boot makes MIG devices anew, with other UUIDs, so that a unit that came back by itself would serve a device
that is gone. The replay of the boot writes and starts it when what it stands on is there.
"""

import json
from typing import NamedTuple

from gpuslice.drivers import mps
from gpuslice.outputs.mps import SERVER
from gpuslice.outputs.mps import VARIABLE
from gpuslice.outputs.mps import namespace
from gpuslice.outputs.mps import pipe_directory
from gpuslice.outputs.mps import runtime_directory
from gpuslice.outputs.mps import unit

_FOLDER = "/run/systemd/system"
#: Beside the folders of the sockets, which systemd removes with the daemons.
_SETTINGS = "/run/gpu-slicing/mps-settings"
#: Where units of an administrator or a package lie, which would be taken instead of ours.
_OTHERS = ("/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_MARK = "# Spec: "


class Spec(NamedTuple):
    """
    What the daemon of a slice is to do.

    :ivar name: of the slice; :ivar device: its UUID; :ivar nodes: device nodes that it opens.
    :ivar threads: percent of the multiprocessors of each client; :ivar pinned_mib: MiB of memory of each, None for no limit.
    :ivar exclusive: whether no other program may compute on the GPU: whole GPUs only.
    :ivar control: path of nvidia-cuda-mps-control; :ivar smi: of nvidia-smi, which sets the compute mode.
    :ivar shares: in protocol v3 (percent, MiB or None) of each client; () in v2, which has the same for all.
    """

    name: str
    device: str
    nodes: tuple[str, ...]
    threads: float
    pinned_mib: int | None
    exclusive: bool
    control: str
    smi: str
    shares: tuple[tuple[float, int | None], ...] = ()


def path(name):
    """Where its file lies."""
    return f"{_FOLDER}/{unit(name)}"


def settings_path(name):
    """Where the settings of a daemon of protocol v3 lie."""
    return f"{_SETTINGS}/{unit(name).removesuffix('.service')}.toml"


def elsewhere(name):
    """Where a file of somebody else's under the same name would be taken instead."""
    return [f"{folder}/{unit(name)}" for folder in _OTHERS]


def read(text):
    """The :class:`Spec` of a text; None for one that is not ours, or was changed."""
    line = next((line for line in text.splitlines() if line.startswith(_MARK)), "")
    try:
        found = json.loads(line.removeprefix(_MARK))
        spec = made(found)
        return spec if text.strip() == written(spec).strip() else None
    except (ValueError, TypeError, KeyError):
        return None


def made(found):
    """The :class:`Spec` of its fields as JSON has them. Raises TypeError, KeyError, ValueError for others."""
    shares = tuple((percent, mib) for percent, mib in found.get("shares", ()))
    return Spec(**{**found, "nodes": tuple(found["nodes"]), "shares": shares})


def settings(spec):
    """
    The TOML text that a daemon of protocol v3 reads when it starts, "" in v2, which is told by commands.

    Whoever reaches it by another socket than that of a namespace gets no more than the heaviest client (NVIDIA, MPS v3
    configuration file; numbers are texts there).
    """
    if not spec.shares:
        return ""
    tables = [(f"servers.{SERVER}", (spec.threads, spec.pinned_mib))]
    tables += [(f"servers.{SERVER}.namespaces.{namespace(number)}", each) for number, each in enumerate(spec.shares, 1)]
    lines = ["# Written by Salt (GPU slicing); changes to this file are overwritten.", 'schema_version = "1.0"']
    for name, (percent, mib) in tables:
        lines += ["", f"[{name}]", f'active_thread_percentage = "{percent:.0f}"']
        lines += [f'pinned_memory_limit = "{mib}M"'] if mib else []
    return "\n".join([*lines, ""])


def written(spec):
    """The text of the unit."""
    start = f"{spec.control} -f -m -p 3 -a {settings_path(spec.name)}" if spec.shares else f"{spec.control} -f"
    stop = f"{spec.control} -q" if spec.shares else f"/bin/sh -c 'echo quit -t 5 | {spec.control}'"
    before = f"ExecStartPre=+{spec.smi} -i {spec.device} -c EXCLUSIVE_PROCESS\n" if spec.exclusive else ""
    after = f"ExecStopPost=-+{spec.smi} -i {spec.device} -c DEFAULT\n" if spec.exclusive else ""
    nodes = "".join(f"DeviceAllow={node} {'r' if 'nvidia-caps' in node else 'rw'}\n" for node in (*spec.nodes, *_CONTROL_NODES))
    return f"""\
# Written by Salt (GPU slicing); changes to this file are overwritten. Add your own in /etc/systemd/system/{unit(spec.name)}.d.
{_MARK}{json.dumps(spec._asdict())}
[Unit]
Description=MPS daemon of the GPU slice {spec.name}
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
RuntimeDirectory={runtime_directory(spec.name)}
RuntimeDirectoryMode=0755
# Containers have this folder mounted: after a crash the new daemon is to be found in the same one.
RuntimeDirectoryPreserve=restart
Environment=CUDA_VISIBLE_DEVICES={spec.device}
Environment={VARIABLE}={pipe_directory(spec.name)}
Environment=CUDA_MPS_LOG_DIRECTORY={pipe_directory(spec.name)}
{before}ExecStart={start}
# It is active when it answers and has its limits, also after a crash, which puts them back to their defaults.
ExecStartPost=/bin/sh -ec '{_ready(spec)}'
ExecStop={stop}
{after}TimeoutStartSec=30
TimeoutStopSec=20
Restart=on-failure
RestartSec=1
# Only the devices of this slice. /dev/shm, IPC, user and process numbers stay the host's: daemon and clients exchange memory by
# them, and a server runs as the user of its clients. CUDA makes memory that is written and run, so that this stays allowed.
DevicePolicy=closed
{nodes}NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectHostname=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
SystemCallArchitectures=native
CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_BOOT CAP_SYS_TIME CAP_SYS_RAWIO CAP_SYSLOG CAP_NET_ADMIN CAP_NET_RAW CAP_MKNOD
"""


def _ready(spec):
    """Words for a shell: wait until the daemon answers, set its limits and read them back. For systemd a dollar is two."""
    if spec.shares:
        return _ready_namespaces(spec)
    sets = [(mps.set_threads(spec.threads), mps.GET_THREADS, mps.told_threads(spec.threads))]
    if spec.pinned_mib is not None:
        sets.append((mps.set_pinned(spec.pinned_mib), mps.GET_PINNED, mps.told_pinned(spec.pinned_mib)))
    lines = [
        f'ask() {{ echo "$$1" | {spec.control}; }}',
        f'n=0; until got=$$(ask {mps.GET_THREADS}) && test -n "$$got"; do n=$$((n+1)); test $$n -lt 200; sleep 0.1; done',
        *(f'ask "{do}"; test "$$(ask "{get}")" = {told}' for do, get, told in sets),
    ]
    return "; ".join(lines)


def _ready_namespaces(spec):
    """The same in protocol v3, where the limits stand in its settings."""
    lines = [
        f"got() {{ {spec.control} namespace get $$1 {SERVER} $$2 | tr -cd 0-9A-Z.; }}",
        f'n=0; until test -n "$$(got {namespace(1)} active-thread-percentage)"',
        "do n=$$((n+1)); test $$n -lt 200; sleep 0.1; done",
    ]
    for number, (percent, mib) in enumerate(spec.shares, 1):
        found = [("active-thread-percentage", mps.told_share(percent))]
        found += [("pinned-memory-limit", mps.told_memory(mib))] if mib else []
        lines += [f'case "$$(got {namespace(number)} {what})" in {"|".join(told)}) ;; *) exit 1;; esac' for what, told in found]
    return "; ".join(lines)
