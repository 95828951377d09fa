"""
A change that did not end: undone, as a change with a generation of its own.
"""

from dataclasses import asdict
from dataclasses import replace

from gpuslice import errors
from gpuslice import kinds
from gpuslice.change.context import Result
from gpuslice.change.context import caught
from gpuslice.inventory import discovery
from gpuslice.plan import Plan
from gpuslice.records import interrupted
from gpuslice.records.history import UNDID
from gpuslice.rules import Rules


class Recovery:
    """
    Undoes the interrupted change of one host.

    :param options: :class:`gpuslice.rules.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    :param runner: :class:`gpuslice.change.runner.Runner`; :param undo: :class:`gpuslice.change.undo.Undo`.
    :param memory: :class:`gpuslice.change.memory.Memory`.
    """

    def __init__(self, host, options, journal, runner, undo, memory):
        self._host, self._options, self._journal = host, options, journal
        self._runner, self._undo, self._memory = runner, undo, memory

    def plan(self, gpus):
        """The plan of :meth:`undo_found`."""
        entry = self._journal.unfinished()
        if entry is None:
            return Plan()
        by_address = {gpu.address: gpu for gpu in gpus}
        parts, blocked = [], []
        for key, layout in entry.before.items():
            try:
                parts += self._undo.plan_restore(entry, key, layout, by_address, self._rules_of_undo(entry))
            except errors.GpuSliceError as err:
                blocked.append((entry.covered(key)[0], str(err)))
        started = [f"The {kind} {name} is started again." for kind, name in entry.pauses if not kinds.is_ours(name)]
        return Plan(tuple(parts), blocked=tuple(blocked), notes=(f"{interrupted.describe(entry)}; this undoes it.", *started))

    def undo_found(self, gpus):
        """Undo the change that is on record as begun, see :meth:`undo`; the result has an empty plan where there is none."""
        entry = self._journal.unfinished()
        return self.undo(entry, {gpu.address: gpu for gpu in gpus}) if entry else Result(Plan())

    def undo(self, entry, gpus):
        """
        Undo a change that did not end, as a change with a generation of its own. Returns :class:`Result`.

        :raises errors.RollbackFailed: something could not be undone.
        """
        what = interrupted.describe(entry)
        self._runner.tell(f"{what}; it is undone first")
        self._runner.telling.begin(self._memory.upcoming(), f"{what}; it is undone", Plan())
        found = self._undo.layouts(entry, gpus)
        self._runner.measure("before")
        entry = self._paused_for_undo(entry, gpus)
        left = self._undo.restore(entry, entry.before, gpus)
        self._runner.measure("after")
        started = self._runner.resume(entry)
        lines = [self._undo.what_is_left(key, err, entry) for key, err in left.items()]
        if self._undo.is_unfinished(left):
            err = errors.RollbackFailed(
                f"{what} and could not be undone. {' '.join([*lines, *started])}", todo="Mend that by hand, then run again."
            )
            self._runner.telling.end(Result(Plan(), errors=[str(err)]), "left")
            raise err
        after = self._undo.layouts(entry, gpus)
        restored = {key: layout for key, layout in entry.before.items() if key not in left}
        noted = self._memory.note_verified(self._memory.undone(entry, restored, gpus))
        if entry.after_hooks:
            started += self._runner.hooks.after(entry.after_hooks, entry.gpus, "undone")
        try:
            self._journal.end()
        except errors.StateDirUnusable as err:
            raise errors.with_more(err, f"{what}; it was undone, and until then the next run takes it for interrupted.") from err
        result = Result(Plan(), undone=True)
        self._undo.note_changes(result, entry, gpus, found, after)
        by_us = {"time": self._host.now(), "who": self._options.who, "jid": self._options.jid}
        told = {**by_us, "before": found, "after": after, "reboot": [], "times": self._runner.times}
        self._memory.record(result, entry.generation(UNDID, [*lines, *started], **told))
        number = f", generation {result.generation}" if result.generation else ""
        result.warnings = [*noted, f"{what}; it was undone{number}.", *started, *lines, *result.warnings]
        self._runner.telling.end(result, UNDID)
        # What comes after it in this run is another change.
        self._runner.times = []
        return result

    def _rules_of_undo(self, entry):
        """An undo may stop what this run may, and what the change stopped: it may have been started again before the end."""
        units = [name for kind, name in entry.pauses if kind == "unit"]
        modules = [name for kind, name in entry.pauses if kind != "unit"]
        rules = self._options.rules()
        return Rules(stop_units=(*rules.stop_units, *units), unload_modules=(*rules.unload_modules, *modules))

    def _paused_for_undo(self, entry, gpus):
        """
        Stop what is in the way of an undo and may be stopped. Returns the record, which tells all that is to be started again;
        what can't be written there is not stopped.
        """
        stops = []
        for key, layout in entry.before.items():
            try:
                parts = self._undo.plan_restore(entry, key, layout, gpus, self._rules_of_undo(entry))
            except Exception as err:
                # It is planned once more, and told of then.
                caught(err, entry.covered(key)[0])
                continue
            stops += [pause for part in parts for pause in part.pauses]
        stops = [pause for number, pause in enumerate(stops) if pause not in stops[:number]]
        if new := [pause for pause in stops if pause not in entry.pauses]:
            steps = [(key, asdict(step)) for key, step in entry.begun()]
            noted = replace(entry, pauses=[*entry.pauses, *new], earlier=steps, steps=[])
            try:
                self._journal.begin(noted, goes_on=True)
                entry = noted
            except errors.StateDirUnusable as err:
                self._runner.tell(str(err))
        for kind, name in stops:
            if [kind, name] in entry.pauses:
                self._runner.stop(kind, name)
        return entry

    def others(self, entry, gpus):
        """GPUs of an interrupted change that the present request does not reach."""
        if all(address in gpus for address in entry.gpus):
            return {}
        return {gpu.address: gpu for gpu in discovery.discover(self._host)}
