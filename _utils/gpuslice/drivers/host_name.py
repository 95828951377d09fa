"""
The name of this host, as its kernel has it.
"""

from gpuslice import errors
from gpuslice.host.base import Host

_PATH = "/proc/sys/kernel/hostname"


def host_name(host: Host) -> str:
    """With its domain, where it has one in it. Raises errors.ToolFailed: it can't be read."""
    try:
        return host.read(_PATH).strip()
    except OSError as err:
        raise errors.ToolFailed(f"The name of this host can't be read: {err.strerror}.", todo="Give 'node'.") from err
