"""Looks at simulated hosts, one after the other: the log, NVML and the kernel's files together."""

import json
import os
import pathlib

import pytest

from gpuslice import errors
from gpuslice import statuses
from gpuslice.engine import Engine
from gpuslice.sim import hardware
from gpuslice.sim import kernel_log
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
MI300X = {"vendor": "amd", "device": "74a1", "address": GPU}
FIRST, SECOND = f"{GPU}-1g.10gb-0", f"{GPU}-1g.10gb-1"


@pytest.fixture
def host(simulated):
    gpus = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": OTHER}]
    made = simulated("dgx-h100", gpus=gpus)
    assert apply(made, pillars.mig(["1g.10gb"] * 7)).ok
    look(made)
    return made


def look(host, gpu=GPU, later=60, quick=False, **settings):
    host.let_pass(later)
    with Engine(config(host)) as engine:
        return engine.watch({"xids": {}, **settings} if settings else None, quick=quick).statuses[gpu]


def words(board):
    return board["status"], sorted(name for name, each in board["slices"].items() if each["status"] != "ok")


def ids(host, name):
    """What the driver calls a slice in its log."""
    with Engine(config(host)) as engine:
        gi, ci = next(part.instance for part in engine.parts() if part.name == name)
    return f"GPU-I:{gi:02d} GPU-CI:{ci:02d}"


def say(host, number, name="", more="pid=77, name=python3, x"):
    """The driver's line on an Xid."""
    host.say(f"NVRM: Xid (PCI:{GPU[:-2]}{f' {ids(host, name)}' if name else ''}): {number}, {more}")


def reset(host):
    with host.change() as state:
        hardware.reset(state, GPU)


def why(host, gpu=GPU):
    with Engine(config(host)) as engine:
        return statuses.why(engine, {}, gpu)[gpu]


def test_a_host_that_is_well_writes_nothing_look_after_look(host):
    before = os.stat(os.path.join(host.state_dir, "health.json")).st_mtime_ns
    assert words(look(host)) == ("ok", []) and words(look(host, quick=True)) == ("ok", [])
    assert os.stat(os.path.join(host.state_dir, "health.json")).st_mtime_ns == before


@pytest.mark.parametrize("quick", [False, True], ids=["with NVML", "files only"])
def test_an_xid_of_one_instance_is_its_own_until_the_driver_asks_for_a_reset_and_is_over_after_it(host, quick):
    say(host, 94, SECOND)
    assert words(look(host, quick=quick)) == ("ok", [SECOND])
    host.set_recovery_action(GPU, "gpu_reset")
    board = look(host, quick=quick)
    assert words(board) == ("failed", sorted(board["slices"])) and board["action"] == "reset"
    assert words(look(host, OTHER, quick=quick)) == ("ok", [])
    reset(host)
    assert apply(host, pillars.mig(["1g.10gb"] * 7)).ok
    assert [look(host, quick=quick)["status"] for _ in range(4)] == ["failed", "failed", "ok", "ok"]
    assert why(host)["reasons"] == []


def readings(host):
    return " ".join(line for line in why(host)["readings"] if "rows" in line)


def test_rows_that_can_not_be_read_are_told_as_they_were_last_read(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "mig": "enabled", "instances": ["1g.10gb"]}])
    assert readings(host) == "remapped memory rows: not readable while the GPU is sliced, and never read before"
    assert apply(host, {"containers_gpu_slicing": {"enabled": True, "strategy": "mig", "mig": {"profiles": []}}}).ok
    look(host)
    assert apply(host, pillars.mig(["1g.10gb"] * 7)).ok
    host.let_pass(7300)
    look(host)
    assert readings(host) == "remapped memory rows: 0 corrected, 0 uncorrected, 0 pending, 0 failed; last read 2 h ago"


def test_a_change_keeps_what_can_not_be_read_after_it(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "health": {"row_remap_pending": False}}])
    look(host)
    host.let_pass(7300)
    assert apply(host, pillars.mig(["1g.10gb"] * 7)).ok
    host.let_pass(3700)
    assert readings(host).endswith("last read 1 h ago")


def test_rows_unread_and_an_error_in_the_log_have_failed(host):
    say(host, 64)
    board = look(host)
    assert board["status"] == "failed" and board["codes"] == ["xid-64"]


def test_an_error_of_an_older_layout_is_told_of_the_slice_that_had_it_then(host):
    """The GPU instance gets another meaning before anybody looks."""
    say(host, 94, FIRST)
    number = ids(host, FIRST)
    host.let_pass(5)
    assert apply(host, pillars.mig(["7g.80gb"])).ok
    host.let_pass(5)
    assert apply(host, pillars.mig(["1g.10gb"] * 7)).ok
    with host.change() as state:
        # Numbers are given anew: the same one is another slice's now.
        log = state["kernel_log"]["records"][-1]
        assert number in log[2]
    board = look(host)
    assert words(board) == ("ok", [FIRST])
    told = why(host)["reasons"]
    assert [each["slice"] for each in told] == [FIRST]


