"""
The words of power caps.
"""

from gpuslice import errors
from gpuslice.policy import fields
from gpuslice.policy.section import Section
from gpuslice.shape import either
from gpuslice.shape import maybe
from gpuslice.shape import record
from gpuslice.shape import text
from gpuslice.shape import whole
from gpuslice.values import describe

#: The vendor's own limit, in the place of a number.
DEFAULT = "default"
#: Watts that a cap can be, far above any board; milliwatts of one on record.
_MOST = 10_000
MILLIWATTS = whole(0, 1000 * _MOST)
_TWO = "says how much, and so does {other}. Remove one of them."


def _checked_watts(value, path, notes):
    """Watts, 0 for nothing said, or the word for the board's own limit."""
    if value == DEFAULT or (type(value) is int and 0 <= value <= _MOST):
        return value
    notes.wrong(path, f"is {describe(value)}; whole watts of 1 to {_MOST} are wanted, or '{DEFAULT}'.")
    return 0


class Power(Section):
    """See :class:`gpuslice.policy.section.Section`."""

    DECISIVE = ("limit_watts", "percent")
    FORGOTTEN = {"lifted": True}
    FIELD = fields.section(
        "What a board may draw: a cap for all its slices together, beside any strategy or none.",
        limit_watts=fields.Field(
            "own", f"Watts that the board may draw; '{DEFAULT}': what its vendor gave it; 0: as it is.", 0, check=_checked_watts,
            schema=lambda: {"anyOf": [{"type": "integer", "minimum": 0, "maximum": _MOST}, {"const": DEFAULT}]},
        ),
        percent=fields.number("The same in percent of its vendor's limit, for boards of several models; 0: as it is.", 0, 0, 100),
    )  # fmt: skip

    def settle(self, filled, written, notes):
        """A rule says all of it: where it has the one, the other of the host does not count."""
        own = {key: written.own[key] for key in self.DECISIVE if key in written.own}
        return {**filled, **dict.fromkeys(self.DECISIVE, 0), **own} if own else filled

    def judge(self, settings, written, notes):
        """One of the two says how much."""
        if settings["limit_watts"] and settings["percent"]:
            path = written.path if "percent" in written.own else written.host_path
            notes.wrong(f"{path}:power:percent", _TWO.format(other="limit_watts"))

    def check_asked(self, settings):
        """By hand likewise, and one of the two is given."""
        if not any(settings.values()):
            raise errors.PolicyError("Nothing is asked for.", todo="Give limit_watts or percent; gpu_power.remove ends a cap.")
        if all(settings.get(key) for key in self.DECISIVE):
            raise errors.PolicyError(f"percent {_TWO.format(other='limit_watts')}")

    def layout(self):
        """The limit that is asked of the board, and what is on record of it."""
        return record({"limit_mw": MILLIWATTS, "noted_mw": maybe(MILLIWATTS)})

    def asked(self):
        """As a pillar or a function asks for it."""
        return record({}, {"limit_watts": either(whole(0, _MOST), text(DEFAULT)), "percent": whole(0, 100)})


SECTION = Power()
