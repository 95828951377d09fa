"""
Simulated hosts under the engine: opened, brought to a pillar, and looked at.
"""

from gpuslice.engine import Engine
from gpuslice.records.journal import Journal


def config(host):
    """The minion configuration of a simulated host."""
    return {"simulate": host.description_path, "state_dir": host.state_dir}


def apply(host, wanted, progress=None, events=None):
    """
    Bring a host to a pillar; ``progress`` gets each line, ``events`` each event. Returns
    :class:`gpuslice.change.context.Result`.
    """
    with Engine(config(host), progress=progress, events=events) as engine:
        return engine.apply(wanted)


def listed(host):
    """The slices as ``gpu.slices`` lists them."""
    with Engine(config(host)) as engine:
        return engine.slices()


def slices(host):
    """(GPU, profile, placement) -> UUID."""
    return {(part["gpu"], part["profile"], part["placement"]): part["uuid"] for part in listed(host)}


def uuids(host):
    """The UUIDs of all slices."""
    return {part["uuid"] for part in listed(host)}


def shapes(host):
    """PCI address of each GPU -> sorted profiles of its slices."""
    with Engine(config(host)) as engine:
        found = engine.slices()
        return {gpu.address: sorted(part["profile"] for part in found if part["gpu"] == gpu.address) for gpu in engine.gpus}


def closed(host):
    """Whether no change is on record as begun."""
    return Journal(host).unfinished() is None
