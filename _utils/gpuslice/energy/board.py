"""
What a look at one board sees: its counter, the slices that it is in, how much each used, and whether anybody works on it.

How much a slice used is told of the time since the last look where a driver counts it. Where it only tells how it is now, as
NVIDIA's does, the mean of that and of what it was at the last look stands for it.
"""

import json
import logging
import zlib
from collections.abc import Callable
from collections.abc import Mapping
from fractions import Fraction
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice.drivers.telemetry import Telemetry
from gpuslice.energy.attribution import Load
from gpuslice.energy.attribution import simplest
from gpuslice.energy.interval import Reading
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.printable import printable
from gpuslice.secret import redacted

log = logging.getLogger(__name__)

#: The kind of a board that nothing slices, which is charged with all that it takes.
WHOLE = "gpu"
#: The mode of a board that has neither slices nor users as a whole, such as one in MIG mode without instances.
_EMPTY = "none"
#: Why there is no counter, where the driver does not say.
UNKNOWN, UNEXPECTED = "unknown", "unexpected"
#: What is to be known where :func:`_among` says how much was used.
AMONG = "compute instances of one GPU instance that have processes are taken to be equally busy"


class Seen(NamedTuple):
    """
    A look at a board.

    :ivar reading: None where the board tells no counter now; :ivar unreadable: and why, in words.
    :ivar slices: what it is in: slices that nothing else stands on, or the whole board; :ivar loads: by the name of a slice.
    :ivar mode: in which its idle power is another one; :ivar idle: whether it is certain that nobody works on it.
    :ivar samples: what the next look is to be handed; :ivar used: what each slice used, as it was told.
    :ivar power_mw: what the board draws at this moment, None where it does not tell.
    :ivar doubt: what is to be known of the loads, "" for nothing.
    """

    reading: Reading | None
    unreadable: str
    slices: tuple[Slice, ...] = ()
    loads: Mapping[str, Load] = {}
    mode: str = ""
    idle: bool = False
    samples: Any = {}
    used: Mapping[str, float | None] = {}
    power_mw: int | None = None
    doubt: str = ""


class Look:
    """
    A look at a board, which has two ends: some drivers tell how much a slice uses by two samples.

    :param engine: :class:`gpuslice.engine.Engine`; :param telemetry: :class:`gpuslice.drivers.telemetry.Telemetry`.
    :param parts: function of the GPU that reads its slices on which nothing else stands.
    """

    def __init__(self, engine: Any, telemetry: Telemetry, gpu: Gpu, parts: Callable[[Gpu], list[Slice]]) -> None:
        self._engine, self._telemetry, self._gpu, self._parts = engine, telemetry, gpu, parts
        self._slices: list[Slice] = []
        self._is_whole, self._unreadable = False, ""

    def begin(self) -> None:
        """Read the layout, and take the first samples."""
        try:
            self._slices, self._is_whole = _slices(self._engine, self._gpu, self._parts(self._gpu))
            self._telemetry.begin(self._gpu, self._slices)
        except errors.GpuSliceError as err:
            log.info("the energy of GPU %s is not measured now: %s", self._gpu.address, err)
            self._unreadable = printable(err.what)
        except Exception as err:
            self._unreadable = self._unexpected(err)

    def _unexpected(self, err: Exception) -> str:
        """Ours to mend; until then the other boards are measured all the same."""
        what = redacted(f"{type(err).__name__}: {err}")
        log.error("the energy of GPU %s is not measured now, for what nobody foresaw: %s", self._gpu.address, what)
        return UNEXPECTED

    def end(self, last: Mapping[str, Any] | None) -> Seen:
        """
        Read the counter, and what came of the samples.

        :param last: what was noted of the last look, None where there was none.
        """
        if self._unreadable:
            return Seen(None, self._unreadable)
        try:
            return self._seen(last)
        except Exception as err:
            return Seen(None, self._unexpected(err))

    def _seen(self, last: Mapping[str, Any] | None) -> Seen:
        gpu, slices = self._gpu, self._slices
        board = self._telemetry.board(gpu)
        seconds = self._engine.host.monotonic()
        if board.energy_mj is None:
            return Seen(None, dict(board.unreadable).get("energy", UNKNOWN))
        uses, samples = self._telemetry.uses(gpu, slices, last["samples"] if last else None)
        sizes = _sizes(gpu, slices)
        used = {part.name: uses[part.name].utilization if part.name in uses else None for part in slices}
        among = _among(slices, uses, sizes)
        used.update(among)
        if self._is_whole and used[gpu.address] is None:
            used[gpu.address] = board.utilization
        # Without samples nothing was counted.
        means = used if samples or not last else {name: _mean(now, last["used"].get(name)) for name, now in used.items()}
        mode = "+".join(sorted({part.kind for part in slices})) or _EMPTY
        return Seen(
            Reading(int(board.energy_mj), self._engine.host.boot_id(), seconds, _digest(slices, mode, sizes)),
            "",
            tuple(slices),
            {part.name: Load(sizes[part.name], means[part.name]) for part in slices},
            mode,
            self._is_idle(uses, used),
            samples,
            used,
            board.power_mw,
            AMONG if among else "",
        )

    def _is_idle(self, uses: Mapping[str, Any], used: Mapping[str, float | None]) -> bool:
        """
        Whether nobody works on the board. Who only may do so does: what is learnt from somebody's work would be charged to all
        others from then on.
        """
        gpu, slices = self._gpu, self._slices
        if any(used.values()) or any(part.in_use_by for part in slices):
            return False
        told = [uses[part.name].processes if part.name in uses else None for part in slices]
        if any(told):
            return False
        if told and None not in told and not gpu.virtual_functions.get("enabled"):
            return True
        try:
            # Also who has a virtual function for a virtual machine has its device open.
            return not self._engine.holders(gpu.address)
        except errors.GpuSliceError:
            return False


