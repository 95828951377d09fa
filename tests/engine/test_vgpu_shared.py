"""
vGPUs that take turns on a GPU instance: as many share one as the driver says, so that no part of a board stays idle without a
word. On the board that has such types, whose names its driver writes in full.
"""

import pytest

from gpuslice import errors
from gpuslice.boot import replay
from gpuslice.engine import Engine
from gpuslice.records.journal import Journal
from gpuslice.sim import hardware
from tests.support import crash
from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import config

GPU = "0000:41:00.0"
BOARD = {"model": "rtx-pro-6000-96gb", "device": "2bb5", "address": GPU, "vgpu": "vfio", "sriov_totalvfs": 32, "vf_offset": 4}
LONG = "RTX Pro 6000 Blackwell "
#: Ids of the profiles 1g.24gb+gfx and 2g.48gb+gfx.
QUARTER, HALF = 47, 35


@pytest.fixture
def board(simulated):
    def make(**changes):
        interface = changes.pop("interface", "vfio")
        return simulated(f"vgpu-host-{interface}", gpus=[{**BOARD, "vgpu": interface}], processes=[], **changes)

    return make


def shape(host):
    """(profiles of the GPU instances, vGPUs on each) as the machine has them, sorted."""
    gpu = host.state()["gpus"][GPU]
    on = {number: 0 for number in gpu["gis"]}
    for vgpu in hardware.vgpus(gpu):
        on[str(vgpu["gi"])] += 1
    return sorted((gi["profile"], on[number]) for number, gi in gpu["gis"].items())


@pytest.mark.parametrize("interface", ["vfio", "mdev"])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (pillars.vgpu(profiles={"DC-1-12C": 8}), [(QUARTER, 2)] * 4),
        (pillars.vgpu(profile="DC-1-12C"), [(QUARTER, 2)] * 4),
        (pillars.vgpu(profile="DC-1-8C", count=5), [(QUARTER, 2), (QUARTER, 3)]),
        (pillars.vgpu(profiles={"DC-1-12C": 3, "DC-2-48Q": 1}), [(HALF, 1), (QUARTER, 1), (QUARTER, 2)]),
        (pillars.vgpu(profiles={"DC-1-24C": 1, "DC-1-12C": 2, "DC-1-2B": 12}), [(QUARTER, 1), (QUARTER, 2), (QUARTER, 12)]),
        (pillars.vgpu(profiles={"DC-2-12A": 4, "DC-1-24C": 2}), [(HALF, 4), (QUARTER, 1), (QUARTER, 1)]),
    ],
)
def test_an_instance_carries_as_many_as_fit(board, interface, wanted, expected):
    host = board(interface=interface)
    result = apply(host, wanted)
    assert result.ok, result.errors
    assert shape(host) == sorted(expected)
    assert apply(host, wanted).plan.empty
    with Engine(config(host)) as opened:
        assert opened.plan(opened.export()).empty


def test_more_come_onto_the_instances_that_are_there_first(board):
    host = board()
    assert apply(host, pillars.vgpu(profiles={"DC-1-12C": 1})).ok
    [first] = host.state()["gpus"][GPU]["gis"]
    result = apply(host, pillars.vgpu(profiles={"DC-1-12C": 2}))
    assert result.ok and [step.action for step in result.plan.steps] == ["create_vgpu"]
    assert shape(host) == [(QUARTER, 2)]
    result = apply(host, pillars.vgpu(profiles={"DC-1-12C": 3}))
    assert result.ok and [step.action for step in result.plan.steps] == ["create_gi", "create_ci", "create_vgpu"]
    assert shape(host) == [(QUARTER, 1), (QUARTER, 2)] and first in host.state()["gpus"][GPU]["gis"]
    assert apply(host, pillars.vgpu(profiles={"DC-1-12C": 1})).ok
    assert sum(number for _, number in shape(host)) == 1


def test_more_than_fit_are_refused(board):
    host = board()
    with pytest.raises(errors.ProfileMismatch, match=f"9 vGPUs of type {LONG}DC-1-12C are wanted, and .* can have 8"):
        apply(host, pillars.vgpu(profiles={"DC-1-12C": 9}))
    with pytest.raises(errors.ProfileMismatch, match="do not fit together"):
        apply(host, pillars.vgpu(profiles={"DC-1-12C": 7, "DC-1-24C": 1}))
    assert shape(host) == []


