"""
What schedulers are told of a host: a file that follows the slices, and who has them. What each scheduler has in it is its own
(:mod:`gpuslice.techniques.slurm`, :mod:`gpuslice.techniques.kubernetes`, :mod:`gpuslice.techniques.nomad`); that it is written,
noted, removed and put back is here.

It belongs to the host: one part covers all GPUs. It changes no GPU, so that none which is in use holds it up. Where one can't be
read the file stays as it is, and it is an error where anything else is to be told: a shorter list would take from jobs what they
have.

Settings that it takes: ``told``: what the pillar says, {} for nothing; ``kept``: what is on record goes on; ``layout``: what was
told earlier, of what there is now. ``quiet``, beside the first: somebody else has the scheduler read the file. ``why``: name of
what is quarantined -> why, where it is not to be what is on record.
"""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any
from typing import NamedTuple

from gpuslice import errors
from gpuslice import kinds
from gpuslice.drivers import scheduler_files as files
from gpuslice.host.base import QUARANTINE
from gpuslice.model import Gpu
from gpuslice.model import Slice
from gpuslice.model import with_taken
from gpuslice.outputs import offer
from gpuslice.outputs.file import Kind
from gpuslice.outputs.offer import Offer
from gpuslice.plan import CARVE
from gpuslice.plan import Step
from gpuslice.printable import printable
from gpuslice.records.store import FORMAT
from gpuslice.records.store import Record
from gpuslice.records.store import reason
from gpuslice.shape import ADDRESS
from gpuslice.shape import record
from gpuslice.shape import table
from gpuslice.shape import text
from gpuslice.techniques.base import Technique
from gpuslice.techniques.base import Work

#: The format of a record.
NUMBER = 1
_PATH = text(r"(?:/[^/\x00-\x1f\x7f]+)+")
#: Lines of a file that are kept of it; no host has as many slices.
_MOST = 2000


class Noted(NamedTuple):
    """
    What is on record, and what the file says.

    :ivar settings: what the pillar has of it, ``path`` among them; {} for nothing.
    :ivar files: path of each file of ours -> digest of its text, "" for one that was about to be written.
    :ivar gpus: PCI address -> digest of what was told of it. :ivar lines: of the file at this moment.
    """

    settings: dict[str, Any] = {}
    files: dict[str, str] = {}
    gpus: dict[str, str] = {}
    lines: tuple[str, ...] = ()


class Goal(NamedTuple):
    """
    What is to be.

    :ivar text: of the file, None for no file. :ivar note: what has to be said of it. :ivar gpus: as of :class:`Noted`.
    :ivar has: what the host has; None where a GPU can't be read, and where nothing is told.
    """

    text: str | None = None
    note: str = ""
    gpus: dict[str, str] = {}
    has: Offer | None = None


