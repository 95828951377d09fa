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


@pytest.fixture
def example(repo):
    """The pillar of the examples."""
    return yaml.safe_load((repo / "examples" / "pillar" / "memory_limits.sls").read_text(encoding="utf-8"))


def test_the_document_is_true(minion, repo, example):
    text = (repo / "docs" / "quotas.md").read_text(encoding="utf-8")
    shown = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0]
    assert yaml.safe_load(shown) == example
    bench = minion("memory-limits", example)
    shown = re.search(r"lines about `trainer`:\n\n((?:    .*\n)+)", text)[1]
    planned = bench.call("gpu_slicing.plan").splitlines()
    assert [line for line in planned if f"    {line}" in shown.splitlines()] == [line[4:] for line in shown.splitlines()]
    tested = "\n".join(state.comment for state in bench.apply("gpu_slicing", test=True)).splitlines()
    assert shown.splitlines()[-1][4:] in tested
    assert not any(state.result is False for state in bench.apply("gpu_slicing"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))
    for consumer in ("trainer", "infer", "render"):
        assert "memory limit" in bench.call("gpu_consumer.check", consumer)["fine"]


@pytest.mark.parametrize(
    ("version", "capacity", "means"),
    [
        ("615.10.02", True, {"trainer": "by NVML's memory limits", "infer": "controller dmem", "render": "controller dmem"}),
        ("590.44.01", True, {"trainer": "advisory", "infer": "controller dmem", "render": "controller dmem"}),
        ("615.10.02", False, {"trainer": "by NVML's memory limits", "infer": "advisory", "render": "advisory"}),
    ],
)
def test_the_same_pillar_says_what_each_host_enforces(minion, repo, example, tmp_path, version, capacity, means):
    host = yaml.safe_load((repo / "examples" / "hosts" / "memory-limits.yaml").read_text(encoding="utf-8"))
    host["driver"]["version"] = version
    if not capacity:
        del host["files"]["/sys/fs/cgroup/dmem.capacity"]
    description = tmp_path / "host.yaml"
    description.write_text(yaml.safe_dump(host), encoding="utf-8")
    bench = minion(str(description), example)
    told = "\n".join(state.comment for state in bench.apply("gpu_slicing", test=True))
    for consumer, by in means.items():
        [line] = re.findall(rf"The limit of \d+ MiB for {consumer} on \S+ is [^\n]*?\.", told)[:1]
        assert by in line, told
    listed = bench.call("grains.item", "gpu")["gpu"]["vram_quota"]
    assert listed == sorted({"nvml" if "NVML" in by else "none" if by == "advisory" else "dmem" for by in means.values()})
