"""
What a boot brings back: the record of verified layouts, the replay of it, its loop guard, and the unit that calls it.
"""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.boot import replay as boot
from gpuslice.boot import unit
from gpuslice.engine import Engine
from gpuslice.inventory import command_line
from gpuslice.model import Key
from gpuslice.records import lock
from gpuslice.records import verified
from gpuslice.records.attempts import DAY
from gpuslice.records.attempts import LIMIT
from gpuslice.records.attempts import Attempts
from gpuslice.records.history import REPLAY
from gpuslice.records.history import History
from tests.support import crash
from tests.support import needs
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.techniques import mig_targets

FIRST, SECOND = "0000:41:00.0", "0000:a1:00.0"
H100 = ("0000:1b:00.0", "0000:43:00.0")
KEYS = tuple(Key(address, "mig") for address in H100)
GIVEN = Key(FIRST, "passthrough")
HOPPER = [{"model": "h100-80gb", "address": address} for address in H100]
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"
EMPTY = {"enabled": False, "instances": []}
LAYOUT = ["3g.40gb@4", "2g.20gb@0", "1g.10gb@2"]


def replay(host, **kwargs):
    with Engine(config(host)) as engine:
        return boot.replay(engine, **{"wait": 0, **kwargs})


def layouts(host):
    """PCI address -> layout with placements, of every GPU that can do MIG."""
    with Engine(config(host)) as engine:
        mig = engine.tools.get("mig")
        return {gpu.address: mig.layout(mig.observe(gpu)) for gpu in engine.gpus if mig.supports(gpu)}


def entries(host):
    """Key -> entry of the record."""
    return verified.Verified(host).entries()


def noted(host):
    """PCI address -> layout on record, by MIG."""
    found = entries(host)
    assert {key.technique for key in found} <= {"mig"} and all(
        entry["addresses"] == [key.subject] for key, entry in found.items()
    )
    return {key.subject: entry["layout"] for key, entry in found.items()}


@pytest.fixture
def hopper(simulated):
    """Two H100 that were sliced and have gone through a reboot: (host, layouts before the reboot)."""
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    before = layouts(host)
    host.reboot()
    assert all(found == {"enabled": False, "instances": []} for found in layouts(host).values())
    return host, before


