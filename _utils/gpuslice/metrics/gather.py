"""
Metrics of one host, from one look at each GPU and from the records.
"""

from gpuslice import kinds
from gpuslice.host.base import HEALTH
from gpuslice.host.base import QUARANTINE
from gpuslice.inventory import discovery
from gpuslice.metrics import labels
from gpuslice.metrics import standing
from gpuslice.metrics.collection import Collection
from gpuslice.metrics.sensors import Sensors
from gpuslice.metrics.sensors import count_energy
from gpuslice.metrics.sensors import tell_energy
from gpuslice.model import Gpu
from gpuslice.status_words import STATUSES


def gather(engine, every=None):
    """
    The metrics of a host, as a list of :class:`gpuslice.outputs.prometheus.Family`.

    :param engine: :class:`gpuslice.engine.Engine`, open.
    :param every: seconds from one look to the next, for whoever looks regularly, so that the energy since the last look is
        counted and health is judged; None writes nothing, and tells of these what was found last.
    :raises errors.GpuSliceError: not even which GPUs there are can be told.
    """
    host, begun = engine.host, engine.host.monotonic()
    found = Collection()
    engine.gpus = _with_uuids(found, engine)
    given = found.tried("consumers", engine.given) or {}
    readings = host.limits.side_by_side(engine.reading, engine.gpus)
    boards = [Board(gpu, found.tried("slices", read), given) for gpu, read in zip(engine.gpus, readings, strict=True)]
    sensors = Sensors(found, engine, boards)
    found.tried("utilization", sensors.begin_all)
    for board in boards:
        _tell(found, engine, board)
    found.tried("records", standing.tell_records, found, engine)
    if host.has_record(QUARANTINE):
        found.tried("quarantine", standing.tell_quarantine, found, engine)
    found.tried("drift", standing.tell_drift, found, engine, boards)
    if statuses := found.tried("health", _looked, found, engine, boards, every):
        found.tried("health", tell_health, found, statuses, boards)
    if every:
        found.tried("energy", count_energy, engine, every, sensors, begun)
    found.tried("sensors", sensors.tell)
    found.tried("energy", tell_energy, found, engine, boards)
    found.add("last_run_timestamp_seconds", {}, round(host.now(), 3))
    found.add("run_duration_seconds", {}, round(host.monotonic() - begun, 6))
    return found.families()


class Board:
    """
    A GPU of which metrics are told.

    :ivar gpu: :class:`gpuslice.model.Gpu`; :ivar labels: its own. :ivar slices: all of it, those that others stand on too.
    :ivar states: technology -> what it observed; :ivar errors: technology -> why it can't be read.
    :ivar is_read: whether all of its slices are known.
    """

    def __init__(self, gpu, reading, given):
        self.gpu, self.labels = gpu, labels.of_board(gpu)
        self.slices = reading.slices if reading else ()
        self.states, self.errors = (reading.states, reading.errors) if reading else ({}, {})
        self.is_read = bool(reading) and not reading.errors
        self._labels = {
            part.name: labels.of_slice(gpu, part, _word(reading, part), given.get(part.name, "")) for part in self.slices
        }

    def labels_of(self, part):
        """Labels of one of its slices."""
        return self._labels[part.name]


def _word(reading, part):
    return kinds.known(reading.made_by[part.name]).word


def _with_uuids(found, engine):
    """The GPUs with their UUIDs. Each is asked for its own, so that one that is lost takes no label from the others."""
    asked = engine.host.limits.side_by_side(lambda gpu: discovery.with_uuids([gpu], engine.tools.sessions)[0], engine.gpus)
    return [found.tried("uuid", told) or gpu for gpu, told in zip(engine.gpus, asked, strict=True)]


def _tell(found, engine, board):
    """What a board is, what it is in, and what more fits."""
    gpu = board.gpu
    numa = "" if gpu.numa_node is None else str(gpu.numa_node)
    found.add("board_info", {**board.labels, "driver": gpu.driver, "numa_node": numa}, 1)
    for err in board.errors.values():
        found.failed("slices", err)
    for part in board.slices:
        known = board.labels_of(part)
        found.add("slice_info", {**known, "profile": part.profile, "of": part.of}, 1)
        found.add("slice_compute_ratio", known, part.compute)
        if known["consumer"]:
            found.add("consumer_bound", known, 1)
    for name, state in board.states.items():
        _tell_room(found, board, found.tried("room", engine.tools.get(name).free, gpu, state) or {})


def _tell_room(found, board, room):
    for profile, count in room.get("placements", {}).items():
        found.add("free_placements", {**board.labels, "profile": profile}, count)
    found.add("fragmentation_ratio", board.labels, room.get("fragmentation"))


def _looked(found, engine, boards, every):
    """The statuses after a look at health that reads no slice again, or after the last look where nothing is to be written."""
    from gpuslice.watch import look

    if every is None:
        if not engine.host.has_record(HEALTH):
            found.missed("health", "not-sampled-yet")
            return {}
        return look.known(engine.host, list(engine.gpus)).statuses
    parts = {board.gpu.address: list(board.slices) for board in boards if board.is_read}
    view = look.look(engine.host, engine.tools.sessions, list(engine.gpus), parts)
    if view.unread:
        found.missed("kernel-log", "unreadable")
    return view.statuses


def tell_health(found, statuses, boards):
    """
    The status of each board and slice, each of the four words a series. A board that fell off the bus has its address alone.

    :param statuses: as of :func:`gpuslice.watch.told.statuses`.
    """
    here = {board.gpu.address: board for board in boards}
    for address, told in statuses.items():
        board = here.get(address)
        known = board.labels if board else labels.of_board(Gpu(address, "", ""))
        _tell_status(found, "board_health", known, told["status"])
        if told.get("action", "none") != "none":
            found.add("board_health_action", {**known, "action": told["action"]}, 1)
        for part in board.slices if board else ():
            if part.name in told.get("slices", {}):
                _tell_status(found, "slice_health", board.labels_of(part), told["slices"][part.name]["status"])


def _tell_status(found, name, known, status):
    if status not in STATUSES:
        found.missed("health", "unknown")
        return
    for each in STATUSES:
        found.add(name, {**known, "status": each}, int(each == status))
