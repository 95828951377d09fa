"""
The systemd units that write the metrics every few seconds, without Salt: their texts.

Sources: systemd.exec(5), systemd.timer(5), systemd.resource-control(5). The service may do no more than it takes to read the
vendors' libraries and the kernel's files: ``PrivateDevices`` and ``ProtectClock`` would close the GPUs' device nodes (the latter
by the ``DeviceAllow`` that it implies), ``ProtectKernelLogs`` the log that tells of their faults. A driver takes for an
administrator who has CAP_SYS_ADMIN; CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH show who has a device open. With
``kernel.dmesg_restrict`` a kernel from 6.9 on opens its log for CAP_SYSLOG alone, and an older one warns of CAP_SYS_ADMIN in it.
"""

import os
import sys

import gpuslice
from gpuslice.outputs import unit_text

SERVICE = "gpu-slicing-metrics.service"
TIMER = "gpu-slicing-metrics.timer"
UNITS = "/etc/systemd/system"
#: The link by which systemd starts the timer at each boot.
WANTED = f"{UNITS}/timers.target.wants/{TIMER}"

#: Seconds that a run may take: a driver that has to be started, and some that do not answer.
_LONGEST = 240
_OURS = "Written by Salt (gpu_metrics.exported); changes to this file are overwritten. Add your own in"
_CAPABILITIES = "CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_SYSLOG CAP_DAC_READ_SEARCH CAP_DAC_OVERRIDE"


def path_of(unit):
    """Where the file of one of these units lies."""
    return f"{UNITS}/{unit}"


def texts(textfile, interval, state_dir, simulate="", place=""):
    """
    Unit -> its text.

    :param textfile: where metrics are written to; :param interval: in whole seconds. :param state_dir: the engine's.
    :param simulate: description of a simulated host, "" for a real one.
    :param place: directory that has the engine's package, "" for that of this process.
    :raises errors.PolicyError: a path that no unit file can hold.
    """
    return {SERVICE: _service(textfile, interval, state_dir, simulate, place), TIMER: _timer(interval)}


def _service(textfile, interval, state_dir, simulate, place):
    # About this very process and its files, not about the host that is managed: so it does not go through Host.
    place = place or os.path.dirname(os.path.dirname(os.path.abspath(gpuslice.__file__)))
    argv = [sys.executable, "-m", "gpuslice.metrics", "--textfile", textfile, "--interval", str(interval)]
    argv += ["--state-dir", state_dir, *(["--simulate", simulate] if simulate else [])]
    # The package's folder too, where Python keeps what it has compiled.
    written = [os.path.dirname(textfile), state_dir, os.path.join(place, "gpuslice")]
    return f"""\
# {_OURS}
# {path_of(SERVICE)}.d/*.conf.
[Unit]
Description=Write what there is of GPUs and their slices for Prometheus
After=gpu-slicing.service

[Service]
Type=oneshot
ExecStart={" ".join(_argument(word) for word in argv)}
Environment={unit_text.assignment("PYTHONPATH", place, "The metrics")}
TimeoutStartSec={_LONGEST}
SyslogIdentifier=gpu-slicing-metrics
Nice=5
UMask=0022
ProtectSystem=strict
ReadWritePaths={" ".join(_optional(path) for path in written)}
ProtectHome=read-only
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectHostname=yes
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
NoNewPrivileges=yes
SystemCallArchitectures=native
CapabilityBoundingSet={_CAPABILITIES}
"""


def _timer(interval):
    return f"""\
# {_OURS}
# {path_of(TIMER)}.d/*.conf.
[Unit]
Description=Write what there is of GPUs and their slices for Prometheus, every {interval} seconds

[Timer]
OnActiveSec=1
OnUnitActiveSec={interval}
# Without this a minute passes for now.
AccuracySec=1
Unit={SERVICE}

[Install]
WantedBy=timers.target
"""


def _argument(word):
    """A word of a command line, where a ``$`` begins a variable. Raises errors.PolicyError."""
    return unit_text.quoted(word, "The metrics").replace("$", "$$")


def _optional(path):
    """A path in a list, which may be missing. Raises errors.PolicyError."""
    return unit_text.quoted(f"-{path}", "The metrics")
