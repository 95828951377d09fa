"""
What the GPUs of an XGMI hive have to agree on, as they have one memory mode.
"""

from gpuslice import errors
from gpuslice.catalog import amd


def changing_memory(driver, settings, gpu, wanted, undo, rules):
    """
    Memory modes to be brought into force by one reload, by PCI address.

    :param driver: :class:`gpuslice.drivers.amdgpu.Amdgpu`; :param settings: PCI address -> (GPU, what is wanted of it), of all.
    :param wanted: memory mode of this GPU; :param undo: whether a change is put back, GPU by GPU.
    :param rules: of the change, for what is advised.
    :raises errors.PolicyError: a hive is to be in two modes, or is wanted only in part.
    """
    if undo:
        return {gpu.address: wanted}
    others = {**settings, gpu.address: (gpu, {"memory": wanted})}
    goals = {address: _memory_goal(driver, *other) for address, other in others.items()}
    mates = driver.hive(gpu.address)
    strangers = [address for address in mates if address not in goals]
    different = [address for address in mates if goals.get(address, wanted) != wanted]
    if different:
        lines = ", ".join(f"GPU {address} {goals[address]}" for address in mates if address in goals)
        raise errors.PolicyError(
            f"GPUs of one XGMI hive have one memory mode, but different ones are wanted: {lines}.",
            todo=f"Give all of them the same {rules.key('partition', 'memory')}.",
        )
    if strangers:
        raise errors.PolicyError(
            f"Memory mode {wanted} is wanted of {', '.join(a for a in mates if a in goals)}, but the memory mode is one for "
            f"the whole XGMI hive, so {', '.join(strangers)} would change too, of which it is not wanted.",
            todo=f"Name all GPUs of the hive{' (all)' if rules.by_hand else ''}, or keep the memory mode.",
        )
    return {address: goal for address, goal in sorted(goals.items()) if driver.memory(address) != goal}


def all_memory(driver, settings, gpu, memory):
    """Memory mode of each GPU of which something is wanted, by PCI address; ``memory`` is that of this one."""
    goals = {address: _memory_goal(driver, *other) for address, other in settings.items()}
    return dict(sorted({**goals, gpu.address: memory}.items()))


def _memory_goal(driver, gpu, settings):
    """The memory mode that settings ask for; what is there where they ask for none."""
    wanted = settings.get("layout", settings).get("memory")
    return wanted.upper() if isinstance(wanted, str) and wanted else driver.memory(gpu.address)


def doubtful(driver, settings, gpu, wanted):
    """Compute modes wanted in the hive that only newer drivers take with the memory mode: a reload must not tell it."""
    architecture = amd.MODELS.get(gpu.catalog_key, {}).get("architecture", "")
    others = [settings[address][1] for address in driver.hive(gpu.address) if address in settings]
    modes = {wanted.compute, *(str(one.get("layout", one).get("compute") or "").upper() for one in others)}
    old, new = ({m for m in modes if wanted.memory in amd.memory_modes_with(m, architecture, n)} for n in (False, True))
    return sorted(new - old)
