"""
What is asked of consumers by hand: the wishes of targets, as :meth:`gpuslice.engine.Engine.handing` takes them.
"""

NAME = "consumers"


def written(name, **keys):
    """One consumer as the pillar has it: in the section on containers. Keys that are None were not given."""
    return {"consumers": {name: {key: value for key, value in keys.items() if value is not None}}}


def serve(settings):
    """One consumer more, or another one of that name; ``settings`` are those of the pillar's section with it alone."""
    return {"serve": settings["consumers"]}


def dismiss(name, missing=False):
    """One consumer less; ``missing``: it need not be there."""
    return {"dismiss": name, "missing": missing}
