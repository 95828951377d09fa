"""
When a change may be made, in the pillar's words: the window of maintenance, and what contradicts it. Loaded only where that is
written.
"""

import re

from gpuslice import window
from gpuslice.policy.check import WRONG
from gpuslice.policy.check import check
from gpuslice.policy.fields import MANAGEMENT
from gpuslice.policy.fields import Field
from gpuslice.policy.fields import choice
from gpuslice.values import describe

#: 24:00 is the end of a day and the beginning of none.
_HOURS = re.compile(r"(?P<begins>(?:[01]?[0-9]|2[0-3]):[0-5][0-9])-(?P<ends>(?:[01]?[0-9]|2[0-3]):[0-5][0-9]|24:00)")
_WANTED = "hours as on a clock are wanted, in quotes, such as '22:00-04:00'."


def window_of(value, path, notes):
    """Check ``maintenance_window``; only what is written of it counts."""
    made = check(_FIELD, value, path, notes)
    if made is WRONG or len(made) < len(value):
        return WRONG
    if value.get("days") == []:
        notes.wrong(f"{path}:days", "is empty, so that it would never open; name days, or leave it out for all.")
        return WRONG
    return made


def schema():
    """``maintenance_window`` in JSON Schema's terms."""
    days = {"type": "array", "items": {"enum": list(window.DAYS)}, "minItems": 1, "description": _FIELD.fields["days"].doc}
    hours = {"type": "string", "pattern": f"^{_HOURS.pattern.replace('?P<begins>', '').replace('?P<ends>', '')}$"}
    return {
        "type": "object",
        "properties": {
            "days": days,
            "hours": {**hours, "description": _FIELD.fields["hours"].doc},
            "zone": {"type": "string", "description": _FIELD.fields["zone"].doc},
        },
        "additionalProperties": False,
    }


def judge(management, notes):
    """
    Note what contradicts ``when``.

    :param management: every key of the section on state management.
    """
    when, there = management["when"], management["maintenance_window"]
    path, forced = f"{MANAGEMENT}:when", management["apply_strategy"] == "force"
    if when == "idle" and forced:
        notes.wrong(path, "is idle, but apply_strategy is force, which ends what is in use and waits for nobody; remove one.")
    # One with a mistake in it counts as not written, and is told already.
    told = any(line.startswith(f"{MANAGEMENT}:maintenance_window") for line in notes.mistakes)
    if when == "window" and not there and not told:
        notes.wrong(path, f"is window, and {MANAGEMENT}:maintenance_window does not say when that is: give its days or hours.")
    if when != "window" and there:
        notes.warn(f"{MANAGEMENT}:maintenance_window", f"has no effect: {path} is {when}. Set that to window.")
    if when != "now" and management["apply_strategy"] == "skip":
        notes.warn(path, f"has no effect: {MANAGEMENT}:apply_strategy is skip, so that nothing is ever changed.")


def _hours(value, path, notes):
    found = _HOURS.fullmatch(value) if isinstance(value, str) else None
    if not found:
        notes.wrong(path, f"is {describe(value)}; {_WANTED}")
        return WRONG
    begins, ends = (each.rjust(5, "0") for each in found.groups())
    if begins == ends:
        notes.wrong(path, f"begins and ends at {begins}; for whole days leave it out.")
        return WRONG
    return f"{begins}-{ends}"


def _zone(value, path, notes):
    if isinstance(value, str) and len(value) <= 64 and window.is_known(value):
        return value
    notes.wrong(
        path,
        f"is {describe(value)}, which is no time zone that this machine knows. Write one as 'timedatectl list-timezones' has it, "
        "such as Europe/Berlin, or leave it out for the host's own; a machine without any needs the package tzdata.",
    )
    return WRONG


_DAY = choice("Day of the week.", None, *window.DAYS)
_FIELD = Field(
    "options",
    fields={
        "days": Field("list", "Days on which it opens; without it every day.", item=_DAY),
        "hours": Field("own", "From when to when, such as '22:00-04:00'; without it the whole day.", check=_hours),
        "zone": Field("own", "Time zone, such as Europe/Berlin; without it the host's own.", check=_zone),
    },
)
