"""
The CDI files of the GPU vendors, which their own generators write: people type those names too, so they are made anew after
slices changed.

NVIDIA's toolkit has a service for that since 1.18. AMD's and Intel's generators are left alone: they are run by hand, and Intel's
removes every file of its kind before it writes.
"""

from gpuslice import errors
from gpuslice.drivers import systemd

#: Writes /var/run/cdi/nvidia.yaml. It reacts to drivers and toolkits that come and go, and to no MIG device.
REFRESH = "nvidia-cdi-refresh.service"
_ENABLED = "/etc/systemd/system/multi-user.target.wants"


def specs(host, folders):
    """
    Path -> text of every file directly in these folders, whatever its name; "" for one that can't be read.

    Hidden ones count too: a runtime reads them.
    """
    paths = [f"{folder}/{name}" for folder in folders for name in host.listdir(folder)]
    return {path: _text(host, path) for path in paths}


def _text(host, path):
    try:
        return host.read(path)
    except OSError:
        return ""


def refreshes(host):
    """Whether the service is there and enabled; by a file, so that no program is run."""
    return host.exists(f"{_ENABLED}/{REFRESH}")


def refresh(host, empty=False, waits=True):
    """
    Have the vendor's file made anew, where its service is enabled.

    It is restarted, since it counts as started once it has run. It starts after multi-user.target: who is called before that at a
    boot must not wait for it, and need not ask.

    :param empty: whether all NVIDIA GPUs are in MIG mode and nothing is cut: then the generator is known to fail, and the file
        stays as it was.
    :param waits: until it has ended.
    :return: what is to be said of it, as sentences; none where it worked or where there is nothing to do.
    """
    if not refreshes(host):
        return []
    try:
        why = systemd.restart(host, REFRESH, waits=waits).failure
    except (errors.ToolMissing, errors.ToolFailed) as err:
        why = str(err)
    if not why:
        return []
    if empty:
        return [
            f"{REFRESH} failed, as it does while all GPUs are in MIG mode and nothing is cut: the names of nvidia.com/gpu are "
            "those of before, and come right when there is a slice."
        ]
    return [
        f"{REFRESH} failed, so the names of nvidia.com/gpu are those of before: {why.rstrip('.')}. "
        f"See 'journalctl -u {REFRESH}'. Our own names are not concerned."
    ]
