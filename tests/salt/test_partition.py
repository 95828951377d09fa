"""
AMD partition modes from the pillar to the hardware: through the states, by hand, with everything that can be wrong, and stopped
at every single point of a change.
"""

import signal

import pytest

from gpuslice import errors
from gpuslice.engine import Engine
from gpuslice.sim.host import SimulatedHost
from tests.support import pillars
from tests.support.crash import apply_in_child
from tests.support.hosts import apply
from tests.support.hosts import config
from tests.support.stages import machine
from tests.support.stages import refused
from tests.support.stages import stages

ADDRESSES = [f"0000:{bus}:00.0" for bus in ("05", "26", "46", "65", "85", "a6", "c6", "e5")]
FIRST, LAST = ADDRESSES[0], ADDRESSES[-1]
MONITOR = {"pid": 410, "command": "amd-metrics-exporter", "unit": "amd-metrics-exporter.service", "nodes": ["/dev/kfd"]}
JOB = {"pid": 500, "command": "python3 train.py", "unit": "train.service", "nodes": ["/dev/kfd", "/dev/dri/renderD128"]}
RELOAD = {"unload_modules": ["amdgpu"]}
OLD, NEW = ("DPX", "NPS1"), ("QPX", "NPS4")


def modes(host):
    """PCI address -> (compute, memory) as sysfs has it."""
    names = ("current_compute_partition", "current_memory_partition")
    return {a: tuple(host.read(f"/sys/bus/pci/devices/{a}/{name}") for name in names) for a in ADDRESSES}


def every(pair, **others):
    return {**dict.fromkeys(ADDRESSES, pair), **others}


# -- from the pillar -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("compute", "memory", "count", "gib"), [("CPX", "NPS1", 8, 24), ("QPX", "NPS4", 4, 48), ("DPX", "NPS2", 2, 96)]
)
def test_test_then_apply_then_nothing_left(minion, compute, memory, count, gib):
    amd = minion("mi300x-8")
    wanted = pillars.partition(compute, memory, **RELOAD)
    before = machine(amd.host)
    well, comment, planned = stages(amd, wanted, test=True)
    assert well and machine(amd.host) == before
    assert compute in comment
    well, comment, done = stages(amd, wanted)
    assert well, comment
    assert done == planned
    changed = f"compute: SPX -> {compute}" + (f"; memory: NPS1 -> {memory}" if memory != "NPS1" else "")
    assert done == {f"{FIRST}, 26, 46, 65, 85, a6, c6, e5": changed}
    assert modes(amd.host) == every((compute, memory))
    settled = machine(amd.host)
    for test in (False, True):
        assert stages(amd, wanted, test)[::2] == (True, {})
    assert machine(amd.host) == settled
    parts = amd.call("gpu.slices", FIRST)
    assert [part["memory_mib"] for part in parts] == [gib * 1024] * count
    nodes = [part["device_nodes"] for part in amd.call("gpu.slices")]
    assert all(first == "/dev/kfd" and amd.host.exists(render) for first, render in nodes)
    assert len({render for _, render in nodes}) == 8 * count


def test_the_compute_mode_may_differ_between_gpus(minion):
    amd = minion("mi300x-8")
    rules = [pillars.rule(FIRST, partition={"compute": "SPX"}), pillars.rule(LAST, strategy="none")]
    wanted = pillars.partition("CPX", devices=rules)
    well, comment, changes = stages(amd, wanted)
    assert well, comment
    assert modes(amd.host) == every(("CPX", "NPS1"), **{FIRST: ("SPX", "NPS1"), LAST: ("SPX", "NPS1")})
    assert FIRST not in changes and LAST not in changes


def test_what_is_exported_changes_nothing(minion):
    amd = minion("mi300x-8")
    assert stages(amd, pillars.partition("QPX", "NPS4", **RELOAD))[0]
    exported = amd.call("gpu_slicing.export")
    assert exported["containers_gpu_slicing"]["devices"][0]["partition"] == {"compute": "QPX", "memory": "NPS4"}
    assert stages(amd, exported)[::2] == (True, {})


def test_units_that_may_be_stopped_come_back(minion):
    amd = minion("mi300x-8", changes={"processes": [MONITOR]})
    refused(amd, pillars.partition("CPX", "NPS4", **RELOAD), "pid 410", "amd-metrics-exporter.service", f"{FIRST}, ", ", e5)")
    well, comment, _ = stages(amd, pillars.partition("CPX", "NPS4", stop_units=["amd-metrics-exporter.service"], **RELOAD))
    assert well, comment
    assert modes(amd.host) == every(("CPX", "NPS4"))
    assert [process.pid for process in amd.host.processes()] == [410]


