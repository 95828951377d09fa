"""Layouts by name, where they are named, and what stands over them; boards by their PCI ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice import policy
from gpuslice.model import Gpu

SLICING = "containers_gpu_slicing"
H100 = {"model": "NVIDIA H100*"}
A100 = {"model": "NVIDIA A100*"}
HALVES = {"strategy": "mig", "mig": {"profiles": {"3g.40gb": 2}}}
SEVEN = {"strategy": "mig", "mig": {"profiles": ["1g.10gb"], "gpu_instance_count": 7}}


def slicing(**keys):
    """The policy of a pillar with these keys under containers_gpu_slicing."""
    return policy.parse({SLICING: {"enabled": True, **keys}})


def mistakes(**keys):
    """The mistakes of a pillar that must have some."""
    with pytest.raises(errors.PolicyError) as caught:
        slicing(**keys)
    return caught.value.mistakes


def meaning(rule):
    """What a rule comes to, wherever it is written."""
    return rule._replace(match={}, path="", silent={})


def test_a_rule_that_names_a_layout_means_what_the_layout_says():
    named = slicing(layouts={"halves": HALVES}, devices=[{"match": H100, "layout": "halves"}])
    written = slicing(devices=[{"match": H100, **HALVES}])
    assert named.rules[0].match == H100 and named.rules[0].path == f"{SLICING}:devices:0"
    assert meaning(named.rules[0]) == meaning(written.rules[0])
    assert named.default.strategy == "none" and named.warnings == []


def test_the_host_can_name_one_too_and_its_rules_inherit_it():
    named = slicing(layouts={"seven": SEVEN}, layout="seven", devices=[{"match": H100, "mig": {"compute_instance_count": 1}}])
    assert named.default.settings["mig"]["entries"] == [("1g.10gb", None, 7)]
    assert named.default.path == SLICING
    assert named.rules[0].strategy == "mig" and named.rules[0].settings["mig"]["entries"] == [("1g.10gb", None, 7)]


def test_words_beside_a_layout_stand_over_it_key_by_key():
    own = {"mig": {"profiles": ["2g.20gb"]}}
    over = slicing(layouts={"seven": SEVEN}, devices=[{"match": H100, "layout": "seven", **own}])
    assert over.rules[0].settings["mig"]["entries"] == [("2g.20gb", None, 7)]
    host = slicing(layouts={"seven": SEVEN}, layout="seven", **own)
    assert host.default.settings["mig"]["entries"] == [("2g.20gb", None, 7)]
    other = {"match": H100, "layout": "seven", "strategy": "none"}
    assert slicing(layouts={"seven": SEVEN}, devices=[other]).rules[0].strategy == "none"
    other = {"match": H100, "layout": "seven", "strategy": "partition", "partition": {"compute": "CPX"}}
    assert slicing(layouts={"seven": {**SEVEN, "mig": {**SEVEN["mig"], "enabled": True}}}, devices=[other]).rules[0].strategy == (
        "partition"
    )


def test_a_layout_is_the_same_wherever_it_is_named():
    """Nothing that the pillar says for the whole host comes into it."""
    around = {"strategy": "mig", "mig": {"profiles": ["7g.80gb"], "compute_instance_count": 7, "gpu_instance_count": 3}}
    shared = {"time_slicing": {"enabled": True, "max_instance_count": 3}}
    alone = slicing(layouts={"halves": HALVES}, devices=[{"match": H100, "layout": "halves"}])
    within = slicing(layouts={"halves": HALVES}, devices=[{"match": H100, "layout": "halves"}], **around, **shared)
    assert meaning(within.rules[0]) == meaning(alone.rules[0]) and within.default.beside == ("time-slicing",)


def test_what_goes_with_every_strategy_holds_beside_a_layout_too():
    """A power cap is not of how a GPU is sliced."""
    rule = {"match": H100, "layout": "halves"}
    made = slicing(layouts={"halves": HALVES}, devices=[rule], power={"limit_watts": 400}).rules[0]
    assert made.strategy == "mig" and made.beside == ("power",) and made.settings["power"]["limit_watts"] == 400
    own = {"halves": {**HALVES, "power": {"limit_watts": 300}}}
    made = slicing(layouts=own, devices=[rule], power={"limit_watts": 400}).rules[0]
    assert made.settings["power"]["limit_watts"] == 300
    assert slicing(layouts=own, devices=[rule]).rules[0].beside == ("power",)
    assert slicing(layouts=own, layout="halves", power={"limit_watts": 200}).default.settings["power"]["limit_watts"] == 200


def test_what_stands_beside_a_layout_comes_with_it():
    both = {**HALVES, "time_slicing": {"enabled": True, "max_instance_count": 3}}
    made = slicing(layouts={"both": both}, devices=[{"match": H100, "layout": "both"}])
    assert made.rules[0].beside == ("time-slicing",) and made.rules[0].settings["time-slicing"]["max_instance_count"] == 3


def test_the_digest_goes_by_what_is_wanted_and_not_by_layouts_that_nobody_names():
    rule = {"match": H100, "layout": "halves"}
    one = slicing(layouts={"halves": HALVES}, devices=[rule])
    assert slicing(layouts={"halves": HALVES, "seven": SEVEN}, devices=[rule]).digest == one.digest
    assert slicing(layouts={"halves": SEVEN}, devices=[rule]).digest != one.digest


@pytest.mark.parametrize("place", ["host", "rule"])
def test_an_unknown_name_is_a_mistake_with_its_path_and_the_nearest_name(place):
    known = {"layouts": {"training": HALVES, "inference": SEVEN}}
    if place == "host":
        [found], path = mistakes(layout="trainning", **known), SLICING
    else:
        [found], path = mistakes(devices=[{"match": H100, "layout": "trainning"}], **known), f"{SLICING}:devices:0"
    assert found == (
        f"{path}:layout: is trainning, which is none of {SLICING}:layouts. Did you mean 'training'? Valid: training, inference."
    )


def test_a_name_without_any_layouts_says_where_they_are_written():
    assert mistakes(layout="x") == [f"{SLICING}:layout: is x, and {SLICING}:layouts has no layouts. Write it there."]


@pytest.mark.parametrize(
    ("layout", "path", "said"),
    [
        ({"strategy": "MIG"}, "strategy", "Did you mean 'mig'?"),
        ({"strategy": "mig", "mig": {"profiles": ["9x"]}}, "mig:profiles:0", "9x"),
        ({"strategy": "mig", "mig": {"profiles": ["1g.10gb@0", "2g.20gb@0"]}}, "mig:profiles:1", "takes already"),
        ({"strategy": "mig"}, "mig:profiles", "is not given"),
        ({"strategy": "mig", "mig": {"enabled": False, "profiles": []}}, "mig:enabled", "is false, but the strategy is mig"),
        ({"mig": {"profiles": ["1g.10gb"]}}, "", "has no strategy"),
        ({}, "", "has no strategy"),
        ({"match": H100, "strategy": "none"}, "match", "is not a known key"),
        ({"layout": "y", "strategy": "none"}, "layout", "is not a known key"),
        ("mig", "", "a mapping with the keys strategy, mig"),
        (None, "", "has no value"),
    ],
)
def test_a_layout_is_checked_once_whoever_names_it(layout, path, said):
    where = ":".join(filter(None, (f"{SLICING}:layouts:x", path)))
    for use in ({}, {"devices": [{"match": H100, "layout": "x"}, {"match": A100, "layout": "x"}]}):
        [found] = mistakes(layouts={"x": layout}, **use)
        assert found.startswith(f"{where}: ") and said in found, found


def test_what_is_only_odd_about_a_layout_is_told_where_it_is_named():
    layouts = {"shared": {"strategy": "time-slicing"}}
    assert slicing(layouts=layouts).warnings == []
    rules = [{"match": H100, "layout": "shared"}, {"match": A100, "layout": "shared"}]
    [found] = slicing(layouts=layouts, devices=rules).warnings
    assert found.startswith(f"{SLICING}:layouts:shared:strategy: time-slicing gives no memory isolation")


@pytest.mark.parametrize("name", ["", "-x", "a b", "x" * 64, 5, "x:y"])
def test_a_name_that_is_none_is_refused(name):
    assert "is no name for it; up to 63 letters" in mistakes(layouts={name: HALVES})[0]
    if name:
        assert "is wanted" in mistakes(layout=name, layouts={"x": HALVES})[0]


def test_layouts_that_are_no_mapping_are_refused():
    assert mistakes(layouts=[HALVES], layout="x") == [f"{SLICING}:layouts: is a list; a mapping by names is wanted."]


# -- boards ----------------------------------------------------------------------------------------------------------------
BOARD = Gpu("0000:07:00.0", "nvidia", "20b0", "10de:134f", model="NVIDIA A100-SXM4-40GB", capabilities=("mig",))


def wanted(ids, gpu=BOARD, **more):
    """Technique of a GPU by a rule for boards."""
    made = slicing(devices=[{"match": {"device_id": ids}, **HALVES, **more}])
    return policy.targets(made, [gpu], "bare_metal")[0].technique


@pytest.mark.parametrize(
    ("ids", "fits"),
    [
        ("10de:20b0", True),
        ("10DE:20B0", True),
        (["10de:2330", "10de:20b0"], True),
        ("10de:20b0:10de:134f", True),
        ("10de:20b0:10de:134e", False),
        ("10de:20b1", False),
        ("1002:20b0", False),
    ],
)
def test_a_board_is_told_by_its_ids(ids, fits):
    assert wanted(ids) == ("mig" if fits else None)


@pytest.mark.parametrize("ids", ["20b0", "0x20B010DE", 2330, [], ["10de:20b0", 5], {"10de": "20b0"}, "10de:20b0 "])
def test_what_is_no_id_is_refused(ids):
    [found] = mistakes(devices=[{"match": {"device_id": ids}, **HALVES}])
    assert found.startswith(f"{SLICING}:devices:0:match:device_id: is ") and "'lspci -nn'" in found


def test_a_rule_for_boards_that_are_not_there_is_a_warning_unless_it_is_optional():
    for optional, lines in ((False, 1), (True, 0)):
        made = slicing(devices=[{"match": {"device_id": "10de:2330"}, "optional": optional, **HALVES}])
        assert len(policy.unmatched(made, [BOARD])) == lines and made.warnings == []


IDS = st.lists(st.sampled_from(["10de:20b0", "10de:20b1", "10de:2330"]), min_size=1, unique=True)


@given(IDS, IDS)
def test_a_rule_can_never_win_exactly_where_all_its_boards_are_taken(first, second):
    rules = [{"match": {"device_id": first}, **HALVES}, {"match": {"device_id": second, "vendor": "nvidia"}, **SEVEN}]
    if set(second) <= set(first):
        assert "can never win" in mistakes(devices=rules)[0]
    else:
        assert len(slicing(devices=rules).rules) == 2
