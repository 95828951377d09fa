"""
What a site has run before and after a change: commands, and functions of Salt by a callable that is handed in. Loaded only where
there are any.

What runs before may stop the change, which then has not begun anything. What runs after does so whatever came, also where an
interrupted change is undone or finished by another run: it may then run twice.
"""

import contextvars
import os
import threading
from collections.abc import Mapping
from contextlib import contextmanager

from gpuslice import errors
from gpuslice import kinds
from gpuslice.change.context import caught
from gpuslice.host.base import OWED
from gpuslice.host.holders import RUN_JOBS
from gpuslice.printable import printable
from gpuslice.secret import redacted

#: Outcome of a change -> how it is told in the environment; any other is "failed".
_RESULTS = {"applied": "ok", "partly applied": "partly", "rolled back": "undone", "undone": "undone"}
_RESULT, _ADDRESSES = "GPU_SLICING_RESULT", "GPU_SLICING_ADDRESSES"
#: Set where what runs before a change refused it: whoever gives a node back has nothing to make known.
_REFUSED = "GPU_SLICING_REFUSED"
#: Functions that go through the door of the host, so that on a simulated one they do nothing to the machine that this runs on.
_OURS = "gpu_"
#: Effects of steps that nobody who uses the GPU is to meet.
_CUTTING = ("slice", "mode", "reset", "driver", "process")
#: Effect of a step that concerns nobody's jobs, but the one who is told.
_LIGHT = "setting"
#: Errors of Salt by which its functions speak to people.
_SPOKEN = ("CommandExecutionError", "SaltInvocationError")
#: How much of what a command said is told: its last lines.
_LINES, _CHARACTERS = 5, 400