def test_counters_are_judged_by_what_was_added(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "sysfs": {
        "aer_dev_fatal": "TOTAL_ERR_FATAL 3", "aer_dev_nonfatal": "TOTAL_ERR_NONFATAL 2"}}])  # fmt: skip
    # What the bus had counted before anybody looked says nothing.
    assert look(host)["status"] == look(host)["status"] == "ok"
    host.write(f"/sys/bus/pci/devices/{GPU}/aer_dev_fatal", "TOTAL_ERR_FATAL 4")
    board = look(host)
    assert (board["status"], board["codes"]) == ("degraded", ["pci-aer-fatal"])
    assert "1 fatal PCIe errors since the last look, 4 in all" in board["sentence"]
    assert [look(host)["status"] for _ in range(3)] == ["degraded", "degraded", "ok"]


def test_a_counter_that_goes_back_is_a_new_beginning(simulated):
    files = {"ras/umc_err_count": "ue: 5\nce: 0"}
    host = simulated("dgx-h100", gpus=[{**MI300X, "sysfs": files}])
    assert look(host)["status"] == "failed"
    host.write(f"/sys/bus/pci/devices/{GPU}/ras/umc_err_count", "ue: 0\nce: 0")
    assert [look(host)["status"] for _ in range(3)] == ["failed", "failed", "ok"]


@pytest.mark.parametrize("text", ["Query currently inaccessible", "ue: many\nce: 0", "", "ue: 99999999999999999999999999999\n"])
def test_words_instead_of_numbers_are_unknown(simulated, text):
    host = simulated("dgx-h100", gpus=[{**MI300X, "sysfs": {"ras/umc_err_count": "ue: 0\nce: 0"}}])
    assert look(host)["status"] == "ok"
    host.write(f"/sys/bus/pci/devices/{GPU}/ras/umc_err_count", text)
    assert [look(host)["status"] for _ in range(2)] == ["ok", "ok"]
    assert "ras uncorrected: 0" in why(host)["readings"]


def test_a_link_that_lost_lanes_is_told_after_two_looks(simulated):
    links = {"current_link_width": "16", "max_link_width": "16"}
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU, "sysfs": links}])
    assert look(host)["status"] == "ok"
    host.write(f"/sys/bus/pci/devices/{GPU}/current_link_width", "8")
    assert [look(host)["status"] for _ in range(2)] == ["ok", "degraded"]
    host.write(f"/sys/bus/pci/devices/{GPU}/current_link_width", "16")
    assert [look(host)["status"] for _ in range(3)] == ["degraded", "degraded", "ok"]


def test_a_gpu_that_is_lost_and_one_that_has_gone(host):
    with host.change() as state:
        state["gpus"][GPU]["health"]["lost"] = True
    board = look(host)
    assert (board["status"], board["action"]) == ("lost", "reboot") and set(board["codes"]) == {"nvidia-gpu-lost"}
    assert all(each["status"] == "lost" for each in board["slices"].values()) and board["slices"]
    host.reboot()
    assert [look(host)["status"] for _ in range(3)] == ["lost", "lost", "ok"]


def test_a_gpu_that_is_on_the_bus_no_more_is_lost_and_not_forgotten(host):
    with host.change() as state:
        gone = state["gpus"].pop(GPU)
    board = look(host)
    assert (board["status"], board["codes"]) == ("lost", ["pci-gone"])
    with host.change() as state:
        state["gpus"][GPU] = gone
    assert [look(host)["status"] for _ in range(3)] == ["lost", "lost", "ok"]


def test_one_that_was_taken_out_while_the_host_was_off_is_none_of_it_any_more(host):
    host.reboot()
    with host.change() as state:
        state["gpus"].pop(GPU)
    with Engine(config(host)) as engine:
        assert list(engine.watch().statuses) == [OTHER]


def test_a_log_that_wraps_between_two_looks_is_told_and_nothing_is_over_by_it(host):
    say(host, 94, SECOND)
    look(host)
    for _ in range(kernel_log.RING + 1):
        host.say("NVRM: something")
    assert words(look(host)) == ("ok", [SECOND])
    assert any("were overwritten before anybody saw them" in note for note in why(host)["notes"])


def test_a_log_that_can_not_be_read_is_told(host):
    host.add_fault({"call": "kernel_log", "error": "EPERM", "times": 0})
    assert look(host)["status"] == "ok"
    assert any("can't be read (Operation not permitted)" in note for note in why(host)["notes"])


