"""
Bring a host to its targets: lock -> observe -> plan -> check -> journal -> apply -> verify -> (roll back).

A GPU changes whole or not at all, and so do GPUs that can only change together (``GpuPlan.group``): a step that fails puts
them back to where they were. The other GPUs keep their change, unless ``on_failure`` is ``host``. What a crash leaves behind is
finished by the next run that wants the same, and undone by any other that changes GPUs.
"""

import os
import time
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace
from functools import cached_property

from gpuslice import errors
from gpuslice.change.context import ALL
from gpuslice.change.context import Change
from gpuslice.change.context import Halt
from gpuslice.change.context import caught
from gpuslice.change.memory import Memory
from gpuslice.change.planner import Planner
from gpuslice.change.signals import Signals
from gpuslice.inventory import discovery
from gpuslice.plan import Plan
from gpuslice.plan import same
from gpuslice.records import interrupted
from gpuslice.records import lock
from gpuslice.records.journal import Entry
from gpuslice.records.journal import Journal
from gpuslice.records.reboot import RebootLedger
from gpuslice.techniques import Rules

_UNDONE = "Everything that was done has been undone; the host is as it was."
#: How the history calls the undoing of a change that did not end.
UNDID = "undid an interrupted change"
#: A GPU in this condition can't be put back, by anybody or without destroying what another tool made: it is reported, and does
#: not stop later runs.
_HOPELESS = (errors.Unhealthy, errors.DeviceNotFound, errors.ForeignChange)


@dataclass
class Options:
    """
    How to change.

    :ivar strategy: auto (only what is idle), force (also what is in use), skip (report, change nothing).
    :ivar stop_units: systemd units that may be stopped for a change; :ivar unload_modules: kernel modules, for a reset.
    :ivar on_failure: gpu (a failed step puts back its GPU and those of its group), host (every GPU of the change).
    :ivar who: who asks, for lock, journal and history; :ivar jid: Salt's job id; :ivar progress: called with a line a step.
    """

    strategy: str = "auto"
    on_failure: str = "gpu"
    validation: bool = True
    health_check: bool = True
    who: str = "gpuslice"
    jid: str = ""
    progress: object = None

    stop_units: tuple = ()
    unload_modules: tuple = ()
    #: False only queues the start of units that were stopped: they may be ordered after the one who starts them.
    awaits_units: bool = True
    #: PCI address -> rules to note with its verified layout, where these are not the ones of this change: a boot keeps them.
    rules_noted: dict = field(default_factory=dict)

    def rules(self, awaits_reboot=False):
        """What a technique may do."""
        return Rules(self.strategy == "force", awaits_reboot, tuple(self.stop_units), tuple(self.unload_modules))


@dataclass
class Result:
    """
    What became of a request.

    :ivar changes: PCI address -> {"old": layout, "new": layout}, both read from the hardware.
    :ivar errors: sentences, empty when all is as wanted; :ivar reboot: GPUs that wait for a reboot.
    :ivar warnings: sentences worth reading; :ivar generation: its number in the history, None when nothing was touched.
    :ivar verified: False where a GPU was read after the change and is not as wanted, which ``validation: false`` lets pass.
    :ivar undone: whether an interrupted change was undone first.
    """

    plan: Plan
    changes: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    reboot: list = field(default_factory=list)
    seconds: float = 0.0
    generation: int | None = None
    verified: bool = True
    undone: bool = False

    @property
    def ok(self):
        """Whether the hardware is as wanted, or will be at the next reboot."""
        return not self.errors


