"""A host that is adopted as it is stays so: what it has, and what it is not divided into."""

import pytest

from gpuslice import policy
from gpuslice.engine import Engine
from tests.support import pillars
from tests.support.hosts import config

OFF = {"strategy": "mig", "mig": {"mode": "disabled"}}
SPX = {"strategy": "partition", "partition": {"compute": "SPX", "memory": "NPS1"}}
NO_VFS = {"strategy": "sriov", "sriov": {"vf_count": 0}}


def exported(host):
    """PCI address -> what its rule says beside its match, and the pillar."""
    with Engine(config(host)) as engine:
        pillar = engine.export()
    rules = {rule["match"]["pci"]: {**rule, "match": {}} for rule in pillar["containers_gpu_slicing"]["devices"]}
    return {address: {key: value for key, value in rule.items() if key != "match"} for address, rule in rules.items()}, pillar


@pytest.mark.parametrize(
    ("example", "said", "change"),
    [
        ("dgx-h100", OFF, pillars.mig({"1g.10gb": 7})),
        ("mi300x-8", SPX, pillars.partition("CPX")),
        ("flex170", NO_VFS, pillars.for_all("sriov", {"vf_count": 2})),
    ],
)
def test_a_gpu_in_one_piece_is_kept_so(simulated, example, said, change):
    host = simulated(example)
    rules, pillar = exported(host)
    assert list(rules.values()) == [said] * len(rules)
    assert policy.parse(pillar).warnings == []
    with Engine(config(host)) as engine:
        assert engine.plan(pillar).empty
        assert engine.apply(change).ok
    with Engine(config(host)) as engine:
        assert len(engine.plan(pillar).changing) == len(rules)
        assert engine.apply(pillar).ok
    assert exported(host)[0] == rules


def test_a_gpu_is_described_by_what_it_can_do_now(simulated, caplog):
    """One board of two hides MIG, which is told in the log; the other one is described all the same."""
    rules, _ = exported(simulated("rtx-pro-6000"))
    assert rules == {"0000:16:00.0": OFF, "0000:ac:00.0": {"strategy": "none"}}
    assert "hide MIG" in caplog.text and "0000:ac:00.0" in caplog.text


def test_a_mode_that_is_about_to_change_is_not_pinned(simulated):
    """An Ampere board whose reset waits: MIG is off now, and nobody knows yet which of the two is wanted."""
    host = simulated("a30-pair", reset="tool")
    lib = host.nvml()
    lib.nvmlInit()
    lib.nvmlDeviceSetMigMode(lib.nvmlDeviceGetHandleByIndex(1), 1)
    lib.nvmlShutdown()
    rules, pillar = exported(host)
    assert rules["0000:a1:00.0"] == {"strategy": "none"}
    with Engine(config(host)) as engine:
        assert engine.plan(pillar).empty


def test_functions_that_gim_makes_unasked_are_left_to_it(simulated):
    """To keep their number would be a change: an option of the module that nobody has written."""
    host = simulated("mi210-gim")
    rules, pillar = exported(host)
    assert set(map(str, rules.values())) == {str({"strategy": "none"})}
    with Engine(config(host)) as engine:
        assert engine.apply(pillars.for_all("sriov", {"vf_count": 1})).ok
    assert set(map(str, exported(host)[0].values())) == {str({"strategy": "sriov", "sriov": {"vf_count": 1}})}
