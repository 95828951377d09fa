"""What looks take for evidence, and what they must not: what was not told, what was not asked, and what comes in an odd order."""

import pathlib
import signal

import pytest

from gpuslice import errors
from gpuslice import quarantine
from gpuslice import statuses
from gpuslice.engine import Engine
from gpuslice.records.health import HealthRecord
from gpuslice.sim import kernel_log
from tests.support import pillars
from tests.support.crash import in_child
from tests.support.hosts import apply
from tests.support.hosts import config

GPU, OTHER = "0000:1b:00.0", "0000:43:00.0"
SHARED = "0000:a1:00.0"
MI300X = {"vendor": "amd", "device": "74a1", "address": GPU}


@pytest.fixture
def host(simulated):
    gpus = [{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": OTHER}]
    made = simulated("dgx-h100", gpus=gpus)
    look(made)
    return made


def look(host, gpu=GPU, later=60, quick=False):
    host.let_pass(later)
    with Engine(config(host)) as engine:
        return engine.watch(quick=quick).statuses.get(gpu)


def looks(host, times, **keys):
    return [look(host, **keys)["status"] for _ in range(times)]


def why(host, gpu=GPU):
    with Engine(config(host)) as engine:
        return next(iter(statuses.why(engine, {}, gpu).values()))


def wants(host, action):
    with host.change() as state:
        state["gpus"][GPU]["health"]["recovery_action"] = action


MUTE = [
    {"call": "nvmlInit", "error": "NVML_ERROR_LIB_RM_VERSION_MISMATCH", "times": 0},
    {"call": "nvmlInit", "error": "NVML_ERROR_DRIVER_NOT_LOADED", "times": 0},
    {"call": "nvmlDeviceGetFieldValues", "error": "NVML_ERROR_UNKNOWN", "times": 0},
    {"call": "nvmlDeviceGetFieldValues", "error": "NVML_ERROR_NOT_SUPPORTED", "times": 0},
    {"call": "nvmlDeviceGetHandleByPciBusId_v2", "error": "NVML_ERROR_UNKNOWN", "times": 0},
]


@pytest.mark.parametrize("fault", MUTE, ids=lambda fault: f"{fault['call']} {fault['error']}")
def test_a_driver_that_tells_nothing_any_more_takes_nothing_back(host, fault):
    wants(host, "gpu_reset")
    assert look(host)["status"] == "failed"
    host.add_fault(fault)
    assert looks(host, 6) == ["failed"] * 6
    host.state()["faults"].clear()


def test_a_look_of_the_beacon_a_moment_before_takes_nothing_from_one_that_asks_the_driver(host):
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_pending"] = True
    for _ in range(3):
        look(host, quick=True)
        board = look(host, later=3)
    assert board["codes"] == ["nvidia-row-remap-pending"]


def test_what_counts_and_is_missed_once_still_counts_when_it_is_seen_again(host):
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_pending"] = True
    assert looks(host, 2) == ["ok", "degraded"]
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_pending"] = False
    assert look(host)["status"] == "degraded"
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_pending"] = True
    assert look(host)["status"] == "degraded"


def test_errors_that_the_driver_itself_has_reset_for_are_over_though_they_are_counted_in_the_same_look(simulated):
    path = f"/sys/bus/pci/devices/{GPU}/ras/umc_err_count"
    host = simulated("dgx-h100", gpus=[{**MI300X, "sysfs": {"ras/umc_err_count": "ue: 0\nce: 0"}}])
    look(host)
    host.write(path, "ue: 1\nce: 0")
    host.say(f"amdgpu {GPU}: amdgpu: 1 uncorrectable hardware errors detected in umc block")
    host.say(f"amdgpu {GPU}: amdgpu: GPU reset(1) succeeded!")
    assert looks(host, 4) == ["failed", "failed", "failed", "ok"]


def test_that_a_gpu_came_back_cures_nothing_that_it_met_since(simulated):
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": GPU}, {"model": "h100-80gb", "address": OTHER}],
                     nvml_level="r535")  # fmt: skip
    look(host)
    with host.change() as state:
        gone = state["gpus"].pop(GPU)
    assert look(host)["status"] == "lost"
    with host.change() as state:
        state["gpus"][GPU] = gone
    look(host)
    host.say("NVRM: Xid (PCI:0000:1b:00): 119, Timeout")
    assert looks(host, 6)[-1] == "failed"


def test_many_small_things_push_out_nothing_grave(host):
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    look(host)
    for number in range(399):
        host.say(f"NVRM: Xid (PCI:0000:1b:00 GPU-I:{number:02d}): 31, pid=1, x")
    assert look(host)["status"] == "lost"


@pytest.mark.parametrize("count", ["99999999999999999999", "18446744073709551616"])
def test_a_number_that_is_out_of_range_spoils_no_record(simulated, count):
    host = simulated("dgx-h100", gpus=[{**MI300X, "sysfs": {"ras/umc_err_count": f"ue: {count}\nce: 0"}}])
    looks(host, 3)
    assert not any("is lost" in note for note in why(host)["notes"])


def test_a_boot_whose_name_can_not_be_read_is_none(host):
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    with host.change() as state:
        name, state["boot_id"] = state["boot_id"], ""
    assert look(host)["status"] == "lost"
    with host.change() as state:
        state["boot_id"] = name
    assert looks(host, 5)[-1] == "lost"
    host.reboot()
    assert looks(host, 3) == ["lost", "lost", "ok"]


def test_shares_of_a_slice_are_as_ill_as_it(simulated):
    host = simulated("a30-pair")
    said = {"mig": {"profiles": ["1g.6gb", "1g.6gb"]}, "time_slicing": {"enabled": True, "max_instance_count": 2}}
    assert apply(host, pillars.rules(pillars.rule(SHARED, strategy="mig", **said))).ok
    look(host)
    with Engine(config(host)) as engine:
        part = next(part for part in engine.parts(SHARED, taken=True) if part.instance)
    host.say(f"NVRM: Xid (PCI:{SHARED[:-2]} GPU-I:{part.instance[0]:02d} GPU-CI:00): 94, pid=77, x")
    told = look(host, SHARED)["slices"]
    ill = {name for name, each in told.items() if each["status"] == "degraded"}
    assert ill == {part.name, f"{part.name}-replica-1", f"{part.name}-replica-2"} and len(told) == 6


def test_what_asks_for_a_recovery_of_the_whole_domain_marks_all_gpus(host):
    wants(host, "recover_imex")
    assert look(host)["status"] == look(host, OTHER)["status"] == "degraded"


def test_why_tells_of_a_gpu_that_has_gone(host):
    with host.change() as state:
        state["gpus"].pop(GPU)
    look(host)
    assert why(host)["status"] == why(host, "00000000:1B:00.0")["status"] == "lost"


def test_a_driver_that_does_not_fit_its_library_is_not_well(host):
    host.add_fault(MUTE[0])
    assert looks(host, 2) == ["ok", "degraded"]


def test_pages_that_could_not_be_taken_out_are_over_after_a_boot_without_them(simulated):
    path = f"/sys/bus/pci/devices/{GPU}/ras/gpu_vram_bad_pages"
    host = simulated("dgx-h100", gpus=[{**MI300X, "sysfs": {"ras/gpu_vram_bad_pages": "0x1 : 0x1000 : F"}}])
    assert looks(host, 2) == ["ok", "degraded"]
    host.reboot()
    host.write(path, "0x1 : 0x1000 : R")
    assert looks(host, 3)[-1] == "ok"


def test_what_happened_before_a_look_is_told_with_its_time(host):
    host.say("NVRM: Xid (PCI:0000:1b:00): 94, pid=77, x")
    look(host, later=7200)
    with Engine(config(host)) as engine:
        view = engine.watch()
        assert 7100 < host.now() - view.conditions[0].since < 7400


def test_a_driver_asks_for_one_thing_at_a_time(host):
    for action, code in (("bus_reset", "bus-reset"), ("system_reboot", "system-reboot"), ("unheard_of", "other")):
        for quick in (True, False):
            host.set_recovery_action(GPU, action)
            board = look(host, quick=quick)
            assert (board["status"], board["codes"]) == ("failed", [f"nvidia-recovery-action-{code}"])
    host.set_recovery_action(GPU, "none")
    assert looks(host, 3)[-1] == "ok"


def test_a_change_that_ends_while_somebody_looks_is_known_to_the_next_one(host):
    note = HealthRecord(host).note_change
    host.say("NVRM: Xid (PCI:0000:1b:00): 95, x")
    with Engine(config(host)) as engine:
        engine.watch(keep=lambda statuses, data: note([GPU], {GPU: {"a": (1, 0)}}))
    kept = HealthRecord(host).read()
    assert [each[0] for each in kept["resets"]] == [GPU] and list(kept["layouts"][GPU][-1]["slices"]) == ["a"]


def test_policy_hands_out_nothing_again_because_the_record_of_its_illness_is_lost(host):
    def judged():
        host.let_pass(60)
        with Engine(config(host)) as engine:
            statuses.judged(engine, {"containers_gpu_state_management": {"health": {"on_failed": "quarantine"}}})
            return {name: each["released_by"] for name, each in quarantine.listed(engine).items()}

    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    assert judged() == {GPU: "hand or evidence"}
    with host.change() as state:
        kernel_log.clear(state)
    pathlib.Path(host.state_dir, "health.json").write_text("{")
    assert judged() == judged() == {GPU: "hand"}


def forget(host, gpu, test=False):
    with Engine(config(host)) as engine:
        return statuses.forgotten(engine, gpu, test)


def test_a_gpu_that_was_taken_out_is_lost_until_it_is_forgotten(host):
    with host.change() as state:
        state["gpus"].pop(GPU)
    look(host)
    host.reboot()
    assert looks(host, 5) == ["lost"] * 5
    tested = forget(host, "00000000:1B:00.0", test=True)
    assert "result" not in tested and "that would be forgotten" in tested["comment"] and look(host)["status"] == "lost"
    assert forget(host, GPU) == {
        **tested, "result": True, "comment": f"GPU {GPU}: it has fallen off the PCI bus: that is forgotten."
    }  # fmt: skip
    assert look(host) is None and look(host, OTHER)["status"] == "ok"


def test_what_is_still_there_is_not_forgotten_for_long(host):
    wants(host, "gpu_reset")
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    assert look(host)["status"] == "lost"
    assert set(forget(host, "all")["changes"]) == {GPU} and forget(host, GPU)["changes"] == {}
    assert look(host)["codes"] == ["nvidia-recovery-action-reset"]


def test_nothing_is_forgotten_while_somebody_looks(host):
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    look(host)
    with HealthRecord(host).held(), pytest.raises(errors.LockHeld, match=f"Somebody looks at the health of GPU {GPU} now"):
        forget(host, GPU)


SEVEN = pillars.rules(pillars.rule(GPU, strategy="mig", mig={"profiles": ["1g.10gb"] * 7}))


@pytest.mark.parametrize("how", ["boot", "reset", "read before the cut"])
def test_rows_that_waited_are_done_though_nobody_reads_them_any_more(host, how):
    def rows(wait):
        with host.change() as state:
            state["gpus"][GPU]["health"]["row_remap_pending"] = wait

    rows(True)
    assert looks(host, 2) == ["ok", "degraded"]
    rows(False)
    if how == "boot":
        host.reboot()
    if how == "reset":
        HealthRecord(host).note_change([GPU], {})
    host.let_pass(60)
    assert apply(host, SEVEN).ok
    assert looks(host, 3) == ["degraded", "degraded", "ok"]


def test_nothing_of_a_board_is_the_fault_of_the_one_in_its_place(host):
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_failed"] = True
    assert look(host)["action"] == "replace"
    host.reboot()
    with host.change() as state:
        state["gpus"][GPU]["health"]["row_remap_failed"] = False
        state["gpus"][GPU]["about"]["uuid"] = "GPU-11111111-2222-3333-4444-555555555555"
    assert apply(host, SEVEN).ok
    assert looks(host, 3) == ["failed", "failed", "ok"]


def test_a_reset_that_a_mode_in_waiting_owes_is_no_illness(simulated):
    host = simulated("dgx-a100-40gb", gpus=[{"model": "a100-40gb", "address": GPU}])
    look(host)
    with host.change() as state:
        state["gpus"][GPU]["pending"] = 1
    host.set_recovery_action(GPU, "gpu_reset")
    assert looks(host, 2) == ["ok", "ok"]
    host.set_recovery_action(GPU, "node_reboot")
    assert look(host)["action"] == "reboot"


def test_an_xid_is_of_the_gpu_that_has_another_function_than_the_first(simulated):
    place = "0000:06:00.1"
    host = simulated("dgx-h100", gpus=[{"model": "h100-80gb", "address": place}])
    look(host, place)
    host.say("NVRM: Xid (PCI:0000:06:00): 79, GPU has fallen off the bus.")
    assert look(host, place)["status"] == "lost"


def test_a_sentence_names_the_slice_that_met_an_error(host):
    assert apply(host, SEVEN).ok
    look(host)
    with Engine(config(host)) as engine:
        part = next(part for part in engine.parts(GPU) if part.instance)
    host.say(f"NVRM: Xid (PCI:0000:1b:00 GPU-I:{part.instance[0]:02d} GPU-CI:00): 94, pid=77, x")
    told = look(host)["slices"][part.name]["sentence"]
    assert told.startswith(f"Slice {part.name}: Xid 94: ") and "Start what ran there anew" in told


def test_what_is_found_is_told_though_it_can_not_be_kept(host):
    host.add_fault({"call": "store_write", "error": "EROFS", "times": 0})
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    with pytest.raises(errors.StateDirUnusable, match=rf"Read-only file system.*Found now: GPU {GPU}: Xid 79"):
        look(host)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("work", ["look", "news", "forget"])
def test_one_who_is_killed_while_he_keeps_what_he_found_loses_nothing(host, work, moment):
    host.say("NVRM: Xid (PCI:0000:1b:00): 79, GPU has fallen off the bus.")
    if work == "forget":
        look(host)

    def doing():
        with Engine(config(host)) as engine:
            {"look": engine.watch, "news": lambda: statuses.news(engine), "forget": lambda: forget(host, GPU)}[work]()

    host.let_pass(60)
    host.add_fault({"call": "store_write", "kill": moment})
    assert in_child(doing) == signal.SIGKILL
    forgotten = work == "forget" and moment == "after"
    assert look(host)["status"] == ("ok" if forgotten else "lost") and why(host)["notes"] == []
