"""
What goes back with what: a failed part takes its group along, and all that is on its GPUs, and nothing else.
"""

import pytest

from gpuslice.change.context import ALL
from gpuslice.change.context import Change
from gpuslice.change.context import Halt
from gpuslice.model import HOST
from gpuslice.model import Key
from gpuslice.plan import Plan
from gpuslice.records.journal import Entry

A, B, C, D = (f"0000:{bus}:00.0" for bus in ("05", "26", "46", "65"))
MIG_A, MIG_B = Key(A, "mig"), Key(B, "mig")
SHARED_A = Key(A, "time-slicing")
HIVE_C, HIVE_D = Key(C, "partition"), Key(D, "partition")
LICENCE = Key(HOST, "licence")
KEYS = (MIG_A, SHARED_A, MIG_B, HIVE_C, HIVE_D, LICENCE)


def change(*failed, whole=False):
    """A change of all these keys, of which some failed; with ``whole`` that concerns all of it."""
    before = dict.fromkeys(KEYS, {})
    groups = {HIVE_C: "amdgpu", HIVE_D: "amdgpu"}
    entry = Entry(1.0, "x", "", 1, "b", Plan().as_dict(), before, {}, addresses={LICENCE: [A, B]}, groups=groups)
    return Change(Plan(), [], {}, entry, None, whole, failed=dict.fromkeys(failed, ValueError()))


@pytest.mark.parametrize(
    ("failed", "back"),
    [
        ([], []),
        ([MIG_A], [MIG_A, SHARED_A]),
        ([SHARED_A], [MIG_A, SHARED_A]),
        ([MIG_B], [MIG_B]),
        ([HIVE_D], [HIVE_C, HIVE_D]),
        ([LICENCE], [LICENCE]),
        ([LICENCE, MIG_B], [MIG_B, LICENCE]),
        ([ALL], list(KEYS)),
    ],
)
def test_a_failure_takes_its_group_and_its_gpu_along(failed, back):
    assert change(*failed).affected() == back
    assert change(*failed, whole=True).affected() == (list(KEYS) if failed else [])


def test_no_further_step_is_begun_of_what_goes_back_and_only_of_that():
    halt = Halt(change().group)
    halt.failed(HIVE_C)
    assert [key for key in KEYS if halt.at(key)] == [HIVE_C, HIVE_D]
    halt.failed(MIG_A)
    assert halt.at(SHARED_A) and not halt.at(LICENCE) and not halt.at(MIG_B)
    halt.failed(ALL)
    assert all(halt.at(key) for key in KEYS)