def test_force_ends_what_is_in_the_way(minion):
    amd = minion("mi300x-8", changes={"processes": [JOB]})
    well, comment, _ = stages(amd, pillars.partition("CPX", "NPS4", apply_strategy="force", **RELOAD))
    assert well, comment
    assert modes(amd.host) == every(("CPX", "NPS4")) and amd.host.processes() == []


def test_skip_only_reports(minion):
    amd = minion("mi300x-8")
    before = machine(amd.host)
    stages(amd, pillars.partition("CPX", apply_strategy="skip"))
    assert machine(amd.host) == before


# -- everything that can be wrong ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (pillars.partition("QPX", "NPS2", **RELOAD), ["QPX/NPS2", "QPX/NPS4", f"8 x GPU ({FIRST}, 26, 46, 65, 85, a6, c6, e5)"]),
        (pillars.partition("TPX"), ["no compute mode TPX", "SPX, DPX, QPX, CPX"]),
        (pillars.partition("CPX", "NPS8", **RELOAD), ["no memory mode NPS8", "NPS1, NPS2, NPS4"]),
        (pillars.partition("SPX", "NPS4", **RELOAD), ["partition:memory", "SPX goes with NPS1 only"]),
        (pillars.partition("CPU"), ["partition:compute", "CPX"]),
        (pillars.partition("CPX", "NPS4"), ["unload_modules", "NPS1 is in force", FIRST]),
        (
            pillars.partition("CPX", "NPS4", [pillars.rule(LAST, partition={"compute": "CPX", "memory": "NPS1"})], **RELOAD),
            [f"GPU {FIRST} NPS4", f"GPU {LAST} NPS1", "one XGMI hive"],
        ),
        (pillars.partition("CPX", "NPS4", [pillars.rule(LAST, strategy="none")], **RELOAD), [f"so {LAST} would change too"]),
    ],
    ids=[
        "an illegal pair",
        "a mode that the part lacks",
        "a memory mode that the part lacks",
        "a pair that no part has",
        "no mode at all",
        "a reload that is not allowed",
        "two memory modes in a hive",
        "a part of a hive",
    ],
)
def test_a_wrong_wish_is_a_sentence_and_nothing_is_changed(minion, wanted, words):
    refused(minion("mi300x-8"), wanted, *words)


def test_a_job_is_named_and_nothing_is_changed(minion):
    refused(minion("mi300x-8", changes={"processes": [JOB]}), pillars.partition("CPX"), "pid 500 (python3 train.py", "stop_units")


def test_an_unseen_user_of_the_driver_is_told_before_the_request(minion):
    amd = minion("mi300x-8", changes={"modules": {"amdgpu": 2}})
    refused(amd, pillars.partition("CPX", "NPS4", **RELOAD), "2 users that can't be seen")


def boards(driver="amdgpu", files=None, device="74a1"):
    return [{"vendor": "amd", "device": device, "address": a, "driver": driver, "sysfs": files or {}} for a in (FIRST, LAST)]


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        (boards(), ["too old", "current_compute_partition"]),
        (boards(driver=""), ["modprobe amdgpu"]),
        (boards(driver="gim"), ["gim", "SR-IOV"]),
    ],
    ids=["an older kernel", "no driver", "gim"],
)
def test_a_driver_that_can_not_is_named(minion, gpus, words):
    refused(minion("mi300x-8", changes={"gpus": gpus}), pillars.partition(), FIRST, *words)


@pytest.mark.parametrize(("device", "words"), [("740f", "only the MI300 and MI350"), ("740c", "each half of this card")])
def test_a_family_that_can_not_is_left_alone_and_refused_by_name(minion, device, words):
    amd = minion("mi300x-8", changes={"gpus": boards(device=device)})
    well, comment, changes = stages(amd, pillars.partition())
    assert well and not changes
    assert words in comment
    refused(amd, pillars.partition(devices=[pillars.rule(FIRST, strategy="partition")]), FIRST, words)


