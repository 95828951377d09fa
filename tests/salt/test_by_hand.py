"""
What users type, through Salt's loaders.
"""

import pytest
from salt.exceptions import CommandExecutionError

from tests.engine.test_compute_instances import GPU
from tests.engine.test_compute_instances import H100
from tests.engine.test_vgpu_shared import BOARD
from tests.engine.test_vgpu_shared import GPU as SERVER
from tests.engine.test_vgpu_shared import LONG


def test_typed_it_destroys_what_it_says(minion):
    box = minion("dgx-h100", changes={"gpus": [H100]})
    [uuid] = [part["uuid"] for part in box.call("gpu_mig.instances", GPU) if part["profile"] == "1c.3g.40gb"][1:2]
    answer = box.call("gpu_mig.destroy", GPU, uuid)
    assert answer["result"] and "destroys 1," in answer["comment"]
    left = [part["profile"] for part in box.call("gpu_mig.instances", GPU)]
    assert sorted(left) == ["1c.3g.40gb", "1c.3g.40gb", "1g.10gb"]


def test_a_type_by_hand_and_what_there_is(minion):
    box = minion("vgpu-host-vfio", changes={"gpus": [BOARD]})
    assert box.call("gpu_vgpu.types", SERVER)[f"{LONG}DC-1-12C"]["mig_profile"] == "1g.24gb+gfx"
    box.call("gpu_vgpu.set_vgpus", SERVER, "DC-48C", 1)
    [one] = box.call("gpu_vgpu.vgpus", SERVER)
    assert one["profile"] == f"{LONG}DC-48C"
    with pytest.raises(CommandExecutionError, match=f"has no vGPU type DC-47C. Did you mean {LONG}DC-48"):
        box.call("gpu_vgpu.set_vgpus", SERVER, "DC-47C", 1)


def test_profiles_are_a_table_for_people_and_modes_the_words_of_the_pillar(minion):
    bench = minion("dgx-h100")
    gpu = "0000:1b:00.0"
    assert bench.call("gpu_mig.set_mode", gpu, "enabled")["result"] is True
    assert bench.call("gpu_mig.create", gpu, "3g.40gb")["result"] is True
    found, table = bench.call("gpu_mig.profiles", gpu), bench.call("gpu_mig.profiles", gpu, table=True).splitlines()
    assert table[0].split()[:4] == ["profile", "free/total", "memory", "SMs"] and len(table) == len(found) + 2
    [line] = [line.split() for line in table if line.startswith("3g.40gb ")]
    assert line[:5] == ["3g.40gb", "1/2", "39.5", "GiB", "60"] and line[-1] == "4}:4"
    assert found["3g.40gb"]["engines"] == {"copy": 3, "decoder": 3, "encoder": 0, "jpeg": 3, "optical_flow": 0}
    assert bench.state("gpu_mig.mode", gpu, enabled="disabled").result is True
    assert bench.call("gpu_mig.mode", gpu) == {"current": False, "pending": False}
