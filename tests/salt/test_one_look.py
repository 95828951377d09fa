"""
One look at the hardware for all stages of a highstate: a session with the vendor's library can take seconds to open, and reading
a host with many slices takes hundreds of calls.
"""

import pytest

from tests.support import pillars
from tests.support.stages import counted
from tests.support.stages import counters

#: Functions of NVML that a reading of MIG calls.
READS = (
    "nvmlInit", "nvmlDeviceGetHandleByPciBusId", "nvmlDeviceGetMigMode", "nvmlDeviceGetGpuInstanceProfileInfo",
    "nvmlDeviceGetGpuInstancePossiblePlacements", "nvmlDeviceGetGpuInstances", "nvmlGpuInstanceGetInfo",
    "nvmlGpuInstanceGetComputeInstanceProfileInfo", "nvmlGpuInstanceGetComputeInstances", "nvmlComputeInstanceGetInfo",
    "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMinorNumber",
)  # fmt: skip
SEVEN = pillars.mig({"1g.10gb": 7})


def calls(minion):
    """Call -> how often, since the last time that this was asked."""
    found = counted(minion.host)
    minion.host.clear_faults()
    for fault in counters(READS):
        minion.host.add_fault(fault)
    return found


@pytest.fixture
def sliced(minion):
    """A DGX H100 with 56 slices, whose calls of NVML are counted from here on."""
    made = minion("dgx-h100", pillar=SEVEN)
    assert all(stage.result for stage in made.apply("gpu_slicing"))
    calls(made)
    return made


def test_a_converged_host_is_read_once_over_all_stages(sliced):
    stages = list(sliced.apply("gpu_slicing"))
    found = calls(sliced)
    assert [stage.result for stage in stages] == [True] * 3 and not any(stage.changes for stage in stages)
    assert found["nvmlInit"] == 1 and sum(found.values()) <= 240, found
    assert "already as wanted" in stages[-1].comment and "Nothing to do" in stages[-1].comment


def test_a_look_without_a_change_is_one_too(sliced):
    stages = list(sliced.apply("gpu_slicing", test=True))
    assert all(stage.result for stage in stages) and calls(sliced)["nvmlInit"] == 1


def test_after_a_change_the_stage_tells_what_the_change_verified(sliced):
    wanted = pillars.mig(["3g.40gb", *["1g.10gb"] * 4])
    stages = list(sliced.apply("gpu_slicing", pillar=wanted))
    changed = calls(sliced)
    assert all(stage.result for stage in stages) and list(stages[1].changes) == ["0000:1b:00.0, 43, 52, 61, 9d, c3, d1, df"]
    assert stages[-1].comment.startswith("8 x NVIDIA H100 80GB HBM3 (") and "already as wanted" in stages[-1].comment
    # One look without the lock, one with it, which the change and its verification share.
    assert changed["nvmlInit"] == 2


def test_by_hand_the_hardware_is_read_anew(sliced):
    assert sliced.call("gpu_slicing.check")["result"] is True
    assert calls(sliced)["nvmlInit"] == 1
    # A pillar of which no stage has read anything.
    assert sliced.call("gpu_slicing.check", pillar=pillars.mig(["7g.80gb"]))["result"] is False
