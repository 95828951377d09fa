"""
Level Zero as a user has it: from the pillar to files and settings, by hand, and stopped at every write by an error or by
``kill -9``.
"""

import json
import os
import signal
import subprocess
import sys

import pytest
import yaml

from gpuslice.engine import Engine
from tests.support import needs
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import config

FLEX, MAX = "0000:8a:00.0", "0000:9a:00.0"
FILES = "/etc/gpu-slicing/environment"
GT = f"/sys/bus/pci/devices/{FLEX}/tile0/gt0"
CAP = "/sys/fs/cgroup/gpu.slice/dmem.max"


def wanted(**section):
    """The pillar that asks for this of the Flex."""
    rule = {"match": {"pci": FLEX}, "strategy": "level-zero", "level_zero": section}
    return {"containers_gpu_slicing": {"enabled": True, "devices": [rule]}}


OLD = wanted(partitions=["0"], ccs_mode=2)
#: Three writes: CCS mode, property, limit of memory; and a file that goes.
NEW = wanted(
    partitions=[], ccs_mode=4, engines={"ccs": {"timeslice_duration_us": 2000}}, vram_slice="gpu.slice", vram_max_mib=512
)
WRITES = 3


def settings_of(host):
    """What the settings are now."""
    return {
        "files": host.listdir(FILES),
        "ccs": host.read(f"{GT}/ccs_mode"),
        "timeslice": host.read(f"{GT}/engines/ccs/timeslice_duration_us"),
        "cap": host.read(CAP).split()[1],
    }


AS_OLD = {"files": [f"{FLEX}.env"], "ccs": "2", "timeslice": "1000", "cap": "max"}
AS_NEW = {"files": [], "ccs": "4", "timeslice": "2000", "cap": str(512 * 2**20)}


def failures(states):
    return [state.comment for state in states if state.result is False]


def test_the_example_pillar(minion, repo):
    pillar = yaml.safe_load((repo / "examples" / "pillar" / "level_zero.sls").read_text(encoding="utf-8"))
    bench = minion("mixed-vendors", pillar)
    before = bench.host.state()
    tested = bench.apply("gpu_slicing", test=True)
    assert not failures(tested) and any(state.result is None for state in tested)
    assert (bench.host.state()["gpus"], bench.host.state()["written"]) == (before["gpus"], before["written"])
    applied = bench.apply("gpu_slicing")
    assert not failures(applied)
    assert [state.changes for state in tested] == [state.changes for state in applied]
    assert any("not isolation" in state.comment for state in applied)
    assert bench.host.listdir(FILES) == [f"{FLEX}.env", f"{MAX}-tile0.env", f"{MAX}-tile1.env"]
    assert bench.host.read(f"{GT}/ccs_mode") == "2"
    for test in (False, True):
        again = bench.apply("gpu_slicing", test=test)
        assert not any(state.changes for state in again) and all(state.result is True for state in again)
    kinds = {(part["gpu"], part["profile"]) for part in bench.call("gpu.slices") if part["kind"] == "environment"}
    assert kinds == {(FLEX, "0"), (MAX, "1.0"), (MAX, "1.1")}


def test_by_hand(minion):
    bench = minion("mixed-vendors")
    assert bench.call("gpu_level_zero.status", FLEX) == {"partitions": {}, "ccs_mode": 1, "environment": {}}
    planned = bench.call("gpu_level_zero.configure", FLEX, partitions=["0"], ccs_mode=4, test=True)
    assert "result" not in planned and bench.host.read(f"{GT}/ccs_mode") == "1"
    done = bench.call("gpu_level_zero.configure", FLEX, partitions=["0"], ccs_mode=4)
    assert done["result"] is True and "not isolation" in done["comment"]
    status = bench.call("gpu_level_zero.status", FLEX)
    assert status["ccs_mode"] == 4
    assert status["environment"][f"{FILES}/{FLEX}.env"]["ZE_AFFINITY_MASK"] == "0"
    assert bench.call("gpu_level_zero.configure", FLEX, ccs_mode=4)["changes"] == {}
    assert bench.call("gpu_level_zero.clear", FLEX)["result"] is True
    assert bench.call("gpu_level_zero.status", FLEX) == {"partitions": {}, "ccs_mode": 1, "environment": {}}


