"""The binary table of amdgpu: which layouts are read, and that nothing else is guessed."""

import ctypes
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice.drivers import gpu_metrics

#: Fields before the energy, and after it, as the kernel's header has them: (name, bits, how many).
HEAD = [
    ("size", 16, 1), ("form", 8, 1), ("content", 8, 1), ("temperature", 16, 3), ("power", 16, 1), ("activity", 16, 2),
    ("vcn", 16, 4),
]  # fmt: skip
JPEG = [("jpeg", 16, 32)]
CLOCKS = [("firmware", 64, 1), ("gfxclk", 16, 8), ("clocks", 16, 12), ("uclk", 16, 1), ("padding", 16, 1)]
LINKS = [("throttle", 32, 1), ("lock", 32, 1), ("links", 16, 4), ("activity_acc", 32, 2), ("pcie", 64, 5)]
NAK, XGMI, COUNTERS = [("nak", 32, 2)], [("xgmi", 64, 16)], [("counters", 32, 6)]
ENERGY = [("energy", 64, 1), ("clock", 64, 1)]
FIELDS = {
    4: [*HEAD, *ENERGY, *LINKS, *XGMI, *CLOCKS],
    5: [*HEAD, *JPEG, *ENERGY, *LINKS, *NAK, *XGMI, *CLOCKS],
    6: [*HEAD, *JPEG, *ENERGY, *COUNTERS, *LINKS, *NAK, *XGMI, *CLOCKS],
}
TYPES = {8: ctypes.c_uint8, 16: ctypes.c_uint16, 32: ctypes.c_uint32, 64: ctypes.c_uint64}


def table(content, energy=2**16 * 5, activity=37):
    """The bytes of a table, by a structure that the compiler's rules lay out."""
    fields = [(name, TYPES[bits] * count) for name, bits, count in FIELDS[content]]
    made = type("Table", (ctypes.Structure,), {"_fields_": fields})()
    ctypes.memset(ctypes.byref(made), 0xFF, ctypes.sizeof(made))
    made.size[0], made.form[0], made.content[0] = ctypes.sizeof(made), 1, content
    made.energy[0], made.activity[0] = energy, activity
    return bytes(made)


@pytest.mark.parametrize("content", FIELDS)
def test_energy_and_activity_are_where_the_kernels_structure_has_them(content):
    assert gpu_metrics.parse(table(content)) == (5000, 37)


@pytest.mark.parametrize("content", FIELDS)
def test_what_is_not_filled_in_is_not_told(content):
    assert gpu_metrics.parse(table(content, energy=2**64 - 1, activity=0xFFFF)) == (None, None)


def test_a_counter_of_more_than_32_bits():
    assert gpu_metrics.parse(table(5, energy=2**16 * 7_000_000_000)).energy_mj == 7_000_000_000_000


@pytest.mark.parametrize("version", [(1, 0), (1, 1), (1, 2), (1, 3), (1, 7), (1, 8), (2, 4), (3, 0), (0, 0), (255, 255)])
def test_other_versions_are_refused(version):
    with pytest.raises(gpu_metrics.UnknownVersion, match=".".join(map(str, version))):
        gpu_metrics.parse(struct.pack("<HBB", 512, *version).ljust(512, b"\1"))


@pytest.mark.parametrize("content", FIELDS)
def test_a_table_that_is_cut_or_has_another_size_is_refused(content):
    whole = table(content)
    for part in (b"", whole[:3], whole[:30], whole[:-1], struct.pack("<H", len(whole) - 8) + whole[2:]):
        with pytest.raises(gpu_metrics.Truncated):
            gpu_metrics.parse(part)


HEADED = st.tuples(st.sampled_from([table(content)[:4] for content in FIELDS]), st.binary(max_size=400)).map(b"".join)


@given(st.binary(max_size=600) | HEADED)
def test_bytes_of_anything_are_a_table_or_refused(data):
    try:
        found = gpu_metrics.parse(data)
    except (gpu_metrics.UnknownVersion, gpu_metrics.Truncated):
        return
    assert all(number is None or number >= 0 for number in found)