class Hooks:
    """
    The hooks of one request.

    :param options: :class:`gpuslice.rules.Options`; :param tell: called with a line of progress.
    """

    def __init__(self, host, options, tell):
        self._host, self._options, self._tell = host, options, tell
        # What this request ran after a change.
        self._ran = []

    @staticmethod
    def applying(hooks, plan):
        """As :func:`applying`."""
        return applying(hooks, plan)

    def before(self, hooks, addresses, ended):
        """
        Run what comes before a change of these GPUs. Returns None, or the error that stops it.

        :param hooks: what is run; :param ended: function that tells whether the run was asked to end, so that nothing more is to
            be begun.
        """
        for hook in hooks:
            if ended():
                return None
            if why := self._run(hook, {_ADDRESSES: " ".join(addresses)}):
                return errors.HookFailed(
                    f"{_shown(hook)}, which is to run before the change, {why}", todo=_what_to_do(hook)
                )
        return None

    def after(self, hooks, addresses, outcome, refused=False):
        """
        Run what comes after a change of these GPUs, all of it. Returns a sentence for each that failed.

        :param hooks: those of the record, which may be of an earlier run; :param outcome: how the history calls it.
        :param refused: nothing of it was begun.
        """
        environment = {_ADDRESSES: " ".join(addresses), _RESULT: _RESULTS.get(outcome, "failed")}
        if refused and not self._host.has_record(OWED):
            environment[_REFUSED] = "yes"
        hooks = [self._in_place_of(hook) for hook in hooks]
        failed = [(hook, why) for hook in hooks if (why := self._run(hook, environment))]
        self._ran += hooks
        # After what is half done nobody is to get the node back by the next run alone.
        owed = [hook for hook, _ in failed if "around" in hook and outcome in _RESULTS]
        told = [_told(hook, why, "It is called again by the next run." if hook in owed else "Run it by hand.")
                for hook, why in failed]  # fmt: skip
        return [*told, *self._note(hooks, owed)]

    def owed(self):
        """Those that failed after an earlier change and are called again. Raises errors.StateDirUnusable."""
        if not self._host.has_record(OWED):
            return []
        from gpuslice.records.owed import Owed

        return Owed(self._host).hooks()

    def _note(self, ran, owed):
        """Note what is owed, now that these have run. Returns a sentence where that can't be."""
        if not owed and not self._host.has_record(OWED):
            return []
        from gpuslice.records.owed import Owed

        try:
            Owed(self._host).note([*(hook for hook in self.owed() if not _covered(hook, ran)), *owed])
        except errors.GpuSliceError as err:
            return [str(err)]
        return []

    def again(self):
        """
        Run what is owed and was not run by this request, as the rules in force have it: what failed may have failed by what the
        pillar said then. What was for another node, or is asked for by other credentials, is run once more as it was.
        Returns (sentences on what failed, on what came of it).

        :raises errors.StateDirUnusable: it can't be read or written what is owed.
        """
        from gpuslice.records.owed import Owed

        owed = [hook for hook in self.owed() if not _covered(hook, self._ran)]
        due = self._in_force(owed)
        gone = [hook for hook in owed if not any(hook["around"] == now["around"] for now in due)]
        former = [hook for hook in owed if hook not in gone and not any(_place(hook) == _place(now) for now in due)]
        if not owed:
            return [], []
        failed = []
        for hook in former:
            if why := self._run(hook, {_ADDRESSES: "", _RESULT: _RESULTS["applied"]}):
                failed.append(_told(hook, why, "The pillar names another place by now, and it is not called again: is the node "
                                    "given back there?"))  # fmt: skip
        if gone or former:
            Owed(self._host).note([hook for hook in self.owed() if hook not in (*gone, *former)])
        missed = self.after(due, (), "applied") if due else []
        told = [f"{_shown(hook)} failed after an earlier change, and is no more in this pillar: is the node given back?"
                for hook in gone]  # fmt: skip
        done = [] if missed else [f"{_shown(hook)}, which failed after an earlier change, was called again." for hook in due]
        return [*failed, *missed], [*told, *done]

    def _in_place_of(self, hook):
        """One that is light is not enough where more is owed: then that runs in its place, and not both."""
        if not hook.get("light"):
            return hook
        if not any(_place(each) == _place(hook) and not each.get("light") for each in self._surely_owed()):
            return hook
        own = [each for each in self._options.after if "around" in each and not each.get("light")]
        return next((each for each in own if _place(each) == _place(hook)), hook)

    def _surely_owed(self):
        """What is owed; nothing where that can't be read, which is told when it is noted."""
        try:
            return self.owed()
        except errors.GpuSliceError:
            return []

    def _in_force(self, owed):
        """What the rules in force have in the place of these, one for each technology: light where all that is owed is."""
        found = []
        for technique in dict.fromkeys(hook["around"] for hook in owed):
            light = all(hook.get("light", False) for hook in owed if hook["around"] == technique)
            own = [hook for hook in self._options.after if hook.get("around") == technique]
            found += [hook for hook in own if hook.get("light", False) == light][:1] or own[:1]
        return found

    def _run(self, hook, environment):
        """Returns "" or how it failed, as the end of a sentence."""
        self._tell(redacted(f"running {_shown(hook)}"))
        try:
            return self._command(hook, environment) if "command" in hook else self._function(hook, environment)
        except errors.GpuSliceError as err:
            return f"failed: {f'{err.what} {err.todo}'.rstrip()}"
        except Exception as err:
            return f"failed: {caught(err)}"

    def _command(self, hook, environment):
        done = self._host.run(hook["command"], timeout=hook["timeout"], environment=environment)
        if not done.returncode:
            return ""
        said = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()][-_LINES:]
        return _sentence(f"failed with exit status {done.returncode}", " / ".join(said)[-_CHARACTERS:])

    def _function(self, hook, environment):
        if self._host.simulated and not hook["function"].startswith(_OURS):
            self._tell(f"{hook['function']} is not called on a simulated host")
            return ""
        if self._options.call is None:
            return "can't be called from here: only functions of Salt know the others."
        answer, left = _within(hook, self._options.call, environment)
        if left:
            return f"did not end within {hook['timeout']} s, and is left behind."
        refused = answer is False or (isinstance(answer, Mapping) and answer.get("result") is False)
        said = printable(str(answer.get("comment") or "") if isinstance(answer, Mapping) else "")[:_CHARACTERS]
        return _sentence("answered that it failed", said) if refused else ""


