"""The table of technologies: its orders, and that what it names is there."""

import pytest

from gpuslice import kinds
from gpuslice.kinds import KINDS
from gpuslice.model import Gpu
from gpuslice.policy import fields
from gpuslice.policy.section import Section


def gpu(vendor, *capabilities):
    return Gpu("0000:01:00.0", vendor, "1234", capabilities=capabilities)


def test_names_of_rows_differ():
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_row_names_is_there(kind):
    assert set(kind.vendors) <= set(fields.VENDORS) and kind.vendors
    assert set(kind.auto) <= set(fields.ENVIRONMENTS)
    assert all(kinds.named(name) for name in kind.over)
    section = kinds.section(kind)
    assert isinstance(section, Section)
    # Of those that share a word of the pillar the first has its section.
    in_the_pillar = kind in kinds.HANDING_OUT or (kind.section and kinds.called(kind.word) is kind)
    assert bool(section.FIELD) == bool(in_the_pillar)
    assert set(section.DECISIVE) <= set(section.FIELD.fields if section.FIELD else ())
    if kind.cls:
        assert kinds.technique(kind).name == kind.name


def test_what_stands_on_another_tells_before_it_and_what_gives_a_gpu_away_last():
    told = [kind.name for kind in kinds.DOABLE]
    assert all(told.index(kind.name) < told.index(name) for kind in kinds.DOABLE for name in kind.over)
    assert told[-1] == "passthrough"


@pytest.mark.parametrize(
    ("one", "names"),
    [
        (
            gpu("nvidia", "mig", "mps", "passthrough", "sriov", "time-slicing", "vgpu"),
            ["mps", "time-slicing", "licence", "vgpu", "mig", "passthrough"],
        ),
        (gpu("amd", "partition", "sriov", "passthrough"), ["vf-passthrough", "partition", "sriov", "passthrough"]),
        (gpu("intel", "level-zero", "sriov"), ["vf-passthrough", "level-zero", "sriov"]),
        # Under the driver xe.
        (gpu("intel", "level-zero", "time-slicing"), ["time-slicing", "level-zero"]),
        # Mediated devices of another vendor.
        (gpu("intel", "vgpu"), []),
    ],
)
def test_only_techniques_that_can_concern_a_gpu_are_loaded_for_it(one, names):
    assert [kind.name for kind in kinds.concerning(one)] == names


def test_strategy_auto_falls_back_in_the_order_of_the_pillar():
    assert {environment: kinds.fallbacks(environment) for environment in fields.ENVIRONMENTS} == {
        "bare_metal": ("mig", "partition", "level-zero"),
        "virtual_host": ("sriov", "vgpu"),
        "virtual_guest": ("time-slicing", "level-zero"),
        "container": (),
    }


def test_of_names_and_words_that_no_row_has_nothing_is_known():
    assert kinds.named("soup") is None and kinds.called("auto") is None
