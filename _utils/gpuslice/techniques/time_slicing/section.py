"""
The words of time-slicing.
"""

import re

from gpuslice.policy import fields
from gpuslice.policy.section import Section

#: Spelling of a time span, such as ``100ms``.
DURATION = r"^[0-9]+(\.[0-9]+)?(us|ms|s)$"
_SECOND_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


class TimeSlicing(Section):
    """See :class:`gpuslice.policy.section.Section`. Settled, ``slice_duration`` is in seconds."""

    FIELD = fields.section(
        "Several consumers take turns on a GPU; their memory is not isolated.",
        max_instance_count=fields.number("How many consumers may share the GPU.", 8, 1, 64),
        slice_duration=fields.Field(
            "pattern", "How long a turn lasts.", "100ms", pattern=DURATION, example="a duration like 100ms or 1s"
        ),
        share_policy=fields.choice("How the turns are divided.", "equal", "equal"),
    )

    def settle(self, filled, written, notes):
        """The duration in seconds."""
        return {**filled, "slice_duration": _seconds(filled["slice_duration"])}

    def judge(self, settings, written, notes):
        """Warn of what it does not isolate; a turn of no time is a mistake."""
        notes.warn(
            f"{written.path}:strategy",
            "time-slicing gives no memory isolation: any consumer can take the whole memory, and a fault of one can end all.",
        )
        if not settings["slice_duration"]:
            where = f"{written.path}:time_slicing:slice_duration"
            notes.wrong(where, "is no time at all; give a duration above 0, such as 100ms.")


def _seconds(text):
    [(number, unit)] = re.findall(r"([0-9.]+)([a-z]+)", text)
    return float(number) * _SECOND_UNITS[unit]


SECTION = TimeSlicing()