def test_an_unhealthy_gpu_keeps_its_whole_hive_from_a_reload(minion):
    amd = minion("mi300x-8", changes={"files": {f"/sys/bus/pci/devices/{LAST}/ras/umc_err_count": "ue: 2\nce: 0"}})
    refused(amd, pillars.partition("CPX", "NPS4", **RELOAD), f"GPU {LAST}", "2 uncorrected errors in umc", FIRST)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("EBUSY", "can't be seen"),
        ("EPERM", "being reset"),
        ("EIO", "KFD did not come back"),
        ("EINVAL", "refuses this mode"),
        ("ENOTSUP", "can't be switched"),
    ],
)
def test_what_the_driver_answers_is_a_sentence_and_everything_is_put_back(minion, number, words):
    amd = minion("mi300x-8")
    amd.host.add_fault({"call": "write", "gpu": LAST, "error": number, "times": 4 if number == "EBUSY" else 1})
    before = machine(amd.host)["gpus"]
    well, comment, changes = stages(amd, pillars.partition("CPX", on_failure="host"))
    assert not well and not changes
    assert words in comment and LAST in comment and "undone" in comment
    assert modes(amd.host) == {a: ("SPX", "NPS1") for a in before}


def test_an_answer_without_an_effect_fails_the_validation(minion):
    amd = minion("mi300x-8")
    amd.host.add_fault({"call": "write", "gpu": LAST, "lie": True})
    well, comment, _ = stages(amd, pillars.partition("CPX", on_failure="host"))
    assert not well and "wanted is compute mode CPX" in comment and LAST in comment
    assert modes(amd.host) == every(("SPX", "NPS1"))


# -- by hand ---------------------------------------------------------------------------------------------------------
def test_by_hand_one_gpu_is_set_and_put_back(minion):
    amd = minion("mi300x-8")
    assert amd.call("gpu_partition.modes", FIRST)[FIRST]["available"]["compute"] == ["SPX", "DPX", "QPX", "CPX"]
    assert amd.call("gpu_partition.set_mode", FIRST, "CPX", test=True)["changes"]
    assert modes(amd.host) == every(("SPX", "NPS1"))
    assert amd.call("gpu_partition.set_mode", FIRST, "cpx")["result"] is True
    assert modes(amd.host) == every(("SPX", "NPS1"), **{FIRST: ("CPX", "NPS1")})
    assert len(amd.call("gpu_partition.partitions", FIRST)) == 8
    assert "0|1|2|3|4|5|6|7" in amd.call("gpu.map")[FIRST]
    assert amd.call("gpu_partition.reset", FIRST)["result"] is True
    assert modes(amd.host) == every(("SPX", "NPS1"))


def test_by_hand_a_memory_mode_needs_the_hive_and_the_permission(minion):
    amd = minion("mi300x-8")
    with pytest.raises(Exception, match="whole XGMI hive"):
        amd.call("gpu_partition.set_mode", FIRST, memory="NPS4", reload=True)
    assert "Say reload=True; all GPUs" in amd.call("gpu_partition.set_mode", "all", memory="NPS4")["comment"]
    assert modes(amd.host) == every(("SPX", "NPS1"))
    assert amd.call("gpu_partition.set_mode", list(reversed(ADDRESSES)), memory="NPS4", reload=True)["result"] is True
    assert modes(amd.host) == every(("CPX", "NPS4"))
    assert amd.call("gpu_partition.reset", "all", reload=True)["result"] is True
    assert modes(amd.host) == every(("SPX", "NPS1"))


def test_by_hand_nobody_is_named_and_nothing_is_permitted_by_a_strange_word(minion):
    amd = minion("mi300x-8")
    with pytest.raises(Exception, match="No GPU is named"):
        amd.call("gpu_partition.set_mode", [], "CPX")
    with pytest.raises(Exception, match="true or false"):
        amd.call("gpu_partition.set_mode", "all", memory="NPS4", reload="maybe")
    assert modes(amd.host) == every(("SPX", "NPS1"))


@pytest.mark.parametrize("words", [{"compute": "CPU"}, {"memory": 4}, {}])
def test_by_hand_nonsense_is_refused(minion, words):
    with pytest.raises(Exception, match="Use one of|Give compute"):
        minion("mi300x-8").call("gpu_partition.set_mode", FIRST, **words)