def test_state(minion):
    bench = minion("mixed-vendors")
    assert bench.state("gpu_level_zero.configured", FLEX, ccs_mode=2, test=True).result is None
    made = bench.state("gpu_level_zero.configured", FLEX, ccs_mode=2, partitions=["0"])
    assert made.result is True and "not isolation" in made.comment
    again = bench.state("gpu_level_zero.configured", "a name", gpu=FLEX, ccs_mode=2, partitions=["0"])
    assert again.result is True and again.changes == {} and "not isolation" in again.comment
    wrong = bench.state("gpu_level_zero.configured", FLEX, css_mode=2)
    assert wrong.result is False and "css_mode" in wrong.comment


FLEX_ALONE = {"vendor": "intel", "device": "56c0", "address": FLEX}
HOLDER = {"pid": 12, "command": "Xorg", "unit": "gdm.service", "nodes": ["/dev/dri/card3"]}


@pytest.mark.parametrize(
    ("changes", "section", "words"),
    [
        ({}, {"ccs_mode": 3}, ["ccs_mode 3", "1, 2, 4"]),
        ({}, {"engines": {"ccs": {"job_timeout_ms": 99999}}}, ["99999", "1 to 10000"]),
        ({"processes": [HOLDER]}, {"ccs_mode": 2}, ["pid 12 (Xorg, unit gdm.service)"]),
        ({"gpus": [{**FLEX_ALONE, "engines": {"cslices": 4, "refuses": True}}]}, {"ccs_mode": 2}, ["xe.max_vfs=0"]),
        ({"gpus": [{**FLEX_ALONE, "engines": {"cslices": 1}}]}, {"ccs_mode": 2}, ["no compute slices"]),
        ({}, {"partitions": ["5"]}, ["'5' names device 5", f"0 is {FLEX}"]),
        ({}, {"partitions": ["0.0"]}, ["single one", "Max 1550"]),
        ({"files": {"/sys/fs/cgroup/gpu.slice/dmem.max": ""}}, {"vram_max_mib": 99999, "vram_slice": "gpu.slice"}, ["16384 MiB"]),
    ],
    ids=["no divisor", "out of range", "in use", "PF mode", "no slices", "no device", "no tile", "too much memory"],
)
def test_bad_input_is_a_sentence_and_changes_nothing(minion, changes, section, words):
    bench = minion("mixed-vendors", wanted(**section), changes=changes)
    before = bench.host.state()["gpus"], bench.host.state()["written"]
    for stages in (bench.apply("gpu_slicing"), [bench.state("gpu_level_zero.configured", FLEX, **section)]):
        comment = failures(stages)[0]
        assert FLEX in comment and "Traceback" not in comment
        for word in words:
            assert word in comment
        assert not any(stage.changes for stage in stages)
    assert (bench.host.state()["gpus"], bench.host.state()["written"]) == before


# -- stopped half way ----------------------------------------------------------------------------------------------------
@pytest.fixture
def prepared(simulated):
    """A machine in the old settings."""
    host = simulated("mixed-vendors")
    assert apply(host, OLD).ok and settings_of(host) == AS_OLD
    return host


def test_the_change_and_the_way_back(prepared):
    host = prepared
    assert apply(host, NEW).ok and settings_of(host) == AS_NEW
    assert apply(host, NEW).plan.empty
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert settings_of(host) == AS_OLD


@pytest.mark.parametrize("nth", range(1, WRITES + 1))
def test_a_write_that_fails_undoes_everything(prepared, nth):
    host = prepared
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    result = apply(host, NEW)
    assert not result.ok and FLEX in result.errors[0] and "undone" in result.errors[-1]
    assert settings_of(host) == AS_OLD
    assert apply(host, NEW).ok and settings_of(host) == AS_NEW


