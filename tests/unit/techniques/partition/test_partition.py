"""
Partition modes of single GPUs: which pairs are legal, what a plan consists of, and what the kernel's files mean.
"""

import errno
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hypothesis import HealthCheck
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.catalog import amd
from gpuslice.drivers import kfd
from gpuslice.drivers.sessions import Sessions
from gpuslice.engine import Engine
from gpuslice.health import board
from gpuslice.inventory import discovery
from gpuslice.rules import Rules
from gpuslice.sim import amdgpu
from gpuslice.sim.host import SimulatedHost
from gpuslice.techniques.partition.technique import Partition
from tests.support.techniques import plan_one

FIRST, LAST = "0000:05:00.0", "0000:e5:00.0"
RELOAD = Rules(unload_modules=("amdgpu",))
COMPUTE, MEMORY = ("SPX", "DPX", "QPX", "CPX"), ("NPS1", "NPS2", "NPS4")
LEGAL = sorted(f"{c}/{m}" for c, m in amd.MODELS["mi300x"]["legal_combinations"])
FILES = {
    "current_compute_partition": "SPX",
    "available_compute_partition": "SPX, DPX, QPX, CPX",
    "current_memory_partition": "NPS1",
    "available_memory_partition": "NPS1, NPS2, NPS4",
}
GPU = {"vendor": "amd", "device": "74a1", "address": FIRST, "sysfs": FILES}


def opened(host):
    """(technique, GPU by address)."""
    return Partition(host, Sessions(host)), {gpu.address: gpu for gpu in discovery.discover(host)}


def planned(tool, gpu, settings, rules=RELOAD, peers=()):
    return plan_one(tool, gpu, tool.observe(gpu), settings, rules, peers)


def actions(plan):
    return [step.action for step in plan.steps]


@pytest.fixture
def lone(simulated):
    """``lone(files, **gpu)``: a host with one MI300X in no hive; files are laid over its own, None takes one away."""

    def make(files=None, **changes):
        sysfs = {name: text for name, text in {**FILES, **(files or {})}.items() if text is not None}
        host = simulated("mi300x-8", gpus=[{**GPU, "sysfs": sysfs, **changes}])
        tool, gpus = opened(host)
        return host, tool, gpus[FIRST]

    return make


# -- what can be had -------------------------------------------------------------------------------------------------
def test_what_the_driver_offers_is_the_table_of_the_catalog(lone):
    _, tool, gpu = lone()
    assert sorted(tool.available(gpu)["pairs"]) == LEGAL


def test_the_files_win_over_the_catalog(lone):
    _, tool, gpu = lone({"available_memory_partition": "NPS1, NPS4", "available_compute_partition": "SPX, CPX"})
    assert tool.available(gpu)["pairs"] == ["SPX/NPS1", "CPX/NPS1", "CPX/NPS4"]
    with pytest.raises(errors.ProfileMismatch, match="NPS2 with this driver and firmware") as caught:
        planned(tool, gpu, {"compute": "CPX", "memory": "NPS2"})
    assert "It has NPS1, NPS4" in str(caught.value)


def test_without_a_choice_of_memory_modes_there_is_the_present_one(lone):
    _, tool, gpu = lone({"available_memory_partition": None})
    assert tool.available(gpu)["memory"] == ["NPS1"]


def test_without_the_file_of_an_older_kernel_the_memory_mode_is_one(lone):
    host, tool, gpu = lone({"available_memory_partition": None, "current_memory_partition": None})
    assert tool.observe(gpu).memory == ""
    assert actions(planned(tool, gpu, {"compute": "CPX", "memory": "NPS1"})) == ["set_compute"]
    tool.run(gpu, planned(tool, gpu, {"compute": "CPX", "memory": "NPS1"}).steps[0])
    assert host.read(f"/sys/bus/pci/devices/{FIRST}/current_compute_partition") == "CPX"
    assert not planned(tool, gpu, {"compute": "CPX", "memory": "NPS1"}).steps


@pytest.mark.parametrize("compute", COMPUTE)
@pytest.mark.parametrize("memory", MEMORY)
def test_exactly_the_legal_pairs_are_planned(lone, compute, memory):
    _, tool, gpu = lone()
    wanted = {"compute": compute, "memory": memory}
    if f"{compute}/{memory}" in LEGAL:
        assert planned(tool, gpu, wanted).after == wanted
        return
    with pytest.raises(errors.ProfileMismatch, match=f"{compute}/{memory}") as caught:
        planned(tool, gpu, wanted)
    assert "CPX/NPS4" in str(caught.value) and FIRST in str(caught.value)


@pytest.mark.parametrize(("word", "kind"), [("CPU", "compute"), (8, "compute"), ("4", "memory"), (True, "memory")])
def test_words_that_are_no_modes_name_those_that_are(lone, word, kind):
    _, tool, gpu = lone()
    with pytest.raises(errors.PolicyError, match="Use one of"):
        planned(tool, gpu, {kind: word})


def test_a_part_with_four_dies_has_no_quarters(lone):
    _, tool, gpu = lone({"available_compute_partition": "SPX, DPX, CPX"}, device="74a2")
    with pytest.raises(errors.ProfileMismatch, match="no compute mode QPX.$|no compute mode QPX\\. It has SPX, DPX, CPX"):
        planned(tool, gpu, {"compute": "QPX"})


