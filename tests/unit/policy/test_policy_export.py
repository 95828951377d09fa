"""Layouts that exist, written as a pillar that reads back the same."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import policy
from gpuslice.catalog import nvidia
from gpuslice.techniques.mig import export

SLICING = "containers_gpu_slicing"
TABLE = nvidia.mig_table("h100-80gb")
LAYOUT = {
    "0000:41:00.0": {"enabled": True, "instances": [("3g.40gb", 4, [("1c.3g.40gb", 0), ("2c.3g.40gb", 1)]), ("1g.10gb", 0, [])]},
    "0000:07:00.0": {"enabled": False, "instances": []},
    "0000:c1:00.0": {"enabled": True, "instances": [("1g.10gb+me", 2, [("1g.10gb+me", 0)])]},
}


def exported(layouts, models=None):
    """The pillar that describes these MIG layouts."""
    sections = {at: export.pillar_section(at, layout) if layout["enabled"] else None for at, layout in layouts.items()}
    return policy.export_rules(sections, models or {})



def test_a_pillar_of_what_is_there():
    assert exported(LAYOUT) == {
        SLICING: {
            "enabled": True,
            "strategy": "none",
            "devices": [
                {"match": {"pci": "0000:07:00.0"}, "strategy": "none"},
                {
                    "match": {"pci": "0000:41:00.0"},
                    "strategy": "mig",
                    "mig": {"profiles": ["1c.3g.40gb@4", "2c.3g.40gb@4", "1g.10gb@0"]},
                },
                {"match": {"pci": "0000:c1:00.0"}, "strategy": "mig", "mig": {"profiles": ["1g.10gb+me@2"]}},
            ],
        }
    }


def test_a_rule_may_name_the_model_too():
    pillar = exported(LAYOUT, models={"0000:41:00.0": "NVIDIA H100 80GB HBM3"})
    assert pillar[SLICING]["devices"][1]["match"] == {"pci": "0000:41:00.0", "model": "NVIDIA H100 80GB HBM3"}
    assert policy.parse(pillar).warnings == []


@st.composite
def layouts(draw):
    """Some GPUs with some instances; legal in their names and in that no two begin at one memory slice."""
    found = {}
    for address in draw(st.sets(st.sampled_from(["0000:07:00.0", "0000:41:00.0", "0000:c1:00.0", "0001:10:1f.1"]))):
        instances = []
        for start in sorted(draw(st.sets(st.integers(0, 7), max_size=4))):
            profile = draw(st.sampled_from(TABLE.profiles))
            ci = draw(st.sampled_from(profile.cis))
            number = draw(st.integers(0, ci.count))
            instances.append((profile.name, start, [(ci.name, place) for place in range(number)]))
        enabled = draw(st.booleans())
        found[address] = {"enabled": enabled, "instances": instances if enabled else []}
    return found


def expected(instances):
    """The entries that a layout means, said without the code under test."""
    counts = {}
    for profile, start, cis in instances:
        whole = not cis or cis[0][0] == profile
        for name in [profile] if whole else [ci for ci, _ in cis]:
            counts[name, start] = counts.get((name, start), 0) + 1
    return [(name, start, count) for (name, start), count in counts.items()]


@given(layouts())
def test_an_exported_pillar_reads_back_the_same_also_through_yaml(layout):
    pillar = yaml.safe_load(yaml.safe_dump(exported(layout)))
    made = policy.parse(pillar)
    assert made.warnings == []
    assert [rule.match["pci"] for rule in made.rules] == sorted(layout)
    for rule in made.rules:
        described = layout[rule.match["pci"]]
        assert rule.strategy == ("mig" if described["enabled"] else "none")
        assert rule.settings["mig"]["entries"] == expected(described["instances"])


def test_a_compute_instance_that_fills_its_gpu_instance_leaves_the_name_to_it():
    layout = {"0000:41:00.0": {"enabled": True, "instances": [("1g.10gb+me", 2, [("1g.10gb", 0)])]}}
    assert exported(layout)[SLICING]["devices"][0]["mig"] == {"profiles": ["1g.10gb+me@2"]}


def test_an_instance_whose_name_is_no_profile_is_refused_by_name():
    layout = {"0000:41:00.0": {"enabled": True, "instances": [("unknown 42", 0, [])]}}
    with pytest.raises(errors.PolicyError, match=r"GPU 0000:41:00.0: The instance unknown 42 can't be described"):
        exported(layout)


def test_the_peer_tool_gets_counts_and_equal_gpus_share_an_entry():
    same = {"enabled": True, "instances": [("1g.10gb", 0, []), ("1g.10gb", 1, []), ("3g.40gb", 4, [("1c.3g.40gb", 0)])]}
    layout = {**LAYOUT, "0000:02:00.0": same, "0000:03:00.0": same}
    indices = {"0000:02:00.0": 3, "0000:03:00.0": 0, "0000:07:00.0": 1, "0000:41:00.0": 2, "0000:c1:00.0": 4}
    assert export.mig_parted(layout, indices, "site") == {
        "version": "v1",
        "mig-configs": {
            "site": [
                {"devices": [0, 3], "mig-enabled": True, "mig-devices": {"1c.3g.40gb": 1, "1g.10gb": 2}},
                {"devices": [1], "mig-enabled": False, "mig-devices": {}},
                {"devices": [2], "mig-enabled": True, "mig-devices": {"1c.3g.40gb": 1, "1g.10gb": 1, "2c.3g.40gb": 1}},
                {"devices": [4], "mig-enabled": True, "mig-devices": {"1g.10gb+me": 1}},
            ]
        },
    }
