"""
RealHost: the door of :class:`gpuslice.host.base.Host` onto the machine that this runs on.
"""

import os
import signal
import stat
import subprocess
import time

from gpuslice import errors
from gpuslice.host.base import MOST_BYTES
from gpuslice.host.base import Completed
from gpuslice.host.base import Host


class RealHost(Host):
    """The machine that this runs on."""

    def read(self, path):
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().rstrip("\n")

    def read_bytes(self, path):
        found = b""
        # A read may tell less than there is; only the end of the file tells nothing.
        with open(path, "rb", buffering=0) as handle:
            while len(found) < MOST_BYTES and (more := handle.read(MOST_BYTES - len(found))):
                found += more
        return found

    def write(self, path, text):
        # No O_TRUNC and no buffering: sysfs wants one write and answers with the driver's errno.
        handle = os.open(path, os.O_WRONLY)
        try:
            os.write(handle, text.encode())
        finally:
            os.close(handle)

    def listdir(self, path):
        try:
            return sorted(os.listdir(path))
        except OSError:
            return []

    def exists(self, path):
        return os.path.exists(path)

    def readlink(self, path):
        try:
            return os.path.basename(os.readlink(path))
        except OSError:
            return ""

    def stamp(self, path):
        try:
            found = os.stat(path)
        except OSError:
            return ""
        return f"{found.st_size}-{found.st_mtime_ns}" if stat.S_ISREG(found.st_mode) else ""

    def device_number(self, path):
        from gpuslice.host import holders

        number = holders.device_number(path)
        return "" if number == holders.NO_DEVICE else number

    def kernel_log(self):
        from gpuslice.host import kernel_log

        return kernel_log.read()

    def owner(self, path):
        found = os.stat(path)
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    def udev_pci(self):
        from gpuslice.host import udev

        return udev.pci_devices()

    def nvml(self):
        try:
            import pynvml
        except ImportError as err:
            raise errors.DriverMissing(
                "The Python package nvidia-ml-py is not installed for this minion, so NVIDIA GPUs can't be managed.",
                todo="Install it with 'salt-call pip.install nvidia-ml-py'.",
            ) from err
        return pynvml

    def run(self, argv, timeout=60, given="", environment=None):
        # Here, so that the grain does not load it.
        from gpuslice.host import waiting

        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            # In a session of its own: what a terminal sends to its programs (Ctrl-C) must not end this one half way.
            process = subprocess.Popen(
                argv, stdin=pipe if given else null, stdout=pipe, stderr=pipe, text=True, errors="replace",
                start_new_session=True, env={**os.environ, **environment} if environment else None,
            )  # fmt: skip
        except FileNotFoundError as err:
            raise errors.ToolMissing(
                f"The program {argv[0]} is not installed.", todo="Install it or choose another way."
            ) from err
        except OSError as err:
            raise errors.ToolFailed(f"'{' '.join(argv)}' could not be started: {err.strerror}.") from err
        waiting.begins(process, f"'{' '.join(argv)}' to end", time.monotonic())
        try:
            stdout, stderr = process.communicate(given or None, timeout=timeout)
        except subprocess.TimeoutExpired as err:
            if process.poll() is not None:
                # It did end: what it has left running in the background only keeps its output open.
                self._close(process)
                return Completed(process.returncode, _text(err.stdout), _text(err.stderr))
            self._abandon(process)
            raise errors.ToolHangs(f"'{' '.join(argv)}' did not end within {timeout:g} s.") from err
        finally:
            waiting.ends(process)
        return Completed(process.returncode, stdout, stderr)

    @classmethod
    def _abandon(cls, process):
        """
        Kill a program and what it has started, and wait only a moment for its end: one that hangs in a driver can't be killed.
        """
        # It is not waited for yet, so that its number is still its own, and that of its session.
        os.killpg(process.pid, signal.SIGKILL)
        try:
            process.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            cls._close(process)
            process.poll()

    @staticmethod
    def _close(process):
        for stream in (process.stdout, process.stderr):
            stream.close()

    def processes(self):
        from gpuslice.host import holders

        return holders.scan_proc()

    def gpu_clients(self, functions):
        from gpuslice.host import clients

        of = {name: address for address in functions for name in self.listdir(f"/sys/bus/pci/devices/{address}/drm")}
        return clients.scan(of)

    def process(self, pid):
        from gpuslice.host import holders

        return holders.process(pid)

    def end_process(self, pid, command):
        from gpuslice.host import holders

        return holders.end_process(pid, command)

    def why_spared(self, pid):
        from gpuslice.host import holders

        return holders.why_spared(pid)

    def own_units(self):
        from gpuslice.host import holders

        return holders.own_units()

    def schedule_reboot(self, why):
        done = self.run(["shutdown", "-r", "+1", why])
        if done.returncode:
            raise errors.ToolFailed(f"A reboot could not be scheduled: {done.stderr.strip()}", todo="Reboot the host yourself.")


def _text(said):
    """What a program has said until it was no longer read."""
    return said.decode(errors="replace") if isinstance(said, bytes) else said or ""
