"""
The state file of a simulated machine: one JSON file, replaced as a whole by every change.

A process that is killed leaves the file as it was before its change or as it is after it, never in between, just as a GPU
either made an instance or did not.
"""

import fcntl
import json
import os
import threading
import time
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host import state_files

#: Raised when the content of the file changes its form.
FORMAT = 1


class StateFile:
    """
    :param path: the JSON file. Its lock is the file of the same name with ``.lock``.
    """

    def __init__(self, path):
        self.path = path
        self._lock = threading.RLock()
        # (stamp, state) in one attribute, so that a reader in another thread never sees halves of two versions.
        self._seen = (None, None)
        self._changing = None

    def read(self):
        """
        What the machine is now. Treat it as read-only: a change makes a new one.

        :return: the state, or None when there is no file yet. Raises :class:`errors.StateDirUnusable`.
        """
        try:
            info = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise self._unusable(err) from err
        stamp, state = self._seen
        if stamp == (info.st_ino, info.st_mtime_ns, info.st_size):
            return state
        with self._lock:
            self._seen = self._load()
            return self._seen[1]

    def _load(self):
        """The file's (stamp, state), (None, None) when there is none."""
        try:
            with open(self.path, encoding="utf-8") as handle:
                info = os.fstat(handle.fileno())
                return (info.st_ino, info.st_mtime_ns, info.st_size), json.load(handle)
        except FileNotFoundError:
            return None, None
        except ValueError as err:
            raise errors.StateDirUnusable(
                f"The state of the simulated host in {self.path} is damaged ({err}).", todo="Remove the file to start again."
            ) from err
        except OSError as err:
            raise self._unusable(err) from err

    @contextmanager
    def change(self):
        """
        Change the machine: yields a private copy of its newest state, which is saved when the block ends without an error.

        Nested use in one thread yields the same copy. Raises :class:`errors.StateDirUnusable`.
        """
        with self._lock:
            if self._changing is not None:
                yield self._changing
                return
            with self._locked():
                self._changing = self._load_fresh()
                try:
                    yield self._changing
                    self._save(self._changing)
                finally:
                    self._changing = None

    def create(self, build):
        """Write the file with ``build()`` unless it is there already (another process may have been faster)."""
        with self._lock, self._locked():
            if self._load()[1] is None:
                self._save(build(None))

    def replace(self, build):
        """Write the file with ``build(old)`` in any case; ``old`` is None where there is none or it can't be read."""
        with self._lock, self._locked():
            try:
                old = self._load()[1]
            except errors.StateDirUnusable:
                old = None
            self._save(build(old))

    def _load_fresh(self):
        state = self._load()[1]
        if state is None:
            raise errors.StateDirUnusable(
                f"The state of the simulated host, {self.path}, disappeared.", todo="Open the host again to start anew."
            )
        return state

    @contextmanager
    def _locked(self):
        try:
            handle = self._open_lock()
        except OSError as err:
            raise self._unusable(err) from err
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _open_lock(self):
        path, flags = self.path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return os.open(path, flags, 0o644)
        except FileNotFoundError:
            state_files.make_directory(state_files.Disk(), os.path.dirname(path))
            return os.open(path, flags, 0o644)

    def _save(self, state):
        temporary = self.path + ".new"
        try:
            with open(temporary, "w", encoding="utf-8") as handle:
                handle.write(json.dumps(state, separators=(",", ":")))
                handle.flush()
                # The kernel stamps files with a coarse clock and reuses inode numbers, so that two quick changes of the
                # same length could look alike to another process. A stamp of our own is fine enough.
                now = time.time_ns()
                os.utime(handle.fileno(), ns=(now, now))
                info = os.fstat(handle.fileno())
            os.replace(temporary, self.path)
        except OSError as err:
            raise self._unusable(err) from err
        self._seen = ((info.st_ino, info.st_mtime_ns, info.st_size), state)

    def _unusable(self, err):
        return errors.StateDirUnusable(
            f"The state of the simulated host can't be kept in {self.path}: {err.strerror}.",
            todo="Set gpu_slicing:state_dir in the minion configuration to a directory that this user can write.",
        )
