"""
The words of passing single virtual functions to virtual machines.
"""

from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import WORD
from gpuslice.shape import listing
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import whole

#: The most virtual functions of a GPU that the pillar knows.
_MOST = 256
_ADDRESS = text(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


class VfPassthrough(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Virtual functions that virtual machines are given: each is bound to vfio-pci. The others stay for containers.",
        functions=fields.Field(
            "list", "Their numbers, from 1; empty means all.", [],
            item=fields.number("Number of a virtual function.", None, 1, _MOST),
        ),
    )  # fmt: skip

    def settle(self, filled, written, notes):
        """Each number once, in order."""
        return {**filled, "functions": sorted(set(filled["functions"]))}

    def layout(self):
        """Virtual functions that a VFIO driver has: address -> that driver, its override, and the driver before."""
        return record({"bound": table(_ADDRESS, record({"driver": WORD, "override": WORD, "origin": WORD}))})

    def asked(self):
        """It waits for a reboot together with what it stands on."""
        return record({}, {"functions": listing(whole(1, _MOST)), "only": listing(_ADDRESS)})


SECTION = VfPassthrough()
