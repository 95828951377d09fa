"""
What a highstate says of a host that is not ready for it.
"""

import pytest

from tests.engine.test_damage import GPU
from tests.engine.test_damage import WANTED
from tests.engine.test_reconcile import PLAIN
from tests.support import pillars
from tests.support.a100 import AFTER
from tests.support.a100 import FIRST


def test_a_state_directory_that_others_can_write_stops_a_highstate_and_a_replay(minion):
    on = minion("dgx-h100", changes={"gpus": [{"model": "h100-80gb", "address": GPU}], "processes": []}, pillar=WANTED)
    assert all(state.result for state in on.apply("gpu_slicing"))
    on.state_dir.chmod(0o777)
    failed = [state for state in on.apply("gpu_slicing") if state.result is False]
    assert f"chmod go-w {on.state_dir}" in failed[0].comment and "Traceback" not in failed[0].comment
    with pytest.raises(Exception, match=f"chmod go-w {on.state_dir}"):
        on.call("gpu_boot.replay")
    on.state_dir.chmod(0o755)
    assert all(state.result for state in on.apply("gpu_slicing"))


def test_the_state_says_that_a_reboot_is_required(minion):
    on = minion("dgx-a100-40gb", changes={"gpus": PLAIN, "reset": "never"})
    for _ in range(2):
        stages = list(on.apply("gpu_slicing", pillar=pillars.mig(AFTER)))
        assert [stage.result for stage in stages] == [True] * 3
        assert f"Reboot required: {FIRST}" in stages[1].comment
    assert stages[1].changes == {}


def test_what_is_wrong_with_a_gpu_that_can_not_be_sliced_is_told_in_words_and_with_a_code(minion):
    t4, mi210 = "0000:3b:00.0", "0000:c3:00.0"
    sick = [
        {"model": "t4", "address": t4, "health": {"ecc_uncorrected": 3}},
        {"vendor": "amd", "device": "740f", "address": mi210, "sysfs": {"ras/umc_err_count": "ue: 2\nce: 0"}},
    ]
    on = minion("mixed", changes={"gpus": sick})
    words = {
        t4: "3 uncorrected ECC errors since the driver was loaded",
        mi210: "2 uncorrected errors in umc since the driver was loaded",
    }
    assert on.call("gpu.health") == {gpu: [line] for gpu, line in words.items()}
    found = on.call("gpu.findings")
    assert [one["code"] for one in found] == ["nvidia-uncorrectable-ecc", "amd-uncorrectable-ras"]
    assert {one["gpu"]: one["words"] for one in found} == words
    assert [set(one) for one in found] == [{"gpu", "code", "severity", "words", "todo"}] * 2
    assert on.call("gpu.findings", mi210) == found[1:]