def test_a_rollback_goes_by_the_permission_of_the_pillar(minion):
    allowed = pillars.partition("CPX", "NPS4", **RELOAD)
    amd = minion("mi300x-8", pillar=allowed)
    assert stages(amd, allowed)[0]
    assert amd.call("gpu_slicing.rollback")["result"] is True
    assert modes(amd.host) == every(("SPX", "NPS1"))
    amd.set_pillar({})
    assert "unload_modules" in amd.call("gpu_slicing.rollback")["comment"]


def test_the_state_sets_a_mode_and_is_then_content(minion):
    amd = minion("mi300x-8")
    tested = amd.state("gpu_partition.mode", FIRST, compute="DPX", test=True)
    assert tested.result is None and tested.changes and modes(amd.host) == every(("SPX", "NPS1"))
    done = amd.state("gpu_partition.mode", FIRST, compute="DPX")
    assert done.result is True and done.changes[FIRST]["new"]["compute"] == "DPX"
    again = amd.state("gpu_partition.mode", FIRST, compute="DPX")
    assert again.result is True and not again.changes
    whole = amd.state("gpu_partition.mode", "all of them", gpu="all", compute="CPX", memory="NPS4", reload=True)
    assert whole.result is True and modes(amd.host) == every(("CPX", "NPS4"))
    wrong = amd.state("gpu_partition.mode", FIRST, compute="QPX", memory="NPS2")
    assert wrong.result is False and "QPX/NPS2" in wrong.comment and not wrong.changes


def test_reads_work_on_every_host(minion):
    assert minion("no-gpu").call("gpu_partition.modes") == {}
    assert minion("dgx-h100").call("gpu_partition.modes") == {}
    other = minion("mi300x-8", changes={"gpus": boards(driver="gim")})
    assert "SR-IOV" in other.call("gpu_partition.modes")[FIRST]


def test_without_root_it_says_so(minion):
    amd = minion("mi300x-8", changes={"privileged": False})
    refused(amd, pillars.partition("CPX"), "root")


# -- stopped at every point ------------------------------------------------------------------------------------------
@pytest.fixture
def prepared(simulated):
    """Eight GPUs in the old modes."""
    host = simulated("mi300x-8")
    assert apply(host, pillars.partition(*OLD)).ok
    assert modes(host) == every(OLD)
    return host


#: The change from OLD to NEW: one request, two runs of modprobe, and eight writes of the compute mode.
POINTS = [("write", nth) for nth in range(1, 10)] + [("run", 1), ("run", 2)]


@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_a_step_that_fails_undoes_everything(prepared, call, nth):
    host = prepared
    host.add_fault({"call": call, "nth": nth, "error": "EIO"})
    result = apply(host, pillars.partition(*NEW, **RELOAD))
    assert not result.ok and "Traceback" not in " ".join(result.errors)
    assert modes(host) == every(OLD)
    assert any(address in " ".join(result.errors) for address in ADDRESSES)
    assert apply(host, pillars.partition(*NEW, **RELOAD)).ok
    assert modes(host) == every(NEW)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_kill_at_every_step_is_finished_by_the_next_run(prepared, call, nth, when):
    host = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, pillars.partition(*NEW, **RELOAD)) == signal.SIGKILL
    result = apply(host, pillars.partition(*NEW, **RELOAD))
    assert result.ok, result.errors
    assert "interrupted" in " ".join(result.warnings)
    assert modes(host) == every(NEW)
    assert apply(host, pillars.partition(*NEW, **RELOAD)).plan.empty


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), POINTS)
def test_kill_is_undone_by_a_run_that_wants_something_else(prepared, call, nth, when):
    host = prepared
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, pillars.partition(*NEW, **RELOAD)) == signal.SIGKILL
    result = apply(host, pillars.partition(*OLD))
    assert result.ok, result.errors
    assert modes(host) == every(OLD)


@pytest.mark.parametrize("nth", range(1, 12))
def test_no_record_no_change(prepared, nth):
    """A full disk at any write of ours leaves the old modes, or is told when the hardware has the new ones already."""
    host = prepared
    host.add_fault({"call": "store_write", "nth": nth, "error": "ENOSPC"})
    try:
        result = apply(host, pillars.partition(*NEW, **RELOAD))
    except errors.StateDirUnusable:
        result = None
    assert set(modes(host).values()) == ({NEW} if result and result.ok else {OLD})
    host.clear_faults()
    assert apply(host, pillars.partition(*NEW, **RELOAD)).ok
    assert modes(host) == every(NEW)


