"""
Pillars that tests ask for. Keywords that a function doesn't name go to ``containers_gpu_state_management``.
"""

import yaml

from gpuslice import policy
from tests.conftest import ROOT

SLICING = "containers_gpu_slicing"


def example(name):
    """A pillar of ``examples/pillar``."""
    return yaml.safe_load((ROOT / "examples" / "pillar" / f"{name}.sls").read_text(encoding="utf-8"))


def for_all(strategy, settings=None, devices=(), slicing=None, discovery=None, **management):
    """
    A pillar that asks for one strategy on every GPU.

    :param settings: what stands under the key of the strategy; left out when None.
    :param devices: rules for some GPUs, see :func:`rule`. :param slicing: laid over ``containers_gpu_slicing``, mistakes as well.
    :param discovery: ``containers_gpu_discovery``.
    """
    made = {"enabled": True, "strategy": strategy}
    if settings is not None:
        made[strategy.replace("-", "_")] = settings
    if devices:
        made["devices"] = list(devices)
    found = {} if discovery is None else {"containers_gpu_discovery": discovery}
    return {**found, SLICING: {**made, **(slicing or {})}, "containers_gpu_state_management": management}


def managed(**management):
    """The policy of a pillar that says how changes are made, and of no slices."""
    return policy.parse({SLICING: {"enabled": True}, "containers_gpu_state_management": management})


def mig(profiles, **more):
    """These MIG profiles on every GPU; more is as for :func:`for_all`."""
    return for_all("mig", {"profiles": profiles}, **more)


def partition(compute="CPX", memory="NPS1", devices=(), **management):
    """These partition modes on every GPU, with rules for some."""
    return for_all("partition", {"compute": compute, "memory": memory}, devices, **management)


def vgpu(devices=(), **settings):
    """These vGPUs, or this licence, on every GPU, with rules for some."""
    return for_all("vgpu", settings, devices)


def rule(address, **said):
    """A rule for one GPU, for ``devices``: ``rule("0000:07:00.0", strategy="mig", mig={"profiles": ["7g.40gb"]})``."""
    return {"match": {"pci": address}, **said}


def mig_rule(address, profiles):
    """A rule that asks for these MIG profiles on one GPU."""
    return rule(address, strategy="mig", mig={"profiles": profiles})


def rules(*listed, **management):
    """A pillar of rules only: GPUs that none is about are left alone."""
    return {SLICING: {"enabled": True, "devices": list(listed)}, "containers_gpu_state_management": management}


def for_gpu(address, strategy, settings=None, **management):
    """A pillar that is about one GPU; ``settings`` are left out when None."""
    said = {} if settings is None else {strategy.replace("-", "_"): settings}
    return rules(rule(address, strategy=strategy, **said), **management)
