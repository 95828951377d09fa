"""
What a node has for whoever gives it to jobs, read by the engine: for those who ask by hand, and for the mine.
"""

from gpuslice.drivers import device_nodes
from gpuslice.model import Slice
from gpuslice.outputs import offer
from gpuslice.outputs.offer import Offer


def read(engine, about):
    """
    What the node has, as :class:`gpuslice.outputs.offer.Offer`.

    :param about: what is to be told, for the message: ``What node n1 has for Slurm``. :raises errors.Unhealthy: a GPU can't be
        read, so that nobody knows what it has; what reading the records raises.
    """
    untold = set()
    every = engine.parts(taken=True, untold=untold)
    entries = engine.quarantined()
    if unread := sorted(untold - set(entries)):
        raise offer.unread(about, unread)
    every = [part for part in every if part.gpu not in untold]
    bare = [gpu for gpu in engine.unsliced([part.as_dict() for part in every]) if gpu.address not in untold]
    closed = {gpu.address: engine.closed_by(gpu) for gpu in bare}
    whole = [_whole(engine, gpu) for gpu in bare if closed[gpu.address] is None]
    held = offer.held([*every, *whole], engine.given(), lambda parts: _barred(parts, entries))
    return Offer(
        tuple(every), tuple(whole), {address: by for address, by in closed.items() if by is not None},
        {**held, **dict.fromkeys(untold, offer.UNREAD)},
    )  # fmt: skip


def _whole(engine, gpu):
    """A GPU that nothing cuts, as a slice."""
    nodes = device_nodes.of_whole(engine.host, gpu)
    return Slice(gpu.address, "gpu", gpu.model, gpu.uuid, gpu.memory_mib, 1.0, "", tuple(nodes), name=gpu.address)


def _barred(parts, entries):
    """Name of a slice that is quarantined, or stands on what is -> why."""
    if not entries:
        return {}
    # Few hosts have any, and no other loads what reads it.
    from gpuslice.records import quarantine

    return {name: entries[by].why for name, by in quarantine.barred(parts, entries).items()}
