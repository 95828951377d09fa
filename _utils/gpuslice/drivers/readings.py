"""
What a look at a board or a slice came to: numbers, and of each that is missing a word that says why. None of them is ever a
number that nobody told.
"""

import math
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers.nvml import GPU_IS_LOST

# Words that say why something is not told.
UNSUPPORTED = "unsupported"
ASLEEP = "asleep"
NO_DRIVER = "no-driver"
NO_PERMISSION = "no-permission"
#: A virtual machine has it, and tells nothing to its host.
GIVEN_AWAY = "given-away"
#: Whoever could use it does not run.
NOT_IN_USE = "not-in-use"
GONE = "gone"
LOST = "lost"
NOT_ANSWERING = "not-answering"
#: What is told is of all that share it.
SHARED = "shared"
#: It takes two looks, some time apart.
NOT_SAMPLED_YET = "not-sampled-yet"
#: What was told can't be true.
UNTRUE = "untrue"
UNKNOWN_VERSION = "unsupported-version"
FAILED = "failed"

_REASONS = (
    (errors.Unsupported, UNSUPPORTED),
    (errors.PermissionDenied, NO_PERMISSION),
    (errors.DriverMissing, NO_DRIVER),
    (errors.DriverMismatch, "driver-mismatch"),
    (errors.DeviceNotFound, GONE),
    (errors.ForeignChange, GONE),
    (errors.Unhealthy, NOT_ANSWERING),
)

#: Bounds of what can be true: a rack draws less, and no silicon lives beyond these temperatures.
MOST_MILLIWATTS = 100_000_000
LEAST_CELSIUS, MOST_CELSIUS = -55, 200
MOST_BYTES = 2**50
#: A counter that is all ones is not kept.
MOST_COUNTED = 2**63


class Board(NamedTuple):
    """
    A board as a whole. None is what is not told, and why says ``unreadable``.

    :ivar energy_mj: the board's counter in millijoules, which begins at 0 when its driver takes it; :ivar power_mw: milliwatts.
    :ivar temperature_c: degrees Celsius.
    :ivar memory_bytes: its memory, and ``memory_used_bytes`` what of it is in use.
    :ivar utilization: how busy it is, 0 to 1.
    :ivar unreadable: (``energy``, ``power``, ``temperature``, ``memory`` or ``utilization``, a word of this module) pairs.
    """

    energy_mj: int | None = None
    power_mw: int | None = None
    temperature_c: int | None = None
    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilization: float | None = None
    unreadable: tuple[tuple[str, str], ...] = ()


class Use(NamedTuple):
    """
    The use of one slice. None is what is not told, and why says ``unreadable``.

    :ivar memory_bytes: its memory, and ``memory_used_bytes`` what of it is in use.
    :ivar utilization: how busy its own part of the silicon is, 0 to 1.
    :ivar processes: how many have a context on it.
    :ivar unreadable: (``memory``, ``utilization`` or ``processes``, a word of this module) pairs.
    :ivar shared_utilization: how busy all those together are of which it is one, where only that is told.
    """

    memory_bytes: int | None = None
    memory_used_bytes: int | None = None
    utilization: float | None = None
    processes: int | None = None
    unreadable: tuple[tuple[str, str], ...] = ()
    shared_utilization: float | None = None


OF_BOARDS = ("energy", "power", "temperature", "memory", "utilization")
OF_SLICES = ("memory", "utilization", "processes")


def no_board(reason: str) -> Board:
    """A board that tells nothing, for one reason."""
    return Board(unreadable=tuple((what, reason) for what in OF_BOARDS))


def no_use(reason: str) -> Use:
    """A slice of which nothing is told, for one reason."""
    return Use(unreadable=tuple((what, reason) for what in OF_SLICES))


class Untold(Exception):
    """What was asked is not told; ``reason`` is a word of this module."""

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason


class Asked:
    """The questions of one look, and why some were not answered."""

    def __init__(self):
        self._missing = {}

    def number(self, what, read, least=0, most=MOST_COUNTED):
        """
        What ``read()`` answers, None where that is no number of these bounds, or no answer.

        :param read: function that returns a number, None for what is not supported, or raises :class:`Untold` or an error of
            gpuslice.errors.
        """
        found = self.anything(what, read)
        if found is None:
            return None
        good = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
        return found if good and least <= found <= most else self.lacks(what, UNTRUE)

    def anything(self, what, read):
        """As :meth:`number`, for what is no number."""
        try:
            found = read()
        except (Untold, errors.GpuSliceError) as err:
            return self.lacks(what, reason_of(err))
        return self.lacks(what, UNSUPPORTED) if found is None else found

    def memory(self, total, used):
        """(all, in use) in bytes of what a driver tells; (None, None) for what can't be true."""
        if total is None or used is None:
            return total, used
        if 0 <= used <= total <= MOST_BYTES and total:
            return total, used
        return self.lacks("memory", UNTRUE), None

    def lacks(self, what, reason):
        """Note why something is not told; the first reason counts. Returns None."""
        self._missing.setdefault(what, reason)

    @property
    def unreadable(self):
        """As :attr:`Board.unreadable`."""
        return tuple(self._missing.items())


def not_its_own(part):
    """Why a slice (:class:`gpuslice.model.Slice`) has no readings of its own, "" for one that may have."""
    if part.kind == "vf-passthrough":
        return GIVEN_AWAY
    return SHARED if part.of or part.device != part.identity else ""


def reason_of(err):
    """The word for :class:`Untold` or an error of gpuslice.errors."""
    if isinstance(err, Untold):
        return err.reason
    if getattr(err.__cause__, "value", None) == GPU_IS_LOST:
        return LOST
    return next((word for kind, word in _REASONS if isinstance(err, kind)), FAILED)
