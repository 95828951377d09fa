"""
What is wanted of a GPU that carries vGPUs, worked out from settings and from what the GPU has now.
"""

from collections import Counter
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import pci
from gpuslice.drivers.vgpu_slots import Vgpu
from gpuslice.rules import PLAIN
from gpuslice.techniques.vgpu import types as vgpu_types

#: Words of the pillar -> the policies of NVML's vGPU scheduler.
SCHEDULERS = {"best-effort": 1, "equal-share": 2, "fixed-share": 3}

#: The modes of a GPU whose driver was bound anew.
FRESH = {"heterogeneous": False, "scheduler": "best-effort"}

#: How a function is called whose address the device does not tell before it is there: by its number from 1.
NUMBERED = "vf"


class Goal(NamedTuple):
    """
    What a GPU is to become.

    :ivar keep: vGPUs that stay; :ivar create: those to come.
    :ivar functions: whether its virtual functions are to be enabled; of no meaning for a GPU that has none.
    :ivar heterogeneous: mode in which sizes may be mixed, None to leave it; :ivar scheduler: word, None to leave it.
    :ivar mig: settings for the technique below, None to leave MIG alone.
    """

    keep: tuple = ()
    create: tuple = ()
    functions: bool = True
    heterogeneous: bool | None = None
    scheduler: str | None = None
    mig: dict | None = None

    @property
    def vgpus(self):
        """All that there will be."""
        return tuple(sorted((*self.keep, *self.create), key=lambda vgpu: (vgpu.at, vgpu.uuid)))


def room(host, gpu, state, slots):
    """How many functions can carry a vGPU each, None for a GPU that carries them itself."""
    if not state.total:
        return None
    return len(_carriers(host, gpu, state, slots))


def counts_of(gpu, settings, types, carriers=None, most=lambda found: found.most, rules=PLAIN):
    """
    How many of which type.

    :param settings: ``profile`` and ``count``, or ``profiles``; :param types: :class:`.vgpu_types.VgpuTypes`.
    :param carriers: result of :func:`room`; :param most: function of a type that tells how many of it the GPU can have.
    :param rules: of the change, for what is advised.
    :return: list of (:class:`gpuslice.techniques.vgpu.types.VgpuType`, count).
    :raises errors.ProfileMismatch: a type is unknown, or they don't fit together. :raises errors.Unsupported: none is named.
    """
    named = dict(settings.get("profiles") or {})
    if settings.get("profile"):
        named[settings["profile"]] = settings.get("count") or 0
    if not named:
        raise errors.Unsupported(
            "This host makes vGPUs, and no type is named.",
            gpu.address,
            f"Name one in {rules.key('vgpu', 'profile')}; licences are for guests.",
        )
    counts = Counter()
    for name, count in named.items():
        found = vgpu_types.resolve(gpu, name, types)
        found = found._replace(most=most(found))
        counts[found] += count or _as_many_as_fit(gpu, found, carriers, rules)
    _check_fit(gpu, counts, types)
    return sorted(counts.items(), key=lambda pair: (-pair[0].memory_mib, pair[0].name))


def _as_many_as_fit(gpu, found, carriers, rules):
    if found.most is None:
        raise errors.Unsupported(
            f"As many vGPUs of type {found.name} as fit are wanted, and the driver does not tell how many that are.",
            gpu.address,
            f"Name a number in {rules.key('vgpu', 'count')}.",
        )
    # Another program may have some of the functions, a virtual machine that was given one as it is for instance.
    return found.most if carriers is None else max(1, min(found.most, carriers))


def _check_fit(gpu, counts, types):
    backed = [found for found in counts if found.gi_profile is not None]
    if backed and len(backed) != len(counts):
        raise errors.ProfileMismatch(
            f"{' and '.join(sorted(found.name for found in counts))} don't go together: one has a MIG instance to itself, "
            "the other takes turns on a GPU without MIG.",
            gpu.address,
            "Choose types of one kind.",
        )
    for found, count in counts.items():
        if found.most is not None and count > found.most:
            raise errors.ProfileMismatch(
                f"{count} vGPUs of type {found.name} are wanted, and {gpu.model} can have {found.most}.",
                gpu.address,
                "Ask for that many, or for fewer.",
            )
    if backed or len(counts) < 2 or any(found.most is None for found in counts):
        return
    asked = sum(found.memory_mib * count for found, count in counts.items())
    # What the wanted types could fill is told already; all the others are only asked where that is too little.
    if asked > _memory(counts) and asked > (memory := _memory(types.values())):
        listed = ", ".join(f"{count} x {found.name}" for found, count in counts.items())
        raise errors.ProfileMismatch(
            f"{listed} need {asked} MiB, and {gpu.model} has {memory} MiB for vGPUs.",
            gpu.address,
            "Ask for fewer or smaller ones.",
        )