class Telling(Technique):
    """
    What one scheduler is told.

    :cvar whom: who is told, for messages. :cvar about: what of a host it is told, for messages.
    :cvar reread: how it comes to read the file, as words after "reads it"; "" where nothing is to be said.
    """

    effects = {"claim": "file", "write": "file", "remove": "file"}
    joint = True
    whom = ""
    reread = ""

    def __init__(self, host, sessions):
        super().__init__(host, sessions)
        self._goal = Noted()
        self._texts: dict[str, str] = {}
        # Path -> what is there, read once.
        self._there: dict[str, str | None] = {}
        self._remarks: list[str] = []
        self._says_so = False

    @abstractmethod
    def kind(self, settings: Mapping[str, Any]) -> Kind:
        """What kind of file it is. Raises errors.PolicyError: settings that this host can't have."""

    @abstractmethod
    def text(self, has: Offer, gpus: Mapping[str, Gpu], settings: Mapping[str, Any], forecast: bool) -> str:
        """
        The text of the file.

        :param has: what the host has; :param gpus: PCI address -> GPU, of all. :param forecast: some of it is going to be made.
        :raises errors.Unsupported: it can't be told.
        """

    @abstractmethod
    def record(self, check: Callable[[dict], object]) -> Record:
        """The record, which has a check and the format :data:`NUMBER`."""

    @abstractmethod
    def about(self, settings: Mapping[str, Any]) -> str:
        """What is told, for messages: ``What node n1 has for Slurm``."""

    def beside(self, work: Work, settings: Mapping[str, Any], goal: Goal) -> Iterator[Step]:
        """Steps for what is told beside the file, which come first; :param work: the first."""
        return iter(())

    def note(self, old: tuple[str, ...], new: tuple[str, ...]) -> str:
        """What has to be known of a change of these lines, as a sentence; "" for nothing."""
        return ""

    # -- facts ---------------------------------------------------------------------------------------------------
    def supports(self, gpu):
        """Every GPU can be told of."""
        return True

    def observe(self, gpu):
        """The record, and the file. Raises errors.StateDirUnusable; errors.PermissionDenied: the file can't be read."""
        return self._noted

    def layout(self, state):
        """What is told, and in which lines."""
        return {"told": state.settings, "lines": list(state.lines)}

    def needs_driver(self, layout):
        """What it tells of waits for its own driver."""
        return False

    def words(self, layout):
        """A layout in a few words."""
        return layout["told"].get("path") or ("no file" if layout["told"] else "nothing told")

    def shown(self, layout):
        """A layout as users see it in changes: path -> lines."""
        return {layout["told"]["path"]: layout["lines"]} if layout["told"].get("path") else {}

    def remarks(self):
        """That nobody has told the scheduler yet."""
        told, self._remarks = self._remarks, []
        return told

    def release(self):
        """Forget what another run may change."""
        self.__dict__.pop("_noted", None)
        self._there.clear()

    # -- planning ------------------------------------------------------------------------------------------------
    def settings_of(self, layout, begun=None):
        """What was told is told again, of what there is then."""
        return {"layout": dict(layout), **({} if begun is None else {"quiet": True})}

    def together(self, works):
        """All GPUs of the host: there is one file."""
        return [works] if works else []

    def plan(self, works):
        """
        One part for all GPUs.

        :raises errors.ForeignChange: a file of somebody else is there; errors.PolicyError: its path is none.
        :raises errors.Unhealthy: a GPU can't be read, and others are to be told; errors.Unsupported: it can't be told.
        """
        first = works[0]
        noted, settings = first.state, _settings(first.settings, first.state)
        goal = self._wanted(works, noted, settings)
        self._texts = {_digest(goal.text): goal.text} if goal.text is not None else {}
        self._says_so = not first.settings.get("quiet") and first.rules.awaits_units
        steps = (*self.beside(first, settings, goal), *self._steps(first.gpu, noted, settings, goal))
        before, after = self.layout(noted), {"told": settings, "lines": _lines(goal.text)}
        as_it_is = f"already as wanted; {self.words(before)}."
        said = [goal.note, self.note(noted.lines, tuple(_lines(goal.text))) if steps else as_it_is]
        part = self.part(first.gpu, before, after, steps, note=" ".join(filter(None, said)), wanted=bool(settings))
        return [replace(part, addresses=tuple(work.gpu.address for work in works))]

    def _wanted(self, works: list[Work], noted: Noted, settings: dict) -> Goal:
        if not settings:
            return Goal()
        if settings["path"]:
            files.refuse_path(self._host, settings["path"], self.kind(settings))
        has, unread = self._offer(works)
        gpus = {work.gpu.address: _of_gpu(has, work.gpu.address) for work in works if work.gpu.address not in unread}
        if unread:
            same = settings == noted.settings and all(noted.gpus.get(address) == found for address, found in gpus.items())
            if not same or (settings["path"] and not noted.lines):
                raise offer.unread(self.about(settings), unread)
            there = _joined(noted.lines) if settings["path"] else None
            return Goal(there, f"{', '.join(unread)} can't be read, so that it stays as it is.", noted.gpus)
        if not settings["path"]:
            return Goal(gpus=gpus, has=has)
        forecast = not all(work.below.certain for work in works)
        return Goal(self.text(has, {work.gpu.address: work.gpu for work in works}, settings, forecast), gpus=gpus, has=has)

    def _offer(self, works: list[Work]) -> tuple[Offer, list[str]]:
        """What there is, or is going to be; and the GPUs that can't be read, but for those of which nobody is given anything."""
        slices = [each for work in works for each in work.below.slices]
        whole = [each for each in slices if each.kind == "gpu"]
        every = with_taken(each for each in slices if each.kind != "gpu")
        why = self.quarantined(works[0])
        untold = [work.gpu.address for work in works if not work.below.read]
        given = {part: name for work in works for part, name in work.below.given.items()}
        held = offer.held([*every, *whole], given, lambda parts: _barred(parts, why))
        held |= dict.fromkeys((address for address in untold if address in why), offer.UNREAD)
        closed = {work.gpu.address: work.below.closed for work in works if work.below.closed is not None}
        return Offer(tuple(every), tuple(whole), closed, held), [address for address in untold if address not in why]

    def quarantined(self, work: Work) -> Mapping[str, str]:
        """Name of what is quarantined -> why."""
        if "why" in work.settings:
            return work.settings["why"]
        if QUARANTINE not in self._host.store_names(self._host.state_dir):
            return {}
        # Few hosts have any, and no other loads what reads it.
        from gpuslice.records import quarantine

        return {name: each.why for name, each in quarantine.in_force(self._host).items()}

    def _steps(self, gpu: Gpu, noted: Noted, settings: dict, goal: Goal) -> Iterator[Step]:
        path = settings.get("path", "")
        if not settings and not noted.settings and not noted.files:
            return
        kind = self.kind(settings or noted.settings)
        there = {each: self._read(each, kind) for each in dict.fromkeys([*filter(None, [path]), *noted.files])}
        if path and there[path] != goal.text:
            # Also where the one that was there before was ours: somebody has put another in its place.
            files.refuse_foreign(path, there[path], kind)
        writes = bool(path) and there[path] != goal.text
        former = [each for each in noted.files if each != path]
        # Who has put another in the place of ours keeps it.
        foreign = [each for each in former if there[each] is not None and not files.is_ours(there[each], kind)]
        wanted = Noted(settings, {path: _digest(goal.text)} if path else {}, goal.gpus)
        if path and not writes and (wanted.settings, wanted.files) == (noted.settings, noted.files):
            # What is told of it is the same, whatever there is of a GPU beside that.
            wanted = wanted._replace(gpus=noted.gpus)
        if path and path not in noted.files:
            yield self._file_step(gpu, "claim", {"path": path}, f"note that {path} is ours", "forget that")
        if writes:
            edited = there[path] is not None and noted.files.get(path) not in (None, "", _digest(there[path]))
            words = f"write {path}{', which was changed by somebody else' if edited else ''}"
            yield self._file_step(gpu, "write", {"path": path, "digest": _digest(goal.text)}, words, "write what was there")
        for each in former:
            if each not in foreign:
                yield self._file_step(gpu, "remove", {"path": each}, f"remove {each}", "write it again")
        # Last, so that a run which goes on after a crash finds all before it still to be done.
        self._goal = wanted
        if (wanted.settings, wanted.files, wanted.gpus) != (noted.settings, noted.files, noted.gpus) or writes:
            words = f"note what {self.whom} is told" if settings else f"note that {self.whom} is told nothing"
            stays = f"; {', '.join(foreign)} stays, which is somebody else's by now" if foreign else ""
            yield self._file_step(gpu, "note", {}, f"{words}{stays}", "note what was")

    def _file_step(self, gpu: Gpu, action: str, args: dict, words: str, undo: str) -> Step:
        return self.step(gpu, action, args, words, "file_write", CARVE, undo)

    def _read(self, path: str, kind: Kind) -> str | None:
        if path not in self._there:
            self._there[path] = files.read(self._host, path, kind)
        return self._there[path]

    # -- doing ---------------------------------------------------------------------------------------------------
    def _run_claim(self, gpu, path):
        noted = self._noted
        self._write(noted._replace(files={**noted.files, path: ""}))

    def _run_write(self, gpu, path, digest):
        files.put(self._host, path, self._texts[digest], self.kind(self._goal.settings))
        self.release()
        if self._says_so and self.reread:
            self._remarks.append(f"{path} is another one now: {self.whom} reads it {self.reread}.")

    def _run_remove(self, gpu, path):
        files.remove(self._host, path, self.kind(self._goal.settings or self._noted.settings))
        self.release()

    def _run_note(self, gpu):
        self._write(self._goal)

    # -- the record ----------------------------------------------------------------------------------------------
    @cached_property
    def _record(self) -> Record:
        checked = record({
            "settings": kinds.section(kinds.known(self.name)).TOLD, "files": table(_PATH, text("[0-9a-f]*")),
            "gpus": table(ADDRESS, text("[0-9a-f]+")),
        })  # fmt: skip
        return self.record(lambda data: checked(data, "it"))

    @cached_property
    def _noted(self) -> Noted:
        found = self._record.read_if_there(
            lambda err: errors.StateDirUnusable(
                f"The record of what {self.whom} is told, {self._record.path}, can't be used ({reason(err)}).",
                todo="Remove that file, then run again: a file of ours is known by its first line.",
            )
        )
        if found is None:
            return Noted()
        found.pop(FORMAT, None)
        noted = Noted(**found)
        if not noted.settings:
            return noted
        # What another version would refuse is still what is there.
        path = noted.settings["path"]
        there = self._read(path, self.kind(noted.settings)) if path else None
        return noted._replace(lines=() if there is None else tuple(_lines(there)))

    def _write(self, noted: Noted) -> None:
        try:
            if noted.settings or noted.files:
                self._record.write({"settings": noted.settings, "files": noted.files, "gpus": noted.gpus})
            else:
                self._record.remove()
        except OSError as err:
            raise errors.StateDirUnusable(
                f"The record of what {self.whom} is told, {self._record.path}, can't be written: {err.strerror}.",
                todo="Free space or mend its permissions, then run again.",
            ) from err
        self.release()


