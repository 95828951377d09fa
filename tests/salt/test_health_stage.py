"""
The stage that looks at the health of GPUs, for whoever asks for it.
"""

import pytest

T4 = "0000:3b:00.0"


@pytest.fixture
def ill(minion):
    """Function of a pillar that gives a minion on a host with an ill GPU."""
    gpus = [{"model": "t4", "address": T4, "health": {"ecc_uncorrected": 3}}]
    return lambda pillar: minion("l4-pair", pillar, changes={"gpus": gpus})


def stage(bench):
    [state] = bench.apply("gpu_slicing.health")
    assert state.changes == {}
    return state.result, state.comment


def test_a_healthy_host_passes(minion):
    assert stage(minion("dgx-h100")) == (True, "Nothing is known to be wrong with 8 GPUs.")


def test_an_ill_gpu_fails_it_and_is_named(ill):
    result, comment = stage(ill({}))
    assert result is False and f"{T4}: " in comment and "3 uncorrected ECC errors" in comment


def test_who_has_switched_the_check_off_is_only_told(ill):
    result, comment = stage(ill({"containers_gpu_state_management": {"health_check": False}}))
    assert result is True and "3 uncorrected ECC errors" in comment


def test_a_mode_that_waits_is_told_and_fails_nothing(minion):
    bench = minion("dgx-a100-40gb", changes={"gpus": [{"model": "a100-40gb", "address": T4}]})
    with bench.host.change() as state:
        state["gpus"][T4]["pending"] = 1
    waits = f"{T4}: waits for a reset: MIG mode is disabled and enabled after it"
    assert stage(bench) == (True, f"Nothing is known to be wrong with 1 GPU.\n{waits}")
    assert bench.call("gpu.health", pending=False) == {T4: []}