@pytest.mark.parametrize("answer", [{"error": "EIO"}, {"lie": True}], ids=["told", "lied"])
def test_a_driver_that_does_not_load_is_told_and_loaded_by_the_next_run(prepared, answer):
    host = prepared
    host.add_fault({"call": "run", "nth": 2, "times": 0, **answer})
    result = apply(host, pillars.partition(*NEW, **RELOAD))
    assert "amdgpu was unloaded and could not be loaded again" in " ".join(result.errors)
    assert "could not be put back" in " ".join(result.errors)
    with pytest.raises(errors.RollbackFailed, match="could not be loaded again"):
        apply(host, pillars.partition(*OLD))
    host.clear_faults()
    assert apply(host, pillars.partition(*OLD)).ok
    assert modes(host) == every(OLD)


def test_a_driver_that_does_not_let_go_is_told_with_what_stays_behind(prepared):
    host = prepared
    host.add_fault({"call": "run", "nth": 1, "error": "EIO"})
    result = apply(host, pillars.partition(*NEW, **RELOAD))
    assert "can't be withdrawn" in " ".join(result.errors)
    with Engine(config(host)) as engine:
        assert "NPS4 was requested" in engine.plan(pillars.partition(*OLD)).text()


# -- between two combinations that the driver does not list at the same time -------------------------------------------------
SPLIT, WHOLE = ("CPX", "NPS4"), ("SPX", "NPS1")


@pytest.fixture
def split(simulated):
    """Eight GPUs in CPX/NPS4, where the driver lists QPX and CPX only."""
    host = simulated("mi300x-8")
    assert apply(host, pillars.partition(*SPLIT, **RELOAD)).ok
    assert modes(host) == every(SPLIT)
    assert host.read(f"/sys/bus/pci/devices/{FIRST}/available_compute_partition") == "QPX, CPX"
    return host


@pytest.mark.parametrize("goal", [WHOLE, ("DPX", "NPS2"), ("DPX", "NPS1"), ("QPX", "NPS4")])
def test_a_split_hive_goes_anywhere_and_a_rollback_brings_it_back(split, goal):
    host = split
    result = apply(host, pillars.partition(*goal, **RELOAD))
    assert result.ok, result.errors
    assert modes(host) == every(goal)
    with Engine(config(host)) as engine:
        assert engine.reconciler(engine.policy(pillars.partition(*goal, **RELOAD))).apply(engine.rollback_targets()).ok
    assert modes(host) == every(SPLIT)


@pytest.mark.parametrize(("call", "nth"), [("write", 1), ("run", 1), ("run", 2)])
def test_a_split_hive_that_could_not_be_made_whole_is_split_again(split, call, nth):
    host = split
    host.add_fault({"call": call, "nth": nth, "error": "EIO"})
    result = apply(host, pillars.partition(*WHOLE, **RELOAD))
    assert not result.ok and modes(host) == every(SPLIT)
    assert apply(host, pillars.partition(*WHOLE, **RELOAD)).ok
    assert modes(host) == every(WHOLE)


def mi355x(age="supported"):
    files = {
        "current_compute_partition": "SPX",
        "available_compute_partition": "SPX, DPX, QPX, CPX",
        "current_memory_partition": "NPS1",
        "available_memory_partition": "NPS1, NPS2",
        "xgmi_hive_info/xgmi_hive_id": "7",
    }
    board = {"vendor": "amd", "device": "75a3", "sysfs": files, "partition_files": age}
    return [{**board, "address": address} for address in ADDRESSES]


def test_boards_of_the_newer_generation_have_quarters_in_two_domains(simulated):
    host = simulated("mi300x-8", gpus=mi355x())
    for pair in (("QPX", "NPS2"), ("SPX", "NPS1"), ("CPX", "NPS2"), ("DPX", "NPS1")):
        result = apply(host, pillars.partition(*pair, **RELOAD))
        assert result.ok, result.errors
        assert modes(host) == every(pair)
        assert apply(host, pillars.partition(*pair, **RELOAD)).plan.empty


def test_an_earlier_driver_is_asked_before_anything_is_requested(simulated):
    host = simulated("mi300x-8", gpus=mi355x("supported-early"))
    host.add_fault({"call": "run", "nth": 1, "times": 0, "error": "EIO"})
    result = apply(host, pillars.partition("QPX", "NPS2", **RELOAD))
    told = " ".join(result.errors)
    assert not result.ok and "QPX with NPS1 only, not with NPS2. Nothing was requested" in told and LAST in told
    assert modes(host) == every(WHOLE) and requested(host) == {""}
    host.clear_faults()
    assert apply(host, pillars.partition("DPX", "NPS2", **RELOAD)).ok


