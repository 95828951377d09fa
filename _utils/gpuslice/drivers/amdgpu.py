"""
The files in which amdgpu tells the partition modes of AMD Instinct GPUs and takes other ones, and who holds what it drives.

The compute mode changes at once. A memory mode is only requested: the driver carries that out when it lets go of the GPUs.
"""

import errno
import re
import threading

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.drivers import bounded
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import kfd
from gpuslice.drivers import modules
from gpuslice.drivers import pci
from gpuslice.printable import printable_lines

MODULE = "amdgpu"
#: The file of the compute mode: a driver that is too old has none.
COMPUTE = "current_compute_partition"
#: The compute modes that are valid now.
AVAILABLE = "available_compute_partition"
DMESG = "See 'dmesg' for the driver's own words."
NOT_SWITCHABLE = (errors.Unsupported, "this GPU's modes can't be switched", "A virtual function's modes belong to its host.")

_DRIVER = f"/sys/bus/pci/drivers/{MODULE}"
_MEMORY = "current_memory_partition"
_ALLOC = "compute_partition_mem_alloc_mode"
#: A newer driver has all modes of the board here, and beside it a table of one compute mode, which ``xcp_config`` selects.
_CONFIG = "compute_partition_config"
_SELECTOR = f"{_CONFIG}/xcp_config"
_IN_RESET = (errors.Unhealthy, "the GPU is being reset", "Wait for the end of the reset and run again; 'dmesg' tells its cause.")
_EACCES = (
    errors.PermissionDenied,
    "it needs root, or the driver offers the file for reading only",
    "Run the minion (or salt-call) as root.",
)
_COMPUTE_ERRNOS = {
    errno.EACCES: _EACCES,
    errno.EPERM: _IN_RESET,
    errno.EINVAL: (errors.DriverError, "the driver refuses this mode together with the present memory mode", DMESG),
    errno.EIO: (
        errors.DriverError,
        "the compute driver KFD did not come back for this GPU",
        "See 'dmesg'; reloading amdgpu or a reboot brings it back.",
    ),
    errno.EOPNOTSUPP: NOT_SWITCHABLE,
}
_MEMORY_ERRNOS = {
    errno.EACCES: _EACCES,
    errno.EPERM: _IN_RESET,
    errno.EINVAL: (errors.DriverError, "the driver refuses this mode", DMESG),
    errno.EOPNOTSUPP: NOT_SWITCHABLE,
}
#: A container that has just ended lingers in the compute driver for a moment.
_PATIENCE = (0.2, 0.5, 1.0)


