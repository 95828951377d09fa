"""
The file of metrics: written as a whole or not at all, so that whoever reads it meanwhile never sees a half of it.
"""

import errno

from gpuslice import errors
from gpuslice.metrics.gather import gather
from gpuslice.outputs import prometheus

_TODO = {
    errno.ENOSPC: "Make room on that disk; the file that was there is as it was.",
    errno.EDQUOT: "Make room on that disk; the file that was there is as it was.",
    errno.EACCES: "Run as root, and see whether something else keeps that folder, such as the unit's ReadWritePaths.",
    errno.EPERM: "Run as root, and see whether something else keeps that folder, such as the unit's ReadWritePaths.",
    errno.EROFS: "Name a folder that can be written, where node_exporter reads its text files.",
    errno.EISDIR: "Remove that folder, or name another file.",
    errno.ENOTDIR: "Name a file in a folder.",
}


def write(engine, path, every=None):
    """
    Write the metrics of a host to a file, whatever was there: a symbolic link gives way, and what it leads to stays.

    :param engine: :class:`gpuslice.engine.Engine`, open; :param path: of the file; :param every: as of
        :func:`gpuslice.metrics.gather.gather`.
    :raises errors.PolicyError: as :func:`refuse_path`; :raises errors.StateDirUnusable: it can't be written;
    :raises errors.GpuSliceError: not even which GPUs there are can be told.
    """
    refuse_path(path)
    text = prometheus.text(gather(engine, every))
    try:
        engine.host.store_write(path, text)
    except OSError as err:
        todo = _TODO.get(err.errno, "See 'dmesg' for what the disk says.")
        raise errors.StateDirUnusable(f"The metrics could not be written to {path}: {err.strerror}.", todo=todo) from err


def remove(host, path):
    """The file is gone; it need not be there. Raises errors.StateDirUnusable."""
    try:
        host.store_remove(path)
    except OSError as err:
        raise errors.StateDirUnusable(f"{path} could not be removed: {err.strerror}.", todo="Run as root.") from err


def refuse_path(path):
    """Raise errors.PolicyError for what is no absolute path of a ``.prom`` file, which nobody would read."""
    if not (path.startswith("/") and path.isprintable() and path.endswith(".prom") and not path.endswith("/.prom")):
        raise errors.PolicyError(
            f"{path!r} is no place for metrics.",
            todo="Name an absolute path that ends in .prom: node_exporter reads no other file.",
        )
