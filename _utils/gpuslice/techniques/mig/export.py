"""
MIG layouts that exist, in the words of a pillar or of a peer tool.
"""

from collections import Counter

from gpuslice import errors
from gpuslice.techniques.mig import profile_names


def pillar_section(gpu_address, layout):
    """
    Strategy and settings that describe a MIG layout, placements included.

    :param layout: ``{"enabled": True, "instances": [(profile, start, [(compute instance, start)])]}``.
    :return: a dict for a rule. Raises :class:`errors.PolicyError` for a profile whose name can't be written in a pillar.
    """
    return {"strategy": "mig", "mig": {"profiles": _names(gpu_address, layout["instances"], pinned=True)}}


def mig_parted(layouts, indices, name="current"):
    """
    The layouts as a configuration of mig-parted, version v1. It counts instances and has no placements.

    :param layouts: ``{PCI address: layout}``, each as in :func:`pillar_section`, or with ``enabled`` False.
    :param indices: ``{PCI address: the index by which the peer tool calls that GPU}``.
    :param name: name of the configuration.
    :return: a dict; GPUs with equal layouts share an entry.
    """
    groups = {}
    for address, layout in sorted(layouts.items(), key=lambda item: indices[item[0]]):
        counts = Counter(_names(address, layout["instances"], pinned=False)) if layout["enabled"] else Counter()
        groups.setdefault((layout["enabled"], tuple(sorted(counts.items()))), []).append(indices[address])
    made = [
        {"devices": devices, "mig-enabled": enabled, "mig-devices": dict(counts)} for (enabled, counts), devices in groups.items()
    ]
    return {"version": "v1", "mig-configs": {name: made}}


def _names(address, instances, pinned):
    return [name for instance in instances for name in _instance_names(address, *instance, pinned)]


def _instance_names(address, profile, start, cis, pinned):
    """The names of one GPU instance: its own when one compute instance fills it or none is there, else those of its parts."""
    pin = f"@{start}" if pinned and start is not None else ""
    try:
        parts = [profile_names.parse(ci) for ci, _ in cis]
        whole = profile_names.parse(profile).canonical
    except ValueError as err:
        raise errors.PolicyError(
            f"The instance {profile} can't be described in a pillar: {err}.", address, "Leave the GPU out of the export."
        ) from err
    if not parts or any(part.whole for part in parts):
        return [f"{whole}{pin}"]
    return [f"{part.canonical}{pin}" for part in parts]