def _among(slices: list[Slice], uses: Mapping[str, Any], sizes: Mapping[str, Fraction]) -> dict[str, float]:
    """
    Name -> how much each of those used of which only all together is told, as of compute instances in one GPU instance. What was
    used is of those that have processes, in equal measure; of all where none is seen to have any.
    """
    groups: dict[int, list[Slice]] = {}
    for part in slices:
        if part.name in uses and uses[part.name].shared_utilization is not None:
            groups.setdefault(part.instance[0], []).append(part)
    found = {}
    for parts in groups.values():
        at_work = [part for part in parts if uses[part.name].processes] or parts
        more = sum(sizes[part.name] for part in parts) / sum(sizes[part.name] for part in at_work)
        for part in parts:
            share = float(uses[part.name].shared_utilization * more) if part in at_work else 0.0
            found[part.name] = min(share, 1.0)
    return found


def _mean(now: float | None, before: float | None) -> float | None:
    return now if now is None or before is None else (now + before) / 2


def _slices(engine: Any, gpu: Gpu, parts: list[Slice]) -> tuple[list[Slice], bool]:
    """(what a board is in, whether that is the whole board)."""
    if parts or not engine.is_whole(gpu):
        return parts, False
    return [Slice(gpu.address, WHOLE, gpu.model, gpu.uuid or gpu.address, gpu.memory_mib, 1.0, name=gpu.address)], True


def _sizes(gpu: Gpu, slices: list[Slice]) -> dict[str, Fraction]:
    """
    Name -> the share of the board that a slice has. Where the compute of any is not told it goes by memory, and where that is not
    either, all are taken to be equal.
    """
    if all(part.compute for part in slices):
        return {part.name: simplest(part.compute or 0) for part in slices}
    if gpu.memory_mib and all(part.memory_mib for part in slices):
        return {part.name: Fraction(part.memory_mib or 0, gpu.memory_mib) for part in slices}
    return {part.name: Fraction(1, len(slices)) for part in slices}


def _digest(slices: list[Slice], mode: str, sizes: Mapping[str, Fraction]) -> str:
    """What tells one layout of a board from another."""
    said = [mode, sorted([part.name, part.identity, str(sizes[part.name])] for part in slices)]
    # Nobody gains by two that are alike, so that it need not be a digest that costs more to load.
    return f"{zlib.crc32(json.dumps(said).encode()):08x}"
