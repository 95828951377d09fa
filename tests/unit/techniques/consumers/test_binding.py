"""
Who gets which slice.
"""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuslice import errors
from gpuslice.model import Slice
from gpuslice.outputs.consumer import Consumer
from gpuslice.techniques.consumers import binding

GPU = "0000:1b:00.0"
#: Profile -> MiB.
SIZES = {"1g.10gb": 9728, "3g.40gb": 40192, "7g.80gb": 81152}


def offer(profile, start, kind="mig", taken=False):
    return Slice(GPU, kind, profile, f"MIG-{profile}-{start}", SIZES[profile], name=f"{GPU}-{profile}-{start}", taken=taken)


def consumer(name, instances=1, **wants):
    return Consumer(name, wants=wants, instances=instances)


def bound(slices, consumers, earlier=None, **more):
    return binding.bound(binding.offers(slices), consumers, earlier or {}, **more)


def test_the_smallest_slice_that_has_all_is_taken():
    found = bound([offer("3g.40gb", 4), offer("1g.10gb", 0)], [consumer("a"), consumer("b", memory_mib=20000)])
    assert found == {"a": [f"{GPU}-1g.10gb-0"], "b": [f"{GPU}-3g.40gb-4"]}


def test_a_consumer_stays_though_another_slice_would_be_smaller():
    had = {"a": [f"{GPU}-3g.40gb-4"]}
    assert bound([offer("3g.40gb", 4), offer("1g.10gb", 0)], [consumer("a")], had) == had


def test_somebody_moves_only_where_another_one_could_not_be_served_otherwise():
    slices = [offer("3g.40gb", 4), offer("1g.10gb", 0)]
    found = bound(slices, [consumer("a"), consumer("b", profile="3g.40gb")], {"a": [f"{GPU}-3g.40gb-4"]})
    assert found == {"a": [f"{GPU}-1g.10gb-0"], "b": [f"{GPU}-3g.40gb-4"]}


def test_more_consumers_than_slices_names_both():
    with pytest.raises(errors.PolicyError, match="more consumers than slices: b gets none. 2 slices are wanted of these 1: .*1g"):
        bound([offer("1g.10gb", 0)], [consumer("a"), consumer("b")])


def test_one_that_fits_nowhere_is_told_the_nearest():
    with pytest.raises(errors.PolicyError, match="profile 4g.40gb, and there is no such slice. The nearest is .*There are: "):
        bound([offer("1g.10gb", 0), offer("3g.40gb", 4)], [consumer("a", profile="4g.40gb")])


def test_too_few_for_one_consumer_are_told():
    with pytest.raises(errors.PolicyError, match="wants 3 slices of profile 1g.10gb, and there are 1"):
        bound([offer("1g.10gb", 0)], [consumer("a", 3, profile="1g.10gb")])


def test_what_others_stand_on_and_what_is_for_virtual_machines_is_no_offer():
    there = [offer("1g.10gb", 0, taken=True), offer("1g.10gb", 1, kind="vgpu"), offer("1g.10gb", 2)]
    assert [each.name for each in binding.offers(there)] == [f"{GPU}-1g.10gb-2"]


def test_where_not_all_have_to_be_served_as_many_as_can_be_are():
    found = bound([offer("1g.10gb", 0)], [consumer("a"), consumer("b")], {"b": [f"{GPU}-1g.10gb-0"]}, strict=False)
    assert found == {"a": [], "b": [f"{GPU}-1g.10gb-0"]}


def test_an_address_may_be_written_without_its_domain():
    assert binding.fits(offer("1g.10gb", 0), {"gpu": "1b:00.0"})


SLICES = st.lists(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(0, 3)), unique=True, max_size=4)
WISHES = st.lists(st.sampled_from([None, *sorted(SIZES)]), max_size=4)


@given(SLICES, WISHES, st.lists(st.integers(0, 5), min_size=4, max_size=4))
def test_nobody_moves_who_could_stay_and_no_slice_goes_to_two(slices, wishes, had):
    there = binding.offers([offer(*each) for each in slices])
    consumers = [consumer(f"c{n}", **({"profile": wish} if wish else {})) for n, wish in enumerate(wishes)]
    earlier = {each.name: [there[had[n]].name] for n, each in enumerate(consumers) if had[n] < len(there)}
    ways = [way for way in itertools.permutations(there, len(consumers)) if _serves(way, consumers)]
    try:
        found = binding.bound(there, consumers, earlier)
    except errors.PolicyError:
        assert not ways
        return
    given_out = [name for names in found.values() for name in names]
    assert len(set(given_out)) == len(given_out) == len(consumers)
    # Of two that were noted on one slice the first had it.
    staying = {name: names for name, names in binding.bound(there, consumers, earlier, strict=False).items()}
    assert staying == found
    best = max(sum(_stays(one, each, earlier) for one, each in zip(way, consumers, strict=True)) for way in ways)
    assert sum(found[each.name] == earlier.get(each.name) for each in consumers) == best
    assert found == binding.bound(there, consumers, found)


def _serves(way, consumers):
    return all(binding.fits(one, each.wants) for one, each in zip(way, consumers, strict=True))


def _stays(one, each, earlier):
    return earlier.get(each.name) == [one.name]


