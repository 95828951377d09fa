"""
The other way: describe layouts that exist as a pillar.

What is described ends in a file that Salt renders, so a text that came from hardware or a driver must be nothing but text to its
renderers, wherever it is copied to: no template begins in it, and no line.
"""

import re

from gpuslice import errors
from gpuslice import secret
from gpuslice.policy.fields import SLICING


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
    safe = "".join(char if is_plain(char) else "?" for char in re.sub(r"^\s|\s$", "?", model))
    # The pillar's own check takes such a name for a secret in the wrong place.
    return "*" if secret.is_like(safe) else safe


def is_plain(char):
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
        elif isinstance(each, str) and not all(is_plain(char) or char == "\\" for char in each):
            raise errors.PolicyError(
                f"{_pattern(each)} has characters in its name (? here) that a renderer could take for more than text, so no "
                "pillar is written with it.",
                address,
                "Write the pillar of this host by hand.",
            )
