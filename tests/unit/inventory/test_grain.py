"""The grain: one key, one function, no exception."""

import pathlib

import pytest

from _grains import gpu as grain
from gpuslice.host.real import RealHost
from gpuslice.inventory.grain import facts

KEYS = {
    "count", "vendors", "models", "addresses", "capabilities", "virtualization", "iommu", "reboot_required", "interrupted",
    "devices", "owners", "vram_quota",
}  # fmt: skip


@pytest.fixture
def opts(monkeypatch):
    """The minion's configuration as Salt's loader puts it into the file."""
    found = {}
    monkeypatch.setattr(grain, "__opts__", found, raising=False)
    return found


def test_there_is_one_public_function():
    assert [name for name, value in vars(grain).items() if callable(value) and not name.startswith("_")] == ["gpu"]


def test_it_says_what_the_inventory_says_under_one_key(opts):
    assert grain.gpu() == {"gpu": facts(RealHost())}


def test_it_has_every_key_and_its_lists_are_sorted(opts):
    found = grain.gpu()["gpu"]
    assert KEYS <= set(found) <= KEYS | {"errors"}
    for name in ("vendors", "models", "addresses", "capabilities"):
        assert found[name] == sorted(set(found[name]))


def test_it_follows_the_minion_configuration_to_a_described_machine(opts, tmp_path):
    path = pathlib.Path(__file__).parents[3] / "examples" / "hosts" / "dgx-a100-40gb.yaml"
    opts["gpu_slicing"] = {"simulate": str(path), "state_dir": str(tmp_path)}
    found = grain.gpu()["gpu"]
    assert (found["count"], found["models"], found["vendors"]) == (8, ["NVIDIA A100-SXM4-40GB"], ["nvidia"])
    assert "mig" in found["capabilities"] and "errors" not in found


@pytest.mark.parametrize("value", [{"simulate": "/no/such/host.yaml"}, ["wrong"], {"simulate": 7}])
def test_a_wrong_configuration_is_told_and_raises_nothing(opts, value):
    opts["gpu_slicing"] = value
    found = grain.gpu()["gpu"]
    assert (found["count"], found["devices"]) == (0, [])
    assert len(found["errors"]) == 1 and found["errors"][0]
    assert set(found) == KEYS | {"errors"}


def test_another_interface_of_the_engine_is_refused_with_what_to_do(opts, monkeypatch):
    monkeypatch.setattr(grain.gpuslice, "API", 2)
    (sentence,) = grain.gpu()["gpu"]["errors"]
    assert "2" in sentence and "saltutil.sync_all" in sentence
