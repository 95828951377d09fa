"""An owner beside us as users meet him: the grain, the table, test mode, a highstate, a function by hand."""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pillars

GPU = "0000:1b:00.0"
LINK = "/etc/systemd/system/multi-user.target.wants/nvidia-mig-manager.service"
WANTED = pillars.mig({"1g.10gb": 2})
AGREED = pillars.mig({"1g.10gb": 2}, slicing={"share_with": ["mig-manager"]})


@pytest.fixture
def on(minion):
    """A minion with one H100 beside NVIDIA's mig-manager."""
    gpu = {"model": "h100-80gb", "address": GPU, "mig": "enabled"}
    return minion("dgx-h100", pillar=WANTED, changes={"gpus": [gpu], "processes": [], "files": {LINK: "[Unit]\n"}})


def test_grain_and_function_name_him(on):
    assert on.grains["gpu"]["owners"] == ["mig-manager"]
    [told] = on.call("gpu_slicing.owners")
    assert told == {
        "owner": "mig-manager", "label": "NVIDIA's mig-manager", "sets": ["mig"], "gpus": [GPU], "agreed": [],
        "seen": ["nvidia-mig-manager.service is enabled"], "todo": "Run 'systemctl disable --now nvidia-mig-manager.service'.",
    }  # fmt: skip
    assert on.call("gpu_slicing.owners", AGREED)[0]["agreed"] == [GPU]
    assert f"mig-manager  mig   {GPU}  -       nvidia-mig-manager.service is enabled" in on.call("gpu_slicing.owners", table=True)


def test_he_is_in_the_plan_and_keeps_a_highstate_from_changing_anything(on):
    for test in (True, False):
        stages = {stage.full_return["__id__"]: stage for stage in on.apply("gpu_slicing", test=test)}
        failed = [stage for stage in stages.values() if stage.result is False and "mig-manager" in stage.comment]
        assert failed and "share_with: [mig-manager]" in failed[0].comment
    assert on.call("gpu.slices") == []
    on.set_pillar(AGREED)
    assert all(stage.result for stage in on.apply("gpu_slicing"))
    assert len(on.call("gpu.slices")) == 2


def test_by_hand_only_the_pillar_agrees(on):
    for function, arguments in (("gpu_mig.create", (GPU, "1g.10gb")), ("gpu_mig.set_mode", (GPU, False))):
        answer = on.call(function, *arguments)
        assert answer["result"] is False and not answer["changes"]
        assert "only a pillar can say so (containers_gpu_slicing:share_with): [mig-manager]." in answer["comment"]
    on.set_pillar(AGREED)
    on.reload()
    assert on.call("gpu_mig.create", GPU, "1g.10gb")["result"] is True


def test_a_wrong_name_is_a_mistake_of_the_pillar(on):
    wrong = pillars.mig({"1g.10gb": 2}, slicing={"share_with": ["mig-manger", "dra-dynamic-mig"]})
    mistakes = on.call("gpu_slicing.validate", wrong)["mistakes"]
    assert "Did you mean 'mig-manager'?" in mistakes[0] and "tears down MIG devices" in mistakes[1]
    # The sentence sends its reader to this function.
    assert "'salt-call gpu_slicing.owners'" in mistakes[0]
    on.set_pillar(wrong)
    [told] = on.call("gpu_slicing.owners")
    assert told["owner"] == "mig-manager" and told["agreed"] == []
    with pytest.raises(CommandExecutionError, match="Did you mean 'mig-manager'"):
        on.call("gpu_slicing.plan")
