"""
Power caps: what a board may draw, for all its slices together.

A cap belongs to the board and not to a slice, so that it goes with any strategy. A reset, a reload of the driver and a boot take
it: what is on record says what was set here, so that a boot and a later run set it again.

Settings that it takes: ``limit_watts`` (a number, or ``default``), or ``percent`` of the vendor's limit, 0 for what is not said;
or ``{"layout": {...}}``: exactly this; or ``{"lifted": True}``: what was set here goes, and nothing else.
"""

from typing import NamedTuple
from typing import final

from gpuslice import errors
from gpuslice.drivers import pci
from gpuslice.drivers.power import HwmonPower
from gpuslice.drivers.power import Limits
from gpuslice.drivers.power import NvidiaPower
from gpuslice.drivers.power import watts
from gpuslice.inventory import discovery
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Why
from gpuslice.techniques.power.ledger import NOTHING
from gpuslice.techniques.power.ledger import ledger
from gpuslice.techniques.power.section import DEFAULT

#: Milliwatts by which a driver may round what was asked: AMD's cuts to watts, Intel's boards count in eighths of one.
_ROUNDED = 1000
_DRIVERS = {"nvidia": "nvidia", "amd": "amdgpu", "intel": "xe or i915"}


class PowerState(NamedTuple):
    """
    What a board has now.

    :ivar limits: :class:`gpuslice.drivers.power.Limits`; :ivar noted: milliwatts that were set here, None for nothing.
    """

    limits: Limits
    noted: int | None


