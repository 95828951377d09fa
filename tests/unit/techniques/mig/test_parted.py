"""Configurations of mig-parted as pillars, against what mig-parted itself would make of them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import policy
from gpuslice.model import Gpu
from gpuslice.techniques.mig import parted

SLICING = "containers_gpu_slicing"
MIG = ("mig", "mps", "time-slicing")
A100 = Gpu("0000:07:00.0", "nvidia", "20b0", "10de:134f", model="NVIDIA A100-SXM4-40GB", capabilities=MIG)
OTHER = Gpu("0000:0f:00.0", "nvidia", "20b0", "10de:1450", model="NVIDIA A100-SXM4-40GB", capabilities=MIG)
T1000 = Gpu("0000:1f:00.0", "nvidia", "1fb0", "10de:12db", model="NVIDIA T1000", capabilities=("time-slicing",))
A30 = Gpu("0000:41:00.0", "nvidia", "20b7", "10de:1532", model="NVIDIA A30", capabilities=MIG)
AMD = Gpu("0000:c1:00.0", "amd", "74a1", model="AMD Instinct MI300X", capabilities=("partition",))
HOST = [A100, OTHER, T1000, A30, AMD]
ORDER = {gpu.address: index for index, gpu in enumerate(HOST[:4])}

OFF = {"mode": "disabled"}


def index_of(gpu):
    return ORDER.get(gpu.address)


def entry(devices="all", enabled=True, counts=None, boards=None):
    """An entry of a configuration."""
    found = {"devices": devices, "mig-enabled": enabled}
    if enabled:
        found["mig-devices"] = {"1g.5gb": 2} if counts is None else counts
    return found if boards is None else {"device-filter": boards, **found}


def file(*entries, **more):
    """A file with one configuration, called site, and others."""
    return {"version": "v1", "mig-configs": {"site": list(entries), **more}}


def imported(written, config="", gpus=HOST):
    """What stands below containers_gpu_slicing, and the warnings."""
    made, warnings = parted.pillar(written, config, gpus, index_of)
    assert list(made) == [SLICING] and policy.parse(made).warnings == []
    assert json.loads(json.dumps(made)) == made
    return made[SLICING], warnings


def mistakes(written, config="", gpus=HOST):
    with pytest.raises(errors.PolicyError) as caught:
        parted.pillar(written, config, gpus, index_of)
    assert str(caught.value).startswith("The configuration can't be taken over:\n- ")
    return caught.value.mistakes


# -- layouts ---------------------------------------------------------------------------------------------------------------
def test_each_configuration_is_a_layout_and_nothing_is_applied():
    others = {"off": [entry(enabled=False)], "bare": [entry(counts={})]}
    made, warnings = imported(file(entry(counts={"1g.5gb+me": 1, "2g.10gb": 3}), **others))
    assert made == {
        "layouts": {
            "site": {"strategy": "mig", "mig": {"profiles": {"1g.5gb+me": 1, "2g.10gb": 3}}},
            "off": {"strategy": "mig", "mig": {"mode": "disabled"}},
            "bare": {"strategy": "mig", "mig": {"profiles": []}},
        }
    }
    assert warnings == []


def test_a_configuration_that_treats_gpus_differently_is_several_layouts_that_are_told():
    one, two = entry(boards="0x20B010DE"), entry(boards="0x20B710DE", counts={"1g.6gb": 4})
    written = file(one, two, entry(boards="0x233010DE"), **{"site-1": [one]})
    made, warnings = imported(written)
    assert sorted(made["layouts"]) == ["site-1", "site-2", "site-3"]
    assert made["layouts"]["site-3"]["mig"] == {"profiles": {"1g.6gb": 4}}
    assert warnings == ["mig-configs:site: treats GPUs differently and becomes 2 layouts: site-2 to site-3."]


# -- applied ---------------------------------------------------------------------------------------------------------------
def test_all_gpus_is_the_layout_of_the_host():
    made, warnings = imported(file(entry(enabled=False)), "site")
    assert (made["enabled"], made["layout"]) == (True, "site") and "devices" not in made and "strategy" not in made
    assert warnings == []


def test_boards_are_matched_by_their_ids_and_may_be_absent():
    written = file(
        entry(boards=["0x20B010DE", "0x233010de", "0x20B010DE"]), entry(boards=0x20B710DE), entry(boards="0x20B210DE:0x134F10DE")
    )
    made, warnings = imported(written, "site")
    assert made["devices"] == [
        {"match": {"device_id": "10de:20b2:10de:134f"}, "layout": "site", "optional": True},
        {"match": {"device_id": "10de:20b7"}, "layout": "site", "optional": True},
        {"match": {"device_id": ["10de:20b0", "10de:2330"]}, "layout": "site", "optional": True},
    ]
    assert made["strategy"] == "none" and warnings == []
    assert policy.unmatched(policy.parse({SLICING: made}), HOST) == []


def test_indices_are_gpus_of_this_host_and_that_is_told():
    made, warnings = imported(file(entry([0, 3])), "site")
    assert made["devices"] == [
        {"match": {"pci": A100.address}, "layout": "site"}, {"match": {"pci": A30.address}, "layout": "site"},
    ]  # fmt: skip
    assert warnings == [
        "mig-configs:site:0:devices: counts GPUs as this host does now, and the pillar is for it alone: "
        "0 is 0000:07:00.0 (NVIDIA A100-SXM4-40GB), 3 is 0000:41:00.0 (NVIDIA A30)."
    ]


def test_what_indices_are_not_about_is_left_out_and_told():
    made, warnings = imported(file(entry([0, 3, 9], boards="0x20B010DE"), entry([8])), "site")
    assert [rule["match"] for rule in made["devices"]] == [{"pci": A100.address}]
    text = "\n".join(warnings)
    assert "site:0:devices: has indices that no GPU of this host has, which are left out: 9." in text
    assert "site:0:devices: is not about these, which are no boards of its device-filter: 3 is 0000:41:00.0 (NVIDIA A30)." in text
    assert "site:1: has no effect: no GPU is left that it is about." in text


def test_a_gpu_without_mig_that_is_to_have_it_off_is_left_alone():
    made, _ = imported(file(entry([2], enabled=False)), "site")
    assert made["devices"] == [{"match": {"pci": T1000.address}, "strategy": "none"}]


@pytest.mark.parametrize("gpus", [[], [AMD]])
def test_indices_are_refused_where_nobody_tells_what_they_are(gpus):
    [found] = mistakes(file(entry([0])), "site", gpus)
    assert found == (
        "mig-configs:site:0:devices: names GPUs by their indices, and this host has no GPU whose driver tells one. Do this where "
        "the GPUs are, or write 'all' with a device-filter."
    )
    # For the layouts alone nobody needs to know.
    assert imported(file(entry([0], enabled=False)), gpus=gpus)[0] == {"layouts": {"site": {"strategy": "mig", "mig": OFF}}}


def test_an_entry_that_later_ones_undo_has_no_effect_and_that_is_told():
    made, warnings = imported(file(entry([0]), entry(boards="0x20B010DE"), entry(counts={"7g.40gb": 1})), "site")
    assert made["layout"] == "site-2" and "devices" not in made
    assert [line for line in warnings if "no effect" in line] == [
        f"mig-configs:site:{place}: has no effect: mig-configs:site:2 comes after it and is about every GPU." for place in (0, 1)
    ]
    made, warnings = imported(file(entry(boards="0x20B010DE:0x134F10DE"), entry(boards="0x20B010DE")), "site")
    assert len(made["devices"]) == 1 and warnings == ["mig-configs:site:0: has no effect: no GPU is left that it is about."]


def test_an_unknown_configuration_is_refused_with_the_nearest():
    assert mistakes(file(entry()), "sight") == [
        "config: is the text 'sight', which is none of mig-configs. Did you mean 'site'? Valid: site."
    ]


# -- mistakes --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "said"),
    [
        (None, "The configuration: is empty"),
        ([], "The configuration: is a list"),
        ({}, "version: is empty; v1 is the only one"),
        ({"version": "v2", "mig-configs": {"a": [entry()]}}, "version: is the text 'v2'"),
        ({"version": "v1"}, "mig-configs: is empty"),
        ({"version": "v1", "mig-configs": {}}, "mig-configs: is a mapping"),
        ({**file(entry()), "mig-config": {}}, "mig-config: is not a known key. Did you mean 'mig-configs'?"),
        (file(), "mig-configs:site: is a list; a list of at least one entry"),
        (file("all"), "mig-configs:site:0: is the text 'all'"),
        (file({**entry(), "mig-device": {}}), "mig-configs:site:0:mig-device: is not a known key. Did you mean 'mig-devices'?"),
        (file({"mig-enabled": False}), "mig-configs:site:0:devices: is empty; 'all' or a list of indices"),
        (file(entry("GPU-1")), "mig-configs:site:0:devices: is the text 'GPU-1'"),
        (file(entry([True])), "mig-configs:site:0:devices: is a list"),
        (file(entry([-1])), "mig-configs:site:0:devices: is a list"),
        (file({"devices": "all"}), "mig-configs:site:0:mig-enabled: is empty; true or false"),
        (file({"devices": "all", "mig-enabled": True}), "mig-configs:site:0:mig-devices: is empty"),
        (file({**entry(), "mig-enabled": False}), "mig-configs:site:0:mig-devices: is given, but mig-enabled is false"),
        (file(entry(counts={"9x": 1})), "mig-configs:site:0:mig-devices:9x: "),
        (file(entry(counts={"1g.5gb": -1})), "mig-configs:site:0:mig-devices:1g.5gb: has the count -1"),
        (file(entry(counts={"1g.5gb": "7"})), "mig-configs:site:0:mig-devices:1g.5gb: has the count the text '7'"),
        (file(entry(counts={"1g.5gb": 0})), "mig-configs:site:0:mig-devices: has no count but 0"),
        (file(entry(boards="A100")), "mig-configs:site:0:device-filter: is the text 'A100'; the ids of a board such as"),
        (file(entry(boards={"a": 1})), "mig-configs:site:0:device-filter: is a mapping"),
        (file(entry(boards="0x10DE20B0")), "which is no board of NVIDIA: those end in 10DE"),
        (file(entry(), **{"a b": [entry()]}), "mig-configs:a b: is no name of a layout; up to 63 letters"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_with_its_place(written, said):
    assert any(said in line for line in mistakes(written))


def test_every_mistake_is_told_at_once():
    assert len(mistakes(file(entry("x", boards="y"), entry(counts={"z": 1}), {}))) == 5


# -- against mig-parted ----------------------------------------------------------------------------------------------------
FILTERS = {
    "0x20B010DE": (A100, OTHER), "0x20B010DE:0x134F10DE": (A100,), "0x20B710DE": (A30,), "0x1FB010DE": (T1000,), "0x233010DE": (),
}  # fmt: skip
ENTRIES = st.builds(
    entry,
    st.just("all") | st.lists(st.integers(0, 5), max_size=3),
    st.booleans(),
    st.sampled_from([{}, {"1g.5gb": 2}, {"1g.5gb": 1, "2g.10gb": 2}]),
    st.none() | st.lists(st.sampled_from(sorted(FILTERS)), min_size=1, max_size=3),
)


def meant(entries):
    """
    PCI address -> what is wanted of its MIG, None where it is left alone, as mig-parted goes through a configuration: each entry
    in turn, for each GPU that it is about. Said without the code under test.
    """
    found = dict.fromkeys(gpu.address for gpu in HOST)
    for each in entries:
        for gpu in HOST[:4]:
            boards = each.get("device-filter")
            if boards and not any(gpu in FILTERS[one] for one in boards):
                continue
            if each["devices"] != "all" and ORDER[gpu.address] not in each["devices"]:
                continue
            if gpu is T1000:
                continue
            counts = each.get("mig-devices", {})
            found[gpu.address] = [(name, None, count) for name, count in counts.items()] if each["mig-enabled"] else OFF
    return found


@given(st.lists(ENTRIES, min_size=1, max_size=6))
def test_a_pillar_wants_of_each_gpu_what_the_configuration_does(entries):
    # A GPU without MIG that is named and is to have it is refused by both.
    entries = [each for each in entries if each["devices"] == "all" or 2 not in each["devices"] or not each["mig-enabled"]]
    if not entries:
        return
    made, _ = imported(file(*entries), "site")
    targets = policy.targets(policy.parse({SLICING: made}), HOST, "bare_metal")
    found = {each.gpu.address: (each.settings.get("entries", OFF) if each.technique else None) for each in targets}
    assert found == meant(entries)
