"""What can only change as one: how techniques group it, and what becomes of the others where one of a group can't be changed."""

import pickle

import pytest

from gpuslice import errors
from gpuslice.drivers.sessions import Sessions
from gpuslice.engine import Engine
from gpuslice.inventory import discovery
from gpuslice.techniques.base import Work
from gpuslice.techniques.mig.technique import Mig
from gpuslice.techniques.partition.technique import Partition
from gpuslice.techniques.sriov.technique import Sriov
from tests.support import hosts
from tests.support import pillars
from tests.support.techniques import target

HIVE = ["0000:05:00.0", "0000:26:00.0", "0000:46:00.0"]
FIRST, SECOND, LAST = HIVE
LONE = "0000:65:00.0"
GIM = ("0000:33:00.0", "0000:c3:00.0")
FILES = {
    "current_compute_partition": "SPX",
    "available_compute_partition": "SPX, DPX, QPX, CPX",
    "current_memory_partition": "NPS1",
    "available_memory_partition": "NPS1, NPS2, NPS4",
    "ras/umc_err_count": "ue: 0\nce: 0",
}
SICK = {"ras/umc_err_count": "ue: 3\nce: 0"}


def board(address, hive="7", **files):
    joined = {"xgmi_hive_info/xgmi_hive_id": hive} if hive else {}
    return {"vendor": "amd", "device": "74a1", "address": address, "sysfs": {**FILES, **joined, **files}}


def grouped(tool, host, wanted):
    """Addresses of the groups of these works; ``wanted`` is PCI address -> settings."""
    gpus = {gpu.address: gpu for gpu in discovery.discover(host)}
    targets = [target(tool, gpus[address], settings) for address, settings in wanted.items()]
    works = [Work(one, tool.observe(one.gpu), peers=tuple(targets)) for one in targets]
    return [[work.gpu.address for work in group] for group in tool.together(works)]


# -- who changes together --------------------------------------------------------------------------------------------------
def test_gpus_whose_memory_mode_changes_are_one_group_and_the_others_one_each(simulated):
    host = simulated("mi300x-8", gpus=[*map(board, HIVE), board(LONE, hive="")], processes=[])
    tool = Partition(host, Sessions(host))
    memory, compute = {"compute": "CPX", "memory": "nps4"}, {"compute": "CPX", "memory": None}
    assert grouped(tool, host, dict.fromkeys(HIVE, memory)) == [HIVE]
    assert grouped(tool, host, dict.fromkeys(HIVE, compute)) == [[address] for address in HIVE]
    # One reload brings the memory modes of all hives into force; a compute mode needs none.
    assert grouped(tool, host, {**dict.fromkeys(HIVE, compute), LONE: memory}) == [[LONE], *([a] for a in HIVE)]
    assert grouped(tool, host, {**dict.fromkeys(HIVE, memory), LONE: memory}) == [[*HIVE, LONE]]
    asked = {"layout": {"compute": "CPX", "memory": "NPS4"}}
    assert grouped(tool, host, dict.fromkeys(HIVE, asked)) == [HIVE]
    assert grouped(tool, host, {}) == []


def test_without_their_driver_all_are_one_group(simulated):
    host = simulated("mi300x-8", gpus=[*map(board, HIVE)], processes=[])
    tool = Partition(host, Sessions(host))
    tool._notes.unload({})
    assert host.run(["modprobe", "-r", "amdgpu"]).returncode == 0
    assert grouped(tool, host, dict.fromkeys(HIVE, {"compute": "SPX", "memory": "NPS1"})) == [HIVE]


def test_gpus_of_gim_are_one_group_and_those_of_other_drivers_one_each(simulated):
    host = simulated("mi210-gim", processes=[])
    assert grouped(Sriov(host, Sessions(host)), host, dict.fromkeys(GIM, {"vf_count": 1})) == [list(GIM)]
    host = simulated("flex170")
    [address] = [gpu.address for gpu in discovery.discover(host)][:1]
    tool = Sriov(host, Sessions(host))
    assert grouped(tool, host, {address: {"vf_count": 1}}) == [[address]] and grouped(tool, host, {}) == []


def test_mig_changes_each_gpu_by_itself(simulated):
    host = simulated("dgx-h100", processes=[])
    addresses = [gpu.address for gpu in discovery.discover(host)][:3]
    tool = Mig(host, Sessions(host))
    assert grouped(tool, host, dict.fromkeys(addresses, {"entries": []})) == [[address] for address in addresses]


# -- what keeps a group from a change --------------------------------------------------------------------------------------
def blocked(host, wanted):
    """(PCI address -> sentence, addresses that the plan changes)."""
    with Engine(hosts.config(host)) as engine:
        plan = engine.plan(wanted)
    return dict(plan.blocked), {address for part in plan.changing for address in part.addresses}


def test_a_gpu_of_a_hive_that_is_ill_says_so_and_the_others_say_that_they_would_change_with_it(simulated):
    boards = [board(FIRST), board(SECOND), board(LAST, **SICK), board(LONE, hive="")]
    host = simulated("mi300x-8", gpus=boards, processes=[])
    # The GPU outside changes its compute mode only, which takes no reload.
    devices = [pillars.rule(LONE, partition={"compute": "CPX", "memory": "NPS1"})]
    found, changing = blocked(host, pillars.partition("CPX", "NPS4", devices, unload_modules=["amdgpu"]))
    assert set(found) == set(HIVE) and changing == {LONE}
    assert "is not healthy: 3 uncorrected errors in umc" in found[LAST] and found[LAST].startswith(f"GPU {LAST}: ")
    for address in (FIRST, SECOND):
        assert found[address].startswith(f"GPU {address}: ")
        assert f"GPU {LAST}, which would change with it, has 3 uncorrected errors in umc" in found[address]


