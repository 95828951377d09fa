"""
Which compute and memory modes a GPU has, alone and together, as its driver tells them, else as the catalog does.
"""

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.drivers import kfd
from gpuslice.drivers.amdgpu import AVAILABLE
from gpuslice.drivers.amdgpu import MODULE
from gpuslice.drivers.amdgpu import NOT_SWITCHABLE

_KNOWN = {"compute": ("SPX", "DPX", "TPX", "QPX", "CPX"), "memory": ("NPS1", "NPS2", "NPS4", "NPS8")}


class Modes:
    """
    The modes that the GPUs of one host have.

    :param driver: :class:`gpuslice.drivers.amdgpu.Amdgpu`.
    """

    def __init__(self, host, driver):
        self._host, self._driver = host, driver

    def available(self, gpu):
        """
        The modes that this GPU has, as the driver tells them, else as the catalog does.

        :return: dict: ``compute`` and ``memory`` are lists; ``pairs`` the combinations, as ``CPX/NPS4``. All of them are empty
            where the modes can't be switched, as in a virtual machine.
        """
        compute, memory = self._compute_modes(gpu), self._memory_modes(gpu)
        together = self._memory_modes_by_compute(gpu, compute)
        return {"compute": compute, "memory": memory, "pairs": [f"{c}/{m}" for c in compute for m in memory if m in together[c]]}

    def _compute_modes(self, gpu):
        """
        The compute modes of this board with all its memory modes. ``available_compute_partition`` has those that are valid now:
        every one in NPS1 and, in a newer driver, fewer in the others.
        """
        known = amd.MODELS.get(gpu.catalog_key, {}).get("compute_partitions", ())
        if not self._driver.is_bound(gpu.address):
            return list(known)
        told = self._driver.all_compute_modes(gpu.address)
        if told is not None:
            return told
        told = self._driver.valid_compute_modes(gpu.address)
        if told is None:
            # The driver has this file wherever the modes can be switched.
            return []
        return told if self._memory_now(gpu) == "NPS1" else [*told, *(mode for mode in known if mode not in told)]

    def _memory_modes(self, gpu):
        if not self._driver.is_bound(gpu.address):
            return list(amd.MODELS.get(gpu.catalog_key, {}).get("memory_partitions", ("NPS1",)))
        # The driver has the list only where there is a choice.
        return self._driver.memory_modes(gpu.address) or [self._memory_now(gpu)]

    def _memory_modes_by_compute(self, gpu, compute):
        """
        Compute mode -> the memory modes that go with it. Of most pairs the driver says nothing, so there its rules count, which
        are the architecture's; what it says of the memory mode of now and of the compute mode that its own table shows, wins.
        """
        newer = self._driver.all_compute_modes(gpu.address) is not None
        architecture = amd.MODELS.get(gpu.catalog_key, {}).get("architecture", "")
        found = {mode: amd.memory_modes_with(mode, architecture, newer) for mode in compute}
        if not newer:
            return found
        shown, told = self._driver.table(gpu.address)
        if told and shown in found:
            found[shown] = tuple(told)
        now, valid = self._memory_now(gpu), self._driver.valid_compute_modes(gpu.address)
        # An empty list is no list: the driver makes it when it first switches the mode.
        return {mode: _with(modes, now, mode in valid) if valid else modes for mode, modes in found.items()}

    def _memory_now(self, gpu):
        return self._driver.memory(gpu.address) or amd.DEFAULT_MODE[1]

    def automatic(self, gpu, memory):
        """The compute mode that the driver takes by itself with a memory mode; an option of it may name one for all GPUs."""
        if forced := self._driver.begins_with():
            return forced
        domains, dies = int(memory[3:]), amd.MODELS.get(gpu.catalog_key, {}).get("xcc") or 8
        if domains == 1:
            return "SPX"
        if domains in (dies, dies // 2):
            return "TPX" if "TPX" in self._compute_modes(gpu) else "CPX"
        return "DPX"

    def count(self, gpu, mode):
        """How many partitions a GPU has in a compute mode; of a board that the catalog does not know, those of now."""
        return self.known_count(gpu, mode) or (len(kfd.parts_of(self._host, gpu.address)) if mode else 0)

    @staticmethod
    def known_count(gpu, mode):
        """How many partitions a compute mode makes of a GPU, 0 where that is not known before."""
        if not mode:
            return 0
        return amd.PARTITIONS.get(mode) or amd.MODELS.get(gpu.catalog_key, {}).get("xcc") or 0

    def refuse_beginning(self, gpu, wanted):
        """Refuse a memory mode in which the driver, loaded with the options of now, would not start the GPU."""
        forced = self._driver.begins_with()
        if not forced or f"{forced}/{wanted.memory}" in self.available(gpu)["pairs"]:
            return
        raise errors.Unsupported(
            f"Memory mode {wanted.memory} is wanted, but the option user_partt_mode of {MODULE} makes it begin with compute mode "
            f"{forced}, which {gpu.model} does not have together with {wanted.memory}: it would not start the GPU.",
            gpu.address,
            "Take that option out of /etc/modprobe.d and the kernel's command line, reload the driver, and run again.",
        )

    def refuse_illegal(self, gpu, state, wanted):
        """Refuse a pair that this board does not have. It is judged by the memory mode in which the compute mode is wanted."""
        if (wanted.compute, wanted.memory) == (state.compute, state.memory):
            return
        have = self.available(gpu)
        if not have["compute"] and not state.loaded:
            # A board that the catalog does not know, and no driver that could be asked.
            return
        if not have["compute"]:
            raise errors.Unsupported(
                f"The modes of {gpu.model} can't be switched: its driver lists none in {AVAILABLE}.",
                gpu.address,
                NOT_SWITCHABLE[2],
            )
        for kind in ("compute", "memory"):
            mode = getattr(wanted, kind)
            if mode and mode not in have[kind] and mode != getattr(state, kind):
                raise errors.ProfileMismatch(
                    f"{gpu.model} has no {kind} mode {mode}{self._firmware(kind, gpu, mode)}.",
                    gpu.address,
                    f"It has {', '.join(have[kind])}; combinations: {', '.join(have['pairs'])}.",
                )
        pair = f"{wanted.compute}/{wanted.memory or amd.DEFAULT_MODE[1]}"
        if pair not in have["pairs"]:
            raise errors.ProfileMismatch(
                f"{gpu.model} has no combination {pair}.", gpu.address, f"It has {', '.join(have['pairs'])}."
            )

    @staticmethod
    def _firmware(kind, gpu, mode):
        known = amd.MODELS.get(gpu.catalog_key, {}).get(f"{kind}_partitions", ())
        return " with this driver and firmware (the model can have it)" if mode in known else ""


def mode_of(gpu, kind, value):
    """A mode in upper case, "" for none. Raises errors.PolicyError."""
    if value in (None, ""):
        return ""
    if isinstance(value, str) and value.upper() in _KNOWN[kind]:
        return value.upper()
    raise errors.PolicyError(f"{value!r} is no {kind} mode.", gpu.address, f"Use one of {', '.join(_KNOWN[kind])}.")


def _with(modes, mode, wanted):
    """A tuple of modes, in which this one is or is not."""
    others = tuple(other for other in modes if other != mode)
    return (*others, mode) if wanted else others
