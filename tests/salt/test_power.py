"""
Power caps as a user has them: from the pillar beside a strategy, by hand, as a state, and after a boot.
"""

import pytest
from salt.exceptions import CommandExecutionError

from tests.support import pages
from tests.support import pillars

ONE = "0000:1b:00.0"


@pytest.fixture
def example():
    """The example pillar, beside MIG."""
    found = pillars.example("power")
    found["containers_gpu_slicing"] |= {"strategy": "mig", "mig": {"profiles": {"1g.10gb": 2}}}
    return found


def failures(states):
    return [state.comment for state in states if state.result is False]


def watts(bench):
    return {found["asked_watts"] for found in bench.call("gpu_power.status", "all").values()}


def test_a_pillar_is_tested_applied_and_then_met_also_after_a_boot(minion, example):
    bench = minion("dgx-h100", example)
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and watts(bench) == {700}
    applied = bench.apply("gpu_slicing")
    assert not failures(applied) and watts(bench) == {560} and len(bench.call("gpu.slices")) == 16
    assert [state.changes for state in tested] == [state.changes for state in applied]
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
    bench.host.reboot()
    assert watts(bench) == {700}
    assert bench.call("gpu_boot.replay", wait=0)["result"] is True and watts(bench) == {560}
    bench.set_pillar(bench.call("gpu_slicing.export"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_a_failure_puts_back_slices_and_caps(minion, example):
    bench = minion("dgx-h100", {**example, "containers_gpu_state_management": {"on_failure": "host"}})
    bench.host.add_fault({"call": "nvmlDeviceSetPowerManagementLimit", "nth": 3, "error": "NVML_ERROR_UNKNOWN"})
    assert failures(bench.apply("gpu_slicing"))
    assert watts(bench) == {700} and bench.call("gpu.slices") == []


def test_by_hand_and_as_a_state(minion):
    bench = minion("dgx-h100")
    planned = bench.call("gpu_power.configure", ONE, 400, test=True)
    assert planned["changes"][ONE]["new"] == {"power_limit": "400 W"} and watts(bench) == {700}
    assert bench.call("gpu_power.configure", ONE, 400)["result"] is True and watts(bench) == {400, 700}
    assert "capped at 400 W" in bench.call("gpu.map")[ONE]
    plan = bench.call("gpu_slicing.plan", pillar={"containers_gpu_slicing": {"enabled": True}})
    assert "power cap is on record (capped at 400 W), which the pillar does not ask for" in plan
    for function, given in (("configured", {"percent": 50}), ("removed", {})):
        first, again = (bench.state(f"gpu_power.{function}", ONE, **given) for _ in range(2))
        assert first.result is True and first.changes and again.result is True and not again.changes
    assert watts(bench) == {700}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Nothing is asked for. Give limit_watts or percent"),
        ({"limit_watts": 400, "percent": 50}, "percent says how much, and so does limit_watts"),
        ({"limit_watts": 5}, "takes at least 200 W and at most 700 W, and has 700 W from its vendor"),
        ({"percent": "half"}, "percent"),
    ],
)
def test_what_can_not_be_is_a_sentence(minion, given, said):
    bench = minion("dgx-h100")
    with pytest.raises(CommandExecutionError) as caught:
        bench.call("gpu_power.configure", ONE, **given)
    assert said in str(caught.value) and watts(bench) == {700}


def test_the_page_shows_what_is_said(minion):
    page = pages.page("energy")
    bench = minion("dgx-h100")
    planned = bench.call("gpu_power.configure", ONE, 400, test=True)["comment"]
    shown = pages.printed(f"gpu_power.configure \"'{ONE}'\" 400 test=True")
    assert [line for line in planned.splitlines() if line.startswith("  ")] == shown
    with pytest.raises(CommandExecutionError) as caught:
        bench.call("gpu_power.configure", "all", percent=10)
    assert "A power limit of 70 W (10 % of 700 W) is wanted, and NVIDIA H100 80GB HBM3 takes at least 200 W and at most" in page
    assert "A power limit of 70 W (10 % of 700 W) is wanted" in str(caught.value)
