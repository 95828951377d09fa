"""
Simulated hosts that are given up: cleaned, and looked at for what is left of us.
"""

import json
import pathlib

from gpuslice import cleaning
from gpuslice.boot import unit
from gpuslice.engine import Engine
from tests.support.hosts import config


def cleaned(host, pillar=None, test=False, force=False, brief=False):
    """What ``gpu_slicing.clean`` answers."""
    with Engine(config(host)) as engine:
        return cleaning.clean(engine, pillar or {}, test, force, brief)


def with_boot(host):
    """Have the unit that brings slices back at a boot."""
    with Engine(config(host)) as engine:
        assert unit.enable(engine, unit.unit_text("/etc/salt", host.state_dir, "/usr/bin/salt-call"))["result"]


def found(host):
    """All that a change could touch, as text: live layouts and files. Those of the kernel are told by the layouts."""
    with Engine(config(host)) as engine:
        live = [each["live"] for each in engine.devices()]
    files = {path: text for path, text in host.state()["written"].items() if not path.startswith("/sys/")}
    return json.dumps([live, files], sort_keys=True)


def records(host):
    """Names of what lies in the state directory, but for the simulated machine."""
    place = pathlib.Path(host.state_dir)
    names = [path.relative_to(place) for path in place.rglob("*")]
    return sorted(str(name) for name in names if name.parts[0] != "simulated")
