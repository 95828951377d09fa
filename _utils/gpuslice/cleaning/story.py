"""
A host is given up: each GPU goes back to how it was first found, and every file and unit of ours goes.

The layouts go back by changes like any other, what was touched last first; what can't be at work on a GPU at a time goes back one
after the other, in stages. Only when all are as they were found, the unit of the boot and the records go, and of these how
everything was found last: until then another run goes on where this one stopped.
"""

from collections.abc import Mapping

from gpuslice import errors
from gpuslice import folding
from gpuslice import front
from gpuslice import kinds
from gpuslice.cleaning.belongings import AGAIN
from gpuslice.cleaning.belongings import Belongings
from gpuslice.host.base import OWED
from gpuslice.inventory import discovery
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.plan import merge
from gpuslice.policy import fields
from gpuslice.records import interrupted
from gpuslice.records import labelled
from gpuslice.records import leaving
from gpuslice.records.first import First
from gpuslice.records.history import History

_FORGET = "Run again when that is mended, or with force=True, which forgets it."
_BY_FORCE = "With force=True whoever is in the way is ended, and drivers are loaded anew where that takes it."
_NOTHING = "Nothing of ours is here."
_GONE = "Every GPU that is here is as it was first found, and nothing of ours is left."


def clean(engine, pillar, test=False, force=False, brief=False, gives_up=None):
    """
    Bring everything back to how it was first found, and remove what is ours.

    :param pillar: the minion's: its permissions hold, and what it still wants is told.
    :param test: say only what would be done. :param force: end what is in use, load drivers anew where it takes
        that, and forget what can't be reached any more.
    :param brief: as of :func:`gpuslice.front.planned`. :param gives_up: called before anything is changed, to end what waits.
    :return: ``result`` (absent where ``test`` found something to do), ``changes``, ``comment``, and ``warnings`` where there are
        any. Raises errors.JournalDamaged: how it was found can't be read; whatever a change raises that begins nothing.
    """
    made = _Cleaning(engine, pillar, force, brief, gives_up)
    answer = made.tested() if test else made.done()
    warnings = [*answer.pop("warnings", []), *made.warnings(answer)]
    return {**answer, "warnings": warnings} if warnings else answer


def rolled_back(engine, pillar, test=False, brief=False):
    """
    Bring back how everything was first found, and keep the records: a rollback to generation 0. Returns as :func:`clean`.

    :raises errors.PolicyError: nothing was ever changed; errors.DeviceNotFound: a GPU of it is gone.
    """
    made = _Cleaning(engine, pillar, False, brief)
    if not made.keys:
        raise errors.PolicyError("There is no change in the history of this host.", todo="Nothing can be rolled back.")
    if made.unreachable:
        raise next(iter(made.unreachable.values()))
    return made.layouts_tested() if test else made.layouts_done()


