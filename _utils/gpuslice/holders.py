"""
Who holds GPU device nodes open: read from /proc, without any vendor's library.

A device is known by its number, not by the path that it was opened by: a container may have the second GPU under the name of the
first, and a node may have been removed, renamed or made elsewhere.
"""

import os
import re
import signal
import stat
import time

from gpuslice.model import Process

#: Nodes below the device directory that belong to GPUs.
_NODES = re.compile(r"(?:nvidia(?!-caps)[^/]*|nvidia-caps/[^/]+|nvidia-caps-imex-channels/[^/]+|dri/[^/]+|kfd|vfio/.+)\Z")

#: Drivers of these nodes, as /proc/devices calls them.
_DRIVERS = re.compile(r"(?:nvidia.*|drm|kfd|vfio(?:-dev)?)\Z")
#: The number of what is no device.
NO_DEVICE = "0:0"
#: File systems of this machine alone that can have device nodes.
_LOCAL = frozenset("devtmpfs tmpfs ramfs rootfs overlay ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs squashfs erofs".split())
_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)

_CONTAINERS = (
    # Scopes of systemd's cgroup driver: docker-<id>.scope, libpod-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope.
    re.compile(r"(?:docker|libpod|cri-containerd|crio|containerd|nerdctl)-([0-9a-f]{12,64})(?:\.scope)?\Z"),
    # Directories of the cgroupfs driver: /docker/<id>, /kubepods/burstable/pod<uid>/<id>.
    re.compile(r"([0-9a-f]{64})\Z"),
)
_LXC = re.compile(r"lxc\.payload\.(.+)\Z")


def scan_proc(root="/proc", dev="/dev", majors=None):
    """
    Processes that hold GPU device nodes open.

    :param root: the proc file system; :param dev: the directory of the device nodes.
    :param majors: major numbers of GPU drivers, those that /proc/devices tells when None.
    :return: list of :class:`gpuslice.model.Process` in the order of their pids. Processes that end while they are read, and
        those of other users where this one is not root, are left out.
    """
    pids = sorted(int(name) for name in _names(root) if name.isdigit())
    majors = _majors(_text(f"{root}/devices")) if majors is None else majors
    mounts = _mounts_for_devices(root, pids)
    found = (_process(f"{root}/{pid}", pid, dev + "/", majors, mounts) for pid in pids)
    return [process for process in found if process is not None]


def _process(base, pid, dev, majors, mounts):
    """The process if it holds a GPU's node, else None."""
    opened = sorted({found for name in _names(f"{base}/fd") if (found := _opened(base, name, dev, majors, mounts))})
    if not opened:
        return None
    nodes, numbers = zip(*opened, strict=True)
    return Process(pid, _command(base), *parse_cgroup(_text(f"{base}/cgroup")), nodes, numbers)


def _opened(base, name, dev, majors, mounts):
    """(path, device number) of a descriptor of a GPU's node, None for any other."""
    link = f"{base}/fd/{name}"
    path = _target(link)
    named = path.startswith(dev) and _NODES.match(path[len(dev) :])
    if not path.startswith("/") or not (path.startswith(dev) or _mount_of(f"{base}/fdinfo/{name}") in mounts):
        return None
    number = device_number(link)
    # One of these names that can't be asked, as it was closed this moment, is taken for what it is called.
    return (path, number) if named or _major(number) in majors else None


def process(pid, root="/proc"):
    """The process of that number whether it holds a node or not, as :class:`gpuslice.model.Process`; None when there is none."""
    base = f"{root}/{pid}"
    command = _command(base)
    return Process(pid, command, *parse_cgroup(_text(f"{base}/cgroup"))) if command else None


def _target(link):
    """What a descriptor is of, "" when it was closed meanwhile. A removed node (driver reload) still counts as held."""
    try:
        return os.readlink(link).removesuffix(" (deleted)")
    except OSError:
        return ""


