"""
Passthrough as a user has it: from the pillar to bound GPUs, by hand, and stopped at every single write by an error or by
``kill -9``.
"""

import signal

import pytest
import yaml

from gpuslice.engine import Engine
from tests.support.crash import apply_in_child
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config

H100, MI300X, FLEX, MAX = GPUS = ("0000:1b:00.0", "0000:3d:00.0", "0000:8a:00.0", "0000:9a:00.0")
OWN = dict(zip(GPUS, ("nvidia", "amdgpu", "xe", "i915"), strict=True))
GIVEN = dict.fromkeys(GPUS, "vfio-pci")
PILLAR = {"containers_gpu_slicing": {"enabled": True, "strategy": "passthrough"}}
#: One GPU goes, so that each write has its number: override, unbind, probe.
ONE = {"containers_gpu_slicing": {"enabled": True, "devices": [{"match": {"pci": H100}, "strategy": "passthrough"}]}}
WRITES = 3
NOTHING = {"containers_gpu_slicing": {"enabled": True}}


def drivers(host):
    """PCI address -> driver."""
    return {address: host.readlink(f"/sys/bus/pci/devices/{address}/driver") for address in GPUS}


def failures(states):
    return [state.comment for state in states if state.result is False]


def test_a_pillar_gives_every_gpu_away(minion, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "passthrough.sls").read_text(encoding="utf-8"))
    assert pillar == PILLAR
    bench = minion("mixed-vendors", pillar)
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and drivers(bench.host) == OWN
    assert any(state.result is None for state in tested)
    applied = bench.apply("gpu_slicing")
    assert not failures(applied) and drivers(bench.host) == GIVEN
    assert [state.changes for state in tested] == [state.changes for state in applied]
    bench.reload()
    assert [gpu["driver"] for gpu in bench.grains["gpu"]["devices"]] == ["vfio-pci"] * 4
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
    slices = bench.call("gpu.slices")
    assert [part["kind"] for part in slices] == ["passthrough"] * 4
    bench.set_pillar(bench.call("gpu_slicing.export"))
    assert not any(state.changes for state in bench.apply("gpu_slicing"))


def test_by_hand(minion):
    bench = minion("mixed-vendors")
    status = bench.call("gpu_passthrough.status", H100)
    assert status == {"driver": "nvidia", "group": {"number": "2", "members": {H100: "nvidia"}}}
    planned = bench.call("gpu_passthrough.bind", H100, test=True)
    assert "result" not in planned and planned["changes"][H100]["new"]["driver"] == "vfio-pci"
    assert drivers(bench.host) == OWN
    assert bench.call("gpu_passthrough.bind", H100)["result"] is True
    assert drivers(bench.host) == {**OWN, H100: "vfio-pci"}
    assert bench.call("gpu_passthrough.bind", H100)["changes"] == {}
    assert bench.call("gpu_passthrough.release", H100)["result"] is True
    assert drivers(bench.host) == OWN


