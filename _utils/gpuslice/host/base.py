"""
Host: the only door to the outside world. The engine reads and changes a machine through these methods and nothing else,
so that a described machine (:mod:`gpuslice.sim`) can stand in for a real one.
"""

import json
import os
import time
from abc import ABC
from abc import abstractmethod
from functools import cached_property

from gpuslice.host import state_files
from gpuslice.printable import printable_lines

DEFAULT_STATE_DIR = "/var/lib/gpu-slicing"
#: The record of a change that goes on or did not end, in the state directory.
JOURNAL = "journal.json"
#: The record of a GPU that is tried out: few hosts have one, and no other loads what reads it.
TRIED = "qualify.json"
#: The record of what failed to run after a change, and is called again: likewise.
OWED = "owed.json"
#: The directory below the state directory where whoever tries a GPU holds a lock, and leaves reports.
TRYING = "qualify"
#: The record of what looks at the health of GPUs have found: likewise, where nobody looks.
HEALTH = "health.json"
#: The record of what waits: likewise.
WAITING = "waiting.json"
#: The record of energy: where there is one, looks are taken around each change.
ENERGY = "energy.json"
#: The record of what must not be handed out: likewise.
QUARANTINE = "quarantine.json"
#: The record of what boots tried: likewise, where no unit brings slices back.
ATTEMPTS = "boot.json"

REBOOT_PACKAGES = "/run/reboot-required.pkgs"
#: The name under which we ask for a reboot in that file.
REBOOT_NAME = "gpu-slicing"

#: More than any binary file of the kernel has that is read here.
MOST_BYTES = 2**20

#: Seconds between tries of what passes in a moment: a process that just ended, a monitor that looks.
PAUSES = (0.1, 0.3, 1.0)


def of_user(unit, uid):
    """The name by which all know a unit of the manager of a user; where ``uid`` is None, which is the system's, its own."""
    return unit if uid is None else f"{unit} of uid {uid}"


def parted(unit):
    """(name, uid) of what :func:`of_user` named: the number of the user, None for a unit of the system's own manager."""
    name, of, uid = unit.rpartition(" of uid ")
    return (name, int(uid)) if of and uid.isdecimal() and uid.isascii() else (unit, None)


# No dataclass: to make one takes a millisecond, and the grain loads this module and runs no program.
class Completed:
    """What a program left behind: its exit status and both outputs as text, without what is not for printing."""

    def __init__(self, returncode, stdout="", stderr=""):
        self.returncode = returncode
        # Its words get into messages, and it may repeat what a user or firmware chose.
        self.stdout, self.stderr = printable_lines(stdout), printable_lines(stderr)

    @property
    def said(self):
        """What it said on one line, "" for nothing: its errors, or what else it printed where there are none."""
        return " ".join((self.stderr or self.stdout).split())

    @property
    def failure(self):
        """Why it failed, in its own words or by its exit status; "" for a program that succeeded."""
        return (self.said or f"exit status {self.returncode}") if self.returncode else ""


