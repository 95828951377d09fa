"""
Which host a run works on: the one place that chooses between the real machine and a described one.
"""

import os

from gpuslice import errors
from gpuslice.host.base import DEFAULT_STATE_DIR
from gpuslice.host.real import RealHost

_CONFIG_KEYS = ("simulate", "state_dir")


def open_host(config):
    """
    The host that the minion configuration describes.

    :param config: the value of ``gpu_slicing`` in the minion configuration: ``simulate`` (path of a host description) and
        ``state_dir``.
    :return: :class:`gpuslice.host.real.RealHost`, or a simulated one.
    :raises errors.PolicyError: for a wrong configuration.
    """
    config = config or {}
    for key in config:
        # Passed over, a misspelt "simulate" would hand the machine's own GPUs to a trial.
        if key not in _CONFIG_KEYS:
            raise errors.PolicyError(
                f"gpu_slicing in the minion configuration has the unknown key {key!r}.",
                todo=f"Its keys are {' and '.join(_CONFIG_KEYS)}; all else belongs into the pillar.",
            )
    for key in _CONFIG_KEYS:
        # Nothing and false leave it out.
        if config.get(key) and not (isinstance(config[key], str) and config[key].isprintable()):
            raise errors.PolicyError(f"gpu_slicing:{key} in the minion configuration is no path.", todo="Write a path in quotes.")
    state_dir = config.get("state_dir") or DEFAULT_STATE_DIR
    if not os.path.isabs(state_dir):
        raise errors.PolicyError(
            f"gpu_slicing:state_dir in the minion configuration is {state_dir!r}, another directory wherever Salt is called.",
            todo="Write a path that begins with '/'.",
        )
    if not config.get("simulate"):
        return RealHost(state_dir)
    # Here, so that no machine that is really there loads it.
    from gpuslice.sim.host import SimulatedHost

    return SimulatedHost(config["simulate"], state_dir)
