"""
What becomes of a wish: looking writes nothing, applying it once is enough, and what it came to can be written down as a pillar.
"""

import pytest

from tests.contract import house
from tests.contract import pairs


def by_pair(argument):
    return pytest.mark.parametrize(argument, pairs.CHANGING, ids=pairs.ids(pairs.CHANGING))


# -- that nothing is left out -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("host", pairs.HOSTS)
def test_each_technique_is_tried_on_each_host_where_it_can_do_anything(untouched, host):
    with house.opened(untouched(host)) as now:
        able = {(host, name) for name in house.NAMES if house.able(now, name)}
    assert able == {pair for pair in pairs.LOOKING if pair[0] == host}


def test_each_technique_changes_something_on_at_least_one_host():
    assert {name for _, name in pairs.CHANGING} == set(house.NAMES)


def test_each_example_pillar_with_a_layout_is_wanted_somewhere(repo):
    named = {wish for wish in pairs.WISHES.values() if isinstance(wish, str)}
    # The first two slice nothing, the third hands out what others make, then MPS and MIG in other words, limits, a cap, and what
    # schedulers are told.
    others = {"none", "careful", "consumers", "mps_weights", "layouts", "maintenance", "memory_limits", "power"}
    others |= {"slurm", "slurm_mig", "kubernetes", "nomad"}
    assert {path.stem for path in (repo / "examples" / "pillar").glob("*.sls")} == named | others


@by_pair("pair")
def test_the_wish_of_a_pair_is_a_change_by_its_technique(untouched, pair):
    with house.opened(untouched(pair[0])) as now:
        plan = house.wish(now, pairs.pillar(pair))
        assert not plan.blocked
        assert {made.key.technique for made in plan.changing} == {pair[1]}
        for step in plan.steps:
            house.check_step(step)
        again = house.plan_read_back(plan)
    assert house.same(again.as_dict(), plan.as_dict()) and again.steps == plan.steps


# -- looking ----------------------------------------------------------------------------------------------------------
@by_pair("pair")
def test_a_plan_writes_nothing(copy, untouched, pair):
    place = copy(untouched(pair[0]))
    before = pairs.tree(place)
    with house.opened(place) as now:
        plan = house.wish(now, pairs.pillar(pair))
        assert not plan.empty and plan.changes() and plan.text()
    assert pairs.tree(place) == before


@by_pair("pair")
def test_looking_at_a_sliced_host_writes_nothing(copy, sliced, pair):
    place = copy(sliced(pair))
    before = pairs.tree(place)
    with house.opened(place) as now:
        house.look(now)
        house.export(now)
        house.wish(now, pairs.pillar(pair))
    assert pairs.tree(place) == before


# -- applying ---------------------------------------------------------------------------------------------------------
@by_pair("pair")
def test_a_wish_is_planned_as_it_is_met_and_planned_once(copy, untouched, pair):
    place, wanted = copy(untouched(pair[0])), pairs.pillar(pair)
    with house.opened(place) as now:
        told = house.wish(now, wanted).changes()
    result = house.apply(place, wanted)
    assert result.ok and house.is_closed(place), result.errors
    assert house.same(result.changes, told)
    with house.opened(place) as now:
        assert house.wish(now, wanted).empty
    before = pairs.tree(place)
    assert house.apply(place, wanted).plan.empty
    assert pairs.tree(place) == before


@by_pair("pair")
def test_what_is_exported_plans_nothing_where_it_comes_from(sliced, pair):
    with house.opened(sliced(pair)) as now:
        exported = house.export(now)
        assert not house.same(exported, house.through_json({}))
        rules = exported["containers_gpu_slicing"]["devices"]
        beside = {key for rule in rules for key, each in rule.items() if isinstance(each, dict) and each.get("enabled")}
        assert house.strategy(pair[1]) in {rule["strategy"] for rule in rules} | {key.replace("_", "-") for key in beside}
        for form in (exported, house.through_json(exported)):
            plan = house.wish(now, form)
            mine = [part for part in plan.changing if part.key.technique == pair[1] or pair not in pairs.ON_UNWRITTEN]
            assert not mine and not plan.blocked, plan.text()


@pytest.mark.parametrize("host", pairs.HOSTS)
def test_an_example_host_as_it_is_can_be_adopted(untouched, host):
    """Each of its GPUs is described, and nothing is planned by that, through data or the text of a file."""
    with house.opened(untouched(host)) as now:
        exported = house.export(now)
        described = [rule["match"]["pci"] for rule in exported["containers_gpu_slicing"]["devices"]]
        assert described == [gpu.address for gpu in now.gpus]
        for form in (exported, house.through_json(exported), house.through_yaml(exported)):
            assert house.same(form, exported)
            plan = house.wish(now, form)
            assert plan.empty and not plan.blocked, plan.text()


@by_pair("pair")
def test_a_layout_of_before_can_be_asked_for_after_a_change(copy, untouched, sliced, pair):
    host, name = pair
    before = pairs.layouts(untouched(host))
    place = copy(sliced(pair))
    result = house.make(place, house.Back(name, before[name], pairs.pillar(pair)))
    assert result.ok, result.errors
    assert house.same(pairs.layouts(place), before)