def test_a_split_hive_is_reset_by_hand(minion):
    amd = minion("mi300x-8", pillar=pillars.partition(*SPLIT, **RELOAD))
    assert stages(amd, pillars.partition(*SPLIT, **RELOAD))[0]
    assert amd.call("gpu_partition.modes", FIRST)[FIRST]["available"]["compute"] == ["SPX", "DPX", "QPX", "CPX"]
    tested = amd.call("gpu_partition.reset", "all", reload=True, test=True)
    assert tested["changes"] and modes(amd.host) == every(SPLIT)
    assert amd.call("gpu_partition.reset", "all", reload=True)["result"] is True
    assert modes(amd.host) == every(WHOLE)


# -- the last look before a memory mode is requested -------------------------------------------------------------------------
class Late(SimulatedHost):
    """A machine on which something happens right before the first step of a GPU is carried out: it was just written down."""

    happens, gpu = None, ""

    def store_append(self, path, text):
        super().store_append(path, text)
        if self.happens and self.gpu in text:
            happens, self.happens = self.happens, None
            happens(self)


def applied_late(host, wanted, gpu, happens):
    """Apply a pillar; right before the first step of this GPU, ``happens(host)`` is called."""
    with Engine(config(host)) as engine:
        engine.host = Late(host.description_path, host.state_dir)
        engine.host.gpu, engine.host.happens = gpu, happens
        engine.tools = type(engine.tools)(engine.host)
        return engine.apply(wanted)


def requested(host):
    """The memory modes that wait for a reload, as users are told them."""
    with Engine(config(host)) as engine:
        found, _ = engine.techniques("partition", ADDRESSES)
        return {tool.modes(one)["requested_memory"] for one, tool in found}


def test_a_holder_that_comes_at_the_last_moment_keeps_the_request_from_being_made(prepared):
    host = prepared
    result = applied_late(host, pillars.partition(*NEW, **RELOAD), LAST, lambda machine: machine.add_process(JOB))
    said = " ".join(result.errors)
    assert not result.ok and "pid 500 (python3 train.py" in said and "Nothing was requested" in said
    assert modes(host) == every(OLD)
    # Nothing waits: a reload for another reason brings the old mode.
    host.remove_process(500)
    assert requested(host) == {""}
    assert host.run(["modprobe", "-r", "amdgpu"]).returncode == host.run(["modprobe", "amdgpu"]).returncode == 0
    assert {memory for _, memory in modes(host).values()} == {OLD[1]}


def test_a_mode_that_another_tool_brought_meanwhile_is_not_requested_again(prepared):
    host = prepared

    def other_tool(machine):
        machine.write(f"/sys/bus/pci/devices/{FIRST}/current_memory_partition", "NPS4")
        for argv in (["modprobe", "-r", "amdgpu"], ["modprobe", "amdgpu"]):
            assert machine.run(argv).returncode == 0
        machine.add_fault({"call": "run", "error": "EIO", "times": 0})

    result = applied_late(host, pillars.partition(*NEW, **RELOAD), LAST, other_tool)
    assert result.ok, result.errors
    assert modes(host) == every(NEW) and requested(host) == {""}


def test_what_was_requested_of_another_hive_before_is_told(simulated):
    boards = []
    for number, address in enumerate(ADDRESSES):
        files = dict(zip(("current_compute_partition", "current_memory_partition"), WHOLE, strict=True))
        files.update(available_compute_partition="SPX, DPX, QPX, CPX", available_memory_partition="NPS1, NPS2, NPS4")
        files["xgmi_hive_info/xgmi_hive_id"] = str(1 + number // 4)
        boards.append({"vendor": "amd", "device": "74a1", "address": address, "sysfs": files})
    host = simulated("mi300x-8", gpus=boards)
    result = applied_late(host, pillars.partition(*NEW, **RELOAD), LAST, lambda machine: machine.add_process(JOB))
    said = " ".join(result.errors)
    assert not result.ok and "pid 500" in said
    assert f"coming with the next reload of amdgpu: NPS4 of {FIRST}" in said and "Nothing was requested" not in said
    assert modes(host) == every(WHOLE)
