"""
Who uses a GPU or a MIG device: contexts that NVML tells of, and processes that hold the device nodes open.
"""

import os

from gpuslice.drivers import device_nodes
from gpuslice.model import Process
from gpuslice.numbers import whole

#: The persistence daemon hands the GPU over by itself on a mode change or reset.
_POLITE = ("nvidia-persistenced",)
_MINORS = "/proc/driver/nvidia-caps/mig-minors"
_CAPS = "/dev/nvidia-caps/nvidia-cap"


class Users:
    """The users of the GPUs of one host, as they are when first asked for; :meth:`forget` looks anew."""

    def __init__(self, host, nvml):
        self._host = host
        self._nvml = nvml
        self._processes = None
        self._minors = None

    def forget(self):
        """Look anew when next asked."""
        self._processes = None

    def of_instances(self, gpu):
        """Holders of each compute instance in use: (GPU instance id, compute instance id) -> [Process]."""
        minor = self._nvml.minor(gpu.address)
        found = {}
        for (gi, ci), (device, _) in self._nvml.mig_devices(gpu.address).items():
            node = self.cap_nodes(minor, gi, ci)[1]
            holders = {p.pid: p for p in self._holding(node)} if node else {}
            for pid in self._nvml.pids(device, gpu.address):
                holders.setdefault(pid, self._process(pid))
            holders.pop(os.getpid(), None)
            if holders:
                found[(gi, ci)] = [holders[pid] for pid in sorted(holders)]
        return found

    def of_gpu(self, gpu, any_client=True):
        """
        Processes that stand in the way of a mode change: those with a context, and with ``any_client`` (a reset is needed) also
        those that merely hold the device node.
        """
        found = {pid: self._process(pid) for pid in self._nvml.pids(self._nvml.handle(gpu.address), gpu.address)}
        if any_client:
            found.update({p.pid: p for p in self._holding(f"/dev/nvidia{self._nvml.minor(gpu.address)}")})
        return [p for pid, p in sorted(found.items()) if pid != os.getpid() and not p.command.split(" ")[0].endswith(_POLITE)]

    def cap_nodes(self, minor, gi, ci):
        """
        Capability device nodes of a GPU instance and of one of its compute instances, as the driver numbers them; "" for one
        that it does not list.
        """
        if self._minors is None:
            self._minors = _parse_minors(self.read(_MINORS))
        keys = (f"gpu{minor}/gi{gi}/access", f"gpu{minor}/gi{gi}/ci{ci}/access")
        minors = (whole(self._minors.get(key, "")) for key in keys)
        return tuple("" if minor is None else f"{_CAPS}{minor}" for minor in minors)

    def _process(self, pid):
        held = next((p for p in self._scan() if p.pid == pid), None)
        # A context needs no open node that we could see: the process may live in another mount or pid namespace.
        return held or self._host.process(pid) or Process(pid, "a process that can't be seen from here")

    def _holding(self, node):
        return device_nodes.holding(self._host, [node], self._scan())

    def _scan(self):
        if self._processes is None:
            self._processes = self._host.processes()
        return self._processes

    def read(self, path):
        """Text of a file of the kernel, "" where it is not there."""
        try:
            return self._host.read(path)
        except OSError:
            # Without the driver's file, NVML's list of contexts is what remains.
            return ""


def _parse_minors(text):
    """What stands behind each path, as text: of thousands of lines only a few are asked for."""
    pairs = map(str.split, text.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