def test_an_apu_has_thirds_and_one_memory_mode(lone):
    files = {"available_compute_partition": "SPX, TPX, CPX", "available_memory_partition": None}
    host, tool, gpu = lone(files, device="74a0")
    with pytest.raises(errors.ProfileMismatch, match="NPS4"):
        planned(tool, gpu, {"compute": "TPX", "memory": "NPS4"})
    tool.run(gpu, planned(tool, gpu, {"compute": "TPX", "memory": "NPS1"}).steps[0])
    assert [part.compute_units for part in kfd.parts_of(host, FIRST)] == [76, 76, 76]


# -- plans -----------------------------------------------------------------------------------------------------------
def test_the_order_is_memory_reload_compute(lone):
    _, tool, gpu = lone()
    plan = planned(tool, gpu, {"compute": "QPX", "memory": "NPS4"})
    assert actions(plan) == ["set_memory", "reload", "confirm_memory", "set_compute"]
    assert plan.steps[1].args == {"memory": {FIRST: "NPS4"}}
    assert plan.unloads == ()
    assert plan.drawing == ("|00000000| SPX/NPS1", "|00|11|22|33| QPX/NPS4")


@pytest.mark.parametrize(("compute", "memory"), [("CPX", "NPS4"), ("DPX", "NPS2")])
def test_what_the_driver_chooses_by_itself_needs_no_step(lone, compute, memory):
    _, tool, gpu = lone()
    assert "set_compute" not in actions(planned(tool, gpu, {"compute": compute, "memory": memory}))
    assert planned(tool, gpu, {"memory": memory}).after["compute"] == compute


def test_back_to_one_domain_the_driver_chooses_one_partition(lone):
    _, tool, gpu = lone({"current_compute_partition": "CPX", "current_memory_partition": "NPS4"})
    assert actions(planned(tool, gpu, {"compute": "SPX", "memory": "NPS1"})) == ["set_memory", "reload", "confirm_memory"]
    assert actions(planned(tool, gpu, {"compute": "CPX", "memory": "NPS1"}))[-1] == "set_compute"


OPTION = "/sys/module/amdgpu/parameters/user_partt_mode"


def test_the_compute_mode_that_an_option_names_for_the_beginning_is_known(simulated):
    tool, gpus = opened(host := simulated("mi300x-8", gpus=[GPU], files={OPTION: "4"}))
    wanted = {"compute": "QPX", "memory": "NPS4"}
    assert planned(tool, gpus[FIRST], {"memory": "NPS4"}).after["compute"] == "CPX"
    assert brought(tool, gpus[FIRST], wanted) == wanted
    # Without the option it would be SPX.
    assert brought(tool, gpus[FIRST], {"compute": "SPX", "memory": "NPS1"}) == {"compute": "SPX", "memory": "NPS1"}
    assert amdgpu.modes(host.state()["gpus"][FIRST])["selected"] == "CPX"


@pytest.mark.parametrize("auto", ["-2", "4294967294"])
def test_an_option_that_leaves_the_beginning_to_the_driver_is_none(simulated, auto):
    tool, gpus = opened(simulated("mi300x-8", gpus=[GPU], files={OPTION: auto}))
    assert planned(tool, gpus[FIRST], {"memory": "NPS2"}).after["compute"] == "DPX"


def test_a_memory_mode_in_which_the_driver_would_not_start_is_refused(simulated):
    host = simulated("mi300x-8", gpus=[GPU], files={OPTION: "0"})
    tool, gpus = opened(host)
    with pytest.raises(errors.Unsupported, match="user_partt_mode.*SPX.*NPS4") as caught:
        planned(tool, gpus[FIRST], {"compute": "CPX", "memory": "NPS4"})
    assert FIRST in str(caught.value) and "modprobe.d" in str(caught.value)
    assert actions(planned(tool, gpus[FIRST], {"compute": "CPX"})) == ["set_compute"]


def test_without_permission_nothing_is_requested(lone):
    _, tool, gpu = lone()
    with pytest.raises(errors.ModeChangePending, match="unload_modules") as caught:
        planned(tool, gpu, {"memory": "NPS4"}, Rules())
    assert FIRST in str(caught.value) and "NPS1 is in force" in str(caught.value)
    assert planned(tool, gpu, {"memory": "NPS4", "reload": True}, Rules()).steps
    assert planned(tool, gpu, {"layout": {"compute": "CPX", "memory": "NPS4"}, "undo": True}, Rules()).steps


def test_the_allocation_mode_is_put_back_and_else_forgotten(lone):
    files = {"compute_partition_mem_alloc_mode": "ALL", "current_compute_partition": "CPX"}
    host, tool, gpu = lone(files)
    layout = tool.layout(tool.observe(gpu))
    assert layout == {"compute": "CPX", "memory": "NPS1", "alloc": "ALL"}
    assert not planned(tool, gpu, {"compute": "CPX", "memory": "NPS1"}).steps
    assert {part.memory_mib for part in kfd.parts_of(host, FIRST)} == {192 * 1024}
    away = planned(tool, gpu, {"compute": "QPX", "memory": "NPS1"})
    assert "evenly" in away.note and "alloc" not in away.after
    tool.run(gpu, away.steps[0])
    back = planned(tool, gpu, tool.settings_of(layout))
    for step in back.steps:
        tool.run(gpu, step)
    assert tool.layout(tool.observe(gpu)) == layout == back.after


