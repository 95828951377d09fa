"""
A change of virtual functions is stopped at every single write: by one that fails, and by ``kill -9`` before and after it. The GPU
must end at the old layout or the new one, whichever files its driver has.
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
from tests.support.techniques import plan_one

FAIR = {"vf_count": 2, "profile": "fair", "autoprobe": True}
UNEQUAL = {
    "vf_count": 3,
    "profile": "fair",
    "scheduling": {"exec_quantum_ms": 20},
    "vfs": {1: {"vram_mib": 8192, "preempt_timeout_us": 4000}},
}
GIM = [{"vendor": "amd", "device": "75a0", "address": address, "driver": "gim", "sriov_totalvfs": 8, "numvfs": 1, "vf_offset": 16}
       for address in ("0000:33:00.0", "0000:c3:00.0")]  # fmt: skip


B60 = {"vendor": "intel", "device": "e211", "address": "0000:03:00.0", "driver": "xe", "sriov_totalvfs": 4, "vf_driver": "xe"}
FLEX = {"vendor": "intel", "device": "56c0", "address": "0000:3c:00.0", "driver": "i915", "sriov_totalvfs": 5}
MAX = {**FLEX, "device": "0bd5", "address": "0000:29:00.0", "sriov_files": "prelim_iov"}
#: name -> (host, its GPUs, old settings, new settings, writes of the change).
CASES = {
    "sriov_admin": ("arc-pro-b60", [B60], FAIR, UNEQUAL, 10),
    "debugfs": ("arc-pro-b60", [{**B60, "sriov_files": "debugfs"}], FAIR, {**UNEQUAL, "vf_count": 2}, 21),
    "debugfs from quotas to equal shares": (
        "arc-pro-b60",
        [{**B60, "sriov_files": "debugfs"}],
        {**UNEQUAL, "vf_count": 2},
        FAIR,
        4,
    ),
    "debugfs-old": ("arc-pro-b60", [{**B60, "sriov_files": "debugfs-old"}], {**UNEQUAL, "vf_count": 2}, FAIR, 15),
    "prelim_iov": ("flex170", [{**FLEX, "sriov_files": "prelim_iov"}], FAIR, {"vf_count": 2, "profile": "auto"}, 18),
    "iov": ("flex170", [{**FLEX, "sriov_files": "iov"}], {"vf_count": 2, "profile": "Fixed_30fps"}, {"vf_count": 0}, 18),
    "two tiles": ("max1550", [MAX], {"vf_count": 1, "profile": "fair"}, {"vf_count": 2, "profile": "auto"}, 27),
}
POINTS = [(name, nth) for name, case in CASES.items() for nth in range(1, case[-1] + 1)]


def look(host):
    """Layout of each GPU as the hardware has it."""
    with Engine(config(host)) as engine:
        tool = engine.tools.get("sriov")
        return {gpu.address: tool.layout(tool.observe(gpu)) for gpu in engine.gpus}


@pytest.fixture
def prepared(prepared_once):
    """``prepared(name)``: a host in the old layout: (host, layouts by GPU, the new pillar)."""

    def make(name):
        example, gpus, old, new, _ = CASES[name]

        def in_old_layout(host):
            result = apply(host, pillars.for_all("sriov", old))
            assert result.ok, result.errors
            assert apply(host, pillars.for_all("sriov", old)).plan.empty
            return look(host)

        return *prepared_once(name, in_old_layout, example, gpus=gpus), pillars.for_all("sriov", new)

    return make


def writes(host):
    return next(f["seen"] for f in host.state()["faults"] if f["nth"] == 10**9)


@pytest.mark.parametrize("name", CASES)
def test_every_write_of_the_change_is_tried(prepared, name):
    host, before, new = prepared(name)
    host.add_fault({"call": "write", "nth": 10**9, "lie": True})
    result = apply(host, new)
    assert result.ok, result.errors
    assert writes(host) == CASES[name][-1]
    assert look(host) != before
    assert apply(host, new).plan.empty


@pytest.mark.parametrize(("name", "nth"), POINTS)
def test_a_write_that_fails_undoes_everything(prepared, name, nth):
    host, before, new = prepared(name)
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    result = apply(host, new)
    told = " ".join(result.errors)
    assert not result.ok
    assert next(iter(before)) in told and "has been undone" in told
    assert look(host) == before
    assert apply(host, new).ok


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "nth"), POINTS)
def test_kill_at_every_write_is_finished_by_the_next_run(prepared, name, nth, when):
    host, _, new = prepared(name)
    host.add_fault({"call": "write", "nth": nth, "kill": when})
    assert apply_in_child(host, new) == signal.SIGKILL
    result = apply(host, new)
    assert result.ok, result.errors
    assert "interrupted" in " ".join(result.warnings)
    assert apply(host, new).plan.empty


@pytest.mark.slow
@pytest.mark.parametrize(("name", "nth"), POINTS[::3])
def test_kill_is_undone_by_a_run_that_wants_the_old(prepared, name, nth):
    host, before, new = prepared(name)
    host.add_fault({"call": "write", "nth": nth, "kill": "after"})
    assert apply_in_child(host, new) == signal.SIGKILL
    result = apply(host, pillars.for_all("sriov", CASES[name][2]))
    assert result.ok, result.errors
    assert look(host) == before


@pytest.mark.parametrize("nth", range(1, 7))
def test_the_pfs_own_priority_comes_back_too(simulated, nth):
    """One file sets the priority of all functions, the PF's among them, which somebody may have set to another one."""
    host = simulated("arc-pro-b60", gpus=[B60])
    own = f"/sys/bus/pci/devices/{B60['address']}/sriov_admin/pf/profile/sched_priority"
    host.write(own, "high")
    before = look(host)
    new = pillars.for_all("sriov", {**FAIR, "scheduling": {"priority": "normal", "exec_quantum_ms": 20}})
    host.add_fault({"call": "write", "nth": nth, "error": "EIO"})
    result = apply(host, new)
    assert result.ok == (nth == 6), result.errors
    assert host.read(own) == ("low [normal] high" if result.ok else "low normal [high]")
    assert (look(host) == before) != result.ok


