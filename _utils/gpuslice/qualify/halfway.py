"""
A change that is stopped, one that is killed, and one that the driver refuses, half way: what is left, and whether the engine puts
it back.

What a driver refuses can't be asked for, since the planner refuses it first. It is provoked as it happens to users: another tool
takes, after the plan was made, what a later step needs. That tool is the engine too, with a state directory of its own.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager

import gpuslice
from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.numbers import many
from gpuslice.plan import same
from gpuslice.qualify.bench import Bench
from gpuslice.records.tried import Trying

#: Seconds within which a process has to tell of its next step: a driver may take half a minute for one.
PATIENCE = 180
#: It finds the engine and what that imports where this process did.
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from gpuslice.qualify.child import main; main()"


def stopped(bench, config, trial):
    """
    Ask a change to end (SIGTERM) while its first step is done: it has to undo that step.

    :param bench: :class:`gpuslice.qualify.bench.Bench`; :param config: the minion's, of this host.
    :param trial: :class:`gpuslice.techniques.base.Trial`. :return: dict: what, result, at, seconds, why.
    """
    def stop(child):
        os.kill(child.pid, signal.SIGTERM)
        _go_on(child)

    def undone(answer):
        return "" if "interrupted" in answer else f"the change did not say that it was interrupted: {answer}"

    return _halfway(bench, config, trial, 2, 1, stop, undone)


def killed(bench, config, trial):
    """
    Kill a change (SIGKILL) when its last step is on record and not done, look whether that is told, and recover.

    Arguments and return as of :func:`stopped`.
    """
    def recovered(_):
        told = bench.engine.interrupted()
        result = bench.reconciler().recover(bench.engine.gpus)
        if not told:
            return "nobody was told of the change that was killed"
        return " ".join(result.errors)

    return _halfway(bench, config, trial, 1, -1, lambda child: child.kill(), recovered)


def refused(bench, config, trial, base, rival):
    """
    Let another tool take what a later step of a change needs: the driver refuses that step, and the change has to be undone.

    :param base: settings from which it begins, which end what the other tool made; :param rival: settings of that tool.
    Other arguments and return as of :func:`stopped`.
    """
    def come_in(child):
        with _other_tool(bench, config) as other:
            other.apply(rival)
        _go_on(child)

    def undone(answer):
        if not answer.get("errors"):
            return f"no step was refused: {answer}"
        refusals.append(" ".join(answer["errors"]))
        left = bench.apply(base)
        return "" if left.ok else left.why

    refusals = []
    found = _halfway(bench, config, trial, 2, 1, come_in, undone)
    return {**found, "said": "".join(refusals)}


@contextmanager
def _other_tool(bench, config):
    """:class:`gpuslice.qualify.bench.Bench` of somebody who knows nothing of our lock and records."""
    place = Trying(bench.engine.host).other
    shutil.rmtree(place, ignore_errors=True)
    os.makedirs(place, mode=0o755)
    if bench.engine.host.simulated:
        # A described machine lasts in a state directory, and it is the same machine.
        os.symlink(os.path.join(bench.engine.host.state_dir, "simulated"), os.path.join(place, "simulated"))
    try:
        with Engine({**(config or {}), "state_dir": place}) as engine:
            yield Bench(engine, bench.gpu, engine.tools.get(bench.tool.name), bench.permissions)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _halfway(bench, config, trial, least, at, act, after):
    """
    :param least: steps that the change must have; :param at: the step before which ``act(child)`` is called; -1 is the last one.
    :param after: function of the child's answer, that does what is to be done then and says what is wrong.
    """
    part = bench.part(trial.settings)
    if len(part.steps) < least:
        steps = many(len(part.steps), "step")
        return not_tried(trial, f"the longest change has {steps}, and {least} are needed")
    number = at if at > 0 else len(part.steps)
    # Handles of ours would count as users of the GPU, and mean nothing after what the child does.
    bench.engine.tools.release()
    begun = time.monotonic()
    try:
        with _child(bench, config, trial) as child:
            answer = _until(child, number, act)
        bench.engine.tools.release()
        why = after(answer)
    except errors.GpuSliceError as err:
        why = str(err)
    seconds = round(time.monotonic() - begun, 3)
    if not why and not same(bench.layout(), part.before):
        why = f"the GPU is not as it was: {bench.tool.words(bench.layout())}"
    at = part.steps[number - 1].words
    return {"what": trial.words, "result": "failed" if why else "ok", "why": why, "at": at, "seconds": seconds}


def not_tried(trial, why):
    """What is said of a change that was not ended half way."""
    return {"what": trial.words, "result": "not tried", "why": why, "at": "", "seconds": 0.0}


@contextmanager
def _child(bench, config, trial):
    """The process, told what to do. It is over when the context is, whatever becomes of this one."""
    order = {
        "config": dict(config or {}), "gpu": bench.gpu.address, "technique": bench.tool.name, "settings": trial.settings,
        "permissions": bench.permissions,
    }  # fmt: skip
    # Where the engine lies is not on the path of every process that has imported it.
    paths = [os.path.dirname(os.path.dirname(os.path.abspath(gpuslice.__file__))), *sys.path]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(paths)],
            bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, start_new_session=True,
        )  # fmt: skip
        try:
            _write(child, json.dumps(order))
            yield child
        except errors.ToolFailed as err:
            raise errors.with_more(err, f"It said: {_last_line(said) or 'nothing'}.") from err
        finally:
            child.kill()
            child.wait()
            child.stdin.close()
            child.stdout.close()


def _last_line(file):
    file.seek(0)
    return file.read().decode(errors="replace").strip().rpartition("\n")[2]


def _until(child, number, act):
    """
    Let the steps before this one be done, act, and return what the process answers at its end; {} where it has none.

    :raises errors.ToolHangs: it tells nothing for long; :raises errors.ToolFailed: it ended before that step.
    """
    acted, text = False, b""
    while True:
        if not select.select([child.stdout], [], [], PATIENCE)[0]:
            raise errors.ToolHangs(f"The process that was to be stopped half way told nothing for {PATIENCE} s.")
        more = os.read(child.stdout.fileno(), 65536)
        if not more:
            break
        text += more
        *lines, text = text.split(b"\n")
        for answer in map(json.loads, lines):
            if "step" not in answer:
                return answer if acted else _refuse_end(answer)
            if answer["step"] == number and not acted:
                acted = True
                act(child)
            else:
                _go_on(child)
    return {} if acted else _refuse_end({})


def _refuse_end(answer):
    raise errors.ToolFailed(f"The change ended before the step at which it was to be stopped: {answer}.")


def _go_on(child):
    _write(child, "")


def _write(child, line):
    try:
        child.stdin.write(line.encode() + b"\n")
    except BrokenPipeError:
        # It has ended, which is seen where its answers are read.
        pass
