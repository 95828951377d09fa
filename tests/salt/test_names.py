"""
Names as a user types and sees them, through the loaders: a rule that matches nothing, a UUID that two GPUs have.
"""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support.stages import machine

FIRST, SECOND = "0000:41:00.0", "0000:a1:00.0"
UUID = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77"
BOARDS = [{"model": "h100-80gb", "address": address, "uuid": UUID} for address in (FIRST, SECOND)]


def rules(*listed):
    return {"containers_gpu_slicing": {"enabled": True, "strategy": "none", "devices": list(listed)}}


def test_a_rule_that_matches_no_gpu_is_seen_wherever_a_pillar_is_looked_at(minion):
    box = minion("dgx-h100", changes={"gpus": [{**BOARDS[0], "mig": "enabled"}]})
    wanted = rules(
        {"match": {"model": "NVIDIA H100*"}, "strategy": "mig", "mig": {"profiles": ["7g.80gb"]}},
        {"match": {"model": "NVIDIA H1OO*"}, "strategy": "mig", "mig": {"profiles": ["1g.10gb"]}},
    )
    odd = "containers_gpu_slicing:devices:1 matches no GPU of this host, which has NVIDIA H100 80GB HBM3."
    assert box.call("gpu_slicing.validate", pillar=wanted) == {"result": True, "mistakes": [], "warnings": [odd]}
    assert f"Warning: {odd}" in box.call("gpu_slicing.plan", pillar=wanted).splitlines()
    assert f"Warning: {odd}" in box.call("gpu_slicing.targets", pillar=wanted)
    assert odd in box.call("gpu_slicing.check", pillar=wanted)["comment"]
    box.set_pillar(wanted)
    for done in (box.apply("gpu_slicing", test=True), box.apply("gpu_slicing")):
        assert all(stage.result is not False for stage in done)
        assert any(odd in stage.comment for stage in done)
    wanted["containers_gpu_slicing"]["devices"].pop()
    assert box.call("gpu_slicing.validate", pillar=wanted) == {"result": True, "mistakes": []}
    assert "matches no GPU" not in box.call("gpu_slicing.plan", pillar=wanted)


@pytest.mark.parametrize("asked", ["gpu.device", "gpu.health", "gpu.holders", "gpu_mig.create 7g.80gb", "gpu_mig.destroy all"])
def test_a_uuid_of_two_gpus_is_refused_by_hand(minion, asked):
    function, *more = asked.split()
    box = minion("dgx-h100", changes={"gpus": BOARDS})
    before = machine(box.host)
    with pytest.raises(CommandExecutionError, match=f"is the UUID of {FIRST} and {SECOND}. Name the GPU by its PCI address"):
        box.call(function, UUID, *more)
    assert machine(box.host) == before
