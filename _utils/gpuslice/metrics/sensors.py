"""
What is measured of boards and slices: memory, load, temperature, power, energy.
"""

from gpuslice import errors
from gpuslice.drivers.readings import MOST_MILLIWATTS
from gpuslice.drivers.readings import UNTRUE
from gpuslice.inventory import discovery

_MIB = 2**20
_MILLI = 1000


class Sensors:
    """
    The sensors of one host in one run, each read once, for the metrics and for the sums of energy. How busy a slice was is told
    of the time since :meth:`begin`, or since the last run where counters tell it.

    :param found: :class:`gpuslice.metrics.collection.Collection`; :param engine: :class:`gpuslice.engine.Engine`.
    :param boards: :class:`gpuslice.metrics.gather.Board` of each GPU.
    """

    def __init__(self, found, engine, boards):
        from gpuslice.drivers.telemetry import Telemetry

        self._found, self._engine = found, engine
        self._telemetry = Telemetry(engine.host, engine.tools.sessions)
        self._boards = {board.gpu.address: board for board in boards}
        self._begun, self._told, self._uses = set(), {}, {}

    def begin_all(self):
        """A first look at all boards."""
        for begun in self._of_each(lambda board: self.begin(board.gpu, ())):
            begun()

    def _of_each(self, work):
        return self._engine.host.limits.side_by_side(work, self._boards.values())

    # -- as gpuslice.drivers.telemetry.Telemetry, and what else counting energy takes -------------------------------
    def begin(self, gpu, parts):
        """A first look at a board; whatever is asked for, it is at all its slices."""
        if gpu.address not in self._begun:
            self._begun.add(gpu.address)
            self._telemetry.begin(gpu, self._slices(gpu, parts))

    def settle(self):
        """Wait until there can be a second look, a tenth of a second after the first at most."""
        self._telemetry.settle()

    def board(self, gpu):
        """What a board tells of itself."""
        if gpu.address not in self._told:
            self._told[gpu.address] = self._telemetry.board(gpu)
        return self._told[gpu.address]

    def uses(self, gpu, parts, before=None):
        """How the slices of a GPU are used; whatever is asked for, it is all of them."""
        if gpu.address not in self._uses:
            self._uses[gpu.address] = self._telemetry.uses(gpu, self._slices(gpu, parts), before)
        return self._uses[gpu.address]

    def parts(self, gpu):
        """The slices on which nothing else stands. Raises errors.GpuSliceError where none can be read."""
        board = self._boards[gpu.address]
        if not board.is_read and not board.slices:
            # One that has nothing to tell is not one that has nothing.
            raise next(iter(board.errors.values()), errors.Unhealthy("Its slices could not be read.", gpu.address))
        return [part for part in board.slices if not part.taken]

    def _slices(self, gpu, parts):
        """Of a board that is in one piece it is what was asked for."""
        return list(self._boards[gpu.address].slices or parts)

    # -- telling -------------------------------------------------------------------------------------------------
    def tell(self):
        """What they say of all boards and slices. What can't be read is found by whoever tells it."""
        self._of_each(lambda board: self.board(board.gpu))
        for board in self._boards.values():
            self._found.tried("power-limit", self._tell_limit, board)
            self._found.tried("sensors", self._tell_board, board)
        self.settle()
        self._of_each(lambda board: self.uses(board.gpu, ()) if board.slices else None)
        for board in self._boards.values():
            self._found.tried("utilization", self._tell_slices, board)

    def _tell_limit(self, board):
        gpu, tool = board.gpu, self._engine.tools.get("power")
        if discovery.is_given_away(gpu) or not tool.supports(gpu):
            return
        limits = (board.states.get("power") or tool.observe(gpu)).limits
        limit = limits.enforced or limits.asked or None
        if limit and not 0 < limit <= MOST_MILLIWATTS:
            self._found.missed("power-limit", UNTRUE)
            return
        self._found.add("board_power_limit_watts", board.labels, _thousandth(limit))

    def _tell_board(self, board):
        told, known, add = self.board(board.gpu), board.labels, self._found.add
        add("board_memory_bytes", known, told.memory_bytes)
        add("board_memory_used_bytes", known, told.memory_used_bytes)
        add("board_utilization_ratio", known, told.utilization)
        add("board_temperature_celsius", known, told.temperature_c)
        add("board_power_watts", known, _thousandth(told.power_mw))
        add("board_energy_joules_total", known, _thousandth(told.energy_mj))
        self._missed(told)

    def _tell_slices(self, board):
        uses, _ = self.uses(board.gpu, ()) if board.slices else ({}, {})
        for part in board.slices:
            self._tell_slice(board.labels_of(part), part, uses.get(part.name))

    def _tell_slice(self, known, part, told):
        """Of a slice whose memory no sensor tells it is told with how much it was made."""
        memory = None if part.memory_mib is None else part.memory_mib * _MIB
        if told is not None and told.memory_bytes is not None:
            memory = told.memory_bytes
        self._found.add("slice_memory_bytes", known, memory)
        if told is None:
            return
        self._found.add("slice_memory_used_bytes", known, told.memory_used_bytes)
        self._found.add("slice_utilization_ratio", known, told.utilization)
        self._found.add("slice_processes", known, told.processes)
        self._missed(told)

    def _missed(self, told):
        for what, reason in told.unreadable:
            self._found.missed(what, reason)


def count_energy(engine, every, sensors, read_at):
    """
    Count what was used since the last look at the counters. It comes before all that is told of sensors: what it reads is read
    while nobody else counts. Raises as :func:`gpuslice.energy.meter.look`.
    """
    from gpuslice.energy import meter

    meter.look(engine, every=every, telemetry=sensors, parts=sensors.parts, read_at=read_at)


def tell_energy(found, engine, boards):
    """What each slice took of the energy of its board since that was first counted. Raises what reading the record raises."""
    from gpuslice.energy import meter

    counted = meter.totals(engine.host)
    for board in boards:
        told = counted.get(board.gpu.address)
        # Of a board of which no interval was counted yet nothing is known, which is not that it took nothing.
        if told and told["seconds"]:
            found.add("board_unallocated_energy_joules_total", board.labels, told["unallocated_joules"])
            _tell_shares(found, board, told["slices"])


def _tell_shares(found, board, shares):
    """Of slices that are gone nothing is told any more."""
    there = {(part.name, part.identity): part for part in board.slices}
    for share in shares:
        part = there.get((share["slice"], share["uuid"]))
        for kind in ("active", "idle") if part else ():
            known = {**board.labels_of(part), "kind": kind, "method": share["method"]}
            found.add("slice_energy_joules_total", known, share[f"{kind}_joules"])


def _thousandth(number):
    return None if number is None else number / _MILLI
