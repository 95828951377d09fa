"""
A limit of GPU memory through Salt: planned by test mode, set by the highstate, changed by nothing the second time.
"""

import re

import pytest
import yaml
from salt.exceptions import CommandExecutionError

from gpuslice.sim import cgroups
from tests.support import quotas
from tests.support.quotas import limit_now
from tests.support.quotas import limited


@pytest.mark.parametrize("name", list(quotas.ALL))
def test_from_the_pillar_to_the_limit_and_back(minion, name):
    machine = quotas.ALL[name]
    bench = minion(machine.example, limited(machine), changes=machine.changes)
    before = bench.host.state()["written"]
    tested = bench.apply("gpu_slicing", test=True)
    assert not any(state.result is False for state in tested) and any(state.result is None for state in tested)
    told = "\n".join(state.comment for state in tested)
    assert f"to 8192 MiB of {machine.gpu}" in told and f"is enforced by {machine.means}" in told
    assert bench.host.state()["written"] == before and limit_now(bench.host, machine) is None
    applied = bench.apply("gpu_slicing")
    assert not any(state.result is False for state in applied) and limit_now(bench.host, machine) == 8192
    again = bench.apply("gpu_slicing")
    assert all(state.result is True for state in again) and not any(state.changes for state in again)
    assert bench.call("gpu_slicing.check")["result"] is True
    with bench.host.change() as state:
        cgroups.forget(state, [machine.gpu])
    found = bench.call("gpu_slicing.check")
    assert found["result"] is False and "8192 MiB" in found["comment"]
    assert bench.call("gpu_slicing.apply")["result"] is True and limit_now(bench.host, machine) == 8192


def test_by_hand(minion):
    machine = quotas.INTEL
    bench = minion(machine.example, changes=machine.changes)
    wanted = {"kind": "service", "unit": quotas.TRAINER, "resource_limits": {"vram_mib": 1024}}
    planned = bench.call("gpu_consumer.serve", "trainer", **wanted, test=True)
    assert "result" not in planned and limit_now(bench.host, machine) is None
    assert bench.call("gpu_consumer.serve", "trainer", **wanted)["result"] is True
    assert limit_now(bench.host, machine) == 1024
    assert bench.call("gpu_consumer.list")["trainer"]["limits"]["vram_mib"].startswith("1024 of each GPU, enforced")
    too_much = {**wanted, "resource_limits": {"vram_mib": 999999}}
    with pytest.raises(CommandExecutionError, match="24480 MiB"):
        bench.call("gpu_consumer.serve", "trainer", **too_much)
    assert limit_now(bench.host, machine) == 1024
    assert bench.call("gpu_consumer.dismiss", "trainer")["result"] is True
    assert limit_now(bench.host, machine) is None
    assert not bench.host.exists("/sys/fs/cgroup/gpuslicing.slice/gpuslicing-trainer.slice")


def test_the_document_is_true(minion, repo, tmp_path):
    text = (repo / "docs" / "quotas.md").read_text(encoding="utf-8")
    pillar, _, host = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    description = tmp_path / "memory-limits.yaml"
    description.write_text(host, encoding="utf-8")
    bench = minion(str(description), yaml.safe_load(pillar))
    told = "\n".join(state.comment for state in bench.apply("gpu_slicing", test=True))
    for line in re.findall(r"^ +((?:limit|The limit) .*)$", text, re.MULTILINE):
        assert line in told, line
    assert not any(state.result is False for state in bench.apply("gpu_slicing"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))
    for consumer in ("trainer", "infer", "render"):
        assert "memory limit" in bench.call("gpu_consumer.check", consumer)["fine"]
