"""Configurations of mig-parted, brought about on simulated hosts, and written again."""

import pytest
import yaml

from gpuslice.engine import Engine
from tests.conftest import ROOT
from tests.support.hosts import config
from tests.support.hosts import shapes

FORM = "mig-parted"
WRITTEN = yaml.safe_load((ROOT / "tests" / "support" / "mig_parted.yaml").read_text(encoding="utf-8"))


def brought_about(host, name, written=WRITTEN):
    """A host after a configuration was applied: what is on GPUs that are cut, and the pillar; a second run changes nothing."""
    with Engine(config(host)) as engine:
        pillar, _ = engine.imported(FORM, written, name)
        result = engine.apply(pillar)
        assert result.ok, result.errors
    with Engine(config(host)) as engine:
        assert engine.plan(pillar).empty
    return {gpu: profiles for gpu, profiles in shapes(host).items() if profiles}, pillar


@pytest.mark.parametrize(
    ("example", "name", "profiles"),
    [
        ("dgx-a100-40gb", "all-1g.10gb", ["1g.10gb"] * 4),
        ("dgx-a100-40gb", "all-balanced", ["1g.5gb", "1g.5gb", "2g.10gb", "3g.20gb"]),
        ("dgx-h100", "all-1g.10gb", ["1g.10gb"] * 7),
        ("hgx-b200", "all-balanced", ["1g.23gb", "1g.23gb", "2g.45gb", "3g.90gb"]),
        ("dgx-h100", "all-bare", []),
    ],
)
def test_a_configuration_is_brought_about(simulated, example, name, profiles):
    host = simulated(example)
    found, _ = brought_about(host, name)
    assert found == ({gpu: profiles for gpu in host.state()["gpus"]} if profiles else {})


def test_each_board_of_a_host_gets_what_the_configuration_has_for_it(simulated):
    """An A100 and an H100 of 80 GB, and a T4, which nothing is said of."""
    four = ["1g.10gb", "1g.10gb", "2g.20gb", "3g.40gb"]
    assert brought_about(simulated("mixed"), "all-balanced")[0] == {"0000:07:00.0": four, "0000:82:00.0": four}


def test_indices_count_as_the_driver_does(simulated):
    host = simulated("dgx-a100-40gb")
    found, _ = brought_about(host, "by-index")
    assert found == {
        "0000:87:00.0": ["1g.5gb"] * 7,
        "0000:90:00.0": ["1c.3g.20gb"] * 3 + ["3g.20gb"],
        "0000:b7:00.0": ["1c.3g.20gb"] * 3 + ["3g.20gb"],
        "0000:bd:00.0": ["1g.5gb+me"] + ["2g.10gb"] * 3,
    }
    assert [gpu["mode"] for gpu in host.state()["gpus"].values()] == [0] * 4 + [1] * 4


def test_a_later_entry_stands_over_an_earlier_one(simulated):
    host = simulated("dgx-a100-40gb")
    found, _ = brought_about(host, "all-but-one")
    assert sorted(found) == sorted(set(host.state()["gpus"]) - {"0000:47:00.0"})
    assert set(map(tuple, found.values())) == {("3g.20gb", "3g.20gb")}


@pytest.mark.parametrize("name", ["by-index", "all-but-one"])
def test_what_is_exported_and_read_again_changes_nothing(simulated, name):
    host = simulated("dgx-a100-40gb")
    before, _ = brought_about(host, name)
    with Engine(config(host)) as engine:
        exported = engine.export(FORM)
        pillar, warnings = engine.imported(FORM, exported, "current")
        assert engine.plan(pillar).empty
    assert all("for it alone" in line or "becomes" in line for line in warnings)
    # And once more, from a host with other slices.
    brought_about(host, "all-1g.10gb")
    assert brought_about(host, "current", exported)[0] == before
    with Engine(config(host)) as engine:
        assert engine.export(FORM) == exported


def test_on_a_host_whose_driver_tells_no_indices_only_layouts_can_be_had(simulated):
    host = simulated("no-gpu")
    with Engine(config(host)) as engine:
        pillar, _ = engine.imported(FORM, WRITTEN)
        assert list(pillar["containers_gpu_slicing"]) == ["layouts"]
        with pytest.raises(Exception, match="Do this where the GPUs are"):
            engine.imported(FORM, WRITTEN, "by-index")
