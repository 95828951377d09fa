"""
Bring a host to its targets: lock -> observe -> plan -> check -> journal -> apply -> verify -> (roll back).

A GPU changes whole or not at all, and so do GPUs that can only change together (``GpuPlan.group``): a step that fails puts
them back to where they were. The other GPUs keep their change, unless ``on_failure`` is ``host``. What a crash leaves behind is
finished by the next run that wants the same, and undone by any other that changes GPUs.
"""

import json
import logging
import os
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from dataclasses import dataclass
from dataclasses import field
from dataclasses import replace

from gpuslice import errors
from gpuslice import interrupted
from gpuslice import lock
from gpuslice.attempts import Attempts
from gpuslice.context import ALL
from gpuslice.context import Change
from gpuslice.context import Halt
from gpuslice.interrupts import Interrupts
from gpuslice.journal import Entry
from gpuslice.journal import Journal
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.plan import SHAPE
from gpuslice.plan import Plan
from gpuslice.plan import Step
from gpuslice.reboot import RebootLedger
from gpuslice.techniques import Rules
from gpuslice.techniques import newcomers
from gpuslice.verified import Verified
from gpuslice.verified import entry as verified_entry

log = logging.getLogger(__name__)

_PAUSE = {"unit": ["systemctl", "stop"], "kernel module": ["modprobe", "-r"]}
_RESUME = {"unit": ["systemctl", "start"], "kernel module": ["modprobe"]}
_UNDONE = "Everything that was done has been undone; the host is as it was."
#: How the history calls the undoing of a change that did not end.
UNDID = "undid an interrupted change"
#: Mistakes of the one who asked: nothing is changed anywhere when one of them is met.
_MISTAKES = (errors.PolicyError, errors.ProfileMismatch, errors.Unsupported)
#: Conditions of one GPU: it is left alone and reported, the others go on. A GPU that was named and is not there is found out
#: before; here it is one that the bus still shows and its driver has lost.
_BLOCKED = (errors.ResourceConflict, errors.Unhealthy, errors.ModeChangePending, errors.DeviceNotFound)
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
    """

    plan: Plan
    changes: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    reboot: list = field(default_factory=list)
    seconds: float = 0.0
    generation: int | None = None
    verified: bool = True

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
        self._verified = Verified(host)
        self._attempts = Attempts(host)
        self._interrupts = Interrupts()
        self._writing = threading.Lock()

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, targets):
        """
        The plan for these targets. Raises an error that names every mistake; GPUs that are in use or ill are reported in
        ``Plan.blocked``.
        """
        targets = list(targets)
        made = self._planned(targets)
        return replace(made, notes=(*self._told_before(targets, made), *made.notes))

    def _planned(self, targets):
        """:meth:`plan` without what is told of other changes."""
        plans, blocked, mistakes = [], [], []
        if _differ(targets):
            targets = self._settled(targets, self._journal.unfinished())
        self._gather(targets)
        for target in targets:
            if target.technique is None:
                continue
            try:
                plans.append(self._plan_one(target))
            except _MISTAKES as err:
                mistakes.append(err)
            except _BLOCKED as err:
                blocked.append((target.gpu.address, str(err)))
        if mistakes:
            raise _together(mistakes)
        untouched = tuple(f"{t.gpu.address} {t.gpu.model}: left alone, {t.reason}" for t in targets if t.technique is None)
        # Where nobody named the technology, the plan says how it was chosen.
        chosen = tuple(f"{t.gpu.address} {t.gpu.model}: {t.reason}" for t in targets if getattr(t, "automatic", False))
        return Plan(tuple(plans), untouched, tuple(blocked), chosen)

    def _told_before(self, targets, plan):
        """Sentences on a change that did not end, and on what this request does about it before anything else."""
        entry = self._journal.unfinished()
        if entry is None:
            return ()
        if lock.is_held(self._host.state_dir):
            return ("Another change is going on on this host at this moment: what is planned here may change with it.",)
        told = f"{interrupted.words(entry)} on {', '.join(entry.before)}"
        if not self._deals_with_interrupted(targets):
            return (f"{told}; it is left as it is. {interrupted.TODO}",)
        if self._can_finish(targets, entry, plan):
            return (f"{told}; this run finishes it.",)
        reached = {t.gpu.address for t in targets if t.technique}
        others = [gpu for gpu in entry.before if gpu not in reached]
        more = f", also on {', '.join(others)}, which are not reached else" if others else ""
        return (f"{told}; this run undoes it first{more}. What follows is planned on what is there now.",)

    def _deals_with_interrupted(self, targets):
        """Whether a request deals with an interrupted change: one that may change nothing (strategy none or skip) does not."""
        return self._options.strategy != "skip" and any(t.technique for t in targets)

    def plan_each(self, targets):
        """
        PCI address -> the plan of each of these targets, or the error that says why there is none. One that can't be planned does
        not keep the others from it, as it does in :meth:`plan`.
        """
        self._gather(targets)
        found = {}
        for target in targets:
            try:
                found[target.gpu.address] = self._plan_one(target)
            except errors.GpuSliceError as err:
                found[target.gpu.address] = err
        return found

    def _settled(self, targets, entry=None):
        """
        The targets with what they come to now: a wish may be a difference to what is there (one instance more), which says what
        is wanted only under the lock, when nobody else changes the host.

        :param entry: an interrupted change: if it asked for the same, what that came to holds, or one wish would be met twice.
        """
        finishing = entry if entry and _asks_for_all(targets, entry) else None
        return [self._settle(target, finishing) if "difference" in target.settings else target for target in targets]

    def _settle(self, target, finishing):
        address, wish = target.gpu.address, target.settings["difference"]
        if finishing and address in finishing.wishes:
            return target._replace(settings=finishing.goal[address])
        technique = self._tools.get(target.technique)
        return target._replace(settings=technique.settle(target.gpu, technique.observe(target.gpu), wish))

    def _gather(self, targets):
        """Tell a technique whose GPUs can't change one by one what is wanted of all of them."""
        for tool in self._tools.made():
            # Who uses what is asked anew for each plan: while this run waited for the lock, others came.
            if forget := getattr(tool, "forget_users", None):
                forget()
        for name in dict.fromkeys(t.technique for t in targets if t.technique):
            if gather := getattr(self._tools.get(name), "gather", None):
                gather([(t.gpu, t.settings) for t in targets if t.technique == name])

    def _plan_one(self, target):
        technique = self._tools.get(target.technique)
        state = technique.observe(target.gpu)
        rules = self._options.rules(self._ledger.waiting(target.gpu.address))
        made = technique.plan(target.gpu, state, target.settings, rules)
        _refuse_silence(target, made)
        if made.steps and self._options.health_check and (reasons := technique.health(target.gpu)):
            raise errors.Unhealthy(
                f"A change is wanted, but the GPU is not healthy: {'; '.join(reasons)}.",
                target.gpu.address,
                "Mend that first, or set containers_gpu_state_management:health_check to false.",
            )
        return made

    # -- changing ------------------------------------------------------------------------------------------------
    def apply(self, targets):
        """
        Bring the host to the targets. Returns :class:`Result`; raises an error of gpuslice.errors when nothing was begun, and
        errors.Interrupted when a signal asked the process to end, once the change was ended.

        A host that is already right costs one look: no lock is taken and nothing is written.
        """
        targets = list(targets)
        if self._options.strategy == "skip":
            plan = self.plan(targets)
            skipped = [] if plan.empty else ["apply_strategy is skip: nothing was changed, though a change is wanted."]
            return Result(plan, warnings=skipped, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        if not self._journal.unfinished():
            # Not by the journal: one that another run began since is not an interrupted one.
            plan = self.plan(self._settled(targets))
            if plan.empty and not self._journal.unfinished():
                self._tidy(plan.gpus, _waiting(plan))
                self._remember_found(plan)
                return Result(plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        elif not self._deals_with_interrupted(targets):
            plan = self.plan(targets)
            return Result(plan, warnings=list(plan.notes))
        return self._under_lock(lambda: self._apply_locked(targets))

    def _under_lock(self, work):
        """
        Do ``work``, which returns a :class:`Result`, with the host's lock. A signal meanwhile lets it come to an end first.

        :raises errors.Interrupted: a signal asked the process to end; it says what was done until then.
        """
        with lock.held(self._host.state_dir, self._options.who, self._options.jid), self._interrupts:
            self._refuse_to_begin()
            result = work()
            if self._interrupts.number is None:
                return result
            lines = [*result.errors, *result.warnings]
            if result.ok and not result.plan.empty:
                lines.insert(0, "The change was at its end already and is made.")
            where = f"It is generation {result.generation} of the history." if result.generation else ""
            raise errors.Interrupted(self._interrupts.number, " ".join([self._asked_to_end(), *lines, where]).rstrip())

    def _asked_to_end(self):
        return f"The run was asked to end ({self._interrupts.words})."

    def _refuse_to_begin(self):
        """A signal that came before anything was begun ends the process before anything is."""
        if self._interrupts.number is not None:
            raise errors.Interrupted(self._interrupts.number, f"{self._asked_to_end()} Nothing was begun.")

    def _apply_locked(self, targets):
        begun = time.monotonic()
        interrupted_one, earlier = self._recover(targets)
        try:
            self._refuse_to_begin()
            wishes = {t.gpu.address: t.settings["difference"] for t in targets if "difference" in t.settings}
            targets = self._settled(targets, interrupted_one)
            plan = self._planned(targets)
        except (errors.GpuSliceError, errors.Interrupted) as err:
            raise _after(err, earlier) from err
        result = replace(earlier, plan=plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        gpus = {t.gpu.address: t.gpu for t in targets}
        if plan.empty:
            if interrupted_one:
                change = Change(plan, targets, gpus, interrupted_one, result)
                change.verified = {p.gpu: p.before for p in plan.gpus if p.gpu in interrupted_one.before and not p.waits}
                self._end(change, "applied")
            return result
        entry = self._entry(plan, targets, wishes, interrupted_one)
        self._journal.begin(entry)
        self._change(Change(plan, targets, gpus, entry, result))
        result.seconds = round(time.monotonic() - begun, 2)
        return result

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
            earlier=[asdict(step) for _, step in _begun(earlier)] if earlier else [],
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
            change.failed[ALL] = _caught(err)
        if change.cut_short:
            change.failed[ALL] = errors.StepFailed(self._asked_to_end())
        outcome = "applied"
        if change.failed:
            try:
                outcome = self._put_back(change)
            except Exception as err:
                outcome = "left"
                change.left = dict.fromkeys(change.entry.before, _caught(err))
                change.result.errors += [*map(str, change.failed.values()), f"{_caught(err)} {interrupted.TODO}"]
        self._accept(change)
        self._end(change, outcome)

    def _carry_out(self, change):
        halt = Halt(change.group, self._options.on_failure == "host", self._interrupts)
        self._pause(change, halt)
        failed, change.unmet = self._execute(change.plan.changing, change.gpus, halt, change.entry)
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
            self._note_reboot(gpu, why, change.result)
        change.result.reboot += [gpu for gpu in change.unmet if gpu not in change.result.reboot]
        put_back = set(change.entry.before) - set(kept)
        self._tidy([made for made in change.plan.gpus if made.gpu not in put_back], change.result.reboot)
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
        after = self._layouts(entry, change.gpus)
        self._note_changes(result, entry, change.gpus, entry.before, after)
        stopped = self._resume(entry)
        result.errors += [*stopped, *self._changed_after(change, after)]
        self._remember(change, after, outcome)
        try:
            if outcome == "left":
                self._journal.begin(_narrowed(entry, change.left, keep_pauses=bool(stopped)))
            else:
                self._journal.end()
        except errors.StateDirUnusable as err:
            result.errors.append(f"{err} Until then the next run takes this change for an interrupted one.")
        self._record(
            result,
            {
                "time": entry.time,
                "who": entry.who,
                "jid": entry.jid,
                "result": outcome,
                "errors": result.errors,
                "plan": entry.plan,
                "before": entry.before,
                "after": after,
                "techniques": entry.techniques,
                "reboot": result.reboot,
            },
        )

    def _changed_after(self, change, after):
        """Sentences on GPUs that somebody else changed after they were verified; these do not count as verified any more."""
        found = []
        for gpu, layout in list(change.verified.items()):
            if gpu in after and not _same(after[gpu], layout):
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
        except errors.StateDirUnusable as err:
            # The hardware is in a known condition and has been told of: only the memory of it is missing.
            result.warnings.append(str(err))

    def _tidy(self, plans, waiting):
        """GPUs that no longer wait are struck off the ledger, so that a later wait is not taken for the same one."""
        try:
            self._ledger.remove([made.gpu for made in plans if made.gpu not in waiting])
        except OSError as err:
            log.warning("the reboot ledger in %s can't be written: %s", self._host.state_dir, err.strerror)

    def _note_reboot(self, gpu, why, result):
        try:
            self._ledger.add(gpu, why)
        except OSError as err:
            result.warnings.append(
                f"The reboot that GPU {gpu} needs could not be noted in {self._host.state_dir}: {err.strerror}."
            )

    # -- what is stopped for a change ----------------------------------------------------------------------------
    def _pause(self, change, halt):
        """Stop units and unload modules that the plan needs. The GPUs for which one refused have failed."""
        for kind, name in change.entry.pauses:
            concerned = [made.gpu for made in change.plan.changing if name in (*made.stops, *made.unloads)]
            if concerned and all(halt.at(gpu) for gpu in concerned):
                continue
            self._tell(f"stopping {kind} {name}")
            if why := self._command([*_PAUSE[kind], name]):
                for gpu in concerned or change.entry.before:
                    change.failed[gpu] = errors.StepFailed(f"The {kind} {name} could not be stopped: {why}", gpu)
                    halt.failed(gpu)

    def _resume(self, entry):
        """Start again what was stopped, whatever became of the change. Returns a sentence for each that refused."""
        found = []
        for kind, name in reversed(entry.pauses):
            self._tell(f"starting {kind} {name}")
            queued = ["--no-block"] if kind == "unit" and not self._options.awaits_units else []
            if why := self._command([*_RESUME[kind], *queued, name]):
                found.append(f"The {kind} {name} was stopped for this change and could not be started again: {why}")
        return found

    def _command(self, argv):
        """Run a program; returns "" or why it failed."""
        try:
            done = self._host.run(argv)
        except Exception as err:
            return str(_caught(err))
        return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"

    # -- what a boot brings back ---------------------------------------------------------------------------------
    def _remember(self, change, after, outcome):
        """Note what was verified, before the change is closed: a crash in between must leave the one or the other record."""
        entry, result = change.entry, change.result
        kept = self._kept(change)
        noted = {}
        if kept or outcome == "applied":
            number = self._journal.upcoming()
            found = [p for p in result.plan.gpus if not p.steps and not p.waits and p.wanted]
            noted = {p.gpu: self._entry_of(p.gpu, p.technique, p.before, p) for p in found}
            for gpu in kept:
                awaits = entry.goal.get(gpu) if gpu in result.reboot else None
                if gpu in change.verified or (awaits and "error" not in after[gpu]):
                    noted[gpu] = self._entry_of(gpu, entry.techniques[gpu], after[gpu], change.gpus[gpu], number, awaits)
            result.warnings += self._clear_count(noted)
        others = {gpu: one for gpu, one in after.items() if gpu not in kept}
        put_back = {gpu: one for gpu, one in others.items() if self._is_as_before(entry, change.gpus, gpu, one)}
        noted.update(self._undone(entry.techniques, put_back, change.gpus))
        result.warnings += self._note_verified(noted)

    def _remember_found(self, plan):
        """A host that was found as wanted is verified too; one that is known as such already costs no lock and no write."""
        found = {p.gpu: self._entry_of(p.gpu, p.technique, p.before, p) for p in plan.gpus if not p.waits and p.wanted}
        try:
            if not self._verified.differs(found) and not self._attempts.counts(found):
                return
            with lock.held(self._host.state_dir, self._options.who, self._options.jid, patience=0):
                self._verified.note(found)
                self._attempts.succeeded(found)
        except (OSError, errors.GpuSliceError) as err:
            # Nobody asked for a change: who may only look, or comes while another is at work, is not refused for this.
            log.info("the verified layouts were not noted: %s", err)

    def _clear_count(self, gpus):
        """What a boot tried in vain on these GPUs counts no more. Returns a sentence when that could not be written."""
        try:
            self._attempts.succeeded(gpus)
        except errors.StateDirUnusable as err:
            return [str(err)]
        return []

    def _undone(self, techniques, layouts, gpus):
        """
        Entries for layouts that were put back, of the GPUs whose record tells the change that was undone: a crash came between
        record and journal. Any other record stays, for what it tells is still the last that was verified.
        """
        try:
            known = self._verified.entries()
        except errors.GpuSliceError:
            return {}
        number = self._journal.upcoming()
        return {
            gpu: self._entry_of(gpu, techniques[gpu], layout, gpus.get(gpu))
            for gpu, layout in layouts.items()
            if gpu in known and known[gpu]["generation"] == number
        }

    def _entry_of(self, address, technique, layout, gpu, generation=None, awaits=None):
        rules = self._options.rules_noted.get(address) or {
            "stop_units": list(self._options.stop_units),
            "unload_modules": list(self._options.unload_modules),
            "health_check": self._options.health_check,
        }
        model = getattr(gpu, "model", "")
        return verified_entry(technique, layout, self._host.now(), generation, model, awaits, rules)

    def _note_verified(self, entries):
        """Returns a sentence when it could not be written: the hardware is right all the same."""
        try:
            self._verified.note(entries)
        except (OSError, errors.StateDirUnusable) as err:
            why = getattr(err, "strerror", None) or err
            place = self._verified.path
            return [f"The verified layout could not be noted in {place}, so a boot would bring back an older one: {why}."]
        return []

    # -- executing -----------------------------------------------------------------------------------------------
    def _execute(self, plans, gpus, halt, entry=None):
        """
        Run the steps of these plans, phase by phase, all GPUs of a phase side by side.

        :param halt: :class:`Halt`, which says where no further step is begun.
        :param entry: the change in the journal: each step is written down first, and a GPU that is no longer what was planned
            on is refused. None for undoing, which goes by what is there and must also work on a full disk.
        :return: (errors by GPU, reasons by GPU that waits for a reboot).
        """
        failed, unmet = {}, {}
        for made in plans if entry else ():
            if not halt.at(made.gpu) and (err := self._changed_meanwhile(made, gpus[made.gpu])):
                failed[made.gpu] = err
                halt.failed(made.gpu)
        for phase in (PREPARE, RESET, SHAPE):
            work = [p for p in plans if p.gpu not in unmet and any(s.phase == phase for s in p.steps) and not halt.at(p.gpu)]
            if not work:
                continue
            if phase == RESET:
                self._tools.release()
            # Resets go one after the other with no session of ours open: one begun for a GPU would hold the next.
            for made, err in self._side_by_side(work, gpus, phase, entry, halt, 1 if phase == RESET else len(work)):
                if isinstance(err, errors.RebootNeeded):
                    unmet[made.gpu] = str(err)
                elif err:
                    failed[made.gpu] = err
        return failed, unmet

    def _side_by_side(self, work, gpus, phase, entry, halt, workers):
        """Run a phase of several plans in threads; progress is told by this thread, since Salt's event bus is not thread-safe."""
        if workers == 1:
            return [(made, self._run_phase(made, gpus[made.gpu], phase, entry, halt, self._tell)) for made in work]
        lines = queue.SimpleQueue()

        def one(made):
            try:
                return self._run_phase(made, gpus[made.gpu], phase, entry, halt, lines.put)
            finally:
                lines.put(None)

        futures, here = [], []
        with ThreadPoolExecutor(workers) as pool:
            for made in work:
                try:
                    futures.append((made, pool.submit(one, made)))
                except RuntimeError:
                    # The system has no thread left for it: one after the other it works as well.
                    here.append(made)
            ended = 0
            while ended < len(futures):
                line = lines.get()
                if line is None:
                    ended += 1
                else:
                    self._tell(line)
        done = [(made, future.result()) for made, future in futures]
        return done + [(made, self._run_phase(made, gpus[made.gpu], phase, entry, halt, self._tell)) for made in here]

    def _changed_meanwhile(self, made, gpu):
        """The error for a GPU that is no longer what was planned on, None if it is: another tool ignores our lock."""
        technique = self._tools.get(made.technique)
        try:
            now = technique.layout(technique.observe(gpu))
        except Exception as err:
            return _caught(err, gpu.address)
        if _same(now, made.before):
            return None
        return errors.ForeignChange(
            "Somebody else changed the GPU between plan and execution.",
            gpu.address,
            "Find out which tool manages it besides Salt, then run again.",
        )

    def _run_phase(self, made, gpu, phase, entry, halt, tell):
        technique = self._tools.get(made.technique)
        lookout = newcomers.Lookout(self._host, technique, gpu, made, entry)
        for number, step in enumerate(made.steps, 1):
            if step.phase != phase:
                continue
            if halt.at(made.gpu):
                return None
            try:
                lookout.before(number)
                if entry:
                    with self._writing:
                        self._journal.step(entry, gpu.address, number)
                tell(f"{gpu.address} step {number}/{len(made.steps)}: {step.words}")
                newcomers.carry_out(self._host, technique, gpu, step)
            except errors.RebootNeeded as err:
                return err
            except errors.GpuSliceError as err:
                # Steps that can't be written down are not this GPU's failure: none may be done any more.
                halt.failed(ALL if isinstance(err, errors.StateDirUnusable) else made.gpu)
                if entry and isinstance(err, errors.ForeignChange):
                    # What stands in its place is another tool's: undoing this step would destroy that.
                    with self._writing:
                        entry.steps.remove((gpu.address, number))
                return _step_failed(err, step, number, len(made.steps))
            except Exception as err:  # a bug of ours must not keep the other GPUs from being put back
                halt.failed(made.gpu)
                return _step_failed(_caught(err, step.gpu), step, number, len(made.steps))
        return None

    def _tell(self, line):
        log.info("GPU slicing: %s", line)
        if not self._options.progress:
            return
        try:
            self._options.progress(line)
        except Exception:
            # An event bus that fails must not fail the change that it is told of.
            log.warning("progress could not be told", exc_info=True)

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
            return _caught(err, target.gpu.address), None
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
        if not self._options.health_check:
            return []
        found = []
        for made in plans:
            try:
                reasons = self._tools.get(made.technique).health(gpus[made.gpu])
            except Exception as err:
                reasons = [str(_caught(err, made.gpu)).rstrip(".")]
            found += [f"GPU {made.gpu} is not healthy after the change: {reason}." for reason in reasons]
        return found

    def _layouts(self, entry, gpus):
        """Layout of each GPU of a change as the hardware has it now; the reason where it can't be read."""
        found = {}
        for address, name in entry.techniques.items():
            technique = self._tools.get(name)
            try:
                found[address] = technique.layout(technique.observe(_present(gpus, address)))
            except Exception as err:
                found[address] = {"error": str(_caught(err, address))}
        return found

    def _note_changes(self, result, entry, gpus, before, after):
        """Add to a result what became of the GPUs, as users see it; what an earlier part of the run found stays the ``old``."""
        for gpu, now in after.items():
            if gpu not in result.changes and self._are_same(entry.techniques[gpu], gpus.get(gpu), before[gpu], now):
                continue
            shown = self._tools.get(entry.techniques[gpu]).shown
            old = result.changes.get(gpu, {}).get("old") or _shown(shown, before[gpu])
            result.changes[gpu] = {"old": old, "new": _shown(shown, now)}

    # -- putting back --------------------------------------------------------------------------------------------
    def _put_back(self, change):
        """Undo a change where it failed. Returns how it ended; ``change.left`` is what could not be undone."""
        entry, result = change.entry, change.result
        for err in change.failed.values():
            self._tell(f"failed, putting back what was done: {err}")
        affected = self._put_back_of(change)
        begun = {change.group(gpu) for gpu, _ in _begun(entry)}
        layouts = {gpu: entry.before[gpu] for gpu in affected if change.group(gpu) in begun}
        change.left = left = self._restore(entry, layouts, change.gpus)
        result.errors += map(str, change.failed.values())
        gone = [step.words for gpu, step in _begun(entry) if gpu in affected and not step.undo]
        if gone:
            result.errors.append(f"This can't be undone: {'; '.join(gone)}.")
        kept = len(entry.before) - len(affected)
        if not left:
            result.errors.append(_undone_words(affected, kept, bool(gone)))
            return "partly applied" if kept else "rolled back"
        result.errors += [self._what_is_left(gpu, err, entry) for gpu, err in left.items()]
        if any(not isinstance(err, _HOPELESS) for err in left.values()):
            return "left"
        return "partly applied" if kept else "rolled back as far as possible"

    def _restore(self, entry, layouts, gpus):
        """Bring GPUs of a change back to earlier layouts. Returns the errors of those that could not be, by PCI address."""
        plans, left = [], {}
        self._tools.release()
        for address, layout in layouts.items():
            try:
                plans.append(self._plan_restore(entry, address, layout, gpus))
            except Exception as err:
                left[address] = _caught(err, address)
        # A GPU that can't be put back must not keep the others from it: each one runs on its own.
        for made in (p for p in plans if p.steps):
            failed, unmet = self._execute([made], gpus, Halt())
            left.update(failed)
            left.update({gpu: errors.RebootNeeded(why, gpu) for gpu, why in unmet.items()})
        for made in plans:
            if made.gpu not in left and (err := self._restored(entry, made.gpu, layouts[made.gpu], gpus)):
                left[made.gpu] = err
        return left

    def _plan_restore(self, entry, address, layout, gpus):
        gpu = _present(gpus, address)
        technique = self._tools.get(entry.techniques[address])
        begun = [step for one, step in _begun(entry) if one == address]
        return technique.plan(gpu, technique.observe(gpu), technique.settings_of(layout, begun))

    def _restored(self, entry, address, layout, gpus):
        """The error for a GPU that is not as it was before the change, None if it is."""
        technique = self._tools.get(entry.techniques[address])
        try:
            now = technique.layout(technique.observe(gpus[address]))
            if self._is_as_before(entry, gpus, address, now):
                return None
            left = self._plan_restore(entry, address, layout, gpus).steps
        except Exception as err:
            return _caught(err, address)
        if left:
            return errors.ValidationFailed(f"It has {technique.words(now)}.", address)
        return errors.ForeignChange(f"It has {technique.words(now)}: what another tool made meanwhile is not destroyed.", address)

    def _is_as_before(self, entry, gpus, address, now):
        """Whether a GPU has the layout that it had before a change."""
        return self._are_same(entry.techniques[address], gpus.get(address), entry.before[address], now)

    def _are_same(self, name, gpu, earlier, now):
        """Whether two layouts of a GPU are one, also where the driver calls the earlier one otherwise by now."""
        if _same(earlier, now):
            return True
        technique = self._tools.get(name)
        if gpu is None or "error" in earlier or "error" in now or not hasattr(technique, "translated"):
            return False
        try:
            return _same(now, technique.translated(gpu, earlier))
        except errors.GpuSliceError:
            return False

    def _what_is_left(self, gpu, err, entry):
        words = self._tools.get(entry.techniques[gpu]).words(entry.before[gpu])
        return f"GPU {gpu} could not be put back to {words}: {err}"

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
        self._refuse_mistakes(targets, entry)
        if self._can_finish(targets, entry):
            return entry, Result(Plan(), warnings=[f"{interrupted.words(entry)}; it is finished now."])
        gpus = {t.gpu.address: t.gpu for t in targets}
        return None, self._undo_interrupted(entry, {**self._others(entry, gpus), **gpus})

    def _refuse_mistakes(self, targets, entry):
        """A request that can't be meant changes nothing, the GPUs of an earlier change included."""
        try:
            self._planned(targets)
        except (errors.PolicyError, errors.ProfileMismatch) as err:
            raise errors.with_more(err, f"{interrupted.words(entry)}, and is left as it is. {interrupted.TODO}") from err
        except errors.GpuSliceError:
            # What a GPU can do may look otherwise while a change stands half way, such as without its driver.
            return

    def _can_finish(self, targets, entry, plan=None):
        """Whether a request wants all that an interrupted change wanted, and nothing stands in its way."""
        if not _asks_for_all(targets, entry):
            return False
        try:
            plan = plan or self._planned(targets)
        except errors.GpuSliceError:
            return False
        if any(gpu in entry.before for gpu, _ in plan.blocked):
            return False
        # Who asked for a difference never meant to end what came since.
        meant = {made.gpu: made.destroys for made in Plan.from_dict(entry.plan).gpus}
        return all(set(made.destroys) <= set(meant.get(made.gpu, ())) for made in plan.gpus if made.gpu in entry.wishes)

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
                plans.append(self._plan_restore(entry, address, layout, by_address))
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
        self._tell(f"{told}; it is undone first")
        found = self._layouts(entry, gpus)
        left = self._restore(entry, entry.before, gpus)
        started = self._resume(entry)
        lines = [self._what_is_left(gpu, err, entry) for gpu, err in left.items()]
        if any(not isinstance(err, _HOPELESS) for err in left.values()):
            raise errors.RollbackFailed(
                f"{told} and could not be undone. {' '.join([*lines, *started])}", todo="Mend that by hand, then run again."
            )
        after = self._layouts(entry, gpus)
        restored = {gpu: layout for gpu, layout in entry.before.items() if gpu not in left}
        noted = self._note_verified(self._undone(entry.techniques, restored, gpus))
        self._journal.end()
        result = Result(Plan())
        self._note_changes(result, entry, gpus, found, after)
        self._record(
            result,
            {
                "time": self._host.now(),
                "who": self._options.who,
                "jid": self._options.jid,
                "result": UNDID,
                "errors": [*lines, *started],
                "plan": entry.plan,
                "before": found,
                "after": after,
                "techniques": entry.techniques,
                "reboot": [],
            },
        )
        number = f", generation {result.generation}" if result.generation else ""
        result.warnings = [*noted, f"{told}; it was undone{number}.", *started, *lines, *result.warnings]
        return result

    def _others(self, entry, gpus):
        """GPUs of an interrupted change that the present request does not reach."""
        if all(address in gpus for address in entry.before):
            return {}
        from gpuslice import inventory

        return {gpu.address: gpu for gpu in inventory.discover(self._host)}


def _differ(targets):
    """Whether any of these wishes is a difference to what is there."""
    return any("difference" in target.settings for target in targets)


def _asks_for_all(targets, entry):
    """Whether these targets ask for all that an interrupted change wanted."""
    wanted = {t.gpu.address: t.settings for t in targets if t.technique}
    return all(gpu in wanted and _asks_for(wanted[gpu], entry, gpu) for gpu in entry.goal)


def _asks_for(settings, entry, gpu):
    """Whether settings ask for what an interrupted change wanted of a GPU, in the words of then or in what they came to."""
    difference = {"difference": entry.wishes[gpu]} if gpu in entry.wishes else None
    return _same(settings, entry.goal[gpu]) or (difference is not None and _same(settings, difference))


def _present(gpus, address):
    """The GPU at an address. Raises errors.DeviceNotFound for one that is gone."""
    if address not in gpus:
        raise errors.DeviceNotFound("This GPU is no longer there.", address, "Look for it with 'lspci' and in 'dmesg'.")
    return gpus[address]


def _shown(shown, layout):
    """A layout as users see it, or why it could not be read."""
    return layout if "error" in layout else shown(layout)


def _narrowed(entry, left, keep_pauses):
    """The record of a change that ended but for what could not be undone on the GPUs ``left``."""
    return replace(
        entry,
        before={gpu: layout for gpu, layout in entry.before.items() if gpu in left},
        goal={gpu: settings for gpu, settings in entry.goal.items() if gpu in left},
        wishes={gpu: wish for gpu, wish in entry.wishes.items() if gpu in left},
        techniques={gpu: name for gpu, name in entry.techniques.items() if gpu in left},
        earlier=[asdict(step) for gpu, step in _begun(entry) if gpu in left],
        steps=[],
        pauses=entry.pauses if keep_pauses else [],
    )


def _undone_words(affected, kept, partly):
    """A sentence on what was undone of a change that failed; ``kept`` counts the GPUs that keep theirs."""
    if kept:
        many = f"{kept} other GPUs of this change keep theirs" if kept > 1 else "The other GPU of this change keeps its own"
        return f"What was done on {', '.join(affected)} has been undone. {many}."
    return "Everything else that was done has been undone." if partly else _UNDONE


def _caught(err, gpu=""):
    """The error for anything that was caught; what nobody thought of goes to the log as well."""
    if isinstance(err, errors.GpuSliceError):
        return err
    log.error("something unexpected failed", exc_info=err)
    return errors.StepFailed(f"Something unexpected failed: {type(err).__name__}: {err}.", gpu, "Please report this.")


def _after(err, earlier):
    """The same error, with what had been done before it."""
    if not earlier.warnings:
        return err
    told = " ".join(earlier.warnings)
    if isinstance(err, errors.Interrupted):
        return errors.Interrupted(err.code - 128, f"{err.what} Before that: {told}")
    return errors.with_more(err, f"Before that: {told}")


def _begun(entry):
    """(GPU, step) of the steps of a change that were begun, those of an interrupted attempt before it included."""
    planned = {p.gpu: p for p in Plan.from_dict(entry.plan).gpus}
    earlier = [Step.from_dict(step) for step in entry.earlier]
    return [(step.gpu, step) for step in earlier] + [(gpu, planned[gpu].steps[number - 1]) for gpu, number in entry.steps]


def _refuse_silence(target, made):
    """What is there already must not go because of a default: whoever wants that says so."""
    silent = getattr(target, "silent", "")
    if silent and made.destroys:
        raise errors.PolicyError(
            f"{silent} is not given, and its default would end what is there: {', '.join(made.destroys)}.",
            made.gpu,
            "Write what is wanted, also where it is the default.",
        )


def _together(mistakes):
    """One error for all mistakes; the only one as it is."""
    if len(mistakes) == 1:
        return mistakes[0]
    lines = [line for err in mistakes for line in (getattr(err, "mistakes", None) or [str(err)])]
    said = "Nothing was changed:\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines))
    if all(isinstance(err, errors.Unsupported) for err in mistakes):
        return errors.Unsupported(said)
    return errors.PolicyError(said, mistakes=lines)


def _step_failed(err, step, number, count):
    failed = type(err)
    if isinstance(err, errors.StateDirUnusable | errors.Unhealthy | errors.DeviceNotFound):
        kind = failed
    else:
        kind = errors.StepFailed
    return kind(f"Step {number} of {count} ({step.words}) failed: {err.what}", step.gpu, err.todo)


def _waiting(plan):
    return [made.gpu for made in plan.gpus if made.waits]


def _same(one, other):
    """Whether two layouts or settings are equal once JSON has made lists of their tuples."""
    return json.loads(json.dumps(one)) == json.loads(json.dumps(other))
