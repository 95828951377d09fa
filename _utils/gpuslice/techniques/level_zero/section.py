"""
The words of Level Zero.
"""

from gpuslice import errors
from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import FILE
from gpuslice.shape import NUMBER
from gpuslice.shape import PATH
from gpuslice.shape import WORD
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text

#: A device, or a tile of it, as Level Zero's affinity mask names them.
TILE = r"^[0-9]+(\.[0-9]+)?$"
#: Engine classes and their scheduling properties, as the kernel names them.
ENGINE_CLASSES = ("rcs", "bcs", "vcs", "vecs", "ccs")
_SLICE = r"[A-Za-z0-9:_.\\-]+\.slice"
#: One that systemd takes: each ``-`` leads to a slice below another (systemd.slice(5)). Its name is in that of a unit of ours.
_ASKED = r"(?=.{1,190}$)[A-Za-z0-9:_.\\]+(?:-[A-Za-z0-9:_.\\]+)*\.slice"
_IS_CONSUMERS = "is that of a consumer: limit it by its resource_limits:vram_mib, or name another slice unit."


def _time(doc):
    return fields.number(doc, None, 0, 10**9)


_ENGINE = fields.Field(
    "options",
    "Scheduling properties of one engine class.",
    {},
    fields={
        "timeslice_duration_us": _time("Turn of one of equal contexts, in microseconds; 0: as at boot."),
        "preempt_timeout_us": _time("Grace before a context is forced off, in microseconds; 0: as at boot."),
        "job_timeout_ms": _time("When a job counts as hung, in milliseconds; 0: as at boot."),
    },
)


def _is_consumers(unit):
    """Whether a slice unit is that of a consumer."""
    if not unit:
        return False
    # Here, so that a pillar which names none does not load it.
    from gpuslice.outputs.unit_names import CONSUMERS

    return unit.startswith(CONSUMERS)


class LevelZero(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    FIELD = fields.section(
        "Visibility of devices and tiles through Level Zero's environment.",
        partitions=fields.Field(
            "list",
            "Devices or tiles of each partition.",
            [],
            item=fields.Field(
                "pattern", "A device or a tile, in quotes.", pattern=TILE, example="a device or tile in quotes, like '0.1',"
            ),
        ),
        hierarchy=fields.choice(
            "How programs see a card with tiles: one device with parts, or each tile as a device.",
            "COMPOSITE", "COMPOSITE", "FLAT", "COMBINED",
        ),
        ccs_mode=fields.number("Compute engines that the compute slices are divided among; 0 leaves it as it is.", 0, 0, 64),
        engines=fields.Field(
            "options", "Scheduling properties of each engine class; what is not written is left as it is.", {},
            fields={name: _ENGINE for name in ENGINE_CLASSES},
        ),
        vram_max_mib=fields.number(
            "Most memory of each GPU that vram_slice may have, in MiB; 0 is no limit.", 0, 0, 16777216
        ),
        vram_slice=fields.Field(
            "pattern", "Systemd slice unit whose services and containers get the limit.", "",
            pattern=f"^({_ASKED})?$", example="a slice unit like gpu.slice",
        ),
    )  # fmt: skip
    DECISIVE = ("partitions",)

    def judge(self, settings, written, notes):
        """A limit needs somebody to limit, and one who is limited by nothing else."""
        if _is_consumers(settings["vram_slice"]):
            notes.wrong(f"{written.path}:level_zero:vram_slice", _IS_CONSUMERS)
        if settings["vram_max_mib"] and not settings["vram_slice"]:
            where = f"{written.path}:level_zero:vram_max_mib"
            notes.wrong(where, "is given without vram_slice; name the slice unit that is to be limited.")

    def check_asked(self, settings):
        """A limit needs somebody to limit, and one who is limited by nothing else."""
        if _is_consumers(settings.get("vram_slice")):
            raise errors.PolicyError(f"{settings['vram_slice']} {_IS_CONSUMERS}")
        if settings.get("vram_max_mib") and not settings.get("vram_slice"):
            raise errors.PolicyError("vram_max_mib is given without vram_slice.", todo="Name the slice unit to be limited.")

    def missing(self, settings, environment):
        """Settings: its defaults set nothing."""
        return "" if self.says_more(settings) else "no partitions and no other level_zero settings are given"

    def layout(self):
        """Files of environments, and what the drivers and the kernel were told."""
        return record(
            {
                "files": table(FILE, text()),
                "ccs": table(PATH, NUMBER),
                "engines": table(PATH, table(WORD, NUMBER)),
                "vram": table(text(_SLICE), NUMBER),
                "kept": table(text(_SLICE), NUMBER),
            }
        )


SECTION = LevelZero()
