"""
The words of MPS.
"""

from gpuslice.policy import fields
from gpuslice.policy.section import Section


class Mps(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Multi-Process Service: consumers run side by side in one context.",
        max_instance_count=fields.number("How many consumers may share the GPU.", 8, 1, 60),
        share_policy=fields.choice("How compute and memory are divided.", "equal", "equal"),
    )


SECTION = Mps()
