"""
The other way: describe layouts that exist as a pillar, or for a peer tool.
"""

from collections import Counter

from gpuslice import errors
from gpuslice import mig_profiles
from gpuslice.policy.build import SLICING


def from_layout(gpu_address, model, profiles):
    """
    The rule that describes the layout of one GPU.

    :param gpu_address: its PCI address.
    :param model: its product name; the rule then only holds while that model is at the address. "" leaves it out.
    :param profiles: profile names, usually pinned: ``["3g.40gb@4"]``.
    :return: a dict for ``containers_gpu_slicing:devices``.
    """
    match = {"pci": gpu_address, "model": model} if model else {"pci": gpu_address}
    return {"match": match, "strategy": "mig", "mig": {"profiles": list(profiles)}}


def export_pillar(layouts, models=None):
    """
    A pillar that describes the layouts that given GPUs have.

    :param layouts: ``{PCI address: {"enabled": MIG mode, "instances": [(profile, start, [(compute instance, start)])]}}``.
    :param models: ``{PCI address: product name}`` for those whose rule should name the model too.
    :return: a dict that :func:`gpuslice.policy.parse` takes. GPUs without MIG mode get a rule that leaves them alone. Raises
        :class:`errors.PolicyError` for a profile whose name can't be written in a pillar.
    """
    rules = []
    for address, layout in sorted(layouts.items()):
        if layout["enabled"]:
            rules.append(from_layout(address, (models or {}).get(address, ""), _names(address, layout["instances"], pinned=True)))
        else:
            rules.append({"match": {"pci": address}, "strategy": "none"})
    return {SLICING: {"enabled": True, "strategy": "none", "devices": rules}}


def export_mig_parted(layouts, indices, name="current"):
    """
    The layouts as a configuration of mig-parted, version v1. It counts instances and has no placements.

    :param layouts: as in :func:`export_pillar`.
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
        parts = [mig_profiles.parse(ci) for ci, _ in cis]
        whole = mig_profiles.parse(profile).canonical
    except ValueError as err:
        raise errors.PolicyError(
            f"The instance {profile} can't be described in a pillar: {err}.", address, "Leave the GPU out of the export."
        ) from err
    if not parts or any(part.whole for part in parts):
        return [f"{whole}{pin}"]
    return [f"{part.canonical}{pin}" for part in parts]
