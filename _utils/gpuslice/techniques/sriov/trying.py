"""
What of virtual functions can be tried on a GPU that its owner can spare, and what the catalog says of the model beside what the
kernel says.
"""

from gpuslice.catalog import intel
from gpuslice.numbers import many
from gpuslice.techniques.base import Fact
from gpuslice.techniques.base import Trial
from gpuslice.techniques.base import Trials
from gpuslice.techniques.sriov.goal import hosts_driver_takes

_FOR_ALL = "its driver makes functions while it is loaded, for all GPUs of the host at once"
#: A turn that no driver has by itself, in milliseconds.
_TURN = 17


def trials(gpu, state):
    """
    What is tried on a physical function.

    :param state: :class:`.goal.SriovState`.
    """
    if gpu.vendor != "intel":
        return Trials(why_not=_FOR_ALL)
    if not state.total:
        return Trials(why_not="its driver offers no virtual functions")
    # As it is, so that nobody's driver is bound who would not have been.
    how = {"autoprobe": hosts_driver_takes(state.autoprobe), "profile": "fair"}
    each = tuple(Trial(many(count, "virtual function"), {"vf_count": count, **how}) for count in counts(_most(gpu, state)))
    # Who has functions already can't be given others: the kernel refuses that.
    return Trials({"vf_count": 0}, each, _long(state, how), {"vf_count": 1, **how})


def _most(gpu, state):
    """The most functions that are tried: tiles share them, so that two have an even number."""
    tiles = intel.MODELS.get(gpu.catalog_key, {}).get("tiles") or (state.files.tiles if state.files else 1)
    return state.total - state.total % 2 if tiles > 1 and state.total > 1 else state.total


def counts(total):
    """Numbers of functions that are tried: doubled from one on, and the most."""
    found = [1]
    while found[-1] * 2 <= total:
        found.append(found[-1] * 2)
    return [*found, total] if found[-1] != total else found


def _long(state, how):
    """Functions with turns of their own, which take a step each, where the driver has files for that."""
    if not state.files:
        return None
    count = min(2, state.total)
    turns = {str(number): {"exec_quantum_ms": _TURN} for number in range(1, count + 1)}
    return Trial(f"{many(count, 'virtual function')} with turns", {"vf_count": count, **how, "vfs": turns})


def facts(gpu, state):
    """The most virtual functions; [] for a model of which the catalog knows no number."""
    known = intel.MODELS.get(gpu.catalog_key, {})
    most = known.get("max_vfs_by_id", {}).get(gpu.device_id, known.get("max_vfs"))
    return [Fact("virtual functions at most", most, state.total)] if most else []
