"""
A look at the GPUs of a host: what is found now and what the kernel has said, put to what was known.
"""

from typing import NamedTuple

from gpuslice import errors
from gpuslice.catalog.xids import TREATMENTS
from gpuslice.drivers import kernel_log
from gpuslice.health import board
from gpuslice.health import pci
from gpuslice.health import recovery
from gpuslice.host.base import HEALTH
from gpuslice.records.health import HealthRecord
from gpuslice.records.health import add_layout
from gpuslice.watch import meanings
from gpuslice.watch import told
from gpuslice.watch.condition import DAY
from gpuslice.watch.condition import Condition
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
#: Findings that are counts of errors: only what is added to them is news.
_COUNTED = {
    "ecc_uncorrected": ("nvidia-uncorrectable-ecc", "uncorrected ECC errors", True),
    "ras_uncorrected": ("amd-uncorrectable-ras", "uncorrected errors of memory or engines", True),
    "aer_fatal": ("pci-aer-fatal", "fatal PCIe errors", False),
    "aer_nonfatal": ("pci-aer-nonfatal", "PCIe errors that were not fatal", False),
}


class View(NamedTuple):
    """
    What is known after a look.

    :ivar statuses: as :func:`gpuslice.watch.told.statuses` returns them; :ivar data: of :mod:`gpuslice.records.health`.
    :ivar conditions: list of :class:`.condition.Condition`; :ivar treatments: number of an Xid -> treatment that the site chose.
    :ivar clean: looks in turn that must see nothing; :ivar unread: why the kernel's log can't be read, "" where it can.
    """

    statuses: dict
    data: dict
    conditions: list
    treatments: dict
    clean: int
    unread: str = ""


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
        view = _view(gpus, data, seen.conditions, seen.news.unread)
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
    """One look."""

    def __init__(self, host, sessions, gpus, parts, before):
        self._host, self._sessions, self._gpus, self._before = host, sessions, gpus, before
        self._boot, self._now, self._seconds = host.boot_id(), host.now(), host.monotonic()
        self._asked, self._found, self._verdicts, self._uuids, self._signs = set(), [], {}, {}, {}
        cursor = before["cursor"]
        self.news = kernel_log.since(host, kernel_log.Cursor(*cursor) if cursor else None)
        self._parts = parts
        self._layouts = {gpu: list(each) for gpu, each in before["layouts"].items()}
        self._note_layouts()
        for gpu in gpus:
            self._look_at(gpu)
        self._look_for_missing()

    def _note_layouts(self):
        for gpu, parts in (self._parts or {}).items():
            named = {part.name: part.instance for part in parts}
            add_layout({"layouts": self._layouts}, gpu, named, self._boot, self._seconds)

    def _look_at(self, gpu):
        address, sessions = gpu.address, self._sessions
        self._asked.add((address, FILES))
        self._found += board.faults(self._host, sessions, gpu)
        signs = self._signs[address] = board.signs(self._host, sessions, gpu)
        if sessions is None or gpu.vendor != "nvidia":
            return
        if signs.answered and not any(each.gpu == address and each.code in _NO_ANSWER for each in self._found):
            self._asked.add((address, LIBRARY))
        if signs.rows is not None:
            self._asked.add((address, ROWS))
        if signs.verdict is not None:
            self._asked.add((address, VERDICT))
            self._verdicts[address] = signs.verdict
        try:
            self._uuids[address] = gpu.uuid or sessions.nvml.uuid(address)
        except errors.GpuSliceError:
            # Whether it is another board can't be told now.
            pass

    def _look_for_missing(self):
        """Whoever was there in this boot and is not any more has gone from the bus. One that went before a boot was taken out."""
        here = {gpu.address for gpu in self._gpus}
        for address, layouts in list(self._layouts.items()):
            if address in here:
                continue
            if layouts and layouts[-1]["boot"] == self._boot:
                self._found.append(pci.gone(address))
            else:
                self._layouts.pop(address)

    # -- what is known after it ----------------------------------------------------------------------------------
    def after(self, settings):
        """The record after this look."""
        before = self._before
        settings = before["settings"] if settings is None else settings
        counters, counted = self._counted()
        known, counts = [_condition(each) for each in before["conditions"]], self._counts()
        said, owed = self._of_log(_treatments(settings)), self._owed()
        known = [each for each in known if not (each.code in meanings.VERDICTS and each.gpu in owed)]
        said = [each for each in said if isinstance(each, Reset) or not (each.code in meanings.VERDICTS and each.gpu in owed)]
        # What the log tells too was counted when it was told, and not after what came of it.
        told_too = {(each.gpu, each.code) for each in said if isinstance(each, Condition)}
        earlier = [each for each in counted if isinstance(each, Condition) and (each.gpu, each.code) in told_too]
        seen = (*earlier, *said, *(each for each in counted if each not in earlier), *self._of_findings())
        self.conditions = judged(
            known,
            Look(
                self._boot, self._now, counts, seen, frozenset(self._asked | self._log_was_read()), self._verdicts,
                self._uuids, self._ended(known), self._gone(known), before["rows"],
            ),
            _treatments(settings),
            settings.get("clean_looks", CLEAN_LOOKS),
        )  # fmt: skip
        return {
            **before,
            "began": self._now if before["began"] is None else before["began"],
            "cursor": list(self.news.cursor) if self.news.cursor else None,
            "lost": self._now if self.news.lost else before["lost"],
            "last": [self._boot, self._seconds] if FILES in counts else before["last"],
            "library": [self._boot, self._seconds] if LIBRARY in counts else before["library"],
            "conditions": [each.as_dict() for each in self.conditions],
            "counters": counters,
            "rows": self._rows(),
            "layouts": self._layouts,
            "resets": [],
            "settings": settings,
        }

    def _owed(self):
        """GPUs whose driver asks for what is no illness, such as the reset that a mode in waiting needs."""
        found = {each.gpu for each in self._found if each.code in meanings.VERDICTS}
        return {gpu for gpu, verdict in self._verdicts.items() if verdict and gpu not in found}

    def _counts(self):
        """Sources of which this is not the same look as the last one at them."""
        kernel = OF_KERNEL if self._is_apart(self._before["last"]) else frozenset()
        asks = self._sessions is not None and self._is_apart(self._before["library"])
        return kernel | (OF_LIBRARY if asks else frozenset())

    def _is_apart(self, last):
        return not last or last[0] != self._boot or not 0 <= self._seconds - last[1] < APART

    def _log_was_read(self):
        # What was overwritten may have told of anything.
        return set() if self.news.unread or self.news.lost else {("", LOG)}

    def _gone(self, known):
        """Names of slices that conditions tell of, and that are not there any more."""
        parts = self._parts or {}
        names = {part.name for each in parts.values() for part in each}
        return frozenset(each.slice for each in known if each.gpu in parts and each.slice and each.slice not in names)

    def _ended(self, known):
        pids = {each.pid: self._now - each.last for each in known if each.pid is not None}
        # After a day the number is another program's.
        return frozenset(pid for pid, age in pids.items() if age > DAY or self._host.process(pid) is None)

    # -- what was seen -------------------------------------------------------------------------------------------
    def _of_log(self, treatments):
        """What the kernel said, and the resets of our own changes, in the order of their time."""
        noted = [(seconds, Reset(gpu)) for gpu, boot, seconds in self._before["resets"] if boot == self._boot]
        noted += [(0, Reset(gpu)) for gpu in self._back()]
        addresses = {gpu.address for gpu in self._gpus}
        for event in map(self._of_a_gpu, self._events()):
            if event.gpu and event.gpu not in addresses and not self._before["layouts"].get(event.gpu):
                # Of what is no GPU of this host, such as one that a description left out.
                continue
            noted += [(event.seconds, each) for each in self._of_event(event, treatments)]
        return [each for _, each in sorted(noted, key=lambda pair: pair[0])]

    def _of_a_gpu(self, event):
        """NVIDIA's lines tell no function of an address: it is that of the GPU there, if there is one alone."""
        here = [gpu.address for gpu in self._gpus if gpu.vendor == "nvidia" and gpu.address[:-1] == event.gpu[:-1]]
        return event._replace(gpu=here[0]) if event.xid is not None and len(here) == 1 else event

    def _events(self):
        if not self.news.lines:
            return []
        # Here and below, since most looks have nothing to read.
        from gpuslice.watch import lines

        return lines.events(self.news.lines)

    def _back(self):
        """GPUs that had gone from the bus and are there again: the bus began anew with them."""
        gone = {each.gpu for each in self._found if each.code == "pci-gone"}
        back = {gpu.address for gpu in self._gpus} - gone
        # Once: what they meet after that is not of before.
        return {
            each["gpu"] for each in self._before["conditions"] if each["code"] == "pci-gone" and not each.get("cured")
        } & back

    def _of_event(self, event, treatments):
        from gpuslice.watch import lines

        if event.code in (lines.ALL_CLEAR, lines.RESET):
            return [Reset(event.gpu)]
        if event.code in meanings.VERDICTS:
            asked = next((each for each in recovery.ACTIONS.values() if each.code == event.code), None)
            words, todo = (asked.words, asked.todo) if asked else (event.words, "")
            return [self._condition(event.gpu, event.code, words, todo, event.seconds)]
        if event.xid is None:
            made = self._condition(event.gpu, event.code, event.words, seconds=event.seconds)
            return [made] if event.code in meanings.BY_CODE else []
        meaning, words = meanings.of_xid(event.xid, treatments)
        if meaning is None:
            return []
        said = f"{words} ({event.words[:200]})" if event.words else words
        made = self._condition(event.gpu, event.code, said, seconds=event.seconds)
        made = made._replace(gi=event.gi, ci=event.ci, pid=event.pid)
        return [made._replace(slice=name) for name in self._slices_of(event)] or [made]

    def _slices_of(self, event):
        """Names of the slices that an event tells of, by the layout that its GPU had then."""
        if event.gi is None:
            return []
        layouts = [each for each in self._layouts.get(event.gpu, []) if each["boot"] == self._boot]
        # Before the first look nobody noted any: then it is the first that is known.
        at_that_time = [each for each in layouts if each["seconds"] <= event.seconds][-1:] or layouts[:1]
        wanted = [event.gi] if event.ci is None else [event.gi, event.ci]
        return [name for each in at_that_time for name, ids in each["slices"].items() if ids and ids[: len(wanted)] == wanted]

    def _of_findings(self):
        counted = {code for code, _, _ in _COUNTED.values()}
        return [
            self._condition(each.gpu, each.code, each.words, each.todo)
            for each in self._found
            if each.code in meanings.BY_CODE and each.code not in counted
        ]

    def _condition(self, gpu, code, words, todo="", seconds=None):
        """:param seconds: when it was, in seconds since the boot; None for now."""
        then = self._now if seconds is None else max(0, self._now - max(0, self._seconds - seconds))
        return Condition(
            gpu, code, words=words.removeprefix(f"GPU {gpu}: ").rstrip("."), todo=todo, since=then, last=then,
            boot=self._boot, uuid=self._uuids.get(gpu, ""),
        )  # fmt: skip

    # -- counters ------------------------------------------------------------------------------------------------
    def _counted(self):
        """(counters as they are kept, what was added to them since the last look)."""
        kept, seen = dict(self._before["counters"]), []
        for gpu, signs in self._signs.items():
            before = kept.get(gpu)
            old = before["counts"] if before and before["boot"] == self._boot else None
            # What can't be read now is compared when it can be.
            counts = {**(old or {}), **signs.counters}
            seen += self._added(gpu, old, signs.counters)
            if old and old.get("link_width", 0) > counts.get("link_width", 0):
                counts["link_width"] = old["link_width"]
            if counts:
                kept[gpu] = {"boot": self._boot, "counts": counts}
        return kept, seen

    def _added(self, gpu, old, now):
        for name, (code, words, of_driver) in _COUNTED.items():
            if name not in now:
                continue
            before = (old or {}).get(name)
            if before is None:
                # What the driver counts begins with it; what the bus counts may be of long ago, and is where we begin.
                before = 0 if of_driver else now[name]
            if now[name] < before:
                # It began anew: so did the driver, or the device was reset.
                yield Reset(gpu)
                before = 0
            if added := now[name] - before:
                yield self._condition(gpu, code, f"{added} {words} since the last look, {now[name]} in all")
        width, widest = now.get("link_width"), (old or {}).get("link_width")
        if width and widest and width < widest:
            words = f"its PCIe link has {width} lanes, and had {widest}"
            yield self._condition(gpu, "pci-link-narrower", words, "Check how the board sits in its slot.")

    def _rows(self):
        read = {gpu: signs.rows for gpu, signs in self._signs.items() if signs.rows is not None}
        return {**self._before["rows"], **{gpu: {"time": self._now, "rows": list(rows)} for gpu, rows in read.items()}}


def is_kept(host):
    """Whether anybody looks at the health of this host."""
    return HEALTH in host.store_names(host.state_dir)
