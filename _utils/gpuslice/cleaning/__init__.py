"""
A host is given up: each GPU goes back to how it was first found, and every file and unit of ours goes.

All of it goes through the engine's own changes; what each technology makes of that it tells itself, and here none is named.
"""


def clean(engine, pillar, test=False, force=False, brief=False, gives_up=None):
    """See :func:`gpuslice.cleaning.story.clean`."""
    # What only this needs is loaded for this.
    from gpuslice.cleaning import story

    return story.clean(engine, pillar, test, force, brief, gives_up)


def rolled_back(engine, pillar, test=False, brief=False):
    """See :func:`gpuslice.cleaning.story.rolled_back`."""
    from gpuslice.cleaning import story

    return story.rolled_back(engine, pillar, test, brief)
