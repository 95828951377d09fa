"""
Files of our own: journal, records, history and lock in the state directory. They say what root does next, so nobody else may
have a hand in them: each is opened here and nowhere else, and one that another user owns or can write, or that is a symbolic
link, is refused with a sentence.

The state directory itself is what counts: in one that root owns and nobody else can write, no other user can put, rename or
replace a file. Of the directories above it the last step alone is looked at: a symbolic link there must be our own or root's, so
that nobody else chooses which of root's directories it is. Those further up are the choice of whoever configured the path.
"""

import errno
import logging
import os
import pwd
import re
import stat

from gpuslice import errors

log = logging.getLogger(__name__)

#: How a file is called that is written to take the place of another: its process, which was killed if it is there for long.
_TEMPORARY = re.compile(r"\.([0-9]{1,9})\.new\Z")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: Bytes of the largest file that is read: the journal of a host with sixteen GPUs and a thousand steps has half a million.
_LARGEST = 2**25


class Disk:
    """
    The calls that change files of ours, one method each. Tests give a host a disk of their own, which forgets at a power cut what
    was not synchronised before. All raise OSError.
    """

    def make_directory(self, path):
        """Make one directory, which others can read at most."""
        os.mkdir(path, 0o755)

    def create(self, path, mode):
        """A handle of a new, empty file with exactly these permissions."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFELY, mode)
        try:
            # The umask may have taken some away, which others who have to read the file would miss.
            os.fchmod(handle, mode)
        except OSError:
            os.close(handle)
            raise
        return handle

    def extend(self, path):
        """A handle that writes at the end of a file which is there."""
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | _SAFELY)
        try:
            _check(path, os.fstat(handle))
        except errors.GpuSliceError:
            os.close(handle)
            raise
        return handle

    def write(self, handle, data):
        """Write all of these bytes."""
        while data:
            data = data[os.write(handle, data) :]

    def sync(self, handle):
        """Return when what was written is on the disk."""
        os.fsync(handle)

    def close(self, handle):
        """Close a handle."""
        os.close(handle)

    def replace(self, old, new):
        """Give a file another name, whatever had that name before."""
        os.replace(old, new)

    def unlink(self, path):
        """Remove a file."""
        os.unlink(path)

    def remove_directory(self, path):
        """Remove an empty directory."""
        os.rmdir(path)

    def sync_directory(self, path):
        """Return when the names in a directory are on the disk: a file that is synchronised has no name without that."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


# -- changing --------------------------------------------------------------------------------------------------------
def make_directory(disk, path):
    """A directory is there, with all above it, on the disk. Raises OSError."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(os.path.abspath(path))
    make_directory(disk, parent)
    try:
        disk.make_directory(path)
    except FileExistsError:
        # Another process may have been faster.
        if not os.path.isdir(path):
            raise
    disk.sync_directory(parent)


def write(disk, path, text, mode):
    """Replace a file as a whole, on the disk before this returns. Raises OSError."""
    directory = os.path.dirname(path)
    make_directory(disk, directory)
    temporary = f"{path}.{os.getpid()}.new"
    _discard(disk, temporary)
    try:
        _fill(disk, disk.create(temporary, mode), text)
        disk.replace(temporary, path)
    except OSError:
        _discard(disk, temporary)
        raise
    disk.sync_directory(directory)
    # Those in the state directory go with the lock; this one may lie in a directory of the system.
    _sweep(disk, directory, f"{os.path.basename(path)}.")


def append(disk, path, line):
    """Add a line to a file, on the disk before this returns. Raises OSError, errors.StateDirUnusable."""
    try:
        handle = disk.extend(path)
    except FileNotFoundError:
        _fill(disk, disk.create(path, 0o644), line + "\n")
        disk.sync_directory(os.path.dirname(path))
        return
    _fill(disk, handle, line + "\n")


def remove(disk, path):
    """Remove a file, on the disk before this returns; it need not be there. Raises OSError."""
    if _discard(disk, path):
        disk.sync_directory(os.path.dirname(path))


def remove_directory(disk, path):
    """Remove a directory where it is empty; what is in one is somebody's. Raises OSError."""
    try:
        disk.remove_directory(path)
    except OSError as err:
        if err.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
            return
        raise
    disk.sync_directory(os.path.dirname(os.path.abspath(path)))


