"""
What slices are called: the same before they are made and while they stand, so that whoever stands on one, or is told of it, can
go by its name.
"""

import re

import pytest

from tests.contract import house
from tests.contract import pairs

SHAPING = [pair for pair in pairs.CHANGING if pair[1] in house.SHAPES]
LESSER = [pair for pair in SHAPING if house.can_do_with_less(pair[1])]
#: What is told of a slice before it is made; the others only exist when it is.
TOLD = ("gpu", "name", "of", "kind", "profile", "address", "uuid", "memory_mib", "compute", "placement")
#: Where a name ends and what is on a GPU or a function begins.
_NAME = re.compile(r"([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])(-[A-Za-z0-9_.:-]+)?\Z")

by_shape = pytest.mark.parametrize("pair", SHAPING, ids=pairs.ids(SHAPING))
by_pair = pytest.mark.parametrize("pair", pairs.CHANGING, ids=pairs.ids(pairs.CHANGING))


def by_name(slices):
    """Name -> slice; no two have the same."""
    found = {part["name"]: part for part in slices}
    assert len(found) == len(slices), sorted(part["name"] for part in slices)
    return found


def names(slices):
    return sorted(by_name(slices))


def there(place, name):
    """PCI address -> (the slices of each GPU that a technique is at work on, those that its layout tells)."""
    with house.opened(place) as now:
        tool, found = house.tool(now, name), {}
        for gpu in house.able(now, name):
            state = house.observe(tool, gpu)
            told = house.expected(tool, gpu, house.through_json(house.layout(tool, state)))
            found[gpu.address] = (house.slices(tool, gpu, state), told)
    return found


def planned(place, pair):
    """PCI address -> the slices that the plan of a wish leads to, as far as it tells them."""
    host, name = pair
    with house.opened(place) as now:
        tool, gpus = house.tool(now, name), {gpu.address: gpu for gpu in now.gpus}
        parts = [part for part in house.wish(now, pairs.pillar(pair)).changing if part.key.technique == name]
        return {part.gpu: house.expected(tool, gpus[part.gpu], part.after) for part in parts}


# -- before they are made ---------------------------------------------------------------------------------------------
@by_shape
def test_a_layout_tells_the_slices_that_it_has(untouched, sliced, pair):
    for place in (untouched(pair[0]), sliced(pair)):
        for slices, told in there(place, pair[1]).values():
            assert names(told) == names(slices)
            found = by_name(slices)
            for part in told:
                known = {field: part[field] for field in TOLD if part.get(field) not in ("", None)}
                assert known == {field: found[part["name"]].get(field) for field in known}


@by_shape
def test_a_plan_tells_the_slices_that_there_will_be(untouched, sliced, pair):
    told, after = planned(untouched(pair[0]), pair), there(sliced(pair), pair[1])
    assert told
    assert {gpu: names(slices) for gpu, slices in told.items()} == {gpu: names(after[gpu][0]) for gpu in told}


# -- while they stand -------------------------------------------------------------------------------------------------
@by_pair
def test_a_name_is_the_slices_own_and_says_where_it_is(untouched, sliced, pair):
    for place in (untouched(pair[0]), sliced(pair)):
        with house.opened(place) as now:
            slices, gpus = house.all_slices(now, taken=True), {gpu.address for gpu in now.gpus}
        for name, part in by_name(slices).items():
            where = _NAME.match(name)
            assert where, name
            # On the GPU, or a function that somebody is given as it is.
            assert where[1] == part["gpu"] or (part["gpu"] in gpus and name == where[1] and is_function(part)), part


def is_function(part):
    """Whether a slice has the name of the function that somebody is given, or that carries it."""
    return part["name"] in (part.get("address"), part["placement"])


def of_host(place):
    """Identity -> name of all slices of a host."""
    with house.opened(place) as now:
        return {part.get("uuid") or part["address"]: part["name"] for part in house.all_slices(now, taken=True)}


def keeps_names(place, change, lost=0):
    """Make a change: what stands before and after it has one name. That is all but ``lost`` slices."""
    before = of_host(place)
    result = house.make(place, change)
    assert result.ok and result.changes, result.errors
    after = of_host(place)
    kept = before.keys() & after.keys()
    assert kept and len(kept) == len(before) - lost
    assert {identity: after[identity] for identity in kept} == {identity: before[identity] for identity in kept}


@pytest.mark.parametrize("pair", LESSER, ids=pairs.ids(LESSER))
def test_a_slice_keeps_its_name_when_another_one_goes(copy, sliced, pair):
    place = copy(sliced(pair))
    with house.opened(place) as now:
        free = [part for part in house.all_slices(now) if part["kind"] == pair[1] and not part["in_use_by"]]
    keeps_names(place, house.Less(pair[1], free[0], pairs.pillar(pair)), lost=1)


def test_a_virtual_function_keeps_its_name_when_its_turns_change(copy, sliced):
    pair = ("arc-pro-b60", "sriov")
    wanted = house.through_json(pairs.pillar(pair))
    wanted["containers_gpu_slicing"]["sriov"]["scheduling"]["exec_quantum_ms"] = 30
    keeps_names(copy(sliced(pair)), house.There(wanted))