class _Cleaning:
    """
    One such request.

    :ivar keys: what goes back, what was touched last first; :ivar unreachable: key -> the error that says why it can't.
    """

    def __init__(self, engine, pillar, force, brief, gives_up=None):
        self._engine, self._pillar, self._force, self._brief = engine, pillar, force, brief
        self._gives_up = gives_up
        self._ours = Belongings(engine)
        self._found = First(engine.host).found()
        self._newest = History(engine.host).newest()
        # The records of it are gone when it is told.
        self._elsewhere = _elsewhere(engine.host)
        # One that an older version began and did not end has noted nothing.
        entry = interrupted.found(engine.host)
        self._layouts = {**self._found.layouts, **{key: one for key, one in _before(entry) if key not in self._found.layouts}}
        noted = [key for key in self._noted() if key not in self._layouts]
        # Of a GPU that is given away now nothing else can be asked before it is back.
        reversed_keys = sorted([*noted, *reversed(self._layouts)], key=lambda key: not self._gives_away(key))
        found = {key: why for key in reversed_keys if (why := self._unreachable(key))}
        self.unreachable = {key: why for key, why in found.items() if why is not _FOREIGN}
        self.keys = [key for key in reversed_keys if key not in found]

    # -- what goes back ------------------------------------------------------------------------------------------
    def _noted(self):
        """Keys of what only its file in the state directory tells of: where the history was lost, it is still there."""
        names = self._engine.host.store_names(self._engine.host.state_dir)
        return dict.fromkeys(
            Key.of_gpu(kind.name, gpu.address)
            for kind in kinds.KNOWN if kind.noted in names
            for gpu in self._engine.gpus if kind.may_concern(gpu)
        )  # fmt: skip

    def _gives_away(self, key):
        kind = kinds.named(key.technique)
        return kind is not None and kind.gives_away and any(map(discovery.is_given_away, self._covered(key)))

    def _covered(self, key):
        """The GPUs of a key that are there."""
        kind = kinds.named(key.technique)
        if kind is not None and kind.host_wide:
            return [gpu for gpu in self._engine.gpus if kind.may_concern(gpu)]
        return [gpu for gpu in self._engine.gpus if gpu.address == key.subject]

    def _unreachable(self, key):
        """The error that says why a key can't go back, None where nothing keeps it; :data:`_FOREIGN` for what was never ours."""
        kind, there = kinds.named(key.technique), self._covered(key)
        if kind is None or not kind.cls:
            return errors.Unsupported(
                f"Another version made a layout of '{key.technique}' here, which this one does not have.",
                "" if key.subject == HOST else key.subject,
                f"Install that version and clean with it, or run with force=True, which forgets it. {AGAIN}",
            )
        if there and not kind.host_wide and not self._found.is_of(key, there[0]):
            # Another board is in that slot, and no change of it was ever begun.
            return _FOREIGN
        if there:
            return None
        where = "this host has no GPU now" if kind.host_wide else "it is no longer in this host"
        return errors.DeviceNotFound(
            f"It can't be brought back to how it was found ({self._words(key)}): {where}.",
            "" if kind.host_wide else key.subject,
            _FORGET,
        )

    def _words(self, key):
        layout = self._layouts.get(key)
        return "nothing of it" if layout is None else self._engine.tools.get(key.technique).words(layout)

    def _settings(self, key):
        section = kinds.section(kinds.known(key.technique))
        if section.NOTHING is not None:
            return section.NOTHING
        if key not in self._layouts:
            return section.FORGOTTEN
        found = self._engine.tools.get(key.technique).settings_of(self._layouts[key])
        return {**found, "reload": True} if self._force else found

    def _stages(self):
        """The keys in the order in which they go back: those of one stage by one change."""
        places, stages = {}, {}
        for key in self.keys:
            before = (
                place for other, place in places.items()
                if other.subject == key.subject and not kinds.go_together(other.technique, key.technique)
            )  # fmt: skip
            places[key] = max(before, default=-1) + 1
            stages.setdefault(places[key], []).append(key)
        return [stages[place] for place in sorted(stages)]

    def _targets(self, keys):
        order = {gpu.address: place for place, gpu in enumerate(self._engine.gpus)}
        found = [Target(gpu, key, self._settings(key)) for key in keys for gpu in self._covered(key)]
        return sorted(found, key=lambda target: order[target.gpu.address])

    def _reconciler(self):
        return self._engine.reconciler(force=self._force, permissions=self._pillar)

    # -- layouts -------------------------------------------------------------------------------------------------
    def layouts_tested(self):
        """What would be done to the layouts, as :func:`gpuslice.front.planned` has it."""
        lines, changes, blocked, empty = [], {}, False, True
        for keys in self._stages():
            if not empty:
                # What is there by then is not there yet.
                lines += [f"After that {key.subject} goes back to: {self._words(key)} ({key.technique})." for key in keys]
                continue
            plan = self._reconciler().plan(self._targets(keys))
            told = front.planned(plan, self._brief)
            lines.append(told["comment"])
            _merge(changes, plan.changes())
            empty, blocked = plan.empty, blocked or bool(plan.blocked)
        answer = {"changes": self._shown(changes), "comment": "\n".join(lines)}
        return {**answer, "result": not blocked} if blocked or not changes else answer

    def layouts_done(self):
        """Bring the layouts back; stops with the first stage that does not come to its end. Returns as ``front.done``."""
        lines, changes, warnings = [], {}, []
        for number, keys in enumerate(self._stages()):
            try:
                result = self._applied(keys, first=number == 0)
            except errors.GpuSliceError as err:
                if number == 0:
                    raise
                return self._ended(False, changes, [*lines, str(err)], warnings)
            told = front.done(result, self._brief)
            if result.changes or result.errors or result.generation or result.reboot:
                lines.append(told["comment"])
            _merge(changes, result.changes)
            warnings += told.get("warnings", [])
            if result.generation:
                self._newest = History(self._engine.host).mark(result.generation)
            if not told["result"] or result.reboot:
                return self._ended(False, changes, lines, warnings)
        return self._ended(True, changes, lines or ["Everything is as it was first found."], warnings)

    def _ended(self, result, changes, lines, warnings):
        told = {"result": result, "changes": self._shown(changes), "comment": "\n".join(lines)}
        return {**told, "warnings": warnings} if warnings else told

    def _shown(self, changes):
        return folding.changes(changes) if self._brief else changes

    def _applied(self, keys, first):
        front.changes()
        if not first:
            # What was given away may have come back, and what a driver has now is another thing.
            self._engine.tools.release()
            self._engine.gpus = discovery.discover(self._engine.host)
        return self._reconciler().apply(self._targets(keys))

    # -- all of it -----------------------------------------------------------------------------------------------
    def tested(self):
        """As :func:`clean` with ``test``."""
        found, left = self.layouts_tested(), self._left()
        lines = [found["comment"]] if found["changes"] or found.get("result") is False else []
        if left or found.get("result") is False:
            return self._stopped(found, lines, left)
        going, strays = self._ours.going(), "" if found["changes"] or self._force else self._strays()
        if strays:
            return {**found, "result": False, "comment": "\n".join([*lines, strays, AGAIN])}
        changes = {**found["changes"], **self._told(going)}
        comment = "\n".join(filter(None, [*lines, self._removal(going, "Would be removed")])) or _NOTHING
        return {"changes": changes, "comment": comment, **({} if changes else {"result": True})}

    def done(self):
        """As :func:`clean` without ``test``."""
        there = self._ours.going()
        if self._gives_up:
            # First: it would slice again what is given back, as long as this takes several attempts.
            self._gives_up()
        found = self.layouts_done() if self.keys else {"result": True, "changes": {}, "comment": ""}
        left = self._left()
        lines = [found["comment"]] if found["changes"] or not found["result"] else []
        if left or not found["result"]:
            return self._stopped(found, lines, left)
        if not self._force and (strays := self._strays()):
            return {**found, "result": False, "comment": "\n".join([*lines, strays, AGAIN])}
        if not there and not found["changes"]:
            return {**found, "comment": _NOTHING}
        try:
            going, place = self._ours.remove(self._newest), self._engine.host.state_dir
            if place in there:
                # What waited may have been all that was on record.
                going.setdefault(place, there[place])
        except errors.GpuSliceError as err:
            return {**found, "result": False, "comment": "\n".join([*lines, f"What is ours could not all be removed. {err}"])}
        lines = [_GONE, *lines, self._removal(going, "Removed")]
        return {**found, "changes": {**found["changes"], **self._told(going)}, "comment": "\n".join(filter(None, lines))}

    def _stopped(self, found, lines, left):
        """The answer where layouts can't all go back; ``found`` is what became of them."""
        more = [] if self._force or found.get("result", True) else [_BY_FORCE]
        return {**found, "result": False, "comment": "\n".join([*lines, *left, *more, AGAIN])}

    def _left(self):
        """Sentences on what can't be brought back, none where it is forgotten."""
        return [] if self._force else [str(err) for err in self.unreachable.values()]

    def _told(self, going):
        """What goes, for a screen where that is asked for."""
        return {where: f"{each['old']} -> {each['new']}" for where, each in going.items()} if self._brief else going

    def _removal(self, going, how):
        place = self._engine.host.state_dir
        told = [f"{found['old']} in {where}" if where == place else where for where, found in going.items()]
        return f"{how}: {', '.join(told)}." if told else ""

    def _strays(self):
        """A sentence on files of ours that are there when all layouts are back, so that no record tells of them."""
        found = self._ours.strays()
        if not found:
            return ""
        lost = "" if self._layouts else " How the GPUs were first found is not on record either, so that they stay as they are."
        return (
            f"Files of ours by their names are left, of which no record tells: {', '.join(found)}.{lost} Stop the units among "
            "them, remove these files and run 'systemctl daemon-reload'; force=True leaves them."
        )

    def warnings(self, answer):
        """What has to be known beside what was done."""
        loaded = [each for each in self._ours.leftovers() if each.todo]
        found = [f"{each.path} is left, since it was loaded by request: {each.todo}." for each in loaded]
        found += [f"Forgotten: {err.gpu or 'the host'}: {err.what}" for err in self.unreachable.values() if self._force]
        if self._force and answer.get("result") and (strays := self._strays()):
            found.append(strays)
        if others := leaving.others(self._engine.host):
            found.append(f"Left in {self._engine.host.state_dir}, since they are not known as ours: {', '.join(others)}.")
        if answer.get("result") is not False:
            found += self._elsewhere
        if self._found.since and answer["changes"]:
            found.append(
                f"What was before generation {self._found.since} is not on record any more: what that generation or a later one "
                "found counts as found first."
            )
        if _is_enabled(self._pillar) and answer.get("result") is not False:
            found.append("The pillar still says containers_gpu_slicing:enabled: true, so that the next highstate slices again.")
        return found


#: In the place of an error: nothing was ever done to it.
_FOREIGN = object()


def _elsewhere(host):
    """What of ours is in a scheduler, which is not asked here, as sentences."""
    found = []
    if host.has_record(OWED):
        found.append(
            f"{OWED} told of a node that could not be given back to its scheduler, and nobody does so any more: "
            f"{', '.join(_owed(host)) or 'see whether it is drained'}."
        )
    if host.has_record(labelled.FILE):
        found.append("Our labels of the node stay in its cluster; gpu_kubernetes.remove_labels takes them.")
    return found


def _owed(host):
    from gpuslice.records.owed import Owed

    try:
        return [f"call {hook['function']}" for hook in Owed(host).hooks()]
    except errors.GpuSliceError:
        return []


def _merge(changes, more):
    for where, each in more.items():
        merge(changes, where, each["old"], each["new"])


def _before(entry):
    return entry.before.items() if entry else ()


def _is_enabled(pillar):
    section = pillar.get(fields.SLICING) if isinstance(pillar, Mapping) else None
    return isinstance(section, Mapping) and section.get("enabled") is True
