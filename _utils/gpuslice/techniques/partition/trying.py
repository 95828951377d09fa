"""
What of partition modes can be tried on a GPU that its owner can spare, and what the catalog says of the model beside what its
driver says.
"""

from gpuslice.catalog import amd
from gpuslice.techniques.base import Fact
from gpuslice.techniques.base import Trial
from gpuslice.techniques.base import Trials

_ALL_AT_ONCE = (
    "the memory mode is one for a whole hive and comes with a reload of the driver, which restarts all GPUs of the host"
)


def trials(state, available):
    """
    What is tried from this state.

    :param state: :class:`gpuslice.techniques.partition.technique.PartitionState`; :param available: the modes that the GPU has,
        as :meth:`.modes.Modes.available` tells them.
    """
    memory = state.memory or amd.DEFAULT_MODE[1]
    modes = [mode for mode in available["compute"] if f"{mode}/{memory}" in available["pairs"]]
    if not state.loaded or len(modes) < 2:
        return Trials(why_not="it has no compute mode to change to")
    base = amd.DEFAULT_MODE[0] if amd.DEFAULT_MODE[0] in modes else modes[0]
    each = [Trial(f"{mode}/{memory}", {"compute": mode}) for mode in modes if mode != base]
    others = [pair for pair in available["pairs"] if not pair.endswith(f"/{memory}")]
    return Trials({"compute": base}, (*each, *(Trial(pair, why_not=_ALL_AT_ONCE) for pair in others)))


def facts(gpu, state, available, count):
    """
    The catalog's modes beside the driver's; [] for a model that the catalog does not know.

    :param count: how many partitions there are now.
    """
    known = amd.MODELS.get(gpu.catalog_key)
    if not known:
        return []
    return [
        Fact("compute modes", sorted(known["compute_partitions"]), sorted(available["compute"])),
        Fact("memory modes", sorted(known["memory_partitions"]), sorted(available["memory"])),
        Fact(f"partitions in {state.compute}", amd.PARTITIONS.get(state.compute) or known["xcc"], count),
    ]