def test_a_layout_is_json_and_asks_for_itself(lone):
    _, tool, gpu = lone({"current_compute_partition": "QPX"})
    layout = tool.layout(tool.observe(gpu))
    assert not planned(tool, gpu, tool.settings_of(layout)).steps
    assert tool.pillar(gpu, layout) == {"strategy": "partition", "partition": {"compute": "QPX", "memory": "NPS1"}}
    assert tool.pillar(gpu, {"compute": "SPX", "memory": "NPS1"}) is None


@pytest.mark.parametrize(("mode", "count"), [("SPX", 1), ("DPX", 2), ("QPX", 4), ("CPX", 8)])
def test_a_mode_tells_its_partitions_before_they_are_made(lone, mode, count):
    _, tool, gpu = lone()
    found = tool.expected(gpu, {"compute": mode, "memory": "NPS1"})
    names = [FIRST] if mode == "SPX" else [f"{FIRST}-{mode.lower()}-{n}" for n in range(count)]
    assert [part.name for part in found] == names and sum(part.compute for part in found) == 1
    assert tool.expected(gpu, {"compute": "", "memory": ""}) == []


def test_how_many_partitions_a_board_that_nobody_knows_will_have_is_not_guessed(lone):
    _, tool, gpu = lone()
    unknown = replace(gpu, catalog_key="")
    assert tool.expected(unknown, {"compute": "CPX", "memory": "NPS1"}) == []
    assert len(tool.expected(unknown, {"compute": "DPX", "memory": "NPS1"})) == 2


@given(st.lists(st.sampled_from(LEGAL), min_size=1, max_size=5))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_way_through_legal_pairs_ends_where_it_was_to_go(tmp_path_factory, host_description, pairs):
    place = tmp_path_factory.mktemp("walk")
    host = SimulatedHost(str(host_description(place, "mi300x-8", {"gpus": [GPU]})), str(place / "state"))
    tool, gpus = opened(host)
    for pair in pairs:
        compute, memory = pair.split("/")
        wanted = {"compute": compute, "memory": memory}
        plan = planned(tool, gpus[FIRST], wanted)
        for step in sorted(plan.steps, key=lambda step: step.phase):
            tool.run(gpus[FIRST], step)
        assert tool.layout(tool.observe(gpus[FIRST])) == plan.after == wanted
        assert not planned(tool, gpus[FIRST], wanted).steps
        parts = tool.slices(gpus[FIRST], tool.observe(gpus[FIRST]))
        assert sum(part.memory_mib for part in parts) == 192 * 1024
        assert sum(part.compute for part in parts) == pytest.approx(1)


# -- the hive --------------------------------------------------------------------------------------------------------
def test_the_last_gpu_of_a_hive_carries_request_and_reload(simulated):
    tool, gpus = opened(simulated("mi300x-8"))
    wanted = {"compute": "CPX", "memory": "NPS4"}
    peers = [(gpu, wanted) for gpu in gpus.values()]
    steps = {address: actions(planned(tool, gpu, wanted, peers=peers)) for address, gpu in gpus.items()}
    assert steps.pop(LAST) == ["set_memory", "reload", "confirm_memory"]
    assert set(map(tuple, steps.values())) == {("confirm_memory",)}


def test_two_modes_in_one_hive_name_both(simulated):
    tool, gpus = opened(simulated("mi300x-8"))
    wanted = {address: {"compute": "CPX", "memory": "NPS4"} for address in gpus}
    wanted[FIRST] = {"compute": "CPX", "memory": "NPS1"}
    peers = [(gpu, wanted[address]) for address, gpu in gpus.items()]
    with pytest.raises(errors.PolicyError, match=f"{FIRST} NPS1.*{LAST} NPS4"):
        planned(tool, gpus[LAST], wanted[LAST], peers=peers)


def test_a_part_of_a_hive_names_the_rest(simulated):
    tool, gpus = opened(simulated("mi300x-8"))
    wanted = {"compute": "CPX", "memory": "NPS4"}
    peers = [(gpu, wanted) for address, gpu in gpus.items() if address != LAST]
    with pytest.raises(errors.PolicyError, match=f"so {LAST} would change too"):
        planned(tool, gpus[FIRST], wanted, peers=peers)


def test_the_compute_mode_is_each_gpus_own(simulated):
    tool, gpus = opened(simulated("mi300x-8"))
    assert actions(planned(tool, gpus[FIRST], {"compute": "CPX", "memory": "NPS1"})) == ["set_compute"]