def sweep(disk, path):
    """
    Remove what killed processes left half written in a directory of ours and the directories in it; whoever holds the lock is
    the only one to write there. Nothing depends on it, so that what can't be removed stays.
    """
    for directory in (path, *(entry.path for entry in _entries(path) if entry.is_dir(follow_symlinks=False))):
        _sweep(disk, directory)


def _sweep(disk, directory, beginning=""):
    for entry in _entries(directory):
        found = _TEMPORARY.search(entry.name)
        if not found or not entry.name.startswith(beginning) or os.path.exists(f"/proc/{found[1]}"):
            continue
        try:
            _discard(disk, entry.path)
        except OSError as err:
            log.info("%s of an ended process can't be removed: %s", entry.path, err.strerror)


def _entries(directory):
    try:
        with os.scandir(directory) as found:
            return list(found)
    except OSError:
        return []


def _fill(disk, handle, text):
    try:
        disk.write(handle, text.encode())
        disk.sync(handle)
    finally:
        disk.close(handle)


def _discard(disk, path):
    """Remove a file; returns whether there was one."""
    try:
        disk.unlink(path)
    except FileNotFoundError:
        return False
    return True


# -- trusting --------------------------------------------------------------------------------------------------------
def check_directory(path):
    """
    The directory is ours alone to write; one that is not there yet is too.

    :raises errors.StateDirUnusable: it is another user's, others can write to it, or it is reached through another's link.
    """
    try:
        link = os.lstat(path)
        info = os.stat(path) if stat.S_ISLNK(link.st_mode) else link
    except OSError:
        # What is not there can't be another's, and what can't be looked at says so when it is used.
        return
    if link is not info and link.st_uid not in _trusted():
        raise _untrusted(path, f"is a symbolic link of the user {_user(link.st_uid)}", "remove the link")
    _check(path, info)


def opened(path, flags=os.O_RDONLY, mode=0o600):
    """
    A handle of a regular file that is ours alone to write; whoever calls has looked at its directory.

    :param flags: of open(2); :param mode: permissions of a file that is made.
    :raises OSError: as open(2) does; :raises errors.StateDirUnusable: another user had or can have a hand in it.
    """
    try:
        handle = os.open(path, flags | _SAFELY, mode)
    except OSError as err:
        if err.errno == errno.ELOOP:
            raise _untrusted(path, "is a symbolic link", "remove the link") from err
        raise
    try:
        info = os.fstat(handle)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", path)
        _check(path, info)
    except BaseException:
        os.close(handle)
        raise
    return handle


def read(path, undecodable="strict"):
    """
    Text of a file of ours.

    :param undecodable: what becomes of bytes that are no UTF-8, as :func:`open` takes it as ``errors``.
    :raises OSError: as open(2) does, EFBIG for more than we ever write; :raises ValueError: it is no UTF-8;
    :raises errors.StateDirUnusable: as :func:`opened`.
    """
    with open(opened(path), encoding="utf-8", errors=undecodable) as handle:
        # A file system that was damaged may say anything of a length.
        if os.fstat(handle.fileno()).st_size > _LARGEST:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return handle.read()


def _check(path, info):
    """Refuse what another user owns or can write."""
    if info.st_uid not in _trusted():
        todo = f"if it is yours, run 'chown -R {_user(os.geteuid())} {path}', else remove it"
        raise _untrusted(path, f"belongs to the user {_user(info.st_uid)}", todo)
    if info.st_mode & _OTHERS_MAY_WRITE:
        mode = f"{stat.S_IMODE(info.st_mode):04o}"
        raise _untrusted(path, f"can be written by other users (its mode is {mode})", f"then run 'chmod go-w {path}'")


def _trusted():
    """Whose files are believed: root's and those of the user that this runs as."""
    return (0, os.geteuid())


def _user(number):
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _untrusted(path, why, todo):
    return errors.StateDirUnusable(
        f"{path} {why}. What is written there decides what is done to this host's GPUs, so it is neither believed nor used.",
        todo=f"Look at what is in it; {todo}. Or set gpu_slicing:state_dir in the minion configuration to a directory of root's.",
    )
