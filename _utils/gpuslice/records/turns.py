"""
Turns at a record that several write, such as one who looks every minute and one who looks by hand: a lock that is held for a
moment, and that is not the lock of changes.
"""

import fcntl
import os
import time
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host import state_files

_MODE = 0o600


@contextmanager
def turn(state_dir, name, patience=2.0):
    """
    Have a record to oneself; yields whether it was got, within ``patience`` seconds.

    :param name: of the file that is locked, in the state directory. :raises errors.StateDirUnusable: there is no place for it.
    """
    try:
        state_files.make_directory(state_files.Disk(), state_dir)
        state_files.check_directory(state_dir)
        handle = state_files.opened(os.path.join(state_dir, name), os.O_RDWR | os.O_CREAT, _MODE)
    except OSError as err:
        raise errors.StateDirUnusable(
            f"The state directory {state_dir} can't be used ({err.strerror}), so that nothing can be noted there.",
            todo="Run as root, make it writable, or set gpu_slicing:state_dir in the minion configuration.",
        ) from err
    try:
        yield _locked(handle, patience)
    finally:
        os.close(handle)


def _locked(handle, patience):
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= end:
                return False
        time.sleep(0.02)