def test_two_hives_need_two_requests_and_one_reload_and_a_third_keeps_its_mode(simulated):
    boards = []
    for number, bus in enumerate(("05", "15", "26", "36", "46")):
        files = {**FILES, "xgmi_hive_info/xgmi_hive_id": str(1 + number // 2)}
        boards.append({**GPU, "address": f"0000:{bus}:00.0", "sysfs": files})
    boards[4]["sysfs"]["current_compute_partition"] = "DPX"
    host = simulated("mi300x-8", gpus=boards)
    tool, gpus = opened(host)
    wanted = {a: {"memory": memory} for a, memory in zip(list(gpus)[:4], ("NPS4", "NPS4", "NPS2", "NPS2"), strict=True)}
    peers = [(gpus[address], one) for address, one in wanted.items()]
    plans = {address: planned(tool, gpus[address], one, peers=peers) for address, one in wanted.items()}
    order = [(a[5:7], s.action) for a, plan in plans.items() for s in plan.steps if s.phase == 1]
    assert order == [("15", "set_memory"), ("36", "set_memory"), ("36", "reload")]
    assert "0000:46:00.0" in plans["0000:36:00.0"].note
    for phase in (1, 2):
        for address, plan in plans.items():
            for step in plan.steps:
                if step.phase == phase:
                    tool.run(gpus[address], step)
    assert [tool.layout(tool.observe(gpu)) for gpu in gpus.values()] == [
        {"compute": "CPX", "memory": "NPS4"}, {"compute": "CPX", "memory": "NPS4"},
        {"compute": "DPX", "memory": "NPS2"}, {"compute": "DPX", "memory": "NPS2"},
        {"compute": "DPX", "memory": "NPS1"},
    ]  # fmt: skip


def test_gpus_of_an_unknown_hive_are_taken_for_one(simulated):
    boards = [{**GPU, "address": address} for address in (FIRST, LAST)]
    host = simulated("mi300x-8", gpus=boards)
    tool = Partition(host, Sessions(host))
    assert tool.hive(FIRST) == [FIRST]
    nodes = "/sys/class/kfd/kfd/topology/nodes"
    silent = {f"{nodes}/{n}/properties": "simd_count 0" for n in (2, 3)}
    host = simulated("mi300x-8", gpus=boards, files=silent)
    assert Partition(host, Sessions(host)).hive(FIRST) == [FIRST, LAST]


# -- who holds a GPU -------------------------------------------------------------------------------------------------
def test_a_client_of_the_compute_driver_stops_a_change_and_is_named(simulated):
    host = simulated("mi300x-8", processes=[{"pid": 41, "command": "train", "unit": "train.service", "nodes": ["/dev/kfd"]}])
    tool, gpus = opened(host)
    with pytest.raises(errors.ResourceConflict, match=r"pid 41 \(train, unit train.service\)") as caught:
        planned(tool, gpus[FIRST], {"compute": "CPX"})
    assert caught.value.holders[0]["pid"] == 41
    allowed = planned(tool, gpus[FIRST], {"compute": "CPX"}, Rules(stop_units=("train.service",)))
    assert allowed.stops == ("train.service",) and actions(allowed) == ["set_compute"]
    forced = planned(tool, gpus[FIRST], {"compute": "CPX"}, Rules(force=True))
    assert actions(forced) == ["end_process", "set_compute"]


def test_a_client_whose_files_can_not_be_seen_is_known_to_the_driver(simulated):
    host = simulated("mi300x-8", files={"/sys/class/kfd/kfd/proc/777/pasid": "1"})
    tool, gpus = opened(host)
    assert [process.pid for process in tool.holders(gpus[FIRST])] == [777]


def test_a_render_node_of_another_gpu_stops_only_a_reload(simulated):
    host = simulated("mi300x-8", processes=[{"pid": 41, "command": "ffmpeg", "nodes": ["/dev/dri/renderD136"]}])
    tool, gpus = opened(host)
    wanted = {"compute": "CPX", "memory": "NPS4"}
    assert planned(tool, gpus[FIRST], {"compute": "CPX"}).steps
    peers = [(gpu, wanted) for gpu in gpus.values()]
    with pytest.raises(errors.ResourceConflict, match="reload amdgpu.*ffmpeg"):
        planned(tool, gpus[FIRST], wanted, peers=peers)


def test_an_invisible_user_of_the_module_stops_a_reload_before_the_request(simulated):
    host = simulated("mi300x-8", gpus=[GPU], modules={"amdgpu": 1})
    tool, gpus = opened(host)
    with pytest.raises(errors.ResourceConflict, match="1 users that can't be seen"):
        planned(tool, gpus[FIRST], {"memory": "NPS4"})
    assert amdgpu.modes(host.state()["gpus"][FIRST])["requested"] == ""


# -- what else can be there ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("driver", "kind", "words"),
    [
        ("gim", errors.Unsupported, "SR-IOV mode"),
        ("vfio-pci", errors.ResourceConflict, "passthrough"),
        ("pci-stub", errors.Unsupported, "pci-stub"),
        ("", errors.DriverMissing, "modprobe amdgpu"),
    ],
)
def test_another_driver_is_named(lone, driver, kind, words):
    _, tool, gpu = lone(driver=driver)
    with pytest.raises(kind, match=words) as caught:
        tool.observe(gpu)
    assert FIRST in str(caught.value)


@pytest.mark.parametrize(
    ("device", "words", "mendable"),
    [
        ("74a1", "too old", True),
        ("740c", "each half of this card", False),
        ("740f", "only the MI300 and MI350", False),
        ("7448", "single compute die", False),
        ("74b5", "virtual function", False),
    ],
)
def test_the_reason_is_that_of_the_family(simulated, device, words, mendable):
    tool, gpus = opened(simulated("mi300x-8", gpus=[{"vendor": "amd", "device": device, "address": FIRST}]))
    assert not tool.supports(gpus[FIRST])
    why, blames_host = tool.why_not(gpus[FIRST])
    assert words in why and blames_host == mendable


def test_before_a_reload_the_health_of_the_whole_hive_matters(simulated):
    sick = {**FILES, "xgmi_hive_info/xgmi_hive_id": "7", "ras/umc_err_count": "ue: 3\nce: 9"}
    well = {**FILES, "xgmi_hive_info/xgmi_hive_id": "7", "ras/umc_err_count": "ue: 0\nce: 9"}
    boards = [{**GPU, "sysfs": well}, {**GPU, "address": LAST, "sysfs": sick}]
    host = simulated("mi300x-8", gpus=boards)
    tool, gpus = opened(host)
    assert board.Reading(host, Sessions(host), gpus[FIRST]).findings() == []
    [finding] = board.Reading(host, Sessions(host), gpus[LAST]).findings()
    assert finding.sentence == "3 uncorrected errors in umc since the driver was loaded"
    wanted = {"memory": "NPS4"}
    peers = [(gpu, wanted) for gpu in gpus.values()]
    assert planned(tool, gpus[FIRST], wanted, peers=peers).concerns == (LAST,)
    reload = {"strategy": "partition", "enabled": True, "partition": {"compute": "CPX", **wanted}}
    pillar = {"containers_gpu_slicing": reload, "containers_gpu_state_management": {"unload_modules": ["amdgpu"]}}
    with Engine({"simulate": host.description_path, "state_dir": host.state_dir}) as engine:
        blocked = dict(engine.plan(pillar).blocked)
    assert f"GPU {LAST}, which would change with it, has 3 uncorrected errors in umc" in blocked[FIRST]
    assert "is not healthy: 3 uncorrected errors in umc" in blocked[LAST]


# -- what the driver answers -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        ("EPERM", errors.Unhealthy, "being reset"),
        ("EINVAL", errors.DriverError, "refuses this mode"),
        ("EIO", errors.DriverError, "KFD did not come back"),
        ("ENOTSUP", errors.Unsupported, "virtual function"),
        ("EACCES", errors.PermissionDenied, "reading only"),
        ("EBUSY", errors.ResourceConflict, "can't be seen"),
    ],
)
def test_each_errno_of_a_compute_change_is_a_sentence(lone, number, kind, words):
    host, tool, gpu = lone()
    [step] = planned(tool, gpu, {"compute": "CPX"}).steps
    host.add_fault({"call": "write", "error": number, "times": 0})
    with pytest.raises(kind, match=words) as caught:
        tool.run(gpu, step)
    assert FIRST in str(caught.value)
    assert tool.observe(gpu).compute == "SPX"