def _memory(types):
    """MiB that types which take turns can fill."""
    return max(found.memory_mib * (found.most or 0) for found in types if found.gi_profile is None)


def kept(state, counts, is_used):
    """
    Which vGPUs of the wanted types stay: those that somebody uses before those that nobody does.

    :param counts: result of :func:`wanted`; :param is_used: function of a vGPU, asked only where there is a choice.
    :return: (vGPUs that stay, list of (type, how many are missing)).
    """
    stay, missing = [], []
    for found, count in counts:
        mine = [vgpu for vgpu in state.vgpus if vgpu.type == found.name]
        if len(mine) > count:
            mine.sort(key=lambda vgpu: not is_used(vgpu))
        stay += mine[:count]
        missing.append((found, count - min(count, len(mine))))
    return stay, [(found, count) for found, count in missing if count]


def placed(host, gpu, state, slots, stay, missing):
    """
    A place for each vGPU to come: the first free functions.

    :param slots: the interface of the GPU, None where it shows none yet. :return: tuple of
        :class:`gpuslice.drivers.vgpu_slots.Vgpu`.
    :raises errors.ProfileMismatch: there are not enough functions.
    """
    names = [found.name for found, count in missing for _ in range(count)]
    if not state.total:
        return _on_the_gpu(gpu, slots, stay, names)
    carriers = _carriers(host, gpu, state, slots)
    # What has a UUID gets it when it is made, where the functions are not there yet.
    kind = slots.uuid if slots and state.numvfs else lambda function, used: ""
    taken = {vgpu.at for vgpu in stay}
    free = [function for function in carriers if function not in taken]
    if len(names) > len(free):
        raise errors.ProfileMismatch(
            f"{len(names) + len(stay)} vGPUs are wanted, and {gpu.model} has {len(carriers)} virtual functions to carry them.",
            gpu.address,
            "Ask for fewer.",
        )
    return tuple(Vgpu(name, at, kind(at, ())) for name, at in zip(names, free, strict=False))


def _carriers(host, gpu, state, slots):
    """The functions that can carry a vGPU. What a device does not tell before they are there is known by its number."""
    if slots and state.numvfs:
        return slots.carriers()
    told = pci.possible(host, gpu.address, state.total)
    return told or [f"{NUMBERED}{n}" for n in range(1, state.total + 1)]


def _on_the_gpu(gpu, slots, stay, names):
    if slots is None:
        raise errors.Unsupported(
            f"{gpu.model} shows no interface for vGPUs.",
            gpu.address,
            "Install NVIDIA's vGPU host driver (not the one for guests or bare metal), load it, and see 'dmesg | grep NVRM'.",
        )
    made, taken = [], [vgpu.uuid for vgpu in stay]
    for name in names:
        made.append(Vgpu(name, gpu.address, slots.uuid(gpu.address, taken)))
        taken.append(made[-1].uuid)
    return tuple(made)


def refuse_scheduler(gpu, state, scheduler, backed, rules=PLAIN):
    """
    Refuse a policy of the scheduler that can't be set.

    :param backed: whether types with a MIG instance each are wanted. :raises errors.Unsupported: driver or types have none.
    """
    if scheduler and backed:
        raise errors.Unsupported(
            "A scheduling policy is wanted for types that have a MIG instance each, which the driver refuses.",
            gpu.address,
            f"Leave {rules.key('vgpu', 'scheduler')} out.",
        )
    if scheduler and state.scheduler is None and tells_modes(state):
        raise errors.Unsupported(
            f"{rules.key('vgpu', 'scheduler')} is {scheduler}, and the driver can't set it on this GPU.",
            gpu.address,
            "Leave it out.",
        )


def tells_modes(state):
    """Whether the driver would tell modes of vGPUs that take turns if it had any."""
    return bool(state.numvfs or not state.total) and not (state.mig and state.mig.current)


def modes(state, goal, anew):
    """(heterogeneous mode, scheduling policy) to set, None for what is right already. Binding the driver anew resets both."""
    now = FRESH if anew else {"heterogeneous": bool(state.heterogeneous), "scheduler": state.scheduler}
    return (
        None if goal.heterogeneous in (None, now["heterogeneous"]) else goal.heterogeneous,
        None if goal.scheduler in (None, now["scheduler"]) else goal.scheduler,
    )