# -- what is barred ----------------------------------------------------------------------------------------------------
ONE, TWO = f"{GPU}-1g.10gb-0", f"{GPU}-1g.10gb-1"


def test_who_has_what_is_barred_goes_where_another_one_fits():
    assert bound([offer("1g.10gb", 0), offer("1g.10gb", 1)], [consumer("a")], {"a": [ONE]}, barred={ONE: "keep"}) == {"a": [TWO]}


def test_nobody_moves_for_who_has_what_is_barred():
    slices = [offer("1g.10gb", 0), offer("3g.40gb", 4), offer("1g.10gb", 1)]
    had = {"small": [ONE], "any": [TWO]}
    wants = [consumer("small", profile="1g.10gb"), consumer("any")]
    assert bound(slices, wants, had, barred={ONE: "keep"}) == had


def test_who_would_be_left_without_may_move_others():
    slices = [offer("1g.10gb", 0), offer("3g.40gb", 4), offer("1g.10gb", 1)]
    wants = [consumer("small", profile="1g.10gb"), consumer("any")]
    found = bound(slices, wants, {"small": [ONE], "any": [TWO]}, barred={ONE: "stop"})
    assert found == {"small": [TWO], "any": [f"{GPU}-3g.40gb-4"]}


def test_who_is_known_is_left_without_and_who_is_new_is_refused():
    slices = [offer("1g.10gb", 0)]
    assert bound(slices, [consumer("a")], {"a": [ONE]}, barred={ONE: "stop"}) == {"a": []}
    assert bound(slices, [consumer("a")], {"a": []}, barred={ONE: "stop"}) == {"a": []}
    with pytest.raises(errors.PolicyError, match="there is no such slice"):
        bound(slices, [consumer("a")], {}, barred={ONE: "keep"})


def test_an_undo_leaves_everybody_where_he_was():
    slices = [offer("1g.10gb", 0), offer("1g.10gb", 1)]
    assert bound(slices, [consumer("a")], {"a": [ONE]}, strict=False, barred={ONE: "stay"}) == {"a": [ONE]}
    assert bound(slices, [consumer("b")], {}, strict=False, barred={ONE: "stay"}) == {"b": [TWO]}


def test_of_two_slices_only_the_barred_one_is_another():
    slices = [offer("1g.10gb", each) for each in range(4)]
    had = {"a": [ONE, TWO]}
    assert bound(slices, [consumer("a", 2)], had, barred={ONE: "keep"}) == {"a": [TWO, f"{GPU}-1g.10gb-2"]}
    # One less is the barred one.
    assert bound(slices, [consumer("a", 1)], had, barred={ONE: "keep"}) == {"a": [TWO]}


MODES = st.lists(st.sampled_from(["", "keep", "stop", "stay"]))


@given(SLICES, WISHES, st.lists(st.integers(0, 5), min_size=4, max_size=4), MODES)
def test_with_some_barred_it_is_the_best_of_all_ways(slices, wishes, had, modes):
    """Of all ways to serve the most, one that moves the fewest, leaves the fewest on what is barred, and wastes the least."""
    there = binding.offers([offer(*each) for each in slices])
    barred = {each.name: mode for each, mode in zip(there, modes, strict=False) if mode}
    consumers = [consumer(f"c{n}", **({"profile": wish} if wish else {})) for n, wish in enumerate(wishes)]
    earlier = _earlier(there, consumers, had)
    found = binding.bound(there, consumers, earlier, strict=False, barred=barred)
    given_out = [name for names in found.values() for name in names]
    assert len(set(given_out)) == len(given_out)
    ways = itertools.product([None, *there], repeat=len(consumers))
    worths = [worth for way in ways if (worth := _worth(way, there, consumers, earlier, barred)) is not None]
    by_name = {each.name: each for each in there}
    chosen = [by_name[found[each.name][0]] if found[each.name] else None for each in consumers]
    # Who is left without where not all can be served is told by nothing but the order, and with it what the others waste.
    assert _worth(chosen, there, consumers, earlier, barred)[:1] == min(worths)[:1]
    if None not in chosen:
        assert _worth(chosen, there, consumers, earlier, barred) == min(worths)
    assert binding.bound(there, consumers, found, strict=False, barred=barred) == found


def _earlier(there, consumers, had):
    """Who had what: each slice was somebody's once only."""
    found, given_out = {}, set()
    for place, each in zip(had, consumers, strict=False):
        if place < len(there) and place not in given_out:
            given_out.add(place)
            found[each.name] = [there[place].name]
    return found


def _worth(way, there, consumers, earlier, barred):
    """(how many are left without, how many moved, how many are left on what is barred, waste), None for what is no way."""
    taken = [each.name for each in way if each is not None]
    if len(set(taken)) < len(taken):
        return None
    moved = left = waste = 0
    for one, each in zip(way, consumers, strict=True):
        own = earlier.get(each.name, [None])[0]
        fit = own and any(binding.fits(offer, each.wants) for offer in there if offer.name == own)
        mode = barred.get(one.name, "") if one else ""
        if one is not None and not (binding.fits(one, each.wants) and (not mode or (one.name == own and mode != "stop"))):
            return None
        left += mode == "keep"
        moved += bool(one and fit and barred.get(own) in (None, "stay") and one.name != own)
        waste += there.index(one) if one else 0
    return sum(one is None for one in way), moved, left, waste
