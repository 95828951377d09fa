"""
Which vGPUs stay, and which types a name means: pure decisions.
"""

from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.drivers import pci
from gpuslice.drivers.vgpu_slots import Vgpu
from gpuslice.techniques.vgpu import goal
from gpuslice.techniques.vgpu import types as vgpu_types
from gpuslice.techniques.vgpu.technique import VgpuState
from gpuslice.techniques.vgpu.types import VgpuType

GPU = SimpleNamespace(address="0000:41:00.0", model="NVIDIA H100 80GB HBM3")
TYPES = {
    name: VgpuType(number, name, size * 1024, profile, most)
    for number, (name, size, profile, most) in enumerate(
        [("H100XM-10C", 10, None, 8), ("H100XM-20C", 20, None, 4), ("H100XM-40C", 40, None, 2), ("H100XM-3-40C", 40, 9, 2)]
    )
}
NAMES = list(TYPES)[:3]


@given(there=st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), max_size=8), asked=st.dictionaries(
    st.sampled_from(NAMES), st.integers(1, 8), min_size=1))  # fmt: skip
def test_as_many_as_possible_stay_and_those_in_use_come_first(there, asked):
    vgpus = tuple(Vgpu(name, f"0000:41:00.{number}") for number, (name, _) in enumerate(there))
    used = {vgpu for vgpu, (_, is_used) in zip(vgpus, there, strict=True) if is_used}
    counts = [(TYPES[name], count) for name, count in asked.items()]
    stay, missing = goal.kept(VgpuState(16, 16, vgpus), counts, lambda vgpu: vgpu in used)
    kept, have = Counter(vgpu.type for vgpu in stay), Counter(vgpu.type for vgpu in vgpus)
    assert kept == Counter({name: min(count, have[name]) for name, count in asked.items() if have[name]})
    assert {found.name: count for found, count in missing} == {
        name: count - kept[name] for name, count in asked.items() if count > kept[name]
    }
    gone = [vgpu for vgpu in vgpus if vgpu.type in asked and vgpu not in stay]
    assert all(vgpu in used for one in gone if one in used for vgpu in stay if vgpu.type == one.type)


@pytest.mark.parametrize("name", ["H100XM-10C", "NVIDIA H100XM-10C", "nvidia h100xm-10c", "GRID H100XM-10C"])
def test_a_type_is_known_with_and_without_its_maker(name):
    assert vgpu_types.resolve(GPU, name, TYPES) is TYPES["H100XM-10C"]


def test_a_type_of_another_board_is_refused_with_what_there_is():
    with pytest.raises(errors.ProfileMismatch) as told:
        vgpu_types.resolve(GPU, "A100D-10C", TYPES)
    assert GPU.address in str(told.value) and all(name in str(told.value) for name in TYPES)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"profile": "H100XM-20C"}, {"H100XM-20C": 4}),
        ({"profile": "H100XM-20C", "count": 1}, {"H100XM-20C": 1}),
        ({"profiles": {"H100XM-40C": 1, "H100XM-10C": 4}}, {"H100XM-40C": 1, "H100XM-10C": 4}),
        ({"profiles": {"H100XM-40C": 1, "NVIDIA H100XM-40C": 1}}, {"H100XM-40C": 2}),
    ],
)
def test_how_many_of_which(settings, expected):
    assert {found.name: count for found, count in goal.counts_of(GPU, settings, TYPES)} == expected


def test_addresses_of_functions_cross_devices_and_buses():
    files = {"sriov_offset": "4", "sriov_stride": "1"}
    host = SimpleNamespace(read=lambda path: files[path.rpartition("/")[2]])
    assert pci.possible(host, "0000:41:00.0", 5) == [
        "0000:41:00.4", "0000:41:00.5", "0000:41:00.6", "0000:41:00.7", "0000:41:01.0",
    ]  # fmt: skip
    files["sriov_offset"] = "255"
    assert pci.possible(host, "0000:41:00.0", 2) == ["0000:41:1f.7", "0000:42:00.0"]
    files.update(sriov_offset="0", sriov_stride="0")
    assert pci.possible(host, "0000:41:00.0", 2) == []