# -- what the driver made of a quota -----------------------------------------------------------------------------------
MIB = 2**20
#: name -> (host, its GPU); each has a layout with memory of each function.
MEMORY = {
    "sriov_admin": ("arc-pro-b60", B60),
    "debugfs": ("arc-pro-b60", {**B60, "sriov_files": "debugfs"}),
    "prelim_iov": ("flex170", {**FLEX, "sriov_files": "prelim_iov"}),
}


class Generous(SimulatedHost):
    """A machine whose driver gives memory in pieces of a size of its own, whatever was asked for."""

    piece = 1024 * MIB

    def write(self, path, text):
        if path.endswith(("vram_quota", "lmem_quota")):
            text = str(-(-int(text) // self.piece) * self.piece)
        super().write(path, text)


@pytest.fixture(params=sorted(MEMORY))
def memory(request, simulated):
    """A machine without virtual functions."""
    example, gpu = MEMORY[request.param]
    host = simulated(example, gpus=[gpu])
    return host


def shares(host):
    """MiB of each virtual function, as consumers are told."""
    with Engine(config(host)) as engine:
        return [part["memory_mib"] for part in engine.slices()]


def applied_on(host, machine, wanted):
    """Apply a pillar on a machine of another class than the simulated one."""
    with Engine(config(host)) as engine:
        engine.host = machine(host.description_path, host.state_dir)
        engine.tools = type(engine.tools)(engine.host)
        return engine.apply(wanted)


#: An odd number of MiB, which every driver rounds, and shares of an odd part of the rest.
ODD = {"vf_count": 3, "profile": "fair", "vfs": {1: {"vram_mib": 5333}, 2: {"vram_mib": 5333}, 3: {"vram_mib": 2001}}}


def test_what_the_driver_rounds_is_what_was_wanted(memory):
    host = memory
    result = apply(host, pillars.for_all("sriov", ODD))
    assert result.ok, result.errors
    assert shares(host) == [5334, 5334, 2002]
    assert apply(host, pillars.for_all("sriov", ODD)).plan.empty


def test_a_share_that_is_no_whole_piece_is_rounded_down_so_that_all_fit(memory):
    host = memory
    wanted = {"vf_count": 4, "profile": "fair", "vfs": {1: {"vram_mib": 5333}}}
    result = apply(host, pillars.for_all("sriov", wanted))
    assert result.ok, result.errors
    first, *others = shares(host)
    assert first == 5334 and len(set(others)) == 1 and others[0] % 2 == 0
    assert apply(host, pillars.for_all("sriov", wanted)).plan.empty


def test_a_quota_that_the_driver_made_otherwise_is_noticed_and_undone(memory):
    host = memory
    before = look(host)
    result = applied_on(host, Generous, pillars.for_all("sriov", ODD))
    told = " ".join(result.errors)
    assert not result.ok and "is not as wanted" in told and "6144 MiB" in told and "5333 MiB" in told
    assert next(iter(before)) in told and "has been undone" in told
    assert look(host) == before


def test_a_quota_that_was_not_written_is_noticed_and_undone(memory):
    host = memory
    before = look(host)
    host.add_fault({"call": "write", "nth": 10**9, "lie": True})
    assert apply(host, pillars.for_all("sriov", ODD)).ok
    every = writes(host)
    assert apply(host, pillars.for_all("sriov", {"vf_count": 0})).ok and look(host) == before
    host.clear_faults()
    noticed = 0
    for nth in range(1, every + 1):
        host.add_fault({"call": "write", "nth": nth, "lie": True})
        result = apply(host, pillars.for_all("sriov", ODD))
        host.clear_faults()
        # Whatever was answered: what it says of the hardware is so.
        assert not result.ok or shares(host) == [5334, 5334, 2002]
        noticed += not result.ok
        assert apply(host, pillars.for_all("sriov", {"vf_count": 0})).ok
    assert noticed >= 3


def test_pieces_that_two_tiles_can_not_share_are_refused_with_numbers_that_they_can(simulated):
    host = simulated("max1550", gpus=[MAX])
    before = host.state()
    wanted = {"vf_count": 1, "profile": "fair", "vfs": {1: {"vram_mib": 4097, "contexts": 1025, "doorbells": 8, "ggtt_mib": 512}}}
    with pytest.raises(errors.ProfileMismatch, match=r"1025 contexts.*2 tiles.*Give 1024 or 1026") as caught:
        apply(host, pillars.for_all("sriov", wanted))
    assert MAX["address"] in str(caught.value)
    assert host.state() == before
    wanted["vfs"][1]["contexts"] = 1026
    result = apply(host, pillars.for_all("sriov", wanted))
    assert result.ok, result.errors
    assert apply(host, pillars.for_all("sriov", wanted)).plan.empty
    values = look(host)[MAX["address"]]["values"]
    assert [values[f"vf1/gt{tile}/contexts_quota"] for tile in (0, 1)] == [513, 513]
    assert [values[f"vf1/gt{tile}/lmem_quota"] // MIB for tile in (0, 1)] == [2050, 2050]


# -- a driver that makes no virtual functions ----------------------------------------------------------------------------
@pytest.mark.parametrize(("able", "unable"), [({**FLEX, "sriov_files": "prelim_iov"}, "none"), (B60, "no-pf"), (B60, "")])
def test_an_earlier_layout_is_refused_in_the_plan_when_the_driver_makes_no_functions_now(simulated, able, unable):
    """Another kernel was booted: a rollback or a boot must not find out by the answer to a write."""
    host = simulated("flex170", gpus=[able])
    assert apply(host, pillars.for_all("sriov", FAIR)).ok
    layout = look(host)[able["address"]]
    now = {**able, "sriov_files": unable} if unable else {**able, "driver": ""}
    other = simulated("flex170", gpus=[now])
    with Engine(config(other)) as engine:
        gpu, tool = engine.gpu(able["address"]), engine.tools.get("sriov")
        with pytest.raises((errors.Unsupported, errors.DriverMissing), match="[Vv]irtual functions") as caught:
            plan_one(tool, gpu, tool.observe(gpu), tool.settings_of(layout))
        assert able["address"] in str(caught.value)
        assert not plan_one(tool, gpu, tool.observe(gpu), tool.settings_of(tool.layout(tool.observe(gpu)))).steps


# -- a driver that is reloaded -----------------------------------------------------------------------------------------
EIGHT = pillars.for_all("sriov", {"vf_count": 8}, unload_modules=["gim"])


@pytest.fixture
def gim(simulated):
    """Two MI350X under gim with one VF each: (host, layouts)."""
    host = simulated("mi210-gim", gpus=GIM)
    return host, look(host)


#: What a change of both GPUs calls: each writes the option, one reload serves both.
GIM_POINTS = [("store_write", nth) for nth in (3, 4)] + [("run", nth) for nth in (1, 2)]


def test_gim_is_reloaded_once_for_all_its_gpus(gim):
    host, before = gim
    for call in ("run", "write"):
        host.add_fault({"call": call, "nth": 10**9, "lie": True})
    result = apply(host, EIGHT)
    assert result.ok, result.errors
    assert {f["call"]: f["seen"] for f in host.state()["faults"]} == {"run": 2, "write": 0}
    assert look(host) == {gpu: {"driver": "gim", "numvfs": 8, "option": 8} for gpu in before}
    assert "vf_num=8,8" in host.read("/etc/modprobe.d/gpu-slicing-gim.conf")
    assert apply(host, EIGHT).plan.empty
    host.reboot()
    assert apply(host, EIGHT).plan.empty


@pytest.mark.parametrize(("call", "nth"), GIM_POINTS)
def test_gim_goes_back_when_something_fails(gim, call, nth):
    host, before = gim
    host.add_fault({"call": call, "nth": nth, "error": "EIO"})
    result = apply(host, EIGHT)
    assert not result.ok
    assert "has been undone" in " ".join(result.errors), result.errors
    assert look(host) == before
    assert not host.exists("/etc/modprobe.d/gpu-slicing-gim.conf")
    assert apply(host, EIGHT).ok


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), GIM_POINTS)
def test_gim_is_finished_after_a_kill(gim, call, nth, when):
    host, before = gim
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, EIGHT) == signal.SIGKILL
    result = apply(host, EIGHT)
    assert result.ok, result.errors
    assert look(host) == {gpu: {"driver": "gim", "numvfs": 8, "option": 8} for gpu in before}


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("call", "nth"), GIM_POINTS)
def test_gim_is_undone_after_a_kill_when_something_else_is_wanted(gim, call, nth, when):
    host, _ = gim
    host.add_fault({"call": call, "nth": nth, "kill": when})
    assert apply_in_child(host, EIGHT) == signal.SIGKILL
    result = apply(host, pillars.for_all("sriov", {"vf_count": 1}, unload_modules=["gim"]))
    assert result.ok, result.errors
    assert all(one["numvfs"] == 1 and one["driver"] == "gim" for one in look(host).values())


def test_gim_that_may_not_be_reloaded_waits_for_a_reboot(gim):
    host, before = gim
    wanted = pillars.for_all("sriov", {"vf_count": 8})
    result = apply(host, wanted)
    assert result.ok and sorted(result.reboot) == sorted(before)
    assert look(host) == {gpu: {"driver": "gim", "numvfs": 1, "option": 8} for gpu in before}
    again = apply(host, wanted)
    assert again.ok and again.plan.empty and sorted(again.reboot) == sorted(before)
    assert "may not be reloaded" in again.plan.text()
    host.reboot()
    done = apply(host, wanted)
    assert done.ok and done.plan.empty and not done.reboot
    assert {one["numvfs"] for one in look(host).values()} == {8}
