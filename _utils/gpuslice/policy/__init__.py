"""
The policy: from a pillar to what is wanted of each GPU. Pure functions; nothing here reads or changes a host.

``parse`` reads the pillar and reports every mistake at once, ``targets`` says what is wanted of each GPU, ``export_rules`` goes
the other way.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gpuslice.policy.assign import Target
    from gpuslice.policy.assign import absent
    from gpuslice.policy.assign import agreed
    from gpuslice.policy.assign import forgotten
    from gpuslice.policy.assign import lacking
    from gpuslice.policy.assign import misnamed
    from gpuslice.policy.assign import switched_off
    from gpuslice.policy.assign import targets
    from gpuslice.policy.assign import unmanaged
    from gpuslice.policy.assign import unmatched
    from gpuslice.policy.build import Policy
    from gpuslice.policy.build import Rule
    from gpuslice.policy.build import parse

__all__ = [
    "Policy",
    "Rule",
    "Target",
    "absent",
    "agreed",
    "export_rules",
    "forgotten",
    "lacking",
    "misnamed",
    "parse",
    "switched_off",
    "targets",
    "unmanaged",
    "unmatched",
]


def __getattr__(name):
    """Who only wants a word of :mod:`.fields` does not load all that reads a pillar."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gpuslice.policy import assign
    from gpuslice.policy import build

    found = globals()[name] = getattr(build if name in ("Policy", "Rule", "parse") else assign, name)
    return found


def export_rules(sections, models):
    """See :func:`gpuslice.policy.export.export_rules`."""
    # What only an export needs is loaded for an export.
    from gpuslice.policy import export

    return export.export_rules(sections, models)