def test_a_driver_that_does_not_tell_how_many_share_one_is_no_reason_to_guess(board):
    host = board(nvml_level="r575")
    with pytest.raises(errors.Unsupported, match="the driver does not tell how many share one") as caught:
        apply(host, pillars.vgpu(profiles={"DC-1-12C": 2}))
    assert GPU in str(caught.value) and "R580" in str(caught.value) and shape(host) == []
    # Where only one fits, nobody has to be asked.
    assert apply(host, pillars.vgpu(profiles={"DC-1-24C": 2})).ok
    assert shape(host) == [(QUARTER, 1), (QUARTER, 1)]


def test_a_driver_that_counts_instances_instead_of_vgpus_leaves_no_half_idle(board):
    host = board()
    # It answers 4, which is this code's number.
    host.add_fault({"call": "nvmlVgpuTypeGetMaxInstances", "times": 0, "returns": "NVML_ERROR_NO_PERMISSION"})
    assert apply(host, pillars.vgpu(profile="DC-1-12C")).ok
    assert shape(host) == [(QUARTER, 2)] * 4


def test_a_crash_and_a_boot_bring_shared_instances_back(board):
    host, first = board(), pillars.vgpu(profiles={"DC-1-12C": 4})
    assert apply(host, first).ok
    before = shape(host)
    host.add_fault({"call": "write", "nth": 2, "kill": "after"})
    assert crash.in_child(lambda: apply(host, pillars.vgpu(profiles={"DC-1-8C": 6, "DC-1-12C": 4})))
    host.clear_faults()
    assert Journal(host).unfinished()
    result = apply(host, first)
    assert result.ok and shape(host) == before == [(QUARTER, 2)] * 2
    host.reboot()
    assert shape(host) == []
    with Engine(config(host)) as opened:
        assert replay.replay(opened, wait=0)["result"]
    assert shape(host) == before


# -- long and short names ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["DC-24Q", "nvidia rtx pro 6000 blackwell dc-24q", f"{LONG}DC-24Q", "NVIDIA DC-24Q"])
def test_a_board_is_named_in_full_or_by_its_code(board, name):
    host, wanted = board(), pillars.vgpu(profiles={name: 2})
    assert apply(host, wanted).ok
    assert apply(host, wanted).plan.empty
    with Engine(config(host)) as opened:
        assert {part["profile"] for part in opened.slices()} == {f"{LONG}DC-24Q"}
        assert apply(host, opened.export()).plan.empty


@pytest.mark.parametrize("interface", ["vfio", "mdev"])
def test_each_slice_says_on_which_instance_it_stands(board, interface):
    """A mediated device is told of no instance before a virtual machine has it: those that are left are shared out."""
    host = board(interface=interface)
    assert apply(host, pillars.vgpu(profiles={"DC-1-12C": 3, "DC-2-48Q": 1})).ok
    with Engine(config(host)) as engine:
        offered, everything = engine.slices(), engine.slices(taken=True)
    standing = sorted(part["of"] for part in offered)
    assert standing[-1] == f"{GPU}-2g.48gb.gfx-0" and set(standing[:3]) == {f"{GPU}-1g.24gb.gfx-{start}" for start in (2, 3)}
    assert {part["kind"] for part in offered} == {"vgpu"}
    assert {part["name"] for part in everything if part["taken"]} == set(standing)


@pytest.mark.parametrize("call", ["nvmlVgpuTypeGetName", "nvmlDeviceGetActiveVgpus"])
def test_instances_are_not_given_away_while_nobody_can_tell_what_stands_on_them(board, call):
    host = board(interface="mdev")
    assert apply(host, pillars.vgpu(profiles={"DC-1-12C": 3})).ok
    host.add_fault({"call": call, "times": 0, "error": "NVML_ERROR_UNKNOWN"})
    with Engine(config(host)) as engine:
        assert engine.slices() == []
        assert [part["taken"] for part in engine.slices(taken=True)] == [True, True]
