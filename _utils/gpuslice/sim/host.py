"""
SimulatedHost: the door of :class:`gpuslice.host.base.Host` onto a machine that a YAML file describes.
"""

import errno
import hashlib
import os
import signal
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.host import state_files
from gpuslice.host.base import DEFAULT_STATE_DIR
from gpuslice.host.base import REBOOT_NAME
from gpuslice.host.base import REBOOT_PACKAGES
from gpuslice.host.base import Completed
from gpuslice.host.base import Host
from gpuslice.model import Process
from gpuslice.printable import printable
from gpuslice.sim import description
from gpuslice.sim import faults
from gpuslice.sim import hardware
from gpuslice.sim import kernel_log
from gpuslice.sim import state as state_file
from gpuslice.sim.mistakes import Mistakes
from gpuslice.sim.tree import device_number

#: Folders that are the simulated machine's own; what watches the machine that this runs on must not be told of simulated GPUs.
_OF_MACHINE = ("/etc/", "/run/", "/var/lib/prometheus/")


class _Late(OSError):
    """What a call answers that has done its work."""


def _digest(text):
    """What tells one text of a description from another."""
    return hashlib.sha256(text.encode()).hexdigest()


class SimulatedHost(Host):
    """
    A described machine. It lasts in ``<state_dir>/simulated/<name>.json`` from one process to the next.

    :param description_path: the YAML file, see :mod:`gpuslice.sim.description`.
    :param state_dir: directory for the state of the machine and of the engine.

    Raises :class:`errors.PolicyError` for a wrong description and :class:`errors.StateDirUnusable`.
    """

    simulated = True

    def __init__(self, description_path, state_dir=DEFAULT_STATE_DIR):
        super().__init__(state_dir)
        self.description_path = str(description_path)
        text = self._text()
        self._digest = _digest(text)
        self._described = None
        self._nvml = None
        self._files = None
        #: PCI addresses of cards that slept and were woken by a question.
        self.woken = []
        self.name = self._name(text)
        place = os.path.join(str(state_dir), "simulated")
        for directory in (str(state_dir), place):
            # The machine's own file and lock are written there, which a link of another user's would lead elsewhere.
            state_files.check_directory(directory)
        self._file = state_file.StateFile(os.path.join(place, f"{self.name}.json"))
        if self._file.read() is None:
            self._file.create(self._build)

    def _text(self):
        try:
            with open(self.description_path, encoding="utf-8") as handle:
                return handle.read()
        except (OSError, UnicodeDecodeError) as err:
            raise errors.PolicyError(
                f"The host description {self.description_path} can't be read: {getattr(err, 'strerror', None) or err}.",
                todo="Correct gpu_slicing:simulate in the minion configuration.",
            ) from err

    def _name(self, text):
        """Name of the machine. A file that is known already is not parsed again: that takes longer than all the rest."""
        quick = description.quick_name(text)
        known = os.path.join(str(self.state_dir), "simulated", f"{quick}.json")
        if quick and os.path.exists(known):
            return quick
        self._described = description.parse(text, self.description_path)
        return self._described["name"]

    def _build(self, old):
        """The state as the description has it; numbers go on from those of ``old``."""
        text = self._text()
        digest = _digest(text)
        if self._described is None or digest != self._digest:
            self._described, self._digest = description.parse(text, self.description_path), digest
        try:
            state = hardware.build(self._described, digest, *((old["serial"], old["boot"]) if old else ()))
        except hardware.Refused as err:
            raise errors.PolicyError(
                f"{self.description_path} gives GPU {err.gpu} the instance {err.wanted}, which it can't have.",
                gpu=err.gpu,
                todo="Correct its instances: the profile is unknown, or nothing is free there.",
            ) from err
        self._read_meters(state)
        return state

    @staticmethod
    def _read_meters(state):
        """What a board has drawn until now, before something changes."""
        if any("draw" in gpu["about"] for gpu in state["gpus"].values()):
            from gpuslice.sim import telemetry

            telemetry.settle(state)

    # -- the machine ---------------------------------------------------------------------------------------------
    def state(self):
        """
        What the machine is now; plain data, to be read only.

        Raises :class:`errors.PolicyError` when the description changed since the machine was made.
        """
        state = self._file.read()
        if state is None:
            self._file.create(self._build)
            state = self._file.read()
        changed = state.get("digest") != self._digest or state.get("format") != state_file.FORMAT
        if changed and self._driver_updated(state):
            return self._file.read()
        if changed:
            raise errors.PolicyError(
                f"The host description {self.description_path} changed since the simulated host '{self.name}' was made.",
                todo=f"Reset it: remove {self._file.path}, and the simulated host begins anew.",
            )
        return state

    def _driver_updated(self, state):
        """Take over a description that differs from the machine's in its driver only; returns whether it does."""
        described = description.parse(self._text(), self.description_path)
        if state.get("format") != state_file.FORMAT or state.get("machine") != hardware.machine(described):
            return False
        with self._file.change() as newest:
            newest["digest"] = self._digest
            newest["host"].update({key: described[key] for key in hardware.OF_DRIVER})
        return True

    @contextmanager
    def change(self):
        """Change the machine: yields its state, which is saved when the block ends without an error."""
        self.state()
        with self._file.change() as state:
            self._read_meters(state)
            yield state

    def reset(self):
        """Go back to the description. Identities are not given twice, so MIG UUIDs differ from those before."""
        self._described = None
        self._file.replace(self._build)

    def reboot(self, ordered_after_us=()):
        """
        Boot the machine anew: a new boot id, no instances, no processes; Hopper and later forget their MIG mode.

        :param ordered_after_us: units whose start by systemd waits for the end of what runs now, as in a replay of a boot:
            starting one without ``--no-block`` ends by the time limit.
        """
        from gpuslice.sim import sysfs

        with self.change() as state:
            hardware.reboot(state)
            state["ordered_after_us"] = list(ordered_after_us)
            for extension in sysfs.EXTENSIONS:
                if hasattr(extension, "reboot"):
                    extension.reboot(state)

    def add_fault(self, fault):
        """
        Let something go wrong from now on.

        :param fault: as in the description, see :mod:`gpuslice.sim.faults`. Raises :class:`errors.PolicyError`.
        """
        mistakes = Mistakes()
        with self.change() as state:
            parsed = faults.parse(fault, "fault", state["gpus"], mistakes)
            self._no_mistakes("fault", mistakes)
            state["faults"].append(parsed)

    def clear_faults(self):
        """Nothing goes wrong any more; what a fault did stays."""
        with self.change() as state:
            state["faults"] = []

    def add_process(self, process):
        """
        Start a process that uses a GPU or a slice.

        :param process: as in the description, see :mod:`gpuslice.sim.description`. Raises :class:`errors.PolicyError`.
        """
        mistakes = Mistakes()
        with self.change() as state:
            parsed = description.process(process, "process", state["gpus"], mistakes)
            if any(parsed["pid"] == other["pid"] for other in state["processes"]):
                mistakes.note("process.pid", f"{parsed['pid']} runs already")
            self._no_mistakes("process", mistakes)
            state["processes"].append(parsed)

    def remove_process(self, pid):
        """End a process; it need not be there."""
        with self.change() as state:
            state["processes"] = [process for process in state["processes"] if process["pid"] != pid]

    def say(self, text):
        """The kernel of this machine says something in its log."""
        with self.change() as state:
            kernel_log.say(state, text)

    def set_recovery_action(self, gpu, action):
        """What the NVIDIA driver asks for from now on, as in the description's ``health``: told by NVML, and in the log."""
        with self.change() as state:
            kernel_log.set_recovery_action(state, gpu, action)

    @staticmethod
    def _no_mistakes(what, mistakes):
        if mistakes:
            raise errors.PolicyError(
                f"The {what} for the simulated host is wrong: {'; '.join(mistakes)}.", todo="Correct it.", mistakes=mistakes
            )

    def take(self, operation):
        """Let the time of an operation pass, outside every lock so that GPUs work side by side."""
        seconds = self.state()["host"]["latency"][operation]
        if seconds:
            self.sleep(seconds)

    def hit(self, call, gpu=""):
        """
        Count a call for the faults, and do what happens before it: foreign changes, a lost GPU, a kill.

        :return: the faults that hit this call; waiting, errors, lies and a kill afterwards are the caller's part.
        """
        if not any(faults.concerns(f, call, gpu) and not faults.spent(f) for f in self.state()["faults"]):
            return []
        # Not at the top: it needs the rules of vGPUs, and few hosts have faults.
        from gpuslice.sim import foreign

        with self.change() as state:
            hits = [dict(fault) for fault in faults.count(state, call, gpu)]
            for fault in hits:
                for change in fault["foreign"]:
                    foreign.act(state, change if change["gpu"] else {**change, "gpu": gpu or next(iter(state["gpus"]))})
                if fault["lost"] and (fault["gpu"] or gpu):
                    state["gpus"][fault["gpu"] or gpu]["health"]["lost"] = True
        if any(fault["kill"] == "before" for fault in hits):
            os.kill(os.getpid(), signal.SIGKILL)
        for fault in hits:
            if fault["signal"]:
                os.kill(os.getpid(), signal.Signals[fault["signal"]])
            if fault["unexpected"]:
                raise RuntimeError(f"{call} failed in a way that nobody documents")
        return hits

    def linger(self, hits, most=None):
        """Wait as long as these faults make a call wait. Raises TimeoutError after ``most`` seconds."""
        seconds = max((fault.get("hang", 0) for fault in hits), default=0)
        if most is not None and seconds > most:
            self.sleep(most)
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if seconds:
            self.sleep(seconds)

    def patience(self):
        return self.state()["host"].get("patience", 1)

    def _around(self, call, work, gpu="", most=None):
        """
        Do ``work`` of a file operation with the faults that hit it, for ``most`` seconds. Raises OSError.

        What a fault has the machine do instead is given to ``work``.
        """
        hits = self.hit(call, gpu)
        self.linger(hits, most)
        self._fail(hits, "error")
        instead = [fault["elsewhere"] for fault in hits if fault.get("elsewhere") is not None]
        answer = None if any(fault["lie"] for fault in hits) else work(*instead[:1])
        if any(fault["kill"] == "after" for fault in hits):
            os.kill(os.getpid(), signal.SIGKILL)
        self._fail(hits, "late", _Late)
        return answer

    @staticmethod
    def _fail(hits, key, kind=OSError):
        """Raise the error of the first fault that has one."""
        for fault in hits:
            if name := fault.get(key):
                number = faults.errno_of(name)
                raise kind(number, os.strerror(number))

    # -- files of the kernel -------------------------------------------------------------------------------------
    def _tree(self):
        from gpuslice.sim import sysfs

        state = self.state()
        if self._files is None or self._files.state is not state:
            self._files = sysfs.files_of(state)
        return self._files

    def read(self, path):
        return self._tree().read(path)

    def read_bytes(self, path):
        from gpuslice.sim import sysfs

        def work():
            found = self._tree().content(path)
            return found.encode() if isinstance(found, str) else found

        return self._around("read_bytes", work, sysfs.gpu_of(self.state(), path, self._tree)) or b""

    def listdir(self, path):
        return self._tree().listdir(path)

    def exists(self, path):
        return self._tree().exists(path)

    def readlink(self, path):
        return self._tree().readlink(path)

    def stamp(self, path):
        try:
            text = self._tree().read(path)
        except OSError:
            return ""
        return f"{len(text)}-{_digest(text)[:8]}"

    def device_number(self, path):
        return device_number(path) if self._tree().exists(path) else ""

    def kernel_log(self):
        from gpuslice.host import kernel_log as reader

        return self._around("kernel_log", lambda: reader.of_records(kernel_log.records(self.state()))) or reader.NOTHING

    def owner(self, path):
        from gpuslice.sim import confined

        if not self._tree().exists(path):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return confined.owner(self.state(), path)

    def write(self, path, text):
        from gpuslice.sim import sysfs

        def work(instead=text):
            with self.change() as state:
                sysfs.write(state, path, f"{instead}", self.attached())

        self._around("write", work, sysfs.gpu_of(self.state(), path, self._tree))

    # -- the rest of the world -----------------------------------------------------------------------------------
    def udev_pci(self):
        """None: a simulated host has no udev, so that sysfs is read."""
        return None

    def nvml(self):
        """:class:`gpuslice.sim.nvml.SimulatedNvml`, the same object each time."""
        if self._nvml is None:
            try:
                import pynvml
            except ImportError as err:
                raise errors.DriverMissing(
                    "The Python package nvidia-ml-py is not installed for this minion, so NVIDIA GPUs can't be managed.",
                    todo="Install it with 'salt-call pip.install nvidia-ml-py'.",
                ) from err
            from gpuslice.sim import nvml

            self._nvml = nvml.SimulatedNvml(self, pynvml)
        return self._nvml

    def attached(self):
        """Whether this process is a client of the GPUs at present: an NVML session is open."""
        return self._nvml is not None and self._nvml.attached

    def run(self, argv, timeout=60, given="", environment=None):
        from gpuslice.sim import tools

        def work():
            return tools.run(self, list(argv), given, environment or {})

        try:
            return self._around("run", work, most=timeout * self.patience()) or tools.NOTHING
        except _Late as err:
            return Completed(1, "", err.strerror)
        except FileNotFoundError as err:
            raise tools.missing(argv[0]) from err
        except TimeoutError as err:
            raise errors.ToolHangs(f"'{' '.join(argv)}' did not end within {timeout:g} s.") from err
        except OSError as err:
            raise errors.ToolFailed(f"'{' '.join(argv)}' failed: {err.strerror}.") from err

    def processes(self):
        state = self.state()
        return [self._process(state, process) for process in state["processes"]]

    def _process(self, state, process):
        # What the real host's door reads processes with, which the grain does not need.
        from gpuslice.host.holders import domain_of

        nodes, shown = self._nodes(state, process), process.get("shown_as", {})
        return Process(
            process["pid"],
            # As the real host's door has it: what users choose is made printable there.
            printable(process["command"]),
            printable(process["unit"]),
            printable(process["container"]),
            tuple(shown.get(node, node) for node in nodes),
            tuple(device_number(node) for node in nodes),
            domain_of(process["command"].split()),
        )

    @staticmethod
    def _nodes(state, process):
        """Device nodes that a process holds open: those described, and those of what it uses."""
        nodes = list(process["nodes"])
        for use in process["uses"]:
            about = state["gpus"][use["gpu"]]["about"]
            if about["vendor"] == "10de":
                nodes += [f"/dev/nvidia{about['minor']}", "/dev/nvidiactl", "/dev/nvidia-uvm"]
        for address, gi_id, ci_id in hardware.uses(state, process):
            if gi_id is None:
                continue
            minor = state["gpus"][address]["about"]["minor"]
            nodes.append(f"/dev/nvidia-caps/nvidia-cap{hardware.cap_minor(minor, gi_id)}")
            if ci_id is not None:
                nodes.append(f"/dev/nvidia-caps/nvidia-cap{hardware.cap_minor(minor, gi_id, ci_id)}")
        return list(dict.fromkeys(nodes))

    def gpu_clients(self, functions):
        from gpuslice.sim import telemetry

        def work():
            state = self.state()
            self.woken += [address for address in functions if address in state["gpus"] and telemetry.sleeps(state, address)]
            return telemetry.clients(state, functions)

        return self._around("gpu_clients", work, next(iter(sorted(functions)), "")) or []

    def process(self, pid):
        return next((process for process in self.processes() if process.pid == pid), None)

    def end_process(self, pid, command):
        def work():
            with self.change() as state:
                if not state["host"]["privileged"]:
                    return
                state["processes"] = [one for one in state["processes"] if not is_meant(one) or one["stubborn"]]

        def is_meant(process):
            return process["pid"] == pid and printable(process["command"]) == command

        self._around("end_process", work)
        return not any(map(is_meant, self.state()["processes"]))

    def why_spared(self, pid):
        if pid == 1:
            return "it is the first process of the system"
        ancestor = any(process["pid"] == pid and process.get("ancestor") for process in self.state()["processes"])
        return "this run was started by it and would end with it" if ancestor else ""

    def own_units(self):
        return {process["unit"] for process in self.state()["processes"] if process.get("ancestor")} - {""}

    def schedule_reboot(self, why):
        """Only note it (``state()["reboot_scheduled"]``): time does not pass by itself here, :meth:`reboot` is the reboot."""
        with self.change() as state:
            if not state["host"]["privileged"]:
                raise errors.ToolFailed("A reboot could not be scheduled: root is needed.", todo="Reboot the host yourself.")
            state["reboot_scheduled"] = why

    def mark_reboot_required(self):
        """The marker of the simulated machine; the file of that name on the machine that this runs on is left alone."""

        def work():
            with self.change() as state:
                names = state["written"].get(REBOOT_PACKAGES, "").splitlines()
                state["written"]["/run/reboot-required"] = "*** System restart required ***"
                state["written"][REBOOT_PACKAGES] = "\n".join(dict.fromkeys([*names, REBOOT_NAME]))

        self._around("store_write", work)

    # -- files of our own ----------------------------------------------------------------------------------------
    def _of_machine(self, path):
        """
        Where a file is the simulated machine's own: its path there, else "". Those are not written on the machine that this runs
        on. ``/var/run`` is a link to ``/run``.
        """
        path = os.path.abspath(path)
        own = path.removeprefix("/var") if path.startswith("/var/run/") else path
        return own if own.startswith(_OF_MACHINE) and not self._in_state_dir(path) else ""

    def store_read(self, path, undecodable="strict"):
        own = self._of_machine(path)
        return self.read(own) if own else super().store_read(path, undecodable)

    def store_write(self, path, data, mode=0o644):
        self._around("store_write", lambda: self._store_write(path, data, mode))

    def _store_write(self, path, data, mode):
        own = self._of_machine(path)
        if not own:
            super().store_write(path, data, mode)
            return
        with self.change() as state:
            if not state["host"]["privileged"]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            state["written"][own] = data
            state.setdefault("modes", {})[own] = mode

    def store_append(self, path, line):
        self._around("store_append", lambda: super(SimulatedHost, self).store_append(path, line))

    def store_remove(self, path):
        self._around("store_remove", lambda: self._store_remove(path))

    def _store_remove(self, path):
        own = self._of_machine(path)
        if not own:
            super().store_remove(path)
            return
        with self.change() as state:
            state["written"].pop(own, None)
            state.get("modes", {}).pop(own, None)

    def boot_id(self):
        return self.state()["boot_id"]

    def now(self):
        """The time of this machine, off by what :meth:`set_clock` was told."""
        return max(super().now() + self.state().get("clock", 0) + self.state().get("passed", 0), 0.0)

    def monotonic(self):
        return super().monotonic() + self.state().get("passed", 0)

    def let_pass(self, seconds):
        """Let time pass on this machine, in which its GPUs go on with what they do, without waiting for it."""
        with self.change() as state:
            state["passed"] = state.get("passed", 0) + seconds

    def set_clock(self, seconds):
        """Set the machine's clock forward, or back for a negative number; what passes is still told by :meth:`monotonic`."""
        with self.change() as state:
            state["clock"] = state.get("clock", 0) + seconds

    def set_load(self, address, load):
        """
        From now on the slices of a GPU are busy so much, and no others.

        :param load: name of a slice -> 0 to 1, as in the description. Raises :class:`errors.PolicyError`.
        """
        from gpuslice.sim import devices

        mistakes = Mistakes()
        parsed = devices.load(load, "load", mistakes)
        self._no_mistakes("load", mistakes)
        with self.change() as state:
            state["gpus"][address]["load"] = parsed

    def drawn(self, address):
        """
        What a board has drawn in mJ since the machine is there, and for whom: ``idle``, and what each slice took beyond that, by
        its name in the load. No driver tells it: what is read of the machine can be held against it.
        """
        from gpuslice.sim import telemetry

        return telemetry.drawn(self.state(), address)
