"""Layouts by name, brought about on simulated hosts."""

import pytest
import yaml

from gpuslice.engine import Engine
from tests.support.hosts import config


def profiles(engine):
    """PCI address -> sorted profile names of its slices."""
    found = {gpu.address: [] for gpu in engine.gpus}
    for part in engine.slices():
        found[part["gpu"]].append(part["profile"])
    return {address: sorted(names) for address, names in found.items()}


@pytest.fixture
def example(repo):
    """The example pillar."""
    return yaml.safe_load((repo / "examples" / "pillar" / "layouts.sls").read_text(encoding="utf-8"))


def test_the_example_gives_each_board_its_layout_and_settles(simulated, example):
    host = simulated("mixed")
    with Engine(config(host)) as engine:
        assert engine.apply(example).ok
    with Engine(config(host)) as engine:
        assert engine.apply(example).plan.empty
        assert profiles(engine) == {"0000:07:00.0": ["3g.40gb"] * 2, "0000:3b:00.0": [], "0000:82:00.0": ["1g.10gb"] * 7}


def test_a_change_of_the_layout_changes_every_gpu_that_has_it(simulated, example):
    host = simulated("mixed")
    with Engine(config(host)) as engine:
        assert engine.apply(example).ok
    example["containers_gpu_slicing"]["layouts"]["training"]["mig"]["profiles"] = {"7g.80gb": 1}
    with Engine(config(host)) as engine:
        changed = engine.apply(example)
    assert changed.ok and list(changed.changes) == ["0000:07:00.0"]


def test_one_layout_for_the_whole_host(simulated):
    named = {"layouts": {"two": {"strategy": "mig", "mig": {"profiles": ["3g.40gb"] * 2}}}, "layout": "two"}
    host = simulated("dgx-h100")
    with Engine(config(host)) as engine:
        assert engine.apply({"containers_gpu_slicing": {"enabled": True, **named}}).ok
        assert set(map(tuple, profiles(engine).values())) == {("3g.40gb", "3g.40gb")}
