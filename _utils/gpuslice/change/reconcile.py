"""
Bring a host to its targets: lock -> observe -> plan -> check -> journal -> apply -> verify -> (roll back).

The layers are carried out from the silicon up: each is planned for certain and verified before the one above it begins. A GPU
changes whole or not at all, and so do GPUs that can only change together (``Part.group``): a step that fails puts them back to
where they were, from the top layer down. The other GPUs keep their change, unless ``on_failure`` is ``host``. What a crash leaves
behind is finished by the next run that wants the same, and undone by any other that changes GPUs.
"""

import os
import time
from dataclasses import asdict
from dataclasses import replace
from functools import cached_property

from gpuslice import errors
from gpuslice import kinds
from gpuslice.change.context import ALL
from gpuslice.change.context import Change
from gpuslice.change.context import Halt
from gpuslice.change.context import Result
from gpuslice.change.context import caught
from gpuslice.change.memory import Memory
from gpuslice.change.planner import Planner
from gpuslice.change.signals import Signals
from gpuslice.host.base import OWED
from gpuslice.plan import Plan
from gpuslice.records import interrupted
from gpuslice.records import lock
from gpuslice.records.journal import Entry
from gpuslice.records.journal import Journal
from gpuslice.records.reboot import RebootLedger
from gpuslice.rules import Options

_UNDONE = "Everything that was done has been undone; the host is as it was."


