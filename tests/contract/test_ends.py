"""
A change ends in what was wanted or in what was there before, at whichever of its calls it fails or is killed.

Hosts with many GPUs that are alike have two of each here, and of many calls that are alike the first and the last are tried, see
:func:`tests.contract.points.of`: what is tried takes seconds for each technique and host, and not minutes.
"""

import functools
import signal

import pytest

from tests.contract import house
from tests.contract import pairs
from tests.contract import points
from tests.support.crash import in_child

by_pair = pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=pytest.mark.slow if pair in pairs.ALIKE else ()) for pair in pairs.CHANGING],
    ids=pairs.ids(pairs.CHANGING),
)


@pytest.fixture(scope="session")
def points_of(tmp_path_factory):
    """``points_of(original, change)``: where a change of a host can go wrong."""
    made = {}

    def get(original, change):
        key = (original, repr(change))
        if key not in made:
            place = pairs.copied(original, tmp_path_factory.mktemp("points") / "state")
            made[key] = points.of(place, change)
        return made[key]

    return get


@functools.cache
def before(original):
    """The layouts of a host that nobody changes, by technique and PCI address."""
    return pairs.layouts(original)


def differences(place, original):
    """What of a host is not as it was: its layouts by every technique, and the files that were written there."""
    layouts = pairs.layouts(place)
    found = [] if house.same(layouts, before(original)) else [("layouts", before(original), layouts)]
    for path in place.host.state()["written"]:
        had, has = (host.read(path) if host.exists(path) else None for host in (original.host, place.host))
        found += [(path, had, has)] if had != has else []
    return found


def failure(place, change):
    """Why a change was not made, as sentences; [] for one that was."""
    try:
        return house.make(place, change).errors
    except house.Refusal as err:
        return [str(err)]


def is_made(place, change):
    """Whether nothing of a change is left to do, and none is on record as begun."""
    with house.opened(place) as now:
        plan = change.plan(now)
    return plan.empty and not plan.blocked and house.is_closed(place)


def test_each_action_of_each_technique_is_among_those_that_are_not_slow(untouched):
    """What is tried with the slow tests only has no step of its own."""
    found = {True: set(), False: set()}
    for pair in pairs.CHANGING:
        with house.opened(untouched(pair[0], few=True)) as now:
            steps = house.wish(now, points.wish(pair)).steps
        found[pair in pairs.ALIKE] |= {(step.technique, step.action) for step in steps}
    assert found[True] <= found[False]


@pytest.mark.parametrize("way", ["there", "back"])
@by_pair
def test_a_change_that_fails_is_undone_wherever_it_fails(copy, untouched, sliced, points_of, pair, way):
    original, wanted, wrong = untouched(pair[0], few=True), points.wish(pair), []
    change = house.There(wanted)
    if way == "back":
        original, change = sliced(pair, few=True), house.Back(pair[1], before(original)[pair[1]], wanted)
    for point in points_of(original, change):
        if point.action == points.RECORDS:
            # A change that can't be recorded is not begun, and one that was made is not undone for its record.
            continue
        place = copy(original)
        place.host.add_fault(point.fault(error=point.error))
        result = house.make(place, change)
        place.host.clear_faults()
        if result.ok:
            wrong.append((point, "did not fail"))
        elif not house.is_closed(place) or differences(place, original):
            wrong.append((point, "was not put back", result.errors, differences(place, original)))
        elif not house.make(place, change).ok or not is_made(place, change):
            wrong.append((point, "was not made by the next run"))
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("when", ["before", "after"])
@by_pair
def test_a_change_that_is_killed_is_finished_or_undone_by_the_next_run(copy, untouched, points_of, pair, when):
    original, wanted, wrong = untouched(pair[0], few=True), points.wish(pair), []
    there, back = house.There(wanted), house.Back(pair[1], before(original)[pair[1]], wanted)
    for point in points_of(original, there):
        if point.action == points.LINE:
            # Before and after the line of a step is after the call of the last step and before that of this one.
            continue
        place = copy(original)
        place.host.add_fault(point.fault(kill=when))
        if in_child(functools.partial(house.make, place, there)) != signal.SIGKILL:
            wrong.append((point, "was not killed"))
            continue
        place.host.clear_faults()
        other = copy(place)
        if why := failure(place, there):
            wrong.append((point, "was not finished", why))
        elif not is_made(place, there):
            wrong.append((point, "was finished in something else"))
        if why := failure(other, back):
            wrong.append((point, "was not undone", why))
        elif not house.is_closed(other) or differences(other, original):
            wrong.append((point, "was undone to something else", differences(other, original)))
    assert not wrong, "\n".join(map(str, wrong))
