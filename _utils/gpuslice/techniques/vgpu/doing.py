"""
The steps of a change of vGPUs, each carried out and read back.
"""

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers import kernel
from gpuslice.drivers import pci
from gpuslice.drivers.nvml import ARGUMENT_VERSION_MISMATCH
from gpuslice.drivers.nvml import FUNCTION_NOT_FOUND
from gpuslice.drivers.nvml import INVALID_ARGUMENT
from gpuslice.drivers.nvml import NOT_FOUND
from gpuslice.drivers.nvml import NOT_SUPPORTED
from gpuslice.drivers.pci import DEVICES
from gpuslice.drivers.vgpu_slots import Vgpu
from gpuslice.host import limits
from gpuslice.techniques.vgpu.goal import NUMBERED
from gpuslice.techniques.vgpu.goal import SCHEDULERS

_SRIOV_MANAGE = "/usr/lib/nvidia/sriov-manage"
#: The driver's tool waits for clients that let go in a moment: seconds before it is asked again.
_PAUSES = (1.0, 1.0, 1.0, 1.0)
#: Seconds that it may take.
_MANAGING = 120
#: NVML's answer of a function that a newer one has replaced.
_DEPRECATED = 26
#: How long the files of new virtual functions are waited for, in seconds between looks: the vendor advises up to 30 s.
_PATIENCE = (0.1, 0.2, 0.5, 1, 2, 4, 8, 15)
_ABSENT = (NOT_SUPPORTED, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, _DEPRECATED)
_NO_GI = 0xFFFFFFFF
_POLICIES = {number: word for word, number in SCHEDULERS.items()}


