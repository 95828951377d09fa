"""
Going back: what a change touched is brought to what it was before it, from the top layer down and up again, as far as that can be
had and nobody else is in the way.
"""

from gpuslice import errors
from gpuslice import kinds
from gpuslice.change.context import Halt
from gpuslice.change.context import caught
from gpuslice.model import Target
from gpuslice.plan import differing
from gpuslice.plan import merge
from gpuslice.plan import same
from gpuslice.rules import PLAIN
from gpuslice.techniques.base import Work

#: A GPU in this condition can't be put back, by anybody or without destroying what another tool made: it is reported, and does
#: not stop later runs.
_HOPELESS = (errors.Unhealthy, errors.DeviceNotFound, errors.ForeignChange)


class Undo:
    """
    Undoes changes on one host, by their record: a :class:`gpuslice.records.journal.Entry`.

    :param runner: :class:`gpuslice.change.runner.Runner`; :param planner: :class:`gpuslice.change.planner.Planner`.
    """

    def __init__(self, toolbox, runner, planner):
        self._tools, self._runner, self._planner = toolbox, runner, planner

    def layouts(self, entry, gpus):
        """Layout of each subject of a change as the hardware has it now, by key; the reason where it can't be read."""
        return {key: self._layout(entry, key, gpus) for key in entry.before}

    def _layout(self, entry, key, gpus):
        technique = self._tools.get(key.technique)
        try:
            return technique.layout(technique.observe(_present(entry, gpus, key)))
        except Exception as err:
            return {"error": str(caught(err, entry.covered(key)[0]))}

    def has_moved(self, entry, key, gpus):
        """Whether a subject has another layout now than before a change, as far as that can be read."""
        return not self.is_as_before(entry, gpus, key, self._layout(entry, key, gpus))

    def restore(self, entry, layouts, gpus):
        """Bring subjects of a change (by key) back to earlier layouts. Returns the errors of those that could not be, by key."""
        by_layer: dict[int, dict] = {}
        handing = {key: layout for key, layout in layouts.items() if key.hands_out}
        for key, layout in layouts.items():
            if key in handing:
                continue
            by_layer.setdefault(kinds.known(key.technique).layer, {})[key] = layout
        upwards = sorted(by_layer)
        left: dict = {}
        # What is shared, tuned or handed out lets go first. What it had before may be possible only once that on which it stands
        # is back, and bringing that back may have ended it again.
        for layer in (*reversed(upwards), *upwards[1:]):
            of_layer = by_layer[layer]
            left = {key: err for key, err in left.items() if key not in of_layer}
            left.update(self._restore_layer(entry, of_layer, gpus))
        # What is handed out goes by what there is when all of that is over.
        for key, layout in sorted(handing.items(), key=lambda each: each[0].layer):
            if err := self.hand_out(entry, key, self.former(entry, key, layout), gpus):
                left[key] = err
        return left

    def former(self, entry, key, layout):
        """Settings that undo what a change has begun of a key, back to this layout."""
        return self._tools.get(key.technique).settings_of(layout, [step for one, step in entry.begun() if one == key])

    def hand_out(self, entry, key, settings, gpus):
        """
        Hand out what there is now.

        :param key: of a change, of layer HAND_OUT or TELL; :param settings: who is to have what, or be told it.
        :return: None, or why that could not be.
        """
        self._tools.release()
        targets = [Target(gpus[address], key, settings) for address in entry.covered(key) if address in gpus]
        # Units that were stopped for the change are started when it is over.
        paused = tuple(name for kind, name in entry.pauses if kind == "unit")
        for last in (False, True):
            parts, failed = self._planner.again(targets, key.layer, paused=paused)
            if failed:
                return failed[key]
            steps = [part for part in parts if part.steps]
            if not steps:
                return None
            if last:
                return errors.ValidationFailed("It was handed out again, and is not as wanted when read again.", steps[0].gpu)
            failed, _ = self._runner.execute(steps, gpus, Halt())
            if failed:
                return failed[key]
        return None

    def _restore_layer(self, entry, layouts, gpus):
        parts, left = [], {}
        self._tools.release()
        for key, layout in layouts.items():
            try:
                parts += self.plan_restore(entry, key, layout, gpus)
            except Exception as err:
                left[key] = caught(err, entry.covered(key)[0])
        # What can't be put back must not keep the others from it: each one runs on its own.
        for part in (p for p in parts if p.steps):
            for unit in filter(kinds.is_ours, part.stops):
                # What this change began above holds it; the layer above is put back after this one.
                self._runner.stop("unit", unit)
            failed, unmet = self._runner.execute([part], gpus, Halt())
            left.update(failed)
            left.update({key: errors.RebootNeeded(why, part.gpu) for key, why in unmet.items()})
        for part in parts:
            if part.key not in left and (wrong := self._restored(entry, part.key, layouts[part.key], gpus)):
                left[part.key] = wrong
        return left

    def plan_restore(self, entry, key, layout, gpus, rules=PLAIN):
        """The parts that bring one key of a change back to a layout. Raises errors.DeviceNotFound, and what a plan raises."""
        if key.hands_out:
            # It goes by what there is when all others are back.
            return []
        gpu, technique = _present(entry, gpus, key), self._tools.get(key.technique)
        target = Target(gpu, key, self.former(entry, key, layout))
        return technique.plan([Work(target, technique.observe(gpu), rules)])

    def _restored(self, entry, key, layout, gpus):
        """The error for a subject that is not as it was before the change, None if it is."""
        technique, address = self._tools.get(key.technique), entry.covered(key)[0]
        try:
            now = technique.layout(technique.observe(_present(entry, gpus, key)))
            if self.is_as_before(entry, gpus, key, now):
                return None
            left = [step for part in self.plan_restore(entry, key, layout, gpus) for step in part.steps]
        except Exception as err:
            return caught(err, address)
        if left:
            return errors.ValidationFailed(f"It has {technique.words(now)}.", address)
        return errors.ForeignChange(f"It has {technique.words(now)}: what another tool made meanwhile is not destroyed.", address)

    def is_as_before(self, entry, gpus, key, now):
        """Whether a subject has the layout that it had before a change."""
        return self.are_same(entry, gpus, key, entry.before[key], now)

    def are_same(self, entry, gpus, key, earlier, now):
        """Whether two layouts of a subject are one, also where the driver calls the earlier one otherwise by now."""
        if same(earlier, now):
            return True
        if "error" in earlier or "error" in now:
            return False
        try:
            return same(now, self._tools.get(key.technique).translated(_present(entry, gpus, key), earlier))
        except errors.GpuSliceError:
            return False

    def what_is_left(self, key, err, entry):
        """A sentence on a subject that could not be put back, for the reason ``err``."""
        words = self._tools.get(key.technique).words(entry.before[key])
        return f"GPU {', '.join(entry.covered(key))} could not be put back to {words}: {err}"

    def note_changes(self, result, entry, gpus, before, after):
        """Add to a result what became of the GPUs, as users see it; what an earlier part of the run found is still ``old``."""
        earlier = set(result.changes)
        for key, now in after.items():
            if earlier.isdisjoint(_shown_under(entry, key)) and self.are_same(entry, gpus, key, before[key], now):
                continue
            shown = self._tools.get(key.technique).shown
            old, new = _shown(shown, before[key]), _shown(shown, now)
            if key.hands_out:
                old, new = differing(old, new)
            for where in _shown_under(entry, key):
                merge(result.changes, where, old, new)

    def ended(self, entry, after):
        """Units that a change did away with, by the layouts that there are after it."""
        known = {key: layout for key, layout in after.items() if "error" not in layout and "error" not in entry.before[key]}
        return [unit for key, now in known.items() for unit in self._tools.get(key.technique).ended(entry.before[key], now)]

    @staticmethod
    def is_unfinished(left):
        """Whether any of these errors of what could not be put back leaves something that a later run can do."""
        return any(not isinstance(err, _HOPELESS) for err in left.values())


def _present(entry, gpus, key):
    """The first GPU that a key covers and that is there. Raises errors.DeviceNotFound where none is."""
    covered = entry.covered(key)
    found = next((gpus[address] for address in covered if address in gpus), None)
    if found is None:
        raise errors.DeviceNotFound("This GPU is no longer there.", covered[0], "Look for it with 'lspci' and in 'dmesg'.")
    return found


def _shown_under(entry, key):
    """Where users find it in changes, as :attr:`gpuslice.plan.Part.shown_under`."""
    return [key.technique] if key.hands_out else entry.covered(key)


def _shown(shown, layout):
    """A layout as users see it, or why it could not be read."""
    return layout if "error" in layout else shown(layout)
