"""
Loading amdgpu anew, which brings a requested memory mode into force: what keeps it from that, the request, and the reload.
"""

from gpuslice import errors
from gpuslice.drivers import modules
from gpuslice.drivers.amdgpu import MODULE
from gpuslice.techniques.base import refuse_if_held

_RELOAD_TIMEOUT = 600


class Reload:
    """
    Reloads on one host.

    :param driver: :class:`gpuslice.drivers.amdgpu.Amdgpu`; :param notes: :class:`.notes.Notes`.
    """

    def __init__(self, host, driver, notes):
        self._host, self._driver, self._notes = host, driver, notes

    def refuse(self, gpu, state, wanted, allowed, rules, stops):
        """Everything that would keep the driver from being reloaded, before anything is requested."""
        need = f"Memory mode {wanted.memory} is wanted, {state.memory} is in force, and it changes only when {MODULE} is reloaded"
        if not allowed and MODULE not in rules.unload_modules:
            raise errors.ModeChangePending(
                f"{need}, which is not allowed. Nothing was requested: a reboot would forget it.",
                gpu.address,
                f"{rules.allow_reload(MODULE, 'reload')}; all GPUs of that driver must be idle then.",
            )
        held = self._driver.all_holders()
        refuse_if_held(gpu.address, f"reload {MODULE} for memory mode {wanted.memory}", held, rules, stops)
        users, holders = modules.users(self._host, MODULE)
        if holders or (users and not held):
            raise errors.ResourceConflict(f"{need}, but {_users(users, holders)}.", gpu.address, "End that use and run again.")

    def refuse_busy_module(self, gpu):
        """The last look before a request that can't be withdrawn."""
        users, holders = modules.users(self._host, MODULE)
        if users or holders:
            held = "; ".join(map(str, self._driver.all_holders()))
            why = f"in use by {held}" if held else _users(users, holders)
            raise errors.ResourceConflict(
                f"{MODULE} can't be unloaded: {why}. {self._requested_before()}",
                gpu.address,
                "End that use and run again.",
            )

    def refuse_what_the_driver_does_not_take(self, gpu, compute, memory):
        """Refuse a pair that the driver's own table has not."""
        told = self._driver.look_up(gpu.address, compute)
        if told is not None and memory not in told:
            takes = f"takes compute mode {compute} with {', '.join(told) or 'nothing'} only"
            raise errors.ProfileMismatch(
                f"This version of {MODULE} {takes}, not with {memory}. {self._requested_before()}",
                gpu.address,
                "Use another combination, or a newer driver.",
            )

    def _requested_before(self):
        """What was requested of other hives, which can't be withdrawn."""
        waiting = {address: mode for address in self._driver.partitioned() if (mode := self._notes.requested(address))}
        if not waiting:
            return "Nothing was requested."
        listed = ", ".join(f"{mode} of {address}" for address, mode in waiting.items())
        return f"Requested before that, and coming with the next reload of {MODULE}: {listed}."

    def request(self, address, memory):
        """Request a memory mode of the hive of this GPU, and note it first. A driver that says no has not taken it."""
        mates = self._driver.hive(address)
        self._notes.request(mates, memory)
        try:
            self._driver.request_memory(address, memory)
        except errors.GpuSliceError:
            self._notes.request(mates, "")
            raise

    def reload(self, gpu, changing):
        """
        Load the driver anew.

        :param gpu: the GPU that carries it, for messages; :param changing: PCI address -> memory mode that comes into force.
        :raises errors.ModeChangePending: it can't be unloaded. :raises errors.DriverMissing: it can't be loaded again.
        """
        hives = {mate for address in changing for mate in self._driver.hive(address)}
        keep = {a: self._driver.compute(a) for a in self._driver.partitioned() if a not in hives}
        self._notes.unload(keep)
        why = self._modprobe(modules.unload)
        if why and self._driver.addresses():
            self._notes.loaded(keep_requests=True)
            held = "; ".join(map(str, self._driver.all_holders()))
            raise errors.ModeChangePending(
                f"{MODULE} could not be unloaded: {why}.{f' In use by {held}.' if held else ''} The requested memory mode "
                f"{', '.join(sorted(set(changing.values())))} can't be withdrawn: it comes with the next reload of {MODULE}.",
                gpu.address,
                "End the use of the GPUs and run again.",
            )
        self.load(gpu)

    def load(self, gpu):
        """Load the driver, and give GPUs outside of the change the compute mode that they had."""
        why = self._modprobe(modules.load)
        # What is there counts, not what the program says of it. Until it is there, the notes tell that it was unloaded.
        if not self._driver.addresses():
            raise errors.DriverMissing(
                f"{MODULE} was unloaded and could not be loaded again: {why or 'modprobe succeeded, and no GPU has it'}.",
                gpu.address,
                f"See 'dmesg', load it with 'modprobe {MODULE}' and run again.",
            )
        for address, compute in self._notes.kept.items():
            if self._driver.compute(address) != compute:
                self._driver.set_compute(address, compute)
        self._notes.loaded()

    def _modprobe(self, change):
        """Load or unload the driver; returns "" or why it failed."""
        try:
            return change(self._host, MODULE, _RELOAD_TIMEOUT).failure.rstrip(".")
        except errors.GpuSliceError as err:
            return str(err).rstrip(".")


def _users(users, holders):
    if holders:
        return f"the kernel modules {', '.join(holders)} use it"
    return f"it has {users} users that can't be seen, such as a display server or the console"