def test_gpus_switch_one_after_the_other_because_the_driver_refuses_two_at_once(simulated):
    host, busy, most = simulated("mi300x-8"), threading.Lock(), []

    class OneAtATime(type(host)):
        """A kernel that locks the compute driver for the time of a change."""

        def write(self, path, text):
            if not busy.acquire(blocking=False):
                raise OSError(errno.EBUSY, "Device or resource busy", path)
            try:
                time.sleep(0.05)
                most.append(path)
                super().write(path, text)
            finally:
                busy.release()

        def sleep(self, seconds):
            """Nobody has so much patience that it helps."""

    tool, gpus = opened(OneAtATime(host.description_path, host.state_dir))
    plans = {address: planned(tool, gpu, {"compute": "CPX"}) for address, gpu in gpus.items()}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda address: tool.run(gpus[address], plans[address].steps[0]), gpus))
    assert len(most) == 8 and {tool.observe(gpu).compute for gpu in gpus.values()} == {"CPX"}


def test_a_client_that_has_just_ended_is_waited_for(lone):
    host, tool, gpu = lone()
    [step] = planned(tool, gpu, {"compute": "CPX"}).steps
    host.add_fault({"call": "write", "error": "EBUSY", "times": 1})
    tool.run(gpu, step)
    assert tool.observe(gpu).compute == "CPX"


@pytest.mark.parametrize(("number", "kind"), [("EINVAL", errors.DriverError), ("ENOTSUP", errors.Unsupported)])
def test_each_errno_of_a_request_is_a_sentence_and_nothing_is_noted(lone, number, kind):
    host, tool, gpu = lone()
    step = planned(tool, gpu, {"memory": "NPS4"}).steps[0]
    host.add_fault({"call": "write", "error": number})
    with pytest.raises(kind, match="request memory mode NPS4"):
        tool.run(gpu, step)
    assert tool.observe(gpu).requested == ""


def test_an_answer_without_an_effect_is_noticed_after_the_reload(lone):
    host, tool, gpu = lone()
    plan = planned(tool, gpu, {"memory": "NPS4"})
    host.add_fault({"call": "write", "lie": True})
    tool.run(gpu, plan.steps[0])
    with pytest.raises(errors.ModeChangePending, match="VBIOS"):
        tool.run(gpu, plan.steps[1])
    assert tool.observe(gpu).loaded


