"""
The words of passthrough: none in the pillar but its name.
"""

from gpuslice.policy.section import Section
from gpuslice.shape import WORD
from gpuslice.shape import record


class Passthrough(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    def layout(self):
        """A driver, an override, and the driver that it had at first."""
        return record({"driver": WORD, "override": WORD, "origin": WORD})


SECTION = Passthrough()
