"""
A look at the GPUs of a host: what is found now and what the kernel has said, put to what was known.
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice.catalog.xids import TREATMENTS
from gpuslice.drivers import kernel_log
from gpuslice.health import board
from gpuslice.health import pci
from gpuslice.records.health import HealthRecord
from gpuslice.records.health import add_layout
from gpuslice.watch import counting
from gpuslice.watch import meanings
from gpuslice.watch import told
from gpuslice.watch.condition import DAY
from gpuslice.watch.condition import Condition
from gpuslice.watch.condition import Moment
from gpuslice.watch.judge import FILES
from gpuslice.watch.judge import LIBRARY
from gpuslice.watch.judge import LOG
from gpuslice.watch.judge import OF_KERNEL
from gpuslice.watch.judge import OF_LIBRARY
from gpuslice.watch.judge import ROWS
from gpuslice.watch.judge import VERDICT
from gpuslice.watch.judge import Look
from gpuslice.watch.judge import Reset
from gpuslice.watch.judge import judged

#: Looks in turn that must see nothing of a condition, where the pillar says nothing of it.
CLEAN_LOOKS = 3
#: Seconds between two looks that count as two: who asks ten times in a row has looked once.
APART = 10
#: Findings of a library that did not answer: what it was not asked then is not known.
_NO_ANSWER = (
    "nvidia-driver-hangs", "nvidia-driver-mismatch", "nvidia-gpu-lost", "nvidia-health-unreadable", "nvidia-not-asked",
)  # fmt: skip
#: Lines of the log after which it is noted how far it was read, though none of them told anything.
_FAR = 100


class View(NamedTuple):
    """
    What is known after a look.

    :ivar statuses: as :func:`gpuslice.watch.told.statuses` returns them; :ivar data: of :mod:`gpuslice.records.health`.
    :ivar conditions: list of :class:`.condition.Condition`; :ivar treatments: number of an Xid -> treatment that the site chose.
    :ivar clean: looks in turn that must see nothing; :ivar unread: why the kernel's log can't be read, "" where it can.
    :ivar found: what this look found wrong, as :class:`gpuslice.health.finding.Finding`.
    """

    statuses: dict
    data: dict
    conditions: list
    treatments: dict
    clean: int
    unread: str = ""
    found: tuple = ()


def look(host, sessions, gpus, parts=None, settings=None, keep=None, patience=2.0):
    """
    Look at the GPUs of a host and keep what was found.

    :param sessions: :class:`gpuslice.drivers.sessions.Sessions`, None to read files of the kernel only.
    :param gpus: all of them, as :class:`gpuslice.model.Gpu`. :param parts: PCI address -> slices
        (:class:`gpuslice.model.Slice`) of those that could be read; None where none was looked at.
    :param settings: what the pillar says of health, None for what was said last.
    :param keep: function of (the statuses, the record's data) that changes the data further, under the same lock; it is not
        called where somebody else has the record for longer than ``patience`` seconds, and nothing is kept then.
    :return: :class:`View`. Raises errors.StateDirUnusable.
    """
    file = HealthRecord(host)
    with file.held(patience) as got:
        before = file.read()
        seen = _Seen(host, sessions, gpus, parts, before)
        data = seen.after(settings)
        view = _view(gpus, data, seen.conditions, seen.news.unread)._replace(found=tuple(seen.found))
        if keep and got:
            keep(view.statuses, data)
        if got and _is_news(before, data):
            _keep(file, _with_changes(before, data, file.read()), view.statuses)
        return view


def _keep(file, data, statuses):
    try:
        file.write(data)
    except errors.StateDirUnusable as err:
        ill = [board["sentence"] for board in statuses.values() if board["sentence"]]
        # A host whose disk fails may have more that does.
        raise (errors.with_more(err, f"Found now: {' '.join(ill)}") if ill else err) from err


def _with_changes(before, data, now):
    """The data with what a change has noted meanwhile: it waits for no look whose driver hangs."""
    reset = [each for each in now["resets"] if each not in before["resets"]]
    cut = {gpu: each for gpu, each in now["layouts"].items() if each != before["layouts"].get(gpu)}
    return {**data, "resets": [*data["resets"], *reset], "layouts": {**data["layouts"], **cut}}


def known(host, gpus):
    """The :class:`View` of the last look, without one."""
    data = HealthRecord(host).read()
    return _view(gpus, data, [_condition(each) for each in data["conditions"]])


def _view(gpus, data, conditions, unread=""):
    treatments, clean = _treatments(data["settings"]), data["settings"].get("clean_looks", CLEAN_LOOKS)
    here = {gpu.address for gpu in gpus}
    # A GPU that has gone from the bus is none of the host's any more, and not well for that.
    gone = sorted({each.gpu for each in conditions} - here - {""})
    names = {gpu: list(layouts[-1]["slices"]) for gpu, layouts in data["layouts"].items() if layouts}
    statuses = told.statuses([*sorted(here), *gone], names, conditions, treatments)
    return View(statuses, data, conditions, treatments, clean, unread)


def _treatments(settings):
    return {int(number): word for number, word in settings.get("xids", {}).items() if word in TREATMENTS}


def _condition(kept):
    return Condition(**{**kept, "bursts": tuple(kept.get("bursts", ()))})


def _is_news(before, data):
    """Whether a look has anything to be kept. A look that only confirms that all is well writes nothing."""
    passing = ("last", "library", "cursor")
    if any(before.get(key) != data[key] for key in data if key not in passing) or data["conditions"]:
        return True
    (boot, number), (seen_boot, seen) = data["cursor"] or ("", 0), before["cursor"] or ("", 0)
    return boot != seen_boot or number - seen >= _FAR or not before["last"]


class _Seen:
    """
    One look.

    :ivar news: what the kernel has said since the last one; :ivar found: what is wrong now.
    :ivar conditions: what is known after it, see :meth:`after`.
    """

    def __init__(self, host, sessions, gpus, parts, before):
        self._host, self._sessions, self._gpus, self._before = host, sessions, gpus, before
        self._moment = Moment(host.boot_id(), host.now(), host.monotonic(), {})
        self._asked, self.found, self._verdicts, self._signs = set(), [], {}, {}
        cursor = before["cursor"]
        self.news = kernel_log.since(host, kernel_log.Cursor(*cursor) if cursor else None)
        self._parts = parts or {}
        self._layouts = {gpu: list(each) for gpu, each in before["layouts"].items()}
        self._note_layouts()
        for gpu, looked in zip(gpus, host.limits.side_by_side(self._looked_at, gpus), strict=True):
            self._note(gpu, *looked())
        self._look_for_missing()

    def _note_layouts(self):
        for gpu, parts in self._parts.items():
            named = {part.name: part.instance for part in parts}
            add_layout({"layouts": self._layouts}, gpu, named, self._moment.boot, self._moment.seconds)

    def _looked_at(self, gpu):
        """(what is wrong with a GPU, its signs, its UUID or "")."""
        reading = board.Reading(self._host, self._sessions, gpu)
        faults, signs = reading.faults(), reading.signs()
        if self._sessions is None or gpu.vendor != "nvidia":
            return faults, signs, ""
        try:
            return faults, signs, gpu.uuid or self._sessions.nvml.uuid(gpu.address)
        except errors.GpuSliceError:
            # Whether it is another board can't be told now.
            return faults, signs, ""

    def _note(self, gpu, faults, signs, uuid):
        address = gpu.address
        self._asked.add((address, FILES))
        self.found += faults
        self._signs[address] = signs
        if uuid:
            self._moment.uuids[address] = uuid
        if self._sessions is None or gpu.vendor != "nvidia":
            return
        if signs.answered and not any(each.code in _NO_ANSWER for each in faults):
            self._asked.add((address, LIBRARY))
        if signs.rows is not None:
            self._asked.add((address, ROWS))
        if signs.verdict is not None:
            self._asked.add((address, VERDICT))
            self._verdicts[address] = signs.verdict

    def _look_for_missing(self):
        """Whoever was there in this boot and is not any more has gone from the bus. One that went before a boot was taken out."""
        here = {gpu.address for gpu in self._gpus}
        for address, layouts in list(self._layouts.items()):
            if address in here:
                continue
            if layouts and layouts[-1]["boot"] == self._moment.boot:
                self.found.append(pci.gone(address))
            else:
                self._layouts.pop(address)

    # -- what is known after it ----------------------------------------------------------------------------------
    def after(self, settings):
        """The record after this look."""
        before, (boot, now, seconds, uuids) = self._before, self._moment
        settings = before["settings"] if settings is None else settings
        treatments, counts = _treatments(settings), self._counts()
        counters, counted = counting.compared(before["counters"], self._signs, self._moment)
        known, said = self._without_owed([_condition(each) for each in before["conditions"]], self._of_log(treatments))
        seen = (*_in_turn(counted, said), *self._of_findings())
        asked = frozenset(self._asked | self._log_was_read())
        ended, gone = self._ended(known), self._gone(known)
        self.conditions = judged(
            known, Look(boot, now, counts, seen, asked, self._verdicts, uuids, ended, gone, before["rows"]), treatments,
            settings.get("clean_looks", CLEAN_LOOKS),
        )  # fmt: skip
        return {
            **before,
            "began": now if before["began"] is None else before["began"],
            "cursor": list(self.news.cursor) if self.news.cursor else None,
            "lost": now if self.news.lost else before["lost"],
            "last": [boot, seconds] if FILES in counts else before["last"],
            "library": [boot, seconds] if LIBRARY in counts else before["library"],
            "conditions": [each.as_dict() for each in self.conditions],
            "counters": counters,
            "rows": counting.rows(before["rows"], self._signs, now),
            "layouts": self._layouts,
            "resets": [],
            "settings": settings,
        }

    def _without_owed(self, *seen):
        """These without what a driver asks for that is no illness, such as the reset that a mode in waiting needs."""
        ill = {each.gpu for each in self.found if each.code in meanings.VERDICTS}
        owed = {gpu for gpu, verdict in self._verdicts.items() if verdict and gpu not in ill}
        return [
            [each for each in some if isinstance(each, Reset) or not (each.code in meanings.VERDICTS and each.gpu in owed)]
            for some in seen
        ]

    def _counts(self):
        """Sources of which this is not the same look as the last one at them."""
        kernel = OF_KERNEL if self._is_apart(self._before["last"]) else frozenset()
        asks = self._sessions is not None and self._is_apart(self._before["library"])
        return kernel | (OF_LIBRARY if asks else frozenset())

    def _is_apart(self, last):
        return not last or last[0] != self._moment.boot or not 0 <= self._moment.seconds - last[1] < APART

    def _log_was_read(self):
        # What was overwritten may have told of anything.
        return set() if self.news.unread or self.news.lost else {("", LOG)}

    def _gone(self, known):
        """Names of slices that conditions tell of, and that are not there any more."""
        names = {part.name for each in self._parts.values() for part in each}
        return frozenset(each.slice for each in known if each.gpu in self._parts and each.slice and each.slice not in names)

    def _ended(self, known):
        pids = {each.pid: self._moment.now - each.last for each in known if each.pid is not None}
        # After a day the number is another program's.
        return frozenset(pid for pid, age in pids.items() if age > DAY or self._host.process(pid) is None)

    # -- what was seen -------------------------------------------------------------------------------------------
    def _of_log(self, treatments):
        """What the kernel said, and the resets of our own changes, in the order of their time."""
        noted = [(seconds, Reset(gpu)) for gpu, boot, seconds in self._before["resets"] if boot == self._moment.boot]
        noted += [(0, Reset(gpu)) for gpu in self._back()]
        if self.news.lines:
            # Here, since most looks have nothing to read.
            from gpuslice.watch import said

            layouts = self._layouts, self._before["layouts"]
            noted += said.of(self.news.lines, self._gpus, *layouts, treatments, self._moment)
        return [each for _, each in sorted(noted, key=lambda pair: pair[0])]

    def _back(self):
        """GPUs that had gone from the bus and are there again: the bus began anew with them."""
        gone = {each.gpu for each in self.found if each.code == "pci-gone"}
        back = {gpu.address for gpu in self._gpus} - gone
        # Once: what they meet after that is not of before.
        return {
            each["gpu"] for each in self._before["conditions"] if each["code"] == "pci-gone" and not each.get("cured")
        } & back

    def _of_findings(self):
        return [
            self._moment.condition(each.gpu, each.code, each.words, each.todo)
            for each in self.found
            if each.code in meanings.BY_CODE and each.code not in counting.CODES
        ]


def _in_turn(counted, said):
    """What was counted and said, in its order: what the log tells too was counted when it was told, not after what came of it."""
    told_too = {(each.gpu, each.code) for each in said if isinstance(each, Condition)}
    earlier = [each for each in counted if isinstance(each, Condition) and (each.gpu, each.code) in told_too]
    return [*earlier, *said, *(each for each in counted if each not in earlier)]
