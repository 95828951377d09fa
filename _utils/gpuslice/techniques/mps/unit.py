"""
The systemd unit of an MPS daemon: its text as a pure function of what it is to do, and back.

It lies in /run: a boot makes MIG devices anew, with other UUIDs, so that a unit that came back by itself would serve a device
that is gone. The replay of the boot writes and starts it when what it stands on is there.
"""

import json
from typing import NamedTuple

from gpuslice.drivers import mps
from gpuslice.outputs.mps import VARIABLE
from gpuslice.outputs.mps import pipe_directory
from gpuslice.outputs.mps import runtime_directory
from gpuslice.outputs.mps import unit

_FOLDER = "/run/systemd/system"
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
    """

    name: str
    device: str
    nodes: tuple[str, ...]
    threads: float
    pinned_mib: int | None
    exclusive: bool
    control: str
    smi: str


def path(name):
    """Where its file lies."""
    return f"{_FOLDER}/{unit(name)}"


def elsewhere(name):
    """Where a file of somebody else's under the same name would be taken instead."""
    return [f"{folder}/{unit(name)}" for folder in _OTHERS]


def read(text):
    """The :class:`Spec` of a text; None for one that is not ours, or was changed."""
    line = next((line for line in text.splitlines() if line.startswith(_MARK)), "")
    try:
        found = json.loads(line.removeprefix(_MARK))
        spec = Spec(**{**found, "nodes": tuple(found["nodes"])})
        return spec if text.strip() == written(spec).strip() else None
    except (ValueError, TypeError, KeyError):
        return None


def written(spec):
    """The text of the unit."""
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
{before}ExecStart={spec.control} -f
# It is active when it answers and has its limits, also after a crash, which puts them back to their defaults.
ExecStartPost=/bin/sh -ec '{_ready(spec)}'
ExecStop=/bin/sh -c 'echo quit -t 5 | {spec.control}'
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
    sets = [(mps.set_threads(spec.threads), mps.GET_THREADS, mps.told_threads(spec.threads))]
    if spec.pinned_mib is not None:
        sets.append((mps.set_pinned(spec.pinned_mib), mps.GET_PINNED, mps.told_pinned(spec.pinned_mib)))
    lines = [
        f'ask() {{ echo "$$1" | {spec.control}; }}',
        f'n=0; until got=$$(ask {mps.GET_THREADS}) && test -n "$$got"; do n=$$((n+1)); test $$n -lt 200; sleep 0.1; done',
        *(f'ask "{do}"; test "$$(ask "{get}")" = {told}' for do, get, told in sets),
    ]
    return "; ".join(lines)