def test_a_request_that_waits_is_told(lone):
    host, tool, gpu = lone()
    tool.run(gpu, planned(tool, gpu, {"memory": "NPS4"}).steps[0])
    assert tool.modes(gpu)["requested_memory"] == "NPS4"
    waits = "waits for a reload of amdgpu: memory mode is NPS1 and NPS4 after it; a reboot forgets that"
    assert tool.pending(gpu) == waits
    assert "can't be withdrawn" in planned(tool, gpu, {"compute": "SPX", "memory": "NPS1"}).note
    host.reboot()
    assert tool.modes(gpu)["requested_memory"] == "" == tool.pending(gpu)
    assert tool.observe(gpu).memory == "NPS1"


# -- the compute driver's topology -----------------------------------------------------------------------------------
@pytest.mark.parametrize("location", [0x501, 0x10000500])
def test_both_forms_of_a_partitions_number_are_read(simulated, location):
    node = "/sys/class/kfd/kfd/topology/nodes/9"
    told = f"simd_count 152\nsimd_per_cu 4\ndomain 0\nlocation_id {location}\ndrm_render_minor 140\nhive_id 0\n"
    bank = {f"{node}/mem_banks/0/properties": "size_in_bytes 25769803776\n"}
    host = simulated("no-gpu", files={f"{node}/properties": told, **bank})
    assert kfd.parts(host) == [kfd.Part("0000:05:00", 1, 140, 38, 24576, "")]


def test_the_simulated_driver_refuses_as_the_kernel_does(simulated):
    host = simulated("mi300x-8", processes=[{"pid": 41, "nodes": ["/dev/kfd"]}])
    base = f"/sys/bus/pci/devices/{FIRST}"

    def refusal(name, text):
        with pytest.raises(OSError) as caught:
            host.write(f"{base}/{name}", text)
        return caught.value.errno

    assert refusal("current_compute_partition", "TPX") == errno.EINVAL
    assert refusal("current_compute_partition", "CPX") == errno.EBUSY
    assert refusal("current_memory_partition", "NPS8") == errno.EINVAL
    host.write(f"{base}/current_compute_partition", "SPX")
    host.write(f"{base}/current_memory_partition", "NPS4")
    host.write(f"{base}/current_memory_partition", "NPS1")
    assert {amdgpu.modes(gpu)["requested"] for gpu in host.state()["gpus"].values()} == {"NPS4"}
    assert host.run(["modprobe", "-r", "amdgpu"]).returncode == 1
    host.remove_process(41)
    assert host.run(["modprobe", "-r", "amdgpu"]).returncode == 0
    assert not host.exists(f"{base}/current_compute_partition") and not host.exists("/dev/kfd")
    assert host.run(["modprobe", "amdgpu"]).returncode == 0
    assert {host.read(f"{base}/{name}") for name in ("current_compute_partition", "current_memory_partition")} == {"CPX", "NPS4"}


# -- every way between two combinations, on every board and with both ages of the driver --------------------------------------
BOARDS = sorted(key for key, model in amd.MODELS.items() if model["compute_partitions"])
AGES = ("supported", "available")
#: What the driver of now takes on bare metal, written by hand from its source (linux, aqua_vanjaram.c).
TAKEN = {
    "mi300a": "SPX/NPS1 TPX/NPS1 CPX/NPS1",
    "mi300x": "SPX/NPS1 DPX/NPS1 DPX/NPS2 QPX/NPS1 QPX/NPS4 CPX/NPS1 CPX/NPS4",
    "mi300x-hf": "SPX/NPS1 DPX/NPS1 DPX/NPS2 QPX/NPS1 QPX/NPS4 CPX/NPS1 CPX/NPS4",
    "mi308x": "SPX/NPS1 DPX/NPS1 CPX/NPS1 CPX/NPS4",
    "mi308x-hf": "SPX/NPS1 DPX/NPS1 CPX/NPS1 CPX/NPS4",
    "mi325x": "SPX/NPS1 DPX/NPS1 DPX/NPS2 QPX/NPS1 QPX/NPS4 CPX/NPS1 CPX/NPS4",
    "mi350p": "SPX/NPS1 DPX/NPS1 CPX/NPS1",
    "mi350x": "SPX/NPS1 DPX/NPS1 DPX/NPS2 QPX/NPS1 QPX/NPS2 CPX/NPS1 CPX/NPS2",
    "mi355x": "SPX/NPS1 DPX/NPS1 DPX/NPS2 QPX/NPS1 QPX/NPS2 CPX/NPS1 CPX/NPS2",
}
#: What an older driver does not take.
NEW_ONLY = {"QPX/NPS2", "CPX/NPS2"}


def combinations_of(board, age):
    return [pair for pair in TAKEN[board].split() if age == "supported" or pair not in NEW_ONLY]


def board_in(simulated, board, age, pair):
    """A host with one such board in these modes: (host, technique, GPU)."""
    model = amd.MODELS[board]
    compute, memory = pair.split("/")
    files = {
        "current_compute_partition": compute,
        "available_compute_partition": ", ".join(model["compute_partitions"]),
        "current_memory_partition": memory,
    }
    if len(model["memory_partitions"]) > 1:
        files["available_memory_partition"] = ", ".join(model["memory_partitions"])
    gpu = {"vendor": "amd", "device": min(model["device_ids"]), "address": FIRST, "sysfs": files, "partition_files": age}
    host = simulated("mi300x-8", gpus=[gpu])
    tool, gpus = opened(host)
    return host, tool, gpus[FIRST]


