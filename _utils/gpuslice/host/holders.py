"""
Who holds GPU device nodes open: read from /proc, without any vendor's library.

A device is known by its number, not by the path that it was opened by: a container may have the second GPU under the name of the
first, and a node may have been removed, renamed or made elsewhere.
"""

import fcntl
import os
import re
import signal
import stat
import time
from typing import NamedTuple

from gpuslice.host.base import of_user
from gpuslice.host.base import parted
from gpuslice.model import Process
from gpuslice.numbers import whole
from gpuslice.printable import printable

#: Nodes below the device directory that belong to GPUs.
_NODES = re.compile(r"(?:nvidia(?!-caps)[^/]*|nvidia-caps/[^/]+|nvidia-caps-imex-channels/[^/]+|dri/[^/]+|kfd|vfio/.+)\Z")

#: Drivers of these nodes, as /proc/devices calls them.
_DRIVERS = re.compile(r"(?:nvidia.*|drm|kfd|vfio(?:-dev)?)\Z")
#: The number of what is no device.
NO_DEVICE = "0:0"
#: File systems of this machine alone that can have device nodes.
_LOCAL = frozenset("devtmpfs tmpfs ramfs rootfs overlay ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs squashfs erofs".split())
#: One of them that lies on others, of any kind: another one's answer may be what it waits for.
_STACKED = "overlay"
_MOUNT_ID = re.compile(rb"^mnt_id:\s*(\d+)", re.MULTILINE)
#: ioctl(2) of a namespace that opens the user namespace which owns it: NS_GET_USERNS of linux/nsfs.h.
_OWNER = 0xB701

_CONTAINERS = (
    # Scopes of systemd's cgroup driver: docker-<id>.scope, libpod-<id>.scope, cri-containerd-<id>.scope, crio-<id>.scope.
    re.compile(r"(?:docker|libpod|cri-containerd|crio|containerd|nerdctl)-([0-9a-f]{12,64})(?:\.scope)?\Z"),
    # Directories of the cgroupfs driver: /docker/<id>, /kubepods/burstable/pod<uid>/<id>.
    re.compile(r"([0-9a-f]{64})\Z"),
)
_LXC = re.compile(r"lxc\.payload\.(.+)\Z")
#: Directories of older LXC, with one directory for each container.
_LXC_DIRECTORIES = ("lxc", "lxc.payload")
#: The service that is the manager of a user's own units.
_USER_MANAGER = re.compile(r"user@(\d+)\.service\Z")
#: Programs that are a virtual machine each: QEMU, by the names that distributions have for it.
_EMULATOR = re.compile(r"qemu(?:-system-[\w-]+|-kvm)?|kvm")
#: More than libvirt lets a domain's name have, with the file that it names by it.
_LONGEST_NAME = 255
#: Services in which jobs and pods may run, where nothing gives them units of their own.
RUN_JOBS = ("slurmd.service", "kubelet.service", "containerd.service", "crio.service", "docker.service", "nomad.service",
             "k3s.service", "k3s-agent.service", "rke2-agent.service", "rke2-server.service")  # fmt: skip
#: Kinds of units that have processes.
_UNITS = (".service", ".scope", ".mount", ".socket", ".swap")


def scan_proc(root="/proc", dev="/dev", majors=None):
    """
    Processes that hold GPU device nodes open.

    :param root: the proc file system; :param dev: the directory of the device nodes.
    :param majors: major numbers of GPU drivers, those that /proc/devices tells when None.
    :return: list of :class:`gpuslice.model.Process` in the order of their pids. Processes that end while they are read, and
        those of other users where this one is not root, are left out.
    """
    pids = sorted(pid for name in _names(root) if (pid := whole(name)) is not None)
    majors = _majors(_text(f"{root}/devices")) if majors is None else majors
    mounts = _mounts_for_devices(root, pids)
    found = (_process(f"{root}/{pid}", pid, dev + "/", majors, mounts) for pid in pids)
    return [process for process in found if process is not None]


def _process(base, pid, dev, majors, mounts):
    """The process if it holds a GPU's node, else None."""
    place, names = _descriptors(base)
    opened = sorted({found for name in names if (found := _opened(place, name, dev, majors, mounts))})
    if not opened:
        return None
    nodes, numbers = zip(*opened, strict=True)
    words = _words(base)
    return Process(pid, _command(base, words), *parse_cgroup(_text(f"{base}/cgroup")), nodes, numbers, domain_of(words))


def _descriptors(base):
    """
    (directory, names) of what a process has open. Where its first thread has ended and others go on, that has nothing any more,
    and each of the others has all of it.
    """
    if names := _names(f"{base}/fd"):
        return base, names
    return next(((place, names) for place in _threads(base) if (names := _names(f"{place}/fd"))), (base, []))


