"""
A change in a process of its own, which its parent stops or kills half way (:mod:`gpuslice.qualify.halfway`). On standard input
comes a line of JSON that says what to do, then a line for each step that may be done.
"""

import json
import os
import re
import signal
import sys

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.qualify.bench import Bench

#: How a line of progress tells of a step that is about to be done, and which.
STEP = re.compile(r"\S+ step (\d+)/(\d+): (.*)", re.DOTALL)


def main():
    """Do what standard input says; tell each step, and at the end what came of it, on standard output."""
    order = json.loads(sys.stdin.readline())
    try:
        answer = _change(order)
    except errors.Interrupted as err:
        answer = {"interrupted": err.what}
    except errors.GpuSliceError as err:
        answer = {"errors": [str(err)]}
    _tell(answer)


def _change(order):
    with Engine(order["config"], progress=_ask) as engine:
        bench = Bench(engine, engine.gpu(order["gpu"]), engine.tools.get(order["technique"]), order["permissions"])
        return {"errors": list(bench.reconciler().apply(bench.targets(order["settings"])).errors)}


def _ask(line):
    """Tell of a step, and wait until it may be done."""
    found = STEP.fullmatch(line)
    if not found:
        return
    _tell({"step": int(found[1]), "of": int(found[2]), "words": found[3]})
    if not sys.stdin.readline():
        # Nobody is there any more who would put back what this process leaves.
        os.kill(os.getpid(), signal.SIGTERM)


def _tell(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
