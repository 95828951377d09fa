"""
Trying a GPU that its owner can spare: everything that its technologies can make of it is made, verified and taken away again, a
change is stopped and one is killed half way, the catalog is compared, and a report says what came of it.

All of it goes through the engine's own changes, and the GPU ends as it began. What there is to try is told by each technology
(:meth:`gpuslice.techniques.base.Technique.trials`); here none is named.
"""


def planned(engine, gpu, pillar, minutes):
    """See :func:`gpuslice.qualify.story.planned`."""
    # What only a trial needs is loaded for a trial.
    from gpuslice.qualify import story

    return story.planned(engine, gpu, pillar, minutes)


def carried_out(engine, config, gpu, pillar, minutes):
    """See :func:`gpuslice.qualify.story.carried_out`."""
    from gpuslice.qualify import story

    return story.carried_out(engine, config, gpu, pillar, minutes)


def recovered(engine, how, test, permissions):
    """
    Deal with what was interrupted on this host: a change, as :func:`gpuslice.front.recovered` has it, and a GPU that was tried.

    :param permissions: as of :func:`gpuslice.front.run`.
    """
    from gpuslice.qualify import putting_back

    return putting_back.recovered(engine, how, test, permissions)