def brought(tool, gpu, settings):
    """Plan and carry out; returns the layout that is there then."""
    plan = planned(tool, gpu, settings)
    for step in sorted(plan.steps, key=lambda step: step.phase):
        tool.run(gpu, step)
    assert tool.layout(tool.observe(gpu)) == plan.after
    return plan.after


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("board", BOARDS)
def test_every_combination_is_reached_from_every_other_and_put_back(simulated, board, age):
    for before in combinations_of(board, age):
        host, tool, gpu = board_in(simulated, board, age, before)
        assert sorted(tool.available(gpu)["pairs"]) == sorted(combinations_of(board, age))
        there = tool.layout(tool.observe(gpu))
        for after in combinations_of(board, age):
            compute, memory = after.split("/")
            assert brought(tool, gpu, {"compute": compute, "memory": memory}) == {"compute": compute, "memory": memory}
            # A rollback or a boot asks for a layout, an undo for one with leave to do what the change did.
            assert brought(tool, gpu, tool.settings_of(there)) == there
            brought(tool, gpu, {"compute": compute, "memory": memory})
            assert brought(tool, gpu, tool.settings_of(there, [])) == there


@pytest.mark.parametrize("age", AGES)
@pytest.mark.parametrize("board", BOARDS)
def test_every_other_combination_is_refused_from_everywhere_and_those_there_are_are_named(simulated, board, age):
    there = combinations_of(board, age)
    for before in there:
        host, tool, gpu = board_in(simulated, board, age, before)
        state = host.state()
        for compute in ("SPX", "DPX", "TPX", "QPX", "CPX"):
            for memory in ("NPS1", "NPS2", "NPS4", "NPS8"):
                if f"{compute}/{memory}" in there:
                    continue
                with pytest.raises(errors.ProfileMismatch, match=there[-1]) as caught:
                    planned(tool, gpu, {"compute": compute, "memory": memory})
                assert FIRST in str(caught.value)
        assert host.state() == state


@pytest.mark.parametrize(
    ("age", "pair", "listed"),
    [
        ("supported", "SPX/NPS1", "SPX, DPX, QPX, CPX"),
        ("supported", "CPX/NPS4", "QPX, CPX"),
        ("supported", "DPX/NPS2", "DPX"),
        ("available", "CPX/NPS4", "SPX, DPX, QPX, CPX"),
    ],
)
def test_the_simulated_driver_lists_modes_as_the_real_one(simulated, age, pair, listed):
    host, _, _ = board_in(simulated, "mi300x", age, pair)
    base = f"/sys/bus/pci/devices/{FIRST}"
    assert host.read(f"{base}/available_compute_partition") == listed
    assert host.exists(f"{base}/compute_partition_config") == (age == "supported")
    if age == "available":
        return
    assert host.read(f"{base}/compute_partition_config/supported_xcp_configs") == "SPX, DPX, QPX, CPX"
    for compute, memory in (("SPX", "NPS1"), ("DPX", "NPS1, NPS2"), ("CPX", "NPS1, NPS4")):
        host.write(f"{base}/compute_partition_config/xcp_config", compute)
        assert host.read(f"{base}/compute_partition_config/supported_nps_configs") == memory
    with pytest.raises(OSError):
        host.write(f"{base}/compute_partition_config/xcp_config", "TPX")
    assert host.read(f"{base}/current_compute_partition") == pair[:3]


# -- what the driver's lists mean ------------------------------------------------------------------------------------------
CONFIG = "compute_partition_config"


def told(simulated, **files):
    """A host whose files say just this; ``config_`` stands for the folder of a newer driver."""
    base = f"/sys/bus/pci/devices/{FIRST}"
    texts = {name.replace("config_", f"{CONFIG}/", 1): text for name, text in files.items()}
    sysfs = {name: text for name, text in {**FILES, **texts}.items() if text is not None}
    gpu = {**GPU, "sysfs": sysfs, "partition_files": "available"}
    host = simulated("mi300x-8", gpus=[gpu], files={f"{base}/{name}": text for name, text in sysfs.items() if "/" in name})
    tool, gpus = opened(host)
    return tool, gpus[FIRST]


def test_what_is_valid_now_wins_over_the_rules(simulated):
    lists = {"config_supported_xcp_configs": "SPX, DPX, QPX, CPX"}
    now = {"current_compute_partition": "DPX", "current_memory_partition": "NPS2"}
    tool, gpu = told(simulated, available_compute_partition="DPX, CPX", **now, **lists)
    pairs = tool.available(gpu)["pairs"]
    assert "CPX/NPS2" in pairs and "QPX/NPS2" not in pairs and "SPX/NPS1" in pairs
    tool, gpu = told(simulated, available_compute_partition="SPX, CPX", **lists)
    assert "QPX/NPS1" not in tool.available(gpu)["pairs"] and "QPX/NPS4" in tool.available(gpu)["pairs"]


def test_the_table_of_the_selected_mode_wins_over_the_rules(simulated):
    lists = {"config_supported_xcp_configs": "SPX, DPX, QPX, CPX", "config_xcp_config": "CPX"}
    tool, gpu = told(simulated, config_supported_nps_configs="NPS1, NPS2", **lists)
    pairs = tool.available(gpu)["pairs"]
    assert "CPX/NPS2" in pairs and "CPX/NPS4" not in pairs and "QPX/NPS4" in pairs