def _settings(asked: Mapping, noted: Noted) -> dict:
    if asked.get("kept"):
        return noted.settings
    return dict(asked["layout"]["told"] if "layout" in asked else asked["told"])


def _lines(text: str | None) -> list[str]:
    return [printable(line) for line in (text or "").splitlines()[:_MOST]]


def _joined(lines: tuple[str, ...]) -> str:
    return "\n".join(lines) + "\n"


def _digest(text: str | None) -> str:
    return hashlib.sha256((text or "").encode()).hexdigest()[:32]


def _barred(parts: list[Slice], why: Mapping[str, str]) -> Mapping[str, str]:
    """Name of a slice that is quarantined, or stands on what is -> why."""
    if not why:
        return {}
    from gpuslice.records import quarantine

    return {name: why[by] for name, by in quarantine.barred(parts, tuple(why)).items()}


def _of_gpu(has: Offer, address: str) -> str:
    """Digest of what there is of a GPU, and of what of it nobody is given."""
    parts = [part for part in (*has.every, *has.whole) if part.gpu == address]
    told = [[part.name, part.kind, part.profile, list(part.device_nodes), has.held.get(part.name, "")] for part in parts]
    return hashlib.sha256(json.dumps([told, has.closed.get(address), has.held.get(address, "")]).encode()).hexdigest()[:16]
