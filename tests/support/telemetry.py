"""
Readings of described machines.
"""

from contextlib import contextmanager

import pytest

from gpuslice.drivers.telemetry import Telemetry
from gpuslice.engine import Engine
from gpuslice.sim.host import SimulatedHost
from tests.support.hosts import config


class Patient(SimulatedHost):
    """A machine that notes in ``waited`` for how many seconds it is waited for, each time."""

    def __init__(self, *paths):
        super().__init__(*paths)
        self.waited = []

    def sleep(self, seconds):
        self.waited.append(seconds)
        super().sleep(seconds)


def machine(folder, description):
    """The machine of a description (YAML), whose name is in its first line, with its state below a folder."""
    name = description.split(maxsplit=2)[1]
    path = folder / f"{name}.yaml"
    path.write_text(description)
    return Patient(str(path), str(folder / name))


@contextmanager
def looking(host):
    """(an engine on a host, its readings)."""
    with Engine(config(host)) as engine:
        yield engine, Telemetry(engine.host, engine.tools.sessions)


def fixtures(description):
    """The fixtures ``host``, ``engine`` and ``telemetry`` of a module whose tests look at one machine."""

    @pytest.fixture
    def host(tmp_path):
        return machine(tmp_path, description)

    @pytest.fixture
    def engine(host):
        with Engine(config(host)) as found:
            yield found

    @pytest.fixture
    def telemetry(engine):
        return Telemetry(engine.host, engine.tools.sessions)

    return host, engine, telemetry


def why(reading, what):
    """The word that says why something is not told, None for what is."""
    return dict(reading.unreadable).get(what)