@pytest.mark.parametrize("words", ["Not supported", "UNKNOWN", ""])
def test_words_for_nothing_are_no_modes(simulated, words):
    tool, gpu = told(simulated, available_compute_partition=words, available_memory_partition=words)
    assert tool.available(gpu) == {"compute": [], "memory": ["NPS1"], "pairs": []}
    with pytest.raises(errors.Unsupported, match="lists none in available_compute_partition") as caught:
        planned(tool, gpu, {"compute": "CPX"})
    assert FIRST in str(caught.value)
    assert not planned(tool, gpu, {"compute": "SPX", "memory": "NPS1"}).steps


def test_a_list_that_the_driver_did_not_make_yet_is_no_list(simulated):
    """It is made when the mode is switched first, and the driver takes the modes all the same."""
    lists = {"config_supported_xcp_configs": "SPX, DPX, QPX, CPX", "config_supported_nps_configs": "Not supported"}
    tool, gpu = told(simulated, available_compute_partition="Not supported", config_xcp_config="SPX", **lists)
    assert sorted(tool.available(gpu)["pairs"]) == LEGAL


def test_a_board_whose_table_of_modes_is_empty_has_none(simulated):
    tool, gpu = told(simulated, config_supported_xcp_configs="Not supported")
    with pytest.raises(errors.Unsupported):
        planned(tool, gpu, {"compute": "CPX"})


def test_without_a_list_the_modes_can_not_be_switched(simulated):
    """So it is in a virtual machine; the driver's answer to a write would come too late."""
    tool, gpu = told(simulated, available_compute_partition=None)
    with pytest.raises(errors.Unsupported, match="can't be switched"):
        planned(tool, gpu, {"compute": "CPX"})


@pytest.mark.parametrize("pair", sorted(NEW_ONLY))
def test_what_this_version_of_the_driver_does_not_take_is_found_out_before_the_request(simulated, pair):
    """The first drivers with lists know one table for all boards, and tell of each compute mode when they are asked."""
    compute, memory = pair.split("/")
    host, tool, gpu = board_in(simulated, "mi355x", "supported-early", "SPX/NPS1")
    steps = planned(tool, gpu, {"compute": compute, "memory": memory}).steps
    with pytest.raises(errors.ProfileMismatch, match=f"{compute} with NPS1 only, not with NPS2. Nothing was requested") as caught:
        tool.run(gpu, steps[0])
    assert FIRST in str(caught.value)
    assert amdgpu.modes(host.state()["gpus"][FIRST])["requested"] == tool.observe(gpu).requested == ""
    assert host.read(f"/sys/bus/pci/devices/{FIRST}/{CONFIG}/xcp_config") == "SPX"
    # In that memory mode the driver's list tells it, so that the plan does.
    host, tool, gpu = board_in(simulated, "mi355x", "supported-early", "DPX/NPS2")
    with pytest.raises(errors.ProfileMismatch, match=f"no combination {pair}"):
        planned(tool, gpu, {"compute": compute, "memory": memory})


def test_a_hive_is_asked_for_every_compute_mode_that_is_wanted_in_it(simulated):
    files = {**FILES, "available_memory_partition": "NPS1, NPS2", "xgmi_hive_info/xgmi_hive_id": "7"}
    mi355x = {**GPU, "device": "75a3", "sysfs": files, "partition_files": "supported-early"}
    boards = [{**mi355x, "address": address} for address in (FIRST, LAST)]
    host = simulated("mi300x-8", gpus=boards)
    tool, gpus = opened(host)
    wanted = {FIRST: {"compute": "qpx", "memory": "NPS2"}, LAST: {"compute": "DPX", "memory": "NPS2"}}
    peers = [(gpus[address], one) for address, one in wanted.items()]
    planned(tool, gpus[FIRST], wanted[FIRST], peers=peers)
    with pytest.raises(errors.ProfileMismatch, match="QPX with NPS1 only"):
        tool.run(gpus[LAST], planned(tool, gpus[LAST], wanted[LAST], peers=peers).steps[0])


def test_a_way_back_from_a_mode_that_only_an_older_driver_took(simulated):
    host, tool, gpu = board_in(simulated, "mi300x", "available", "CPX/NPS2")
    there = tool.layout(tool.observe(gpu))
    assert brought(tool, gpu, {"compute": "SPX", "memory": "NPS1"}) == {"compute": "SPX", "memory": "NPS1"}
    assert brought(tool, gpu, tool.settings_of(there, [])) == there


def test_a_wish_is_judged_while_the_driver_is_unloaded_too(simulated):
    host, tool, gpu = board_in(simulated, "mi300x", "supported", "SPX/NPS1")
    tool._notes.unload({})
    assert host.run(["modprobe", "-r", "amdgpu"]).returncode == 0
    with pytest.raises(errors.ProfileMismatch, match="QPX/NPS2"):
        planned(tool, gpu, {"compute": "QPX", "memory": "NPS2"})
    assert brought(tool, gpu, {"compute": "QPX", "memory": "NPS4"}) == {"compute": "QPX", "memory": "NPS4"}