class Host(ABC):
    """
    The interface. Paths are absolute, as on the real machine (``/sys/bus/pci/devices/...``).

    Methods that read raise ``OSError`` as the kernel would; :meth:`run` raises :class:`errors.ToolMissing`.
    """

    simulated = False
    #: What changes files of our own; see :class:`gpuslice.host.state_files.Disk`.
    disk = state_files.Disk()

    def __init__(self, state_dir=DEFAULT_STATE_DIR):
        self.state_dir = state_dir

    @cached_property
    def limits(self):
        """What may take how long in this run, and which GPUs hang: :class:`gpuslice.host.limits.Limits`."""
        # Here, so that the grain does not load it.
        from gpuslice.host.limits import Limits

        return Limits(self.patience)

    def patience(self):
        """By how much every limit of time is multiplied."""
        return 1.0

    # -- files of the kernel -------------------------------------------------------------------------------------
    @abstractmethod
    def read(self, path):
        """Text of a file, without its last line break. Raises OSError."""

    @abstractmethod
    def read_bytes(self, path):
        """What is in a binary file of the kernel, up to :data:`MOST_BYTES`. Raises OSError."""

    @abstractmethod
    def write(self, path, text):
        """Write to a file of the kernel with a single write(2), so that the errno is the driver's own. Raises OSError."""

    @abstractmethod
    def listdir(self, path):
        """Sorted names in a directory, [] when it is not there."""

    @abstractmethod
    def exists(self, path):
        """Whether the path is there."""

    @abstractmethod
    def readlink(self, path):
        """Last component of a symbolic link's target, "" when it is no link."""

    @abstractmethod
    def stamp(self, path):
        """What changes when a file is replaced, without reading it: its size and the time of its change; "" for no file."""

    @abstractmethod
    def device_number(self, path):
        """``major:minor`` of a character device's node, "" where there is none."""

    @abstractmethod
    def kernel_log(self):
        """
        What there still is of the kernel's log, as :class:`gpuslice.host.kernel_log.Log`, oldest line first; only lines that
        :data:`gpuslice.host.kernel_log.WORDS` finds have a text. Raises OSError where it can't be read.
        """

    @abstractmethod
    def owner(self, path):
        """(uid, gid, permission bits) of a file, directory or node. Raises OSError."""

    # -- the rest of the world -----------------------------------------------------------------------------------
    @abstractmethod
    def udev_pci(self):
        """
        PCI devices as udev knows them, each a dict of its udev properties plus ``SYSNAME``; None where libudev can't be used.
        """

    @abstractmethod
    def nvml(self):
        """The functions of ``pynvml`` (the real module, or something that behaves as it). Raises errors.DriverMissing."""

    @abstractmethod
    def run(self, argv, timeout=60, given="", environment=None):
        """
        Run a program and return :class:`Completed`. Raises errors.ToolMissing; a timeout is errors.ToolHangs.

        :param timeout: in seconds; :param given: text on its standard input; :param environment: variables beside those of this
            process, by name.
        """

    @abstractmethod
    def processes(self):
        """Processes that hold GPU device nodes open, as a list of :class:`gpuslice.model.Process`."""

    @abstractmethod
    def gpu_clients(self, functions):
        """
        The clients of graphics drivers, as a list of :class:`gpuslice.host.clients.Client`. The driver may wake what is asked.

        :param functions: PCI addresses of those that may be asked. :raises OSError: not all processes can be seen.
        """

    @abstractmethod
    def process(self, pid):
        """The process of that number as :class:`gpuslice.model.Process`, None when it can't be seen from here."""

    @abstractmethod
    def end_process(self, pid, command):
        """
        Ask a process to end (SIGTERM), insist after 10 s (SIGKILL), and say whether it is gone.

        :param command: what it was when it was seen, so that another process under a recycled number is left alone.
        """

    @abstractmethod
    def why_spared(self, pid):
        """Why a process is never ended, whatever is allowed, as words that follow a colon; "" for one that may be."""

    @abstractmethod
    def own_units(self):
        """Units of the system, as a set, in which this run and its ancestors are: who stops one of them stops the run."""

    @abstractmethod
    def schedule_reboot(self, why):
        """Reboot this host in a minute, telling its users why. Raises errors.ToolMissing, errors.ToolFailed."""

    # -- files of our own: journal, history, marker --------------------------------------------------------------
    def store_read(self, path, undecodable="strict"):
        """
        Text of a file in the state directory. Raises OSError, ValueError where it is no UTF-8, errors.StateDirUnusable where
        another user had or can have a hand in it.

        :param undecodable: what becomes of bytes that are no UTF-8, as :func:`open` takes it as ``errors``.
        """
        self._check_place(path)
        return state_files.read(path, undecodable)

    def store_load(self, path):
        """What the JSON in a file in the state directory says. Raises as :meth:`store_read`; ValueError where it is no JSON."""
        try:
            return json.loads(self.store_read(path))
        except RecursionError as err:
            raise ValueError("it is nested too deeply") from err

    def store_names(self, path):
        """Sorted names in a directory below the state directory, [] where there is none. Raises errors.StateDirUnusable."""
        self._check_place(os.path.join(path, ""))
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def has_record(self, name):
        """Whether there is a file of that name in the state directory. Raises errors.StateDirUnusable."""
        return name in self.store_names(self.state_dir)

    def store_write(self, path, data, mode=0o644):
        """
        Replace a file of ours as a whole and durably (temporary file, fsync, rename). Raises OSError, and
        errors.StateDirUnusable for a state directory in which another user has a hand.

        :param data: its text.
        :param mode: its permissions, whatever those of the file before were: nothing is written before the file has them, and at
            no moment has it more.
        """
        self._check_place(path)
        state_files.write(self.disk, path, data, mode)

    def store_append(self, path, line):
        """Add a line to a file of ours, on the disk before this returns. Raises as :meth:`store_write`."""
        self._check_place(path)
        state_files.append(self.disk, path, line)

    def store_remove(self, path):
        """Remove a file of ours; it need not be there. Raises as :meth:`store_write`."""
        self._check_place(path)
        state_files.remove(self.disk, path)

    def store_remove_directory(self, path):
        """Remove a directory of ours where it is empty; it need not be there. Raises as :meth:`store_write`."""
        self._check_place(path)
        state_files.remove_directory(self.disk, path)

    def _check_place(self, path):
        """Other files of ours lie in directories of the system, whose permissions are the system's matter."""
        if self._in_state_dir(path):
            state_files.check_directory(self.state_dir)
            state_files.check_directory(os.path.dirname(path))

    def _in_state_dir(self, path):
        return os.path.abspath(path).startswith(os.path.join(os.path.abspath(self.state_dir), ""))

    def mark_reboot_required(self):
        """
        Set the marker that Debian and Ubuntu programs read (``/run/reboot-required`` and ``.pkgs``); it is gone after a boot.
        Raises OSError.
        """
        self.store_write("/run/reboot-required", "*** System restart required ***\n")
        names = self.read(REBOOT_PACKAGES).splitlines() if self.exists(REBOOT_PACKAGES) else []
        if REBOOT_NAME not in names:
            self.store_write(REBOOT_PACKAGES, "\n".join([*names, REBOOT_NAME]) + "\n")

    # -- clock ---------------------------------------------------------------------------------------------------
    def now(self):
        """Seconds since the epoch; 0 where the clock was never set and is before it, of which no record can tell."""
        return max(time.time(), 0.0)

    def monotonic(self):
        """Seconds since some moment, for waiting: unlike :meth:`now` it does not jump when the clock is set."""
        return time.monotonic()

    def sleep(self, seconds):
        """Wait."""
        time.sleep(seconds)

    def tries(self, pauses=PAUSES):
        """
        The turns of a loop that tries something again until it works, with pauses between them: ``for last in host.tries():``.

        :param pauses: seconds between one try and the next; there is one try more than pauses.
        :return: generator of whether this try is the last one. Whoever leaves the loop waits no more.
        """
        for pause in pauses:
            yield False
            self.sleep(pause)
        yield True

    def boot_id(self):
        """An identifier of this boot, "" when the kernel tells none."""
        try:
            return self.read("/proc/sys/kernel/random/boot_id")
        except OSError:
            return ""
