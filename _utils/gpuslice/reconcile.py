"""
Bring a host to its targets: lock -> observe -> plan -> check -> journal -> apply -> verify -> (roll back).

A change is all or nothing: a step that fails puts every GPU of the change back to where it was. What a crash leaves behind
is finished by the next run that wants the same, and undone by any other.
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

from gpuslice import errors
from gpuslice import lock
from gpuslice.attempts import Attempts
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
#: Mistakes of the one who asked: nothing is changed anywhere when one of them is met.
_MISTAKES = (errors.PolicyError, errors.ProfileMismatch, errors.Unsupported, errors.DeviceNotFound)
#: Conditions of one GPU: it is left alone and reported, the others go on.
_BLOCKED = (errors.ResourceConflict, errors.Unhealthy, errors.ModeChangePending)
#: A GPU in this condition can't be put back, by anybody or without destroying what another tool made: it is reported, and does
#: not stop later runs.
_HOPELESS = (errors.Unhealthy, errors.DeviceNotFound, errors.ForeignChange)


@dataclass
class Options:
    """
    How to change.

    :ivar strategy: auto (only what is idle), force (also what is in use), skip (report, change nothing).
    :ivar stop_units: systemd units that may be stopped for a change; :ivar unload_modules: kernel modules, for a reset.
    :ivar who: who asks, for lock, journal and history; :ivar jid: Salt's job id; :ivar progress: called with a line a step.
    """

    strategy: str = "auto"
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
    """

    plan: Plan
    changes: dict = field(default_factory=dict)
    errors: list = field(default_factory=list)
    warnings: list = field(default_factory=list)
    reboot: list = field(default_factory=list)
    seconds: float = 0.0
    generation: int | None = None

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
        self._doubtful = set()
        self._stop = threading.Event()
        self._writing = threading.Lock()

    # -- planning ------------------------------------------------------------------------------------------------
    def plan(self, targets):
        """
        The plan for these targets. Raises an error that names every mistake; GPUs that are in use or ill are reported in
        ``Plan.blocked``.
        """
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
        return Plan(tuple(plans), untouched, tuple(blocked), (*self._interrupted(), *chosen))

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

    def _interrupted(self):
        entry = self._journal.unfinished()
        return (
            (f"{_told(entry)}; the next change finishes it if it wants the same, and undoes it first if not.",) if entry else ()
        )

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
        Bring the host to the targets. Returns :class:`Result`; raises an error of gpuslice.errors when nothing was begun.

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
                self._tidy(plan, _waiting(plan))
                self._remember_found(plan)
                return Result(plan, errors=[why for _, why in plan.blocked], reboot=_waiting(plan))
        with lock.held(self._host.state_dir, self._options.who, self._options.jid):
            return self._apply_locked(targets)

    def _apply_locked(self, targets):
        begun = time.monotonic()
        entry, warnings = self._recover(targets)
        wishes = {t.gpu.address: t.settings["difference"] for t in targets if "difference" in t.settings}
        targets = self._settled(targets, entry)
        plan = self.plan(targets)
        result = Result(plan, errors=[why for _, why in plan.blocked], warnings=warnings, reboot=_waiting(plan))
        gpus = {t.gpu.address: t.gpu for t in targets}
        if plan.empty:
            if entry:
                self._end(entry, gpus, "applied", result)
            return result
        before = {**{p.gpu: p.before for p in plan.changing}, **(entry.before if entry else {})}
        goal = {t.gpu.address: t.settings for t in targets if t.gpu.address in before}
        wishes = {address: wish for address, wish in wishes.items() if address in before}
        made = self._entry(plan, before, goal, wishes, {p.gpu: p.technique for p in plan.gpus if p.gpu in before}, entry)
        self._journal.begin(made)
        self._change(plan, targets, gpus, made, result)
        result.seconds = round(time.monotonic() - begun, 2)
        return result

    def _entry(self, plan, before, goal, wishes, techniques, interrupted):
        pauses = [["unit", name] for name in plan.stops] + [["kernel module", name] for name in plan.unloads]
        return Entry(
            time=self._host.now(),
            who=self._options.who,
            jid=self._options.jid,
            pid=os.getpid(),
            boot_id=self._host.boot_id(),
            plan=plan.as_dict(),
            before=before,
            goal=goal,
            wishes=wishes,
            techniques=techniques,
            pauses=pauses + [pause for pause in (interrupted.pauses if interrupted else []) if pause not in pauses],
            earlier=[asdict(step) for _, step in _begun(interrupted)] if interrupted else [],
        )

    def _change(self, plan, targets, gpus, entry, result):
        """Carry out a journalled plan, verify it, and put everything back if it fails."""
        failed, unmet = self._pause(entry) or self._execute(plan.changing, gpus, entry)
        if not failed:
            failed = self._verify(plan, targets, unmet, result)
        outcome = "applied"
        if failed:
            # A GPU that would have waited for a reboot is put back too, so nothing waits.
            outcome = self._put_back(entry, gpus, failed, result)
        else:
            for gpu, why in unmet.items():
                self._note_reboot(gpu, why, result)
            result.reboot += [gpu for gpu in unmet if gpu not in result.reboot]
            self._tidy(plan, result.reboot)
            result.errors += self._health_after(plan, gpus)
        self._end(entry, gpus, outcome, result)

    def _end(self, entry, gpus, outcome, result):
        """Start what was stopped, close the journal and write the history."""
        after = self._layouts(entry, gpus)
        result.changes = self._seen_changes(entry, after, gpus)
        result.errors += self._resume(entry)
        self._remember(entry, after, gpus, outcome, result)
        if outcome != "left":
            self._journal.end()
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

    def _record(self, result, generation):
        try:
            result.generation = self._journal.record(generation)
        except errors.StateDirUnusable as err:
            # The hardware is in a known condition and has been told of: only the memory of it is missing.
            result.warnings.append(str(err))

    def _tidy(self, plan, waiting):
        """GPUs of a plan that no longer wait are struck off the ledger, so that a later wait is not taken for the same one."""
        try:
            self._ledger.remove([made.gpu for made in plan.gpus if made.gpu not in waiting])
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
    def _pause(self, entry):
        """Stop units and unload modules that the plan needs. Returns None, or (errors by GPU, {}) when one refused."""
        for kind, name in entry.pauses:
            self._tell(f"stopping {kind} {name}")
            why = self._command([*_PAUSE[kind], name])
            if why:
                concerned = [p["gpu"] for p in entry.plan["gpus"] if name in (*p["stops"], *p["unloads"])] or list(entry.before)
                return {gpu: errors.StepFailed(f"The {kind} {name} could not be stopped: {why}", gpu) for gpu in concerned}, {}
        return None

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
        except errors.GpuSliceError as err:
            return str(err)
        return "" if done.returncode == 0 else " ".join((done.stderr or done.stdout).split()) or f"exit status {done.returncode}"

    # -- what a boot brings back ---------------------------------------------------------------------------------
    def _remember(self, entry, after, gpus, outcome, result):
        """Note what was verified, before the change is closed: a crash in between must leave the one or the other record."""
        read = {gpu: layout for gpu, layout in after.items() if "error" not in layout}
        if outcome == "applied":
            number = self._journal.upcoming()
            found = [p for p in result.plan.gpus if not p.steps and not p.waits and p.wanted]
            noted = {p.gpu: self._entry_of(p.gpu, p.technique, p.before, p) for p in found}
            for gpu in (gpu for gpu in read if gpu not in self._doubtful):
                awaits = entry.goal.get(gpu) if gpu in result.reboot else None
                noted[gpu] = self._entry_of(gpu, entry.techniques[gpu], read[gpu], gpus[gpu], number, awaits)
            result.warnings += self._clear_count(noted)
        else:
            back = {gpu: one for gpu, one in read.items() if self._is_as_before(entry, gpus[gpu], one)}
            noted = self._undone(entry.techniques, back, gpus)
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
    def _execute(self, plans, gpus, entry=None):
        """
        Run the steps of these plans, phase by phase, all GPUs of a phase side by side.

        :param entry: the change in the journal: each step is written down first, and a GPU that is no longer what was planned
            on is refused. None for undoing, which goes by what is there and must also work on a full disk.
        :return: (errors by GPU, reasons by GPU that waits for a reboot).
        """
        self._stop.clear()
        failed, unmet = {}, {}
        if entry:
            failed = {p.gpu: err for p in plans if (err := self._changed_meanwhile(p, gpus[p.gpu]))}
        for phase in (PREPARE, RESET, SHAPE):
            work = [p for p in plans if p.gpu not in unmet and any(s.phase == phase for s in p.steps)]
            if failed or not work:
                continue
            if phase == RESET:
                for tool in self._tools.made():
                    tool.release()
            # Resets go one after the other with no session of ours open: one begun for a GPU would hold the next.
            for made, err in self._side_by_side(work, gpus, phase, entry, 1 if phase == RESET else len(work)):
                if isinstance(err, errors.RebootNeeded):
                    unmet[made.gpu] = str(err)
                elif err:
                    failed[made.gpu] = err
        return failed, unmet

    def _side_by_side(self, work, gpus, phase, entry, workers):
        """Run a phase of several plans in threads; progress is told by this thread, since Salt's event bus is not thread-safe."""
        lines = queue.SimpleQueue()

        def one(made):
            try:
                return self._run_phase(made, gpus[made.gpu], phase, entry, lines)
            finally:
                lines.put(None)

        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(one, made) for made in work]
            ended = 0
            while ended < len(work):
                line = lines.get()
                if line is None:
                    ended += 1
                else:
                    self._tell(line)
            return [(made, future.result()) for made, future in zip(work, futures, strict=True)]

    def _changed_meanwhile(self, made, gpu):
        """The error for a GPU that is no longer what was planned on, None if it is: another tool ignores our lock."""
        technique = self._tools.get(made.technique)
        try:
            now = technique.layout(technique.observe(gpu))
        except errors.GpuSliceError as err:
            return err
        if _same(now, made.before):
            return None
        return errors.ForeignChange(
            "Somebody else changed the GPU between plan and execution.",
            gpu.address,
            "Find out which tool manages it besides Salt, then run again.",
        )

    def _run_phase(self, made, gpu, phase, entry, lines):
        technique = self._tools.get(made.technique)
        lookout = newcomers.Lookout(self._host, technique, gpu, made, entry)
        for number, step in enumerate(made.steps, 1):
            if step.phase != phase:
                continue
            if self._stop.is_set():
                return None
            try:
                lookout.before(number)
                if entry:
                    with self._writing:
                        self._journal.step(entry, gpu.address, number)
                lines.put(f"{gpu.address} step {number}/{len(made.steps)}: {step.words}")
                newcomers.carry_out(self._host, technique, gpu, step)
            except errors.RebootNeeded as err:
                return err
            except errors.GpuSliceError as err:
                self._stop.set()
                if entry and isinstance(err, errors.ForeignChange):
                    # What stands in its place is another tool's: undoing this step would destroy that.
                    with self._writing:
                        entry.steps.remove((gpu.address, number))
                return _step_failed(err, step, number, len(made.steps))
            except Exception as err:  # a bug of ours must not keep the other GPUs from being put back
                log.exception("step failed unexpectedly")
                self._stop.set()
                return errors.StepFailed(
                    f"Step {number} ({step.words}) failed: {type(err).__name__}: {err}.", step.gpu, "Please report this."
                )
        return None

    def _tell(self, line):
        log.info("GPU slicing: %s", line)
        if self._options.progress:
            self._options.progress(line)

    # -- verifying -----------------------------------------------------------------------------------------------
    def _verify(self, plan, targets, unmet, result):
        """
        Read the changed GPUs again, but for those that wait for a reboot (``unmet``), and plan anew: a plan with steps is a
        difference. Returns errors by GPU.
        """
        changed = {p.gpu for p in plan.changing}
        failed = {}
        for target in targets:
            address = target.gpu.address
            if target.technique is None or address not in changed or address in unmet:
                continue
            err = self._verify_one(target)
            if err and self._options.validation:
                failed[address] = err
            elif err:
                self._doubtful.add(address)
                result.warnings.append(str(err))
        return failed

    def _verify_one(self, target):
        technique = self._tools.get(target.technique)
        try:
            state = technique.observe(target.gpu)
            left = technique.plan(target.gpu, state, target.settings, self._options.rules()._replace(force=True))
        except errors.GpuSliceError as err:
            return err
        if not left.steps:
            return None
        return errors.ValidationFailed(
            "After the change the GPU was read again and is not as wanted: "
            f"it has {technique.words(left.before)}, wanted is {technique.words(left.after)}.",
            target.gpu.address,
            "See 'dmesg' for the driver's own words.",
        )

    def _health_after(self, plan, gpus):
        if not self._options.health_check:
            return []
        found = []
        for made in plan.changing:
            try:
                reasons = self._tools.get(made.technique).health(gpus[made.gpu])
            except errors.GpuSliceError as err:
                reasons = [str(err)]
            found += [f"GPU {made.gpu} is not healthy after the change: {reason}." for reason in reasons]
        return found

    def _layouts(self, entry, gpus):
        """Layout of each GPU of a change as the hardware has it now; the reason where it can't be read."""
        found = {}
        for address, name in entry.techniques.items():
            technique = self._tools.get(name)
            try:
                found[address] = technique.layout(technique.observe(gpus[address]))
            except errors.GpuSliceError as err:
                found[address] = {"error": str(err)}
        return found

    def _seen_changes(self, entry, layouts, gpus):
        found = {}
        for gpu, after in layouts.items():
            shown = self._tools.get(entry.techniques[gpu]).shown
            if not self._is_as_before(entry, gpus[gpu], after):
                found[gpu] = {"old": shown(entry.before[gpu]), "new": after if "error" in after else shown(after)}
        return found

    # -- putting back --------------------------------------------------------------------------------------------
    def _put_back(self, entry, gpus, failed, result):
        """Undo a change that failed. Returns how it ended: "rolled back", or "left" when something could not be undone."""
        for err in failed.values():
            self._tell(f"failed, putting everything back: {err}")
        untouched = [gpu for gpu, err in failed.items() if isinstance(err, errors.ForeignChange) and "between plan" in err.what]
        left = self._restore(entry, {g: layout for g, layout in entry.before.items() if g not in untouched}, gpus)
        result.errors += [str(err) for err in failed.values()]
        gone = [step.words for _, step in _begun(entry) if not step.undo]
        if gone:
            result.errors.append(f"This can't be undone: {'; '.join(gone)}.")
        if not left:
            result.errors.append("Everything else that was done has been undone." if gone else _UNDONE)
            return "rolled back"
        result.errors += [self._what_is_left(gpu, err, entry) for gpu, err in left.items()]
        return "left" if any(not isinstance(err, _HOPELESS) for err in left.values()) else "rolled back as far as possible"

    def _restore(self, entry, layouts, gpus):
        """Bring GPUs of a change back to earlier layouts. Returns the errors of those that could not be, by PCI address."""
        plans, left = [], {}
        for tool in self._tools.made():
            tool.release()
        for address, layout in layouts.items():
            try:
                plans.append(self._plan_restore(entry, address, layout, gpus))
            except errors.GpuSliceError as err:
                left[address] = err
        # A GPU that can't be put back must not keep the others from it: each one runs on its own.
        for made in (p for p in plans if p.steps):
            failed, unmet = self._execute([made], gpus)
            left.update(failed)
            left.update({gpu: errors.RebootNeeded(why, gpu) for gpu, why in unmet.items()})
        for made in plans:
            if made.gpu not in left and (err := self._restored(entry, made.gpu, layouts[made.gpu], gpus)):
                left[made.gpu] = err
        return left

    def _plan_restore(self, entry, address, layout, gpus):
        if address not in gpus:
            raise errors.DeviceNotFound("This GPU is no longer there.", address, "Nothing can be undone on it.")
        technique = self._tools.get(entry.techniques[address])
        state = technique.observe(gpus[address])
        begun = [step for gpu, step in _begun(entry) if gpu == address]
        return technique.plan(gpus[address], state, technique.settings_of(layout, begun))

    def _restored(self, entry, address, layout, gpus):
        """The error for a GPU that is not as it was before the change, None if it is."""
        technique = self._tools.get(entry.techniques[address])
        try:
            now = technique.layout(technique.observe(gpus[address]))
            if self._is_as_before(entry, gpus[address], now):
                return None
            left = self._plan_restore(entry, address, layout, gpus).steps
        except errors.GpuSliceError as err:
            return err
        if left:
            return errors.ValidationFailed(f"It has {technique.words(now)}.", address)
        return errors.ForeignChange(f"It has {technique.words(now)}: what another tool made meanwhile is not destroyed.", address)

    def _is_as_before(self, entry, gpu, now):
        """Whether a GPU has the layout that it had before a change, also where the driver calls it otherwise by now."""
        before, technique = entry.before[gpu.address], self._tools.get(entry.techniques[gpu.address])
        if _same(now, before):
            return True
        try:
            return hasattr(technique, "translated") and _same(now, technique.translated(gpu, before))
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

        :return: (entry to go on with or None, sentences about what was done). Raises errors.RollbackFailed.
        """
        entry = self._journal.unfinished()
        if entry is None:
            return None, []
        told = _told(entry)
        if _asks_for_all(targets, entry) and self._can_finish(targets, entry):
            return entry, [f"{told}; it is finished now."]
        self._tell(f"{told}; it is undone first")
        gpus = {t.gpu.address: t.gpu for t in targets}
        left = self._restore(entry, entry.before, {**self._others(entry, gpus), **gpus})
        hopeless = {gpu: err for gpu, err in left.items() if isinstance(err, _HOPELESS)}
        if len(hopeless) < len(left):
            lines = [self._what_is_left(gpu, err, entry) for gpu, err in left.items()]
            raise errors.RollbackFailed(
                f"{told} and could not be undone. {' '.join(lines)}", todo="Mend that by hand, then run again."
            )
        started = self._resume(entry)
        restored = {gpu: layout for gpu, layout in entry.before.items() if gpu not in left}
        noted = self._note_verified(self._undone(entry.techniques, restored, {**self._others(entry, gpus), **gpus}))
        self._journal.end()
        return None, [
            *noted,
            f"{told}; it was undone.",
            *started,
            *(self._what_is_left(gpu, err, entry) for gpu, err in hopeless.items()),
        ]

    def _can_finish(self, targets, entry):
        plan = self.plan(targets)
        if any(gpu in entry.before for gpu, _ in plan.blocked):
            return False
        # Who asked for a difference never meant to end what came since.
        meant = {made.gpu: made.destroys for made in Plan.from_dict(entry.plan).gpus}
        return all(set(made.destroys) <= set(meant.get(made.gpu, ())) for made in plan.gpus if made.gpu in entry.wishes)

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


def _told(entry):
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.time))
    return f"A change by {entry.who} of {when} was interrupted"


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
    return errors.PolicyError("Nothing was changed:\n" + "\n".join(f"- {line}" for line in dict.fromkeys(lines)), mistakes=lines)


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
