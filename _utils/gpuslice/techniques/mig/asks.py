"""
What is asked of MIG by hand: each returns the settings and the wish of a target, as :meth:`gpuslice.engine.Engine.wanted` takes
them.
"""

from gpuslice import values
from gpuslice.techniques.mig import section


def layout(profiles, compute_instances=1, gpu_instances=1):
    """These MIG profiles, in any form that the pillar takes. Raises errors.PolicyError."""
    values.whole("compute_instances", compute_instances, low=1, high=8)
    return {"entries": section.entries(profiles, gpu_instances), "compute_instances": compute_instances}, None


def mode(enabled):
    """Only the MIG mode."""
    return {"enabled": enabled}, None


def pending_mode():
    """
    The pending mode, brought into force, which may need a reset.

    Without one it is refused when it is planned: resetting such a GPU would only end what runs on it.
    """
    return {}, {"reset": True}


def one_more(profile, start=None, stood_on=()):
    """
    One more instance than there is; everything else stays where it is. Raises errors.PolicyError.

    :param stood_on: names of slices that never move: :func:`gpuslice.looks.stood_on`.
    """
    [(name, pinned, _)] = section.entries([profile])
    return {}, {"create": [name, start if start is not None else pinned], **_staying(stood_on)}


def defragmented(profile=None, stood_on=()):
    """Idle instances elsewhere, so that one of ``profile`` fits, or as much as can be; ``stood_on`` as of :func:`one_more`."""
    [(name, start, _)] = section.entries([profile]) if profile is not None else [(None, None, 1)]
    return {}, {"defrag": [name, start], **_staying(stood_on)}


def _staying(stood_on):
    return {"stays": list(stood_on)} if stood_on else {}


def one_more_inside(instance, profile, count=1):
    """So many more compute instances in one GPU instance that is there. Raises errors.PolicyError."""
    values.whole("count", count, low=1, high=8)
    return {}, {"create_ci": [instance, profile, count]}


def one_less_inside(instance):
    """One compute instance less: ``instance`` is a MIG UUID or the name of a slice."""
    return {}, {"destroy_ci": instance}


def one_less(instance):
    """One instance less: ``instance`` is a MIG UUID, ``profile@start`` or ``all``."""
    return {}, {"destroy": instance}
