"""
A file for a scheduler that is asked for by hand, beside what the pillar keeps: the two do not fight.
"""

from gpuslice import errors
from gpuslice.drivers import scheduler_files as files


def noted(engine, technology):
    """What the pillar has a scheduler told on this host (a :class:`gpuslice.techniques.telling.Noted`), None for nothing."""
    if f"{technology}.json" not in engine.host.store_names(engine.host.state_dir):
        return None
    return engine.noted(technology)


def write(engine, technology, path, wanted, kind, test=False):
    """
    As :func:`gpuslice.drivers.scheduler_files.write`.

    :raises errors.PolicyError: the pillar keeps that file, and says something else in it.
    """
    kept = noted(engine, technology)
    if kept and path in kept.files and files.read(engine.host, path, kind) != wanted:
        raise errors.PolicyError(
            f"{path} is kept by the pillar (containers_gpu_container_integration:{technology}), and does not say this.",
            todo="Run 'salt-call state.apply gpu_slicing', or take one of the two out.",
        )
    return files.write(engine.host, path, wanted, kind, test)
