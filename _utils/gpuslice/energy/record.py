"""
The record of energy, ``energy.json`` in the state directory: of each board the last look at it, what it draws when nobody works,
and the sums. Where there is none nothing is measured.
"""

import os
from contextlib import contextmanager

from gpuslice import errors
from gpuslice.energy import interval
from gpuslice.energy import sums
from gpuslice.host.base import ENERGY
from gpuslice.records import lock
from gpuslice.records.store import Record
from gpuslice.records.store import saying
from gpuslice.shape import ADDRESS
from gpuslice.shape import LINE
from gpuslice.shape import anything
from gpuslice.shape import listing
from gpuslice.shape import maybe
from gpuslice.shape import moment
from gpuslice.shape import record
from gpuslice.shape import row
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.shape import truth
from gpuslice.shape import whole

_FORMAT = 1
#: The lock of whoever reads the counters and writes what came of it, beside the record.
LOCK = "energy.lock"
#: Seconds to wait for another look, which is over in a moment unless a driver hangs.
_PATIENCE = 5.0
#: Seconds from one look to the next where nobody said how often they come.
EVERY = 300
#: How many of the last looks at a board on which nobody worked say what it draws then.
IDLE_LOOKS = 9


def _ratio(value, path):
    """How much of something is used."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError("the use of a slice is no number from 0 to 1")


_NUMBER, _AMOUNT = text(r"[0-9]{1,9}"), whole(0, 2**80)
_SUMS = record(
    {
        "mj": _AMOUNT, "unallocated": _AMOUNT, "ms": _AMOUNT, "rows": table(_NUMBER, row(*[_AMOUNT] * 4)),
        "dropped": table(text("|".join(interval.REASONS)), row(_AMOUNT, _AMOUNT)),
    },
    {"earlier": _AMOUNT},
)  # fmt: skip
_LAST = record(
    {
        "mj": _AMOUNT, "boot_id": LINE, "seconds": moment, "layout": text(r"[0-9a-f]+"), "mode": LINE, "idle": truth,
        "there": table(LINE, _NUMBER), "samples": anything, "used": table(LINE, maybe(_ratio)), "method": LINE,
        "why": listing(LINE),
    }
)  # fmt: skip
_ROW = record({"slice": LINE, "uuid": LINE, "kind": LINE, "profile": LINE})
_BOARD = record(
    {
        "model": LINE, "unreadable": LINE, "last": maybe(_LAST), "idle_mw": table(LINE, listing(_AMOUNT)),
        "rows": table(_NUMBER, _ROW), "next": whole(1, 10**9), "earlier": _AMOUNT, "total": _SUMS, "hours": table(_NUMBER, _SUMS),
        "days": table(_NUMBER, _SUMS),
    }
)  # fmt: skip
_SHAPE = record({"since": moment, "every": whole(1, 86400), "changing": truth, "boards": table(ADDRESS, _BOARD)})


def _checked(data):
    _SHAPE(data, "it")
    for address, board in data["boards"].items():
        known = board["rows"].keys()
        used = [board["total"], *board["hours"].values(), *board["days"].values()]
        named = {number for each in used for number in each["rows"]} | set((board["last"] or {"there": {}})["there"].values())
        if named - known:
            raise ValueError(f"it:boards:{address} tells of slices that it does not name")
        if any(int(number) >= board["next"] for number in known):
            raise ValueError(f"it:boards:{address} would give a number twice")


def fresh(now):
    """The record of a host that begins to be measured; :param now: seconds since the epoch."""
    return {"since": now, "every": EVERY, "changing": False, "boards": {}}


def fresh_board(model):
    """What is known of a board at first."""
    return {
        "model": model, "unreadable": "", "last": None, "idle_mw": {}, "rows": {}, "next": 1, "earlier": 0, "total": sums.empty(),
        "hours": {}, "days": {},
    }  # fmt: skip


class Energy:
    """The record of one host."""

    def __init__(self, host):
        self._host = host
        self._file = Record(host, ENERGY, "the record of energy", _FORMAT, _checked, compact=True)

    def read(self):
        """What it says, None where there is none. Raises errors.JournalDamaged, errors.StateDirUnusable."""
        return self._file.read_if_there(
            lambda err: errors.JournalDamaged(
                f"The record of energy, {self._file.path}, can't be used ({getattr(err, 'strerror', None) or err}).",
                todo="Move that file away: the next 'salt-call gpu_energy.measure' begins a new one, at 0.",
            )
        )

    def write(self, data):
        """Replace it. Raises errors.StateDirUnusable."""
        with saying(self._host.state_dir, "note what energy was used"):
            self._file.write(data)

    @contextmanager
    def alone(self):
        """Nobody else takes a look meanwhile, so that none is counted twice. Raises errors.LockHeld, errors.StateDirUnusable."""
        patience = _PATIENCE * self._host.patience()
        with saying(self._host.state_dir, "lock the record of energy"):
            handle = lock.briefly(os.path.join(self._host.state_dir, LOCK), patience)
        if handle is None:
            raise errors.LockHeld(
                f"Another process has been reading the energy counters for {patience:g} s, so that they are not read now.",
                todo="Where it hangs, 'dmesg' says more; the next look goes on from the last that ended.",
            )
        try:
            yield
        finally:
            os.close(handle)
