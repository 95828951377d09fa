"""
Carrying out plans: step by step, phase by phase, the GPUs side by side.
"""

import logging
import queue
import threading
from concurrent.futures import ThreadPoolExecutor

from gpuslice import errors
from gpuslice.change import newcomers
from gpuslice.change.context import ALL
from gpuslice.change.context import caught
from gpuslice.drivers import modules
from gpuslice.drivers import systemd
from gpuslice.plan import PREPARE
from gpuslice.plan import RESET
from gpuslice.plan import SHAPE
from gpuslice.plan import same

log = logging.getLogger(__name__)

#: What can be stopped for a change -> how.
_STOPPED_BY = {"unit": systemd.stop, "kernel module": modules.unload}


class Runner:
    """
    Carries out the steps of plans on one host.

    :param options: :class:`gpuslice.change.reconcile.Options`; :param journal: :class:`gpuslice.records.journal.Journal`.
    """

    def __init__(self, host, toolbox, options, journal):
        self._host, self._tools, self._options, self._journal = host, toolbox, options, journal
        self._writing = threading.Lock()

    def execute(self, plans, gpus, halt, entry=None):
        """
        Run the steps of these plans, phase by phase, all GPUs of a phase side by side.

        :param halt: :class:`gpuslice.change.context.Halt`, which says where no further step is begun.
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
            return [(made, self._run_phase(made, gpus[made.gpu], phase, entry, halt, self.tell)) for made in work]
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
                    self.tell(line)
        done = [(made, future.result()) for made, future in futures]
        return done + [(made, self._run_phase(made, gpus[made.gpu], phase, entry, halt, self.tell)) for made in here]

    def _changed_meanwhile(self, made, gpu):
        """The error for a GPU that is no longer what was planned on, None if it is: another tool ignores our lock."""
        technique = self._tools.get(made.technique)
        try:
            now = technique.layout(technique.observe(gpu))
        except Exception as err:
            return caught(err, gpu.address)
        if same(now, made.before):
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
                begun = entry and (gpu.address, number) in entry.steps
                if begun and isinstance(err, errors.ForeignChange):
                    # What stands in its place is another tool's: undoing this step would destroy that.
                    with self._writing:
                        entry.steps.remove((gpu.address, number))
                return _step_failed(err, step, number, len(made.steps))
            except Exception as err:  # a bug of ours must not keep the other GPUs from being put back
                halt.failed(made.gpu)
                return _step_failed(caught(err, step.gpu), step, number, len(made.steps))
        return None

    def tell(self, line):
        """Tell a line of progress, to the log and to whoever asked for it."""
        log.info("GPU slicing: %s", line)
        if not self._options.progress:
            return
        try:
            self._options.progress(line)
        except Exception:
            # An event bus that fails must not fail the change that it is told of.
            log.warning("progress could not be told", exc_info=True)

    # -- what is stopped for a change ----------------------------------------------------------------------------
    def pause(self, change, halt):
        """Stop units and unload modules that the plan needs. The GPUs for which one refused have failed."""
        for kind, name in change.entry.pauses:
            concerned = [made.gpu for made in change.plan.changing if name in (*made.stops, *made.unloads)]
            if concerned and all(halt.at(gpu) for gpu in concerned):
                continue
            if why := self.stop(kind, name):
                for gpu in concerned or change.entry.before:
                    change.failed[gpu] = errors.StepFailed(f"The {kind} {name} could not be stopped: {why}", gpu)
                    halt.failed(gpu)

    def stop(self, kind, name):
        """Stop one unit or unload one module. Returns "" or why it refused."""
        self.tell(f"stopping {kind} {name}")
        return _failure(_STOPPED_BY[kind], self._host, name)

    def resume(self, entry):
        """Start again what was stopped, whatever became of the change. Returns a sentence for each that refused."""
        found = []
        for kind, name in reversed(entry.pauses):
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