@final
class Power(Technique):
    """Power caps on one host."""

    name = "power"
    effects = {"note": "file"}

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._ledger = ledger(host)

    # -- facts ---------------------------------------------------------------------------------------------------
    def why_not(self, gpu):
        """Why a GPU can't."""
        if gpu.vendor == "nvidia" and discovery.is_vgpu_name(gpu.name):
            return Why("the limit is of its board, which the host of this virtual machine has")
        if not gpu.driver:
            return Why(f"it needs the driver {_DRIVERS[gpu.vendor]}", mendable=True)
        return Why(f"its driver {gpu.driver} shows no limit of a whole board")

    def observe(self, gpu):
        """Read the limit and the record. Raises errors.Unsupported, errors.Unhealthy, errors.StateDirUnusable, errors of NVML."""
        self._host.limits.refuse(gpu.address)
        pci.refuse_if_given_away(self._host, gpu)
        return PowerState(self._board(gpu).read(gpu), self._ledger.read(gpu)["limit_mw"])

    def _board(self, gpu):
        return NvidiaPower(self._sessions.nvml) if gpu.vendor == "nvidia" else HwmonPower(self._host)

    def layout(self, state):
        """The limit that is asked of the board, and what is on record of it."""
        return {"limit_mw": state.limits.asked, "noted_mw": state.noted}

    def words(self, layout):
        """A layout in a few words."""
        return f"a power limit of {watts(layout['limit_mw'])}" if layout["limit_mw"] else "no power limit"

    def shown(self, layout):
        """A layout as users see it in changes."""
        return {"power_limit": watts(layout["limit_mw"])}

    def pillar(self, gpu, layout):
        """What a pillar says to get this layout, None where it is the vendor's own."""
        if layout["limit_mw"] == self._board(gpu).read(gpu).default or not layout["limit_mw"]:
            return None
        return {"strategy": "none", "power": {"limit_watts": round(layout["limit_mw"] / 1000)}}

    def drawing(self, gpu, state):
        """The cap that was set here."""
        return "" if state.noted is None else f"capped at {watts(state.noted)}"

    def status(self, gpu, state):
        """What users see of a board: watts, None for what is not told."""
        told = state.limits._asdict()
        found = {f"{name}_watts": None if value is None else value / 1000 for name, value in told.items()}
        return {**found, "set_here_watts": None if state.noted is None else state.noted / 1000}

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, works):
        """
        :raises errors.PolicyError: the board can't have that limit. :raises errors.Unsupported: it tells no default.
        """
        return self.each(works, self._part)

    def _part(self, work):
        gpu, limits, before = work.gpu, work.state.limits, self.layout(work.state)
        if "layout" in work.settings:
            goal = dict(work.settings["layout"])
        elif "lifted" in work.settings:
            goal = self._lifted(work.state)
        elif (wanted := self._wanted(work)) is None:
            return self.unchanged(gpu, before)
        else:
            goal = {"limit_mw": wanted, "noted_mw": None if wanted == limits.default else wanted}
        steps = tuple(self._steps(gpu, before, goal))
        return self.part(gpu, before, goal, steps, note=_note(limits, goal["limit_mw"], steps))

    @staticmethod
    def _lifted(state):
        """The layout without what was set here; a limit that others set stays, as does one of which no default is told."""
        limits = state.limits
        known = state.noted is not None and limits.default is not None
        return {"limit_mw": limits.default if known else limits.asked, "noted_mw": None}

    def _wanted(self, work):
        """Milliwatts; None where nothing is said."""
        gpu, settings, limits = work.gpu, work.settings, work.state.limits
        asked, percent = settings.get("limit_watts"), settings.get("percent")
        if not asked and not percent:
            return None
        if limits.default is None and (percent or asked == DEFAULT):
            raise errors.Unsupported(
                f"Its driver {gpu.driver} does not tell what limit {gpu.model} has from its vendor.", gpu.address,
                "Say how many watts it may draw: limit_watts.",
            )  # fmt: skip
        if asked == DEFAULT:
            return limits.default
        # Whole watts, which every driver can have.
        wanted = asked * 1000 if asked else limits.default * percent // 100 // 1000 * 1000
        _refuse_beyond(gpu, limits, wanted, f"{percent} % of {watts(limits.default)}" if percent else "")
        return wanted

    def _steps(self, gpu, before, goal):
        """A cap is noted before it is set and forgotten after it is lifted: what is set here is on record at any time."""
        wanted, noted = goal["limit_mw"], goal["noted_mw"]
        if noted is not None and noted != before["noted_mw"]:
            yield self._noting(gpu, noted, PREPARE)
        if _differs(before["limit_mw"], wanted):
            yield self.step(
                gpu, "set", {"milliwatts": wanted}, f"set the power limit to {watts(wanted)}", "sysfs_write", CARVE,
                f"{watts(before['limit_mw'])} again",
            )  # fmt: skip
        if noted is None and before["noted_mw"] is not None:
            yield self._noting(gpu, None, CARVE)

    def _noting(self, gpu, milliwatts, phase):
        words = "forget that it is capped" if milliwatts is None else f"note that it is capped at {watts(milliwatts)}"
        return self.step(gpu, "note", {"milliwatts": milliwatts}, words, "file_write", phase, "put the former note back")

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_note(self, gpu, milliwatts):
        self._ledger.write(gpu, NOTHING if milliwatts is None else {"limit_mw": milliwatts})

    def _run_set(self, gpu, milliwatts):
        self._board(gpu).write(gpu, milliwatts)


def _differs(one, other):
    if not one or not other:
        # None at all is never a rounding.
        return one != other
    return abs(one - other) >= _ROUNDED


def _refuse_beyond(gpu, limits, wanted, how):
    """Raise errors.PolicyError for a limit that the board can't have."""
    least, most = limits.least or 0, limits.most
    if wanted >= max(least, 1) and (most is None or wanted <= most):
        return
    ends = [f"at least {watts(least)}" if least else "", f"at most {watts(most)}" if most else ""]
    told = " and ".join(filter(None, ends)) or "any from 1 W on"
    default = f", and has {watts(limits.default)} from its vendor" if limits.default else ""
    raise errors.PolicyError(
        f"A power limit of {watts(wanted) if wanted else 'less than 1 W'}{f' ({how})' if how else ''} is wanted, and {gpu.model} "
        f"takes {told}{default}.",
        gpu.address,
        "Give limit_watts or percent within that range, or limit_watts: default.",
    )


def _note(limits, wanted, steps):
    """What is in force, where that is another limit than the one that is asked of the board."""
    parts = [] if steps else ["already as wanted"]
    if not steps and limits.enforced is not None and _differs(limits.enforced, wanted):
        parts.append(f"in force are {watts(limits.enforced)}, by another limiter of the board")
    return f"{'; '.join(parts)}." if parts else ""