@pytest.mark.parametrize("jump", [-10**7, 10**7])
def test_a_clock_that_jumps_neither_ends_nor_begins_anything(host, jump):
    say(host, 119, more="Timeout")
    with host.change() as state:
        # Of a driver that does not tell what it asks for.
        state["host"]["nvml_level"] = 535
    assert look(host)["status"] == "failed"
    host.set_clock(jump)
    assert look(host)["status"] == "failed"
    reset(host)
    host.say("NVRM: Xid (PCI:0000:1b:00): 154, GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)")
    assert [look(host)["status"] for _ in range(3)] == ["failed", "failed", "ok"]


def test_a_reset_of_ours_is_seen(simulated):
    gpu = {"model": "a100-40gb", "address": GPU}
    host = simulated("dgx-a100-40gb", gpus=[gpu], nvml_level="r535", reset="tool")
    look(host)
    say(host, 119, more="Timeout")
    assert look(host)["status"] == "failed"
    assert apply(host, pillars.mig(["3g.20gb"])).ok
    assert [look(host)["status"] for _ in range(3)] == ["failed", "failed", "ok"]


DAMAGED = ["{", "[]", '{"format": 1, "cursor": 5}', '{"format": 1, "conditions": [{"gpu": "x", "code": "y"}]}']


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_record_is_told_once_and_begun_anew(host, text):
    path = os.path.join(host.state_dir, "health.json")
    with open(path, "w") as handle:
        handle.write(text)
    assert any("can't be used" in note for note in why(host)["notes"])
    assert look(host)["status"] == "ok" and json.loads(pathlib.Path(path).read_text())["format"] == 1


def test_a_record_of_a_newer_version_is_left_alone(host):
    path = os.path.join(host.state_dir, "health.json")
    with open(path, "w") as handle:
        handle.write('{"format": 99}')
    with pytest.raises(errors.NewerFormat, match="newer version"):
        look(host)
    assert json.loads(pathlib.Path(path).read_text()) == {"format": 99}


def test_a_disk_that_is_full_is_a_sentence(host):
    say(host, 94, SECOND)
    host.add_fault({"call": "store_write", "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable, match=r"health of the GPUs could not be noted in .*health\.json: No space left"):
        look(host)
    # It is seen again by the next one.
    assert words(look(host)) == ("ok", [SECOND])


def test_a_change_goes_well_though_its_record_for_health_can_not_be_written(host):
    os.chmod(os.path.join(host.state_dir, "health.json"), 0o600)
    with open(os.path.join(host.state_dir, "health.json"), "w") as handle:
        handle.write('{"format": 99}')
    assert apply(host, pillars.mig(["7g.80gb"])).ok


def test_what_the_pillar_said_of_xids_holds_for_those_who_have_no_pillar(host):
    look(host, xids={"94": "ignore"}, clean_looks=2)
    say(host, 94, SECOND)
    assert words(look(host, quick=True)) == ("ok", [])
    look(host, xids={}, clean_looks=2)
    say(host, 94, SECOND)
    assert [words(look(host, quick=True)) for _ in range(3)] == [("ok", [SECOND]), ("ok", [SECOND]), ("ok", [])]


# -- news --------------------------------------------------------------------------------------------------------------
def news(host):
    host.let_pass(60)
    with Engine(config(host)) as engine:
        return [(one["tag"], one["was"], one["status"], one["action"]) for one in statuses.news(engine)]


def test_each_change_is_news_once(host):
    assert news(host) == []
    say(host, 94, SECOND)
    assert news(host) == [(SECOND, "ok", "degraded", "restart_program")]
    assert news(host) == []
    # One who asks in between takes nothing from it.
    look(host)
    assert news(host) == [(SECOND, "degraded", "ok", "none")] and news(host) == []


def test_what_nvml_alone_tells_is_news_after_somebody_asked_it(host):
    with host.change() as state:
        state["gpus"][GPU]["health"]["recovery_action"] = "node_reboot"
    assert news(host) == []
    look(host)
    assert (GPU, "ok", "failed", "reboot") in news(host) and news(host) == []


def test_it_opens_no_device(host):
    with Engine(config(host)) as engine:
        statuses.news(engine)
        assert not engine.host.attached() and engine.tools.made() == []


def test_who_has_the_record_keeps_the_news_for_later(host):
    from gpuslice.records.health import HealthRecord

    say(host, 94, SECOND)
    with HealthRecord(host).held():
        assert news(host) == []
    assert news(host) == [(SECOND, "ok", "degraded", "restart_program")]


# -- economy -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("work", [Engine.watch, lambda engine: statuses.judged(engine, {})], ids=["a look", "a stage"])
def test_what_faults_and_signs_both_go_by_is_asked_of_each_gpu_once(host, work):
    with Engine(config(host)) as engine:
        work(engine)
        calls = engine.tools.sessions.nvml.calls
    names = ("nvmlDeviceGetFieldValues", "nvmlDeviceGetRemappedRows", "nvmlDeviceGetTotalEccErrors")
    assert {name: calls[name] for name in names} == dict.fromkeys(names, 2)
