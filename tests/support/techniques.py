"""
Techniques called without a request around them.
"""

from gpuslice.model import Key
from gpuslice.model import Target
from gpuslice.rules import PLAIN
from gpuslice.techniques.base import Below
from gpuslice.techniques.base import Work
from gpuslice.techniques.mig import asks


def target(tool, gpu, settings):
    """What is wanted of one GPU of a technique."""
    return Target(gpu, Key.of_gpu(tool.name, gpu.address), settings)


def plan_one(tool, gpu, state, settings, rules=PLAIN, peers=(), below=Below()):  # noqa: B008 - a named tuple
    """
    The part (:class:`gpuslice.plan.Part`) of one GPU.

    :param peers: (GPU, settings) of those of the same request.
    """
    others = tuple(target(tool, *peer) for peer in peers)
    [part] = tool.plan([Work(target(tool, gpu, settings), state, rules, below, others)])
    return part


def mig_targets(engine, ask, gpu, *given):
    """
    Targets of MIG as ``gpu_mig`` makes it.

    :param ask: a function of :mod:`gpuslice.techniques.mig.asks`, for what is ``given``.
    """
    return engine.wanted("mig", gpu, *getattr(asks, ask)(*given))
