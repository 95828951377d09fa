"""
A GPU that was tried becomes what it was before: at the end of the trials, or after a run that was killed.
"""

from gpuslice import errors
from gpuslice import front
from gpuslice.plan import same
from gpuslice.qualify.bench import Bench
from gpuslice.records import interrupted
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


def recovered(engine, how, test, permissions):
    """
    As :func:`gpuslice.front.recovered`; what a run that was killed left of a GPU that it tried is put back after that.

    :raises errors.RollbackFailed: it could not be put back.
    """
    trying = Trying(engine.host)
    tried = trying.left()
    if not tried:
        return front.recovered(engine, how, test, permissions)
    first = front.recovered(engine, how, test, permissions) if interrupted.found(engine.host) else None
    bench = Bench(engine, engine.gpu(tried.gpu), engine.tools.get(tried.technique), permissions)
    if test:
        return first or front.planned(bench.reconciler().plan(bench.targets(bench.tool.settings_of(tried.layout))))
    if first and not first["result"]:
        return first
    front.changes()
    sentence, changed = _recovered(bench, tried, trying)
    comment = "\n".join([*([first["comment"]] if first else []), sentence])
    return {"result": True, "changes": {**(first["changes"] if first else {}), **changed}, "comment": comment}


def _recovered(bench, tried, trying):
    """(a sentence on what was done, PCI address -> {old, new})."""
    now = bench.layout()
    with trying.alone("gpu_slicing.recover"):
        if why := put_back(bench, tried.layout, trying):
            what = f"{describe(tried)} It could not be put back now: {why}"
            raise errors.RollbackFailed(what, tried.gpu, "Mend that, then run again.")
    old, new = (bench.tool.shown(layout) for layout in (now, tried.layout))
    changed = {} if same(now, tried.layout) else {tried.gpu: {"old": old, "new": new}}
    return f"GPU {tried.gpu}: {describe(tried)} It was put back: {bench.tool.words(tried.layout)}.", changed
