"""
The steps of a vGPU change that have to be patient: the driver's tool that waits for others, functions that come late.
"""

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.host.base import Completed
from gpuslice.sim.host import SimulatedHost
from tests.support.hosts import config
from tests.support.techniques import plan_one

H100 = "0000:41:00.0"
LOCKED = Completed(1, "Cannot obtain unbindLock for 0000:41:00.0\n")


class Busy(SimulatedHost):
    """A host on which somebody holds the driver's lock for a while, and where waiting takes no time."""

    held, waited, shy = 0, (), 0

    def run(self, argv, timeout=60):
        if argv[0].endswith("sriov-manage") and self.held:
            self.held -= 1
            return LOCKED
        return super().run(argv, timeout)

    def sleep(self, seconds):
        self.waited = (*self.waited, seconds)

    def exists(self, path):
        if path.endswith("/nvidia/current_vgpu_type") and self.shy and "current_vgpu_type" in path:
            self.shy -= 1
            return False
        return super().exists(path)


@pytest.fixture
def busy(simulated):
    """``busy(held, shy)``: (the host, its vGPU technique, the GPU)."""
    made = []

    def make(held=0, shy=0):
        plain = simulated("vgpu-host-vfio")
        host = Busy(plain.description_path, plain.state_dir)
        engine = Engine(config(plain))
        engine.host, engine.tools = host, type(engine.tools)(host)
        made.append(engine)
        [(one, tool)], _ = engine.techniques("vgpu", H100)
        host.held, host.shy = held, shy
        return host, tool, one

    yield make
    for engine in made:
        engine.tools.release()


def steps(tool, gpu):
    """The steps to one vGPU, from a GPU without virtual functions."""
    return plan_one(tool, gpu, tool.observe(gpu), {"profile": "H100XM-40C", "count": 1}).steps


def test_a_lock_that_is_held_for_a_moment_is_waited_for(busy):
    host, tool, gpu = busy(held=4)
    first, _ = steps(tool, gpu)
    tool.run(gpu, first)
    assert host.waited == (1.0,) * 4
    assert tool.observe(gpu).numvfs == 16


def test_a_lock_that_is_held_for_long_is_told(busy):
    host, tool, gpu = busy(held=5)
    first, _ = steps(tool, gpu)
    with pytest.raises(errors.DriverError, match="unbindLock") as told:
        tool.run(gpu, first)
    assert H100 in str(told.value) and "nobody that can be seen" in str(told.value)
    assert tool.observe(gpu).numvfs == 0 and len(host.waited) == 4


def test_files_that_come_late_are_waited_for(busy):
    host, tool, gpu = busy()
    first, second = steps(tool, gpu)
    tool.run(gpu, first)
    # Twice each of the 16 functions, and the GPU itself, is looked at in vain.
    host.shy = 2 * 17
    tool.run(gpu, second)
    assert host.waited == (0.1, 0.2)
    assert [vgpu.type for vgpu in tool.observe(gpu).vgpus] == ["H100XM-40C"]


def test_files_that_never_come_are_told(busy):
    host, tool, gpu = busy()
    first, second = steps(tool, gpu)
    tool.run(gpu, first)
    host.shy = 10**6
    with pytest.raises(errors.ValidationFailed, match="shows no interface for vGPUs") as told:
        tool.run(gpu, second)
    assert H100 in str(told.value) and 30 < sum(host.waited) < 40
