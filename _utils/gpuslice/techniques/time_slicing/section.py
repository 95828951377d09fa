"""
The words of time-slicing.
"""

import re

from gpuslice import errors
from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import LINE
from gpuslice.shape import NUMBER
from gpuslice.shape import PATH
from gpuslice.shape import either
from gpuslice.shape import listing
from gpuslice.shape import moment
from gpuslice.shape import parts
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import whole

#: Spelling of a time span, such as ``100ms``.
DURATION = r"^[0-9]+(\.[0-9]+)?(us|ms|s)$"
_SECOND_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
#: Most consumers that may share one slice.
MOST = 64
#: The settings of NVIDIA GPUs: compute mode and time-slice step by number. All others are microseconds of an engine class.
_NUMBERS = parts({"compute_mode": whole(0, 3), "timeslice": whole(0, 3)})
#: Name of a slice -> consumers; names of profiles.
REPLICAS = table(text(r"[A-Za-z0-9_.:-]+"), whole(1, MOST))
PROFILES = listing(LINE)


def VALUES(value, path):  # noqa: N802 - a shape as those above
    """Name of a setting -> its value."""
    table(PATH, NUMBER)(value, path)
    _NUMBERS(value, path)


class TimeSlicing(Section):
    """See :class:`gpuslice.policy.section.Section`. Settled, ``slice_duration`` is in seconds."""

    NOTHING = {"clear": True}
    FIELD = fields.section(
        "Several consumers take turns on a GPU or on each of its MIG devices; their memory is not isolated.",
        max_instance_count=fields.number("How many consumers may share the GPU, or each MIG device.", 8, 1, MOST),
        slice_duration=fields.Field(
            "pattern", "How long a turn lasts.", "100ms", pattern=DURATION, example="a duration like 100ms or 1s"
        ),
        share_policy=fields.choice("How the turns are divided.", "equal", "equal"),
        profiles=fields.Field(
            "list", "Beside MIG: profiles of the MIG devices that are shared; none: all.", [],
            item=fields.Field("text", "Name of a MIG profile, in quotes."),
        ),
    )  # fmt: skip

    def settle(self, filled, written, notes):
        """The duration in seconds."""
        return {**filled, "slice_duration": seconds(filled["slice_duration"])}

    def judge(self, settings, written, notes):
        """Warn of what it does not isolate; a turn of no time is a mistake."""
        notes.warn(
            f"{written.path}:{'time_slicing:enabled' if written.beside else 'strategy'}",
            "time-slicing gives no memory isolation: any consumer can take the whole memory, and a fault of one can end all.",
        )
        if not settings["slice_duration"]:
            where = f"{written.path}:time_slicing:slice_duration"
            notes.wrong(where, "is no time at all; give a duration above 0, such as 100ms.")
        if settings["profiles"] and written.chosen:
            notes.warn(f"{written.path}:time_slicing:profiles", "has no effect on a whole GPU, only beside strategy mig.")

    def check_asked(self, settings):
        """A turn of no time is a mistake."""
        if "slice_duration" in settings and not seconds(settings["slice_duration"]):
            raise errors.PolicyError("slice_duration is no time at all.", todo="Give a duration above 0, such as 100ms.")

    def says_more(self, settings):
        """Whether any of its settings is not the default."""
        return settings != self.settle(self.defaults(), None, None)

    def defaults(self):
        """Its settings where nothing is written, as the pillar has them."""
        return {name: each.default for name, each in self.FIELD.fields.items() if name != "enabled"}

    def layout(self):
        """What is shared among how many, what is set for it, and what was before."""
        return record({"replicas": REPLICAS, "profiles": PROFILES, "settings": VALUES, "former": VALUES})

    def asked(self):
        """It waits for a reboot together with what it stands on."""
        # Seconds from 0 on, as any moment.
        duration = either(moment, text(DURATION))
        return record(
            {}, {"max_instance_count": whole(1, MOST), "slice_duration": duration, "share_policy": LINE, "profiles": PROFILES}
        )


def seconds(span):
    """A time span in seconds; a number is one already."""
    if not isinstance(span, str):
        return span
    [(number, unit)] = re.findall(r"([0-9.]+)([a-z]+)", span)
    return float(number) * _SECOND_UNITS[unit]


def span(of):
    """A number of seconds as a pillar writes it."""
    return f"{round(of * 1_000_000)}us" if of < 0.001 or round(of * 1_000_000) % 1000 else f"{round(of * 1000)}ms"


SECTION = TimeSlicing()