def test_who_uses_one_gpu_of_a_hive_keeps_all_of_it_and_nothing_is_begun(simulated):
    """The driver is loaded anew for all of them."""
    host = simulated("mi300x-8", gpus=[board(FIRST), board(LAST)], processes=[])
    with Engine(hosts.config(host)) as engine:
        node = next(part["device_nodes"][-1] for part in engine.slices() if part["gpu"] == LAST)
    host.add_process({"pid": 41, "command": "train", "unit": "train.service", "nodes": [node]})
    found, changing = blocked(host, pillars.partition("CPX", "NPS4", unload_modules=["amdgpu"]))
    assert set(found) == {FIRST, LAST} and changing == set()
    assert all("pid 41 (train, unit train.service)" in sentence for sentence in found.values())
    result = hosts.apply(host, pillars.partition("CPX", "NPS4", unload_modules=["amdgpu"]))
    assert not result.ok and not result.changes and hosts.closed(host)


def test_a_bystander_names_itself_and_quotes_what_keeps_the_group(simulated):
    """A reload is for the GPUs of two hives: one of them is wanted with a pair of modes that is refused only by itself."""
    host = simulated("mi300x-8", gpus=[board(FIRST), board(LONE, hive="")], processes=[])
    tool = Partition(host, Sessions(host))
    gpus = {gpu.address: gpu for gpu in discovery.discover(host)}
    wanted = {FIRST: {"compute": "CPX", "memory": "NPS4"}, LONE: {"compute": "QPX", "memory": "NPS2"}}
    targets = [target(tool, gpus[address], {**settings, "reload": True}) for address, settings in wanted.items()]
    works = [Work(one, tool.observe(one.gpu), peers=tuple(targets)) for one in targets]
    with pytest.raises(errors.Several) as caught:
        tool.plan(works)
    assert [address for address, _ in caught.value.errors] == [LONE]
    assert isinstance(caught.value.errors[0][1], errors.ProfileMismatch)
    with Engine(hosts.config(host)) as engine:
        found = engine.reconciler().plan_each(targets)
    assert {key.subject: type(err) for key, err in found.items()} == {
        LONE: errors.ProfileMismatch,
        FIRST: errors.ResourceConflict,
    }
    held_up = next(str(err) for key, err in found.items() if key.subject == FIRST)
    assert held_up.startswith(f"GPU {FIRST}: It can only change together with others. GPU {LONE}: ")
    assert "QPX" in held_up


def of_gim(simulated):
    """(host with two GPUs of gim, the function of the second one, which is given to a virtual machine)."""
    common = {"vendor": "amd", "device": "75a0", "driver": "gim", "sriov_totalvfs": 8, "numvfs": 1, "vf_device": "7410"}
    boards = [{**common, "address": address, "vf_offset": 16} for address in GIM]
    boards[1]["vf_driver"] = "vfio-pci"
    host = simulated("mi210-gim", gpus=boards, processes=[])
    return host, host.readlink(f"/sys/bus/pci/devices/{GIM[1]}/virtfn0").rpartition("/")[2]


def test_a_gpu_of_gim_in_use_keeps_all_of_the_driver_that_change(simulated):
    """A reload takes the virtual functions of every GPU of the driver."""
    host, vf = of_gim(simulated)
    found, changing = blocked(host, pillars.for_all("sriov", {"vf_count": 2}, unload_modules=["gim"]))
    assert set(found) == set(GIM) and changing == set()
    assert all(f"{vf} is bound for virtual machines" in sentence for sentence in found.values())


def test_a_gpu_of_gim_that_is_as_wanted_waits_for_no_other(simulated):
    host, vf = of_gim(simulated)
    assert hosts.apply(host, pillars.for_all("sriov", {"vf_count": 1})).ok
    devices = [pillars.rule(GIM[1], sriov={"vf_count": 2})]
    wanted = pillars.for_all("sriov", {"vf_count": 1}, devices, unload_modules=["gim"])
    found, changing = blocked(host, wanted)
    assert set(found) == {GIM[1]} and changing == set() and f"{vf} is bound for virtual machines" in found[GIM[1]]
    tool = Sriov(host, Sessions(host))
    assert grouped(tool, host, {GIM[0]: {"vf_count": 1}, GIM[1]: {"vf_count": 2}}) == [[GIM[1]], [GIM[0]]]
    layout = {"layout": {"driver": "gim", "numvfs": 1, "option": 1}}
    assert grouped(tool, host, dict.fromkeys(GIM, layout)) == [[address] for address in GIM]
    elsewhere = {"vf_count": 2, "pf_device": GIM[0]}
    assert grouped(tool, host, dict.fromkeys(GIM, elsewhere)) == [[address] for address in GIM]


def test_errors_of_several_gpus_read_as_one_and_survive_another_process():
    made = errors.Several([(FIRST, errors.Unhealthy("ill", FIRST)), (LAST, errors.InUse("in use", LAST))])
    assert str(made) == f"GPU {FIRST}: ill GPU {LAST}: in use"
    again = pickle.loads(pickle.dumps(made))
    assert [(address, type(err), str(err)) for address, err in again.errors] == [
        (address, type(err), str(err)) for address, err in made.errors
    ]
