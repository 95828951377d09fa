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
