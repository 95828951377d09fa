"""
What a technique reads: it is plain data, comes back from a file as it was, asks for nothing when it is asked for, and is the same
however often it is read. On each host as it is described, and after its wish was applied.
"""

import pytest

from tests.contract import house
from tests.contract import pairs

CASES = [(pair, False) for pair in pairs.LOOKING] + [(pair, True) for pair in pairs.CHANGING]
IDS = [f"{'/'.join(pair)}{'/sliced' if after else ''}" for pair, after in CASES]


@pytest.fixture(params=CASES, ids=IDS)
def case(request, untouched, sliced):
    """(engine, technique, its GPUs) of a host before or after a change."""
    pair, after = request.param
    host, name = pair
    with house.opened(sliced(pair) if after else untouched(host)) as now:
        found = house.able(now, name)
        assert found, f"{name} is at work on no GPU of {host}"
        yield now, house.tool(now, name), found


def read(case):
    """(GPU, state, layout) of each GPU."""
    _, tool, gpus = case
    states = [(gpu, house.observe(tool, gpu)) for gpu in gpus]
    return [(gpu, state, house.layout(tool, state)) for gpu, state in states]


def faces(tool, gpu, layout):
    """All that is made of a layout alone."""
    made = {
        "words": house.words(tool, layout),
        "shown": house.shown(tool, layout),
        "settings": house.settings_of(tool, layout),
        "pillar": house.pillar(tool, gpu, layout),
    }
    return house.through_json(made)


def test_a_layout_survives_json(case):
    tool = case[1]
    for gpu, _, layout in read(case):
        again = house.through_json(layout)
        assert house.same(again, layout)
        assert faces(tool, gpu, again) == faces(tool, gpu, layout)
        assert house.words(tool, layout) and isinstance(house.words(tool, layout), str)


def test_a_layout_has_the_shape_that_is_read_back_from_a_file(case):
    for _, _, layout in read(case):
        house.check_layout(case[1].name, layout)
        house.check_layout(case[1].name, house.through_json(layout))


def test_asking_for_what_is_there_plans_nothing(case):
    tool, found = case[1], read(case)
    for form in (lambda layout: layout, house.through_json):
        wanted = [(gpu, state, house.settings_of(tool, form(layout))) for gpu, state, layout in found]
        for made in house.plan(tool, wanted):
            assert not made.steps, made.steps
            assert not made.creates and not made.destroys


def test_what_is_read_twice_is_the_same_also_after_every_gpu_was_let_go(case):
    now, tool, gpus = case

    def seen():
        found = []
        for gpu, state, layout in read(case):
            slices = house.slices(tool, gpu, state)
            health, holders = house.health(now, gpu), [holder.as_dict() for holder in house.holders(tool, gpu)]
            found.append([gpu.address, layout, slices, house.drawing(tool, gpu, state), health, holders])
        return house.through_json(found)

    first = seen()
    assert seen() == first
    house.release(now)
    assert seen() == first
    house.release(now)
    house.release(now)
    assert seen() == first


def test_a_slice_is_of_its_gpu_and_has_a_kind(case):
    tool = case[1]
    for gpu, state, _ in read(case):
        for part in house.slices(tool, gpu, state):
            assert part["gpu"] == gpu.address
            assert part["kind"] and part["profile"]
            assert part.get("address") or part.get("uuid"), part


def test_a_slice_has_an_identity_of_its_own_on_the_host(case):
    """Over all techniques: what is made of one has no slice of another with the same name."""
    found = [part.get("address") or part.get("uuid") for part in house.all_slices(case[0])]
    assert len(set(found)) == len(found), found
