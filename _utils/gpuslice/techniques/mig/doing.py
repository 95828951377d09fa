"""
The steps of a change of MIG, each carried out and read back.
"""

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.drivers.nvml import IN_USE
from gpuslice.drivers.nvml import RESET_REQUIRED
from gpuslice.host import limits
from gpuslice.techniques.mig import profile_names
from gpuslice.techniques.mig.devices import mode_word

_RESET_TIMEOUT = 120
_RESET_REFUSED = ("not supported", "not permitted in this", "unable to reset")


class Doing:
    """
    The steps on one host. A method ``run_<action>`` raises an error of gpuslice.errors where the step did not happen.

    :param mig: :class:`gpuslice.techniques.mig.technique.Mig`, which knows the profiles and who uses what.
    """

    def __init__(self, host, mig):
        self._host, self._mig, self._nvml = host, mig, mig.nvml

    def run_set_mode(self, gpu, enabled):
        """Set the MIG mode; what becomes of it at a reset is pending then."""
        try:
            status = self._nvml.set_mig_mode(gpu.address, enabled)
        except errors.DriverError:
            if not self._mode_is(gpu, enabled):
                raise
            return
        current, pending = self._nvml.mig_mode(gpu.address)
        if pending == enabled and (current == enabled or status in (0, RESET_REQUIRED, IN_USE)):
            return
        word = "enable" if enabled else "disable"
        if status == IN_USE:
            what = f"Could not {word} MIG mode: {errors.IN_USE}."
            raise errors.InUse(what, gpu.address, "Stop these and run again.", users=errors.IN_USE)
        raise errors.ModeChangePending(
            f"Could not {word} MIG mode: the driver answered status {status} and it is still {mode_word(current)}.", gpu.address
        )

    def run_reset(self, gpu):
        """Reset a GPU whose mode is pending. Raises errors.RebootNeeded, errors.ModeChangePending: it is in use."""
        current, pending = self._nvml.mig_mode(gpu.address)
        if current == pending:
            return
        self._mig.release()
        command = ["nvidia-smi", "--gpu-reset", "-i", gpu.address]
        try:
            done = self._host.run(command, timeout=_RESET_TIMEOUT)
        except errors.ToolMissing as err:
            raise self._reboot_needed(gpu, pending, "nvidia-smi is not installed") from err
        except errors.ToolHangs as err:
            raise self._host.limits.hangs(gpu.address, limits.hanging(gpu.address, "reset it", _RESET_TIMEOUT)) from err
        if done.returncode == 0:
            return
        # What is there counts, not what the program says of it.
        there = self._mode_is(gpu, pending)
        self._mig.release()
        if there:
            return
        said = " ".join((done.stdout + " " + done.stderr).split())
        if any(words in said.lower() for words in _RESET_REFUSED):
            raise self._reboot_needed(gpu, pending, said)
        held = "; ".join(map(str, self._mig.holders(gpu)))
        if not held:
            held = f"{device_nodes.unseen(self._host, gpu)}, or a loaded module nvidia_drm"
        raise errors.ModeChangePending(
            f"MIG mode is to become {mode_word(pending)}, and the reset was refused: {said} In use by {held}.",
            gpu.address,
            "Stop these and run again.",
        )

    def _mode_is(self, gpu, wanted):
        """Whether a mode is in force."""
        try:
            return self._nvml.mig_mode(gpu.address) == (wanted, wanted)
        except errors.DriverError:
            return False

    def _reboot_needed(self, gpu, pending, why):
        return errors.RebootNeeded(
            f"MIG mode becomes {mode_word(pending)} at the next reboot: the GPU can't be reset here ({why}).",
            gpu.address,
            "Reboot the host.",
        )

    def run_destroy_ci(self, gpu, gi, ci):
        """Destroy a compute instance. Raises errors.InUse."""
        self._patiently(lambda: self._nvml.destroy_ci(gpu.address, gi, ci))

    def run_destroy_gi(self, gpu, gi):
        """Destroy a GPU instance. Raises errors.InUse."""
        self._patiently(lambda: self._nvml.destroy_gi(gpu.address, gi))

    def _patiently(self, destroy):
        """The driver can say "in use" for some tenths of a second after a process or the last compute instance went."""
        for last in self._host.tries():
            try:
                destroy()
                return
            except errors.InUse:
                if last:
                    raise

    def run_create_gi(self, gpu, profile, start):
        """Make a GPU instance at a memory slice. Raises errors.DriverError: it came to another."""
        found = self._live_profile(gpu, profile)
        number, place = self._nvml.create_gi(gpu.address, found, start)
        if place != start:
            # Nobody but us knows that it is ours: an undo, which goes by where it was to be, would take it for another tool's.
            self.run_destroy_gi(gpu, number)
            raise errors.DriverError(
                f"{found.name} was to be made at memory slice {start}, and the driver made it at {place}.",
                gpu.address,
                "See 'dmesg | grep NVRM' for the driver's own words.",
            )
        self._mig.gi_ids[(gpu.address, start)] = number

    def run_create_ci(self, gpu, profile, start, ci, ci_start):
        """Make a compute instance in the GPU instance at ``start``."""
        found = self._live_profile(gpu, profile)
        slices = profile_names.parse(ci).ci_slices or found.slices
        wanted = next((c for c in found.cis if c.slices == slices), None)
        if wanted is None:
            raise errors.ProfileMismatch(f"{profile} has no compute instance profile {ci}.", gpu.address)
        self._nvml.create_ci(gpu.address, self._mig.gi_ids[(gpu.address, start)], wanted, ci_start)

    def _live_profile(self, gpu, name):
        """The driver's profile for a name that was planned, which may have come from the catalog while MIG was off."""
        return self._mig.table(gpu).profile(name) or self._mig.resolve(gpu, name)[0]
