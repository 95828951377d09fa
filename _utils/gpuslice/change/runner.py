"""
Carrying out plans: step by step, phase by phase, the GPUs side by side.
"""

import logging
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

from gpuslice import errors
from gpuslice import kinds
from gpuslice import secret
from gpuslice.change import learned
from gpuslice.change import newcomers
from gpuslice.change.context import ALL
from gpuslice.change.context import caught
from gpuslice.change.telling import Telling
from gpuslice.drivers import modules
from gpuslice.drivers import systemd
from gpuslice.plan import CARVE
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.plan import same

log = logging.getLogger(__name__)

#: What can be stopped for a change -> how.
_STOPPED_BY = {"unit": systemd.stop, "kernel module": modules.unload}


class Runner:
    """
    Carries out the steps of plans on one host.

    :param options: :class:`gpuslice.rules.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    :ivar telling: :class:`.telling.Telling`; :ivar times: how long each step took that was done, as the history tells it.
    """

    def __init__(self, host, toolbox, options, journal):
        self._host, self._tools, self._options, self._journal = host, toolbox, options, journal
        self._writing = threading.Lock()
        self.telling, self.times = Telling(options), []
        self.tell = self.telling.line

    @cached_property
    def hooks(self):
        """What a site has run before and after a change."""
        from gpuslice.change.hooks import Hooks

        return Hooks(self._host, self._options, self.tell)

    def execute(self, parts, gpus, halt, entry=None):
        """
        Run the steps of these parts of one layer, phase by phase, all GPUs of a phase side by side.

        :param gpus: PCI address -> GPU; :param halt: :class:`gpuslice.change.context.Halt`, which says where no further step is
            begun.
        :param entry: the change in the journal: each step is written down first, and a GPU that is no longer what was planned
            on is refused. None for undoing, which goes by what is there and must also work on a full disk.
        :return: (errors by key, reasons by key of what waits for a reboot).
        """
        failed, unmet = {}, {}
        for part in parts if entry else ():
            if not halt.at(part.key) and (err := self._changed_meanwhile(part, gpus[part.gpu])):
                failed[part.key] = err
                halt.failed(part.key)
        for phase in (PREPARE, RESET, CARVE):
            work = [
                part for part in parts
                if part.key not in unmet and any(step.phase == phase for step in part.steps) and not halt.at(part.key)
            ]  # fmt: skip
            if not work:
                continue
            if phase == RESET:
                self._tools.release()
            # Resets go one after the other with no session of ours open: one begun for a GPU would hold the next.
            for part, err in self._side_by_side(work, gpus, phase, entry, halt, 1 if phase == RESET else len(work)):
                if isinstance(err, errors.RebootNeeded):
                    unmet[part.key] = str(err)
                elif err:
                    failed[part.key] = err
        return failed, unmet

    def _side_by_side(self, work, gpus, phase, entry, halt, workers):
        """Run a phase of several parts in threads; all that is told is told by this thread, whoever listens."""
        if workers == 1:
            return [(part, self._run_phase(part, gpus, phase, entry, halt, self._told)) for part in work]
        lines: queue.SimpleQueue = queue.SimpleQueue()

        def one(part):
            try:
                return self._run_phase(part, gpus, phase, entry, halt, lines.put)
            finally:
                lines.put(None)

        futures, here = [], []
        with ThreadPoolExecutor(workers) as pool:
            for part in work:
                try:
                    futures.append((part, pool.submit(one, part)))
                except RuntimeError:
                    # The system has no thread left for it: one after the other it works as well.
                    here.append(part)
            ended = 0
            while ended < len(futures):
                line = lines.get()
                if line is None:
                    ended += 1
                else:
                    self._told(line)
        done = [(part, future.result()) for part, future in futures]
        return done + [(part, self._run_phase(part, gpus, phase, entry, halt, self._told)) for part in here]

    def _changed_meanwhile(self, part, gpu):
        """The error for a GPU that is no longer what was planned on, None if it is: another tool ignores our lock."""
        technique = self._tools.get(part.key.technique)
        try:
            now = technique.layout(technique.observe(gpu))
        except Exception as err:
            return caught(err, gpu.address)
        if same(now, part.before):
            return None
        return errors.ForeignChange(
            "Somebody else changed the GPU between plan and execution.",
            gpu.address,
            "Find out which tool manages it besides Salt, then run again.",
        )

    def _run_phase(self, part, gpus, phase, entry, halt, tell):
        technique = self._tools.get(part.key.technique)
        lookout = newcomers.Lookout(self._host, technique, gpus[part.gpu], part, entry, self._options.rules())
        for number, step in enumerate(part.steps, 1):
            if step.phase != phase:
                continue
            if halt.at(part.key):
                return None
            try:
                lookout.before(number)
                if entry:
                    with self._writing:
                        self._journal.step(entry, part.key, number)
                tell(f"{step.gpu} step {number}/{len(part.steps)}: {step.words}")
                begun = time.monotonic()
                newcomers.carry_out(self._host, technique, gpus[step.gpu], step)
                tell(self._done(part, number, time.monotonic() - begun, entry))
            except errors.RebootNeeded as err:
                return err
            except errors.GpuSliceError as err:
                # Steps that can't be written down are not this GPU's failure: none may be done any more.
                halt.failed(ALL if isinstance(err, errors.StateDirUnusable) else part.key)
                begun = entry and (part.key, number) in entry.steps
                if begun and isinstance(err, errors.ForeignChange):
                    # What stands in its place is another tool's: undoing this step would destroy that.
                    with self._writing:
                        entry.steps.remove((part.key, number))
                return _step_failed(err, step, number, len(part.steps))
            except Exception as err:  # a bug of ours must not keep the other GPUs from being put back
                halt.failed(part.key)
                return _step_failed(caught(err, step.gpu), step, number, len(part.steps))
        return None

    def _done(self, part, number, seconds, entry):
        """A step was done: remember how long it took. Returns the fields of its event."""
        step = part.steps[number - 1]
        self.times.append(learned.taken(part, step, seconds))
        return {
            "gpu": step.gpu,
            "technology": kinds.known(step.technique).word,
            "n": number,
            "of": len(part.steps),
            "words": step.words,
            "seconds": round(seconds, 3),
            "undo": entry is None,
        }

    def _told(self, what):
        """Tell what a thread has to tell: a line, or the fields of a step that was done."""
        if isinstance(what, str):
            self.tell(what)
        else:
            self.telling.event("step", lambda: what)

    def measure(self, when):
        """
        Let what is counted by slice be read at the bounds of a change. What goes wrong there is told in the log, and is no
        matter of the change.

        :param when: ``before`` or ``after``.
        """
        if self._options.measure is None:
            return
        try:
            self._options.measure(when)
        except Exception as err:
            log.warning("what is counted by slice could not be read %s the change: %s", when, secret.redacted(str(err)))

    # -- what is stopped for a change ----------------------------------------------------------------------------
    def pause(self, change, halt, pauses):
        """Stop units and unload modules ([kind, name]) that the plan needs. The GPUs for which one refused have failed."""
        for kind, name in pauses:
            concerned = [part.key for part in change.plan.changing if name in (*part.stops, *part.unloads)]
            if concerned and all(halt.at(key) for key in concerned):
                continue
            if why := self.stop(kind, name):
                for key in concerned or change.entry.before:
                    gpu = change.entry.covered(key)[0]
                    change.failed[key] = errors.StepFailed(f"The {kind} {name} could not be stopped: {why}", gpu)
                    halt.failed(key)

    def stop(self, kind, name):
        """Stop one unit or unload one module. Returns "" or why it refused."""
        self.tell(f"stopping {kind} {name}")
        # One of ours may have been removed since by an interrupted change.
        return _failure(systemd.end if kinds.is_ours(name) else _STOPPED_BY[kind], self._host, name)

    def resume(self, entry, ended=()):
        """
        Start again what was stopped, whatever became of the change. Returns a sentence for each that refused.

        :param ended: units that are there no more.
        """
        found = []
        for kind, name in reversed(entry.pauses):
            # Those of a technology were started by it where they are still wanted, with what they stand on now.
            if kinds.is_ours(name) or (kind == "unit" and name in ended):
                continue
            self.tell(f"starting {kind} {name}")
            if why := _failure(self._start, kind, name):
                found.append(f"The {kind} {name} was stopped for this change and could not be started again: {why}")
        return found

    def _start(self, kind, name):
        if kind == "unit":
            return systemd.start(self._host, name, waits=self._options.awaits_units)
        return modules.load(self._host, name)


def _failure(command, *arguments):
    """Run a program; returns "" or why it failed."""
    try:
        return command(*arguments).failure
    except Exception as err:
        return str(caught(err))


def _step_failed(err, step, number, count):
    failed = type(err)
    if isinstance(err, errors.StateDirUnusable | errors.Unhealthy | errors.DeviceNotFound):
        kind = failed
    else:
        kind = errors.StepFailed
    return kind(f"Step {number} of {count} ({step.words}) failed: {err.what}", step.gpu, err.todo)