class Reconciler:
    """One request on one host. Targets are objects with ``gpu``, ``technique``, ``settings`` and ``reason``."""

    def __init__(self, host, toolbox, options=None):
        self._host = host
        self._tools = toolbox
        self._options = options or Options()
        self._journal = Journal(host)
        self._ledger = RebootLedger(host)
        self._signals = Signals()
        self._planner = Planner(host, toolbox, self._options, self._journal, self._ledger)
        self._memory = Memory(host, toolbox, self._options, self._journal, self._ledger)

    # What only a change needs is loaded for a change: a host that is already right costs one look.
    @cached_property
    def _runner(self):
        from gpuslice.change.runner import Runner

        return Runner(self._host, self._tools, self._options, self._journal)

    @cached_property
    def _undo(self):
        from gpuslice.change.undo import Undo

        return Undo(self._tools, self._runner)

    def plan(self, targets):
        """The plan for these targets, see :meth:`gpuslice.change.planner.Planner.plan`."""
        return self._planner.plan(targets)

    def plan_each(self, targets):
        """PCI address -> plan or error, see :meth:`gpuslice.change.planner.Planner.plan_each`."""
        return self._planner.plan_each(targets)

    # -- changing ------------------------------------------------------------------------------------------------
    def apply(self, targets):
        """
        Bring the host to the targets. Returns :class:`Result`; raises an error of gpuslice.errors when nothing was begun, and
        errors.Interrupted when a signal asked the process to end, once the change was ended.

        A host that is already right costs one look: no lock is taken and nothing is written.
        """
        targets = list(targets)
        if self._options.strategy == "skip":
            plan = self._planner.plan(targets)
            skipped = [] if plan.empty else ["apply_strategy is skip: nothing was changed, though a change is wanted."]
            return Result(plan, warnings=skipped, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        if not self._journal.unfinished():
            # Not by the journal: one that another run began since is not an interrupted one.
            plan = self._planner.plan(self._planner.settled(targets))
            if plan.empty and not self._journal.unfinished():
                self._memory.tidy(plan.gpus, _waiting(plan))
                self._memory.remember_found(plan)
                return Result(plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        elif not self._planner.deals_with_interrupted(targets):
            plan = self._planner.plan(targets)
            return Result(plan, warnings=list(plan.notes))
        return self._under_lock(lambda: self._apply_locked(targets))

    def _under_lock(self, work):
        """
        Do ``work``, which returns a :class:`Result`, with the host's lock. A signal meanwhile lets it come to an end first.

        :raises errors.Interrupted: a signal asked the process to end; it says what was done until then.
        """
        with lock.held(self._host.state_dir, self._options.who, self._options.jid), self._signals:
            self._refuse_to_begin()
            # Somebody else may have changed the host while this run planned: what it read then counts no more, and handles of a
            # GPU that was reset are void.
            self._tools.release()
            try:
                result = work()
            except Exception as err:
                # Refused or not, the process was asked to end, and goes on with nothing else.
                self._end_process([str(err)])
                raise
        # Only here no further signal is taken note of, so that none is forgotten.
        if self._signals.number is not None:
            lines = [*result.errors, *result.warnings]
            if result.ok and not result.plan.empty:
                lines.insert(0, "The change was at its end already and is made.")
            if result.generation:
                lines.append(f"It is generation {result.generation} of the history.")
            self._end_process(lines)
        return result

    def _end_process(self, lines):
        """Raise errors.Interrupted with these sentences where a signal asked the process to end."""
        if self._signals.number is not None:
            # What ended a change is among its errors already.
            raise errors.Interrupted(self._signals.number, " ".join(dict.fromkeys([self._asked_to_end(), *lines])))

    def _asked_to_end(self):
        return f"The run was asked to end ({self._signals.words})."

    def _refuse_to_begin(self):
        """A signal that came before anything was begun ends the process before anything is."""
        self._end_process(["Nothing was begun."])

    def _apply_locked(self, targets):
        begun = time.monotonic()
        self._refuse_if_superseded(targets)
        interrupted_one, earlier = self._recover(targets)
        try:
            self._refuse_to_begin()
            wishes = {t.gpu.address: t.settings["difference"] for t in targets if "difference" in t.settings}
            targets = self._planner.settled(targets, interrupted_one)
            plan = self._planner.planned(targets)
            entry = self._entry(plan, targets, wishes, interrupted_one)
            if not plan.empty:
                self._journal.begin(entry, goes_on=interrupted_one is not None)
        except (errors.GpuSliceError, errors.Interrupted) as err:
            raise _after(err, earlier) from err
        result = replace(earlier, plan=plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        gpus = {t.gpu.address: t.gpu for t in targets}
        if not plan.empty:
            self._change(Change(plan, targets, gpus, entry, result))
        elif interrupted_one:
            change = Change(plan, targets, gpus, interrupted_one, result)
            change.verified = {p.gpu: p.before for p in plan.gpus if p.gpu in interrupted_one.before and not p.waits}
            self._end(change, "applied")
        if interrupted_one:
            became = "it is finished now" if result.ok else "this run went on with it"
            result.warnings.insert(0, f"{interrupted.words(interrupted_one)}; {became}.")
        result.seconds = round(time.monotonic() - begun, 2)
        return result

    def _refuse_if_superseded(self, targets):
        """Who undoes "the last change", or finishes an interrupted one, does not mean one that came since."""
        known = {target.newest for target in targets if getattr(target, "newest", None) is not None}
        newest = self._journal.upcoming() - 1 if known else None
        if known - {newest}:
            raise errors.ForeignChange(
                f"Another run made generation {newest} meanwhile, and what was asked for goes by the history before it. "
                "Nothing was changed.",
                todo="Look at 'salt-call gpu_slicing.history', then run again.",
            )

    def _entry(self, plan, targets, wishes, earlier):
        """The record of a change; ``earlier`` is the one of the interrupted attempt that it goes on with, None for none."""
        before = {**{p.gpu: p.before for p in plan.changing}, **(earlier.before if earlier else {})}
        pauses = [["unit", name] for name in plan.stops] + [["kernel module", name] for name in plan.unloads]
        return Entry(
            time=self._host.now(),
            who=self._options.who,
            jid=self._options.jid,
            pid=os.getpid(),
            boot_id=self._host.boot_id(),
            plan=plan.as_dict(),
            before=before,
            goal={t.gpu.address: t.settings for t in targets if t.gpu.address in before},
            wishes={address: wish for address, wish in wishes.items() if address in before},
            techniques={p.gpu: p.technique for p in plan.gpus if p.gpu in before},
            pauses=pauses + [pause for pause in (earlier.pauses if earlier else []) if pause not in pauses],
            earlier=[asdict(step) for _, step in earlier.begun()] if earlier else [],
            groups={**(earlier.groups if earlier else {}), **{p.gpu: p.group for p in plan.changing if p.group}},
        )

    def _change(self, change):
        """
        Carry out a journalled plan, verify it, and put back what failed.

        Whatever goes wrong here, also what nobody thought of, ends in hardware that was put back and a record that is closed, or
        in one that says what is left.
        """
        try:
            self._carry_out(change)
        except Exception as err:
            change.failed[ALL] = caught(err)
        if change.cut_short:
            change.failed[ALL] = errors.StepFailed(self._asked_to_end())
        outcome = "applied"
        if change.failed:
            try:
                outcome = self._put_back(change)
            except Exception as err:
                outcome = "left"
                change.left = dict.fromkeys(change.entry.before, caught(err))
                change.result.errors += [*map(str, change.failed.values()), f"{caught(err)} {interrupted.WHAT_TO_DO}"]
        self._surely(change.result, self._accept, change)
        self._end(change, outcome)

    @staticmethod
    def _surely(result, work, *args):
        """
        Do one part of what ends a change. Whatever goes wrong in it is told in the result, and keeps nothing that comes after it
        from being done: the units that were stopped are started, and the record is closed. Returns whether it went well.
        """
        try:
            work(*args)
        except Exception as err:
            result.errors.append(str(caught(err)))
            return False
        return True

    def _carry_out(self, change):
        halt = Halt(change.group, self._options.on_failure == "host", self._signals)
        self._runner.pause(change, halt)
        failed, change.unmet = self._runner.execute(change.plan.changing, change.gpus, halt, change.entry)
        change.failed.update({ALL if isinstance(err, errors.StateDirUnusable) else gpu: err for gpu, err in failed.items()})
        change.cut_short = halt.cut_short
        if not change.cut_short:
            change.failed.update(self._verify(change))

    def _accept(self, change):
        """What holds for the GPUs that keep their change: reboots that they wait for, and their health."""
        kept = self._kept(change)
        # A GPU that would have waited for a reboot is put back with its group, so nothing waits there.
        change.unmet = {gpu: why for gpu, why in change.unmet.items() if gpu in kept}
        for gpu, why in change.unmet.items():
            self._memory.note_reboot(gpu, why, change.result)
        change.result.reboot += [gpu for gpu in change.unmet if gpu not in change.result.reboot]
        put_back = set(change.entry.before) - set(kept)
        self._memory.tidy([made for made in change.plan.gpus if made.gpu not in put_back], change.result.reboot)
        change.result.errors += self._health_after([made for made in change.plan.changing if made.gpu in kept], change.gpus)

    def _kept(self, change):
        """PCI addresses of the GPUs that keep their change, whatever became of the others."""
        put_back = self._put_back_of(change)
        return [gpu for gpu in change.entry.before if gpu not in put_back]

    def _put_back_of(self, change):
        """PCI addresses of the GPUs that are put back, as ``on_failure`` says."""
        return change.affected(self._options.on_failure == "host")

    def _end(self, change, outcome):
        """Start what was stopped, write down what a boot brings back, close the journal and write the history."""
        entry, result = change.entry, change.result
        after = self._undo.layouts(entry, change.gpus)
        self._surely(result, self._note_changes, result, entry, change.gpus, entry.before, after)
        stopped = self._runner.resume(entry)
        result.errors += [*stopped, *self._changed_after(change, after)]
        self._surely(result, self._remember, change, after, outcome)
        if outcome == "left":
            closed = self._surely(result, self._journal.begin, _narrowed(entry, change.left, bool(stopped)), True)
        else:
            closed = self._surely(result, self._journal.end)
        if not closed:
            result.errors.append("Until then the next run takes this change for an interrupted one.")
        self._record(result, entry.generation(outcome, result.errors, after=after, reboot=result.reboot))

    def _remember(self, change, after, outcome):
        """Note what a boot brings back."""
        kept = self._kept(change)
        others = {gpu: one for gpu, one in after.items() if gpu not in kept}
        put_back = {gpu: one for gpu, one in others.items() if self._undo.is_as_before(change.entry, change.gpus, gpu, one)}
        self._memory.remember(change, kept, put_back, after, outcome)

    def _changed_after(self, change, after):
        """Sentences on GPUs that somebody else changed after they were verified; these do not count as verified any more."""
        found = []
        for gpu, layout in list(change.verified.items()):
            if gpu in after and not same(after[gpu], layout):
                del change.verified[gpu]
                words = self._tools.get(change.entry.techniques[gpu]).words
                now = after[gpu]["error"] if "error" in after[gpu] else f"it has {words(after[gpu])}"
                what = f"It was verified to have {words(layout)}, and when it was read again a moment later {now}."
                todo = "Find out which tool manages it besides Salt, then run again."
                found.append(str(errors.ForeignChange(what, gpu, todo)))
        return found

    def _record(self, result, generation):
        try:
            result.generation = self._journal.record(generation)
        except Exception as err:
            # The hardware is in a known condition and has been told of: only the memory of it is missing.
            result.warnings.append(str(caught(err)))

    # -- verifying -----------------------------------------------------------------------------------------------
    def _verify(self, change):
        """
        Read the changed GPUs again, but for those that failed or wait for a reboot, and plan anew: a plan with steps is a
        difference. Returns errors by GPU.
        """
        changed = {p.gpu for p in change.plan.changing} - set(change.unmet) - set(self._put_back_of(change))
        failed = {}
        for target in change.targets:
            address = target.gpu.address
            if target.technique is None or address not in changed:
                continue
            err, layout = self._verify_one(target)
            if not err:
                change.verified[address] = layout
            elif self._options.validation:
                failed[address] = err
            else:
                change.result.verified = False
                change.result.warnings.append(str(err))
        return failed

    def _verify_one(self, target):
        """(error or None, the layout that was read and is as wanted)."""
        technique = self._tools.get(target.technique)
        try:
            state = technique.observe(target.gpu)
            left = technique.plan(target.gpu, state, target.settings, self._options.rules()._replace(force=True))
        except Exception as err:
            return caught(err, target.gpu.address), None
        if not left.steps:
            return None, left.before
        err = errors.ValidationFailed(
            "After the change the GPU was read again and is not as wanted: "
            f"it has {technique.words(left.before)}, wanted is {technique.words(left.after)}.",
            target.gpu.address,
            "See 'dmesg' for the driver's own words.",
        )
        return err, None

    def _health_after(self, plans, gpus):
        if not plans or not self._options.health_check:
            return []
        # Here, so that a run without a change does not load it.
        from gpuslice.health import board

        found = []
        for made in plans:
            try:
                reasons = board.refusing(self._host, self._tools.sessions, gpus[made.gpu])
            except Exception as err:
                reasons = [str(caught(err, made.gpu)).rstrip(".")]
            found += [f"GPU {made.gpu} is not healthy after the change: {reason}." for reason in reasons]
        return found

    def _note_changes(self, result, entry, gpus, before, after):
        """Add to a result what became of the GPUs, as users see it; what an earlier part of the run found stays the ``old``."""
        for gpu, now in after.items():
            if gpu not in result.changes and self._undo.are_same(entry.techniques[gpu], gpus.get(gpu), before[gpu], now):
                continue
            shown = self._tools.get(entry.techniques[gpu]).shown
            old = result.changes.get(gpu, {}).get("old") or _shown(shown, before[gpu])
            result.changes[gpu] = {"old": old, "new": _shown(shown, now)}

    # -- putting back --------------------------------------------------------------------------------------------
    def _put_back(self, change):
        """Undo a change where it failed. Returns how it ended; ``change.left`` is what could not be undone."""
        entry, result = change.entry, change.result
        for err in change.failed.values():
            self._runner.tell(f"failed, putting back what was done: {err}")
        affected = self._put_back_of(change)
        # What was found as wanted there goes again, by our own hand.
        change.verified = {gpu: layout for gpu, layout in change.verified.items() if gpu not in affected}
        begun = {change.group(gpu) for gpu, _ in entry.begun()}
        layouts = {gpu: entry.before[gpu] for gpu in affected if change.group(gpu) in begun}
        change.left = left = self._undo.restore(entry, layouts, change.gpus)
        result.errors += map(str, change.failed.values())
        gone = [step.words for gpu, step in entry.begun() if gpu in affected and not step.undo]
        if gone:
            result.errors.append(f"This can't be undone: {'; '.join(gone)}.")
        kept = len(entry.before) - len(affected)
        if not left:
            result.errors.append(_undone_words(affected, kept, bool(gone)))
            return "partly applied" if kept else "rolled back"
        result.errors += [self._undo.what_is_left(gpu, err, entry) for gpu, err in left.items()]
        if any(not isinstance(err, _HOPELESS) for err in left.values()):
            return "left"
        return "partly applied" if kept else "rolled back as far as possible"

    # -- after a crash -------------------------------------------------------------------------------------------
    def _recover(self, targets):
        """
        Deal with a change that did not end. When the same is wanted now, it is finished: the entry is returned, so that a failure
        still goes back to where the first attempt began. Otherwise it is undone.

        :return: (entry to go on with or None, :class:`Result` with what was done). Raises errors.RollbackFailed.
        """
        entry = self._journal.unfinished()
        if entry is None:
            return None, Result(Plan())
        self._planner.refuse_mistakes(targets, entry)
        if self._planner.can_finish(targets, entry):
            return entry, Result(Plan())
        gpus = {t.gpu.address: t.gpu for t in targets}
        return None, self._undo_interrupted(entry, {**self._others(entry, gpus), **gpus})

    def recover(self, gpus):
        """
        Undo the interrupted change of this host.

        :param gpus: the GPUs of the host. :return: :class:`Result`, with an empty plan where there was none to undo.
        :raises errors.RollbackFailed: something could not be undone; it says what.
        """

        def work():
            entry = self._journal.unfinished()
            return self._undo_interrupted(entry, {gpu.address: gpu for gpu in gpus}) if entry else Result(Plan())

        return self._under_lock(work)

    def recovery(self, gpus):
        """The plan of :meth:`recover`."""
        entry = self._journal.unfinished()
        if entry is None:
            return Plan()
        by_address = {gpu.address: gpu for gpu in gpus}
        plans, blocked = [], []
        for address, layout in entry.before.items():
            try:
                plans.append(self._undo.plan_restore(entry, address, layout, by_address, self._rules_of_undo(entry)))
            except errors.GpuSliceError as err:
                blocked.append((address, str(err)))
        started = [f"The {kind} {name} is started again." for kind, name in entry.pauses]
        return Plan(tuple(plans), blocked=tuple(blocked), notes=(f"{interrupted.words(entry)}; this undoes it.", *started))

    def _undo_interrupted(self, entry, gpus):
        """
        Undo a change that did not end, as a change with a generation of its own. Returns :class:`Result`.

        :raises errors.RollbackFailed: something could not be undone.
        """
        told = interrupted.words(entry)
        self._runner.tell(f"{told}; it is undone first")
        found = self._undo.layouts(entry, gpus)
        entry = self._paused_for_undo(entry, gpus)
        left = self._undo.restore(entry, entry.before, gpus)
        started = self._runner.resume(entry)
        lines = [self._undo.what_is_left(gpu, err, entry) for gpu, err in left.items()]
        if any(not isinstance(err, _HOPELESS) for err in left.values()):
            raise errors.RollbackFailed(
                f"{told} and could not be undone. {' '.join([*lines, *started])}", todo="Mend that by hand, then run again."
            )
        after = self._undo.layouts(entry, gpus)
        restored = {gpu: layout for gpu, layout in entry.before.items() if gpu not in left}
        noted = self._memory.note_verified(self._memory.undone(entry.techniques, restored, gpus))
        try:
            self._journal.end()
        except errors.StateDirUnusable as err:
            raise errors.with_more(err, f"{told}; it was undone, and until then the next run takes it for interrupted.") from err
        result = Result(Plan(), undone=True)
        self._note_changes(result, entry, gpus, found, after)
        by_us = {"time": self._host.now(), "who": self._options.who, "jid": self._options.jid}
        self._record(result, entry.generation(UNDID, [*lines, *started], **by_us, before=found, after=after, reboot=[]))
        number = f", generation {result.generation}" if result.generation else ""
        result.warnings = [*noted, f"{told}; it was undone{number}.", *started, *lines, *result.warnings]
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
        for address, layout in entry.before.items():
            try:
                made = self._undo.plan_restore(entry, address, layout, gpus, self._rules_of_undo(entry))
            except Exception as err:
                # It is planned once more, and told of then.
                caught(err, address)
                continue
            stops += [["unit", name] for name in made.stops] + [["kernel module", name] for name in made.unloads]
        stops = [pause for number, pause in enumerate(stops) if pause not in stops[:number]]
        if new := [pause for pause in stops if pause not in entry.pauses]:
            steps = [asdict(step) for _, step in entry.begun()]
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

    def _others(self, entry, gpus):
        """GPUs of an interrupted change that the present request does not reach."""
        if all(address in gpus for address in entry.before):
            return {}
        return {gpu.address: gpu for gpu in discovery.discover(self._host)}


def _shown(shown, layout):
    """A layout as users see it, or why it could not be read."""
    return layout if "error" in layout else shown(layout)


def _undone_words(affected, kept, partly):
    """A sentence on what was undone of a change that failed; ``kept`` counts the GPUs that keep theirs."""
    if kept:
        many = f"{kept} other GPUs of this change keep theirs" if kept > 1 else "The other GPU of this change keeps its own"
        return f"What was done on {', '.join(affected)} has been undone. {many}."
    return "Everything else that was done has been undone." if partly else _UNDONE


def _after(err, earlier):
    """The same error, with what had been done before it."""
    if not earlier.warnings:
        return err
    told = " ".join(earlier.warnings)
    if isinstance(err, errors.Interrupted):
        return errors.Interrupted(err.number, f"{err.what} Before that: {told}")
    return errors.with_more(err, f"Before that: {told}")


def _waiting(plan):
    return [made.gpu for made in plan.gpus if made.waits]


def _narrowed(entry, left, keep_pauses):
    """The record of a change that ended but for what could not be undone on the GPUs ``left``."""
    return replace(
        entry,
        before={gpu: layout for gpu, layout in entry.before.items() if gpu in left},
        goal={gpu: settings for gpu, settings in entry.goal.items() if gpu in left},
        wishes={gpu: wish for gpu, wish in entry.wishes.items() if gpu in left},
        techniques={gpu: name for gpu, name in entry.techniques.items() if gpu in left},
        earlier=[asdict(step) for gpu, step in entry.begun() if gpu in left],
        steps=[],
        pauses=entry.pauses if keep_pauses else [],
    )
