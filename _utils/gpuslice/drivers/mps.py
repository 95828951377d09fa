"""
The control daemon of NVIDIA's Multi-Process Service, by ``nvidia-cuda-mps-control``: by words on its standard input in protocol
v2, which every driver has that a GPU with MPS has, and by its arguments in v3, which has limits for each client.

In v2 the program ends with 0 for unknown commands, refused values and unknown devices alike, so that only what is read back
proves a set (tried with 550.163.01). It tells a limit of 1 GiB or more in whole GiB, rounded down, and a percentage with one
digit behind the point. Of v3 the manual of driver 615 is all that is known here; how it tells a limit is not in it.
"""

import re

from gpuslice import errors
from gpuslice.drivers import kernel
from gpuslice.numbers import whole
from gpuslice.outputs import mps

CONTROL = "nvidia-cuda-mps-control"
#: How daemon and server are called; the kernel cuts names after 15 characters, where a command line can't be read.
_COMMAND = CONTROL[:15]
#: Where NVIDIA's installer, Debian and the other distributions have the vendor's programs.
_PLACES = ("/usr/bin", "/usr/local/bin", "/usr/sbin", "/opt/bin")
_PID_FILE = "nvidia-cuda-mps-control.pid"
#: Where a daemon listens that was started without a folder.
USUAL = "/tmp/nvidia-mps"  # noqa: S108 - the vendor's place, which is only looked at
#: Clients of a GPU at a time (CUDA contexts): until CUDA 13.0, and from 13.1 on, which came with driver 590 (NVIDIA, MPS manual).
_CLIENTS, _CLIENTS_NEW, _NEW = 48, 60, 590
MOST = _CLIENTS_NEW
#: The driver that brought protocol v3.
V3 = 615
GET_THREADS, GET_PINNED = "get_default_active_thread_percentage", "get_default_device_pinned_mem_limit 0"


def program(host, name=CONTROL):
    """The path of one of the vendor's programs, "" where it is not installed."""
    return next((path for place in _PLACES if host.exists(path := f"{place}/{name}")), "")


def driver(host):
    """The branch of the driver that is loaded, 0 where nothing tells it."""
    major = re.match(r"[0-9]{1,5}", kernel.text(host, "/sys/module/nvidia/version") or "")
    return int(major[0]) if major else 0


def most_clients(host):
    """How many clients a daemon has at most on a whole GPU, by the version of the driver that is loaded."""
    return _CLIENTS_NEW if driver(host) >= _NEW else _CLIENTS


def set_threads(percentage):
    """The command that sets the default share of the multiprocessors, in percent, of each client."""
    return f"set_default_active_thread_percentage {told_threads(percentage)}"


def told_threads(percentage):
    """A share as the daemon tells it."""
    return f"{percentage:.1f}"


def set_pinned(mib):
    """The command that sets how much memory, in MiB, each client can have of device 0, which is the only one a daemon sees."""
    # A unit is written: 1.5G would be taken for 1 MiB.
    return f"set_default_device_pinned_mem_limit 0 {mib}M"


def told_pinned(mib):
    """A limit as the daemon tells it: in whole GiB where it is one or more; "" for none."""
    if mib is None:
        return ""
    return f"{mib // 1024}G" if mib >= 1024 else f"{mib}M"


def told_share(percentage):
    """The ways in which a daemon of v3 may tell a share of whole percents, in figures, capitals and points."""
    return (f"{percentage:.0f}", told_threads(percentage))


def told_memory(mib):
    """The ways in which a daemon of v3 may tell a limit of so many MiB, likewise."""
    return tuple(dict.fromkeys(f"{told}{byte}" for told in (f"{mib}M", told_pinned(mib)) for byte in ("", "B")))


def _plain(text):
    """What a daemon of v3 tells, without signs and small letters: ``25 %`` and ``4 GiB`` are ``25`` and ``4GB``."""
    return re.sub("[^0-9A-Z.]", "", text)


def serves(process):
    """Whether a :class:`gpuslice.model.Process` is a daemon of MPS or one of its servers."""
    return process.command.split(" ")[0].rpartition("/")[2].startswith(_COMMAND)


def daemon_pid(host, folder):
    """Number of the process that a daemon wrote into its folder, None for none. It stays there when the daemon is killed."""
    found = whole(kernel.text(host, f"{folder}/{_PID_FILE}") or "")
    return found if found is not None and found > 0 else None


