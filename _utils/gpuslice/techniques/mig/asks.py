"""
What is asked of MIG by hand: each returns the settings and the wish of a target, as :meth:`gpuslice.engine.Engine.target` takes
them.
"""

from gpuslice import values
from gpuslice.techniques.mig import section


def layout(profiles, compute_instances=1):
    """These MIG profiles, in any form that the pillar takes. Raises errors.PolicyError."""
    values.whole("compute_instances", compute_instances, low=1, high=8)
    return {"entries": section.entries(profiles), "compute_instances": compute_instances}, None


def mode(enabled):
    """Only the MIG mode."""
    return {"enabled": enabled}, None


def pending_mode():
    """
    The pending mode, brought into force, which may need a reset.

    Without one it is refused when it is planned: resetting such a GPU would only end what runs on it.
    """
    return {}, {"reset": True}


def one_more(profile, start=None):
    """One more instance than there is; everything else stays where it is. Raises errors.PolicyError."""
    [(name, pinned, _)] = section.entries([profile])
    return {}, {"create": [name, start if start is not None else pinned]}


def one_less(instance):
    """One instance less: ``instance`` is a MIG UUID, ``profile@start`` or ``all``."""
    return {}, {"destroy": instance}