class Reconciler:
    """One request on one host; it is asked for targets, as :class:`gpuslice.model.Target`."""

    def __init__(self, host, toolbox, options=None):
        self._host = host
        self._tools = toolbox
        self._options = options or Options()
        self._journal = Journal(host)
        self._ledger = RebootLedger(host)
        self._signals = Signals()
        self._planner = Planner(host, toolbox, self._options, self._journal, self._ledger)
        self._memory = Memory(host, self._options, self._ledger)

    # What only a change needs is loaded for a change: a host that is already right costs one look.
    @cached_property
    def _runner(self):
        from gpuslice.change.runner import Runner

        return Runner(self._host, self._tools, self._options, self._journal)

    @cached_property
    def _undo(self):
        from gpuslice.change.undo import Undo

        return Undo(self._tools, self._runner, self._planner)

    @cached_property
    def _verifier(self):
        from gpuslice.change.verify import Verifier

        return Verifier(self._tools, self._options, self._planner)

    @cached_property
    def _recovery(self):
        from gpuslice.change.recovery import Recovery

        return Recovery(self._host, self._options, self._journal, self._runner, self._undo, self._memory)

    def plan(self, targets):
        """The plan for these targets, see :meth:`gpuslice.change.planner.Planner.plan`."""
        return self._planner.plan(targets)

    def works(self, targets):
        """What is there now, see :meth:`gpuslice.change.planner.Planner.works`."""
        return self._planner.works(targets)

    def plan_each(self, targets):
        """Key -> part or error, see :meth:`gpuslice.change.planner.Planner.each`."""
        return self._planner.each(targets)

    @property
    def may_disrupt(self):
        """Whether what disrupts those who use this host may be begun now."""
        return self._planner.may_disrupt

    # -- changing ------------------------------------------------------------------------------------------------
    def apply(self, targets):
        """
        Bring the host to the targets. Returns :class:`Result`; raises an error of gpuslice.errors when nothing was begun, and
        errors.Interrupted when a signal asked the process to end, once the change was ended.

        A host that is already right costs one look: no lock is taken and nothing is written.
        """
        targets = list(targets)
        # By hand nothing is run around a change.
        owes = not self._options.by_hand and self._options.strategy != "skip" and self._host.has_record(OWED)
        result = self._applied(targets)
        if not owes or not self._host.has_record(OWED) or not any(target.technique for target in targets):
            return result
        try:
            return self._under_lock(lambda: self._again(result))
        except errors.Interrupted:
            raise
        except errors.GpuSliceError as err:
            if result.generation is None:
                raise
            # What was changed is to be told all the same.
            result.errors.append(str(err))
            return result

    def _again(self, result):
        """
        Run again what failed after an earlier change: a node that is still to be given back to its scheduler. Not where this run
        left something half done.
        """
        if self._journal.unfinished():
            return result
        failed, told = self._runner.hooks.again()
        result.errors += failed
        result.warnings += told
        return result

    def _applied(self, targets):
        """:meth:`apply`, but for what an earlier change owes."""
        if self._options.strategy == "skip":
            plan = self._planner.plan(targets)
            skipped = [] if plan.empty else ["apply_strategy is skip: nothing was changed, though a change is wanted."]
            return Result(plan, warnings=skipped, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        if not self._journal.unfinished():
            # Not by the journal: one that another run began since is not an interrupted one.
            plan = self._planner.plan(self._planner.settled(targets))
            if plan.empty and not plan.freeable and not self._journal.unfinished():
                self._memory.tidy(plan.parts, _waiting(plan))
                self._memory.remember_found(plan)
                return Result(plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan), found=plan)
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
            wishes = {t.key: t.wish for t in targets if t.wish}
            targets = self._planner.settled(targets, interrupted_one)
            plan, met = self._planner.met(targets)
            # Where users may go first it is planned again when they did.
            targets = targets if plan.freeable else met
            entry = self._entry(plan, targets, wishes, interrupted_one)
            if not plan.empty or plan.freeable:
                self._memory.history.check()
                self._memory.note_first(entry, {t.gpu.address: t.gpu for t in targets})
                self._journal.begin(entry, goes_on=interrupted_one is not None)
        except (errors.GpuSliceError, errors.Interrupted) as err:
            raise _after(err, earlier) from err
        result = replace(earlier, plan=plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        gpus, whole = {t.gpu.address: t.gpu for t in targets}, self._options.on_failure == "host"
        if not plan.empty or plan.freeable:
            self._change(Change(plan, targets, gpus, entry, result, whole))
        elif interrupted_one:
            change = Change(plan, targets, gpus, interrupted_one, result, whole)
            change.verified = {p.key: p.before for p in plan.parts if p.key in interrupted_one.before and not p.waits}
            self._runner.telling.begin(self._memory.upcoming(), interrupted.describe(interrupted_one), plan)
            self._end(change, "applied")
        if interrupted_one:
            became = "it is finished now" if result.ok else "this run went on with it"
            result.warnings.insert(0, f"{interrupted.describe(interrupted_one)}; {became}.")
        result.seconds = round(time.monotonic() - begun, 2)
        return result

    def _refuse_if_superseded(self, targets):
        """Who undoes "the last change", or finishes an interrupted one, does not mean one that came since."""
        known = {target.newest for target in targets if target.newest is not None}
        newest = self._memory.history.upcoming() - 1 if known else None
        if known - {newest}:
            raise errors.ForeignChange(
                f"Another run made generation {newest} meanwhile, and what was asked for goes by the history before it. "
                "Nothing was changed.",
                todo="Look at 'salt-call gpu_slicing.history', then run again.",
            )

    def _entry(self, plan, targets, wishes, earlier):
        """The record of a change; ``earlier`` is the one of the interrupted attempt that it goes on with, None for none."""
        standing = self._planner.standing_on(plan, targets)
        # Who is handed slices may have others once what is below was put back, whether anything of that was planned or not.
        touched = plan.parts if plan.changing else ()
        # A change below may end what is planned on a forecast, also where nothing is to be done about it by now.
        own = {p.key: p.before for p in touched if p.steps or p.hands_out or p.forecast}
        before = {**standing, **own, **self._held(plan, targets), **(earlier.before if earlier else {})}
        covered = {p.key: list(p.addresses) for p in plan.parts if p.key in before}
        return Entry(
            time=self._host.now(),
            who=self._options.who,
            jid=self._options.jid,
            pid=os.getpid(),
            boot_id=self._host.boot_id(),
            plan=plan.as_dict(),
            before=before,
            goal={t.key: t.settings for t in targets if t.key in before},
            wishes={key: wish for key, wish in wishes.items() if key in before},
            addresses={**(earlier.addresses if earlier else {}), **covered},
            pauses=plan.pauses + [pause for pause in (earlier.pauses if earlier else []) if pause not in plan.pauses],
            earlier=[(key, asdict(step)) for key, step in earlier.begun()] if earlier else [],
            groups={**(earlier.groups if earlier else {}), **{p.key: p.group for p in plan.changing if p.group}},
            after_hooks=self._after_hooks(earlier, plan),
        )

    def _held(self, plan, targets):
        """Key -> layout of what is in use, of the GPUs whose users may go by what is run before."""
        found = {}
        for target in targets:
            if target.technique and not target.key.hands_out and target.gpu.address in plan.freeable:
                technique = self._tools.get(target.technique)
                found[target.key] = technique.layout(technique.observe(target.gpu))
        return found

    def _after_hooks(self, earlier, plan):
        """What runs when it is over, that of the interrupted attempt included: what came before that had run."""
        left = earlier.after_hooks if earlier else ()
        if not self._options.after:
            return list(left)
        own = self._runner.hooks.applying(self._options.after, plan)
        return [*own, *(hook for hook in left if hook not in own)]

    def _change(self, change):
        """
        Carry out a journalled plan, verify it, and put back what failed.

        Whatever goes wrong here, also what nobody thought of, ends in hardware that was put back and a record that is closed, or
        in one that says what is left.
        """
        self._runner.telling.begin(self._memory.upcoming(), change.plan.summary(), change.plan)
        self._memory.note_signs(list(change.gpus.values()), self._tools.sessions)
        try:
            if refusal := self._before(change):
                change.failed[ALL], change.refused = refusal, not change.entry.earlier
            else:
                if change.plan.freeable:
                    self._plan_freed(change)
                self._carry_out(change)
        except Exception as err:
            change.failed[ALL] = caught(err)
        if change.cut_short:
            change.failed[ALL] = errors.StepFailed(self._asked_to_end())
        # All that was to be done may have been what is still in use.
        outcome = "rolled back" if change.plan.empty else "applied"
        if change.failed:
            try:
                outcome = self._put_back(change)
            except Exception as err:
                outcome = "left"
                change.left = dict.fromkeys(change.entry.before, caught(err))
                change.result.errors += [*map(str, change.failed.values()), f"{caught(err)} {interrupted.WHAT_TO_DO}"]
        self._surely(change.result, self._accept, change)
        self._end(change, outcome)
        if change.result.ok and not change.result.reboot and all(part.key in change.verified for part in change.plan.changing):
            parts = tuple(change.found.get(part.key, part) for part in change.plan.parts)
            # What was run around the change is over, and does not run once more for what is as wanted.
            change.result.found = replace(change.plan, parts=parts, before=(), after=(), freeable=())

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

    def _before(self, change):
        """Run what the site has run before a change. Returns None, or the error that stops it."""
        if not self._options.before:
            return None
        hooks = self._runner.hooks.applying(self._options.before, change.plan)
        return self._runner.hooks.before(hooks, change.entry.gpus, lambda: self._signals.number is not None)

    def _plan_freed(self, change):
        """Plan again: who used GPUs may have gone by what was run before. Who is still there is left alone or waited for."""
        self._tools.release()
        plan, change.targets = self._planner.met(change.targets)
        change.plan = change.result.plan = plan = replace(plan, freeable=())
        change.result.errors = [why for _, why in plan.blocked]
        self._amend(change, plan.parts, [pause for pause in plan.pauses if pause not in change.entry.pauses])

    def _carry_out(self, change):
        halt = Halt(change.group, change.whole, self._signals)
        # By what is there before it: what functions had as their addresses no device tells once they are gone.
        change.losses = self._planner.losses(change.plan, change.targets)
        self._runner.measure("before")
        self._runner.pause(change, halt, change.entry.pauses)
        for layer in sorted({part.layer for part in change.plan.parts}):
            if layer >= kinds.HAND_OUT and (change.failed or halt.cut_short):
                # It is done when what failed was put back, by what there is then.
                break
            self._plan_for_certain(change, layer, halt)
            parts = [part for part in change.plan.changing if part.layer == layer and part.key not in change.unmet]
            failed, unmet = self._runner.execute(parts, change.gpus, halt, change.entry)
            change.unmet.update(unmet)
            change.failed.update({ALL if isinstance(err, errors.StateDirUnusable) else key: err for key, err in failed.items()})
            if not halt.cut_short:
                self._verifier.layer(change, parts, halt)
            if layer >= kinds.HAND_OUT and change.failed:
                # All or nothing, to the top: slices that do not reach their users are of no use to anybody.
                change.whole = True
        change.cut_short = halt.cut_short

    def _plan_for_certain(self, change, layer, halt):
        """
        Plan the parts of a layer anew that were planned on a forecast, now that what they stand on is there. The record tells the
        new plan before anything of it is begun. What can't be planned any more has failed.
        """
        old = [part for part in change.plan.parts if part.layer == layer and part.forecast and not halt.at(part.key)]
        if not old:
            return
        below = [part for part in change.plan.parts if part.layer < layer]
        waiting = {part.gpu: change.unmet[part.key] for part in below if part.key in change.unmet}
        change.unmet.update({part.key: waiting[part.gpu] for part in old if part.gpu in waiting})
        keys = {part.key for part in old if part.gpu not in waiting}
        new, failed = self._planner.again([target for target in change.targets if target.key in keys], layer, below)
        change.failed.update(failed)
        for key in failed:
            halt.failed(key)
        by_key = {part.key: part for part in new}
        parts = tuple(by_key.get(part.key, part) for part in change.plan.parts)
        change.plan = self._planner.estimated(replace(change.plan, parts=parts))
        change.result.plan = change.plan
        pauses = [pause for pause in change.plan.pauses if pause not in change.entry.pauses]
        self._amend(change, new, pauses)
        self._runner.pause(change, halt, pauses)

    def _amend(self, change, parts, pauses):
        """Write a plan that became another one into the record; what was begun of the former one is told as earlier."""
        entry = change.entry
        known = {part.key for part in parts}
        change.entry = replace(
            entry,
            plan=change.plan.as_dict(),
            before={**entry.before, **{part.key: part.before for part in parts if part.steps and part.key not in entry.before}},
            goal={**entry.goal, **{target.key: target.settings for target in change.targets if target.key in known}},
            addresses={**entry.addresses, **{part.key: list(part.addresses) for part in parts}},
            pauses=[*entry.pauses, *pauses],
            groups={**entry.groups, **{part.key: part.group for part in parts if part.group}},
            earlier=[(key, asdict(step)) for key, step in entry.begun()],
            steps=[],
        )
        self._memory.note_first(change.entry, change.gpus)
        self._journal.begin(change.entry, goes_on=True)

    def _accept(self, change):
        """What holds for the GPUs that keep their change: reboots that they wait for, and their health."""
        kept = change.kept()
        # A GPU that would have waited for a reboot is put back with its group, so nothing waits there.
        change.unmet = {key: why for key, why in change.unmet.items() if key in kept}
        for key, why in change.unmet.items():
            for gpu in change.entry.covered(key):
                if gpu not in change.result.reboot:
                    self._memory.note_reboot(gpu, why, change.result)
                    change.result.reboot.append(gpu)
        put_back = set(change.entry.before) - set(kept)
        self._memory.tidy([part for part in change.plan.parts if part.key not in put_back], change.result.reboot)
        change.result.errors += self._verifier.health([part for part in change.plan.changing if part.key in kept], change.gpus)

    def _end(self, change, outcome):
        """Start what was stopped, write down what a boot brings back, close the journal and write the history."""
        entry, result = change.entry, change.result
        self._surely(result, self._set_again, change)
        self._runner.measure("after")
        after = self._undo.layouts(entry, change.gpus)
        wished = {key: layout for key, layout in after.items() if key in entry.goal}
        # What only stands on what was wished for and can't be read now is not told: nobody can go back to an error.
        after = {key: layout for key, layout in after.items() if key in wished or "error" not in layout}
        self._surely(result, self._undo.note_changes, result, entry, change.gpus, entry.before, wished)
        result.warnings += [line for tool in self._tools.made() for line in tool.remarks()]
        self._surely(result, self._tell_of_machines, change, after)
        stopped = self._runner.resume(entry, self._undo.ended(entry, after))
        result.errors += [*stopped, *self._verifier.changed_since(change, after)]
        if entry.after_hooks:
            # Before the record is closed: whoever finds it after a crash knows that they may not have run.
            result.errors += self._runner.hooks.after(entry.after_hooks, entry.gpus, outcome, change.refused)
        self._surely(result, self._remember, change, after, outcome)
        self._memory.note_health(entry, change.gpus, self._tools.made())
        if outcome == "left":
            closed = self._surely(result, self._journal.begin, _narrowed(entry, change.left, bool(stopped)), True)
        else:
            closed = self._surely(result, self._journal.end)
        if not closed:
            result.errors.append("Until then the next run takes this change for an interrupted one.")
        told = {"after": after, "reboot": result.reboot, "times": self._runner.times}
        self._memory.record(result, entry.generation(outcome, result.errors, **told))
        self._runner.telling.end(result, outcome, change)

    def _tell_of_machines(self, change, after):
        """Say which virtual machines will not start any more as they are, by what is there now."""
        if not change.losses:
            return
        from gpuslice.change import machines

        lost = machines.come_true(self._tools, change.losses, after, change.gpus)
        change.result.warnings += machines.warnings(self._host, lost)

    def _set_again(self, change):
        """Set what belongs to a board and is nobody's wish in this change as it was before: a reset below may have taken it."""
        entry = change.entry
        boards = [key for key in change.kept() if key not in entry.goal and kinds.known(key.technique).goes_with_all]
        left = self._undo.restore(entry, {key: entry.before[key] for key in boards}, change.gpus)
        change.result.warnings += [self._undo.what_is_left(key, err, entry) for key, err in left.items()]

    def _remember(self, change, after, outcome):
        """Note what a boot brings back."""
        kept = change.kept()
        others = {key: one for key, one in after.items() if key not in kept}
        put_back = {key: one for key, one in others.items() if self._undo.is_as_before(change.entry, change.gpus, key, one)}
        self._memory.remember(change, kept, put_back, after, outcome)

    # -- putting back --------------------------------------------------------------------------------------------
    def _put_back(self, change):
        """Undo a change where it failed. Returns how it ended; ``change.left`` is what could not be undone."""
        entry, result = change.entry, change.result
        if isinstance(change.failed.get(ALL), errors.HookFailed) and not entry.begun():
            result.errors += [*map(str, change.failed.values()), "Nothing was changed."]
            return "rolled back"
        for err in change.failed.values():
            self._runner.tell(f"failed, putting back what was done: {err}")
        affected = change.affected()
        # What was found as wanted there goes again, by our own hand.
        change.verified = {key: layout for key, layout in change.verified.items() if key not in affected}
        begun = {change.group(key) for key, _ in entry.begun()}
        handing = sorted((key for key in entry.before if key.hands_out), key=lambda key: key.layer)
        layouts = {key: entry.before[key] for key in affected if change.group(key) in begun and key not in handing}
        change.left = left = self._undo.restore(entry, layouts, change.gpus)
        for key in handing if entry.begun() else ():
            self._hand_out_again(change, key, key in affected)
        result.errors += map(str, change.failed.values())
        gone = [step.words for key, step in entry.begun() if key in affected and not step.undo]
        if gone:
            result.errors.append(f"This can't be undone: {'; '.join(gone)}.")
        gpus = list(dict.fromkeys(address for key in affected for address in entry.covered(key)))
        keeping = [key for key in change.kept() if not key.hands_out or self._undo.has_moved(entry, key, change.gpus)]
        kept = len({address for key in keeping for address in entry.covered(key)} - set(gpus))
        if not left:
            result.errors.append(_undone_words(gpus, kept, bool(gone)))
            return "partly applied" if kept else "rolled back"
        result.errors += [self._undo.what_is_left(key, err, entry) for key, err in left.items()]
        if self._undo.is_unfinished(left):
            return "left"
        return "partly applied" if kept else "rolled back as far as possible"

    def _hand_out_again(self, change, key, put_back):
        """
        What there is now, after some of it was put back, goes to those who had it; where this is not to be put back itself, since
        GPUs keep their change, to those whom that was for.
        """
        wanted = [target for target in change.targets if target.key == key]
        if not put_back and not self._undo.hand_out(change.entry, key, wanted[0].settings, change.gpus):
            return
        former = self._undo.former(change.entry, key, change.entry.before[key])
        if err := self._undo.hand_out(change.entry, key, former, change.gpus):
            change.left[key] = err

    # -- after a crash -------------------------------------------------------------------------------------------
    def recover(self, gpus):
        """
        Undo the interrupted change of this host.

        :param gpus: the GPUs of the host. :return: :class:`.context.Result`, with an empty plan where there was none to undo.
        :raises errors.RollbackFailed: something could not be undone; it says what.
        """
        return self._under_lock(lambda: self._recovery.undo_found(gpus))

    def recovery(self, gpus):
        """The plan of :meth:`recover`."""
        return self._recovery.plan(gpus)

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
        return None, self._recovery.undo(entry, {**self._recovery.others(entry, gpus), **gpus})


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
    before = " ".join(earlier.warnings)
    if isinstance(err, errors.Interrupted):
        return errors.Interrupted(err.number, f"{err.what} Before that: {before}")
    return errors.with_more(err, f"Before that: {before}")


def _waiting(plan):
    return list(dict.fromkeys(address for part in plan.parts if part.waits for address in part.addresses))


def _narrowed(entry, left, keep_pauses):
    """The record of a change that ended but for what could not be undone, ``left``."""
    return replace(
        entry,
        before={key: layout for key, layout in entry.before.items() if key in left},
        goal={key: settings for key, settings in entry.goal.items() if key in left},
        wishes={key: wish for key, wish in entry.wishes.items() if key in left},
        addresses={key: covered for key, covered in entry.addresses.items() if key in left},
        groups={key: group for key, group in entry.groups.items() if key in left},
        earlier=[(key, asdict(step)) for key, step in entry.begun() if key in left],
        steps=[],
        pauses=entry.pauses if keep_pauses else [],
    )
