"""
The other way: describe layouts that exist as a pillar, or for a peer tool.

What is described ends in a file that Salt renders, so a text that came from hardware or a driver must be nothing but text to its
renderers, wherever it is copied to: no template begins in it, and no line.
"""

import re
from collections import Counter

from gpuslice import errors
from gpuslice import secret
from gpuslice.policy.build import SLICING
from gpuslice.techniques.mig import profile_names


def mig_section(gpu_address, layout):
    """
    Strategy and settings that describe a MIG layout, placements included.

    :param layout: ``{"enabled": True, "instances": [(profile, start, [(compute instance, start)])]}``.
    :return: a dict for a rule. Raises :class:`errors.PolicyError` for a profile whose name can't be written in a pillar.
    """
    return {"strategy": "mig", "mig": {"profiles": _names(gpu_address, layout["instances"], pinned=True)}}


def export_rules(sections, models):
    """
    A pillar that describes what given GPUs have.

    :param sections: ``{PCI address: strategy and settings, or None for a GPU that nothing slices}``; the latter gets a rule
        that leaves it alone.
    :param models: ``{PCI address: product name}``: a rule then only holds while that model is at the address.
    :return: a dict that :func:`gpuslice.policy.parse` takes.
    """
    rules = []
    for address, section in sorted(sections.items()):
        _refuse_live(section, address)
        match = {"pci": address, "model": _pattern(models[address])} if section and models.get(address) else {"pci": address}
        rules.append({"match": match, **(section or {"strategy": "none"})})
    return {SLICING: {"enabled": True, "strategy": "none", "devices": rules}}


def _pattern(model):
    """A pattern that fits a product name: where a character could be more than text to a renderer, it takes any."""
    safe = "".join(char if _is_plain(char) else "?" for char in re.sub(r"^\s|\s$", "?", model))
    # The pillar's own check takes such a name for a secret in the wrong place.
    return "*" if secret.is_like(safe) else safe


def _is_plain(char):
    """Whether a character begins nothing in any template language, nor ends a line or a quoted text."""
    return char.isalnum() or char in " ._()[]/+,:;@=-"


def _refuse_live(section, address):
    """Names that the pillar takes exactly as they are can't be written in another way."""
    left = [section]
    for each in left:
        if isinstance(each, dict):
            left += [*each, *each.values()]
        elif isinstance(each, list | tuple):
            left += each
        elif isinstance(each, str) and not all(_is_plain(char) or char == "\\" for char in each):
            raise errors.PolicyError(
                f"{_pattern(each)} has characters in its name (? here) that a renderer could take for more than text, so no "
                "pillar is written with it.",
                address,
                "Write the pillar of this host by hand.",
            )


def export_mig_parted(layouts, indices, name="current"):
    """
    The layouts as a configuration of mig-parted, version v1. It counts instances and has no placements.

    :param layouts: ``{PCI address: layout}``, each as in :func:`mig_section`, or with ``enabled`` False.
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
