"""
One change at a time on a host: a file lock that the kernel frees when its holder dies.
"""

import fcntl
import json
import os
import time
from contextlib import contextmanager

from gpuslice import errors

#: How long to wait for another change before refusing, in seconds.
PATIENCE = 2.0


@contextmanager
def held(state_dir, who, jid="", patience=PATIENCE):
    """
    Hold the host's lock. Raises errors.LockHeld naming the holder, errors.StateDirUnusable when there is no place for it.

    :param who: who asks, for the message that others get; :param jid: Salt's job id.
    :param patience: seconds to wait for another holder.
    """
    handle = _open(state_dir)
    try:
        _acquire(handle, patience)
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps({"pid": os.getpid(), "jid": jid, "who": who, "since": time.time()}).encode(), 0)
        yield
    finally:
        os.close(handle)


def _open(state_dir):
    try:
        os.makedirs(state_dir, mode=0o755, exist_ok=True)
        return os.open(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as err:
        raise errors.StateDirUnusable(
            f"The state directory {state_dir} can't be used ({err.strerror}), so no change can be made safely.",
            todo="Run as root, make it writable, or set gpu_slicing:state_dir in the minion configuration.",
        ) from err


def _acquire(handle, patience):
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as err:
            if time.monotonic() >= end:
                raise errors.LockHeld(
                    f"Another change of GPU slices is going on on this host: {_holder(handle)}.",
                    todo="Wait for it to end and run again.",
                ) from err
        time.sleep(0.05)


def _holder(handle):
    # Whoever took it a moment ago has not written its name yet, and an older version may have written another form.
    try:
        info = json.loads(os.pread(handle, 4096, 0))
        job = f", job {info['jid']}" if info.get("jid") else ""
        since = time.strftime("%H:%M:%S", time.localtime(info["since"]))
        return f"{info['who']} (pid {info['pid']}{job}) since {since}"
    except (ValueError, TypeError, KeyError, AttributeError):
        return "its holder left no name"
