"""
The words of partition modes.
"""

from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import WORD
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import truth


class Partition(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Compute and memory partition modes.",
        compute=fields.mode("Compute partition mode.", "SPX", "SPX", "DPX", "TPX", "QPX", "CPX"),
        memory=fields.mode("Memory partition mode.", "NPS1", "NPS1", "NPS2", "NPS4", "NPS8"),
    )
    DECISIVE = ("compute",)

    def judge(self, settings, written, notes):
        """A whole GPU has whole memory."""
        if settings["compute"] == "SPX" and settings["memory"] != "NPS1":
            where = f"{written.path}:partition:memory"
            notes.wrong(where, f"is {settings['memory']}, but compute mode SPX goes with NPS1 only.")

    def layout(self):
        """The modes."""
        return record({"compute": maybe(LINE), "memory": maybe(LINE)}, {"alloc": maybe(LINE)})

    def asked(self):
        """A memory mode can wait for a reboot."""
        return record({}, {"compute": WORD, "memory": WORD, "alloc": WORD, "enabled": truth, "reload": truth})


SECTION = Partition()