class Amdgpu:
    """The driver on one host. GPUs are named by their PCI addresses; what can't be read or written raises gpuslice.errors."""

    def __init__(self, host):
        self._host = host
        # GPUs change side by side, but older kernels lock the compute driver for one change and answer EBUSY to a second one.
        self._switching = threading.Lock()

    # -- which GPUs ----------------------------------------------------------------------------------------------
    def is_bound(self, address):
        """Whether it has this GPU."""
        return self._host.readlink(f"{pci.DEVICES}/{address}/driver") == MODULE

    def addresses(self):
        """PCI addresses of the GPUs that the driver has."""
        return [name for name in self._host.listdir(_DRIVER) if re.match(r"[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]\Z", name)]

    def has_modes(self, address):
        """Whether it tells a compute mode of this GPU."""
        return self._host.exists(_path(address, COMPUTE))

    def partitioned(self):
        """PCI addresses of the GPUs of which it tells a compute mode."""
        return [address for address in self.addresses() if self.has_modes(address)]

    def hive(self, address):
        """
        PCI addresses of the GPUs whose memory mode changes with that of this one, itself included. GPUs of which nobody tells the
        hive are taken for one.
        """
        parts = kfd.parts(self._host)
        known = {one: self._hive_id(one, parts) for one in self.partitioned()}
        mine = known.get(address)
        if mine == "":
            return [address]
        return sorted({address, *(one for one, other in known.items() if other == mine)})

    def _hive_id(self, address, parts):
        """Identity of the hive, "" for a GPU that is in none, None when it is not known."""
        told = kernel.text(self._host, _path(address, "xgmi_hive_info/xgmi_hive_id"))
        if told:
            return told
        mine = [part.hive for part in parts if part.slot == kfd.slot_of(address)]
        return mine[0] if mine else None

    # -- modes of now --------------------------------------------------------------------------------------------
    def compute(self, address):
        """The compute mode, ``SPX`` and so on."""
        return self._read(address, COMPUTE)

    def memory(self, address):
        """The memory mode, "" where the driver has no such file or knows it not."""
        if not self._host.exists(_path(address, _MEMORY)):
            return ""
        told = self._read(address, _MEMORY)
        return "" if told == "UNKNOWN" else told

    def alloc(self, address):
        """``EVEN`` or ``ALL``, how partitions share a memory domain, "" where the driver has no such choice."""
        return (kernel.text(self._host, _path(address, _ALLOC)) or "").upper()

    def _read(self, address, name):
        try:
            return printable_lines(self._host.read(_path(address, name))).strip().upper()
        except OSError as err:
            if err.errno == errno.EPERM:
                raise errors.Unhealthy(f"{name} can't be read: the GPU is being reset.", address, _IN_RESET[2]) from err
            raise errors.DriverError(f"{name} can't be read: {err.strerror}.", address, DMESG) from err

    # -- modes that can be had -----------------------------------------------------------------------------------
    def all_compute_modes(self, address):
        """All compute modes of the board, None where the driver does not list them."""
        return self._listed(address, f"{_CONFIG}/supported_xcp_configs")

    def valid_compute_modes(self, address):
        """
        The compute modes that are valid now: every one in NPS1 and, in a newer driver, fewer in the others. None where the modes
        can't be switched; an empty list is no list, the driver makes it when it first switches the mode.
        """
        return self._listed(address, AVAILABLE)

    def memory_modes(self, address):
        """The memory modes, None where there is no choice."""
        return self._listed(address, "available_memory_partition")

    def table(self, address):
        """(compute mode that the driver's own table shows or None, the memory modes that go with it or None)."""
        shown = kernel.text(self._host, _path(address, _SELECTOR))
        return shown, self._listed(address, f"{_CONFIG}/supported_nps_configs")

    def look_up(self, address, compute):
        """
        The memory modes that go with a compute mode by the driver's own table, which is written to for that: so a plan can't.
        None where it has no such table.
        """
        selector = _path(address, _SELECTOR)
        shown, doing = kernel.text(self._host, selector), f"look up compute mode {compute}"
        if not shown:
            return None
        bounded.write(self._host, address, selector, compute, doing, _COMPUTE_ERRNOS)
        told = self._listed(address, f"{_CONFIG}/supported_nps_configs")
        bounded.write(self._host, address, selector, shown, doing, _COMPUTE_ERRNOS)
        return told

    def begins_with(self):
        """The compute mode that the driver begins with because its options say so, "" where it decides."""
        return amd.USER_PARTITION_MODE.get(modules.parameter(self._host, MODULE, "user_partt_mode"), "")

    def _listed(self, address, name):
        """The modes in a file, None where there is no such file. The driver writes "Not supported" where there are none."""
        told = kernel.text(self._host, _path(address, name))
        return None if told is None else re.findall(r"\b(?:[SDTQC]PX|NPS\d)\b", told.upper())

    # -- changing them -------------------------------------------------------------------------------------------
    def request_memory(self, address, memory):
        """Ask for a memory mode of a whole hive, which comes into force when the driver is loaded anew."""
        bounded.write(self._host, address, _path(address, _MEMORY), memory, f"request memory mode {memory}", _MEMORY_ERRNOS)

    def set_compute(self, address, compute):
        """Change the compute mode. Raises errors.InUse with those who hold the GPU."""
        if self._read(address, COMPUTE) == compute:
            return
        path, doing = _path(address, COMPUTE), f"set compute mode {compute}"
        for last in self._host.tries(_PATIENCE):
            try:
                with self._switching:
                    bounded.write(
                        self._host,
                        address,
                        path,
                        compute,
                        doing,
                        _COMPUTE_ERRNOS,
                        seconds=bounded.DIVIDING,
                        there=lambda: self._read(address, COMPUTE) == compute,
                    )
                return
            except errors.InUse as err:
                held = self.holders(address)
                if last or held:
                    raise device_nodes.in_use(address, doing, held) from err

    def set_alloc(self, address, alloc):
        """Say how partitions share a memory domain, see :meth:`alloc`."""
        doing = f"set the memory allocation mode {alloc}"
        bounded.write(self._host, address, _path(address, _ALLOC), alloc, doing, _COMPUTE_ERRNOS)

    # -- who holds it --------------------------------------------------------------------------------------------
    def holders(self, address):
        """Processes that stand in the way of a change of the compute mode: clients of the compute driver or of this GPU."""
        return kfd.holding(self._host, [kfd.NODE, *self._nodes(address)])

    def all_holders(self):
        """Processes that stand in the way of a reload: whoever has a node of any GPU of the driver open."""
        nodes = [node for address in self.addresses() for node in self._nodes(address)]
        spare = [f"/dev/dri/{n}" for d in self._spare_devices() for n in self._host.listdir(f"/sys/devices/platform/{d}/drm")]
        return kfd.holding(self._host, [kfd.NODE, *nodes, *spare])

    def _nodes(self, address):
        own = [f"/dev/dri/{name}" for name in self._host.listdir(f"{pci.DEVICES}/{address}/drm")]
        return [*own, *(part.render_node for part in kfd.parts_of(self._host, address) if part.render_node)]

    def _spare_devices(self):
        # Both separators are in the field: an underscore in AMD's packages, a dot in the kernel.
        return [name for name in self._host.listdir("/sys/devices/platform") if re.match(r"amdgpu_xcp[._]\d+\Z", name)]


def _path(address, name):
    return f"{pci.DEVICES}/{address}/{name}"
