"""
Readings of NVIDIA's boards and slices: each number as the machine has it, and each that is not told left out with its reason.
"""

import pytest

from gpuslice.drivers.telemetry import Telemetry
from gpuslice.engine import Engine
from gpuslice.sim.host import SimulatedHost
from tests.support.hosts import config

H100, A100 = "0000:1b:00.0", "0000:1c:00.0"
HOST = """
name: telemetry
gpus:
- model: h100-80gb
  address: "0000:1b:00.0"
  mig: enabled
  instances: ["3g.40gb@0", "1g.10gb@6", {profile: 2g.20gb, start: 4, cis: [["1c.2g.20gb", 0], ["1c.2g.20gb", 1]]}]
  draw: {idle: 60, active: 760, celsius: 41}
  load: {"3g.40gb@0": 0.5, "1g.10gb@6": 1.0}
- {model: a100-40gb, address: "0000:1c:00.0", draw: {idle: 50, active: 400}, load: {whole: 0.8}}
processes:
- {pid: 100, command: train, gpu: "0000:1b:00.0", slice: "3g.40gb@0", memory_mib: 1000}
- {pid: 101, command: serve, gpu: "0000:1b:00.0", slice: "3g.40gb@0", memory_mib: 500}
- {pid: 102, command: draw, gpu: "0000:1c:00.0", memory_mib: 3000}
"""
MIB = 1 << 20
BIG, SMALL = f"{H100}-3g.40gb-0", f"{H100}-1g.10gb-6"


@pytest.fixture
def host(tmp_path):
    path = tmp_path / "telemetry.yaml"
    path.write_text(HOST)
    return SimulatedHost(str(path), str(tmp_path / "state"))


@pytest.fixture
def engine(host):
    with Engine(config(host)) as engine:
        yield engine


@pytest.fixture
def telemetry(engine):
    return Telemetry(engine.host, engine.tools.sessions)


def look(engine, telemetry, address, before=None):
    return telemetry.uses(engine.gpu(address), engine.parts(address), before)[0]


def why(reading, what):
    return dict(reading.unreadable).get(what)


def test_a_board_tells_what_it_draws(host, engine, telemetry):
    host.let_pass(10_000_000)
    board = telemetry.board(engine.gpu(A100))
    assert board.power_mw == 330_000 and board.utilization == 0.8 and board.temperature_c == 66
    # More than 32 bits of millijoules.
    assert board.energy_mj == pytest.approx(330_000 * 10_000_000, rel=1e-4)
    assert (board.memory_bytes, board.memory_used_bytes) == (40960 * MIB, 3000 * MIB)
    assert board.unreadable == ()


def test_a_sliced_board_tells_no_utilisation(engine, telemetry):
    board = telemetry.board(engine.gpu(H100))
    assert board.power_mw == 310_000 and board.temperature_c == 41 and board.memory_used_bytes == 1500 * MIB
    assert board.utilization is None and board.unreadable == (("utilization", "unsupported"),)


def test_the_slices_tell_memory_and_processes(engine, telemetry):
    found = look(engine, telemetry, H100)
    assert (found[BIG].memory_used_bytes, found[BIG].processes) == (1500 * MIB, 2)
    assert (found[SMALL].memory_used_bytes, found[SMALL].processes) == (0, 0)
    assert found[BIG].memory_bytes > 39_000 * MIB


def test_how_busy_slices_are_takes_two_looks(host, engine, telemetry):
    first = look(engine, telemetry, H100)
    assert first[BIG].utilization is None and why(first[BIG], "utilization") == "not-sampled-yet"
    host.let_pass(30)
    second = look(engine, telemetry, H100)
    assert second[BIG].utilization == pytest.approx(0.5, rel=0.01) and why(second[BIG], "utilization") is None
    host.set_load(H100, {"3g.40gb@0": 1.0})
    host.let_pass(30)
    third = look(engine, telemetry, H100)
    assert third[BIG].utilization == pytest.approx(1.0, rel=0.01) and third[SMALL].utilization == pytest.approx(0, abs=0.01)
