"""
What a node has for whoever gives it to jobs or pods, and what of it nobody is to be given.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import NamedTuple

from gpuslice import errors
from gpuslice.model import Slice

#: Why nobody is given a GPU that has no slices and is not whole.
CLOSED = "it has no slices, and nobody can use it as a whole"
#: Why nobody is given one that nobody can ask.
UNREAD = "quarantined, and can't be read"


class Offer(NamedTuple):
    """
    What a node has.

    :ivar every: all slices, with those on which others stand; :ivar whole: the GPUs that nothing cuts, as slices of kind ``gpu``.
    :ivar closed: PCI address of a GPU without a slice that nobody can use as a whole -> the technology whose mode keeps it from
        that, "" for another reason. :ivar held: name of a slice or address of a GPU -> why nobody is to be given it.
    """

    every: tuple[Slice, ...] = ()
    whole: tuple[Slice, ...] = ()
    closed: Mapping[str, str] = {}
    held: Mapping[str, str] = {}

    @property
    def offered(self) -> list[Slice]:
        """What can be given, held or not."""
        return [*(part for part in self.every if not part.taken), *self.whole]


def unread(about: str, gpus: Iterable[str]) -> errors.Unhealthy:
    """
    The error for GPUs of which nobody knows what they have: a shorter list would take from users what is there.

    :param about: what is to be told, for the message: ``What node n1 has for Slurm``.
    """
    return errors.Unhealthy(
        f"{about} can't be told: {', '.join(gpus)} can't be read.",
        todo="Mend that (see gpu.health), or leave it out: 'salt-call gpu_health.quarantine <GPU>'.",
    )


def held(parts: Iterable[Slice], given: Mapping[str, str], barred: Callable[[list[Slice]], Mapping[str, str]]) -> dict[str, str]:
    """
    Name of a slice -> why nobody else is to have it.

    :param parts: of an offer; :param given: name of a slice -> the consumer who has it.
    :param barred: function of slices: name of what is quarantined, or stands on that -> why.
    """
    free = [part for part in parts if not part.taken]
    names = {part.name for part in free}
    found = {part.name: f"consumer {given[part.name]} has it" for part in free if part.name in given}
    return found | {name: f"quarantined: {why}" for name, why in barred(list(parts)).items() if name in names}
