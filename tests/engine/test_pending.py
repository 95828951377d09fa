"""
What was accepted and waits for a reset or a reboot: told wherever somebody looks, and no fault anywhere.
"""

from gpuslice import front
from gpuslice import reports
from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.a100 import FIRST
from tests.support.hosts import apply
from tests.support.hosts import config

PLAIN = [{"model": "a100-40gb", "address": FIRST}]


def test_a_mode_that_waits_for_a_reboot_is_told_everywhere(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN, reset="never")
    wanted = pillars.mig(["3g.20gb"])
    assert apply(host, wanted).reboot == [FIRST]
    with Engine(config(host)) as engine:
        [sentence] = engine.health()[FIRST]
        assert sentence.startswith("waits for a reboot: MIG mode becomes enabled at the next reboot: the GPU can't be reset here")
        assert "Reboot the host" not in sentence
        assert engine.health(pending=False) == {FIRST: []}
        [finding] = [each for each in engine.findings() if each["code"].endswith("pending")]
        assert (finding["code"], finding["severity"], finding["todo"]) == ("reboot-pending", "info", "Reboot the host.")
        told = reports.brief(engine.history()[0])
        accepted = f"applied, to come into force at a reboot: {FIRST}"
        assert told["result"] == accepted == reports.whole(engine.history()[0])["result"]
        assert reports.summary(engine, wanted).startswith("waits for a reboot; 1 x NVIDIA A100-SXM4-40GB; no slices; ")
        assert f"waits for a reboot: {FIRST}" in front.planned(engine.plan(wanted))["comment"]


def test_a_mode_that_somebody_else_asked_for_waits_for_a_reset(simulated):
    host = simulated("dgx-a100-40gb", gpus=PLAIN)
    with host.change() as state:
        state["gpus"][FIRST]["pending"] = 1
    with Engine(config(host)) as engine:
        assert engine.health() == {FIRST: ["waits for a reset: MIG mode is disabled and enabled after it"]}
        assert engine.health(pending=False) == {FIRST: []}
        assert [each["code"] for each in engine.findings()] == ["mode-pending"]
    # It is no reason to refuse a change.
    assert apply(host, pillars.mig(["3g.20gb"])).ok
    with Engine(config(host)) as engine:
        assert engine.health() == {FIRST: []}


def test_a_gpu_that_is_ill_is_asked_nothing_more(simulated):
    gpus = [{**PLAIN[0], "health": {"lost": True}}]
    with Engine(config(simulated("dgx-a100-40gb", gpus=gpus))) as engine:
        assert len(engine.health()[FIRST]) == 1