def _threads(base):
    """Directories of the threads of a process."""
    return [f"{base}/task/{name}" for name in _names(f"{base}/task")]


def _opened(base, name, dev, majors, mounts):
    """(path, device number) of a descriptor of a GPU's node, None for any other."""
    link = f"{base}/fd/{name}"
    path = _target(link)
    if not path.startswith("/"):
        return None
    named = path.startswith(dev) and _NODES.match(path[len(dev) :])
    mount = _mount_of(f"{base}/fdinfo/{name}")
    may_ask = mount in mounts or (path.startswith(dev) and not mount)
    number = device_number(link) if may_ask else ""
    # One of these names that can't be asked is taken for what it is called: it was closed this moment, its container is so new
    # that its mounts were not known, or whoever mounted something there wants us to wait.
    return (printable(path), number) if named or _major(number) in majors else None


def process(pid, root="/proc"):
    """The process of that number whether it holds a node or not, as :class:`gpuslice.model.Process`; None when there is none."""
    base = f"{root}/{pid}"
    words = _words(base)
    command = _command(base, words)
    return Process(pid, command, *parse_cgroup(_text(f"{base}/cgroup")), domain=domain_of(words)) if command else None


def domain_of(words):
    """
    The name that a virtual machine was started with, "" for what is none. QEMU has it as ``-name guest=<name>,...`` or
    ``-name <name>``, with each comma of the name written twice (qemu(1)); libvirt gives it the domain's name there.

    :param words: its command line.
    """
    if not words or not _EMULATOR.fullmatch(words[0].rpartition("/")[2]):
        return ""
    told = next((after for option, after in zip(words, words[1:], strict=False) if option in ("-name", "--name")), "")
    # A comma alone ends the name, two of them are one of it.
    fields = [field.replace(",,", ",") for field in re.findall(r"(?:[^,]|,,)+", told)]
    named = [field.removeprefix("guest=") for field in fields if field.startswith("guest=")]
    plain = [field for field in fields[:1] if "=" not in field]
    return printable((named or plain or [""])[0].strip())[:_LONGEST_NAME]


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
    return {whole(row[0]) for row in rows if len(row) == 2 and _DRIVERS.match(row[1])}


def _mounts_for_devices(root, pids):
    """
    Ids of the mounts, in all namespaces, on which a device node can be opened and where a file can be asked for its kind without
    waiting for anybody: a network file system whose server is gone would keep us for ever.
    """
    seen, found = set(), set()
    for pid in pids:
        base = f"{root}/{pid}"
        namespace = _target(f"{base}/ns/mnt")
        if not namespace:
            # It has ended, or its first thread alone has.
            base = next((place for place in _threads(base) if (namespace := _target(f"{place}/ns/mnt"))), base)
        if namespace and namespace not in seen:
            seen.add(namespace)
            trusted = _is_of_the_system(f"{base}/ns/mnt")
            found.update(_local_mounts(_text(f"{base}/mountinfo"), _LOCAL if trusted else _LOCAL - {_STACKED}))
    return found


def _is_of_the_system(namespace):
    """
    Whether a mount namespace is of the same users as this process is. In one of their own, users may lay an overlay on a file
    system that their own program serves; no device can be opened on it.
    """
    try:
        handle = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        owner = fcntl.ioctl(handle, _OWNER)
        try:
            return os.path.samestat(os.fstat(owner), os.stat("/proc/self/ns/user"))
        finally:
            os.close(owner)
    except OSError:
        return False
    finally:
        os.close(handle)