def _told(hook, why, end):
    return redacted(f"{_shown(hook)}, which is to run after the change, {why} {end}")


def _place(hook):
    """What one is for: of a technology, the node and how it is reached."""
    return (hook["around"], *(hook["kwargs"].get(name) for name in ("kubeconfig", "context", "node")))


def _covered(owed, ran):
    """Whether one of these did all that is owed. One that is light does less than another."""
    return any("around" in hook and _place(hook) == _place(owed) and hook.get("light", False) <= owed.get("light", False)
               for hook in ran)  # fmt: skip


def _sentence(what, said):
    """The end of a sentence, with what was said on it: that may be one itself."""
    return f"{what}: {said.rstrip('.')}." if said else f"{what}."


def _within(hook, call, environment):
    """
    (what a function returned, whether it is left behind). Raises what it raises.

    It runs in a thread with the context of this one, in which Salt's loader finds its way.
    """
    answers: list[tuple[object, BaseException | None]] = []
    context = contextvars.copy_context()

    def work():
        try:
            answers.append((context.run(call, hook["function"], hook["args"], hook["kwargs"]), None))
        except BaseException as err:  # it belongs to the one who waits
            answers.append((None, err))

    with _in_environment(environment):
        thread = threading.Thread(target=work, name="gpu-slicing-hook", daemon=True)
        thread.start()
        thread.join(hook["timeout"])
    if not answers:
        return None, True
    answer, err = answers[0]
    if isinstance(err, errors.GpuSliceError):
        raise err
    if err is not None:
        kind = "" if type(err).__name__ in _SPOKEN else f"{type(err).__name__}: "
        raise errors.HookFailed(f"{kind}{printable(str(err))[:_CHARACTERS]}") from err
    return answer, False


@contextmanager
def _in_environment(variables):
    """These variables in the environment of this process, for programs that a function starts."""
    former = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in former.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def applying(hooks, plan):
    """
    Those of these hooks that a plan needs. One that is ``around`` a technology runs only where slices are made or ended, or what
    that technology tells changes; or where somebody holds a GPU that is to change. One that is ``light`` runs in its place, where
    something else of that technology is to be told.
    """
    return [hook for hook in hooks if "around" not in hook or _needed(plan, hook["around"], hook.get("light", False))]


def _needed(plan, technique, light):
    if plan.freeable or any(_needs(part, technique) for part in plan.changing):
        return not light
    return light and any(part.key.technique == technique for part in plan.changing)


def may_free(hooks, holders):
    """
    Whether what these hooks do may make those who hold a GPU go. What a site runs itself may end anything; a drain ends jobs
    alone, and neither virtual machines nor services of the host.

    :param holders: dicts of :class:`gpuslice.model.Process`.
    """
    return any("around" not in hook for hook in hooks) or all(_may_be_job(holder) for holder in holders)


def _may_be_job(holder):
    unit = holder.get("unit") or ""
    # A server of MPS serves jobs.
    return not holder.get("domain") and (not unit.endswith(".service") or unit in RUN_JOBS or kinds.is_ours(unit))


def _needs(part, technique):
    if part.hands_out:
        return part.key.technique == technique and any(step.effect != _LIGHT for step in part.steps)
    cut = part.destroys or part.creates or part.destroys_empty or part.creates_empty or part.unloads
    return bool(cut) or any(step.disrupts or step.effect in _CUTTING for step in part.steps)


def _what_to_do(hook):
    if "around" in hook:
        return f"Mend that, or set drain of containers_gpu_container_integration:{hook['around']} to false; then run again."
    return "Mend that, or take it out of containers_gpu_state_management:before; then run again."


def words(hooks):
    """What is run, for the plan: arguments of functions may be secrets, and stay out."""
    return tuple(redacted(f"run {_shown(hook)} (within {hook['timeout']} s)") for hook in hooks)


def _shown(hook):
    return printable(" ".join(hook["command"])) if "command" in hook else hook["function"]