def test_states(minion):
    bench = minion("mixed-vendors")
    bound = bench.state("gpu_passthrough.bound", MI300X)
    assert bound.result is True and list(bound.changes) == [MI300X]
    assert bench.state("gpu_passthrough.bound", MI300X).changes == {}
    assert bench.state("gpu_passthrough.bound", "vm", gpu=MI300X, test=True).result is True
    assert bench.state("gpu_passthrough.released", MI300X, test=True).result is None
    assert bench.state("gpu_passthrough.released", MI300X).result is True
    assert drivers(bench.host) == OWN
    wrong = bench.state("gpu_passthrough.bound", MI300X, frce=True)
    assert wrong.result is False and "frce" in wrong.comment


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"iommu": False}, ["IOMMU of this host is off", "intel_iommu=on"]),
        (
            {
                "gpus": [{"model": "h100-80gb", "device": "2330", "address": H100, "iommu_group": 7}],
                "other_pci": [{"address": "0000:1b:00.1", "class": "040300", "driver": "snd_hda_intel", "iommu_group": 7}],
            },
            ["IOMMU group 7 is not clean", "0000:1b:00.1 (snd_hda_intel)"],
        ),
        ({"processes": [{"pid": 4, "command": "train.py", "gpu": H100}]}, ["pid 4 (train.py)"]),
        ({"tools": ["lspci", "nvidia-smi"]}, ["modprobe is not installed"]),
        ({"privileged": False, "modules": {"vfio_pci": 0}}, ["can't be written", "Run as root"]),
    ],
    ids=["iommu off", "shared group", "in use", "no modprobe", "not root"],
)
def test_bad_input_is_a_sentence_and_changes_nothing(minion, changes, words):
    bench = minion("mixed-vendors", ONE, changes=changes)
    before = bench.host.state()["gpus"], bench.host.state()["written"]
    for stages in (bench.apply("gpu_slicing"), [bench.state("gpu_passthrough.bound", H100)]):
        comment = failures(stages)[0]
        assert H100 in comment and "Traceback" not in comment
        for word in words:
            assert word in comment
        assert not any(stage.changes for stage in stages)
    assert (bench.host.state()["gpus"], bench.host.state()["written"]) == before


# -- stopped half way ----------------------------------------------------------------------------------------------------
@pytest.fixture
def bench(simulated):
    """A machine with GPUs of three vendors."""
    host = simulated("mixed-vendors")
    return host


def is_old(host):
    return drivers(host) == OWN and _traces(host) == ("(null)", [])


def is_new(host):
    return drivers(host) == {**OWN, H100: "vfio-pci"} and _traces(host) == ("vfio-pci", [H100])


def _traces(host):
    override = host.read(f"/sys/bus/pci/devices/{H100}/driver_override")
    return override, host.listdir("/run/gpu-slicing/passthrough")


@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_a_write_that_fails_undoes_everything(bench, nth):
    host = bench
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    result = apply(host, ONE)
    assert not result.ok and "undone" in result.errors[-1] and H100 in result.errors[0]
    assert is_old(host)
    assert apply(host, ONE).ok and is_new(host)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), [("write", nth) for nth in range(1, WRITES + 1)] + [("run", 1), ("store_write", 3)])
def test_kill_is_finished_by_the_next_run(bench, call, nth, when):
    host = bench
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, ONE) == signal.SIGKILL
    result = apply(host, ONE)
    assert result.ok and "interrupted" in " ".join(result.warnings)
    assert is_new(host)
    assert apply(host, ONE).plan.empty
    # What it goes back to has survived as well.
    assert release(host).ok and is_old(host)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_kill_is_undone_by_a_run_that_wants_something_else(bench, nth, when):
    host = bench
    host.add_fault({"call": "write", "nth": nth, "kill": when})
    assert apply_in_child(host, ONE) == signal.SIGKILL
    other = {"containers_gpu_slicing": {"enabled": True, "devices": [{"match": {"pci": FLEX}, "strategy": "passthrough"}]}}
    result = apply(host, other)
    assert result.ok and "undone" in " ".join(result.warnings)
    assert drivers(host) == {**OWN, FLEX: "vfio-pci"}
    assert _traces(host) == ("(null)", [FLEX])


def release(host):
    with Engine(config(host)) as engine:
        return engine.reconciler().apply(engine.wanted("passthrough", H100, {"bound": False}))


@pytest.mark.slow
@pytest.mark.parametrize("noted", [True, False], ids=["noted", "bound by hand"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_kill_of_a_release_is_finished(bench, nth, when, noted):
    host = bench
    assert apply(host, ONE).ok
    if not noted:
        host.store_remove(f"/run/gpu-slicing/passthrough/{H100}")
    host.add_fault({"call": "write", "nth": nth, "kill": when})
    assert in_child(lambda: release(host)) == signal.SIGKILL
    assert release(host).ok and is_old(host)
    assert release(host).plan.empty