class Doing:
    """
    The steps on one host. A method ``run_<action>`` raises an error of gpuslice.errors where the step did not happen.

    :param nvml: :class:`gpuslice.drivers.nvml.Nvml`.
    :param holders: function of a GPU that tells the processes which hold it open.
    :param slots: function of a GPU that tells its interface, see :func:`.vgpu_slots.slots`.
    """

    def __init__(self, host, nvml, holders, slots):
        self._host, self._nvml, self._holders, self._slots = host, nvml, holders, slots

    # -- modes ---------------------------------------------------------------------------------------------------
    def heterogeneous(self, gpu):
        """Whether vGPUs of several sizes may be mixed, None where GPU or driver have no such mode."""
        handle, doing = self._nvml.handle(gpu.address), "read the heterogeneous vGPU mode"
        found = self._nvml.call("nvmlDeviceGetVgpuHeterogeneousMode", handle, gpu=gpu.address, doing=doing, quiet=_ABSENT)
        return None if found is None else bool(found)

    def scheduler(self, gpu):
        """The policy of the vGPU scheduler as the pillar writes it, None where it is not told."""
        handle, doing = self._nvml.handle(gpu.address), "read the policy of the vGPU scheduler"
        found = self._nvml.call("nvmlDeviceGetVgpuSchedulerState", handle, gpu=gpu.address, doing=doing, quiet=_ABSENT)
        return None if found is None else _POLICIES.get(found.schedulerPolicy)

    def instances(self, gpu):
        """UUID of each mediated device that a virtual machine has -> id of its GPU instance: of these the driver tells."""
        doing, quiet = "read which GPU instance a vGPU has", (*_ABSENT, NOT_FOUND, INVALID_ARGUMENT)

        def ask(name, *args):
            return self._nvml.call(name, *args, gpu=gpu.address, doing=doing, quiet=quiet)

        found = {}
        for active in ask("nvmlDeviceGetActiveVgpus", self._nvml.handle(gpu.address)) or ():
            uuid = ask("nvmlVgpuInstanceGetMdevUUID", active)
            gi = ask("nvmlVgpuInstanceGetGpuInstanceId", active)
            if uuid and gi not in (None, _NO_GI):
                found[(uuid.decode() if isinstance(uuid, bytes) else uuid).lower()] = gi
        return found

    # -- steps ---------------------------------------------------------------------------------------------------
    def run_remove_vgpu(self, gpu, type, at, uuid):
        """Remove a vGPU. Raises errors.ResourceConflict: somebody has begun to use it."""
        slots, vgpu = self._slots(gpu), Vgpu(type, at, uuid)
        if slots is None:
            return
        if held := device_nodes.holding(self._host, slots.nodes(vgpu)):
            raise device_nodes.in_use(gpu.address, f"remove vGPU {type} at {vgpu.identity}", held)
        slots.remove(vgpu)

    def run_create_vgpu(self, gpu, type, at, uuid):
        """Make a vGPU. A UUID that could not be known before the functions were there is chosen now."""
        slots, function = self._await_interface(gpu, at)
        slots.create(Vgpu(type, function, uuid or slots.uuid(function, ())))

    def _await_interface(self, gpu, at):
        for _ in self._host.tries(_PATIENCE):
            slots, function = self._slots(gpu), self.function(gpu, at)
            if slots and function in slots.carriers():
                return slots, function
        raise errors.ValidationFailed(
            f"Function {at} shows no interface for vGPUs.",
            gpu.address,
            "See 'dmesg | grep NVRM' and the service nvidia-vgpu-mgr.",
        )

    def function(self, gpu, at):
        """PCI address of the function that is meant by an address or a number, "" while it is not there."""
        number = at.removeprefix(NUMBERED)
        if number == at:
            return at
        there = pci.there(self._host, gpu.address)
        return there[int(number) - 1] if int(number) <= len(there) else ""

    def run_set_functions(self, gpu, enable):
        """Enable or disable the virtual functions with the driver's tool: it refuses a count that is written directly."""
        self._nvml.close()
        command = [_SRIOV_MANAGE, "-e" if enable else "-d", gpu.address]
        doing = f"{'enable' if enable else 'disable'} its virtual functions"
        for _ in self._host.tries(_PAUSES):
            done = self._manage(gpu, command, doing)
            count = kernel.number(self._host, f"{DEVICES}/{gpu.address}/sriov_numvfs") or 0
            if bool(count) == enable and (not done.returncode or self._is_whole(gpu, count)):
                return
            said = " ".join((done.stdout + " " + done.stderr).split())
            if "unbindlock" not in said.lower():
                break
        raise errors.DriverError(
            f"Could not {doing}: {said or f'sriov-manage said nothing, and {count} are there'}. "
            f"Who holds the GPU: {self._held(gpu)}.",
            gpu.address,
            "Stop these, and see 'dmesg | grep NVRM'.",
        )

    def _is_whole(self, gpu, count):
        """Whether all functions are there or none is, and the GPU has its driver: then the tool's word does not count."""
        base = f"{DEVICES}/{gpu.address}"
        total = kernel.number(self._host, f"{base}/sriov_totalvfs", pci.MOST)
        return count in (0, total) and bool(self._host.readlink(f"{base}/driver"))

    def _held(self, gpu):
        try:
            held = "; ".join(map(str, self._holders(gpu)))
            return held or f"nobody that can be seen from here; {device_nodes.usually(self._host, gpu)}"
        except errors.GpuSliceError as err:
            # The tool may have left the GPU without a driver: what it said itself is to be told all the same.
            return f"that can't be told ({err.what})"

    def _manage(self, gpu, command, doing):
        try:
            return self._host.run(command, timeout=_MANAGING)
        except errors.ToolHangs as err:
            why = limits.hanging(gpu.address, doing, _MANAGING, "the driver's tool")
            raise self._host.limits.hangs(gpu.address, why) from err
        except errors.ToolMissing as err:
            raise errors.ToolMissing(
                f"Could not {doing}: {_SRIOV_MANAGE} is not installed.", gpu.address, "Install NVIDIA's vGPU host driver."
            ) from err
        except OSError as err:
            raise kernel.failure(err, gpu.address, f"{doing} with {_SRIOV_MANAGE}") from err

    def run_set_heterogeneous(self, gpu, enabled):
        """Set the heterogeneous mode and read it back."""
        doing = f"{'allow' if enabled else 'no longer allow'} vGPUs of several sizes"
        nvml = self._nvml
        nvml.call("nvmlDeviceSetVgpuHeterogeneousMode", nvml.handle(gpu.address), int(enabled), gpu=gpu.address, doing=doing)
        if self.heterogeneous(gpu) != enabled:
            raise errors.ValidationFailed(f"Could not {doing}: the driver said yes and did not do it.", gpu.address)

    def run_set_scheduler(self, gpu, policy):
        """Set the policy of the scheduler, with the driver's own turns, and read it back."""
        doing, nvml = f"set the vGPU scheduler to {policy}", self._nvml
        wanted = nvml.open().c_nvmlVgpuSchedulerSetState_t()
        wanted.schedulerPolicy = SCHEDULERS[policy]
        nvml.call("nvmlDeviceSetVgpuSchedulerState", nvml.handle(gpu.address), wanted, gpu=gpu.address, doing=doing)
        if self.scheduler(gpu) != policy:
            raise errors.ValidationFailed(f"Could not {doing}: the driver said yes and did not do it.", gpu.address)
