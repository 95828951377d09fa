"""
What a node has for whoever gives it to jobs, and what of it nobody is to be given.
"""

from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers import device_nodes
from gpuslice.model import Gpu
from gpuslice.model import Slice


class Offer(NamedTuple):
    """
    What a node has.

    :ivar every: all slices, with those on which others stand; :ivar whole: the GPUs that nothing cuts, as slices of kind ``gpu``.
    :ivar bare: the GPUs without a slice; :ivar held: name of a slice or address of a GPU -> why nobody is to be given it.
    """

    every: tuple[Slice, ...]
    whole: tuple[Slice, ...]
    bare: tuple[Gpu, ...]
    held: Mapping[str, str]

    @property
    def given(self) -> list[Slice]:
        """What can be given, held or not."""
        return [*(part for part in self.every if not part.taken), *self.whole]


def read(engine, about):
    """
    What the node has, as :class:`Offer`.

    :param about: what is to be told, for the message: ``What node n1 has for Slurm``. :raises errors.Unhealthy: a GPU can't be
        read, so that nobody knows what it has; what reading the records raises.
    """
    untold = set()
    every = engine.parts(taken=True, untold=untold)
    barred = engine.quarantined()
    if unread := sorted(untold - set(barred)):
        raise errors.Unhealthy(
            f"{about} can't be told: {', '.join(unread)} can't be read.",
            todo="Mend that (see gpu.health), or leave it out: 'salt-call gpu_health.quarantine <GPU>'.",
        )
    every = [part for part in every if part.gpu not in untold]
    bare = [gpu for gpu in engine.unsliced([part.as_dict() for part in every]) if gpu.address not in untold]
    whole = _whole(engine, bare)
    held = {**_held(engine, [*every, *whole], barred), **dict.fromkeys(untold, "quarantined, and can't be read")}
    return Offer(tuple(every), tuple(whole), tuple(bare), held)


def _whole(engine, bare):
    """The GPUs that nothing cuts, as slices."""
    found = []
    for gpu in bare:
        if engine.is_whole(gpu):
            number = device_nodes.minor(engine.host, gpu.address) if gpu.vendor == "nvidia" else None
            nodes = device_nodes.render(engine.host, gpu.address) if number is None else [f"/dev/nvidia{number}"]
            found.append(Slice(gpu.address, "gpu", gpu.model, gpu.uuid, gpu.memory_mib, 1.0, "", tuple(nodes), name=gpu.address))
    return found


def _held(engine, parts, barred):
    """Name of a slice -> why nobody else is to have it."""
    owners = engine.owners()
    held = {part.name: f"consumer {owners[part.name]} has it" for part in parts if part.name in owners and not part.taken}
    if barred:
        # Few hosts have any, and no other loads what reads it.
        from gpuslice.records import quarantine

        found = quarantine.barred(parts, barred)
        held |= {name: f"quarantined: {barred[by].why}" for name, by in found.items() if not _taken(name, parts)}
    return held


def _taken(name, parts):
    return any(part.name == name and part.taken for part in parts)
