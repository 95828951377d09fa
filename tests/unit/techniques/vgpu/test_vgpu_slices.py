"""
What is told of vGPUs before they are made.
"""

import pytest

from gpuslice.drivers.pci import DEVICES
from gpuslice.engine import Engine
from tests.support.hosts import config
from tests.support.techniques import plan_one

VFIO, MDEV = "vgpu-host-vfio", "vgpu-host-mdev"
H100, A100, T4 = "0000:41:00.0", "0000:3b:00.0", "0000:86:00.0"


@pytest.fixture
def told(simulated):
    """``told(example, gpu, settings, **changes)``: the slices to which a plan leads, as far as its layout tells them."""

    def make(example, gpu, settings, **changes):
        with Engine(config(simulated(example, **changes))) as engine:
            [(one, tool)], _ = engine.techniques("vgpu", gpu)
            return tool.expected(one, plan_one(tool, one, tool.observe(one), settings).after)

    return make


def test_a_vgpu_is_called_by_the_function_that_carries_it(told):
    found = told(VFIO, H100, {"profile": "H100XM-20C", "count": 2})
    assert [(part.name, part.profile, part.memory_mib, part.of) for part in found] == [
        ("0000:41:00.4", "H100XM-20C", 20480, ""),
        ("0000:41:00.5", "H100XM-20C", 20480, ""),
    ]


def test_a_vgpu_on_the_gpu_itself_is_called_by_its_uuid_which_is_known_before(told):
    found = told(MDEV, T4, {"profile": "T4-4Q", "count": 2})
    assert len(found) == 2 and all(part.identity and part.name == f"{T4}-{part.identity}" for part in found)


@pytest.mark.parametrize(("example", "gpu", "profile"), [(VFIO, H100, "H100XM-20C"), (MDEV, A100, "A100D-20C")])
def test_functions_whose_addresses_the_device_does_not_tell_before_have_no_names(told, example, gpu, profile):
    zero = {f"{DEVICES}/{gpu}/sriov_{name}": "0" for name in ("offset", "stride")}
    assert told(example, gpu, {"profile": profile, "count": 2}, files=zero) == []


def test_the_instance_behind_a_vgpu_is_told_where_there_is_only_one_that_it_can_be(told):
    found = told(MDEV, A100, {"profiles": {"A100D-3-40C": 1, "A100D-1-10C": 2}})
    below = sorted((part.profile, part.of.rpartition("-")[0]) for part in found)
    assert below == [("A100D-1-10C", ""), ("A100D-1-10C", ""), ("A100D-3-40C", f"{A100}-3g.40gb")]
