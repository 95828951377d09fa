"""Layouts by name, brought about on simulated hosts."""

import pytest

from tests.support import pillars
from tests.support.hosts import apply
from tests.support.hosts import shapes


@pytest.fixture
def example():
    """The example pillar."""
    return pillars.example("layouts")


def test_the_example_gives_each_board_its_layout_and_settles(simulated, example):
    host = simulated("mixed")
    assert apply(host, example).ok
    assert apply(host, example).plan.empty
    assert shapes(host) == {"0000:07:00.0": ["3g.40gb"] * 2, "0000:3b:00.0": [], "0000:82:00.0": ["1g.10gb"] * 7}


def test_a_change_of_the_layout_changes_every_gpu_that_has_it(simulated, example):
    host = simulated("mixed")
    assert apply(host, example).ok
    example["containers_gpu_slicing"]["layouts"]["training"]["mig"]["profiles"] = {"7g.80gb": 1}
    changed = apply(host, example)
    assert changed.ok and list(changed.changes) == ["0000:07:00.0"]


def test_one_layout_for_the_whole_host(simulated):
    named = {"layouts": {"two": {"strategy": "mig", "mig": {"profiles": ["3g.40gb"] * 2}}}, "layout": "two"}
    host = simulated("dgx-h100")
    assert apply(host, {"containers_gpu_slicing": {"enabled": True, **named}}).ok
    assert set(map(tuple, shapes(host).values())) == {("3g.40gb", "3g.40gb")}
