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