def _local_mounts(text, kinds=_LOCAL):
    """
    Ids out of a mountinfo file, see proc(5): id, parent, device, root, mount point, options, ..., "-", type, ...

    :param kinds: file systems that are asked.
    """
    for line in text.splitlines():
        fields, _, kind = line.partition(" - ")
        words = fields.split()
        if len(words) > 5 and kind.split()[:1] and kind.split()[0] in kinds and "nodev" not in words[5].split(","):
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
        it is told as the container only; a unit above it (a Quadlet's service) is told too. Only a unit of the system's own
        manager has its plain name: what a user's manager or one inside a container has may be called as any unit of the
        system, so it is told as ``x.service of uid 1000`` and ``x.service of container 3f9a5c012345``, which no unit is called.
    """
    for path in _paths(text):
        unit, container = _place(path.split("/"))
        if unit or container:
            return printable(unit), printable(container)
    return "", ""


def _place(parts):
    """Unit and container of one path. systemd puts no unit below another: what is below was made by who has the unit."""
    unit = container = user = above = ""
    for part in parts:
        found = part if above in _LXC_DIRECTORIES else _container(part)
        manager = _USER_MANAGER.match(part)
        above = part
        if found:
            container = found
        elif not part.endswith(_UNITS):
            continue
        elif manager and not unit and not container:
            unit, user = part, manager[1]
        elif user:
            unit, user = of_user(part, user), ""
        elif not unit:
            # A name that the kernel has for itself gets an underscore before it.
            unit = f"{part} of container {container}" if container else part.removeprefix("_")
    return unit, container


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


def _words(base):
    """The command line as words, [] for a process that is gone or has none."""
    text = _text(f"{base}/cmdline")
    return text.split("\0") if text else []


def _command(base, words=None):
    """The command line, "" for a process that is gone; the name in brackets for one without arguments."""
    told = printable(" ".join(_words(base) if words is None else words).strip())
    if told:
        return told if len(told) <= 200 else told[:197] + "..."
    name = printable(_text(f"{base}/comm").strip())
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


# -- ending one --------------------------------------------------------------------------------------------------------
#: Seconds that a process is given to end by itself, and seconds to wait after it was killed.
PATIENCE = (10.0, 5.0)
#: Flag of the kernel's own threads in /proc/<pid>/stat.
_KERNEL_THREAD = 0x00200000


class _Stat(NamedTuple):
    """What /proc/<pid>/stat tells of a process; its start time, in ticks since the boot, is what no other of its number has."""

    state: str
    parent: int
    flags: int
    threads: int
    started: str


def _stat(base):
    """The :class:`_Stat` of a process, None when there is none; see proc(5) for the order."""
    # A command may have any character in it, brackets too.
    fields = _text(f"{base}/stat").rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[6]), int(fields[17]), fields[19]) if len(fields) > 19 else None


def _started(base):
    """The start time of a process that runs, "" for one that has ended: its last thread is gone, and with it what it had open."""
    found = _stat(base)
    return "" if not found or (found.state in "ZX" and found.threads <= 1) else found.started


def end_process(pid, command, root="/proc", patience=PATIENCE):
    """
    Ask a process to end (SIGTERM), insist after 10 s (SIGKILL), and say whether it is gone.

    :param command: its command as :func:`scan_proc` told it; a process that is another one by now is left alone and counts as
        gone.
    :param patience: seconds to wait after each of the two signals.
    """
    base = f"{root}/{pid}"
    started = _started(base)
    if not started or _command(base) != command:
        return True
    for number, seconds in zip((signal.SIGTERM, signal.SIGKILL), patience, strict=True):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if _started(base) != started:
                return True
            time.sleep(0.05)
    return _started(base) != started


def lineage(root="/proc", pid=None):
    """The numbers of this run and of all its ancestors, itself first."""
    found, pid = [], pid or os.getpid()
    while pid and pid not in found:
        found.append(pid)
        pid = getattr(_stat(f"{root}/{pid}"), "parent", 0)
    return found


def why_spared(pid, root="/proc"):
    """Why a process is never ended, whatever is allowed, as words; "" for one that may be."""
    if pid == 1:
        return "it is the first process of the system"
    if pid == os.getpid():
        return "it is this run itself"
    if pid in lineage(root):
        return "this run was started by it and would end with it"
    return "it is a part of the kernel" if getattr(_stat(f"{root}/{pid}"), "flags", 0) & _KERNEL_THREAD else ""


def own_units(root="/proc"):
    """Units of the system in which this run and its ancestors are: who stops one of them stops the run."""
    found = {parse_cgroup(_text(f"{root}/{pid}/cgroup"))[0] for pid in lineage(root)} - {""}
    # What a user's manager has ends with that manager, which is a unit of the system.
    return found | {f"user@{uid}.service" for name in found if (uid := parted(name)[1]) is not None}


def of_lock(handle):
    """
    Who holds a lock file on this very machine.

    :param handle: the file as it is open here, which does not count.
    :return: pids; where the kernel does not tell who holds it and who only waits, of all that have it open.
    """
    lock, holding, opening = os.fstat(handle), [], []
    pids = sorted(pid for name in _names("/proc") if (pid := whole(name)) is not None)
    # Whatever else a process has open may be on a file system that lets whoever asks wait.
    mounts = _mounts_for_devices("/proc", pids) | {_mount_of(f"/proc/self/fdinfo/{handle}")}
    for pid in pids:
        for number in _names(f"/proc/{pid}/fd"):
            if (pid, number) == (os.getpid(), str(handle)) or _mount_of(f"/proc/{pid}/fdinfo/{number}") not in mounts:
                continue
            if not _is_file(lock, f"/proc/{pid}/fd/{number}"):
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