def device_number(path):
    """``major:minor`` of a character device, by its node or a link to it; ``0:0`` for another file, "" where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}" if stat.S_ISCHR(found.st_mode) else NO_DEVICE


def _major(number):
    return int(number.partition(":")[0]) if number else 0


def _majors(text):
    """Major numbers of the GPU drivers in /proc/devices."""
    rows = (line.split() for line in text.partition("Block devices")[0].splitlines())
    return {int(row[0]) for row in rows if len(row) == 2 and row[0].isdigit() and _DRIVERS.match(row[1])}


def _mounts_for_devices(root, pids):
    """
    Ids of the mounts, in all namespaces, on which a device node can be opened and where a file can be asked for its kind without
    waiting for anybody: a network file system whose server is gone would keep us for ever.
    """
    seen, found = set(), set()
    for pid in pids:
        namespace = _target(f"{root}/{pid}/ns/mnt")
        if namespace and namespace not in seen:
            seen.add(namespace)
            found.update(_local_mounts(_text(f"{root}/{pid}/mountinfo")))
    return found


def _local_mounts(text):
    """Ids out of a mountinfo file, see proc(5): id, parent, device, root, mount point, options, ..., "-", type, ..."""
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        words = fields.split()
        if len(words) > 5 and kind.split()[:1] and kind.split()[0] in _LOCAL and "nodev" not in words[5].split(","):
            yield words[0]


def _mount_of(path):
    """Id of the mount that a descriptor's file is on, by its fdinfo file; "" where it is not told."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            # Without Python's text layer: a database server has ten thousands of these.
            found = _MOUNT_ID.search(os.read(handle, 256))
        finally:
            os.close(handle)
    except OSError:
        return ""
    return found[1].decode() if found else ""


def parse_cgroup(text):
    """
    Unit and container out of /proc/<pid>/cgroup, of version 1 or 2.

    :return: (systemd unit or "", container id of 12 characters or name or ""). A container's scope is no unit of its own, so
        it is told as the container only; a unit above it (a Quadlet's service) is told too.
    """
    for path in _paths(text):
        unit = container = ""
        for part in path.split("/"):
            found = _container(part)
            if found:
                container = found
            elif part.endswith((".service", ".scope")) and not part.startswith("user@"):
                unit = part.replace("\\x2d", "-")
        if unit or container:
            return unit, container
    return "", ""


def _paths(text):
    """Paths of the cgroup file, the most telling first: systemd's own hierarchy, then version 2, then the others."""
    rows = [line.split(":", 2) for line in text.splitlines() if line.count(":") >= 2]
    rank = {"name=systemd": 0, "": 1}
    return [path for _, _, path in sorted(rows, key=lambda row: rank.get(row[1], 2))]


def _container(part):
    """The container that a component of a cgroup path names, "" for none."""
    for pattern in _CONTAINERS:
        match = pattern.search(part)
        if match:
            return match.group(1)[:12]
    match = _LXC.match(part)
    return match.group(1) if match else ""


def _command(base):
    """The command line, "" for a process that is gone; the name in brackets for one without arguments."""
    words = _text(f"{base}/cmdline").replace("\0", " ").strip()
    if words:
        return words if len(words) <= 200 else words[:197] + "..."
    name = _text(f"{base}/comm").strip()
    return f"[{name}]" if name else ""


def _names(path):
    """Names in a directory, [] when it is gone or closed to this user."""
    try:
        return os.listdir(path)
    except OSError:
        return []


def _text(path):
    """Text of a file, "" when it is gone or closed to this user."""
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read()
    except OSError:
        return ""


#: Seconds that a process is given to end by itself, and seconds to wait after it was killed.
_PATIENCE, _AFTER_KILL = 10.0, 5.0


def end_process(pid, command, root="/proc"):
    """
    Ask a process to end (SIGTERM), insist after 10 s (SIGKILL), and say whether it is gone.

    :param command: its command as :func:`scan_proc` told it; a process that is another one by now is left alone and counts as
        gone.
    """
    for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _AFTER_KILL)):
        if not _is_still(pid, command, root):
            return True
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        end = time.monotonic() + patience
        while time.monotonic() < end and _is_still(pid, command, root):
            time.sleep(0.05)
    return not _is_still(pid, command, root)


def _is_still(pid, command, root):
    return _command(f"{root}/{pid}") == command


def of_lock(handle):
    """
    Who holds a lock file on this very machine.

    :param handle: the file as it is open here, which does not count.
    :return: pids; where the kernel does not tell who holds it and who only waits, of all that have it open.
    """
    lock, holding, opening = os.fstat(handle), [], []
    for pid in sorted(int(name) for name in _names("/proc") if name.isdigit()):
        for number in _names(f"/proc/{pid}/fd"):
            if (pid, number) == (os.getpid(), str(handle)) or not _is_file(lock, f"/proc/{pid}/fd/{number}"):
                continue
            opening.append(pid)
            # proc_pid_fdinfo(5): a line for each lock that this very descriptor holds.
            if "\nlock:" in _text(f"/proc/{pid}/fdinfo/{number}"):
                holding.append(pid)
    return list(dict.fromkeys(holding or opening))


def _is_file(info, path):
    try:
        return os.path.samestat(info, os.stat(path))
    except OSError:
        return False