def test_a_file_that_cannot_be_removed_undoes_everything(prepared):
    host = prepared
    # The first removal is that of old journal lines.
    host.add_fault({"call": "store_remove", "nth": 2, "error": "EIO"})
    result = apply(host, NEW)
    assert not result.ok and f"{FILES}/{FLEX}.env" in result.errors[0]
    assert settings_of(host) == AS_OLD


POINTS = [("write", nth) for nth in range(1, WRITES + 1)] + [("store_remove", 2)]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_kill_is_finished_by_the_next_run(prepared, call, nth, when):
    host = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, NEW) == signal.SIGKILL
    result = apply(host, NEW)
    assert result.ok and "interrupted" in " ".join(result.warnings)
    assert settings_of(host) == AS_NEW


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_kill_is_undone_by_a_run_that_wants_something_else(prepared, call, nth, when):
    host = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, NEW) == signal.SIGKILL
    result = apply(host, OLD)
    assert result.ok and "undone" in " ".join(result.warnings)
    assert settings_of(host) == AS_OLD


# -- a slice that a boot took away, on real files ------------------------------------------------------------------------
#: What systemd does: the groups of a slice are there when it was started, and no controller that it does not know is on.
SYSTEMCTL = """\
#!/bin/sh
echo "$@" >>"$CALLS"
test "$2" != broken.slice || { echo "Failed to start $2: Unit not found." >&2; exit 5; }
mkdir -p /sys/fs/cgroup/gpu.slice/gpu-batch.slice
echo "cpu memory" >/sys/fs/cgroup/gpu.slice/cgroup.subtree_control
"""
INSIDE = """
import json
from gpuslice import errors
from gpuslice.host.real import RealHost
from gpuslice.model import Gpu
from gpuslice.drivers import dmem
host, gpu = RealHost("/nonexistent"), Gpu("0000:8a:00.0", "intel", "56c0")
with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as handle:
    handle.write("cpu dmem")
said = []
for unit in ("broken.slice", "gpu-batch.slice", "gpu-batch.slice"):
    try:
        dmem.open_slice(host, gpu, unit)
        said.append("")
    except errors.GpuSliceError as err:
        said.append(str(err))
levels = ["", "/gpu.slice"]
print(json.dumps([said, [host.read("/sys/fs/cgroup" + level + "/cgroup.subtree_control") for level in levels]]))
"""


def test_a_slice_is_started_and_the_controller_switched_on_where_it_is_off(tmp_path, repo):
    probe = ["unshare", "-m", "--propagation", "private", "mount", "-t", "tmpfs", "none", "/sys/fs/cgroup"]
    needs.require(needs.lacking("unshare"))
    if os.geteuid() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace with a file system of its own over /sys/fs/cgroup is not allowed here")
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(SYSTEMCTL)
    program.chmod(0o755)
    calls = tmp_path / "calls"
    environment = {
        **os.environ, "CALLS": str(calls), "PYTHONPATH": str(repo / "_utils"), "PATH": f"{program.parent}:{os.environ['PATH']}",
    }  # fmt: skip
    script = 'mount -t tmpfs none /sys/fs/cgroup && exec "$@"'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "x", sys.executable, "-c", INSIDE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said, controls = json.loads(done.stdout)
    assert said == [
        f"GPU {FLEX}: broken.slice could not be started: Failed to start broken.slice: Unit not found. "
        "See 'systemctl status' of it; mend that, or correct its name, and run again.", "", "",
    ]  # fmt: skip
    # The first had it, so nothing was written there; a plain file keeps what was written over its beginning.
    assert controls[0] == "cpu dmem" and controls[1].startswith("+dmem")
    assert calls.read_text().splitlines() == ["start broken.slice", "start gpu-batch.slice"]
