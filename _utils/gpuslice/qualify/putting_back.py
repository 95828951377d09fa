"""
A GPU that was tried becomes what it was before: at the end of the trials, or after a run that was killed.
"""

from gpuslice import errors
from gpuslice.plan import same
from gpuslice.qualify.bench import Bench
from gpuslice.records.tried import Trying
from gpuslice.records.tried import describe


def put_back(bench, before, trying):
    """
    Bring a GPU back to the layout that it had, and strike it off the record.

    :param bench: :class:`gpuslice.qualify.bench.Bench`; :param trying: :class:`gpuslice.records.tried.Trying`.
    :return: why that could not be, "" where it is done. Raises errors.Interrupted.
    """
    try:
        if bench.engine.interrupted() and (result := bench.reconciler().recover(bench.engine.gpus)).errors:
            return " ".join(result.errors)
        made = bench.apply(bench.tool.settings_of(before))
        if not made.ok:
            return made.why
        if not same(bench.layout(), before):
            return f"It is read as {bench.tool.words(bench.layout())}."
        trying.end()
    except errors.GpuSliceError as err:
        return str(err)
    return ""


def left(engine):
    """What a run that was killed left, as :class:`gpuslice.records.tried.Tried`; None for nothing."""
    return Trying(engine.host).left()


def planned(engine, permissions):
    """The plan that puts back what was left. Arguments and errors as of :func:`recovered`."""
    tried, bench = _left(engine, permissions)
    return bench.reconciler().plan(bench.targets(bench.tool.settings_of(tried.layout)))


def recovered(engine, permissions):
    """
    Put back what was left by a run that was killed; there is such a one.

    :param permissions: pillar of which only the units and modules that may be stopped count.
    :return: (a sentence on what was done, PCI address -> {old, new}). :raises errors.RollbackFailed: it could not be put back.
    """
    tried, bench = _left(engine, permissions)
    trying, now = Trying(engine.host), bench.layout()
    with trying.alone("gpu_slicing.recover"):
        if why := put_back(bench, tried.layout, trying):
            what = f"{describe(tried)} It could not be put back now: {why}"
            raise errors.RollbackFailed(what, tried.gpu, "Mend that, then run again.")
    old, new = (bench.tool.shown(layout) for layout in (now, tried.layout))
    changed = {} if same(now, tried.layout) else {tried.gpu: {"old": old, "new": new}}
    return f"GPU {tried.gpu}: {describe(tried)} It was put back: {bench.tool.words(tried.layout)}.", changed


def _left(engine, permissions):
    tried = left(engine)
    return tried, Bench(engine, engine.gpu(tried.gpu), engine.tools.get(tried.technique), permissions)
