"""
The stage that looks at the health of GPUs, for whoever asks for it.
"""

import pytest

T4 = "0000:3b:00.0"


@pytest.fixture
def ill(minion):
    """Function of the health of a GPU and of a pillar that gives a minion with that GPU."""

    def made(health, **keys):
        gpus = [{"model": "t4", "address": T4, "health": health}]
        return minion("l4-pair", {"containers_gpu_state_management": {"health": keys}}, changes={"gpus": gpus})

    return made


def stage(bench):
    [state] = bench.apply("gpu_slicing.health")
    assert state.changes == {}
    return state.result, state.comment


def test_a_healthy_host_passes(minion):
    assert stage(minion("dgx-h100")) == (True, "Nothing is known to be wrong with 8 GPUs.")


def test_a_gpu_that_failed_fails_it_and_is_named(ill):
    result, comment = stage(ill({"recovery_action": "node_reboot"}))
    assert result is False and comment == f"GPU {T4}: the driver asks for a reboot. Drain the host and reboot it."


@pytest.mark.parametrize(("fail_on", "passes"), [("never", True), ("failed", True), ("degraded", False)])
def test_the_pillar_says_from_which_status_on_it_fails(ill, fail_on, passes):
    result, comment = stage(ill({"ecc_uncorrected": 3}, fail_on=fail_on))
    assert result is passes and f"GPU {T4}: 3 uncorrected ECC errors since the last look, 3 in all" in comment


def test_who_never_wants_it_to_fail_is_told(ill):
    result, comment = stage(ill({"lost": True}, fail_on="never"))
    assert result is True and f"GPU {T4}: " in comment and "fallen off the bus" in comment


def test_a_mistake_in_the_pillar_is_a_sentence(ill):
    result, comment = stage(ill({}, fail_on="sometimes"))
    assert result is False and "containers_gpu_state_management:health:fail_on" in comment and "sometimes" in comment


def test_a_mode_that_waits_is_told_and_fails_nothing(minion):
    bench = minion("dgx-a100-40gb", changes={"gpus": [{"model": "a100-40gb", "address": T4}]})
    with bench.host.change() as state:
        state["gpus"][T4]["pending"] = 1
    result, comment = stage(bench)
    assert result is True and comment.startswith("Nothing is known to be wrong with 1 GPU.\n")
    assert f"GPU {T4}: waits for a reset: MIG mode is disabled and enabled after it." in comment
    assert bench.call("gpu.health", pending=False) == {T4: []}
