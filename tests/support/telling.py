"""
Simulated hosts of which schedulers are told: made, asked for in pillars, and looked at.
"""

import json
import pathlib

from gpuslice.engine import Engine
from gpuslice.schedulers import kubernetes_node
from gpuslice.schedulers import nomad
from gpuslice.schedulers import slurm
from gpuslice.techniques.toolbox import Toolbox
from tests.support import consumers
from tests.support import hosts
from tests.support.consumers import FIRST
from tests.support.consumers import SECOND

__all__ = ("FIRST", "SECOND")
CONF, FILE = "/etc/slurm/gres.conf", "/etc/kubernetes/nvidia-device-plugin.yaml"
TYPE = "nvidia_h100_80gb_hbm3"
MODULES = {"gpu_slurm": slurm, "gpu_kubernetes": kubernetes_node, "gpu_nomad": nomad}


def machine(simulated, **more):
    """Two GPUs, whose host is a node of Slurm whose slurm.conf wants nothing of it."""
    node = {"tools": [*consumers.TOOLS, "scontrol"], "patience": 0.01, "processes": [], "slurm": {"node": "n1"}}
    return consumers.machine(simulated, **{**node, **more})


def pillar(
    profiles=None, slurm=True, kubernetes=None, nomad=None, consumers=None, device_plugin=None, slicing=None, **management
):  # fmt: skip
    """
    MIG profiles on GPUs, what schedulers are told, and consumers.

    :param profiles: PCI address -> profiles. :param slurm: True, keys beside the usual ones, or None for nothing written.
    :param kubernetes, nomad: likewise.
    """
    rules = [{"match": {"pci": gpu}, "strategy": "mig", "mig": {"profiles": list(own)}} for gpu, own in (profiles or {}).items()]
    handing = {} if consumers is None else {"consumers": consumers}
    if slurm is not None:
        handing["slurm"] = {"enabled": True, "node": "n1", "within": 0, **({} if slurm is True else slurm)}
    for name, keys in (("kubernetes", kubernetes), ("nomad", nomad)):
        if keys is not None:
            handing[name] = {"enabled": True, **({} if keys is True else keys)}
    if device_plugin:
        handing["device_plugin"] = device_plugin
    made = {"containers_gpu_slicing": {"enabled": True, "devices": rules, **(slicing or {})}}
    made["containers_gpu_state_management"] = management
    return {**made, "containers_gpu_container_integration": handing} if handing else made


def converge(host, wanted, through=None, after_drain=None):
    """
    Bring a host to a pillar; hooks are functions of the modules for schedulers.

    :param through: an object of a class of the test's own for the same host. :param after_drain: what somebody does then.
    """

    def call(name, args, kwargs):
        module, function = name.split(".")
        with Engine(hosts.config(host)) as engine:
            answer = getattr(MODULES[module], function)(engine, *args, **kwargs)
        if function == "drain" and after_drain:
            after_drain()
        return {"result": None, **answer}

    with Engine(hosts.config(host)) as engine:
        engine.call = call
        if through is not None:
            engine.host, engine.tools = through, Toolbox(through)
        return engine.apply(wanted)


def text_of(host, path=CONF):
    """The text of a file, "" for none."""
    return host.state()["written"].get(path, "")


def asked_of_slurm(host):
    """What Slurm was asked for, without mere looks: words such as ``State=DRAIN`` and ``reconfigure``."""
    lines = [line.split() for line in host.state().get("slurm", {}).get("asked", ()) if not line.startswith("show")]
    return [line[2] if line[0] == "update" else line[0] for line in lines]


def on_record_of(host, name="slurm"):
    """What is on record of a scheduler; {} for nothing."""
    path = pathlib.Path(host.state_dir) / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def gres(host):
    """The ``Gres=`` that the file names."""
    return next((line.rpartition("Gres=")[2] for line in text_of(host).splitlines() if line.startswith("# slurm.conf")), "")


def as_it_is(host):
    """What the file would say of what there is now, by another way than the change takes: the function by hand."""
    with Engine(hosts.config(host)) as engine:
        return slurm.conf(engine, "n1", False)