# -- the record ----------------------------------------------------------------------------------------------------------
def test_a_verified_change_is_on_record_with_its_generation(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    result = apply(host, pillars.mig(LAYOUT, stop_units=["dcgm-exporter.service"]))
    found = entries(host)
    assert set(found) == set(KEYS)
    for key, entry in found.items():
        assert entry["generation"] == result.generation == 1
        assert entry["layout"] == layouts(host)[key.subject]
        assert entry["addresses"] == [key.subject]
        rules = {"stop_units": ["dcgm-exporter.service"], "unload_modules": [], "health_check": True, "share_with": []}
        assert entry["rules"] == rules


def test_a_host_that_is_found_as_wanted_is_on_record_too_and_written_once(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    path = pathlib.Path(verified.Verified(host).path)
    path.unlink()
    assert apply(host, pillars.mig(LAYOUT)).plan.empty
    first = path.stat()
    assert entries(host)[KEYS[0]]["generation"] is None
    assert apply(host, pillars.mig(LAYOUT)).plan.empty
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)


def test_a_change_that_fails_leaves_the_record_as_it_was(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    before = noted(host)
    host.add_fault({"call": "nvmlDeviceCreateGpuInstanceWithPlacement", "nth": 2, "error": "NVML_ERROR_UNKNOWN"})
    assert not apply(host, pillars.mig(["7g.80gb"], on_failure="host")).ok
    assert noted(host) == before == layouts(host)


def test_of_a_change_that_fails_on_one_gpu_the_other_one_is_on_record_as_changed(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    before = layouts(host)
    host.add_fault({"call": CREATE, "gpu": H100[0], "error": "NVML_ERROR_UNKNOWN"})
    assert not apply(host, pillars.mig(["7g.80gb"])).ok
    found = noted(host)
    assert found == layouts(host) and found[H100[0]] == before[H100[0]] and found[H100[1]] != before[H100[1]]


def test_a_rollback_is_on_record(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    assert apply(host, pillars.mig(["7g.80gb"])).ok
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    assert noted(host) == layouts(host)
    assert entries(host)[KEYS[0]]["generation"] == 3


def test_a_damaged_record_is_told_and_written_anew_by_the_next_verified_run(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    for text in ("{", "[]", '{"gpus": {"x": {"technique": 1}}}', '{"format": 2, "layouts": {"x": {"addresses": 1}}}'):
        pathlib.Path(verified.Verified(host).path).write_text(text)
        with pytest.raises(errors.JournalDamaged, match="state.apply gpu_slicing"):
            replay(host)
        assert apply(host, pillars.mig(LAYOUT)).plan.empty
        assert set(entries(host)) == set(KEYS)


def test_a_record_that_can_not_be_written_is_a_warning(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    # Before it come how the GPUs were found, and the journal.
    host.add_fault({"call": "store_write", "nth": 3, "error": "ENOSPC"})
    result = apply(host, pillars.mig(LAYOUT))
    assert result.ok
    assert any("verified layout could not be noted" in line and "No space left" in line for line in result.warnings)


# -- replay --------------------------------------------------------------------------------------------------------------
def test_after_a_reboot_every_layout_comes_back_with_its_placements_and_mode(hopper):
    host, before = hopper
    tested = replay(host, test=True)
    assert "result" not in tested and set(tested["changes"]) == set(H100)
    assert all(not found["instances"] for found in layouts(host).values())
    answer = replay(host)
    assert answer["result"] is True, answer
    assert set(answer["changes"]) == set(H100)
    assert layouts(host) == before
    generation = {key: entry["generation"] for key, entry in entries(host).items()}
    again = replay(host)
    assert again["result"] is True and again["changes"] == {}
    assert "there already" in again["comment"]
    assert {key: entry["generation"] for key, entry in entries(host).items()} == generation


def test_what_a_boot_brought_back_is_not_what_a_rollback_undoes(hopper):
    host, before = hopper
    assert replay(host)["result"] is True and layouts(host) == before
    assert apply(host, pillars.mig(["7g.80gb"])).ok
    host.reboot()
    assert replay(host)["result"] is True and History(host).all()[-1]["who"] == REPLAY
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.rollback_targets()).ok
    # Of the replay undone, no slice would be left.
    assert layouts(host) == before


def test_nothing_verified_is_nothing_to_do(simulated):
    answer = replay(simulated("no-gpu"))
    assert answer == {"result": True, "changes": {}, "comment": answer["comment"]}
    assert "nothing to bring back" in answer["comment"]


def test_what_is_in_use_is_not_ended_at_a_boot_even_with_force(hopper):
    host, _ = hopper
    with Engine(config(host)) as engine:
        targets = mig_targets(engine, "layout", H100[0], ["7g.80gb"])
        record = entries(host)
        assert engine.reconciler().apply(targets).ok
        verified.Verified(host).note({KEYS[0]: record[KEYS[0]]})
    busy = {"pid": 77, "command": "train", "unit": "", "container": "", "gpu": H100[0], "slice": "7g.80gb@0"}
    host.add_process(busy)
    answer = replay(host, force=True)
    assert answer["result"] is False
    assert "train" in answer["comment"] and H100[0] in answer["comment"]
    assert layouts(host)[H100[0]]["instances"][0][0] == "7g.80gb"
    assert layouts(host)[H100[1]] == record[KEYS[1]]["layout"]


def test_a_gpu_that_vanished_is_named_and_the_others_come_back(hopper):
    host, before = hopper
    with host.change() as state:
        gone = state["gpus"].pop(H100[1])
    answer = replay(host)
    assert answer["result"] is False
    assert H100[1] in answer["comment"] and "is not there" in answer["comment"] and "gpu_boot.forget" in answer["comment"]
    assert layouts(host) == {H100[0]: before[H100[0]]}
    with Engine(config(host)) as engine:
        assert boot.forget(engine, H100[1], test=True)["changes"] and KEYS[1] in entries(host)
        assert boot.forget(engine, H100[1])["result"] is True
    assert replay(host)["result"] is True
    with host.change() as state:
        state["gpus"][H100[1]] = gone
    assert replay(host)["changes"] == {}


def test_a_gpu_that_appears_late_is_waited_for(hopper):
    host, before = hopper
    with host.change() as state:
        late = state["gpus"].pop(H100[1])

    def appear():
        with host.change() as state:
            state["gpus"][H100[1]] = late

    timer = threading.Timer(0.7, appear)
    timer.start()
    try:
        answer = replay(host, wait=30)
    finally:
        timer.join()
    assert answer["result"] is True, answer
    assert layouts(host) == before


def test_another_model_at_the_same_address_is_left_alone(hopper):
    host, before = hopper
    record = verified.Verified(host)
    record.note({KEYS[1]: {**record.entries()[KEYS[1]], "layout": EMPTY, "model": "NVIDIA A100-SXM4-40GB"}})
    answer = replay(host)
    assert answer["result"] is False and "where NVIDIA A100-SXM4-40GB was" in answer["comment"]
    assert layouts(host) == {H100[0]: before[H100[0]], H100[1]: {"enabled": False, "instances": []}}


# -- GPUs that were given away -------------------------------------------------------------------------------------------
PASSED = {"containers_gpu_slicing": {"enabled": True, "strategy": "passthrough"}}


def driver_of(host, address):
    return host.readlink(f"/sys/bus/pci/devices/{address}/driver")


@pytest.mark.parametrize("device", ["74a1", "fffe"], ids=["of the catalog", "that the catalog does not know"])
def test_a_gpu_that_never_has_a_driver_is_given_away_again(simulated, device):
    gpu = {"vendor": "amd", "device": device, "address": FIRST, "driver": ""}
    host = simulated("mixed-vendors", gpus=[gpu])
    assert apply(host, PASSED).ok
    host.reboot()
    assert driver_of(host, FIRST) == ""
    answer = replay(host)
    assert answer["result"] is True and driver_of(host, FIRST) == "vfio-pci", answer


def test_a_gpu_is_given_away_before_its_own_driver_is_there_and_goes_back_to_that(simulated):
    host = simulated("mixed-vendors", gpus=[{"model": "h100-80gb", "device": "2330", "address": FIRST}])
    assert apply(host, PASSED).ok
    host.reboot()
    host.write(f"/sys/bus/pci/devices/{FIRST}/driver/unbind", FIRST)
    assert replay(host)["result"] is True and driver_of(host, FIRST) == "vfio-pci"
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.wanted("passthrough", FIRST, {"bound": False})).ok
    assert driver_of(host, FIRST) == "nvidia"


def test_a_gpu_that_was_given_back_is_waited_for_until_it_has_its_driver(simulated):
    host = simulated("mixed-vendors", gpus=[{"model": "h100-80gb", "device": "2330", "address": FIRST}])
    assert apply(host, PASSED).ok
    with Engine(config(host)) as engine:
        assert engine.reconciler().apply(engine.wanted("passthrough", FIRST, {"bound": False})).ok
    host.reboot()
    host.write(f"/sys/bus/pci/devices/{FIRST}/driver/unbind", FIRST)
    assert "No driver is bound" in replay(host)["comment"] and Attempts(host).failures(GIVEN, entries(host)[GIVEN]) == 0
    host.write("/sys/bus/pci/drivers_probe", FIRST)
    assert replay(host)["result"] is True and driver_of(host, FIRST) == "nvidia"


def test_a_board_of_another_vendor_is_not_given_away(simulated):
    host = simulated("mixed-vendors", gpus=[{"vendor": "amd", "device": "fffe", "address": FIRST}])
    assert apply(host, PASSED).ok
    record = verified.Verified(host)
    record.note({GIVEN: {**record.entries()[GIVEN], "layout": {**record.entries()[GIVEN]["layout"], "origin": "any"},
                         "model": "NVIDIA GPU fffe"}})  # fmt: skip
    host.reboot()
    answer = replay(host)
    assert answer["result"] is False and "where NVIDIA GPU fffe was" in answer["comment"]
    assert driver_of(host, FIRST) == "amdgpu"


def test_one_gpu_that_fails_does_not_keep_the_others_from_coming_back(hopper):
    host, before = hopper
    call = "nvmlDeviceCreateGpuInstanceWithPlacement"
    host.add_fault({"call": call, "gpu": H100[1], "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    answer = replay(host)
    assert answer["result"] is False
    assert H100[1] in answer["comment"] and f"{H100[0]}: " in answer["comment"]
    assert layouts(host)[H100[0]] == before[H100[0]]
    assert layouts(host)[H100[1]]["instances"] == []
    # The record still says what is wanted: the next boot tries again.
    assert entries(host)[KEYS[1]]["layout"] == before[H100[1]]
    host.clear_faults()
    assert replay(host)["result"] is True
    assert layouts(host) == before


def test_a_layout_that_failed_three_times_in_a_day_is_not_tried_again(hopper):
    host, before = hopper
    call = "nvmlDeviceCreateGpuInstanceWithPlacement"
    host.add_fault({"call": call, "gpu": H100[0], "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    for _ in range(LIMIT):
        assert replay(host)["result"] is False
        host.reboot()
    history = pathlib.Path(host.state_dir, "history")
    known = len(list(history.iterdir()))
    host.clear_faults()
    answer = replay(host)
    assert answer["result"] is False
    assert H100[0] in answer["comment"] and "failed 3 times within a day" in answer["comment"]
    # The other GPU is not concerned by it.
    assert layouts(host)[H100[1]] == before[H100[1]]
    assert layouts(host)[H100[0]]["instances"] == []
    assert len(list(history.iterdir())) == known + 1
    assert host.state()["reboot_scheduled"] == ""
    assert replay(host, force=True)["result"] is True
    assert layouts(host) == before
    host.reboot()
    assert replay(host)["result"] is True


def test_the_count_ends_after_a_day_and_begins_anew_with_another_layout(hopper):
    host, _ = hopper
    entry = entries(host)[KEYS[0]]
    attempts = Attempts(host)
    for _ in range(3):
        attempts.begin({KEYS[0]: entry})
    assert attempts.failures(KEYS[0], entry) == 3
    assert attempts.failures(KEYS[0], {**entry, "layout": {"enabled": False, "instances": []}}) == 0
    data = json.loads(pathlib.Path(attempts.path).read_text())
    data["tried"][str(KEYS[0])]["times"] = [when - DAY for when in data["tried"][str(KEYS[0])]["times"]]
    pathlib.Path(attempts.path).write_text(json.dumps(data))
    assert attempts.failures(KEYS[0], entry) == 0


def test_a_host_that_dies_in_its_own_replay_comes_up_without_one(hopper):
    host, _ = hopper
    for _ in range(LIMIT):
        # As if the machine had gone down right after the attempt was written.
        Attempts(host).begin(entries(host))
    answer = replay(host)
    assert answer["result"] is False and answer["changes"] == {}
    assert all(not found["instances"] for found in layouts(host).values())


def test_without_a_place_for_the_count_nothing_is_tried(hopper):
    host, _ = hopper
    host.add_fault({"call": "store_write", "times": 0, "error": "ENOSPC"})
    with pytest.raises(errors.StateDirUnusable, match="count of replays"):
        replay(host)
    assert all(not found["instances"] for found in layouts(host).values())


# -- what is no failed attempt ---------------------------------------------------------------------------------------


def failures(host):
    return {key: Attempts(host).failures(key, entry) for key, entry in entries(host).items()}


def failed_often(host):
    """Let the layout of the first GPU fail until it is given up."""
    host.add_fault({"call": CREATE, "gpu": H100[0], "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    for _ in range(LIMIT):
        assert replay(host)["result"] is False
        host.reboot()
    host.clear_faults()
    assert failures(host)[KEYS[0]] == LIMIT and "failed 3 times" in replay(host)["comment"]


@pytest.mark.parametrize("jump", [7200, -7200])
def test_a_clock_that_is_set_while_it_waits_makes_the_wait_neither_shorter_nor_longer(hopper, jump):
    host, before = hopper
    with host.change() as state:
        late = state["gpus"].pop(H100[1])

    def appear():
        host.set_clock(jump)
        time.sleep(1)
        with host.change() as state:
            state["gpus"][H100[1]] = late

    timer = threading.Timer(0.5, appear)
    timer.start()
    begun = time.monotonic()
    try:
        answer = replay(host, wait=30)
    finally:
        timer.join()
    assert answer["result"] is True, answer
    assert layouts(host) == before and time.monotonic() - begun < 25


def test_a_clock_that_is_set_back_does_not_make_it_wait_for_ever(hopper):
    host, _ = hopper
    with host.change() as state:
        state["gpus"].pop(H100[1])
    timer = threading.Timer(0.3, host.set_clock, [-7200])
    timer.start()
    begun = time.monotonic()
    try:
        answer = replay(host, wait=2)
    finally:
        timer.join()
    assert answer["result"] is False and "is not there" in answer["comment"] and time.monotonic() - begun < 25


@pytest.mark.slow
def test_a_replay_that_only_met_a_held_lock_is_no_failed_attempt(hopper):
    host, before = hopper
    for _ in range(LIMIT + 1):
        with lock.held(host.state_dir, "a highstate"):
            answer = replay(host)
        assert answer["result"] is False and "Another change" in answer["comment"] and "a highstate" in answer["comment"]
    assert set(failures(host).values()) == {0}
    assert replay(host)["result"] is True and layouts(host) == before


def test_a_held_lock_takes_back_no_attempt_that_did_fail(hopper):
    host, _ = hopper
    Attempts(host).begin(entries(host))
    with lock.held(host.state_dir, "a highstate"):
        replay(host)
    assert set(failures(host).values()) == {1}


def test_a_journal_that_can_not_be_read_is_no_failed_attempt(hopper):
    host, before = hopper
    journal = pathlib.Path(host.state_dir, "journal.json")
    journal.write_text("{")
    for _ in range(LIMIT + 1):
        with pytest.raises(errors.JournalDamaged):
            replay(host)
    journal.unlink()
    assert set(failures(host).values()) == {0}
    assert replay(host)["result"] is True and layouts(host) == before


def test_a_later_apply_that_succeeds_clears_the_count_as_the_message_promises(hopper):
    host, before = hopper
    failed_often(host)
    assert apply(host, pillars.mig(LAYOUT)).ok and layouts(host) == before
    assert failures(host)[KEYS[0]] == 0
    host.reboot()
    assert replay(host)["result"] is True and layouts(host) == before


def test_an_apply_that_finds_all_as_wanted_clears_the_count_too(hopper):
    host, before = hopper
    assert replay(host)["result"] is True
    for _ in range(LIMIT):
        Attempts(host).begin(entries(host))
    result = apply(host, pillars.mig(LAYOUT))
    assert result.plan.empty and set(failures(host).values()) == {0} and layouts(host) == before


def test_an_apply_that_fails_clears_no_count(hopper):
    host, _ = hopper
    failed_often(host)
    host.add_fault({"call": CREATE, "gpu": H100[0], "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    assert not apply(host, pillars.mig(LAYOUT)).ok
    assert failures(host)[KEYS[0]] == LIMIT


def test_attempts_of_a_time_still_to_come_do_not_count(hopper):
    host, before = hopper
    host.set_clock(10 * DAY)
    for _ in range(LIMIT):
        Attempts(host).begin(entries(host))
    assert set(failures(host).values()) == {LIMIT}
    host.set_clock(-10 * DAY)
    assert set(failures(host).values()) == {0}
    Attempts(host).begin(entries(host))
    # Nor do they once that time has come: they were struck off.
    host.set_clock(10 * DAY)
    assert set(failures(host).values()) == {0}
    assert replay(host)["result"] is True and layouts(host) == before


# -- units that themselves wait for the replay -------------------------------------------------------------------------
DCGM = "nvidia-dcgm.service"
WITH_DCGM = {"pid": 77, "command": "nv-hostengine", "unit": DCGM, "container": "", "gpu": H100[0], "slice": "2g.20gb@0"}


@pytest.mark.parametrize("reached", [1, 2, 4], ids=["undone", "half undone", "nearly finished"])
def test_no_unit_is_started_in_a_way_that_waits_for_the_replay_itself(hopper, reached):
    """A change that stopped DCGM was killed, and the boot's replay deals with it: its start waits for the end of the replay."""
    host, before = hopper
    assert replay(host)["result"] is True
    host.add_process(WITH_DCGM)
    host.add_fault({"call": "nvmlGpuInstanceDestroy", "nth": reached, "kill": "after"})
    wanted = pillars.mig(["7g.80gb"], stop_units=[DCGM])
    assert crash.in_child(lambda: apply(host, wanted)) == 9
    stopped = host.state()["stopped"]
    assert [process["unit"] for process in stopped] == [DCGM]
    host.clear_faults()
    host.reboot(ordered_after_us=[DCGM])
    answer = replay(host)
    assert answer["result"] is True and "did not end" not in json.dumps(answer), answer
    assert layouts(host) == before
    assert [process["unit"] for process in host.state()["processes"]] == [DCGM]
    assert not pathlib.Path(host.state_dir, "journal.json").exists()


def test_an_apply_still_waits_for_the_units_that_it_starts_again(hopper):
    host, _ = hopper
    assert replay(host)["result"] is True
    host.add_process(WITH_DCGM)
    with host.change() as state:
        state["ordered_after_us"] = [DCGM]
    result = apply(host, pillars.mig(["7g.80gb"], stop_units=[DCGM]))
    assert not result.ok and "did not end within" in " ".join(result.errors)


# -- the last look -------------------------------------------------------------------------------------------------------
def test_what_another_tool_changes_right_after_the_replay_is_told(hopper):
    """The history is written after the change was verified, and everything is read once more when all is over."""
    host, _ = hopper
    theirs = {"gpu": H100[0], "action": "create_gi", "profile": "1g.10gb", "start": 3}
    # Writes: the count, the journal, the count again, the history.
    host.add_fault({"call": "store_write", "nth": 4, "foreign": [theirs]})
    answer = replay(host)
    assert answer["result"] is False
    assert f"GPU {H100[0]}" in answer["comment"] and "not as verified when read again" in answer["comment"]
    assert [fault["seen"] for fault in host.state()["faults"]] == [4]


MIG_MANAGER = "/etc/systemd/system/multi-user.target.wants/nvidia-mig-manager.service"


def test_a_boot_does_not_fight_with_an_owner_that_came_since(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[])
    assert apply(host, pillars.mig(LAYOUT)).ok
    host.store_write(MIG_MANAGER, "[Unit]\n")
    with Engine(config(host)) as engine:
        assert "nvidia-mig-manager.service is enabled" in " ".join(boot.status(engine)["warnings"])
    host.reboot()
    answer = replay(host)
    assert answer["result"] is False and not answer["changes"]
    assert f"GPU {H100[0]}: A change of MIG is wanted, and mig-manager" in answer["comment"]
    assert "nvidia-mig-manager.service is enabled" in " ".join(answer["warnings"])
    assert not layouts(host)[H100[0]]["instances"]
    host.store_remove(MIG_MANAGER)
    assert replay(host)["result"] is True


def test_a_boot_goes_on_beside_an_owner_with_whom_the_pillar_agreed(simulated):
    host = simulated("dgx-h100", gpus=HOPPER, processes=[], files={MIG_MANAGER: "[Unit]\n"})
    wanted = pillars.mig(LAYOUT, slicing={"share_with": ["mig-manager"]})
    assert apply(host, wanted).ok
    assert {tuple(entry["rules"]["share_with"]) for entry in entries(host).values()} == {("mig-manager",)}
    host.reboot()
    answer = replay(host)
    assert answer["result"] is True and "warnings" not in answer
    assert set(answer["changes"]) == set(H100)


def test_a_mode_that_waited_for_the_reboot_is_finished_by_the_boot(simulated):
    gpu = {"model": "a100-40gb", "address": FIRST, "reset": "never"}
    host = simulated("dgx-a100-40gb", gpus=[gpu], processes=[])
    result = apply(host, pillars.mig(["3g.20gb@4", "2g.10gb@0"]))
    assert result.ok and result.reboot == [FIRST]
    assert entries(host)[Key(FIRST, "mig")]["awaits"]
    host.reboot()
    answer = replay(host)
    assert answer["result"] is True, answer
    found = layouts(host)[FIRST]
    assert [instance[:2] for instance in found["instances"]] == [["2g.10gb", 0], ["3g.20gb", 4]]
    assert entries(host)[Key(FIRST, "mig")]["awaits"] is None and entries(host)[Key(FIRST, "mig")]["layout"] == found


def test_status_tells_what_a_boot_would_do(hopper):
    host, _ = hopper
    with Engine(config(host)) as engine:
        told = boot.status(engine, "text")
    assert told["last"] is None and told["unit"]["present"] is False
    assert {one["state"] for one in told["gpus"].values()} == {"differs"}
    assert "3g.40gb@4" in told["gpus"][H100[0]]["layout"]
    replay(host)
    with Engine(config(host)) as engine:
        told = boot.status(engine)
    assert {one["state"] for one in told["gpus"].values()} == {"as verified"}
    assert told["last"]["result"] is True and told["last"]["boot_id"] == host.boot_id()


# -- the unit ------------------------------------------------------------------------------------------------------------
def lines(text, key):
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_a_gpu_that_another_technology_has_by_now_is_brought_back_to_that_only(simulated):
    """MIG first, then vGPUs without MIG: both together can't be had."""
    host = simulated("vgpu-host-vfio")
    assert apply(host, pillars.mig(["3g.40gb"])).ok
    assert apply(host, pillars.for_gpu(FIRST, "vgpu", {"profile": "H100XM-40C", "count": 2})).ok
    assert set(entries(host)) == {Key(FIRST, "vgpu"), Key(SECOND, "mig")}
    host.reboot()
    answer = replay(host)
    assert answer["result"] is True and set(answer["changes"]) == {FIRST, SECOND}, answer
    assert [len(answer["changes"][gpu]["new"].get("vgpus", ())) for gpu in (FIRST, SECOND)] == [2, 0]


def test_a_gpu_that_is_found_as_another_technology_has_it_is_noted_as_that_only(simulated):
    host = simulated("flex170")
    [gpu] = host.state()["gpus"]
    assert apply(host, pillars.for_all("sriov", {"vf_count": 2})).ok
    assert set(entries(host)) == {Key(gpu, "sriov")}
    wanted = pillars.for_all("level-zero", {"partitions": ["0"]})
    assert apply(host, wanted).ok and set(entries(host)) == {Key(gpu, "level-zero")}
    record = verified.Verified(host)
    record.note({Key(gpu, "sriov"): verified.entry([gpu], {"driver": "i915", "numvfs": 0}, 1.0)})
    assert apply(host, wanted).plan.empty and set(entries(host)) == {Key(gpu, "level-zero")}


@pytest.mark.parametrize("key", [f"time-warping:{H100[0]}", "moon:host"])
def test_a_layout_of_a_technology_of_another_version_is_told_and_keeps_nothing_from_coming_back(hopper, key):
    """As a downgrade leaves it: it is not waited for, can be forgotten, and a change does not take it from the record."""
    host, _ = hopper
    path = pathlib.Path(host.state_dir, "verified.json")
    known = json.loads(path.read_text())
    known["layouts"][key] = {**known["layouts"][f"mig:{H100[0]}"], "layout": {"replicas": 4}}
    path.write_text(json.dumps(known))
    host.reboot()
    with Engine(config(host)) as engine:
        told = boot.status(engine)["gpus"]
    strange = told[f"{H100[0]} {Key.of(key).technique}"]
    assert strange["technique"] == Key.of(key).technique and "Another version" in strange["state"]
    assert told[H100[1]]["state"] == "differs"
    begun = host.monotonic()
    answer = replay(host, wait=60)
    assert host.monotonic() - begun < 30
    assert answer["result"] is False and answer["comment"].count("brought back.") == 3 and "gpu_boot.forget" in answer["comment"]
    assert set(answer["changes"]) == set(H100)
    assert apply(host, pillars.mig(["7g.80gb"])).ok and Key.of(key) in entries(host)
    with Engine(config(host)) as engine:
        assert boot.forget(engine, H100[0])["result"] is True
    assert set(entries(host)) == {KEYS[1]}


def test_the_unit_comes_after_drivers_and_before_consumers():
    text = unit.unit_text("/etc/salt", "/var/lib/gpu-slicing", "/opt/salt/salt-call")
    assert lines(text, "ExecStart") == [
        "/opt/salt/salt-call --local --config-dir /etc/salt --retcode-passthrough gpu_boot.replay"
    ]
    assert {"systemd-modules-load.service", "nvidia-persistenced.service"} <= set(lines(text, "After"))
    assert {"docker.service", "containerd.service", "kubelet.service", "libvirtd.service"} <= set(lines(text, "Before"))
    assert not set(lines(text, "After")) & set(lines(text, "Before"))
    # Before a socket or a target of the early boot would be a cycle, as default dependencies stay.
    assert all(name.endswith(".service") for name in lines(text, "Before"))
    assert lines(text, "DefaultDependencies") == [] and lines(text, "WantedBy") == ["multi-user.target"]
    assert int(lines(text, "TimeoutStartSec")[0]) > boot.PATIENCE


def test_the_program_of_this_installation_is_found():
    assert unit.salt_call() == str(pathlib.Path(sys.executable).parent / "salt-call")


def test_no_program_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "salt-minion")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin" / "python3"))
    if not any((pathlib.Path(place) / "salt-call").exists() for place in ("/usr/bin", "/usr/local/bin")):
        with pytest.raises(errors.ToolMissing, match="no salt-call beside"):
            unit.salt_call()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "salt-call"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert unit.salt_call() == str(program)


def verified_by_systemd(directory, text):
    """What ``systemd-analyze verify`` says of the unit; its exit code does not tell of unknown keys, its output does."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / unit.UNIT
    file.write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_unit_comes_after_what_gpus_need_and_before_all_who_would_keep_them_busy():
    rows = [line.partition("=") for line in unit.unit_text("/etc/salt", "/var/lib/gpu-slicing").splitlines()]
    order = {key: {value.removesuffix(".service") for name, _, value in rows if name == key} for key in ("After", "Before")}
    loaders = "systemd-modules-load systemd-udev-trigger systemd-udev-settle"
    makers = "persistenced fabricmanager vgpud vgpu-mgr gridd mig-manager"
    assert order["After"] == {*loaders.split(), *(f"nvidia-{name}" for name in makers.split())}
    kubernetes = "kubelet k3s k3s-agent rke2-server rke2-agent k0scontroller k0sworker"
    containers = f"docker containerd podman podman-restart crio {kubernetes}"
    machines = "libvirtd virtqemud libvirt-guests incus lxd pve-guests"
    others = "nvidia-cdi-refresh nvidia-dcgm dcgm-exporter slurmd nomad display-manager gdm gdm3 lightdm sddm salt-minion"
    assert order["Before"] == {*containers.split(), *machines.split(), *others.split()}


needs_analyze = needs.programs("systemd-analyze")


@needs_analyze
@pytest.mark.parametrize("places", [("/etc/salt", "/var/lib/gpu-slicing"), ("/srv/my salt/100%", '/srv/a"b$c/state')])
def test_systemd_has_nothing_against_the_unit(tmp_path, places):
    assert verified_by_systemd(tmp_path, unit.unit_text(*places)) == (0, "")


@needs_analyze
def test_systemd_would_say_what_is_wrong(tmp_path):
    text = unit.unit_text("/etc/salt", "/var/lib/gpu-slicing")
    assert "Wantd" in verified_by_systemd(tmp_path, text.replace("RemainAfterExit", "Wantd"))[1]


@needs_analyze
@given(st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), min_size=1, max_size=12))
def test_any_directory_is_quoted_as_systemd_reads_it(name):
    """Read back by the rules of systemd.syntax: quotes, backslashes, %% and $$."""
    quoted = unit._quoted("/" + name)
    if quoted.startswith('"'):
        inner = quoted[1:-1].replace("$$", "$")
        read = inner.replace("\\\\", "\0").replace('\\"', '"').replace("\0", "\\")
    else:
        read = quoted
    assert read.replace("%%", "%") == "/" + name


def test_enable_writes_once_and_disable_removes(simulated):
    host = simulated("dgx-h100")
    text = unit.unit_text("/etc/salt", host.state_dir, "/opt/salt/salt-call")
    with Engine(config(host)) as engine:
        tested = unit.enable(engine, text, test=True)
        assert "result" not in tested and tested["changes"] == {unit.UNIT: {"old": "absent", "new": "enabled, current"}}
        assert not host.exists(unit.UNIT_PATH)
        assert unit.enable(engine, text)["result"] is True
        assert unit.enable(engine, text) == {"result": True, "changes": {}, "comment": f"{unit.UNIT} is enabled and current."}
        host.reboot()
        assert unit.unit_state(host, text) == {"path": unit.UNIT_PATH, "present": True, "current": True, "enabled": True}
        changed = unit.enable(engine, text + "# newer\n")
        assert changed["changes"][unit.UNIT]["old"] == "enabled, outdated"
        assert "result" not in unit.disable(engine, test=True)
        assert unit.disable(engine)["changes"][unit.UNIT]["new"] == "absent"
        assert unit.disable(engine)["changes"] == {}
    assert not host.exists(unit.UNIT_PATH)


def test_the_unit_of_a_simulated_host_is_never_written_to_the_machine_that_this_runs_on(simulated):
    host = simulated("dgx-h100")
    there = pathlib.Path(unit.UNIT_PATH).exists()
    with Engine(config(host)) as engine:
        unit.enable(engine, unit.unit_text("/etc/salt", host.state_dir, "/opt/salt/salt-call"))
    assert pathlib.Path(unit.UNIT_PATH).exists() == there


@pytest.mark.parametrize(
    ("changes", "fault", "kind", "words"),
    [
        ({"tools": ["lspci"]}, None, errors.ToolMissing, "no systemctl"),
        ({"privileged": False}, None, errors.PermissionDenied, "Run as root"),
        ({}, {"call": "run", "error": "EIO"}, errors.ToolFailed, "Input/output error"),
        ({}, {"call": "store_write", "error": "ENOSPC"}, errors.PermissionDenied, "No space left"),
        ({}, {"call": "run", "lie": True, "times": 0}, errors.ValidationFailed, "disabled"),
    ],
)
def test_a_unit_that_can_not_be_set_up_is_a_sentence(simulated, changes, fault, kind, words):
    host = simulated("dgx-h100", **changes)
    if fault:
        host.add_fault(fault)
    with Engine(config(host)) as engine, pytest.raises(kind, match=words):
        unit.enable(engine, unit.unit_text("/etc/salt", host.state_dir, "/opt/salt/salt-call"))


# -- the kernel's command line -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("cmdline", "cpu", "iommu", "missing", "advised", "words"),
    [
        ("quiet", "GenuineIntel", False, ["intel_iommu=on"], ["iommu=pt"], "Add intel_iommu=on iommu=pt"),
        ("intel_iommu=on iommu=pt", "GenuineIntel", True, [], [], "no parameter is missing"),
        ("quiet", "GenuineIntel", True, [], ["iommu=pt"], "in use"),
        ("intel_iommu=on", "GenuineIntel", False, [], ["iommu=pt"], "firmware"),
        ("quiet", "AuthenticAMD", False, [], ["iommu=pt"], "firmware"),
        ("amd_iommu=off iommu=pt", "AuthenticAMD", False, [], [], "amd_iommu=off switches"),
        ("", "", False, [], ["iommu=pt"], "firmware"),
    ],
)
def test_the_command_line_is_read_for_what_the_cpu_needs(simulated, cmdline, cpu, iommu, missing, advised, words):
    files = {"/proc/cmdline": cmdline, "/proc/cpuinfo": f"processor\t: 0\nvendor_id\t: {cpu}"}
    host = simulated("dgx-h100", iommu=iommu, files=files)
    found = command_line.command_line(host)
    assert (found["cmdline"], found["cpu"], found["iommu"]) == (cmdline, cpu, iommu)
    assert (found["missing"], found["advised"]) == (missing, advised)
    assert words in found["comment"]


# -- the files that the documentation shows ------------------------------------------------------------------------------
def shown_file(name):
    """The contents of a file that docs/boot.md gives as a state."""
    text = (pathlib.Path(__file__).resolve().parents[3] / "docs" / "boot.md").read_text(encoding="utf-8")
    states = yaml.safe_load(next(block for block in text.split("```yaml\n")[1:] if name in block).partition("```")[0])
    [found] = [state["file.managed"] for path, state in states.items() if path.endswith(name)]
    return next(part["contents"] for part in found if "contents" in part)


@needs.programs("modprobe")
@pytest.mark.parametrize(("extra", "complaint"), [("", ""), ("optoins xe max_vfs=8\n", "ignoring bad line")])
def test_modprobe_reads_the_options_that_the_documentation_shows(tmp_path, extra, complaint):
    (tmp_path / "gpu-slicing.conf").write_text(shown_file("gpu-slicing.conf") + extra, encoding="utf-8")
    command = [needs.path("modprobe"), "--showconfig", "-C", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "options xe max_vfs=8" in done.stdout and "options nvidia NVreg_RestrictProfilingToAdminUsers=0" in done.stdout
    assert (complaint in done.stderr) if complaint else (done.stderr == "")


@needs.programs("udevadm")
@pytest.mark.parametrize("bad", ["", 'SUBSYSTEM=="drm", GROUPE="render"\n'])
def test_udev_reads_the_rules_that_the_documentation_shows(tmp_path, bad):
    rules = tmp_path / "70-gpu-slicing.rules"
    rules.write_text(shown_file("70-gpu-slicing.rules") + bad, encoding="utf-8")
    done = subprocess.run(["udevadm", "verify", str(rules)], capture_output=True, text=True, timeout=30, check=False)
    if "Unknown command verb" in done.stderr:
        assert bool(complaints_of_older_udev(rules)) == bool(bad)
        return
    assert (done.returncode == 0) == (not bad), done.stderr


def complaints_of_older_udev(rules):
    """
    What udev says of a file of rules, as lines: before systemd 254 (``udevadm verify``) it says it only when it reads all its
    rules, so they are put in their place in a mount namespace.
    """
    place = "/etc/udev/rules.d"
    script = f'mkdir -p {place} && mount --bind "$1" {place} && udevadm test /sys/devices/virtual/mem/null'
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "x", str(rules.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if os.geteuid() and "Reading rules file" not in done.stderr:
        pytest.skip("udevadm verify came with systemd 254, and to try this older udev (package udev) takes root")
    assert f"Reading rules file: {place}/{rules.name}" in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith(f"{place}/{rules.name}:")]