class Control:
    """
    The daemon that shares one slice.

    :param name: of the slice, as :func:`gpuslice.outputs.mps.pipe_directory` takes it; :param gpu: PCI address, for errors.
    """

    def __init__(self, host, name, gpu):
        self._host, self._name, self._gpu = host, name, gpu
        self._environment = dict(mps.environment(name))

    def ask(self, *commands):
        """
        Lines that the daemon answers to these commands.

        :raises errors.ToolFailed: it does not answer. :raises errors.ToolMissing, errors.ToolHangs: the program is not there, or
            does not end.
        """
        words = "".join(f"{one}\n" for one in commands)
        return self._answered(self._host.run([CONTROL], timeout=30, given=words, environment=self._environment))

    def _answered(self, done):
        if done.returncode:
            raise errors.ToolFailed(
                f"The MPS daemon of {self._name} does not answer: {done.said or 'nothing was said'}.", self._gpu,
                "See 'systemctl status' and 'journalctl -u' of its unit.",
            )  # fmt: skip
        return done.stdout.splitlines()

    def limits(self):
        """(percentage, limit of memory) as the daemon tells them, "" for no limit. Raises as :meth:`ask`."""
        return "".join(self.ask(GET_THREADS)), "".join(self.ask(GET_PINNED))

    def check(self, threads, pinned_mib):
        """
        See that the limits are in force.

        :param threads: in percent; :param pinned_mib: in MiB, None for none.
        :raises errors.ValidationFailed: the daemon has others, so that it refused these.
        """
        found, wanted = self.limits(), (told_threads(threads), told_pinned(pinned_mib))
        if found != wanted:
            raise self._refused("each client", wanted, found)

    def _refused(self, client, wanted, found):
        return errors.ValidationFailed(
            f"The MPS daemon of {self._name} was to give {client} {_share(*wanted)}, and it gives {_share(*found)}: it refused a "
            "value.",
            self._gpu,
            "See its log ('journalctl -u' of its unit), and correct its weights, active_thread_percentage or pinned_memory_mib.",
        )

    def clients(self):
        """Numbers of the processes that are its clients now. Raises as :meth:`ask`."""
        servers = [pid for line in self.ask("get_server_list") if (pid := whole(line.strip())) is not None]
        found = [self.ask(f"get_client_list {server}") for server in servers]
        return sorted({pid for lines in found for line in lines if (pid := whole(line.strip())) is not None})


class Namespaces(Control):
    """The same in protocol v3: a server that has a namespace with limits of its own for each client."""

    def call(self, *arguments):
        """Lines that the program says to these arguments. Raises as :meth:`ask`."""
        return self._answered(self._host.run([CONTROL, *arguments], timeout=30, environment=self._environment))

    def shares(self):
        """Name of a namespace -> (percentage, limit of memory) as the daemon tells them. Raises as :meth:`ask`."""
        lines = [line.split(",") for line in self.call("namespace", "list", f"--server={mps.SERVER}", "--format=csv,noheader")]
        # name, server, status of that, memory, percentage, priority, folder
        return {each[0].strip(): (_plain(each[4]), _plain(each[3])) for each in lines if len(each) > 4}

    def limits(self):
        """The same as two dicts, by the names of the namespaces: percentages, and limits of memory. Raises as :meth:`ask`."""
        found = self.shares()
        return {name: told[0] for name, told in found.items()}, {name: told[1] for name, told in found.items()}

    def check_shares(self, shares):
        """
        See that the limits are in force.

        :param shares: (percent, MiB or None) of each client. :raises errors.ValidationFailed: the daemon has others.
        """
        found = self.shares()
        for number, (percent, mib) in enumerate(shares, 1):
            told = found.get(mps.namespace(number), ("", ""))
            if told[0] not in told_share(percent) or (mib and told[1] not in told_memory(mib)):
                raise self._refused(f"client {number}", (told_threads(percent), f"{mib}M" if mib else ""), told)

    def clients(self):
        """Numbers of the processes that are its clients now. Raises as :meth:`ask`."""
        lines = self.call("client", "list", "--all", "--format=csv,noheader")
        return sorted({pid for line in lines if (pid := whole(line.partition(",")[0].strip())) is not None})


def _share(threads, pinned):
    return f"{threads} % of the multiprocessors and {pinned or 'any amount'} of memory"
