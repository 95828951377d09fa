"""
One change at a time on a host: a file lock that the kernel frees when its holder dies.

The file says who holds it, and what that run waits for once it waits for long: one that hangs in a driver is found out by those
that it keeps waiting.
"""

import fcntl
import json
import os
import time
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host import state_files
from gpuslice.host import waiting
from gpuslice.shape import moment
from gpuslice.shape import parts
from gpuslice.shape import text
from gpuslice.shape import whole

#: How long to wait for another change before refusing, in seconds.
PATIENCE = 2.0
#: Who may open the lock may hold it, so nobody else may even read it.
_MODE = 0o600
#: Seconds of waiting after which a holder may hang.
_LONG = 60
_HANGS = " It may hang: see 'dmesg' for what the driver says, and 'salt-call gpu_slicing.recover' for what is left to do."
#: Bytes that are written each time: what stood there before is longer at times, and a reader must never meet half of both.
_WIDTH = 2048


@contextmanager
def held(state_dir, who, jid="", patience=PATIENCE):
    """
    Hold the host's lock. Raises errors.LockHeld naming the holder, errors.StateDirUnusable when there is no place for it that is
    ours alone.

    :param who: who asks, for the message that others get; :param jid: Salt's job id.
    :param patience: seconds to wait for another holder.
    """
    handle = _locked(state_dir, patience)
    try:
        os.ftruncate(handle, 0)
        state_files.sweep(state_files.Disk(), state_dir)
        _take(handle, {"pid": os.getpid(), "jid": jid, "who": who, "since": time.time()})
        try:
            yield
        finally:
            waiting.listen(None)
    finally:
        os.close(handle)


def briefly(path, patience):
    """
    Hold another lock of ours, of those who are at work for a moment.

    :param path: of its file in the state directory; :param patience: seconds to wait for another holder.
    :return: what is to be closed to let go of it; None where another one holds it. Raises OSError, errors.StateDirUnusable.
    """
    state_files.make_directory(state_files.Disk(), os.path.dirname(path))
    state_files.check_directory(os.path.dirname(path))
    end = time.monotonic() + patience
    while True:
        handle = state_files.opened(path, os.O_RDWR | os.O_CREAT, _MODE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who gave the host up meanwhile removed the file.
            if _is_at(handle, path):
                return handle
        except BlockingIOError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= end:
            return None
        time.sleep(0.05)


def _locked(state_dir, patience):
    """The lock, held. Who gave the host up meanwhile removed the file that was waited for: then it is the one that is there."""
    path = os.path.join(state_dir, "lock")
    while True:
        handle = _open(state_dir)
        try:
            _acquire(handle, path, patience)
            if _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _is_at(handle, path):
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _take(handle, info):
    def write(longest):
        """Who holds the lock, and what it waits for longest."""
        # The monotonic clock is one for all processes of a boot.
        waits = {"waits_for": longest[1][:500], "waits_since": longest[0]} if longest else {}
        os.pwrite(handle, json.dumps({**info, **waits}).encode().ljust(_WIDTH), 0)

    waiting.listen(write)


def is_held(state_dir):
    """Whether a change is going on on this host at this moment. Waits for nothing and keeps nobody from it."""
    try:
        # Not blocking: a pipe in its place would keep everybody who only looks, grains among them, for ever.
        handle = os.open(os.path.join(state_dir, "lock"), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except PermissionError:
        return _is_locked(os.path.join(state_dir, "lock"))
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


def _is_locked(path):
    """Whether the kernel knows of a lock on this file. Its list is open to everybody, the file to its owner only."""
    try:
        inode = os.stat(path).st_ino
        with open("/proc/locks", encoding="utf-8") as handle:
            rows = [line.split() for line in handle]
    except OSError:
        return False
    return any("FLOCK" in row and any(word.endswith(f":{inode}") for word in row) for row in rows)


def _open(state_dir):
    try:
        state_files.make_directory(state_files.Disk(), state_dir)
        state_files.check_directory(state_dir)
        handle = state_files.opened(os.path.join(state_dir, "lock"), os.O_RDWR | os.O_CREAT, _MODE)
    except OSError as err:
        raise errors.StateDirUnusable(
            f"The state directory {state_dir} can't be used ({err.strerror}), so no change can be made safely.",
            todo="Run as root, make it writable, or set gpu_slicing:state_dir in the minion configuration.",
        ) from err
    if os.fstat(handle).st_mode & 0o777 != _MODE:
        # An older version let everybody open it.
        os.fchmod(handle, _MODE)
    return handle


def _acquire(handle, path, patience):
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as err:
            if time.monotonic() >= end:
                raise errors.LockHeld(
                    f"Another change of GPU slices is going on on this host: {_holder(handle, path)}.",
                    todo="Wait for it to end and run again." + (_HANGS if _waited(handle)[0] >= _LONG else ""),
                ) from err
        time.sleep(0.05)


def _holder(handle, path):
    """
    Who holds the lock, in words. The one who took it writes its name into it, which stays when it has ended: then the kernel
    knows better who has it now, such as a program that inherited it, or somebody who opened it in an older version's days.
    """
    # Only whoever is refused pays for loading it.
    from gpuslice.host import holders

    named, written = _written(handle)
    pids = holders.of_lock(handle)
    at_work = written + _waited(handle)[1]
    if named in pids:
        return at_work
    if found := [process for pid in pids if (process := holders.process(pid))]:
        return ", ".join(map(str, found))
    if holders.process(named):
        return at_work
    return f"{written}, which has ended; 'fuser {path}' names who has it now"


def _written(handle):
    """(pid, words) of the holder as it wrote itself into the lock."""
    # Whoever took it a moment ago has not written its name yet, and an older version may have written another form.
    info = _read(handle, {"pid": whole(1, 2**31), "who": text(), "since": moment})
    if not info:
        return None, "its holder left no name"
    job = f", job {info['jid']}" if info.get("jid") else ""
    since = time.strftime("%H:%M:%S", time.localtime(info["since"]))
    return info["pid"], f"{info['who']} (pid {info['pid']}{job}) since {since}"


def _waited(handle):
    """How many seconds the holder has waited for one thing as it wrote itself into the lock, and that in words; (0, "")."""
    info = _read(handle, {"waits_since": moment, "waits_for": text()})
    if not info:
        return 0, ""
    seconds = max(0, round(time.monotonic() - info["waits_since"]))
    return seconds, f"; it waits for {info['waits_for']}, for {seconds} s"


def _read(handle, shapes):
    """What the holder wrote into the lock, {} where that has not all of these keys in their shape (name -> shape)."""
    try:
        info = json.loads(os.pread(handle, 4096, 0))
        parts({**shapes, "jid": text()}, needed=shapes)(info, "it")
    except (ValueError, RecursionError):
        return {}
    return info
