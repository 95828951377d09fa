"""
What there is of GPUs and slices as metrics: who has what, how much it is used, what is wrong with it, and whether it is as it was
made. A user of the engine, as loader files are.

A value that can't be read is left out, and counted; it is never 0. One source that fails leaves the others as they are.
"""


def data(engine):
    """
    The metrics of a host as plain data: name -> list of ``{"labels": {...}, "value": number}``.

    :raises errors.GpuSliceError: not even which GPUs there are can be told.
    """
    # What only this needs is loaded for this, here and below.
    from gpuslice.metrics.gather import gather

    found = {each.name: [{"labels": dict(labels), "value": value} for labels, value in each.samples] for each in gather(engine)}
    return {name: samples for name, samples in found.items() if samples}


def text(engine):
    """The metrics of a host as the text of a file. Raises as :func:`data`."""
    from gpuslice.metrics.gather import gather
    from gpuslice.outputs import prometheus

    return prometheus.text(gather(engine))


def enable(engine, config, pillar, textfile=None, interval=None, test=False):
    """
    Metrics are written to a file every few seconds; see :func:`gpuslice.metrics.export.enable`.

    :param config: the minion's ``gpu_slicing``, with which the engine was made; :param pillar: the minion's, which says what is
        not given. :param textfile: path of the file; :param interval: in seconds.
    """
    from gpuslice.metrics import export

    simulate = (config or {}).get("simulate") or ""
    return export.enable(engine, export.wanted(engine, pillar, textfile, interval), simulate, test)


def disable(engine, test=False):
    """See :func:`gpuslice.metrics.export.disable`."""
    from gpuslice.metrics import export

    return export.disable(engine, test)


def status(engine):
    """See :func:`gpuslice.metrics.export.status`."""
    from gpuslice.metrics import export

    return export.status(engine)
